"""Reading and writing cube files in this process, magd's engine against the `wkw` package.

Each work is one box of a mag with blocks of 32^3: the same bytes on disk for both. Calls of the two alternate, so that
what else the machine does hits both alike. The files are in the page cache; nothing is synced but the temporaries of
compressed files, which magd always syncs and `wkw` never does.

`wkw` writes compressed files only as a whole; of those there is one work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from magd.cubes.header import BlockType, Header
from magd.cubes.mag_files import MagFiles
from magd.geometry import Box, Vec3
from magd.voxels import VoxelFormat
from scripts.benchmarks.measure import Goal, Probe, Results, Settings, Work
from scripts.benchmarks.volumes import BLOCK_LEN, image_or_segments, wkw_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from magd.voxels import VoxelArray
    from scripts.benchmarks.volumes import Category

GROUP: Final = "engine"
SIZES: Final = (32, 64, 128, 512)
LEAST_PAIRS: Final = 3
MOST_PAIRS: Final = 400
WORTH_SECONDS: Final = 0.002
"""Shorter calls are measured some at a time: to look at the clocks is work too."""
SPEED_OF_WKW: Final = 1.0


@dataclass(frozen=True)
class _Pair:
    """One box, and how to read or write it with either."""

    work: Work
    what: str
    ours: Callable[[], object]
    theirs: Callable[[], object]


def run(settings: Settings, results: Results) -> None:
    """Measure each work for some seconds."""
    folder = settings.folder / GROUP
    folder.mkdir()
    categories: tuple[Category, ...] = ("color", "segmentation")
    for category in categories:
        for block_type in (BlockType.RAW, BlockType.LZ4):
            voxels, source = image_or_segments(category, settings.edge)
            where = folder / f"{category}-{block_type.name}"
            for pair in _pairs(where, voxels, source, block_type):
                _compare(pair, settings.seconds, results)


def _compare(pair: _Pair, seconds: float, results: Results) -> None:
    """One call of each is a round, or some of each."""
    works = (pair.work, replace(pair.work, by="wkw"))
    calls = (pair.ours, pair.theirs)
    began = time.perf_counter()
    for call in calls:
        call()
    together = max(1, round(2 * WORTH_SECONDS / (time.perf_counter() - began)))
    end = time.perf_counter() + seconds
    for number in range(MOST_PAIRS):
        if number >= LEAST_PAIRS and time.perf_counter() > end:
            break
        for work, call in zip(works, calls, strict=True):
            probe = Probe()
            for _ in range(together):
                call()
            results.add(work, probe.sample(together))
    reached = results.times_as_fast(*works)
    results.goals.append(Goal("engine", GROUP, pair.what, "wkw", SPEED_OF_WKW, reached))


def _pairs(folder: Path, whole: VoxelArray, source: str, block_type: BlockType) -> Iterator[_Pair]:
    """The works of one kind of mag, whose only cube file is full."""
    edge = whole.shape[0]
    header = Header(VoxelFormat.of(whole.dtype.name, 1), BLOCK_LEN, edge // BLOCK_LEN, block_type)
    folder.mkdir()
    with (
        MagFiles.create(str(folder / "magd"), header) as files,
        wkw_dataset(folder / "wkw", whole.dtype.name, header.file_len, block_type) as other,
    ):
        files.write(Box.of((0, 0, 0), (edge, edge, edge)), whole[np.newaxis])
        other.write((0, 0, 0), whole)
        sizes = [size for size in SIZES if size < edge] + [edge]
        for size in sizes:
            for offset in _offsets(size, edge):
                yield _reading(files, other, Box(offset, Vec3.full(size)), source)
        if block_type is not BlockType.RAW:
            yield _writing(files, other, Vec3.full(0), whole, source)
            return
        for size in sizes:
            data = np.asfortranarray(whole[:size, :size, :size])
            for offset in _offsets(size, edge):
                yield _writing(files, other, offset, data, source)
            yield _writing(files, other, Vec3.full(0), np.ascontiguousarray(data), source)


def _reading(files: MagFiles, other: Any, box: Box, source: str) -> _Pair:
    work = _work(files, "read", box, source)
    offset, size = tuple(box.offset), tuple(box.size)
    return _Pair(work, _text(work), lambda: files.read(box), lambda: other.read(offset, size))


def _writing(files: MagFiles, other: Any, offset: Vec3, data: VoxelArray, source: str) -> _Pair:
    box = Box(offset, Vec3.of(data.shape))
    work = _work(files, "write", box, source)
    if not data.flags.f_contiguous:
        work = replace(work, order="C")
    given = data[np.newaxis]
    return _Pair(work, _text(work), lambda: files.write(box, given), lambda: other.write(tuple(offset), given))


def _work(files: MagFiles, kind: str, box: Box, source: str) -> Work:
    header = files.header
    is_aligned = all(corner % header.block_len == 0 for corner in (*box.offset, *box.end))
    return Work(
        group=GROUP,
        name=f"{kind} {'aligned' if is_aligned else 'unaligned'}",
        by="magd",
        box=f"{box.size.x}^3",
        dtype=header.voxels.dtype.name,
        size_bytes=box.size.x * box.size.y * box.size.z * header.voxels.bytes_per_voxel,
        block_len=header.block_len,
        file_len=header.file_len,
        is_compressed=header.block_type is not BlockType.RAW,
        data=source,
    )


def _text(work: Work) -> str:
    kind = "compressed" if work.is_compressed else "raw"
    return f"{work.name} {work.box} {work.dtype} {kind}, {work.order} order"


def _offsets(size: int, edge: int) -> Iterator[Vec3]:
    """Where boxes of a size lie in a cube file: on its blocks, and off them."""
    if size == edge:
        yield Vec3.full(0)
    else:
        yield Vec3.full((edge - size) // 2 // BLOCK_LEN * BLOCK_LEN)
        yield Vec3.of([min(at, edge - size - 1) for at in (101, 75, 43)])
