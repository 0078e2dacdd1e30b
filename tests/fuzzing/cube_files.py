"""Fuzzing of cube files and header.wkw, against a second reader that is too simple to be wrong.

The case is one cube file (of a raw mag, of a raw mag with several channels, or of a compressed one), or header.wkw, in
the mag it was made for. What must hold:

1. Reading the whole file gives what the second reader finds, or, if that finds damage, an error that names the file.
   Never zeros instead, never voxels of a damaged file.
2. Reading a part gives what the second reader finds there, or an error that names the file.
3. A check reports damage exactly if the second reader finds it.
4. A write that is refused leaves every file as it was. One that succeeds changes its box and nothing else.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import lz4.block
import numpy as np

from magd.cubes.check import check_mag
from magd.cubes.encode import largest_encoded
from magd.cubes.header import HEADER_BYTES, BlockType, Header
from magd.cubes.layout import cube_file_path
from magd.cubes.mag_files import MagFiles
from magd.errors import DataLoss, MagdError, NotAllowed
from magd.geometry import Box, Vec3
from magd.voxels import VoxelFormat
from tests.fuzzing.cases import Case, mutate_bytes
from tests.fuzzing.fuzzer import Broken

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from types import TracebackType

    from magd.voxels import VoxelArray

HEADERS: Final = {
    "raw": Header(VoxelFormat.of("uint16", 1), 4, 2, BlockType.RAW),
    "channels": Header(VoxelFormat.of("uint8", 3), 2, 2, BlockType.RAW),
    "compressed": Header(VoxelFormat.of("uint8", 1), 8, 2, BlockType.LZ4HC),
}
"""The mags, by the kind of the case. Small ones: a fault is met sooner in a small file."""
HEADER_KIND: Final = "header.wkw"

_FILE: Final = cube_file_path(Vec3(0, 0, 0))
_PART: Final = Box.of((1, 0, 2), (2, 3, 1))
_MEMORY: Final = "/dev/shm"


class CubeFiles:
    """The target."""

    name: str = "cube-files"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="magd-fuzz-", dir=_MEMORY if os.path.isdir(_MEMORY) else None))
        self._mags: dict[str, Path] = {}
        self._sound: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        for kind, header in HEADERS.items():
            self._mags[kind] = self._folder / kind
            box = Box(Vec3(0, 0, 0), header.cube_size)
            with MagFiles.create(str(self._mags[kind]), header) as files:
                files.write(box, _voxels(header, box.size))
            self._sound[kind] = (self._mags[kind] / _FILE).read_bytes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder)

    def rest(self) -> None:
        """There is nothing to let go of."""

    def begin_with(self) -> Sequence[Case]:
        """The files as they were made."""
        cases = [Case(kind, (data,)) for kind, data in self._sound.items()]
        return [*cases, Case(HEADER_KIND, ((self._mags["raw"] / "header.wkw").read_bytes(),))]

    def mutate(self, case: Case, random: random.Random) -> Case:
        """Bytes anywhere, or entries of header and jump table."""
        if not case.pieces:
            return case
        data = case.pieces[0]
        if random.random() < 0.5 and len(data) >= HEADER_BYTES:
            return case.with_piece(0, _mutate_structure(case.kind, data, random))
        return case.with_piece(0, mutate_bytes(data, random))

    def run(self, case: Case) -> None:
        """Read, check and write a mag with this file."""
        data = case.pieces[0] if case.pieces else b""
        if case.kind == HEADER_KIND:
            self._run_header(data)
            return
        header, mag = HEADERS[case.kind], self._mags[case.kind]
        path = mag / _FILE
        path.write_bytes(data)
        try:
            expected = read_plainly(data, header)
            _check_reads(mag, path, header, expected)
            _check_check(mag, expected)
            _check_write(mag, path, header, expected)
        finally:
            path.write_bytes(self._sound[case.kind])
            for folder in {entry.name for entry in mag.iterdir()} - {"header.wkw", "z0"}:
                shutil.rmtree(mag / folder)

    def _run_header(self, data: bytes) -> None:
        mag = self._folder / "of-header"
        shutil.rmtree(mag, ignore_errors=True)
        shutil.copytree(self._mags["raw"], mag)
        (mag / "header.wkw").write_bytes(data)
        before = _contents(mag)
        try:
            with MagFiles.open(str(mag), read_only=True) as files:
                whole = Box(Vec3(0, 0, 0), HEADERS["raw"].cube_size)
                right = files.header.has_layout_of(HEADERS["raw"])
                seen = files.read(whole)
                if not right or not np.array_equal(seen, _voxels(HEADERS["raw"], whole.size)):
                    raise Broken(f"a mag whose header.wkw says {files.header} was read")
        except (DataLoss, NotAllowed) as error:
            _check_names(error, mag)
        for _ in check_mag(str(mag), deep=True):
            pass
        if _contents(mag) != before:
            raise Broken("reading has changed files")


def read_plainly(data: bytes, mag: Header) -> VoxelArray | str:
    """The voxels of a cube file of a mag, or what is wrong with it. Written from the description of the format."""
    if len(data) < HEADER_BYTES:
        return "it has no whole header"
    magic, version, lengths, block_type, dtype, voxel_bytes, start = struct.unpack("<3sBBBBBQ", data[:HEADER_BYTES])
    of_mag = struct.unpack("<3sBBBBBQ", mag.to_bytes())
    if (magic, version, lengths, dtype, voxel_bytes) != (*of_mag[:3], *of_mag[4:6]) or block_type not in (1, 2, 3):
        return "its header is not that of the mag"
    count, block_bytes = mag.file_len**3, mag.block_len**3 * voxel_bytes
    blocks: list[bytes] = []
    if block_type == BlockType.RAW:
        if start < HEADER_BYTES or len(data) < start + count * block_bytes:
            return "its blocks lie outside of it"
        blocks = [data[start + index * block_bytes :][:block_bytes] for index in range(count)]
    else:
        if len(data) < HEADER_BYTES + 8 * count or start < HEADER_BYTES + 8 * count:
            return "its jump table is cut off or overlaid"
        ends = struct.unpack(f"<{count}Q", data[HEADER_BYTES : HEADER_BYTES + 8 * count])
        for first, last in zip((start, *ends), ends, strict=False):
            if not first < last <= len(data) or last - first > largest_encoded(block_bytes):
                return "its jump table leads nowhere"
            try:
                block = lz4.block.decompress(data[first:last], uncompressed_size=block_bytes)
            except lz4.block.LZ4BlockError:
                return "a block cannot be decoded"
            if len(block) != block_bytes:
                return "a block is too short"
            blocks.append(block)
    return _put_together(blocks, mag)


def _put_together(blocks: Sequence[bytes], mag: Header) -> VoxelArray:
    """The voxels of a cube file, from its blocks in Morton order: bit by bit x, y, z."""
    voxels = mag.voxels.zeros(mag.cube_size)
    edge = mag.block_len
    for index, block in enumerate(blocks):
        x, y, z = (sum((index >> 3 * bit + axis & 1) << bit for bit in range(8)) * edge for axis in range(3))
        array = np.frombuffer(block, mag.voxels.dtype).reshape((mag.voxels.num_channels, edge, edge, edge), order="F")
        voxels[:, x : x + edge, y : y + edge, z : z + edge] = array
    return voxels


def _check_reads(mag: Path, path: Path, header: Header, expected: VoxelArray | str) -> None:
    with MagFiles.open(str(mag), read_only=True) as files:
        for box in (Box(Vec3(0, 0, 0), header.cube_size), _PART):
            is_whole = box is not _PART
            try:
                seen = files.read(box)
            except (DataLoss, NotAllowed) as error:
                _check_names(error, path)
                if not isinstance(expected, str):
                    raise Broken(f"a sound file was refused: {error}") from error
                continue
            if isinstance(expected, str):
                if is_whole:
                    raise Broken(f"a damaged file was read: {expected}")
            elif not np.array_equal(seen, _part(expected, box)):
                raise Broken(f"{box} was read wrongly")


def _check_check(mag: Path, expected: VoxelArray | str) -> None:
    found = [checked for checked in check_mag(str(mag), deep=True) if checked.is_damaged]
    if isinstance(expected, str) != bool(found):
        raise Broken(f"the second reader says {str(expected)[:60]!r}, the check says {found}")


def _check_write(mag: Path, path: Path, header: Header, expected: VoxelArray | str) -> None:
    before = _contents(mag)
    voxels = np.full((header.voxels.num_channels, *_PART.size), 77, header.voxels.dtype, order="F")
    with MagFiles.open(str(mag)) as files:
        try:
            files.write(_PART, voxels)
        except (DataLoss, NotAllowed) as error:
            _check_names(error, path)
            if _contents(mag) != before:
                raise Broken("a refused write has changed files") from error
            return
        files.sync()
    if isinstance(expected, str):
        return  # the blocks that it touched may be sound
    after = read_plainly(path.read_bytes(), header)
    wanted = expected.copy()
    _part(wanted, _PART)[...] = voxels
    if isinstance(after, str) or not np.array_equal(after, wanted):
        raise Broken("a write has changed more or less than its box")


def _check_names(error: MagdError, file: Path) -> None:
    if not error.metadata.get("file", "").startswith(str(file)):
        raise Broken(f"the error does not name {file}: {error.metadata}")


def _contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and ".magd" not in path.parts)
    return {str(path): path.read_bytes() for path in paths}


def _voxels(header: Header, size: Vec3) -> VoxelArray:
    """Not zero anywhere; with stretches that compress."""
    count = header.voxels.num_channels * size.volume
    values: np.ndarray[Any, Any] = np.arange(count) // 5 % 250 + 1
    return values.astype(header.voxels.dtype).reshape((header.voxels.num_channels, *size), order="F")


def _part(voxels: VoxelArray, box: Box) -> VoxelArray:
    start, end = box.offset, box.end
    part: VoxelArray = voxels[:, start.x : end.x, start.y : end.y, start.z : end.z]
    return part


def _mutate_structure(kind: str, data: bytes, random: random.Random) -> bytes:
    changed = bytearray(data)
    header = HEADERS.get(kind)
    entries = header.blocks_per_file if header is not None and header.block_type.is_compressed else 0
    if entries and random.random() < 0.6 and len(data) >= HEADER_BYTES + 8 * entries:
        at = HEADER_BYTES + 8 * random.randrange(entries)
        there = int.from_bytes(data[at : at + 8], "little")
        other = int.from_bytes(data[HEADER_BYTES + 8 * random.randrange(entries) :][:8], "little")
        value = random.choice((there + 1, there - 1, other, len(data), len(data) + 1, 0, 2**63, there + 2**32))
        changed[at : at + 8] = (value % 2**64).to_bytes(8, "little")
        return bytes(changed)
    match random.randrange(5):
        case 0:
            changed[4] = random.randrange(256)
        case 1:
            changed[5] = random.randrange(5)
        case 2:
            changed[6], changed[7] = random.randrange(12), random.choice((0, 1, 2, 3, 4, 8, 255))
        case 3:
            changed[8:16] = random.choice((0, 15, 16, 17, 24, 80, len(data), 2**63, 2**64 - 1)).to_bytes(8, "little")
        case _:
            changed[random.randrange(4)] ^= 1 << random.randrange(8)
    return bytes(changed)
