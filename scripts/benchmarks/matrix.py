"""The longer matrix: boxes of many kinds, in every way through the daemon, beside what people use today.

The product of everything would take days. So two parts of it are measured:

- kinds of boxes: extent, dtype, on the grid of blocks or off it, order of the array, raw or compressed; one client,
  TCP, `PROCESS`; beside `wkw` and `webknossos` on local files, TensorStore (zarr3, sharded as the cube files, blocks as
  its chunks, in process), `memcpy` and a plain file. A compressed mag is written off the grid by magd alone here: the
  others refuse it or take many seconds (see the group "compressed").
- ways through the daemon: TCP, unix socket and shared memory; durability; number of clients; boxes of 256^3, uint8.

Of the kinds of boxes, arrays in C order are written on the grid only, and so are the largest boxes. Of those that are
compressed the large ones are measured once, in Fortran order, without a round that warms up: `webknossos` takes minutes
for one of a GiB.

A write of magd counts until its acknowledgement. None of the others syncs, but for the plain file.
"""

from __future__ import annotations

import itertools
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import wkw

import magd_client
from scripts.benchmarks.clients import Clients, Task, grid
from scripts.benchmarks.measure import Durability, Probe, Results, Settings, Work, make_memory_ready
from scripts.benchmarks.volumes import BLOCK_LEN, quiet, random_voxels, webknossos_mag, wkw_dataset, write_plain_file
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GROUP: Final = "matrix"
SIZES: Final = ((32, 32, 32), (64, 64, 64), (128, 128, 128), (256, 256, 256), (512, 512, 512), (1024, 1024, 256))
CLIENTS: Final = (1, 2, 4, 8)
DURABILITIES: Final[tuple[Durability, ...]] = ("process", "disk", "none")
OFF_GRID: Final = (5, 3, 7)
WAYS_EDGE: Final = 256
"""Large enough for shared memory."""
WAYS_COUNT: Final = 8
"""Boxes of each client."""
TRANSPORTS: Final = ("tcp", "unix", "shared memory")
MOST_ROUNDS: Final = 3
SLOW_BYTES: Final = 128 << 20
"""Of boxes that are written compressed, from which on that takes very long."""
COMPRESSED_FILE_LEN: Final = 8
"""`webknossos` compresses a whole cube file for each write: one of 1024^3 voxels takes it a minute."""
SHARE_OF_SECONDS: Final = 0.25
"""Of the time that a work gets in a round elsewhere: there are hundreds here."""


@dataclass(frozen=True, slots=True)
class _Kind:
    size: tuple[int, int, int]
    dtype: str
    is_aligned: bool
    order: Literal["F", "C"]
    is_compressed: bool

    @property
    def offset(self) -> tuple[int, int, int]:
        return (0, 0, 0) if self.is_aligned else OFF_GRID

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.size)) * np.dtype(self.dtype).itemsize

    @property
    def is_slow(self) -> bool:
        return self.is_compressed and self.size_bytes >= SLOW_BYTES

    def work(self, file_len: int) -> Work:
        return Work(
            group=GROUP,
            name="aligned" if self.is_aligned else "unaligned",
            by="",
            box="x".join(map(str, self.size)),
            dtype=self.dtype,
            size_bytes=self.size_bytes,
            block_len=BLOCK_LEN,
            file_len=file_len,
            order=self.order,
            is_compressed=self.is_compressed,
        )


def run(settings: Settings, results: Results) -> None:
    """Measure both parts."""
    with ExitStack() as stack:
        root = settings.folder / "matrix-root"
        root.mkdir()
        daemon = stack.enter_context(Daemon(root, "--log-level", "warning"))
        client = stack.enter_context(magd_client.connect(daemon.grpc, durability="process"))
        dataset = client.create_dataset("benchmark", voxel_size=(1.0, 1.0, 1.0))
        for number, kind in enumerate(_kinds(settings)):
            folder = settings.folder / f"matrix-{number}"
            _measure_kind(
                kind, folder, dataset.add_layer(f"layer-{number}", dtype=kind.dtype), daemon.pid, settings, results
            )
            shutil.rmtree(folder)
    _measure_ways(settings, results)


def _kinds(settings: Settings) -> Iterator[_Kind]:
    """All kinds of boxes, of which none is larger than the settings want."""
    sizes = [size for size in SIZES if np.prod(size) <= 2 * settings.edge**3][: 1 if settings.is_quick else None]
    orders: tuple[Literal["F", "C"], ...] = ("F", "C")
    for parts in itertools.product(sizes, ("uint8", "uint32"), (True, False), orders, (False, True)):
        kind = _Kind(*parts)
        if kind.order == "F":
            if kind.is_aligned or kind.size != SIZES[-1]:
                yield kind
        elif kind.is_aligned and not kind.is_slow:
            yield kind


def _measure_kind(
    kind: _Kind, folder: Path, layer: magd_client.Layer, pid: int, settings: Settings, results: Results
) -> None:
    file_len = min(COMPRESSED_FILE_LEN, settings.file_len) if kind.is_compressed else settings.file_len
    base = kind.work(file_len)
    # Few values, so that compressing does something.
    data = random_voxels(kind.size, kind.dtype) // 64
    data = np.ascontiguousarray(data) if kind.order == "C" else np.asfortranarray(data)
    folder.mkdir()
    with ExitStack() as stack:
        calls = list(_calls(kind, folder, layer, data, file_len, stack))
        numbers = (1,) if kind.is_slow else range(min(MOST_ROUNDS, settings.rounds) + 1)
        for number in numbers:  # 0 warms up
            for by, name, call in calls:
                is_magd = by == "magd"
                work = replace(
                    base, by=by, name=f"{name} {base.name}", transport="tcp" if is_magd else "",
                    durability="process" if is_magd and name == "write" else None,
                )  # fmt: skip
                _repeat(work, call, pid if is_magd else None, settings, None if number == 0 else results)


def _calls(
    kind: _Kind, folder: Path, layer: magd_client.Layer, data: Any, file_len: int, stack: ExitStack
) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """By whom, what and how."""
    offset, size = kind.offset, kind.size
    mag = layer.add_mag("1", block_len=BLOCK_LEN, file_len=file_len, compressed=kind.is_compressed)
    yield "magd", "write", lambda: mag.write(data, offset)
    yield "magd", "read", lambda: mag.read(offset, size)
    if not kind.is_compressed:
        files = stack.enter_context(wkw_dataset(folder / "wkw", kind.dtype, file_len, wkw.Header.BLOCK_TYPE_RAW))
        yield "wkw", "write", lambda: files.write(offset, data)
        yield "wkw", "read", lambda: files.read(offset, size)
    if kind.is_aligned or not kind.is_compressed:
        extent = tuple(2 * max(size) for _ in size)
        theirs = webknossos_mag(
            folder / "webknossos", "color", kind.dtype, file_len, extent[0], is_compressed=kind.is_compressed
        )
        # Compressed, it writes whole cube files or what reaches the end of the bounding box.
        more = {"allow_unaligned": True} if kind.is_compressed else {}
        yield "webknossos", "write", lambda: theirs.write(data, absolute_offset=offset, **more)
        yield "webknossos", "read", lambda: theirs.read(absolute_offset=offset, size=size)
        array = _tensorstore_array(folder / "tensorstore", kind, file_len)
        where = tuple(slice(at, at + extent) for at, extent in zip(offset, size, strict=True))
        yield "TensorStore", "write", lambda: array[where].write(data).result()
        yield "TensorStore", "read", lambda: array[where].read().result()
    if kind.is_aligned and not kind.is_compressed:
        copy = np.empty_like(data)
        yield "memcpy", "write", lambda: np.copyto(copy, data)
        yield "plain file", "write + fdatasync", lambda: write_plain_file(folder / "plain", data.ravel(order="K"))


def _tensorstore_array(folder: Path, kind: _Kind, file_len: int) -> Any:
    import tensorstore  # here: only this needs it

    library: Any = tensorstore
    shard, block = BLOCK_LEN * file_len, BLOCK_LEN
    inner: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    # x fastest, as in a cube file.
    inner.insert(0, {"name": "transpose", "configuration": {"order": [2, 1, 0]}})
    if kind.is_compressed:
        inner.append({"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle"}})
    extent = -(-(2 * max(kind.size)) // shard) * shard
    return library.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(folder)},
            "metadata": {
                "shape": [extent, extent, extent],
                "data_type": kind.dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, shard, shard]}},
                "codecs": [
                    {
                        "name": "sharding_indexed",
                        "configuration": {"chunk_shape": [block, block, block], "codecs": inner},
                    }
                ],
            },
            "create": True,
        }
    ).result()


def _repeat(
    work: Work, call: Callable[[], object], pid: int | None, settings: Settings, results: Results | None
) -> None:
    """Call for some time.

    :param results: None: only once, to warm up
    """
    with quiet():
        if results is None:
            call()
            return
        make_memory_ready(work, settings)
        probe = Probe(pid)
        end = time.perf_counter() + settings.seconds * SHARE_OF_SECONDS
        done = 0
        while done == 0 or time.perf_counter() < end:
            call()
            done += 1
        results.add(work, probe.sample(done))


def _measure_ways(settings: Settings, results: Results) -> None:
    """Boxes of one size, by all transports, durabilities and numbers of clients."""
    edge = min(WAYS_EDGE, settings.edge)
    folder = settings.folder / "matrix-ways"
    with ExitStack() as stack:
        daemons: dict[str, Daemon] = {}
        for transport in TRANSPORTS:
            root = folder / transport.replace(" ", "-")
            root.mkdir(parents=True)
            socket = f"unix:{settings.sockets}/{root.name}.sock"
            daemon = Daemon(root, "--log-level", "warning", grpc="127.0.0.1:0" if transport == "tcp" else socket)
            daemons[transport] = stack.enter_context(daemon)
            with magd_client.connect(daemon.grpc) as client:
                layer = client.create_dataset("benchmark", voxel_size=(1.0, 1.0, 1.0)).add_layer("color", dtype="uint8")
                layer.add_mag("1", block_len=BLOCK_LEN, file_len=settings.file_len)
        numbers = CLIENTS[:2] if settings.is_quick else CLIENTS
        clients = stack.enter_context(Clients(max(numbers)))
        for _ in range(min(MOST_ROUNDS, settings.rounds)):
            for transport, durability, number in itertools.product(TRANSPORTS, DURABILITIES, numbers):
                for kind in ("write", "read") if durability == "process" else ("write",):
                    tasks = [
                        Task(
                            daemons[transport].grpc, ("benchmark", "color", "1"), "one by one", kind == "write",
                            durability, "uint8", edge,
                            grid(edge, 1024, 1 if settings.is_quick else WAYS_COUNT, (1024 * one, 0, 0)),
                            may_share_memory=transport == "shared memory",
                        )
                        for one in range(number)
                    ]  # fmt: skip
                    work = Work(
                        group=GROUP,
                        name=f"{kind} one by one",
                        by="magd",
                        box=f"{edge}^3",
                        dtype="uint8",
                        size_bytes=edge**3,
                        block_len=BLOCK_LEN,
                        file_len=settings.file_len,
                        durability=durability if kind == "write" else None,
                        transport=transport,
                        clients=number,
                    )
                    sample, _ = clients.run(tasks, daemons[transport].pid)
                    results.add(work, sample)
