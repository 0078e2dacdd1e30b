"""The write-ahead journal of a mag, while its actor writes.

A mag's life with it:

1. `recovery.recover` says what there is, and changes nothing. Who only reads stops here.
2. `Journal.begin` starts a new journal file, in a new epoch. No file of an earlier one is ever appended to, so
   nothing that a crash left can be taken for part of this epoch. What was recovered, and is not declared to be on
   the disk, is written again into it; the first attempts and what was lost are declared void. (To sync the old files
   would prove nothing: if a sync of the process before failed, one that follows succeeds without the bytes.)
3. `append` writes a record; `sync` brings all records appended before to the disk, however many wait for it.
4. A checkpoint: `rotate` starts the next file, whose HEAD has all that must outlive the ones before; their writes are
   brought into the cube files, and those are synced if the writes were promised to be on the disk; `retire` removes
   the files. One after the other, oldest first: a crash between may leave newer ones without older ones, whose writes
   are then applied again in order, and never the other way round.
   Before that, parts of large records can become the cube files themselves: `link` allows it, once the records are on
   the disk (see `parts`).
5. After a sync that failed the journal is broken: it takes no records. `rewrite` writes everything that is not known
   to be on the disk into a new file, whose HEAD declares the first attempts void. If that fails too, it can be tried
   again later.
6. `rotate` with a closed HEAD, `retire` and `close` end it.

One thread at a time may call `append`, `rotate` and `rewrite`. `sync`, `link`, `retire` and the properties may be
used by others meanwhile.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from magd.acknowledgement import Durability
from magd.atomic import fsync_folder, unlink_if_there
from magd.errors import MagdError, NotAllowed, Reason, Unavailable, from_os_error, os_errors_of
from magd.geometry import BoundingBox
from magd.journal.format import FileStart
from magd.journal.journal_file import JournalFile, unknown
from magd.journal.places import is_side_path, journal_folder, journal_path, linked_path, unsynced_path
from magd.journal.spares import spares

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from magd.journal.format import Ranges
    from magd.journal.records import Head, WriteRecord
    from magd.journal.recovery import Recovery
    from magd.journal.scan import StoredWrite
    from magd.journal.staging import Staging


@dataclass(frozen=True, slots=True)
class OldFiles:
    """Journal files that take no more records: what `retire` removes."""

    paths: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _OldFile:
    path: str
    sequence: int
    number: int
    """Of its HEAD."""
    is_certain: bool
    """Whether its HEAD is on the disk for sure."""
    side_paths: Sequence[str]
    file: JournalFile | None
    """While it may have records that are not on the disk."""


class Journal:
    """The journal of a mag. Made by `begin`."""

    def __init__(self, folder: str, old: list[_OldFile], current: JournalFile, *, count: int) -> None:
        self._folder: Final = folder
        self._syncing: Final = threading.Lock()
        """Held while files are synced or closed."""
        self._changing: Final = threading.Lock()
        """Held for a moment, by whoever looks at or changes what follows."""
        self._old = old
        self._current = current
        self._next_sequence = current.start.sequence + 1
        self._last_number = current.start.number + count
        self._durable = self._last_number
        self._not_durable: deque[StoredWrite] = deque()
        self._in_parts: dict[int, StoredWrite] = {}
        """By number. Neither removed, nor written again."""
        self._broken = ""
        self._is_closed = False

    @classmethod
    def begin(cls, mag_folder: str, recovery: Recovery, head: Head) -> Journal:
        """Start a new epoch. When this returns its HEAD is on the disk, and so is everything that was recovered.

        The files that were recovered stay until they are retired: see `old_files`.

        :param recovery: what is there now
        :param head: of an epoch above the recovered one; with the outcomes and the unsaved extension to keep, those
            of the recovered writes included
        :raises ValueError: the epoch is not above the recovered one
        :raises DiskFull, DataLoss, NotAllowed, Unavailable: the epoch may have begun on the disk or not; it takes a
            new recovery to know. DataLoss also if a recovered write cannot be read any more
        """
        if recovery.head is not None and head.revision.epoch <= recovery.head.revision.epoch:
            raise ValueError(f"epoch {head.revision.epoch} is not above {recovery.head.revision.epoch}")
        folder = journal_folder(mag_folder)
        with os_errors_of(folder):
            _make_folders(mag_folder, folder)
            for path in recovery.leftovers:
                unlink_if_there(path)
        start = FileStart(
            head,
            sequence=recovery.next_sequence,
            oldest=recovery.files[0].sequence if recovery.files else recovery.next_sequence,
            salt=_draw_salt(),
            number=recovery.next_number,
            durable=recovery.durable,
            void=recovery.void,
        )
        again = [write for write in recovery.writes if write.number > recovery.durable]
        file = JournalFile.create(folder, start, _covered_by_head(write.read() for write in again))
        old = [_OldFile(old.path, old.sequence, old.number, True, old.side_paths, None) for old in recovery.files]
        return cls(folder, old, file, count=len(again))

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def durable(self) -> int:
        """Every record up to this number is on the disk, or was in files that are retired: then it is as durable as
        the cube files it was brought into."""
        with self._changing:
            return self._durable

    @property
    def last_number(self) -> int:
        """The number of the last record."""
        with self._changing:
            return self._last_number

    @property
    def size_bytes(self) -> int:
        """Bytes of the current journal file and its side files."""
        return self._current.size_bytes

    @property
    def is_empty(self) -> bool:
        """Whether there is no record in any of its files."""
        with self._changing:
            return not self._old and self._last_number == self._current.start.number

    @property
    def broken(self) -> str:
        """Why it takes no records; empty while it does."""
        with self._changing:
            return self._broken

    @property
    def old_files(self) -> OldFiles:
        """Everything but the current journal file."""
        with self._changing:
            return OldFiles(tuple(old.path for old in self._old))

    # -- writing -------------------------------------------------------------------------------------------------------

    def append(self, record: WriteRecord, staged: Staging | None = None) -> int:
        """Write a record. When this returns it survives the end of the process, and the next `sync` covers it.

        :param staged: all of its data, as it arrived
        :return: its number
        :raises ValueError: its data does not fit box and voxel format, or its revision is of another epoch
        :raises InvalidRequest: its request id is too long
        :raises DiskFull, DataLoss: it was not written, and cannot appear later
        :raises NotAllowed: READ_ONLY: the journal is broken; the record was not written
        :raises Unavailable: OUTCOME_UNKNOWN: the journal is broken now; the record may be there or not
        """
        self._require_sound()
        if record.revision.epoch != self._current.start.head.revision.epoch:
            raise ValueError(f"revision {record.revision} is not of epoch {self._current.start.head.revision.epoch}")
        number = self.last_number + 1
        try:
            stored = self._current.append(record, number=number, durable=self.durable, staged=staged)
        except Unavailable as error:
            with self._changing:
                self._last_number = number  # the record may be found after a crash
            self._break(error)
            raise
        with self._changing:
            self._last_number = number
            self._not_durable.append(stored)
            if stored.parts:
                self._in_parts[number] = stored
        return number

    def has_parts(self, number: int) -> bool:
        """Whether the data of a record that `append` returned the number of could become cube files."""
        with self._changing:
            return number in self._in_parts

    def link(self, numbers: Collection[int], *, unsynced: Collection[int] = ()) -> dict[int, tuple[str, ...]]:
        """Allow the parts of records to become cube files, as far as the records are on the disk. When this returns
        that is on the disk too.

        :param unsynced: records that need not be on the disk: they were promised to outlive the process, and their cube
            files are missing. Nor is it then that it was allowed
        :return: by number, the paths of the parts, in the order of `parts.parts_of`. Records that are missing are to
            be written into the cube files
        """
        with self._syncing:
            with self._changing:
                found = {
                    number: stored.parts
                    for number in numbers
                    if (number <= self._durable or number in unsynced)
                    and (stored := self._in_parts.get(number)) is not None
                }
                synced = {number for number in found if number <= self._durable}
            if not found or self.broken:
                return {}
            made: list[str] = []
            try:
                for number in found:
                    mark = linked_path if number in synced else unsynced_path
                    if _make_mark(path := mark(self._folder, number)):
                        made.append(path)
            except OSError:
                return {}  # a mark on parts that were not changed does no harm
            if not synced:
                return found
            try:
                fsync_folder(self._folder)
            except OSError as error:
                # A later sync proves nothing for these names: the next attempt makes them anew.
                with suppress(OSError):
                    for path in made:
                        unlink_if_there(path)
                self._break(unknown(from_os_error(error, self._folder)))
                return {}
            return found

    def sync(self) -> int:
        """Bring every record to the disk whose `append` returned before this call.

        :return: the highest number that is on the disk now, and all below it
        :raises NotAllowed: READ_ONLY: the journal is broken
        :raises Unavailable: OUTCOME_UNKNOWN: the journal is broken now; what is above `durable` may be on the disk
            or not
        """
        with self._syncing:
            self._require_sound()
            with self._changing:
                target = self._last_number
                files = [old.file for old in self._old if old.file is not None] + [self._current]
            try:
                for file in files:
                    file.sync()
            except Unavailable as error:
                self._break(error)
                raise
            self._set_durable(target)
            return self.durable

    def rotate(self, head: Head) -> OldFiles:
        """Start the next journal file. When this returns its HEAD is on the disk; records go there from now on.

        The HEAD may outlive a power loss that takes records written before it. So those that are promised to be on
        the disk are synced first: no outcome of theirs is remembered without them.

        :param head: of the same epoch; with everything that shall outlive the files before, so with the outcomes of
            all records appended so far, whether they were acknowledged or not
        :return: the files before, to retire when what they hold is in the cube files
        :raises NotAllowed: READ_ONLY: the journal is broken
        :raises DiskFull, DataLoss: there is no next file; records go on into the current one
        :raises Unavailable: OUTCOME_UNKNOWN: the journal is broken now
        """
        self._require_sound()
        with self._changing:
            must_sync = any(write.durability is Durability.DISK for write in self._not_durable)
        if must_sync:
            self.sync()
        self._create_next(head, durable=self.durable, void=(), rewritten=(), count=0)
        if head.closed:
            spares.drop(self._folder)  # no large write is to come
        return self.old_files

    def rewrite(self, head: Head, in_memory: Mapping[int, WriteRecord], *, without: Collection[int] = ()) -> int:
        """Write every record above `durable` again, into a new journal file that replaces the first attempts. When
        this returns all of it is on the disk, and the journal is not broken any more.

        :param head: as for `rotate`
        :param in_memory: records by the numbers that `append` returned. Those that are not among them are read from
            the files they were written to
        :param without: numbers of records that shall not count any more: nobody was told that they were committed
        :return: the highest number that is on the disk now: above those of all records that were written again
        :raises NotAllowed: READ_ONLY: the journal is closed
        :raises Unavailable: OUTCOME_UNKNOWN: it failed, the journal is broken still; what was appended may be on the
            disk or not
        """
        with self._syncing:
            if self._is_closed:
                self._require_sound()
            with self._changing:
                durable, last = self._durable, self._last_number
                stored = [write for write in self._not_durable if write.number not in without]
                self._in_parts = {number: write for number, write in self._in_parts.items() if number <= durable}
            records = (in_memory.get(write.number) or write.read() for write in stored)
            void = ((durable + 1, last),) if durable < last else ()
            try:
                self._create_next(head, durable=durable, void=void, rewritten=records, count=len(stored))
            except Unavailable:
                raise
            except MagdError as error:
                self._break(error)
                raise unknown(error) from error
            with self._changing:
                for old in self._old:
                    # They have nothing left to sync: what they have above `durable` is void.
                    if old.file is not None:
                        old.file.close()
                        old.file = None
                self._broken = ""
            self._set_durable(self.last_number)
            return self.durable

    def retire(self, old_files: OldFiles) -> None:
        """Remove journal files. The caller has brought what they hold into the cube files, and to the disk as far as
        that was promised.

        :raises NotAllowed: READ_ONLY: the journal is broken; they are there still
        :raises DataLoss: one could not be removed; the same call may be tried again
        :raises Unavailable: OUTCOME_UNKNOWN: the journal is broken now: whether one was removed is not known
        """
        with self._syncing:
            self._require_sound()
            while True:
                with self._changing:
                    old = self._old[0] if self._old and self._old[0].path in old_files.paths else None
                if old is None:
                    return
                self._remove(old)

    def close(self) -> None:
        """Let go of the files, without a sync."""
        with self._syncing, self._changing:
            if self._is_closed:
                return
            self._is_closed = True
            for file in [old.file for old in self._old if old.file is not None] + [self._current]:
                file.close()
            self._broken = "it is closed"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _create_next(
        self, head: Head, *, durable: int, void: Ranges, rewritten: Iterator[WriteRecord] | tuple[()], count: int
    ) -> None:
        epoch = self._current.start.head.revision.epoch
        if head.revision.epoch != epoch:
            raise ValueError(f"the HEAD is of epoch {head.revision.epoch}, the journal of epoch {epoch}")
        with self._changing:
            # The first of the old ones may be an attempt to follow the current one.
            oldest = min([self._current.start.sequence, *(old.sequence for old in self._old)])
            number = self._last_number + 1
        start = FileStart(head, self._next_sequence, oldest, _draw_salt(), number, durable, void)
        try:
            file = JournalFile.create(self._folder, start, rewritten)
        except Unavailable as error:
            # It may be found after a crash, so its numbers are used up.
            path = journal_path(self._folder, start.sequence)
            with self._changing:
                self._use_up(start, count)
                self._old.append(_OldFile(path, start.sequence, start.number, False, (), None))
            self._break(error)
            raise
        with self._changing:
            before = self._current
            self._use_up(start, count)
            at = before.start
            self._old.append(_OldFile(before.path, at.sequence, at.number, True, before.side_paths, before))
            self._old.sort(key=lambda old: old.number)
            self._current = file

    def _use_up(self, start: FileStart, count: int) -> None:
        self._next_sequence = start.sequence + 1
        self._last_number = start.number + count

    def _remove(self, old: _OldFile) -> None:
        # What was recovered may be read from its files still.
        may_keep = old.file is not None and not self._current.start.head.closed
        with os_errors_of(old.path):
            unlink_if_there(old.path)
        if old.file is not None:  # not before: as long as it is there, a sync has to cover it
            old.file.close()
            old.file = None
        with self._changing:
            self._old.remove(old)
            while self._not_durable and self._not_durable[0].path == old.path:
                self._not_durable.popleft()
            self._in_parts = {number: write for number, write in self._in_parts.items() if write.path != old.path}
            oldest = self._old[0].number if self._old else self._current.start.number
            is_certain = self._old[0].is_certain if self._old else True
        try:
            # Before the next one goes, and before its side files do: a journal file never misses what it names.
            fsync_folder(self._folder)
        except OSError as error:
            # It may come back. Only a HEAD that does not count it makes that harmless.
            broken = unknown(from_os_error(error, self._folder))
            self._break(broken)
            raise broken from error
        if is_certain:
            self._set_durable(oldest)
        with os_errors_of(old.path):
            for path in old.side_paths:
                if may_keep and is_side_path(path):
                    spares.keep(path)
                else:
                    unlink_if_there(path)

    def _set_durable(self, number: int) -> None:
        with self._changing:
            self._durable = max(self._durable, number)
            while self._not_durable and self._not_durable[0].number <= self._durable:
                self._not_durable.popleft()

    def _require_sound(self) -> None:
        broken = self.broken
        if broken:
            raise NotAllowed(
                f"{self._folder} takes no records: {broken}",
                reason=Reason.READ_ONLY,
                metadata={"file": self._folder},
            )

    def _break(self, error: MagdError) -> None:
        with self._changing:
            self._broken = self._broken or error.message


def _make_mark(path: str) -> bool:
    """Make an empty file.

    :return: False: it was there
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        return False
    return True


def _make_folders(mag_folder: str, folder: str) -> None:
    """The journal's folder, durably also where somebody who made it crashed before that."""
    parent = os.path.dirname(folder)
    for path in (parent, folder):
        try:
            os.mkdir(path)
        except FileExistsError:
            pass
    fsync_folder(mag_folder)
    fsync_folder(parent)


def _covered_by_head(records: Iterable[WriteRecord]) -> Iterator[WriteRecord]:
    """Recovered records, to be written behind a HEAD that has what they extended as far as that is not saved yet."""
    for record in records:
        yield replace(record, extension=BoundingBox.empty())


def _draw_salt() -> int:
    return secrets.randbits(64)
