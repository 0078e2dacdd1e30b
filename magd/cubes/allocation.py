"""Having the file system find space for what will be written, before it is.

To find space page by page, as a file grows, takes the kernel more time than to copy the data: a MiB takes 0.19 ms of
the processor, and 0.11 ms where the space is there. A large box is known before its first byte is written. So:

1. Of a side file all of its bytes are asked for, of a cube file the blocks that lie wholly in the box, where many of
   them follow each other. What else the file does not have stays a hole.
2. Until it is written, such space reads as zeros and is a hole to who asks for holes. The length of the file stays.
3. A file system that cannot do it, or a box in small pieces: nothing is asked for, and space is found as it is needed.
   But that there is not so much space is an error, at once and not at the last byte.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final

import numpy as np

from magd.cubes.layout import morton_index
from magd.errors import from_os_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.cubes.cube_file import OpenCubeFile
    from magd.cubes.header import Header
    from magd.geometry import Box

LEAST_BYTES: Final = 1 << 20
"""For less the call is not worth it, and a file would come to lie in small pieces on the disk."""
MOST_BLOCKS: Final = 1 << 16
"""Boxes of more blocks are of small ones, and it takes long to find out which of them follow each other."""

_KEEP_SIZE: Final = 1  # from linux/falloc.h
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def allocate(fd: int, offset: int, size: int, file: str) -> None:
    """Find space for a part of a file, if it is large.

    :param file: its name, for errors
    :raises DiskFull: there is none; some of it may have been taken
    """
    if _fallocate is None or size < LEAST_BYTES:
        return
    # libc has a function that makes good for a file system that cannot do it, by writing zeros. This one does not.
    if _fallocate(fd, _KEEP_SIZE, offset, size) != 0 and (number := ctypes.get_errno()) in _NO_SPACE:
        raise from_os_error(OSError(number, os.strerror(number)), file)


def allocate_blocks(file: OpenCubeFile, box: Box) -> None:
    """Find space for the blocks that lie wholly in a box, in a raw cube file that is open for writing.

    :param box: lies in the cube file; in voxels from the first of the cube file
    :raises DiskFull: there is none; some of it may have been taken
    """
    header = file.header
    for first, count in _runs(header, box):
        allocate(file.fd, header.data_offset + first * header.block_bytes, count * header.block_bytes, file.path)


def _runs(header: Header, box: Box) -> Iterator[tuple[int, int]]:
    """Blocks that lie wholly in a box and follow each other in the file.

    :return: the index of the first one, and how many they are
    """
    length = header.block_len
    x, y, z = (np.arange(-(-start // length), end // length) for start, end in zip(box.offset, box.end, strict=True))
    if not 0 < x.size * y.size * z.size <= MOST_BLOCKS:
        return
    indices = np.sort(morton_index(x, y[:, np.newaxis], z[:, np.newaxis, np.newaxis]), axis=None)
    starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
    counts = np.diff(starts, append=indices.size)
    yield from zip(indices[starts].tolist(), counts.tolist(), strict=True)


def _find() -> ctypes._NamedFuncPointer | None:
    function: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


_fallocate: Final = _find()
