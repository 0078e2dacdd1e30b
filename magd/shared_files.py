"""Files in memory through which both ends of one machine pass boxes, and what is safe to do with each.

To map a file and copy costs 8 ms for 128 MiB, `pread` and `pwrite` cost 20 ms. But who has mapped a file is ended by a
signal when the other end cuts it short. So

1. a file that is sealed against that (`memfd_create`, F_SEAL_SHRINK) is mapped, once, for as long as it is open. Such a
   file has no name in a file system: another process opens it as `/proc/PID/fd/FD`, which the kernel admits for
   processes of the same user. In another container that path may lead to anything; the name that the file was made
   with, which nobody can guess, says whether it is the one that was meant;
2. every other file is read and written, never mapped.

The pages of a mapping are asked for from the front, as far as it is used: one by one they cost three times as much.

Whoever copies from a shared file has a copy that stays as it is; the file may change at any moment.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Of a sealed file: nobody changes its length, or takes that back."""
_PREFIX: Final = "magd-"
"""Of the names of sealed files, as /proc shows them."""
_POPULATE_READ: Final = 22  # MADV_POPULATE_READ of Linux 5.14, which `mmap` has no name for


class SharedFile(Protocol):
    """A file that both ends read and write. Its methods may be used by several threads, `close` by one alone.

    :ivar is_mapped: whether it is worth keeping it open for later
    """

    is_mapped: bool

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer.

        :raises EOFError: the file was cut short
        :raises OSError: it cannot be read
        """

    def write(self, data: memoryview, offset: int) -> None:
        """Write some bytes.

        :raises OSError: there is no memory for them
        """

    def view(self, offset: int, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        """Some of its bytes as memory; None if it is not mapped. Let go of it before `close`."""

    def free(self) -> None:
        """Give its memory back to the system, whoever else has it open. Nobody may want any more what is in it.

        :raises OSError: that failed
        """

    def close(self) -> None:
        """Let go of it, the descriptor included."""


def make_sealed(name: str, size_bytes: int) -> int:
    """Make a sealed file with all of its memory.

    :param name: that nobody can guess, at most 200 characters
    :return: its descriptor, inherited by no other program
    :raises OSError: there is no memory for it, or the system has no such files
    """
    fd = os.memfd_create(_PREFIX + name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.fchmod(fd, 0o600)
        os.posix_fallocate(fd, 0, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def path_of_sealed(fd: int) -> str:
    """Where other processes of the same user find a sealed file of this one."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def open_shared(path: str, name: str) -> int:
    """Open what another process shares.

    :param name: that a sealed file was made with
    :return: a descriptor for reading and writing, inherited by no other program
    :raises OSError: it is not there, of another user, or another file than the one that was meant
    """
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    if not path.startswith("/proc/"):
        return os.open(path, flags | os.O_NOFOLLOW)
    _require_made_as(name, path)  # before: to open something else may do something
    fd = os.open(path, flags)
    try:
        _require_made_as(name, f"/proc/self/fd/{fd}")
    except BaseException:
        os.close(fd)
        raise
    return fd


def shared_file(fd: int, size_bytes: int) -> SharedFile:
    """An open file, to be used in the way that is safe for it. It has the descriptor from now on.

    :raises OSError: it cannot be mapped
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0  # of a file system that has none
    return _Mapped(fd, size_bytes) if seals & fcntl.F_SEAL_SHRINK else _Unmapped(fd)


class _Mapped:
    is_mapped = True

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._fd: Final = fd
        self._map: Final = mmap.mmap(fd, size_bytes)
        self._bytes: npt.NDArray[np.uint8] | None = np.frombuffer(self._map, np.uint8)
        self._ready = 0
        """So many bytes from the front have their pages."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        np.frombuffer(buffer, np.uint8)[:] = self.view(offset, len(buffer))

    def write(self, data: memoryview, offset: int) -> None:
        self.view(offset, len(data))[:] = np.frombuffer(data, np.uint8)

    def free(self) -> None:
        self._map.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        self._bytes = None
        # Another thread of a process that was forked may have been copying: the child has it for ever.
        with suppress(BufferError):
            self._map.close()
        os.close(self._fd)

    def view(self, offset: int, size_bytes: int) -> npt.NDArray[np.uint8]:
        assert self._bytes is not None, "it is open"
        end = offset + size_bytes
        if end > self._ready:
            start = self._ready // mmap.PAGESIZE * mmap.PAGESIZE
            with suppress(OSError):  # an older kernel has no such advice
                self._map.madvise(_POPULATE_READ, start, end - start)
            self._ready = end
        return self._bytes[offset:end]


class _Unmapped:
    is_mapped = False

    def __init__(self, fd: int) -> None:
        self._fd: Final = fd

    def read_into(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            found = os.preadv(self._fd, [buffer[done:]], offset + done)
            if not found:
                raise EOFError("it was cut short")
            done += found

    def write(self, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], offset + done)

    def view(self, offset: int, size_bytes: int) -> None:  # noqa: ARG002  # nothing of it is memory
        return None

    def free(self) -> None:
        os.ftruncate(self._fd, 0)

    def close(self) -> None:
        os.close(self._fd)


def _require_made_as(name: str, path: str) -> None:
    # The kernel writes " (deleted)" behind the name of a file that has none in a file system.
    found = os.readlink(path)
    if found != f"/memfd:{_PREFIX}{name} (deleted)":
        raise OSError(f"{path} is {found!r}, and not what is shared as {name}")
