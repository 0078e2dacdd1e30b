"""The memory of the daemon stays inside its budget, and a base beside it, whatever clients do.

64 clients, each on a connection of its own, as programs of other people are: some push boxes as fast as they can, some
begin an upload and park it, some ask for boxes and do not take them, some vanish in the middle. The memory that the
process ever had resident is read from the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
import pytest

import magd_client
from magd.v1 import types_pb2, volume_pb2
from magd_client.address import channel_options
from tests.rpc.serving import volume_stub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Serve

MIB: Final = 1 << 20
BUDGET: Final = 64 * MIB
BASE_PER_CLIENT: Final = 3 * MIB
"""What gRPC holds for each: a window of 1 MiB that it reads ahead, the message it puts together, the one it sends."""
WORKING: Final = 64 * MIB
"""What the storage needs beside it to apply what was written, whatever the load."""
CLIENTS: Final = 64
EDGE: Final = 256
BOX_BYTES: Final = EDGE * EDGE * 128
NAME: Final = "datasets/d/layers/l/mags/1"
PUSHING: Final = 16
ROUNDS: Final = 2
REPLACED: Final = "Internal error from Core"


def memory_of(pid: int, field: str) -> int:
    """A line of /proc/PID/status, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == field:
            return int(value.split()[0]) * 1024
    raise AssertionError(f"no {field} for {pid}")


def header(number: int, data: bytes = b"") -> volume_pb2.WriteBoxRequest:
    return volume_pb2.WriteBoxRequest(
        name=NAME,
        box=a_box(number),
        data_type=types_pb2.DATA_TYPE_UINT8,
        num_channels=1,
        durability=types_pb2.DURABILITY_PROCESS,
        data=data,
    )


def a_box(number: int) -> types_pb2.Box:
    offset = types_pb2.Vec3(x=number % 4 * EDGE, y=number // 4 % 4 * EDGE, z=number // 16 * 128)
    return types_pb2.Box(offset=offset, size=types_pb2.Vec3(x=EDGE, y=EDGE, z=128))


async def push(channel: grpc.aio.Channel, number: int) -> None:
    """Write boxes one after the other, each until it is acknowledged."""
    part = bytes([number + 1]) * MIB
    for _ in range(ROUNDS):
        while True:
            call = volume_stub(channel).WriteBox()
            try:
                await call.write(header(number, part))
                await call.initial_metadata()
                for _ in range(BOX_BYTES // MIB - 1):
                    await call.write(volume_pb2.WriteBoxRequest(data=part))
                await call.done_writing()
                await call
                break
            except grpc.aio.AioRpcError as refused:
                # grpc.aio says the second where it was refused while it sent.
                if refused.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED and refused.details() != REPLACED:
                    raise


async def park(channel: grpc.aio.Channel, number: int) -> None:
    """Send all of a box but its end, without waiting for the grant, and leave it at that."""
    call = volume_stub(channel).WriteBox()
    try:
        await call.write(header(number, bytes(MIB)))
        for _ in range(BOX_BYTES // MIB - 2):
            await call.write(volume_pb2.WriteBoxRequest(data=bytes(MIB)))
        await call
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # it was too slow, as it should be
    await park(channel, number)


async def read_slowly(channel: grpc.aio.Channel, number: int) -> None:
    """Ask for a box, and take only its first part."""
    call = volume_stub(channel).ReadBox(volume_pb2.ReadBoxRequest(name=NAME, box=a_box(number)))
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call.read()
        await call.code()  # which comes behind the parts that are not taken
    await read_slowly(channel, number)


async def vanish(channel: grpc.aio.Channel, number: int) -> None:
    """Begin a box, and close the connection."""
    call = volume_stub(channel).WriteBox()
    await call.write(header(number, bytes(MIB)))
    await channel.close()


NUISANCES: Final = (park, read_slowly, vanish)


@asynccontextmanager
async def connection(address: str) -> AsyncIterator[grpc.aio.Channel]:
    options = [*channel_options(None), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


async def load(address: str) -> None:
    """Have a quarter of the clients push their boxes, with the others around them all the time."""
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(connection(address)) for _ in range(CLIENTS)]
        nuisances = [
            asyncio.create_task(NUISANCES[number % len(NUISANCES)](channels[number], number))
            for number in range(PUSHING, CLIENTS)
        ]
        await asyncio.gather(*(push(channels[number], number) for number in range(PUSHING)))
        for task in nuisances:
            task.cancel()
        await asyncio.gather(*nuisances, return_exceptions=True)


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_64_clients_that_push_park_stall_and_vanish_cost_no_more_than_the_budget_and_a_base(
    serve: Serve, tmp_path: Path, compressed: bool
) -> None:
    daemon = serve(tmp_path, "--budget", "64MiB", "--stall-seconds", "2")
    with magd_client.connect(daemon.grpc) as user:
        layer = user.create_dataset("d", voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint8")
        mag = layer.add_mag("1", block_len=32, file_len=8, compressed=compressed)
        mag.read((0, 0, 0), (1, 1, 1))
        before = memory_of(daemon.pid, "VmRSS")
        asyncio.run(load(daemon.grpc))
        peak = memory_of(daemon.pid, "VmHWM")
        assert peak - before <= BUDGET + CLIENTS * BASE_PER_CLIENT + WORKING, f"{before} before, {peak} at the most"
        for number in range(PUSHING):
            box = a_box(number)
            seen = mag.read((box.offset.x, box.offset.y, box.offset.z), (EDGE, EDGE, 128))
            assert (seen == number + 1).all()
        assert user.get_status().budget_waiting == 0
