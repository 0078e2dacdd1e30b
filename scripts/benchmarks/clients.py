"""Clients of a daemon, each a process of its own, that write or read boxes at the same time.

- "one by one": `mag.write` or `mag.read`, each after the answer to the one before
- "batch": `mag.write_boxes` or `mag.read_boxes`
- "WriteBoxes": the stream, by the messages of the protos, with some boxes in one message
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import grpc.aio
import numpy as np

import magd_client
from magd.framing import WriteBoxesFrame, WriteFrame
from magd.geometry import Box
from magd.v1 import types_pb2, volume_pb2
from scripts.benchmarks.measure import Durability, Probe, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Way: TypeAlias = Literal["one by one", "batch", "WriteBoxes"]
Corner: TypeAlias = tuple[int, int, int]

MESSAGE_BYTES: Final = 1 << 20
"""What the stream packs in one message, about."""
_HEAD_START: Final = 0.3
"""Seconds for all clients to connect."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one client does."""

    address: str
    mag: tuple[str, str, str]
    """Dataset, layer and mag."""
    way: Way
    is_write: bool
    durability: Durability
    dtype: str
    edge: int
    """Of each box, in voxels."""
    corners: tuple[Corner, ...]
    interval: float = 0.0
    """Seconds from the start of one box to the next, if that is longer than a box takes; only one by one."""
    start_at: float = 0.0
    """When all begin, in seconds since 1970."""
    may_share_memory: bool = True
    """With the daemon, where it offers that and the box is large."""

    @property
    def bytes_of_box(self) -> int:
        """Voxels of one box, in bytes."""
        return self.edge**3 * int(np.dtype(self.dtype).itemsize)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a task: when it began and was done, in seconds since 1970, and what each box took, one by one."""

    began: float
    ended: float
    sample: Sample
    """Of this client."""
    latencies: tuple[float, ...] = ()


class Clients:
    """Some processes that wait for tasks. A context manager, that ends them."""

    def __init__(self, most: int) -> None:
        self._pool = ProcessPoolExecutor(most, mp_context=multiprocessing.get_context("spawn"))
        # Long enough that one process does not take what all of them are to be started for.
        for started in [self._pool.submit(time.sleep, 0.2) for _ in range(most)]:
            started.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run(self, tasks: Sequence[Task], server_pid: int) -> tuple[Sample, list[Done]]:
        """Do tasks at the same time, each in a process.

        :return: from the start of the first to the end of the last; and each for itself
        """
        probe = Probe(server_pid, here=())
        start_at = time.time() + _HEAD_START
        done = list(self._pool.map(do, [replace(task, start_at=start_at) for task in tasks]))
        sample = replace(
            probe.sample(sum(len(task.corners) for task in tasks)),
            seconds=max(one.ended for one in done) - min(one.began for one in done),
            here_cpu=sum(one.sample.here_cpu for one in done),
            here_peak=sum(one.sample.here_peak for one in done),
        )
        return sample, done


def grid(edge: int, space: int, count: int, start: Corner = (0, 0, 0)) -> tuple[Corner, ...]:
    """The corners of boxes that lie side by side in a cubic space, from its first corner on."""
    row = space // edge
    if count > row**3:
        raise ValueError(f"{count} boxes of {edge}^3 do not fit into {space}^3")
    x, y, z = start
    return tuple((x + i % row * edge, y + i // row % row * edge, z + i // row // row * edge) for i in range(count))


def voxels_of(task: Task) -> Any:
    """The data of every box, (x, y, z) in Fortran order."""
    random = np.random.default_rng(1)
    edge = task.edge
    if task.dtype == "uint8":
        return random.integers(0, 256, (edge, edge, edge), dtype=np.uint8).T
    segments = random.integers(1, 1 << 24, (-(-edge // 8),) * 3, dtype=np.uint32).astype(task.dtype)
    return segments.repeat(8, 0).repeat(8, 1).repeat(8, 2)[:edge, :edge, :edge].copy().T


def do(task: Task) -> Done:
    """Be one client."""
    data = voxels_of(task)
    if task.way == "WriteBoxes":
        return asyncio.run(_stream(task, data.tobytes(order="F")))
    dataset, layer, mag_name = task.mag
    with magd_client.connect(task.address, durability=task.durability, shared_memory=task.may_share_memory) as client:
        mag = client.dataset(dataset).layer(layer).mag(mag_name)
        mag.get_info()
        time.sleep(max(0.0, task.start_at - time.time()))
        probe, began = Probe(), time.time()
        if task.way == "batch":
            results: Iterator[Any] = (
                mag.write_boxes((corner, data) for corner in task.corners)
                if task.is_write
                else mag.read_boxes(Box.of(corner, data.shape) for corner in task.corners)
            )
            for _ in results:
                pass
            return Done(began, time.time(), probe.sample())
        latencies = []
        for number, corner in enumerate(task.corners):
            time.sleep(max(0.0, began + number * task.interval - time.time()))
            start = time.perf_counter()
            if task.is_write:
                mag.write(data, corner)
            else:
                mag.read(corner, data.shape)
            latencies.append(time.perf_counter() - start)
        return Done(began, time.time(), probe.sample(), tuple(latencies))


async def _stream(task: Task, data: bytes) -> Done:
    """Write boxes by the stream: one task sends, another takes outcomes."""
    together = max(1, MESSAGE_BYTES // len(data))
    dataset, layer, mag = task.mag

    def frame(index: int) -> WriteBoxesFrame:
        (x, y, z), edge = task.corners[index], task.edge
        header = volume_pb2.WriteBoxRequest(
            name=f"datasets/{dataset}/layers/{layer}/mags/{mag}",
            box=types_pb2.Box(offset=types_pb2.Vec3(x=x, y=y, z=z), size=types_pb2.Vec3(x=edge, y=edge, z=edge)),
            data_type=f"DATA_TYPE_{task.dtype.upper()}",
            num_channels=1,
            durability=f"DURABILITY_{task.durability.upper()}",
            request_id=uuid.uuid4().hex,
        )
        return WriteBoxesFrame(index, WriteFrame(header, data))

    async with grpc.aio.insecure_channel(task.address) as channel:
        await channel.channel_ready()
        await asyncio.sleep(max(0.0, task.start_at - time.time()))
        probe, began = Probe(), time.time()
        call: Any = channel.stream_stream(
            "/magd.v1.VolumeService/WriteBoxes",
            request_serializer=WriteBoxesFrame.encode,
            response_deserializer=volume_pb2.WriteBoxesResponse.FromString,
        )()

        async def send() -> None:
            for start in range(0, len(task.corners), together):
                first, *more = map(frame, range(start, min(start + together, len(task.corners))))
                await call.write(WriteBoxesFrame(first.index, first.box, tuple(more)))
            await call.done_writing()

        sending = asyncio.create_task(send())
        done = 0
        async for response in call:
            for outcome in (response, *response.more):
                assert outcome.HasField("acknowledgement"), outcome.error
                done += 1
        await sending
        assert done == len(task.corners)
        return Done(began, time.time(), probe.sample())
