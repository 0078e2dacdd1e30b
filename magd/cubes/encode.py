"""Compressing and decompressing single blocks, and how much effort is spent on which.

LZ4 readers do not care how a block was compressed, so the choice is made block by block:

1. A block of zeros is encoded once and remembered. Where a block is compressed with LZ4's default anyway, zeros are
   known by what comes of it, else by a look at all of it.
2. `fast` uses LZ4's default, 3 to 12 LZ4HC of that level.
3. `auto` probes a block with LZ4's default. Where that saves less than 2 %, as in raw images of electron
   microscopy, LZ4HC would take fifty times as long to save hardly more: the block is stored. All others are compressed
   again by LZ4HC.
4. A block is also stored where compressing made it longer. Stored means an LZ4 block of literals only: the bytes as
   they are, after their number. To write and to read it is to copy it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import lz4.block

from magd.cubes.header import BlockType, damaged
from magd.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CompressionLevel: TypeAlias = Literal["auto", "fast"] | int
"""`"auto"`, `"fast"`, or the level of LZ4HC, 3 to 12."""

Pieces: TypeAlias = tuple[bytes] | tuple[bytes, memoryview]
"""An LZ4 block, in pieces that follow each other."""

AUTO_HC_LEVEL: Final = 10
"""On segmentation, 10 reaches 98 % of the ratio of 9 at five times its speed; 11 and 12 are far slower, and 5 takes as
long as 10 to reach 83 %."""
AUTO_LEAST_SAVING: Final = 0.02
HC_LEVELS: Final = range(3, 13)


def check_level(level: CompressionLevel) -> None:
    """Refuse what is no level.

    :raises InvalidRequest: it is none of "auto", "fast", 3 to 12
    """
    known = level in ("auto", "fast") if isinstance(level, str) else level in HC_LEVELS
    if not known or isinstance(level, bool):
        raise InvalidRequest(
            f"level {level!r} is none of 'auto', 'fast' and {HC_LEVELS.start} to {HC_LEVELS.stop - 1}",
            metadata={"field": "level", "value": level},
        )


def default_level(block_type: BlockType) -> CompressionLevel:
    """The effort for blocks that are written into a mag of this type."""
    return "fast" if block_type is BlockType.LZ4 else "auto"


@dataclass(slots=True)
class BlockCounts:
    """How many blocks went which way."""

    zero: int = 0
    stored: int = 0
    fast: int = 0
    high: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.zero + self.stored + self.fast + self.high

    def __add__(self, other: BlockCounts) -> BlockCounts:
        return BlockCounts(
            self.zero + other.zero, self.stored + other.stored, self.fast + other.fast, self.high + other.high
        )


class BlockEncoder:
    """Compresses blocks of one size and counts them. For one thread.

    :param block_bytes: of a block that is not compressed
    :raises InvalidRequest: there is no such level
    """

    def __init__(self, level: CompressionLevel, block_bytes: int) -> None:
        check_level(level)
        self._level: Final = level
        self.zero_block: Final[bytes] = _fast(bytes(block_bytes))
        self._before_literals: Final = _start_of_literals(block_bytes)
        self._worth_more: Final = block_bytes * (1 - AUTO_LEAST_SAVING)
        self.counts: Final = BlockCounts()

    def encode_zeros(self, blocks: int) -> bytes:
        """Count so many blocks of zeros.

        :return: one of them as an LZ4 block
        """
        self.counts.zero += blocks
        return self.zero_block

    def encode(self, block: npt.NDArray[np.uint8]) -> bytes:
        """Compress one block.

        :param block: its bytes, C order
        :return: an LZ4 block
        """
        pieces = self.encode_pieces(block)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def encode_pieces(self, block: npt.NDArray[np.uint8]) -> Pieces:
        """Compress one block. What is stored is not copied.

        :param block: its bytes, C order
        :return: an LZ4 block
        """
        if self._level == "auto" or self._level == "fast":
            encoded = _fast(block)
            if encoded == self.zero_block:
                return (self.encode_zeros(1),)
            if self._level == "fast":
                return self._shorter(block, encoded, is_high=False)
            if len(encoded) > self._worth_more:
                return self._store(block)
            self.counts.high += 1
            return (min(_high(block, AUTO_HC_LEVEL), encoded, key=len),)
        if not block.any():
            return (self.encode_zeros(1),)
        return self._shorter(block, _high(block, self._level), is_high=True)

    def _shorter(self, block: npt.NDArray[np.uint8], encoded: bytes, *, is_high: bool) -> Pieces:
        if len(encoded) >= block.nbytes:
            return self._store(block)
        if is_high:
            self.counts.high += 1
        else:
            self.counts.fast += 1
        return (encoded,)

    def _store(self, block: npt.NDArray[np.uint8]) -> Pieces:
        self.counts.stored += 1
        return self._before_literals, block.data


def decode(encoded: bytes | bytearray | memoryview, block_bytes: int, index: int, file: str) -> bytes:
    """Decompress one block.

    :param index: which block of the file, for errors
    :raises DataLoss: it is no LZ4 block, or not one of `block_bytes` bytes
    """
    try:
        block: bytes = lz4.block.decompress(encoded, uncompressed_size=block_bytes)
    except lz4.block.LZ4BlockError as error:
        raise damaged(file, f"block {index} cannot be decompressed: {error}") from error
    if len(block) != block_bytes:
        raise damaged(file, f"block {index} has {len(block)} bytes instead of {block_bytes}")
    return block


def largest_encoded(block_bytes: int) -> int:
    """The most bytes that an LZ4 block of so many bytes takes."""
    return block_bytes + block_bytes // 255 + 16


def _fast(block: bytes | npt.NDArray[np.uint8]) -> bytes:
    encoded: bytes = lz4.block.compress(block, store_size=False)
    return encoded


def _high(block: npt.NDArray[np.uint8], level: int) -> bytes:
    encoded: bytes = lz4.block.compress(block, mode="high_compression", compression=level, store_size=False)
    return encoded


def _start_of_literals(size: int) -> bytes:
    """What comes before the bytes of an LZ4 block that is nothing but `size` literals: a token with their number in its
    upper half; from 15 on, the rest of the number in bytes that are added up, the last one below 255."""
    if size < 15:
        return bytes([size << 4])
    full, rest = divmod(size - 15, 255)
    return b"\xf0" + b"\xff" * full + bytes([rest])
