"""Decompressing blocks from memory into memory.

The `lz4` package makes an object of its own of each block, from which it has to be copied. What it calls itself,
LZ4_decompress_safe of the C library that it brings or links to, decompresses to where a block is wanted: it is looked
for where the package has it. Should a build of the package hide it, the package is asked, and the block copied.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from lz4.block import _block

from magd.cubes.encode import decode
from magd.cubes.header import damaged

if TYPE_CHECKING:
    from collections.abc import Callable


def find_in_place() -> Callable[[int, int, int, int], int] | None:
    """LZ4_decompress_safe: addresses of source and target, bytes of the source, most bytes of the target; gives the
    bytes of the target, or a negative number where the source is wrong. It lets go of Python's lock."""
    try:
        function = ctypes.CDLL(_block.__file__).LZ4_decompress_safe
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    function.restype = ctypes.c_int
    return function


_in_place: Final = find_in_place()


def decode_at(source: int, size: int, target: int, block_bytes: int, index: int, file: str) -> None:
    """Decompress one block.

    :param source: address of the LZ4 block
    :param size: its bytes
    :param target: address of `block_bytes` bytes
    :param index: which block of the file, for errors
    :raises DataLoss: it is no LZ4 block, or not one of `block_bytes` bytes
    """
    if _in_place is None:
        ctypes.memmove(target, decode(ctypes.string_at(source, size), block_bytes, index, file), block_bytes)
        return
    made = _in_place(source, target, size, block_bytes)
    if made < 0:
        raise damaged(file, f"block {index} cannot be decompressed: it is no LZ4 block of {block_bytes} bytes")
    if made != block_bytes:
        raise damaged(file, f"block {index} has {made} bytes instead of {block_bytes}")
