"""Writing one journal file.

Made:

1. Its HEAD, and the records it shall start with, are written under a temporary name; their side files first.
2. All of it is synced, the names of side files too.
3. It gets its own name, and the folder is synced. From here on a crash finds the whole file; before, nothing of it.

Appended to:

1. Data above `SIDE_BYTES` goes to a side file: one that it was written to while it arrived, or a new one. Or it has
   become parts while it arrived (see `parts`).
2. Header, meta and other data are written behind the last record.
3. If that fails, the file is cut back to where it ended, and that is synced, so that the record cannot appear after
   a crash. If that fails too, nobody knows what will be found: the file is broken.

Synced: the side files and parts, the folder with their names, then the file itself. So a record is never on the disk
for sure before its data is. A sync that failed is not repeated (the kernel has forgotten the pages it could not write,
a second try would succeed and mean nothing): the file is broken.

A file that is broken takes no more records. Its descriptors stay open until it is closed.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd.atomic import fsync_folder, unlink_if_there
from magd.errors import DataLoss, MagdError, Reason, Unavailable, from_os_error
from magd.journal.exact_write import write_all
from magd.journal.format import (
    FileStart,
    Place,
    checksum_of,
    encode_head,
    encode_write,
    voxel_bytes,
)
from magd.journal.parts import header_of
from magd.journal.places import journal_path, new_journal_path, part_path, side_path
from magd.journal.records import WriteRecord, facts_of
from magd.journal.scan import StoredWrite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magd.journal.staging import Staging

SIDE_BYTES: Final = 4 << 20
"""Data of more bytes than this goes to a side file."""
MAX_UNSYNCED_SIDE_FILES: Final = 64
"""Each keeps a descriptor open until it is synced; parts count as well."""


class JournalFile:
    """A journal file to append to.

    One thread at a time may append. `sync` may be called by others meanwhile.
    """

    def __init__(self, fd: int, folder: str, path: str, start: FileStart) -> None:
        self.path: Final = path
        self.start: Final = start
        self.side_paths: Final[list[str]] = []
        """Of all its records: side files, parts, and the marks that parts are linked."""
        self._fd: Final = fd
        self._folder: Final = folder
        self._end = 0
        self._side_bytes = 0
        self._syncing: Final = threading.Lock()
        self._changing: Final = threading.Lock()
        # These two belong to whoever holds _changing.
        self._unsynced_sides: list[_Side] = []
        self._is_dirty = False

    @classmethod
    def create(cls, folder: str, start: FileStart, records: Iterable[WriteRecord] = ()) -> JournalFile:
        """Make a journal file. When this returns all of it is on the disk.

        :param start: what its HEAD says
        :param records: what it starts with, numbered from the number of the HEAD on
        :raises Unavailable: OUTCOME_UNKNOWN: whether the file is there, whole, or not at all, is not known
        :raises DiskFull, DataLoss, NotAllowed: there is no such file
        """
        temporary, path = new_journal_path(folder, start.sequence), journal_path(folder, start.sequence)
        try:
            unlink_if_there(temporary)
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise from_os_error(error, temporary) from error
        file = cls(fd, folder, path, start)
        try:
            file._write_whole(records)
            os.rename(temporary, path)
        except BaseException as error:
            file._discard(temporary)
            if isinstance(error, Unavailable):
                # It is known: nothing has the name of a journal file yet.
                raise DataLoss(error.message, reason=Reason.IO_ERROR, metadata=error.metadata) from error
            if isinstance(error, OSError) and not isinstance(error, MagdError):
                raise from_os_error(error, temporary) from error
            raise
        try:
            fsync_folder(folder)
        except OSError as error:
            file.close()
            raise unknown(from_os_error(error, folder)) from error
        return file

    @property
    def size_bytes(self) -> int:
        """Bytes of the file and its side files."""
        return self._end + self._side_bytes

    def append(self, record: WriteRecord, *, number: int, durable: int, staged: Staging | None = None) -> StoredWrite:
        """Write a record behind the last one. When this returns it survives the end of the process.

        :param staged: all of its data, as it arrived
        :raises ValueError: its data does not fit the voxel format of the HEAD
        :raises InvalidRequest: its request id is too long
        :raises DiskFull, DataLoss: it was not written, and cannot appear later
        :raises Unavailable: OUTCOME_UNKNOWN: the file is broken
        """
        voxels = self.start.head.format.voxels
        data = voxel_bytes(record, voxels)
        if staged is not None and staged.size_bytes != len(data):
            raise ValueError(f"{staged.size_bytes} bytes of data arrived for a record of {len(data)}")
        checksum = checksum_of(data) if staged is None else staged.checksum
        place, sides = self._make_sides(data, number, staged) if len(data) > SIDE_BYTES else (Place.HERE, [])
        try:
            front = encode_write(
                record,
                self.start,
                number=number,
                durable=durable,
                data_bytes=len(data),
                data_checksum=checksum,
                place=place,
            )
            self._append([memoryview(front)] if sides else [memoryview(front), data])
        except BaseException:
            for side in sides:
                side.remove()
            raise
        parts: tuple[str, ...] = ()
        if sides:
            self.side_paths.extend(side.path for side in sides)
            self._side_bytes += len(data)
        if place is Place.PARTS:
            parts = tuple(side.path for side in sides)
        with self._changing:
            self._is_dirty = True
            self._unsynced_sides += sides
        stored = StoredWrite(
            **facts_of(record),
            number=number,
            durable=durable,
            path=self.path,
            data_path=sides[0].path if place is Place.SIDE_FILE else self.path,
            data_offset=0 if sides else self._end - len(data),
            data_checksum=checksum,
            voxels=voxels,
            parts=parts,
            header=header_of(self.start.head.format) if parts else None,
        )
        self.side_paths.extend(stored.mark_paths)
        return stored

    def sync(self) -> None:
        """Bring every record to the disk whose `append` returned before this call.

        :raises Unavailable: OUTCOME_UNKNOWN: the file is broken
        """
        try:
            self._sync()
        except MagdError as error:
            raise unknown(error) from error

    def close(self) -> None:
        """Let go of the descriptors, without a sync."""
        with self._syncing, self._changing:
            for side in self._unsynced_sides:
                os.close(side.fd)
            self._unsynced_sides = []
            self._is_dirty = False
            os.close(self._fd)

    def _sync(self) -> None:
        with self._syncing:
            with self._changing:
                sides, self._unsynced_sides = self._unsynced_sides, []
                is_dirty, self._is_dirty = self._is_dirty, False
            if not is_dirty:
                return
            path = self.path
            try:
                for side in sides:
                    path = side.path
                    os.fdatasync(side.fd)
                if sides:
                    path = self._folder
                    fsync_folder(path)
                path = self.path
                os.fdatasync(self._fd)
            except OSError as error:
                raise from_os_error(error, path) from error
            finally:
                for side in sides:
                    os.close(side.fd)

    def _write_whole(self, records: Iterable[WriteRecord]) -> None:
        self._append([memoryview(encode_head(self.start))])
        self._is_dirty = True
        for number, record in enumerate(records, start=self.start.number + 1):
            self.append(record, number=number, durable=self.start.durable)
        self._sync()

    def _discard(self, temporary: str) -> None:
        """Forget a file that was not finished. What cannot be removed now is removed by the next start."""
        self.close()
        for path in (temporary, *self.side_paths):
            try:
                unlink_if_there(path)
            except OSError:
                pass

    def _make_sides(self, data: memoryview, number: int, staged: Staging | None) -> tuple[Place, list[_Side]]:
        with self._changing:
            is_full = len(self._unsynced_sides) >= MAX_UNSYNCED_SIDE_FILES
        if is_full:
            self.sync()
        if staged is not None and staged.header is not None:
            if staged.header != header_of(self.start.head.format):
                staged.discard()  # the mag has other cube files by now
            place, paths = Place.PARTS, [part_path(self._folder, number, part) for part in range(staged.count)]
        else:
            place, paths = Place.SIDE_FILE, [side_path(self._folder, number)]
        fds = None if staged is None else staged.adopt(paths)
        if fds is not None:
            return place, [_Side(path, fd) for path, fd in zip(paths, fds, strict=True)]
        return Place.SIDE_FILE, [_written_side(side_path(self._folder, number), data)]

    def _append(self, buffers: list[memoryview]) -> None:
        try:
            write_all(self._fd, buffers, self._end)
        except BaseException as error:
            self._cut_back()
            if isinstance(error, OSError):
                raise from_os_error(error, self.path) from error
            raise
        self._end += sum(len(buffer) for buffer in buffers)

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._end)
            os.fdatasync(self._fd)
        except OSError as error:
            raise unknown(from_os_error(error, self.path)) from error


@dataclass(frozen=True, slots=True)
class _Side:
    path: str
    fd: int

    def remove(self) -> None:
        """Forget it. What cannot be removed now is removed by the next start, since no record names it."""
        os.close(self.fd)
        try:
            unlink_if_there(self.path)
        except OSError:
            pass


def _written_side(path: str, data: memoryview) -> _Side:
    try:
        unlink_if_there(path)  # of an attempt that failed
        side = _Side(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        write_all(side.fd, [data], 0)
    except OSError as error:
        side.remove()
        raise from_os_error(error, path) from error
    except BaseException:
        side.remove()
        raise
    return side


def unknown(cause: MagdError) -> Unavailable:
    """The error when nobody knows what will be found in a journal file."""
    return Unavailable(
        f"{cause.message}; what was being written may be there or not: retry with the same request id",
        reason=Reason.OUTCOME_UNKNOWN,
        metadata=cause.metadata,
    )
