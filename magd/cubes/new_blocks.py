"""Blocks on their way into a cube file that is being made: encoded or raw, counted, written one after the other."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import groupby, repeat
from typing import TYPE_CHECKING, Final

import numpy as np

from magd.cubes.compressed import RUN_BYTES
from magd.cubes.encode import BlockCounts, BlockEncoder, Pieces
from magd.cubes.exact_io import write_all
from magd.cubes.header import HEADER_BYTES, Header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from magd.cubes.block_source import Run


@dataclass(slots=True)
class Made:
    """Blocks that were made."""

    blocks: BlockCounts
    """What became of them. In a raw file all that are not zero are stored."""
    data_bytes: int = 0
    """Of the blocks that are not zero, before..."""
    stored_data_bytes: int = 0
    """...and after."""
    size_bytes: int = 0
    """Of the cube file or the part; 0 if there is none."""
    lengths: bytes = b""
    """Of a part with encoded blocks: the length of each, as int32."""

    @property
    def is_zero(self) -> bool:
        """Whether all blocks are zero."""
        return self.blocks.zero == self.blocks.total

    def add(self, made: Made) -> None:
        """Count other blocks too, but for what they take in a file."""
        if made.blocks is not self.blocks:
            self.blocks += made.blocks
        self.data_bytes += made.data_bytes
        self.stored_data_bytes += made.stored_data_bytes


def encode(blocks: Iterator[Run], encoder: BlockEncoder, append: Callable[[Pieces, int], object]) -> Made:
    """Encode blocks.

    :param append: takes each one, and how often it follows
    :raises DataLoss: the source is damaged, or cannot be read
    """
    made = Made(encoder.counts)
    for run in blocks:
        if run.data is None:
            append((encoder.encode_zeros(run.count),), run.count)
            continue
        for block in run.data:
            pieces = encoder.encode_pieces(block)
            append(pieces, 1)
            if pieces[0] is not encoder.zero_block:
                made.data_bytes += block.nbytes
                made.stored_data_bytes += sum(map(len, pieces))
    return made


def encode_part(blocks: Iterator[Run], encoder: BlockEncoder, fd: int, offset: int, path: str) -> Made:
    """Encode blocks, and write them one after the other.

    :param offset: where the first one begins
    :param path: for messages
    :raises DataLoss: the source is damaged, or a file cannot be read or written
    :raises DiskFull: there is no space
    """
    part = _PartWriter(fd, offset, path)
    made = encode(blocks, encoder, part.append)
    made.size_bytes, made.lengths = part.finish()
    return made


def write_raw(blocks: Iterator[Run], fd: int, header: Header, first: int, path: str, *, keep_holes: bool) -> Made:
    """Write blocks to their places in a raw cube file.

    :param header: of the mag
    :param first: which block of the file comes first
    :param path: for messages
    :param keep_holes: the file is new: blocks of zeros need not be written
    :raises DataLoss: the source is damaged, or a file cannot be read or written
    :raises DiskFull: there is no space
    """
    made = Made(BlockCounts(), size_bytes=header.raw_file_bytes)

    def write(data: np.ndarray[tuple[int, int], np.dtype[np.uint8]], index: int) -> None:
        write_all(fd, data.data, HEADER_BYTES + index * header.block_bytes, path)

    for run in blocks:
        if run.data is None:
            made.blocks.zero += run.count
            if not keep_holes:
                zeros = np.zeros((1, header.block_bytes), dtype=np.uint8)
                for index in range(first, first + run.count):
                    write(zeros, index)
            first += run.count
            continue
        at = 0
        for is_data, group in groupby(bool(block.any()) for block in run.data):
            end = at + sum(1 for _ in group)
            if is_data or not keep_holes:
                write(run.data[at:end], first + at)
            if is_data:
                made.blocks.stored += end - at
                made.data_bytes += (end - at) * header.block_bytes
            else:
                made.blocks.zero += end - at
            at = end
        first += run.count
    made.stored_data_bytes = made.data_bytes
    return made


class _PartWriter:
    """Writes encoded blocks one after the other, and notes their lengths.

    :param offset: where the first one begins
    """

    def __init__(self, fd: int, offset: int, path: str) -> None:
        self._fd: Final = fd
        self._offset: Final = offset
        self._path: Final = path
        self._waiting = bytearray()
        self._written = 0
        self._lengths: Final = array("i")

    def append(self, pieces: Pieces, times: int) -> None:
        """Append a block, or the same block several times."""
        length = sum(map(len, pieces))
        self._lengths.extend(repeat(length, times))
        for _ in range(times):
            for piece in pieces:
                self._waiting += piece
            if len(self._waiting) >= RUN_BYTES:
                self._write_waiting()

    def finish(self) -> tuple[int, bytes]:
        """Write what waits.

        :return: the length of the part, and the lengths of all blocks, as int32
        """
        self._write_waiting()
        return self._written, self._lengths.tobytes()

    def _write_waiting(self) -> None:
        write_all(self._fd, self._waiting, self._offset + self._written, self._path)
        self._written += len(self._waiting)
        self._waiting = bytearray()
