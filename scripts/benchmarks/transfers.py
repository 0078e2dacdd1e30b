"""How fast large boxes go through the daemon, beside what gRPC moves on the same machine with nothing behind it.

    python -m scripts.benchmarks.transfers                 a table
    python -m scripts.benchmarks.transfers --help          what else there is

One round does every work once, one after the other, so that a slow moment of the machine meets all of them. The client
is this process, the other side a process of its own: a gRPC server that throws data away or makes it up (the sink and
the source: 1 MiB in a message, malloc pinned, no protobuf), and `magd serve`. A row has the median of the rounds.

"acknowledged" ends with the acknowledgement of the write; "sustained" ends when all is in the cube files, on the disk
and out of the journal.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import grpc
import grpc.aio
import numpy as np

import magd_client
from magd import malloc
from magd.rpc.admission import PART_BYTES, server_options
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SINK: Final = "/benchmark/Sink"
SOURCE: Final = "/benchmark/Source"
MEBIBYTE: Final = 1 << 20
BLOCK_LEN: Final = 32

Durability: TypeAlias = Literal["process", "disk"]
DURABILITIES: Final[tuple[Durability, ...]] = ("process", "disk")


@dataclass(frozen=True, slots=True)
class Row:
    """One work, over all rounds."""

    work: str
    transport: str
    durability: str
    block_len: int
    file_len: int
    size_bytes: int
    seconds: float
    """Median."""
    client_cpu_seconds: float
    server_cpu_seconds: float
    server_peak_bytes: int
    """Most memory of the other side since its start."""

    @property
    def megabytes_per_second(self) -> float:
        """10^6 bytes of voxels a second."""
        return self.size_bytes / self.seconds / 1e6

    def cpu_ms_per_mib(self, seconds: float) -> float:
        """CPU time as milliseconds for each MiB of voxels."""
        return seconds * 1000 / (self.size_bytes / MEBIBYTE)


@dataclass(frozen=True, slots=True)
class _Sample:
    seconds: float
    client_cpu: float
    server_cpu: float
    server_peak: int


class Transfers:
    """All works, for one transport.

    :param edge: of the box, in voxels
    :param folder: where the daemon's data lies
    """

    def __init__(
        self, transport: Literal["tcp", "unix"], folder: str, *, edge: int, file_len: int, rounds: int
    ) -> None:
        self._transport = transport
        self._folder = folder
        self._file_len = file_len
        self._rounds = rounds
        self._edge = edge
        self._data = np.asfortranarray(np.random.default_rng(1).integers(0, 256, (edge, edge, edge), dtype=np.uint8))
        self._samples: dict[tuple[str, str], list[_Sample]] = {}

    def run(self) -> list[Row]:
        """Do every work in every round."""
        root = os.path.join(self._folder, f"root-{self._transport}")
        os.mkdir(root)
        with (
            _bare_server(self._address("bare")) as (bare, bare_pid),
            Daemon(root, grpc=self._address("magd"), http="127.0.0.1:0") as daemon,
            magd_client.connect(daemon.grpc) as client,
        ):
            dataset = client.create_dataset("benchmark", voxel_size=(1.0, 1.0, 1.0))
            for round_number in range(self._rounds + 1):
                self._round(round_number, bare, bare_pid, daemon.pid, dataset)
                if round_number == 0:
                    self._samples.clear()  # the first one warms up
        return [self._row(work, durability, samples) for (work, durability), samples in self._samples.items()]

    def _round(self, number: int, bare: str, bare_pid: int, pid: int, dataset: magd_client.Dataset) -> None:
        self._measure("file write + fdatasync", "", os.getpid(), self._write_plain_file)
        self._measure("gRPC sink", "", bare_pid, lambda: _pour(bare, self._data))
        self._measure("gRPC source", "", bare_pid, lambda: _drain(bare, self._data.nbytes))
        for durability in DURABILITIES:
            layer = dataset.add_layer(f"{durability}-{number}", category="color", dtype="uint8", num_channels=1)
            mag = layer.add_mag("1", block_len=BLOCK_LEN, file_len=self._file_len)
            for work in ("write new", "overwrite"):
                self._write(work, durability, pid, mag)
            self._measure("read", durability, pid, partial(mag.read, (0, 0, 0), self._data.shape))

    def _write(self, work: str, durability: Durability, pid: int, mag: magd_client.MagHandle) -> None:
        start = _snapshot(pid)
        mag.write(self._data, offset=(0, 0, 0), durability=durability)
        acknowledged = _since(start, pid)
        mag.flush()
        self._samples.setdefault((f"{work}, acknowledged", durability), []).append(acknowledged)
        self._samples.setdefault((f"{work}, sustained", durability), []).append(_since(start, pid))

    def _measure(self, work: str, durability: str, pid: int, function: Callable[[], object]) -> None:
        start = _snapshot(pid)
        function()
        self._samples.setdefault((work, durability), []).append(_since(start, pid))

    def _write_plain_file(self) -> None:
        path = os.path.join(self._folder, "plain")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            rest = self._data.reshape(-1, order="F").data
            while rest:
                rest = rest[os.write(fd, rest[:MEBIBYTE]) :]
            os.fdatasync(fd)
        finally:
            os.close(fd)
            os.unlink(path)

    def _row(self, work: str, durability: str, samples: list[_Sample]) -> Row:
        return Row(
            work=work,
            transport=self._transport,
            durability=durability,
            block_len=BLOCK_LEN,
            file_len=self._file_len,
            size_bytes=self._data.nbytes,
            seconds=median(sample.seconds for sample in samples),
            client_cpu_seconds=median(sample.client_cpu for sample in samples),
            server_cpu_seconds=median(sample.server_cpu for sample in samples),
            server_peak_bytes=max(sample.server_peak for sample in samples),
        )

    def _address(self, name: str) -> str:
        return "127.0.0.1:0" if self._transport == "tcp" else f"unix:{self._folder}/{name}.sock"


# -- what is measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Snapshot:
    at: float
    client_cpu: float
    server_cpu: float


def _snapshot(pid: int) -> _Snapshot:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return _Snapshot(time.perf_counter(), usage.ru_utime + usage.ru_stime, _cpu_seconds(pid))


def _since(start: _Snapshot, pid: int) -> _Sample:
    now = _snapshot(pid)
    return _Sample(
        now.at - start.at, now.client_cpu - start.client_cpu, now.server_cpu - start.server_cpu, _peak_bytes(pid)
    )


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


# -- gRPC with nothing behind it ---------------------------------------------------------------------------------------


@contextmanager
def _bare_server(address: str) -> Iterator[tuple[str, int]]:
    """The sink and the source, in a process of their own: address and process id."""
    command = [sys.executable, "-m", "scripts.benchmarks.transfers", "--bare-server", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


async def _serve_bare(address: str) -> None:
    malloc.pin_thresholds()
    part = os.urandom(PART_BYTES)

    async def sink(requests: Any, context: Any) -> bytes:
        del context
        async for _ in requests:
            pass
        return b""

    async def source(request: bytes, context: Any) -> None:
        for _ in range(int(request) // PART_BYTES):
            await context.write(b"".join((b"\xa2\x06\x80\x80\x40", part)))

    server = grpc.aio.server(options=server_options())
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Sink": grpc.stream_unary_rpc_method_handler(sink),
        "Source": grpc.unary_stream_rpc_method_handler(source),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmark", handlers),))
    port = server.add_insecure_port(address)
    await server.start()
    print(address if address.startswith("unix:") else f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


@contextmanager
def _bare_channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


def _pour(address: str, data: np.ndarray[Any, Any]) -> None:
    view = data.reshape(-1, order="F").data
    parts = (b"".join((b"\xa2\x06\x80\x80\x40", view[at : at + PART_BYTES])) for at in range(0, len(view), PART_BYTES))
    with _bare_channel(address) as channel:
        call: Any = channel.stream_unary(SINK)
        call(parts)


def _drain(address: str, size_bytes: int) -> None:
    with _bare_channel(address) as channel:
        call: Any = channel.unary_stream(SOURCE)
        for _ in call(str(size_bytes).encode()):
            pass


# -- the command -------------------------------------------------------------------------------------------------------


def measure(folder: str, *, edge: int = 512, file_len: int = 32, rounds: int = 5) -> list[Row]:
    """Measure over TCP and over a unix socket.

    :param folder: for data and sockets; on the disk to measure
    :param edge: of the box, in voxels
    """
    transports: tuple[Literal["tcp", "unix"], ...] = ("tcp", "unix")
    return [
        row
        for transport in transports
        for row in Transfers(transport, folder, edge=edge, file_len=file_len, rounds=rounds).run()
    ]


def table(rows: list[Row]) -> str:
    """Rows as text. "of" is the share of the speed of the sink, the source or the slower of sink and file."""
    names = "transport, work, durability, block_len, file_len, MB/s, of, client ms/MiB, server ms/MiB, server peak MiB"
    columns = names.split(", ")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    speeds = {(row.transport, row.work): row.megabytes_per_second for row in rows if not row.durability}
    for row in rows:
        limit = speeds[row.transport, "gRPC source" if row.work == "read" else "gRPC sink"]
        if row.durability == "disk" and row.work != "read":
            limit = min(limit, speeds[row.transport, "file write + fdatasync"])
        share = f"{row.megabytes_per_second / limit:.2f}" if row.durability else ""
        lines.append(
            f"| {row.transport} | {row.work} | {row.durability} | {row.block_len} | {row.file_len} "
            f"| {row.megabytes_per_second:.0f} | {share} | {row.cpu_ms_per_mib(row.client_cpu_seconds):.2f} "
            f"| {row.cpu_ms_per_mib(row.server_cpu_seconds):.2f} | {row.server_peak_bytes / MEBIBYTE:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", help="on the disk to measure; default: a temporary folder")
    parser.add_argument("--edge", type=int, default=512, help="of the box, in voxels (default: %(default)s)")
    parser.add_argument("--file-len", type=int, default=32, help="blocks along a cube file (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--bare-server", metavar="ADDRESS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare_server:
        asyncio.run(_serve_bare(given.bare_server))
        return
    malloc.pin_thresholds()
    with tempfile.TemporaryDirectory(prefix="magd-", dir=given.folder) as folder:
        print(table(measure(folder, edge=given.edge, file_len=given.file_len, rounds=given.rounds)))


if __name__ == "__main__":
    main()
