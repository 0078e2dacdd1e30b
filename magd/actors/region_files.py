"""The files behind regions of shared memory. Blocking.

Regions are files of mode 0600 in a folder of mode 0700, both with names that nobody can guess: the file system admits
the daemon's user, and nobody else.

1. A daemon makes a folder of its own, in memory where the system has such a place, and locks it (`flock`). The lock
   ends with the process, however it ends.
2. Before that it removes the folders of this user that nobody has locked: those of daemons that died.
3. A file has all of its memory from the beginning, so that nothing can run out of memory in the middle of a box.
4. Both ends read and write the files (pread, pwrite); the daemon never maps one. A client can cut a file short or
   change it at any moment: who has mapped it is ended by a signal for the one, and sees bytes that he has looked at
   change for the other. Who reads it has a copy that stays as it is, or an error. The copy from a mapping would cost
   less, 8 ms instead of 20 ms for 128 MiB.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
from typing import TYPE_CHECKING, Final

from magd.atomic import unlink_if_there
from magd.errors import InvalidRequest, from_os_error

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_MEMORY: Final = "/dev/shm"  # only folders of mode 0700 are made there, under names that are drawn
PREFIX: Final = "magd-shared-memory-"
"""Of the names of folders."""


class RegionFile:
    """A file that both ends read and write.

    :ivar name: of the region
    :ivar path: absolute
    """

    def __init__(self, name: str, path: str, fd: int, size_bytes: int) -> None:
        self.name: Final = name
        self.path: Final = path
        self.size_bytes: Final = size_bytes
        self._fd: Final = fd

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer.

        :raises InvalidRequest: the client has cut the file short
        """
        done = 0
        while done < len(buffer):
            found = os.preadv(self._fd, [buffer[done:]], offset + done)
            if not found:
                raise InvalidRequest(
                    f"shared_memory: region {self.name} was cut short",
                    metadata={"field": "shared_memory", "value": self.name},
                )
            done += found

    def write(self, data: memoryview, offset: int) -> None:
        """Write some bytes.

        :raises DiskFull, DataLoss: the client has given away its memory, and there is no other
        """
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._fd, data[done:], offset + done)
            except OSError as error:
                raise from_os_error(error, self.path) from error

    def remove(self) -> None:
        """Remove it. A client that has it open keeps it until it closes it."""
        try:
            unlink_if_there(self.path)
        finally:
            os.close(self._fd)


class RegionFolder:
    """The folder of one daemon's regions.

    :ivar path: absolute
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path: Final = path
        self._fd: Final = fd

    @classmethod
    def create(cls, parent: str) -> RegionFolder:
        """Make a folder of mode 0700, and remove those of daemons that died.

        :param parent: empty: in memory if the system has a place for that, else in the folder for temporary files
        :raises OSError: it cannot be made, or its file system has no locks
        """
        parent = os.path.abspath(parent or default_parent())
        remove_leftovers(parent)
        while True:
            path = os.path.join(parent, PREFIX + secrets.token_hex(16))
            os.mkdir(path, 0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another daemon that starts now can have locked it first, and taken it for a leftover.
                if os.fstat(fd).st_nlink:
                    return cls(path, fd)
            except BlockingIOError:
                pass
            except BaseException:
                os.close(fd)
                os.rmdir(path)
                raise
            os.close(fd)

    def make(self, size_bytes: int) -> RegionFile:
        """Make a file of mode 0600 with all of its memory.

        :raises OSError: there is no memory for it
        """
        name = secrets.token_hex(16)
        path = os.path.join(self.path, name)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        file = RegionFile(name, path, fd, size_bytes)
        try:
            os.posix_fallocate(fd, 0, size_bytes)
        except BaseException:
            file.remove()
            raise
        return file

    def close(self) -> None:
        """Remove the folder with everything in it."""
        try:
            _remove(self.path, self._fd)
        finally:
            os.close(self._fd)


def default_parent() -> str:
    """Where folders are made if nobody says where."""
    if os.path.isdir(IN_MEMORY) and os.access(IN_MEMORY, os.W_OK | os.X_OK):
        return IN_MEMORY
    return tempfile.gettempdir()


def remove_leftovers(parent: str) -> None:
    """Remove the folders of daemons of this user that died. Those of others are left alone, and so are all that are
    locked."""
    for path in _folders(parent):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # it is gone, or was put there by somebody else
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path, fd)
        except OSError:
            pass  # its daemon lives, or another one removes it right now
        finally:
            os.close(fd)


def _folders(parent: str) -> Iterator[str]:
    with os.scandir(parent) as entries:
        for entry in entries:
            if not entry.name.startswith(PREFIX):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                yield entry.path


def _remove(path: str, fd: int) -> None:
    for name in os.listdir(fd):
        os.unlink(name, dir_fd=fd)
    os.rmdir(path)
