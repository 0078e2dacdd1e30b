"""Reading and writing exactly as many bytes as asked for.

One system call may move fewer bytes than it was asked to (never more than 2 GiB - 4 KiB), so each function
loops until all of them are there. Positions are explicit, so that threads can share a descriptor. A file that
ends too early is damage, never zeros.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final, TypeAlias

from magd.cubes.header import damaged
from magd.errors import from_os_error

if TYPE_CHECKING:
    from collections.abc import Sequence

Bytes: TypeAlias = bytes | bytearray | memoryview
"""Anything that lies in memory without gaps."""

Pieces: TypeAlias = tuple[tuple[int, int], ...]
"""Of memory: [start, end) of each."""

_COPY_BYTES: Final = 1 << 20
_NO_COPY_IN_KERNEL: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def read_into(fd: int, buffer: Bytes, offset: int, file: str) -> None:
    """Fill a writable buffer with the bytes from `offset` on.

    :param file: the name of the file, for errors
    :raises DataLoss: the file ends before the buffer is full, or cannot be read
    """
    rest = memoryview(buffer)
    if rest.ndim != 1 or rest.itemsize != 1:
        rest = rest.cast("B")
    while rest:
        try:
            count = os.preadv(fd, [rest], offset)
        except OSError as error:
            raise from_os_error(error, file) from error
        if count == len(rest):
            return
        if count == 0:
            raise damaged(file, f"it ends at byte {offset}, {len(rest)} bytes too early")
        rest = rest[count:]
        offset += count


def read_pieces(fd: int, memory: memoryview, pieces: Pieces, offset: int, size: int, file: str) -> None:
    """Fill pieces of memory, one after the other, with the bytes from `offset` on.

    :param pieces: at most 1024
    :param size: their bytes, all together
    :raises DataLoss: the file ends before all are full, or cannot be read
    """
    if len(pieces) == 1:
        ((start, end),) = pieces
        buffers = [memory[start:end]]
    else:
        buffers = [memory[start:end] for start, end in pieces]
    try:
        count = os.preadv(fd, buffers, offset)
    except OSError as error:
        raise from_os_error(error, file) from error
    if count == size:
        return
    for buffer in _after(count, buffers):
        read_into(fd, buffer, offset + count, file)
        count += len(buffer)
    assert count == size, "the pieces lie in the memory, and have so many bytes"


def read_exactly(fd: int, size: int, offset: int, file: str) -> bytearray:
    """Read `size` bytes.

    :raises DataLoss: the file ends before, or cannot be read
    """
    data = bytearray(size)
    read_into(fd, data, offset, file)
    return data


def write_all(fd: int, data: Bytes, offset: int, file: str) -> None:
    """Write all of `data` at `offset`.

    :raises DiskFull: there is no space; some of it may have been written
    :raises DataLoss: the file cannot be written; some of it may have been
    """
    rest = memoryview(data).cast("B")
    while rest:
        try:
            count = os.pwrite(fd, rest, offset)
        except OSError as error:
            raise from_os_error(error, file) from error
        rest = rest[count:]
        offset += count


def write_pieces(fd: int, memory: memoryview, pieces: Pieces, offset: int, size: int, file: str) -> None:
    """Write pieces of memory, one after the other, at `offset`.

    :param pieces: at most 1024
    :param size: their bytes, all together
    :raises DiskFull, DataLoss: as `write_all`
    """
    try:
        if len(pieces) == 1:
            ((start, end),) = pieces
            buffers = [memory[start:end]]
            count = os.pwrite(fd, buffers[0], offset)
        else:
            buffers = [memory[start:end] for start, end in pieces]
            count = os.pwritev(fd, buffers, offset)
    except OSError as error:
        raise from_os_error(error, file) from error
    if count == size:
        return
    for buffer in _after(count, buffers):
        write_all(fd, buffer, offset + count, file)
        count += len(buffer)
    assert count == size, "the pieces lie in the memory, and have so many bytes"


def _after(count: int, buffers: Sequence[memoryview]) -> list[memoryview]:
    """What is left of some buffers after so many bytes."""
    rest = []
    for buffer in buffers:
        if count < len(buffer):
            rest.append(buffer[count:])
        count = max(0, count - len(buffer))
    return rest


def copy_range(
    source: int,
    source_offset: int,
    target: int,
    target_offset: int,
    size: int,
    *,
    source_file: str,
    target_file: str,
) -> None:
    """Copy bytes between two files, inside the kernel where the file system can.

    :raises DiskFull, DataLoss: as for reading and writing
    """
    while size:
        try:
            count = os.copy_file_range(source, target, size, source_offset, target_offset)
        except OSError as error:
            if error.errno not in _NO_COPY_IN_KERNEL:
                raise from_os_error(error, target_file) from error
            count = min(size, _COPY_BYTES)
            write_all(target, read_exactly(source, count, source_offset, source_file), target_offset, target_file)
        if count == 0:
            raise damaged(source_file, f"it ends at byte {source_offset}, {size} bytes too early")
        source_offset += count
        target_offset += count
        size -= count


def sync_file(fd: int, file: str) -> None:
    """fdatasync: what was written to the file survives a power loss.

    :raises DiskFull, DataLoss: it failed; a second try would tell nothing
    """
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise from_os_error(error, file) from error


def sync_file_system(fd: int, file: str) -> None:
    """syncfs: what anybody wrote to the file system of a file or folder survives a power loss.

    :raises DiskFull, DataLoss: it failed; a second try would tell nothing
    """
    if _syncfs is None:
        os.sync()
    elif _syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise from_os_error(OSError(number, os.strerror(number)), file)


_syncfs: Final = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
