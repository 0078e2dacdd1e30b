"""The data of one large write, on its way into a side file while it arrives.

1. Bytes are taken in their order, piece after piece: into a checksum, and into a file with a name of its own in the
   journal's folder. No record names it, so a crash leaves nothing but the file, which the next start removes.
2. For a write that has to reach the disk the file is synced now and then, so that at the end little is left to sync;
   not while too many others do.
3. When the record is written, the file gets the name of its side file. It is synced once more with the record, through
   the descriptor it was written with: no failed write-back goes unheard.
4. If anything goes wrong with the file, a sync that fails included, it is given up: nothing depends on it. The record
   then gets a side file that is written from memory, and what is wrong with the disk is found out there.
5. Who does not come to step 3 discards it.

One thread at a time may use it.
"""

from __future__ import annotations

import os
import secrets
import threading
from typing import Final

import xxhash

from magd.atomic import unlink_if_there
from magd.journal.exact_write import write_all
from magd.journal.places import journal_folder, staged_path

SYNC_BYTES: Final = 16 << 20
"""What is written at least between two syncs."""
_MAY_SYNC: Final = threading.BoundedSemaphore(2)
"""Of all that arrives at a time: who does not wait for the disk is not to wait for the syncs of those who do."""


class Staging:
    """The checksum of data, and as long as nothing goes wrong the file with it.

    :param mag_folder: of the mag; None: only the checksum is wanted
    :param sync: bring it to the disk as it comes

    :ivar size_bytes: taken so far
    :ivar is_handed_over: whether it is for the mag's actor to discard it, and not any more for who receives the data
    """

    def __init__(self, mag_folder: str | None, *, sync: bool) -> None:
        self.size_bytes = 0
        self.is_handed_over = False
        self._digest: Final = xxhash.xxh3_64()
        self._sync: Final = sync
        self._unsynced_bytes = 0
        self._path = ""
        self._fd: int | None = None
        if mag_folder is not None:
            self._open(journal_folder(mag_folder))

    @property
    def checksum(self) -> int:
        """Of what was taken so far, as in a record."""
        return self._digest.intdigest()

    def take(self, data: memoryview) -> None:
        """Take the next bytes."""
        if self._fd is not None:
            try:
                write_all(self._fd, [data], self.size_bytes)
                self._unsynced_bytes += len(data)
                if self._sync and self._unsynced_bytes >= SYNC_BYTES and _MAY_SYNC.acquire(blocking=False):
                    try:
                        os.fdatasync(self._fd)
                    finally:
                        _MAY_SYNC.release()
                    self._unsynced_bytes = 0
            except OSError:
                self.discard()
        self._digest.update(data)
        self.size_bytes += len(data)

    def adopt(self, path: str) -> int | None:
        """Give the file another name in the same folder. Whoever calls this has to see to the file from now on.

        :return: the descriptor it was written with; None: there is no file, or the folder it was made in is not there
            any more
        """
        if self._fd is None:
            return None
        try:
            os.rename(self._path, path)
        except OSError:
            self.discard()
            return None
        fd, self._fd = self._fd, None
        return fd

    def discard(self) -> None:
        """Remove the file, unless it was adopted. What cannot be removed now is removed by the next start."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            try:
                unlink_if_there(self._path)
            except OSError:
                pass

    def _open(self, folder: str) -> None:
        try:
            for path in (os.path.dirname(folder), folder):
                if not os.path.isdir(path):
                    os.mkdir(path)
            self._path = staged_path(folder, secrets.randbelow(10**16))
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError:
            pass
