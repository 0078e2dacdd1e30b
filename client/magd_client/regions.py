"""A region of shared memory that the daemon has leased to this client: a file that both ends read and write.

What is read is copied into an array of the caller's own, and regions go back to the daemon when the call ends. The
file of one that is mapped (`magd.shared_files`) is kept for the next time that it is leased: to map its pages anew
would cost more than that saves. Memory is not held by that: the daemon frees what it removes.

gRPC's own thread may still send parts of a call that has ended. They do not get into the file any more: it may have
been leased anew by then.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING, Final

from magd.shared_files import open_shared, shared_file
from magd.v1 import volume_pb2
from magd_client import fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.shared_files import SharedFile

SHARED_BYTES: Final = 4 << 20
"""Smaller boxes go through gRPC: to lease a region costs more than it saves. Measured over a unix socket on a busy
machine, medians of 22 rounds, shared memory and socket in ms: writes of 1 MiB 5.6 and 3.8, 2 MiB 7.0 and 5.3, 4 MiB 7.9
and 9.7, 8 MiB 7.4 and 10.2; reads of 2 MiB 5.0 and 4.3, 4 MiB 7.9 and 8.7, 8 MiB 11.1 and 13.4."""
PIECE_BYTES: Final = 4 << 20
"""What one message names, so that one end copies while the other has the piece before."""

MOST_KEPT: Final = 8
"""Files of regions that are given back. The daemon has removed those that were not used for a while."""

_open: Final[set[SharedFile]] = set()
"""Those of this process. A forked child closes them: whatever has a descriptor is in here when a process forks."""


class Region:
    """A leased region.

    :param file: of it

    :ivar name: as the daemon gave it
    :ivar has_failed: whether its file could not be read or written
    """

    def __init__(self, name: str, size_bytes: int, file: SharedFile) -> None:
        self.name: Final = name
        self.size_bytes: Final = size_bytes
        self.file: Final = file
        self.has_failed = False
        self._lock: Final = threading.Lock()
        self._is_leased = True

    @property
    def whole(self) -> volume_pb2.SharedMemory:
        """All of it."""
        return volume_pb2.SharedMemory(region=self.name, offset=0, size=self.size_bytes)

    def write(self, data: memoryview, offset: int) -> bool:
        """Write some bytes.

        :return: False: that failed, or the lease has ended
        """
        return self._move(self.file.write, data, offset)

    def read_into(self, buffer: memoryview, offset: int) -> bool:
        """Fill a buffer.

        :return: False: that failed, or the lease has ended
        """
        return self._move(self.file.read_into, buffer, offset)

    def end(self) -> None:
        """End the lease: nothing touches the file any more."""
        with self._lock:
            self._is_leased = False

    def _move(self, move: Callable[[memoryview, int], None], buffer: memoryview, offset: int) -> bool:
        with self._lock:
            if not self._is_leased:
                return False
            try:
                move(buffer, offset)
            except (OSError, EOFError):
                self.has_failed = True
            return not self.has_failed


class RegionFiles:
    """The files of the regions of one connection. Belongs to one process."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._kept: dict[str, SharedFile] = {}
        """Those of no lease, by the names of their regions, the one last given back at the end."""

    def open(self, leased: volume_pb2.ShareMemoryResponse) -> Region:
        """The region of a lease.

        :raises OSError: its file is not there (for a client in another container), is of another user, or is not what
            the daemon says
        """
        with self._lock:
            file = self._kept.pop(leased.region, None)
        return Region(leased.region, leased.size_bytes, file or _opened(leased))

    def give_back(self, region: Region, *, keep: bool) -> None:
        """End a lease.

        :param keep: whether the region may be leased again
        """
        region.end()
        if not keep or not region.file.is_mapped or region.has_failed:
            _close(region.file)
            return
        with self._lock:
            self._kept[region.name] = region.file
            oldest = self._kept.pop(next(iter(self._kept))) if len(self._kept) > MOST_KEPT else None
        if oldest is not None:
            _close(oldest)

    def close(self) -> None:
        """Let go of those of no lease."""
        with self._lock:
            files, self._kept = list(self._kept.values()), {}
        for file in files:
            _close(file)


def _opened(leased: volume_pb2.ShareMemoryResponse) -> SharedFile:
    with fork.undivided():
        fd = open_shared(leased.path, leased.region)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size < leased.size_bytes:
                raise OSError(f"{leased.path} is not a file of {leased.size_bytes} bytes")
            file = shared_file(fd, leased.size_bytes)
        except BaseException:
            os.close(fd)
            raise
        _open.add(file)
    return file


def _close(file: SharedFile) -> None:
    with fork.undivided():
        if file in _open:  # a forked child has closed those of its parent
            _open.discard(file)
            file.close()


def _begin_child() -> None:
    for file in list(_open):
        _close(file)


os.register_at_fork(after_in_child=_begin_child)
