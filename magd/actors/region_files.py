"""The files behind regions of shared memory. Blocking.

A region is a file of mode 0600 that only processes of the daemon's user can open, under a name that nobody can guess.
`magd.shared_files` says how it is read and written. It has all of its memory from the beginning, so that nothing can
run out of memory in the middle of a box. There are two places for it:

1. Sealed files, where the system has them and nobody asks for a folder. They end with the daemon, however it ends.
2. A folder of mode 0700 with a name that nobody can guess, in memory where the system has such a place. It can be seen
   by clients in other containers. A daemon makes one of its own and locks it (`flock`); the lock ends with the process.
   Before that it removes the folders of this user that nobody has locked: those of daemons that died.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
from typing import TYPE_CHECKING, Final, Protocol

from magd.atomic import unlink_if_there
from magd.errors import InvalidRequest, from_os_error
from magd.shared_files import make_sealed, path_of_sealed, shared_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

IN_MEMORY: Final = "/dev/shm"  # only folders of mode 0700 are made there, under names that are drawn
PREFIX: Final = "magd-shared-memory-"
"""Of the names of folders."""


class RegionFile:
    """A file that both ends read and write.

    :param has_name: whether it is in a folder
    :ivar name: of the region
    :ivar path: absolute

    :raises OSError: it cannot be mapped
    """

    def __init__(self, name: str, path: str, fd: int, size_bytes: int, *, has_name: bool) -> None:
        self.name: Final = name
        self.path: Final = path
        self.size_bytes: Final = size_bytes
        self._has_name: Final = has_name
        self._file: Final = shared_file(fd, size_bytes)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer.

        :raises InvalidRequest: the client has cut the file short
        """
        try:
            self._file.read_into(buffer, offset)
        except EOFError:
            raise InvalidRequest(
                f"shared_memory: region {self.name} was cut short",
                metadata={"field": "shared_memory", "value": self.name},
            ) from None

    def write(self, data: memoryview, offset: int) -> None:
        """Write some bytes.

        :raises DiskFull, DataLoss: the client has given away its memory, and there is no other
        """
        try:
            self._file.write(data, offset)
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def view(self, offset: int, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        """Some of its bytes as memory; None if it is not mapped."""
        return self._file.view(offset, size_bytes)

    def remove(self, *, free: bool) -> None:
        """Remove it. Nobody uses it any more.

        :param free: give its memory back although the client may have it open: it wants nothing any more of what is in
            it. Else that happens when the client closes it
        """
        try:
            if free:
                self._file.free()
            if self._has_name:
                unlink_if_there(self.path)
        finally:
            self._file.close()


class RegionPlace(Protocol):
    """Where the files of regions are made."""

    @property
    def path(self) -> str:
        """That a log can name."""

    def make(self, size_bytes: int) -> RegionFile:
        """Make a file of mode 0600 with all of its memory.

        :raises OSError: there is no memory for it
        """

    def close(self) -> None:
        """Remove everything in it."""


def open_place(parent: str) -> RegionPlace:
    """Begin to make files.

    :param parent: of a folder for them; empty: sealed files, or else a folder in memory if the system has a place for
        that, or else in the one for temporary files
    :raises OSError: the folder cannot be made, or its file system has no locks
    """
    if not parent:
        place = SealedFiles()
        try:
            place.make(1).remove(free=True)
        except OSError:
            pass  # of another system, or a sandbox
        else:
            return place
    return RegionFolder.create(parent or default_parent())


class SealedFiles:
    """Files of this process that are in no folder."""

    path: Final = "memory"

    def make(self, size_bytes: int) -> RegionFile:
        """Make a file of mode 0600 with all of its memory.

        :raises OSError: there is no memory for it
        """
        name = secrets.token_hex(16)
        fd = make_sealed(name, size_bytes)
        try:
            return RegionFile(name, path_of_sealed(fd), fd, size_bytes, has_name=False)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Nothing is left when all files are removed."""


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

        :raises OSError: it cannot be made, or its file system has no locks
        """
        parent = os.path.abspath(parent)
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
        try:
            os.posix_fallocate(fd, 0, size_bytes)
            return RegionFile(name, path, fd, size_bytes, has_name=True)
        except BaseException:
            os.unlink(path)
            os.close(fd)
            raise

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
