"""Decompressing blocks from memory into memory.

The `lz4` package makes an object of its own of each block, from which it has to be copied. What it calls itself,
LZ4_decompress_safe of the C library that it brings or links to, decompresses to where a block is wanted: it is looked
for where the package has it. So is its sister that stops where no more is wanted. Should a build of the package hide
them, the package is asked, and the block copied.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final, NamedTuple

from lz4.block import _block

from magd.cubes.encode import decode
from magd.cubes.header import damaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from magd.cubes.box_plan import Decoded


class InPlace(NamedTuple):
    """Functions of the C library. They let go of Python's lock, and give the bytes that they made, or a negative number
    where the source is wrong.

    :ivar whole: LZ4_decompress_safe: addresses of source and target, bytes of the source, most bytes of the target
    :ivar start: LZ4_decompress_safe_partial: the same, and before the last how many bytes are wanted
    """

    whole: Callable[[int, int, int, int], int]
    start: Callable[[int, int, int, int, int], int]


def find_in_place() -> InPlace | None:
    """The functions, where the package shows them."""
    try:
        library = ctypes.CDLL(_block.__file__)
        whole, start = library.LZ4_decompress_safe, library.LZ4_decompress_safe_partial
    except (OSError, AttributeError):
        return None
    whole.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    start.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int)
    whole.restype = start.restype = ctypes.c_int
    return InPlace(whole, start)


_in_place: Final = find_in_place()


def decode_all(
    blocks: Iterable[tuple[int, int, Decoded]], source: int, target: int, block_bytes: int, file: str, first: int
) -> None:
    """Decompress blocks.

    :param blocks: where each starts and ends, in bytes from `source` on; and where it goes, from `target` on
    :param source, target: addresses
    :param block_bytes: of a block that is not compressed; the target has room for so many, also where less is wanted
    :param first: the block in the file that indices are counted from, for errors
    :raises DataLoss: one is no LZ4 block, or has less than is wanted; or not `block_bytes` bytes, if all of it is
    """
    if _in_place is None:
        for start, end, (number, place, wanted) in blocks:
            block = decode(ctypes.string_at(source + start, end - start), block_bytes, first + number, file)
            ctypes.memmove(target + place, block, wanted)
        return
    decode_whole, decode_start = _in_place
    for start, end, (number, place, wanted) in blocks:
        if wanted == block_bytes:
            made = decode_whole(source + start, target + place, end - start, block_bytes)
        else:
            made = decode_start(source + start, target + place, end - start, wanted, block_bytes)
        if made != wanted:
            about = f"block {first + number}"
            if made < 0:
                raise damaged(file, f"{about} cannot be decompressed: it is no LZ4 block of {block_bytes} bytes")
            raise damaged(file, f"{about} has {made} bytes instead of {block_bytes}")
