"""Side files that nothing names any more, kept for a moment for the next large write into the same dataset.

To write over a file takes a MiB half of the processor's time that a new one takes, whose pages the kernel has to find,
clear and give back; on a machine that gets its memory from another one page by page it is a tenth. Who writes large
boxes mostly writes more than one. So:

1. A side file that would be removed gets the name of a file for data that arrives instead. Nothing names such files: a
   crash leaves them to the next start, which removes them. That the journal file that named it is gone is on the disk
   by then.
2. Only those come here whose data nobody can want to read any more: the boxes are in the cube files.
3. The next large write takes one, of any mag of its dataset: it comes into the journal's folder of that mag. Of another
   dataset it takes none: who may read the one may not be allowed to read the other. It cuts the file to its length if
   it is longer, and writes over all of it before a record names it. Its checksum tells old bytes from new ones after a
   power loss, as it does where there were none.
4. There are only so many, and so many bytes, for all mags together: the oldest goes first. They go after some seconds,
   when their journal ends, and when the disk has no more space than is to be left free. To remove a large one takes
   a while, so that a thread does it unless somebody wants the space.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from typing import Final, NamedTuple

from magd.atomic import unlink_if_there
from magd.journal.places import dataset_folder, staged_path

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
        self._removing: Final = threading.Lock()
        """Held while files are removed. Taken before the other."""
        self._changing: Final = threading.Lock()
        """Held for a moment, by whoever looks at or changes what follows."""
        self._kept: list[_Spare] = []
        """The oldest first."""
        self._leaving: list[_Spare] = []
        """To be removed at once."""
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
        """A file, if there is one of a mag of the same dataset. It lies in this folder then, and is the caller's.

        :param folder: of a journal
        :param size_bytes: of what will be written: of several, the smallest that has so many, or else the largest
        """
        dataset = dataset_folder(folder)
        path = None
        with self._changing:
            found = [spare for spare in self._kept if dataset_folder(os.path.dirname(spare.path)) == dataset]
            found.sort(key=lambda spare: (spare.size_bytes < size_bytes, abs(spare.size_bytes - size_bytes)))
            for spare in found:
                self._kept.remove(spare)
                path = _moved(spare, folder)
                if path is not None:
                    break
                self._leaving.append(spare)
            if found:
                self._wait()
        return path

    def drop(self, folder: str | None = None) -> bool:
        """Remove the files of one folder, or all.

        :return: whether there were any
        """
        with self._removing:
            with self._changing:
                gone = [spare for spare in self._kept + self._leaving if folder in (None, os.path.dirname(spare.path))]
                self._kept = [spare for spare in self._kept if spare not in gone]
                self._leaving = [spare for spare in self._leaving if spare not in gone]
                self._wait()
            _remove(gone)
        return bool(gone)

    def _add(self, spare: _Spare) -> None:
        with self._changing:
            self._kept.append(spare)
            while len(self._kept) > self._most_files or sum(one.size_bytes for one in self._kept) > self._most_bytes:
                self._leaving.append(self._kept.pop(0))
            self._wait()

    def _wait(self) -> None:
        """Have a thread come when the next one is to be removed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._leaving or self._kept:
            seconds = 0.0 if self._leaving else max(0.0, self._kept[0].until - time.monotonic())
            self._timer = threading.Timer(seconds, self._sweep)
            self._timer.daemon = True
            self._timer.start()

    def _sweep(self) -> None:
        now = time.monotonic()
        with self._removing:
            with self._changing:
                gone = self._leaving + [spare for spare in self._kept if spare.until <= now]
                self._leaving = []
                self._kept = [spare for spare in self._kept if spare.until > now]
                self._wait()
            _remove(gone)


def _moved(spare: _Spare, folder: str) -> str | None:
    """Where a file lies now; None: it could not be moved there."""
    path = staged_path(folder, secrets.randbelow(10**16))
    try:
        os.rename(spare.path, path)
    except OSError:  # it is gone, or the folder is on another disk
        return None
    return path


def _remove(gone: list[_Spare]) -> None:
    for spare in gone:
        try:
            unlink_if_there(spare.path)
        except OSError:
            pass  # the next start removes it


spares: Final = Spares()
"""Those of this process."""
