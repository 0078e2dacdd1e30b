"""LZ4 for the parts in which boxes travel.

Segmentation shrinks some 17 to 48 times, raw images hardly at all, and how a box is cut into parts tells nothing of
either. So whoever sends tries, part by part:

1. A part is compressed by the fast encoder. If that saves less than a quarter, it is sent as it is.
2. After a part that did not pay the next one is not tried, after the second in a row the next two, then four, up to 16:
   a box that does not shrink costs little time, and one whose voxels change on the way is noticed.

Which parts are compressed, and their size before, is said with each part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import lz4.block

if TYPE_CHECKING:
    from typing import TypeAlias

    Bytes: TypeAlias = bytes | memoryview

LEAST_SAVING: Final = 0.25
MOST_SKIPPED: Final = 16


class PartEncoder:
    """Encodes the parts of one box, in order."""

    def __init__(self) -> None:
        self._skip = 0
        self._next_skip = 1

    def encode(self, part: Bytes) -> tuple[Bytes, int]:
        """Encode a part if it pays.

        :return: what to send, and the size of the part before it was encoded; 0 if it was not
        """
        if not part:
            return part, 0
        if self._skip:
            self._skip -= 1
            return part, 0
        encoded: bytes = lz4.block.compress(part, store_size=False)
        if len(encoded) > len(part) * (1 - LEAST_SAVING):
            self._skip, self._next_skip = self._next_skip, min(MOST_SKIPPED, 2 * self._next_skip)
            return part, 0
        self._next_skip = 1
        return encoded, len(part)


def decode(data: Bytes, size: int) -> bytes:
    """The part that was encoded.

    :param size: what it must have
    :raises ValueError: this is no LZ4 block of that size
    """
    try:
        part: bytes = lz4.block.decompress(data, uncompressed_size=size)
    except lz4.block.LZ4BlockError as error:
        raise ValueError(f"{len(data)} bytes are no LZ4 block: {error}") from error
    if len(part) != size:
        raise ValueError(f"the LZ4 block has {len(part)} bytes, not {size}")
    return part
