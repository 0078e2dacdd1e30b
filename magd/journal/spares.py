"""Side files that nothing names any more, kept for a moment for the next large write of the same mag.

To write over a file takes a MiB half of the processor's time that a new one takes, whose pages the kernel has to find,
clear and give back; on a machine that gets its memory from another one page by page it is a tenth. Who writes large
boxes mostly writes more than one. So:

1. A side file that would be removed gets the name of a file for data that arrives instead. Nothing names such files: a
   crash leaves them to the next start, which removes them. That the journal file that named it is gone is on the disk
   by then.
2. Only those come here whose data nobody can want to read any more: the boxes are in the cube files.
3. The next large write takes one, cuts it to its length if it is longer, and writes over all of it before a record
   names it. Its checksum tells old bytes from new ones after a power loss, as it does where there were none.
4. There are only so many, and so many bytes, for all mags together: the oldest goes first. They go after some seconds,
   when their journal ends, and when the disk has no more space than is to be left free.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from typing import Final, NamedTuple

from magd.atomic import unlink_if_there
from magd.journal.places import staged_path

KEPT_SECONDS: Final = 10.0
MOST_FILES: Final = 4
MOST_BYTES: Final = 256 << 20


class _Spare(NamedTuple):
    path: str
    size_bytes: int
    until: float


class Spares:
    """The files that a process keeps. Any thread may use it.

    :param most_bytes: of all files together
    """

    def __init__(
        self,
        *,
        most_files: int = MOST_FILES,
        most_bytes: int = MOST_BYTES,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self._most_files: Final = most_files
        self._most_bytes: Final = most_bytes
        self._kept_seconds: Final = kept_seconds
        self._changing: Final = threading.Lock()
        self._kept: list[_Spare] = []
        """The oldest first."""
        self._timer: threading.Timer | None = None

    def keep(self, path: str) -> None:
        """Keep a file, which loses its name; or remove it, if it is too large.

        :param path: in a journal's folder; that it is not there is fine
        :raises OSError: it is there still
        """
        try:
            size_bytes = os.stat(path).st_size
            name = staged_path(os.path.dirname(path), secrets.randbelow(10**16))
            if size_bytes <= self._most_bytes:
                os.rename(path, name)
                self._add(_Spare(name, size_bytes, time.monotonic() + self._kept_seconds))
                return
        except OSError:
            pass
        unlink_if_there(path)

    def take(self, folder: str, size_bytes: int) -> str | None:
        """A file of this folder, if there is one; it is the caller's now.

        :param size_bytes: of what will be written: of several, the smallest that has so many, or else the largest
        :return: its path; it may have been removed by others
        """
        with self._changing:
            of_folder = [spare for spare in self._kept if os.path.dirname(spare.path) == folder]
            if not of_folder:
                return None
            found = min(
                of_folder, key=lambda spare: (spare.size_bytes < size_bytes, abs(spare.size_bytes - size_bytes))
            )
            self._kept.remove(found)
            self._wait()
            return found.path

    def drop(self, folder: str | None = None) -> bool:
        """Remove the files of one folder, or all.

        :return: whether there were any
        """
        with self._changing:
            gone = [spare for spare in self._kept if folder in (None, os.path.dirname(spare.path))]
            self._kept = [spare for spare in self._kept if spare not in gone]
            self._wait()
        _remove(gone)
        return bool(gone)

    def _add(self, spare: _Spare) -> None:
        gone = []
        with self._changing:
            self._kept.append(spare)
            while len(self._kept) > self._most_files or sum(one.size_bytes for one in self._kept) > self._most_bytes:
                gone.append(self._kept.pop(0))
            self._wait()
        _remove(gone)

    def _wait(self) -> None:
        """Have a thread come when the oldest has been kept long enough, if none is to come already."""
        if not self._kept and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._kept and self._timer is None:
            self._timer = threading.Timer(max(0.0, self._kept[0].until - time.monotonic()), self._sweep)
            self._timer.daemon = True
            self._timer.start()

    def _sweep(self) -> None:
        now = time.monotonic()
        with self._changing:
            self._timer = None
            gone = [spare for spare in self._kept if spare.until <= now]
            self._kept = [spare for spare in self._kept if spare.until > now]
            self._wait()
        _remove(gone)


def _remove(gone: list[_Spare]) -> None:
    for spare in gone:
        try:
            unlink_if_there(spare.path)
        except OSError:
            pass  # the next start removes it


spares: Final = Spares()
"""Those of this process."""
