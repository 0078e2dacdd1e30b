"""Who a call comes from, and how many calls there may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from magd.actors.budget import CLIENT
from magd.rpc.addresses import UnixPath
from magd.rpc.admission import EdgeConfig, client_of
from magd.v1 import types_pb2
from magd.v1.volume_pb2 import ReadBoxRequest
from magd.voxels import VoxelFormat
from magd_client.address import channel_options
from tests.rpc.fake_storage import NAME, FakeStorage
from tests.rpc.serving import failure_of, served, volume_stub
from tests.support.voxels import until

if TYPE_CHECKING:
    from pathlib import Path

A_BOX = types_pb2.Box(offset=types_pb2.Vec3(), size=types_pb2.Vec3(x=1, y=1, z=1))


@pytest.mark.parametrize(
    ("peer", "agent", "client"),
    [
        ("ipv4:127.0.0.1:4711", "tool magd-client/1 client/ab12 grpc-python", "ipv4:127.0.0.1:4711"),
        ("unix:", "tool magd-client/1 client/ab12 grpc-python", "client/ab12"),
        ("unix:", "grpc-go/1.70", ""),
    ],
)
def test_a_client_is_its_connection_or_what_it_says_on_a_unix_socket(peer: str, agent: str, client: str) -> None:
    assert client_of(peer, [("user-agent", agent), ("other", b"x")]) == client


class WhoAsks(FakeStorage):
    """Remembers for which clients memory was leased."""

    def __init__(self) -> None:
        super().__init__(VoxelFormat.of("uint8", 1))
        self.clients: list[str] = []
        original = self.budget.lease

        async def lease(size_bytes: int) -> object:
            self.clients.append(CLIENT.get())
            return await original(size_bytes)

        self.budget.lease = lease  # type: ignore[method-assign, assignment]


async def test_two_clients_on_one_unix_socket_are_two_and_calls_of_one_are_one(tmp_path: Path) -> None:
    storage = WhoAsks()
    address = UnixPath(str(tmp_path / "magd.sock"))
    async with served(storage.as_storage(), address=address):
        for _ in range(2):
            options = [*channel_options(None), ("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(str(address), options=options) as channel:
                for _ in range(2):
                    async for _ in volume_stub(channel).ReadBox(ReadBoxRequest(name=NAME, box=A_BOX)):
                        pass
    one, again, other, other_again = storage.clients
    assert one.startswith("client/")
    assert (one, other) == (again, other_again)
    assert one != other


async def test_calls_above_the_limit_are_refused_with_a_time_to_wait() -> None:
    storage = FakeStorage(VoxelFormat.of("uint8", 1))
    async with served(storage.as_storage(), config=EdgeConfig(max_calls=2)) as server:
        stub = volume_stub(server.channel)
        parked = [stub.WriteBox(), stub.WriteBox()]
        await until(lambda: server.rpc._calls.running == 2)
        failure = await failure_of(stub.WriteBox())
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.retry_seconds
        for call in parked:
            call.cancel()
