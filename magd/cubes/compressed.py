"""Reading parts of one compressed cube file, and writing compressed cube files.

After the header lies the jump table: for each block in Morton order the absolute position at which it ends
(u64). The first block starts at data_offset, each other one where the one before ends. Each is an LZ4 block
without a frame.

A compressed cube file cannot be patched in place: blocks have no room to grow. To change some of its blocks,
a new one is written, in which only these are compressed again; the bytes of all others are copied as they
are. So one rewrite takes the voxels of as many boxes as there are. `rewrite`:

1. Take the jump table of the old file, and refuse it if it is not sound. Where there is no old file, the
   other blocks are zero.
2. Go through the blocks in Morton order. Runs of unchanged ones are copied inside the kernel, so that their
   bytes never enter this process. Each changed one is decoded first if no box covers it, takes the voxels of
   the boxes in their order, and is encoded and appended. Several threads decode and encode.
3. Now the lengths are known: write the jump table, and the header last. A file that was not finished has
   none.

What is written has a temporary name; to sync it and to rename it over the old one is the caller's.
"""

from __future__ import annotations

from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from magd.cubes import scratch
from magd.cubes.block_copy import BlockCopy
from magd.cubes.decode import decode_all
from magd.cubes.encode import BlockEncoder, decode, default_level, largest_encoded
from magd.cubes.exact_io import copy_range, read_exactly, read_into, read_pieces, write_all
from magd.cubes.header import HEADER_BYTES, Header, damaged
from magd.cubes.parallel import map_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.cubes.box_copy import BoxCopy
    from magd.cubes.box_plan import Decoded, Group
    from magd.cubes.cube_file import OpenCubeFile
    from magd.cubes.handles import Handle
    from magd.cubes.layout import IntArray

RUN_BYTES: Final = 1 << 19
"""What is collected before it is written, and about what one system call reads."""
GAP_BYTES: Final = 1 << 16
"""Blocks that are not needed are read with their neighbours if they take no more: a system call takes longer."""
BATCH_BYTES: Final = 4 << 20
"""What is encoded at a time, by several threads, before it is written."""

Touched: TypeAlias = tuple[int, list[tuple[BlockCopy, int]]]
"""A block, and what lies over it: boxes, and the position of the block in each."""


class JumpTable:
    """Where a stretch of blocks of a compressed cube file lies.

    :param first, last: the blocks from `first` up to, without, `last`; default: all
    :param strict: refuse a table with an entry that cannot be right; else `check` does, for the blocks that are needed
    :raises DataLoss: the table cannot be read, or (`strict`) cannot be right: not ascending, beyond the end of the
        file, a block too long or empty
    """

    def __init__(self, file: OpenCubeFile, first: int = 0, last: int | None = None, *, strict: bool = True) -> None:
        header = file.header
        if last is None:
            last = header.blocks_per_file
        # The start of the first block is the end of the one before.
        skipped = max(first - 1, 0)
        data = read_exactly(file.fd, 8 * (last - skipped), HEADER_BYTES + 8 * skipped, file.path)
        ends = np.frombuffer(data, dtype="<u8")
        # A position beyond int64 becomes negative, and so is not ascending.
        self._file: Final = file
        self._first: Final = first
        self._borders: Final[IntArray] = np.empty(last - first + 1, dtype=np.int64)
        self._borders[0] = header.data_offset if first == 0 else ends[0].astype(np.int64)
        self._borders[1:] = ends[first - skipped :].astype(np.int64)

        lengths = np.diff(self._borders)
        self._bad: Final[IntArray] = np.flatnonzero(
            (lengths <= 0)
            | (lengths > largest_encoded(header.block_bytes))
            | (self._borders[:-1] < header.data_offset)
            | (self._borders[1:] > file.size_bytes)
        )
        if strict:
            self.check(first, last)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self._borders.nbytes

    def check(self, first: int, last: int) -> None:
        """Make sure that the blocks from `first` up to, without, `last` can be where they are said to be.

        :raises DataLoss: they cannot
        """
        if not len(self._bad):
            return
        bad = self._bad[(self._bad >= first - self._first) & (self._bad < last - self._first)]
        if len(bad):
            at = int(bad[0])
            raise damaged(
                self._file.path,
                f"its jump table says that block {self._first + at} lies from byte {self._borders[at]} to "
                f"byte {self._borders[at + 1]}; the first starts at {self._file.header.data_offset}, "
                f"the file ends at {self._file.size_bytes}",
            )

    def start(self, index: int) -> int:
        """Where a block starts."""
        return int(self._borders[index - self._first])

    def end(self, index: int) -> int:
        """Where a block ends."""
        return int(self._borders[index - self._first + 1])

    def borders(self, first: int, last: int) -> list[int]:
        """Where the blocks from `first` up to, without, `last` start, and where the last one ends."""
        borders: list[int] = self._borders[first - self._first : last - self._first + 1].tolist()
        return borders

    def places(self, first: int, blocks: Sequence[Decoded]) -> tuple[list[int], list[int]]:
        """Where blocks start, and where they end.

        :param blocks: their indices are counted from `first`
        """
        borders = self._borders.data[first - self._first :]
        return [borders[at] for at, _, _ in blocks], [borders[at + 1] for at, _, _ in blocks]

    def lengths(self, first: int, last: int) -> IntArray:
        """The bytes of the blocks from `first` up to, without, `last`."""
        lengths: IntArray = np.diff(self._borders[first - self._first : last - self._first + 1])
        return lengths


def read_blocks(handle: Handle, copy: BoxCopy) -> None:
    """Fill the box of `copy` from a compressed cube file. Only blocks that the box touches are decoded.

    :raises DataLoss: the file cannot be read, or its jump table or one of these blocks is damaged
    """
    # By this thread only: several would wait for each other, since each block takes Python's lock again.
    for group in copy.groups("decode"):
        blocks = copy.in_box(group)
        if blocks is not None:
            _decode_group(handle, group, scratch.address_of(blocks))
            continue
        memory = scratch.take(group.moves.memory_bytes)
        _decode_group(handle, group, memory.address)
        copy.to_box(group, memory.array)
        scratch.give_back(memory)


def _decode_group(handle: Handle, group: Group, target: int) -> None:
    file, first, decoded = handle.file, group.first, group.moves.decoded
    block_bytes = file.header.block_bytes
    starts, ends = handle.table(first, first + decoded[-1].number + 1).places(first, decoded)
    stretches = _stretches(starts, ends)
    memory = scratch.take(max([ends[last - 1] - starts[begin] for begin, last in stretches]))
    encoded = memory.array.data
    for begin, last in stretches:
        start, end = starts[begin], ends[last - 1]
        read_pieces(file.fd, encoded, ((0, end - start),), start, end - start, file.path)
        blocks = zip(starts[begin:last], ends[begin:last], decoded[begin:last], strict=True)
        decode_all(blocks, memory.address - start, target, block_bytes, file.path, first)
    scratch.give_back(memory)


def _stretches(starts: list[int], ends: list[int]) -> list[tuple[int, int]]:
    """Which blocks are read by one system call: with small gaps between them, which are read too.

    :param starts, ends: where the blocks lie in the file, ascending
    :return: [start, end) positions in these lists
    """
    stretches = []
    first = 0
    for at in range(1, len(starts)):
        if starts[at] - ends[at - 1] > GAP_BYTES or ends[at] - starts[first] > scratch.KEPT_BYTES:
            stretches.append((first, at))
            first = at
    stretches.append((first, len(starts)))
    return stretches


def read_run(file: OpenCubeFile, table: JumpTable, first: int, last: int) -> list[bytes]:
    """Read and decode blocks that follow each other, in one system call.

    :param first, last: the blocks from `first` up to, without, `last`
    :raises DataLoss: they cannot be read, or one is damaged
    """
    borders = table.borders(first, last)
    start, block_bytes = borders[0], file.header.block_bytes
    memory = scratch.take(borders[-1] - start)
    encoded = memory.array[: borders[-1] - start].data
    read_into(file.fd, encoded, start, file.path)
    blocks = [
        decode(encoded[begin - start : end - start], block_bytes, index, file.path)
        for index, (begin, end) in enumerate(pairwise(borders), start=first)
    ]
    scratch.give_back(memory)
    return blocks


class CompressedFileWriter:
    """Writes a new compressed cube file, block after block in Morton order.

    :param fd: an empty file, open for writing
    :param header: with the layout and the (compressed) block type
    :param path: for errors
    """

    def __init__(self, fd: int, header: Header, path: str) -> None:
        self._fd: Final = fd
        self._header: Final = header.of_cube_file()
        self._path: Final = path
        self._ends: Final[IntArray] = np.zeros(header.blocks_per_file, dtype=np.int64)
        self._count = 0
        self._written = self._end = self._header.data_offset
        self._waiting = bytearray()

    def append(self, encoded: bytes, times: int = 1) -> None:
        """Append a block, or the same block several times.

        :raises DiskFull, DataLoss: it cannot be written
        """
        self._note(np.full(times, len(encoded), dtype=np.int64))
        at_once = max(1, RUN_BYTES // len(encoded))
        for done in range(0, times, at_once):
            self._waiting += encoded * min(times - done, at_once)
            if len(self._waiting) >= RUN_BYTES:
                self._write_waiting()

    def copy(self, source: OpenCubeFile, table: JumpTable, first: int, last: int) -> None:
        """Append the blocks of another cube file from `first` up to, without, `last`, as they are.

        :raises DiskFull, DataLoss: they cannot be read or written
        """
        self._write_waiting()
        start, size = table.start(first), table.end(last - 1) - table.start(first)
        copy_range(source.fd, start, self._fd, self._written, size, source_file=source.path, target_file=self._path)
        self._note(table.lengths(first, last))
        self._written += size

    def finish(self) -> int:
        """Write the jump table and the header, after all blocks.

        :return: the length of the file in bytes
        :raises DiskFull, DataLoss: it cannot be written
        """
        self._write_waiting()
        write_all(self._fd, self._ends.astype("<u8").data, HEADER_BYTES, self._path)
        write_all(self._fd, self._header.to_bytes(), 0, self._path)
        return self._written

    def _note(self, lengths: IntArray) -> None:
        """Note the lengths of the next blocks."""
        self._ends[self._count : self._count + len(lengths)] = self._end + np.cumsum(lengths)
        self._count += len(lengths)
        self._end += int(lengths.sum())

    def _write_waiting(self) -> None:
        write_all(self._fd, self._waiting, self._written, self._path)
        self._written += len(self._waiting)
        self._waiting = bytearray()


def rewrite(
    old: Handle | None,
    target: int,
    header: Header,
    copies: Sequence[BlockCopy],
    *,
    target_file: str,
) -> int:
    """Write a compressed cube file that has the voxels of some boxes, and else those of an old one.

    :param old: a compressed cube file; None: all other voxels are zero
    :param target: an empty file, open for writing
    :param header: of the mag
    :param copies: the boxes; later ones lie over earlier ones
    :return: the length of the new file in bytes
    :raises DataLoss: the old file is damaged, or one of the files cannot be read or written
    :raises DiskFull: there is no space for the new one
    """
    table = old.table(0, header.blocks_per_file) if old is not None else None
    writer = CompressedFileWriter(target, header, target_file)
    # One for each thread that encodes, as many as there come to be.
    encoders = [BlockEncoder(default_level(header.block_type), header.block_bytes)]
    zeros = encoders[0].encode_zeros(1)

    def keep(first: int, last: int) -> None:
        if first == last:
            return
        if old is not None and table is not None:
            writer.copy(old.file, table, first, last)
        else:
            writer.append(zeros, last - first)

    def changed(touched: Touched) -> bytes:
        index, layers = touched
        block = copies[0].buffer(1)
        if not layers[0][0].is_whole[layers[0][1]]:
            if old is not None and table is not None:
                block[...] = copies[0].as_blocks(read_run(old.file, table, index, index + 1)[0])
            else:
                block[...] = 0
        for copy, position in layers:
            copy.from_box(position, block)
        try:
            encoder = encoders.pop()
        except IndexError:
            encoder = BlockEncoder(default_level(header.block_type), header.block_bytes)
        encoded = encoder.encode(block.reshape(-1))
        encoders.append(encoder)
        return encoded

    done = 0
    blocks = touched_blocks(copies)
    at_once = max(1, BATCH_BYTES // header.block_bytes)
    for start in range(0, len(blocks), at_once):
        batch = blocks[start : start + at_once]
        encoded = map_all(changed, batch, worth=len(batch) * header.block_bytes)
        for (index, _), new in zip(batch, encoded, strict=True):
            keep(done, index)
            writer.append(new)
            done = index + 1
    keep(done, header.blocks_per_file)
    return writer.finish()


def touched_blocks(copies: Sequence[BlockCopy]) -> list[Touched]:
    """The blocks that some boxes touch in one cube file, in Morton order.

    :param copies: later ones lie over earlier ones
    :return: for each block, which copies touch it and at which of their positions, in their order. What lies wholly
        below a later one is left out
    """
    layers: dict[int, list[tuple[BlockCopy, int]]] = {}
    for copy in copies:
        for position, index in enumerate(copy.index.tolist()):
            if copy.is_whole[position]:
                layers[index] = [(copy, position)]
            else:
                layers.setdefault(index, []).append((copy, position))
    return sorted(layers.items(), key=itemgetter(0))
