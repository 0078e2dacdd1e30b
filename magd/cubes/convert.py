"""Making the cube files of a mag from those of another one with the same voxels: compressed, raw, or of other lengths.

A small cube file is made in one step. A large one is made in parts, which may be made at the same time:

1. Each part is a range of blocks in Morton order. Its place is known in a raw file, and in a compressed one as soon as
   the lengths of all blocks before it are: then it is written there at once.
2. A compressed part may also be made before its place is known. Then its bytes go to a buffer, and from there,
   inside the kernel, to the cube file. A buffer is a temporary of the target which takes one part after the other: it
   stays in memory, while files that come and go cost as much as what is in them.
3. When all parts are in their places, the file is finished: jump table, header, sync. The disk has begun with the parts
   by then.

Blocks of which the source has changed meanwhile are spliced in later:

1. In a raw file they are written to their places, and it is synced.
2. Of a compressed file a successor is made: the changed blocks are encoded anew, the bytes of the others are copied. It
   is synced and replaces the file.

A cube file in which all blocks are zero is not made: what does not exist reads as zeros everywhere, and takes no space.

All of this can be done again from the start of a step after its process was killed: each step replaces what an earlier
attempt left. The folder of the target is nobody else's.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from magd.atomic import unlink_if_there
from magd.cubes.block_copy import runs
from magd.cubes.block_source import BlockSource
from magd.cubes.compressed import CompressedFileWriter, JumpTable
from magd.cubes.cube_file import OPEN_FLAGS, OpenCubeFile
from magd.cubes.encode import BlockCounts, BlockEncoder, CompressionLevel, Pieces
from magd.cubes.exact_io import copy_range, sync_file, write_all
from magd.cubes.header import HEADER_BYTES, BlockType, Header, damaged
from magd.cubes.layout import IntArray, cube_file_path
from magd.cubes.mag_folder import TEMPORARIES
from magd.cubes.new_blocks import Made, encode, encode_part, write_raw
from magd.cubes.writeback import start_writeback
from magd.errors import os_errors_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.geometry import Vec3

PART_BYTES: Final = 16 << 20
"""Bytes of voxels in a part. A cube file that is hardly larger is made in one step."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is made of what."""

    source: str
    """Folder of a mag. Only read."""
    source_header: Header
    target: str
    """Folder of a mag that is being made."""
    header: Header
    """Of the target. Its voxels are those of the source."""
    level: CompressionLevel
    """Without a meaning where the target is raw."""

    @property
    def blocks_per_part(self) -> int:
        """How many blocks the parts of a cube file have, but for the last one."""
        return max(1, min(PART_BYTES // self.header.block_bytes, self.header.blocks_per_file))

    @property
    def in_one_step(self) -> bool:
        """Whether a cube file is too small to be made in parts."""
        return self.header.blocks_per_file <= 2 * self.blocks_per_part

    def file(self, cube: Vec3) -> str:
        """The path of a cube file of the target."""
        return os.path.join(self.target, cube_file_path(cube))

    def temporary(self, cube: Vec3, name: str) -> str:
        """The path of a temporary for a cube file; never that of a cube file."""
        return os.path.join(self.target, TEMPORARIES, f"cube-{cube.x}-{cube.y}-{cube.z}-{name}.tmp")

    def buffer(self, number: int) -> str:
        """The path of a buffer. Its name is that of any temporary of a mag, so it is swept out after a crash."""
        return os.path.join(self.target, TEMPORARIES, f"cube-{number:02x}.tmp")

    def encoder(self) -> BlockEncoder:
        """One for blocks of the target."""
        return BlockEncoder(self.level, self.header.block_bytes)

    def blocks_of(self, cube: Vec3) -> BlockSource:
        """The blocks of a cube file of the target, as the source has them now."""
        return BlockSource(self.source, self.source_header, self.header, cube)


def make_file(conversion: Conversion, cube: Vec3) -> Made:
    """Make one cube file in one step, and sync it.

    :raises DataLoss: the source is damaged, or a file cannot be read or written
    :raises DiskFull: there is no space
    """
    try:
        made = make_part(conversion, cube, 0, conversion.header.blocks_per_file)
        made.size_bytes = finish_file(conversion, cube, None if made.is_zero else made.lengths)
    except BaseException:
        with suppress(OSError):  # it tells no more than the first one
            unlink_if_there(conversion.file(cube))
        raise
    return made


def make_part(conversion: Conversion, cube: Vec3, first: int, last: int, offset: int | None = None) -> Made:
    """Make the blocks of one cube file from `first` up to, without, `last`, in their places.

    :param offset: where they begin in a compressed cube file; None: nothing is before them
    :raises DataLoss: the source is damaged, or a file cannot be read or written
    :raises DiskFull: there is no space
    """
    header, path = conversion.header, conversion.file(cube)
    with conversion.blocks_of(cube) as source:
        _make_folders(path)
        if not header.block_type.is_compressed:
            with _opened_raw(path, header) as fd:
                made = write_raw(source.runs(first, last), fd, header, first, path, keep_holes=True)
                start_writeback(fd, HEADER_BYTES + first * header.block_bytes, (last - first) * header.block_bytes)
                return made
        if offset is None:
            offset = header.of_cube_file().data_offset
        with _opened(path, os.O_WRONLY | os.O_CREAT) as fd:
            made = encode_part(source.runs(first, last), conversion.encoder(), fd, offset, path)
            start_writeback(fd, offset, made.size_bytes)
            return made


def make_part_ahead(conversion: Conversion, cube: Vec3, first: int, last: int, buffer: int) -> Made:
    """Make such blocks of a compressed cube file before it is known where they begin.

    :param buffer: the number of the one that gets their bytes, at its start
    :raises DataLoss: the source is damaged, or a file cannot be read or written
    :raises DiskFull: there is no space
    """
    path = conversion.buffer(buffer)
    with conversion.blocks_of(cube) as source, _opened(path, os.O_WRONLY | os.O_CREAT) as fd:
        return encode_part(source.runs(first, last), conversion.encoder(), fd, 0, path)


def place_part(conversion: Conversion, cube: Vec3, buffer: int, offset: int, size: int) -> None:
    """Bring a part that was made ahead to its place in the cube file.

    :param buffer: the number of the one that has its bytes
    :param offset: where it begins in the cube file
    :param size: its length in bytes
    :raises DataLoss: a file cannot be read or written
    :raises DiskFull: there is no space
    """
    path, buffer_path = conversion.file(cube), conversion.buffer(buffer)
    _make_folders(path)
    with _opened(buffer_path, os.O_RDONLY) as part, _opened(path, os.O_WRONLY | os.O_CREAT) as fd:
        copy_range(part, 0, fd, offset, size, source_file=buffer_path, target_file=path)
        start_writeback(fd, offset, size)


def remove_buffers(conversion: Conversion, count: int) -> None:
    """Remove the buffers with the numbers below `count`, as far as they are there."""
    for number in range(count):
        unlink_if_there(conversion.buffer(number))


def finish_file(conversion: Conversion, cube: Vec3, lengths: bytes | None) -> int:
    """Finish a cube file whose blocks are in their places, and sync it; or remove it.

    :param lengths: of all its blocks, as int32; empty for a raw file; None: all blocks are zero
    :return: the length of the file in bytes; 0 if there is none
    :raises DataLoss: the file cannot be written, or is not as long as its blocks
    :raises DiskFull: there is no space
    """
    path, own = conversion.file(cube), conversion.header.of_cube_file()
    if lengths is None:
        unlink_if_there(path)
        return 0
    with _opened(path, os.O_WRONLY) as fd:
        size = os.fstat(fd).st_size
        if own.block_type.is_compressed:
            ends = own.data_offset + np.cumsum(np.frombuffer(lengths, dtype=np.int32), dtype=np.int64)
            if len(ends) != own.blocks_per_file or ends[-1] > size:
                raise damaged(path, f"it has {size} bytes, its {len(ends)} blocks end at byte {ends[-1]}")
            if ends[-1] < size:
                # An attempt that was killed made the last part when the source had other blocks.
                size = int(ends[-1])
                with os_errors_of(path):
                    os.ftruncate(fd, size)
            write_all(fd, ends.astype("<u8").data, HEADER_BYTES, path)
        write_all(fd, own.to_bytes(), 0, path)
        sync_file(fd, path)
    return size


def splice(conversion: Conversion, cube: Vec3, changed: IntArray) -> Made:
    """Put the present blocks of the source into a cube file of the target, and sync it.

    :param changed: which blocks, ascending. The others stay; they are zero if there is no cube file
    :return: what became of these blocks; the size is that of the cube file
    :raises DataLoss: a file is damaged, or cannot be read or written
    :raises DiskFull: there is no space
    """
    header, path = conversion.header, conversion.file(cube)
    _make_folders(path)
    stretches = [(int(changed[start]), int(changed[end - 1]) + 1) for start, end in runs(changed, len(changed))]
    with conversion.blocks_of(cube) as source:
        if not header.block_type.is_compressed:
            made = Made(BlockCounts())
            with _opened_raw(path, header) as fd:
                for first, last in stretches:
                    made.add(write_raw(source.runs(first, last), fd, header, first, path, keep_holes=False))
                write_all(fd, header.of_cube_file().to_bytes(), 0, path)
                sync_file(fd, path)
            made.size_bytes = header.raw_file_bytes
            return made
        old = OpenCubeFile.open(path) if os.path.lexists(path) else None
        try:
            temporary = conversion.temporary(cube, "spliced")
            with _created(temporary) as fd:
                made = _splice_compressed(conversion, source, old, fd, temporary, stretches)
                sync_file(fd, temporary)
        finally:
            if old is not None:
                old.close()
    with os_errors_of(path):
        os.rename(temporary, path)
    return made


def _splice_compressed(
    conversion: Conversion,
    source: BlockSource,
    old: OpenCubeFile | None,
    fd: int,
    path: str,
    stretches: list[tuple[int, int]],
) -> Made:
    header, encoder = conversion.header, conversion.encoder()
    writer = CompressedFileWriter(fd, header, path)
    table = JumpTable(old) if old is not None else None
    zeros = BlockEncoder(conversion.level, header.block_bytes)  # its own: those were not changed
    made = Made(encoder.counts)

    def append(pieces: Pieces, times: int) -> None:
        writer.append(b"".join(pieces), times)

    done = 0
    for first, last in [*stretches, (header.blocks_per_file, header.blocks_per_file)]:
        if done < first:
            if old is not None and table is not None:
                writer.copy(old, table, done, first)
            else:
                writer.append(zeros.encode_zeros(first - done), first - done)
        if first < last:
            made.add(encode(source.runs(first, last), encoder, append))
        done = last
    made.blocks = encoder.counts
    made.size_bytes = writer.finish()
    return made


@dataclass(frozen=True, slots=True)
class Sample:
    """Blocks that were encoded to see what comes of it."""

    data_bytes: int
    """Of the blocks that are not zero, before..."""
    stored_data_bytes: int
    """...and after."""


def sample(conversion: Conversion, cube: Vec3, count: int) -> Sample:
    """Encode some blocks of a cube file, spread evenly over it. Nothing is written.

    :raises DataLoss: the source is damaged, or cannot be read
    """
    total = conversion.header.blocks_per_file
    encoder = conversion.encoder()
    sampled = Made(BlockCounts())
    with conversion.blocks_of(cube) as source:
        for index in np.unique(np.linspace(0, total, count, endpoint=False, dtype=np.int64)).tolist():
            sampled.add(encode(source.runs(index, index + 1), encoder, lambda *_: None))
    return Sample(sampled.data_bytes, sampled.stored_data_bytes)


def _make_folders(path: str) -> None:
    with os_errors_of(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    with os_errors_of(path):
        fd = os.open(path, flags | OPEN_FLAGS, 0o666)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _created(path: str) -> Iterator[int]:
    """An empty file, open for writing. What an attempt before left there is gone; so is the file after an error."""
    try:
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
            yield fd
    except BaseException:
        unlink_if_there(path)
        raise


@contextmanager
def _opened_raw(path: str, header: Header) -> Iterator[int]:
    """A raw cube file of the right length, open for writing. Its header is not written yet if it is new."""
    with _opened(path, os.O_WRONLY | os.O_CREAT) as fd:
        with os_errors_of(path):
            os.ftruncate(fd, header.raw_file_bytes)
        yield fd


def block_type_of(level: CompressionLevel) -> BlockType:
    """What header.wkw says of a mag that is compressed with this effort; later writes spend as much."""
    return BlockType.LZ4 if level == "fast" else BlockType.LZ4HC
