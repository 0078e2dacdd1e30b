"""The data of one large write, on its way into a side file while it arrives.

1. Bytes are taken in their order, piece after piece: into a checksum, and into a file with a name of its own in the
   journal's folder. No record names it, so a crash leaves nothing but the file, which the next start removes. Where
   there is a side file that is not needed any more, it is written over (`spares`).
2. Space for all of it is asked for at the beginning. Where the file has to reach the disk, the disk is told to begin
   with each piece, so that at the end little is left to sync. Nobody waits for that.
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
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import xxhash

from magd.atomic import unlink_if_there
from magd.cubes.allocation import allocate
from magd.cubes.writeback import start_writeback
from magd.errors import MagdError
from magd.journal.exact_write import write_all
from magd.journal.places import journal_folder, staged_path
from magd.journal.spares import spares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.cubes.header import Header
    from magd.voxels import VoxelArray


class Staging:
    """The checksum of data, and as long as nothing goes wrong the file with it.

    :param mag_folder: of the mag; None: only the checksum is wanted
    :param sync: have the disk begin with it as it comes
    :param expected_bytes: of the data; 0: not known
    :param count: of files

    :ivar size_bytes: taken so far
    :ivar is_handed_over: whether it is for the mag's actor to discard it, and not any more for who receives the data
    """

    def __init__(self, mag_folder: str | None, *, sync: bool, expected_bytes: int = 0, count: int = 1) -> None:
        self.size_bytes = 0
        self.is_handed_over = False
        self._digest: Final = xxhash.xxh3_64()
        self._sync: Final = sync
        self._expected_bytes: Final = expected_bytes
        self._paths: list[str] = []
        self._fds: list[int] = []
        if mag_folder is not None:
            self._open(journal_folder(mag_folder), count)

    @property
    def checksum(self) -> int:
        """Of what was taken so far, as in a record."""
        return self._digest.intdigest()

    @property
    def header(self) -> Header | None:
        """What the cube files are like that its files are parts for; None if it has a side file."""
        return None

    def attach(self, data: VoxelArray) -> None:
        """Say where the data comes together. To be called before the first `take`.

        :param data: (c, x, y, z), Fortran order: `take` is given its bytes, piece after piece, once they are set
        """

    @property
    def count(self) -> int:
        """How many files there are; 0 if they were given up, adopted or discarded."""
        return len(self._fds)

    def take(self, data: memoryview) -> None:
        """Take the next bytes."""
        if self._fds:
            try:
                self._write(data)
                if self._sync:
                    for fd in self._fds:
                        start_writeback(fd, 0, 0)
            except (OSError, MagdError):
                self.discard()
        self._digest.update(data)
        self.size_bytes += len(data)

    def adopt(self, paths: Sequence[str]) -> list[int] | None:
        """Give the files other names in the same folder. Whoever calls this has to see to the files from now on.

        :return: the descriptors they were written with; None: there are no files, or the folder they were made in is
            not there any more
        """
        if not self._fds:
            return None
        try:
            for number, path in enumerate(paths):
                os.rename(self._paths[number], path)
                self._paths[number] = path
        except OSError:
            self.discard()
            return None
        fds, self._fds = self._fds, []
        return fds

    def discard(self) -> None:
        """Remove the files, unless they were adopted. What cannot be removed now is removed by the next start."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)
        for path in self._paths if fds else []:
            try:
                unlink_if_there(path)
            except OSError:
                pass

    def _open(self, folder: str, count: int) -> None:
        try:
            for path in (os.path.dirname(folder), folder):
                with suppress(FileExistsError):  # the journal may begin at the same moment
                    os.mkdir(path)
            for _ in range(count):
                if not (self._expected_bytes and self._open_spare(folder)):
                    self._add_file(staged_path(folder, secrets.randbelow(10**16)), os.O_CREAT | os.O_EXCL)
            self._prepare()
        except (OSError, MagdError):
            self.discard()

    def _open_spare(self, folder: str) -> bool:
        path = spares.take(folder, self._expected_bytes)
        try:
            if path is not None:
                self._add_file(path, os.O_NOFOLLOW)
                if os.fstat(self._fds[-1]).st_size > self._expected_bytes:
                    os.ftruncate(self._fds[-1], self._expected_bytes)
        except FileNotFoundError:
            path = None  # the folder is another one by now
        return path is not None

    def _add_file(self, path: str, flags: int) -> None:
        self._fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666))
        self._paths.append(path)

    def _prepare(self) -> None:
        """Write what is in the files before any data, and find space for that.

        :raises OSError, MagdError: it could not be written
        """
        start = os.fstat(self._fds[0]).st_size
        allocate(self._fds[0], start, self._expected_bytes - start, self._paths[0])

    def _write(self, data: memoryview) -> None:
        """Write the next bytes.

        :raises OSError, MagdError: some of it may have been written
        """
        write_all(self._fds[0], [data], self.size_bytes)
