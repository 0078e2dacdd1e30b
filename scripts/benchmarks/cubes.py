#!/usr/bin/env python3
"""Reading and writing cube files in this process, magd's engine against the `wkw` package.

    python scripts/benchmarks/cubes.py [--folder DIR] [--seconds S] [--dtypes uint8] [--only TEXT]

Each row is one box of a mag with blocks of 32^3 and cube files of 512^3 voxels: the same bytes on disk for both. Calls
of the two alternate, so that what else the machine does hits both alike; the figures are medians. `ratio` is the time
of `wkw` by that of magd: above 1 magd is faster. The files are in the page cache; nothing is synced but the temporaries
of compressed files, which magd always syncs and `wkw` never does.

`wkw` writes compressed files only as a whole; of those there is one row.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import wkw

from magd.cubes.header import BlockType, Header
from magd.cubes.mag_files import MagFiles
from magd.geometry import Box, Vec3
from magd.voxels import VoxelFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from magd.voxels import VoxelArray

BLOCK_LEN: Final = 32
FILE_LEN: Final = 16
CUBE: Final = BLOCK_LEN * FILE_LEN
DTYPES: Final = ("uint8", "uint32")
SIZES: Final = (32, 64, 128, 512)
LEAST_PAIRS: Final = 5
MOST_PAIRS: Final = 400


@dataclass(frozen=True)
class Row:
    """One box, and how to read or write it with either."""

    name: str
    size_bytes: int
    ours: Callable[[], object]
    theirs: Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description="Cube files: magd's engine against wkw.")
    parser.add_argument("--folder", help="where the files are made; default: a temporary folder")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row, about")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    arguments = parser.parse_args()
    print(f"{'row':44} {'magd MB/s':>10} {'wkw MB/s':>10} {'ratio':>7} {'pairs':>6}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for dtype in arguments.dtypes:
            for block_type in (BlockType.RAW, BlockType.LZ4):
                for row in rows(Path(folder) / f"{dtype}-{block_type.name}", dtype, block_type):
                    if arguments.only in row.name:
                        compare(row, arguments.seconds)


def compare(row: Row, seconds: float) -> None:
    """Measure one row and print it."""
    ours: list[float] = []
    theirs: list[float] = []
    for call in (row.ours, row.theirs):
        call()
    end = time.perf_counter() + seconds
    while len(ours) < LEAST_PAIRS or (time.perf_counter() < end and len(ours) < MOST_PAIRS):
        ours.append(seconds_of(row.ours))
        theirs.append(seconds_of(row.theirs))
    one, other = statistics.median(ours), statistics.median(theirs)
    megabytes = row.size_bytes / 1e6
    print(
        f"{row.name:44} {megabytes / one:10.0f} {megabytes / other:10.0f} {other / one:7.2f} {len(ours):6}", flush=True
    )


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rows(folder: Path, dtype: str, block_type: BlockType) -> Iterator[Row]:
    """The rows of one kind of mag."""
    header = Header(VoxelFormat.of(dtype, 1), BLOCK_LEN, FILE_LEN, block_type)
    whole = voxels(dtype)
    folder.mkdir()
    name = f"{'raw' if block_type is BlockType.RAW else 'compressed'} {dtype}"
    with MagFiles.create(str(folder / "magd"), header) as files, dataset(folder / "wkw", header) as other:
        files.write(Box.of((0, 0, 0), (CUBE, CUBE, CUBE)), whole)
        other.write((0, 0, 0), whole)
        yield from reads(name, files, other)
        if block_type is BlockType.RAW:
            yield from writes(name, files, other, whole)
        else:
            yield writing(f"{name} write {CUBE}^3 aligned", files, other, Vec3.full(0), whole)


def reads(name: str, files: MagFiles, other: Any) -> Iterator[Row]:
    """Reading boxes of all sizes."""
    for size in SIZES:
        for where, offset in offsets(size):
            box = Box(offset, Vec3.full(size))
            yield Row(
                f"{name} read {size}^3 {where}",
                size**3 * files.header.voxels.bytes_per_voxel,
                lambda box=box: files.read(box),  # type: ignore[misc]
                lambda box=box: other.read(tuple(box.offset), tuple(box.size)),  # type: ignore[misc]
            )


def writes(name: str, files: MagFiles, other: Any, whole: VoxelArray) -> Iterator[Row]:
    """Writing boxes of all sizes, in either order of the array."""
    for size in SIZES:
        data = np.asfortranarray(whole[:, :size, :size, :size])
        for where, offset in offsets(size):
            yield writing(f"{name} write {size}^3 {where}", files, other, offset, data)
        yield writing(f"{name} write {size}^3 aligned, C order", files, other, Vec3.full(0), np.ascontiguousarray(data))


def writing(name: str, files: MagFiles, other: Any, offset: Vec3, data: VoxelArray) -> Row:
    box = Box(offset, Vec3.of(data.shape[1:]))
    return Row(name, data.nbytes, lambda: files.write(box, data), lambda: other.write(tuple(offset), data))


def offsets(size: int) -> Iterator[tuple[str, Vec3]]:
    """Where boxes of a size lie."""
    if size == CUBE:
        yield "aligned", Vec3.full(0)
    else:
        yield "aligned", Vec3.full(128)
        yield "unaligned", Vec3(101, 75, 43)


def dataset(folder: Path, header: Header) -> Any:
    return wkw.Dataset.create(
        str(folder),
        wkw.Header(
            header.voxels.dtype.type, block_len=header.block_len, file_len=header.file_len, block_type=header.block_type
        ),
    )


def voxels(dtype: str) -> VoxelArray:
    """A cube file of voxels: noise with a trend, as of an image, or large segments with ids."""
    random = np.random.default_rng(0)
    if dtype == "uint8":
        noise = random.integers(0, 64, (1, CUBE, CUBE, CUBE), dtype=np.uint8)
        noise += (np.arange(CUBE) // 4).astype(np.uint8)[None, :, None, None]
        return np.asfortranarray(noise)
    ids = random.integers(1, 1 << 24, (1, CUBE // 16, CUBE // 16, CUBE // 16)).astype(dtype)
    for axis in (1, 2, 3):
        ids = np.repeat(ids, 16, axis=axis)
    return np.asfortranarray(ids)


if __name__ == "__main__":
    main()
