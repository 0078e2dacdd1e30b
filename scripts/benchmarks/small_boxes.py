"""How many small boxes a second go through the daemon, beside `webknossos` and `wkw` on local files and an empty call.

    python -m scripts.benchmarks.small_boxes                 a table
    python -m scripts.benchmarks.small_boxes --help          what else there is

One round does every work once, one after the other, so that a slow moment of the machine meets all of them; a row has
the median of the rounds. Boxes lie on the grid of their own size, in a mag with blocks of 32^3 and cube files of 1024^3
voxels, uint8, in Fortran order. Each client is a process of its own with disjoint boxes; all begin at the same moment.

- "one by one": `mag.write` or `mag.read`, each after the answer to the one before
- "batch": `mag.write_boxes` or `mag.read_boxes`
- "WriteBoxes": the stream, by the messages of the protos, with some MiB in one message

`wkw` and `webknossos` write and read the same boxes in files of the same kind, in one process; neither syncs.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import grpc
import grpc.aio
import numpy as np

import magd_client
from magd.framing import WriteBoxesFrame, WriteFrame
from magd.geometry import Box, Vec3
from magd.v1 import types_pb2, volume_pb2
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EDGES: Final = (32, 64)
CLIENTS: Final = (1, 2, 4, 8)
MAG: Final = "datasets/bench/layers/color/mags/1"
SPACE: Final = 2048
"""Edge of the space of one client, in voxels."""
MESSAGE_BYTES: Final = 1 << 20

Durability: TypeAlias = Literal["process", "disk", "none"]
Way: TypeAlias = Literal["one by one", "batch", "WriteBoxes"]
DURABILITIES: Final[tuple[Durability, ...]] = ("process", "disk", "none")
WAYS: Final[tuple[Way, ...]] = ("one by one", "batch", "WriteBoxes")


@dataclass(frozen=True, slots=True)
class Row:
    """One work, over all rounds."""

    work: str
    transport: str
    durability: str
    clients: int
    edge: int
    boxes_per_second: float
    """Of all clients together; median."""

    @property
    def milliseconds(self) -> float:
        """For one box."""
        return 1000 / self.boxes_per_second


@dataclass(frozen=True, slots=True)
class _Task:
    """What one client does."""

    address: str
    way: Way
    is_write: bool
    durability: Durability
    edge: int
    count: int
    number: int
    """Of the client: its boxes lie in a space of its own."""
    start_at: float
    """When all begin, in seconds since 1970."""

    def boxes(self) -> list[Box]:
        return [
            Box(Vec3(x + self.number * SPACE, y, z), Vec3.full(self.edge)) for x, y, z in corners(self.edge, self.count)
        ]


def corners(edge: int, count: int) -> list[tuple[int, int, int]]:
    """The corners of boxes that lie side by side."""
    row = SPACE // edge
    return [(i % row * edge, i // row % row * edge, i // row // row * edge) for i in range(count)]


def voxels(edge: int) -> Any:
    """The data of every box."""
    return np.asfortranarray(np.random.default_rng(1).integers(0, 256, (edge, edge, edge), dtype=np.uint8))


def measure(seconds: float, rounds: int, folder: str, transports: Sequence[str], clients: Sequence[int]) -> list[Row]:
    """Do every work in every round.

    :param seconds: for each work, about
    :param folder: where the data lies
    """
    samples: dict[tuple[str, str, str, int, int], list[float]] = {}

    def note(work: str, transport: str, durability: str, number: int, edge: int, rate: float) -> None:
        samples.setdefault((work, transport, durability, number, edge), []).append(rate)

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(clients), mp_context=context) as pool:
        list(pool.map(time.sleep, [1.0] * max(clients)))  # all of them are started
        for transport in transports:
            root = Path(folder, f"root-{transport}")
            root.mkdir()
            address = "127.0.0.1:0" if transport == "tcp" else f"unix:{folder}/magd.sock"
            empty = "127.0.0.1:0" if transport == "tcp" else f"unix:{folder}/empty.sock"
            with Daemon(root, "--log-level", "warning", grpc=address) as daemon, _empty_server(empty) as empty_address:
                _make_mag(daemon.grpc, max(clients))
                for _ in range(rounds):
                    note("empty unary call", transport, "", 1, 0, _empty_calls(empty_address, seconds))
                    for edge in EDGES:
                        for task in _tasks(daemon.grpc, edge):
                            for number in clients if task.way == "batch" and task.durability == "process" else (1,):
                                rate = _drive(pool, task, number, seconds)
                                kind = "write" if task.is_write else "read"
                                note(f"{kind}, {task.way}", transport, task.durability, number, edge, rate)
        for _ in range(rounds):
            for edge in EDGES:
                for work, rate in _local(folder, edge, seconds):
                    note(work, "", "", 1, edge, rate)
    return [Row(*key, boxes_per_second=median(rates)) for key, rates in samples.items()]


def _tasks(address: str, edge: int) -> Iterator[_Task]:
    """What is done with boxes of one size; how many, by whom and when is not set."""
    for durability in DURABILITIES:
        for way in WAYS:
            yield _Task(address, way, True, durability, edge, 0, 0, 0)
    for way in WAYS[:2]:
        yield _Task(address, way, False, "process", edge, 0, 0, 0)


def _drive(pool: ProcessPoolExecutor, task: _Task, clients: int, seconds: float) -> float:
    """Boxes a second of some clients together. A short run says how many boxes fill the time."""
    few = 8 if task.way == "one by one" else 200
    rate = _run(pool, task, 1, few)
    count = max(few, min(int(rate * seconds / clients), (SPACE // task.edge) ** 3))
    return _run(pool, task, clients, count)


def _run(pool: ProcessPoolExecutor, task: _Task, clients: int, count: int) -> float:
    start_at = time.time() + 0.3
    tasks = [
        _Task(task.address, task.way, task.is_write, task.durability, task.edge, count, number, start_at)
        for number in range(clients)
    ]
    begun, done = zip(*pool.map(do, tasks), strict=True)
    seconds: float = max(done) - min(begun)
    return clients * count / seconds


def do(task: _Task) -> tuple[float, float]:
    """Be one client.

    :return: when it began and when it was done, in seconds since 1970
    """
    data = voxels(task.edge)
    if task.way == "WriteBoxes":
        return asyncio.run(_stream(task, data.tobytes(order="F")))
    with magd_client.connect(task.address, durability=task.durability) as client:
        mag = client.dataset("bench").layer("color").mag("1")
        mag.get_info()
        time.sleep(max(0.0, task.start_at - time.time()))
        begun = time.time()
        if task.way == "batch":
            results: Iterator[Any] = (
                mag.write_boxes((box.offset, data) for box in task.boxes())
                if task.is_write
                else mag.read_boxes(task.boxes())
            )
            for _ in results:
                pass
        else:
            for box in task.boxes():
                if task.is_write:
                    mag.write(data, box.offset)
                else:
                    mag.read(box.offset, box.size)
        return begun, time.time()


async def _stream(task: _Task, data: bytes) -> tuple[float, float]:
    """Write boxes by the stream: one task sends, another takes outcomes."""
    boxes = task.boxes()
    together = max(1, MESSAGE_BYTES // len(data))
    durability = f"DURABILITY_{task.durability.upper()}"

    def frame(index: int) -> WriteBoxesFrame:
        (x, y, z), edge = boxes[index].offset, task.edge
        header = volume_pb2.WriteBoxRequest(
            name=MAG,
            box=types_pb2.Box(offset=types_pb2.Vec3(x=x, y=y, z=z), size=types_pb2.Vec3(x=edge, y=edge, z=edge)),
            data_type=types_pb2.DATA_TYPE_UINT8,
            num_channels=1,
            durability=durability,
            request_id=uuid.uuid4().hex,
        )
        return WriteBoxesFrame(index, WriteFrame(header, data))

    async with grpc.aio.insecure_channel(task.address) as channel:
        await channel.channel_ready()
        await asyncio.sleep(max(0.0, task.start_at - time.time()))
        begun = time.time()
        call: Any = channel.stream_stream(
            "/magd.v1.VolumeService/WriteBoxes",
            request_serializer=WriteBoxesFrame.encode,
            response_deserializer=volume_pb2.WriteBoxesResponse.FromString,
        )()

        async def send() -> None:
            for start in range(0, len(boxes), together):
                first, *more = map(frame, range(start, min(start + together, len(boxes))))
                await call.write(WriteBoxesFrame(first.index, first.box, tuple(more)))
            await call.done_writing()

        sending = asyncio.create_task(send())
        done = 0
        async for response in call:
            for outcome in (response, *response.more):
                assert outcome.HasField("acknowledgement"), outcome.error
                done += 1
        await sending
        assert done == len(boxes)
        return begun, time.time()


def _make_mag(address: str, clients: int) -> None:
    with magd_client.connect(address) as client:
        layer = client.create_dataset("bench", voxel_size=(1.0, 1.0, 1.0)).add_layer("color", dtype="uint8")
        mag = layer.add_mag("1")
        # The bounding box does not grow while boxes are timed: that is the cost of the first write only.
        mag.write(np.zeros((1, 1, 1), np.uint8), (SPACE * clients - 1, SPACE - 1, SPACE - 1))


# -- what it is compared with ------------------------------------------------------------------------------------------


def _local(folder: str, edge: int, seconds: float) -> Iterator[tuple[str, float]]:
    """`wkw` and `webknossos` on local files: boxes a second."""
    # Here, since each client is a process that imports this module, and these take seconds.
    import webknossos
    import wkw

    library: Any = webknossos
    data = voxels(edge)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        header = wkw.Header(np.uint8, block_len=32, file_len=32)
        with wkw.Dataset.create(str(Path(own, "wkw")), header) as files:
            yield "write, wkw", _rate(lambda at: files.write(at, data), edge, seconds)
            yield "read, wkw", _rate(lambda at: files.read(at, data.shape), edge, seconds)
        dataset = library.Dataset(Path(own, "webknossos"), voxel_size=(1.0, 1.0, 1.0))
        layer = dataset.add_layer(
            "color",
            "color",
            dtype="uint8",
            data_format="wkw",
            bounding_box=library.BoundingBox((0, 0, 0), (SPACE, SPACE, SPACE)),
        )
        mag = layer.add_mag("1", chunk_shape=32, shard_shape=1024, compress=False)
        yield "write, webknossos", _rate(lambda at: mag.write(data, absolute_offset=at), edge, seconds)
        yield "read, webknossos", _rate(lambda at: mag.read(absolute_offset=at, size=data.shape), edge, seconds)


def _rate(work: Any, edge: int, seconds: float) -> float:
    offsets = corners(edge, (SPACE // edge) ** 3)
    work(offsets[0])  # makes the first file
    start, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        work(offsets[done % len(offsets)])
        done += 1
    return done / elapsed


def _empty_calls(address: str, seconds: float) -> float:
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/empty/Call")
        call(b"")
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            call(b"")
            done += 1
        return done / elapsed


@contextmanager
def _empty_server(address: str) -> Iterator[str]:
    """A gRPC server that answers nothing to an empty call, in a process of its own."""
    command = [sys.executable, "-m", "scripts.benchmarks.small_boxes", "--serve-empty", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def _serve_empty(address: str) -> None:
    async def answer(_: bytes, __: Any) -> bytes:
        return b""

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("empty", {"Call": handler}),))
    port = server.add_insecure_port(address)
    await server.start()
    print(address if address.startswith("unix:") else f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description="Small boxes through the daemon, webknossos and wkw.")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each work of a round, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the data lies; default: a temporary folder")
    parser.add_argument("--transport", choices=("tcp", "unix", "both"), default="both")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="for batches")
    parser.add_argument("--serve-empty", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_empty:
        asyncio.run(_serve_empty(arguments.serve_empty))
        return
    transports = ("tcp", "unix") if arguments.transport == "both" else (arguments.transport,)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = measure(arguments.seconds, arguments.rounds, folder, transports, arguments.clients)
    print(f"{'work':24} {'via':5} {'durability':10} {'clients':>7} {'edge':>4} {'boxes/s':>9} {'ms each':>8}")
    for row in rows:
        print(
            f"{row.work:24} {row.transport:5} {row.durability:10} {row.clients:7} {row.edge:4} "
            f"{row.boxes_per_second:9.0f} {row.milliseconds:8.3f}"
        )


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
