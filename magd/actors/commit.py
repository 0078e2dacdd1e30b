"""The one place where a write of a mag becomes committed.

A write:

1. The cube files it touches are looked at, and the space on the disk: what can be refused is refused before anything is
   written.
2. The first write of an actor begins a new epoch, durably, so that no two writes ever get the same revision.
3. It gets the next revision, and its record is appended to the journal. Appends are one after the other; small writes
   that wait at the same time go through steps 1 and 3 on one way to a thread.
4. A write that asked for DISK waits for a sync of the journal. One sync serves all that wait.
5. If the box leaves the layer's bounding box, the extension is saved. It is in the record too: should the save fail, it
   is tried again, and no record is forgotten before it has succeeded.
6. In the order of revisions, writes become visible: the box is laid into the overlay, the outcome is remembered, the
   event is published. Then the write is acknowledged.

A write that asked for NONE has no record; its extension must be saved before it is acknowledged. The caller holds a
turn in the schedule until step 6, so an overlapping read or write runs before all of it or after.

A write for which steps 4 and 5 have nothing to do needs no task: it becomes visible with its place, unless one before
it is not visible yet.

A checkpoint, so that the journal does not grow for ever:

1. Appends wait, until all that were appended before are visible. Extensions are saved that could not be before.
2. The next journal file is begun; its HEAD has revision and outcomes. Appends go on.
3. The overlay is brought into the cube files, the files are synced.
4. The journal files before are removed.

A sync of the journal that fails: what is not on the disk is written again, from memory, into a new journal file. If
that fails too, the waiting writes have an unknown outcome: they do not become visible, a crash may find them, and once
the journal is mended they are void. No write is taken until then. A sync of the
cube files that fails: the journal files stay. The actor ends, and the next one applies them anew.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.actors.carrying import begin_journal
from magd.actors.flusher import Flusher
from magd.actors.opening import format_of
from magd.actors.outcomes import MAX_OUTCOMES
from magd.actors.sharing import Shared
from magd.actors.types import CommitEvent
from magd.errors import DiskFull, MagdError, Reason, Unavailable
from magd.geometry import BoundingBox
from magd.journal.journal import Journal
from magd.journal.overlay import Entry, Overlay
from magd.journal.places import boot_id
from magd.journal.records import Head, Outcome, WriteRecord
from magd.journal.space import require_space

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from magd.actors.budget import Lease
    from magd.actors.carrying import Carried
    from magd.actors.events import Events
    from magd.actors.messages import Write
    from magd.actors.outcomes import Outcomes
    from magd.actors.threads import Threads
    from magd.actors.types import WriteCommand
    from magd.catalog.names import MagName
    from magd.cubes.header import Header
    from magd.cubes.mag_files import MagFiles
    from magd.geometry import Box
    from magd.journal.recovery import Recovery
    from magd.journal.scan import StoredWrite

log = structlog.get_logger(__name__)

CHECKPOINT_BYTES: Final = 64 << 20
"""A journal file that has grown so large is followed by the next one."""
MANY_OUTCOMES_FACTOR: Final = 4
"""It may grow so many times larger where its HEAD has as many outcomes as it can have: else small writes would spend
much of their time on writing HEADs."""
TOGETHER_BYTES: Final = 1 << 20
"""Small writes that wait together go to a thread together, up to so many bytes."""


@dataclass(slots=True)
class _Placed:
    """A write that has its place in the order of revisions."""

    revision: Revision
    number: int | None
    """Of its record; None if it has none."""
    before: asyncio.Future[None] | None
    """Done when the write before it is visible, or failed; None if there was none."""
    visible: asyncio.Future[None]
    """The same of this one."""


class _Waiting:
    """A write that waits for its place.

    :param on_placed: called with its place, or why it has none
    """

    def __init__(
        self,
        write: Write,
        durability: Durability,
        extension: BoundingBox,
        on_placed: Callable[[_Placed | Exception], None],
    ) -> None:
        self.write: Final = write
        self.durability: Final = durability
        self.extension: Final = extension
        self._on_placed = on_placed
        self._is_done = False

    def record(self, revision: Revision) -> WriteRecord:
        """Its record, if this is its revision."""
        command = self.write.command
        return WriteRecord(
            request_id=command.request_id,
            fingerprint=self.write.fingerprint,
            box=command.box,
            extension=self.extension,
            durability=self.durability,
            revision=revision,
            unix_time=time.time(),
            data=command.data,
        )

    def fail(self, error: Exception) -> None:
        """It is refused, unless it has its place."""
        if self._is_done:
            return
        if isinstance(error, MagdError):
            # A fresh one for each write: a raised error collects a traceback.
            error = type(error)(
                error.message, reason=error.reason, metadata=error.metadata, retry_after=error.retry_after
            )
        self._is_done = True
        self._on_placed(error)

    def place(self, placed: _Placed) -> None:
        """It has its place."""
        self._is_done = True
        self._on_placed(placed)


class CommitPoint:
    """Commits the writes of one mag.

    :param folder: of the mag
    :param recovery: what its journal said when it was opened
    :param disk_reserve_bytes: disk space that no write may use up
    :param missing: what a bounding box must be enlarged by to contain one, as far as is known without looking
    :param extend: saves an extension of the layer's bounding box before it returns
    :param on_applied: called with the entries that got into the cube files
    :param on_broken: called when nothing can be committed through this any more
    :param warn: called with what an operator should know
    """

    def __init__(
        self,
        name: MagName,
        folder: str,
        files: MagFiles,
        recovery: Recovery,
        threads: Threads,
        events: Events,
        outcomes: Outcomes,
        *,
        min_durability: Durability,
        flush_seconds: float,
        disk_reserve_bytes: int,
        missing: Callable[[BoundingBox], Awaitable[BoundingBox]],
        extend: Callable[[BoundingBox], Awaitable[None]],
        on_applied: Callable[[Sequence[Entry]], None],
        on_broken: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self._name = name
        self._on_broken = on_broken
        self._warn = warn
        self._folder = folder
        self._files = files
        self._recovery = recovery
        self._threads = threads
        self._events = events
        self._outcomes = outcomes
        self._min_durability = min_durability
        self._disk_reserve_bytes = disk_reserve_bytes
        self._missing = missing
        self._extend = extend
        self._on_applied = on_applied
        head = recovery.head
        self.revision = head.revision if head else Revision(0, 0)
        self.generation = head.generation if head else 0
        self.broken = ""
        """Why nothing can be committed any more; empty while it can."""
        self._incarnation = head.incarnation if head else ""
        self._unsaved = head.unsaved_box if head else BoundingBox.empty()
        self._journal: Journal | None = None
        self._appended = self.revision
        self._records: dict[int, WriteRecord] = {}
        self._awaiting_sync: set[int] = set()
        """Numbers of records whose writes are committed only when they are on the disk."""
        self._abandoned: set[int] = set()
        """Numbers of records whose writes were not committed, in a journal that is broken."""
        self._leases: dict[Entry, Lease] = {}
        self._order = asyncio.Lock()
        self._journal_in_use = asyncio.Lock()
        self._last_visible: asyncio.Future[None] | None = None
        self._waiting: deque[_Waiting] = deque()
        self._placing: asyncio.Task[None] | None = None
        self._following: set[asyncio.Task[None]] = set()
        """Writes without a task that wait for one before them to become visible."""
        self._refusal = ""
        """Why the disk took no write when the last one was tried; empty if it did."""
        self._unjournaled = False
        self._undurable_bytes = 0
        self.overlay = Overlay()
        self.flusher = Flusher(
            str(name),
            self.overlay,
            threads,
            lambda: self._files,
            self._link,
            age_seconds=flush_seconds,
            on_applied=self._applied,
        )
        self._sync_journal = Shared(self._sync_or_rewrite)
        self.checkpoint = Shared(self._checkpoint)
        """Bring everything that is visible now into the cube files and to the disk, and forget its records."""

    @property
    def takes_no_writes(self) -> bool:
        """Whether the disk keeps it from committing anything, as far as this knows."""
        return bool(self.broken or self._refusal or (self._journal is not None and self._journal.broken))

    @property
    def trouble(self) -> str:
        """What is wrong with the disk, as far as this knows; empty if nothing is."""
        return self.broken or (self._journal.broken if self._journal else "") or self._refusal or self.flusher.stuck

    @property
    def undurable_bytes(self) -> int:
        """Acknowledged bytes that a power loss could take."""
        return self._undurable_bytes

    def remember(self) -> None:
        """Take up outcomes that were recovered."""
        now = time.time()
        for outcome in self._recovery.head.outcomes if self._recovery.head else ():
            age = max(0.0, now - outcome.unix_time)
            self._outcomes.remember(outcome.request_id, outcome.fingerprint, outcome.acknowledgement, age_seconds=age)

    def lay(self, recovered: Sequence[StoredWrite]) -> None:
        """Take up writes that were recovered, in their order. They are visible from now on."""
        for write in recovered:
            self.overlay.add(Entry(write.box, write, None))
        if recovered:
            self.flusher.wake()

    # -- writes --------------------------------------------------------------------------------------------------------

    async def commit(self, write: Write) -> Acknowledgement:
        """Make one write visible and as durable as it asks.

        :raises Unavailable: OUTCOME_UNKNOWN: it may be found after a crash
        :raises MagdError: it is not committed, and will not be
        """
        command = write.command
        durability = max(command.durability, self._min_durability)
        extension = await self._missing(command.box.in_mag_1(self._name.mag))
        placed = await self._place(write, durability, extension)
        acknowledgement = Acknowledgement(placed.revision, durability)
        try:
            if placed.number is not None and durability >= Durability.DISK:
                await self._sync_record(placed.number)
            await self._save_extension(extension, durability)
            if placed.before is not None and not placed.before.done():
                await asyncio.wait([placed.before])
            self._show(command, write, acknowledgement, placed.number)
        finally:
            placed.visible.set_result(None)
        return acknowledgement

    def takes_no_time(self, durability: Durability) -> bool:
        """Whether there is nothing to wait for between the record of a write inside of the layer's bounding box and
        its acknowledgement."""
        return max(durability, self._min_durability) < Durability.DISK

    def start(self, write: Write, on_end: Callable[[Acknowledgement | Exception], None]) -> None:
        """Commit one write that takes no time, and lies inside of the layer's bounding box, without a task for it.

        :param on_end: called once it is visible, or with why it never will be: a MagdError, or a bug
        """
        durability = max(write.command.durability, self._min_durability)

        def show(placed: _Placed) -> None:
            acknowledgement = Acknowledgement(placed.revision, durability)
            try:
                self._show(write.command, write, acknowledgement, placed.number)
            except Exception as error:  # noqa: BLE001  # a bug in one write must not take the others with it
                on_end(error)
            else:
                on_end(acknowledgement)
            finally:
                placed.visible.set_result(None)

        async def follow(placed: _Placed, before: asyncio.Future[None]) -> None:
            await asyncio.wait([before])
            show(placed)

        def go_on(placed: _Placed | Exception) -> None:
            if isinstance(placed, Exception):
                on_end(placed)
            elif placed.before is None or placed.before.done():
                show(placed)
            else:
                task = asyncio.get_running_loop().create_task(follow(placed, placed.before))
                self._following.add(task)
                task.add_done_callback(self._following.discard)

        self._queue(_Waiting(write, durability, BoundingBox.empty(), go_on))

    async def _place(self, write: Write, durability: Durability, extension: BoundingBox) -> _Placed:
        """Give a write its place in the order of revisions, and its record."""
        future: asyncio.Future[_Placed] = asyncio.get_running_loop().create_future()

        def wake(placed: _Placed | Exception) -> None:
            if isinstance(placed, Exception):
                future.set_exception(placed)
            else:
                future.set_result(placed)

        self._queue(_Waiting(write, durability, extension, wake))
        return await future

    def _queue(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if self._placing is None:
            self._placing = asyncio.get_running_loop().create_task(self._place_all())

    async def _place_all(self) -> None:
        try:
            while self._waiting:
                async with self._order:
                    group = self._next_group()
                    try:
                        await self._place_group(group)
                    except Exception as error:  # noqa: BLE001  # who waits must hear of it, whatever it is
                        for waiting in group:
                            waiting.fail(error)
        finally:
            self._placing = None

    def _next_group(self) -> list[_Waiting]:
        """The next ones: small ones go to a thread together, a large one goes alone."""
        group = [self._waiting.popleft()]
        size_bytes = group[0].write.command.data.nbytes
        while self._waiting and size_bytes + self._waiting[0].write.command.data.nbytes <= TOGETHER_BYTES:
            group.append(self._waiting.popleft())
            size_bytes += group[-1].write.command.data.nbytes
        return group

    async def _place_group(self, group: Sequence[_Waiting]) -> None:
        self._refuse_if_broken()
        journal = await self._begun()
        async with self._journal_in_use:
            if journal.broken:
                await self._rewrite(journal)
            appended = await self._threads.run(self._append, journal, group, self._appended)
        for waiting, result in zip(group, appended, strict=False):
            if isinstance(result, Exception):
                self._refusal = _refusal_of(result) or self._refusal
                waiting.fail(result)
                continue
            self._refusal = ""
            revision, number, record = result
            if number is None:
                self._unjournaled = True
            elif record is not None:
                self._records[number] = record
            self._appended = revision
            placed = _Placed(revision, number, self._last_visible, asyncio.get_running_loop().create_future())
            self._last_visible = placed.visible
            waiting.place(placed)
        # Those behind one that broke the journal come first when it has been mended.
        self._waiting.extendleft(reversed(group[len(appended) :]))
        share = self._outcomes.ended_count / MAX_OUTCOMES
        if journal.size_bytes > CHECKPOINT_BYTES * (1 + (MANY_OUTCOMES_FACTOR - 1) * share):
            self.checkpoint.start()

    def _append(
        self, journal: Journal, group: Sequence[_Waiting], revision: Revision
    ) -> list[tuple[Revision, int | None, WriteRecord | None] | Exception]:
        """Look at the files under boxes and append their records; in a thread.

        :return: for each: its revision, the number of its record and the record, or why it is refused. Those behind one
            that broke the journal are missing
        """
        results: list[tuple[Revision, int | None, WriteRecord | None] | Exception] = []
        # Small writes that go together mostly lie in one cube file: it is looked at once, and so is the disk.
        is_roomy = len(group) > 1 and self._has_space(sum(waiting.write.command.data.nbytes for waiting in group))
        looked_at: set[Box] = set()
        for waiting in group:
            command = waiting.write.command
            try:
                around = command.box.aligned_outward(self._files.header.cube_len)
                if around not in looked_at:
                    self._files.check_write(command.box)
                    looked_at.add(around)
                if not is_roomy:
                    require_space(self._folder, command.data.nbytes, self._disk_reserve_bytes)
                if waiting.durability is Durability.NONE:
                    number, record = None, None
                else:
                    record = waiting.record(revision.next())
                    number = journal.append(record, command.staging)
            except Exception as error:  # noqa: BLE001  # a bug in one write must not take the others with it
                if isinstance(error, MagdError):
                    error.let_go()
                results.append(error)
                if journal.broken:
                    break
            else:
                revision = revision.next()
                results.append((revision, number, record))
        return results

    def _has_space(self, size_bytes: int) -> bool:
        try:
            require_space(self._folder, size_bytes, self._disk_reserve_bytes)
        except MagdError:
            return False  # each is asked about for itself
        return True

    def _show(self, command: WriteCommand, write: Write, ack: Acknowledgement, number: int | None) -> None:
        entry = Entry(command.box, command.data, number)
        self.overlay.add(entry)
        write.lease.keep()
        self._leases[entry] = write.lease
        if ack.durability < Durability.DISK:
            self._undurable_bytes += command.data.nbytes
        self.revision = ack.revision
        self._outcomes.remember(command.request_id, write.fingerprint, ack)
        self._events.publish(CommitEvent(self._name, command.box, ack.revision))
        self.flusher.wake()
        if write.lease.is_wanted:
            # Those who wait now had the flusher hurry when they began to; what came later would rest here.
            self.flusher.hurry()

    async def _save_extension(self, extension: BoundingBox, durability: Durability) -> None:
        if extension.is_empty:
            return
        try:
            await self._extend(extension)
        except MagdError as error:
            if durability is Durability.NONE:
                raise
            self._unsaved = self._unsaved.union(extension)
            log.warning("bounding box not saved yet", mag=str(self._name), error=error.message)

    def _applied(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.number is not None:
                self._records.pop(entry.number, None)
            lease = self._leases.pop(entry, None)
            if lease is not None:
                lease.release()
        self._on_applied(entries)

    async def _link(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Make the parts of records cube files, where nothing that was committed before is on its way there.

        :return: the entries that are wholly in the cube files now
        """
        journal = self._journal
        if journal is None:
            return ()
        in_parts = {
            entry.number: entry
            for entry in entries
            if entry.number is not None and journal.has_parts(entry.number) and self._is_first(entry)
        }
        if not in_parts:
            return ()
        if max(in_parts) > journal.durable:
            # When a part is a cube file there is no second copy of its voxels: they have to be on the disk before.
            try:
                await self._sync_journal()
            except MagdError:
                return ()
        return await self._threads.run(self._link_parts, journal, in_parts)

    def _is_first(self, entry: Entry) -> bool:
        """Whether no entry before touches one of its cube files."""
        around = entry.box.aligned_outward(self._files.header.cube_len)
        return self.overlay.touching(around)[0] is entry

    def _link_parts(self, journal: Journal, in_parts: Mapping[int, Entry]) -> Sequence[Entry]:
        linked: list[Entry] = []
        for number, paths in journal.link(in_parts.keys()).items():
            entry = in_parts[number]
            try:
                if self._files.link(entry.box, [os.path.relpath(path, self._folder) for path in paths]):
                    linked.append(entry)
            except MagdError as error:
                # It is tried again by writing the box.
                log.warning("parts did not become cube files", mag=str(self._name), error=error.message)
        return linked

    def _refuse_if_broken(self) -> None:
        if self.broken:
            # The next actor recovers from the journal, and may find the disk in order.
            raise Unavailable(f"{self._name}: {self.broken}", reason=Reason.ACTOR_STOPPED)

    def abandon(self, why: str) -> None:
        """Commit nothing any more, and leave journal and files as they are on the disk."""
        self._break(why)

    def _break(self, why: str) -> None:
        self._warn(f"it is opened anew: {why}")
        self.broken = why
        self._on_broken()

    # -- the journal ---------------------------------------------------------------------------------------------------

    async def _begun(self) -> Journal:
        """The journal of this actor's epoch, which begins with the first write."""
        if self._journal is None:
            self._incarnation = self._incarnation or uuid.uuid4().hex
            self._appended = Revision(self.revision.epoch + 1, 0)
            async with self._journal_in_use:
                head = self._head(self._appended)
                try:
                    self._journal = await self._threads.run(Journal.begin, self._folder, self._recovery, head)
                except MagdError as error:
                    # Whether the epoch has begun on the disk takes a new recovery to know.
                    self._break(f"its journal could not be begun: {error.message}")
                    raise
        return self._journal

    def _head(self, revision: Revision, *, closed: bool = False) -> Head:
        return self._head_maker(revision, closed=closed)()

    def _head_maker(self, revision: Revision, *, closed: bool = False) -> Callable[[], Head]:
        """Makes the head of now, in whatever thread and later: it may have thousands of outcomes."""
        now, ended = time.time(), self._outcomes.ended()
        head = Head(
            incarnation=self._incarnation,
            generation=self.generation,
            revision=revision,
            format=format_of(self._files.header),
            unsaved_box=self._unsaved,
            outcomes=(),
            boot_id=boot_id(),
            closed=closed,
        )

        def make() -> Head:
            outcomes = tuple(
                Outcome(request_id, fingerprint, acknowledgement, now - age)
                for request_id, fingerprint, acknowledgement, age in ended
                if isinstance(fingerprint, int)
            )
            return replace(head, outcomes=outcomes)

        return make

    async def _sync_record(self, number: int) -> None:
        self._awaiting_sync.add(number)
        try:
            await self._sync_journal()
        finally:
            self._awaiting_sync.discard(number)

    async def _sync_or_rewrite(self) -> None:
        journal = self._journal
        if journal is None:
            return
        undurable, awaiting = self._undurable_bytes, frozenset(self._awaiting_sync)
        try:
            await self._threads.run(journal.sync)
        except MagdError as error:
            log.exception("sync of the journal failed", mag=str(self._name), error=error.message)
            async with self._journal_in_use:
                if journal.broken:
                    try:
                        await self._rewrite(journal)
                    except MagdError:
                        self._abandon(number for number in awaiting if number > journal.durable)
                        raise
            self._warn(f"a sync of the journal failed, and was made good by writing it anew: {error.message}")
        if not self._unjournaled:
            self._undurable_bytes -= undurable

    async def _rewrite(self, journal: Journal) -> None:
        """Write what is not on the disk again, from memory.

        :raises Unavailable: OUTCOME_UNKNOWN: that failed
        """
        head, records, abandoned = self._head(self._appended), dict(self._records), frozenset(self._abandoned)
        await self._threads.run(journal.rewrite, head, records, without=abandoned)
        self._abandoned -= abandoned

    def _abandon(self, numbers: Iterable[int]) -> None:
        """Have records not count when the journal is mended: their writes are not committed, and must not come to lie
        below later ones. To be called while the journal is held, so that nobody mends it before."""
        for number in numbers:
            del self._records[number]
            self._abandoned.add(number)

    async def flush(self, *, to_files: bool) -> None:
        """Raise everything that is visible now to DISK; with `to_files` also bring it into the cube files."""
        if to_files or self._unjournaled:
            await self.checkpoint()
        else:
            await self._sync_journal()

    async def _checkpoint(self) -> None:
        if self._has_nothing_to_bring():
            return
        async with self._order:
            await self._all_visible()
            await self._save_unsaved()
            journal = await self._begun()
            async with self._journal_in_use:
                if journal.broken:
                    await self._rewrite(journal)
                make_head = self._head_maker(self._appended)
                old = await self._threads.run(lambda: journal.rotate(make_head()))
            undurable, self._unjournaled = self._undurable_bytes, False
        await self._bring_to_disk()
        await self._threads.run(journal.retire, old)
        self._undurable_bytes -= undurable

    def _has_nothing_to_bring(self) -> bool:
        return self._journal is None and not self._recovery.writes and self._unsaved.is_empty

    async def _all_visible(self) -> None:
        if self._last_visible is not None:
            await asyncio.wait([self._last_visible])

    async def _bring_to_disk(self) -> None:
        """Bring the overlay into the cube files, and those to the disk.

        :raises DataLoss: also: another program changed the files. What was brought into those that are gone is to stay
            in the journal
        """
        self._files.require_unchanged()
        await self.flusher.flush()
        try:
            await self._threads.run(self._files.sync)
        except MagdError as error:
            # A sync that failed once cannot be trusted when it succeeds later: the kernel may have dropped the data.
            self._break(f"a sync of its files failed: {error.message}")
            raise

    async def _save_unsaved(self) -> None:
        """Before the HEAD of the next journal file is written: what is in it is saved again after a crash, and would
        undo what made the bounding box smaller meanwhile."""
        if not self._unsaved.is_empty:
            await self._extend(self._unsaved)
            self._unsaved = BoundingBox.empty()

    # -- other files, and the end --------------------------------------------------------------------------------------

    async def begin_in(self, new_folder: str, header: Header, carried: Sequence[Carried]) -> tuple[WriteRecord, ...]:
        """Begin the journal of files that will be the mag's, with everything that shall outlive the present one.

        To be called while nothing else touches the mag, and no checkpoint is under way: one that still runs removes
        journal files by paths that will be those of the new journal.

        :param carried: voxels that the new files do not have
        :return: the records of these, for `use`
        """
        self._incarnation = self._incarnation or uuid.uuid4().hex
        present = self._head(Revision(self.revision.epoch + 1, 0), closed=True)
        head = replace(present, generation=self.generation + 1, format=format_of(header))
        return await self._threads.run(begin_journal, new_folder, head, carried)

    def use(self, files: MagFiles, recovery: Recovery, carried: Sequence[WriteRecord]) -> None:
        """Go on with other files of the same voxels, after an exchange.

        :param carried: what `begin_in` gave; every box that was not in the files before is among these
        """
        assert recovery.head is not None, "the journal of the new files was begun"
        if self._journal is not None:
            self._journal.close()
        self._files, self._recovery, self._journal = files, recovery, None
        self.revision, self.generation = recovery.head.revision, recovery.head.generation
        self._undurable_bytes, self._unjournaled = 0, False
        left = self.overlay.all()
        self.overlay.drop(left)
        self._applied(left)
        self._abandoned.clear()
        for record in carried:
            self.overlay.add(Entry(record.box, record.data, None))
        if carried:
            self.flusher.wake()

    async def close(self) -> None:
        """Bring everything into the cube files and to the disk, and close the journal.

        What does not get there is in the journal, and the next actor goes on with it.
        """
        await self.checkpoint.ended()
        try:
            if not self.broken and not self._has_nothing_to_bring():
                await self._all_visible()
                await self._save_unsaved()
                await self._bring_to_disk()
                journal = await self._begun()
                async with self._journal_in_use:
                    old = await self._threads.run(journal.rotate, self._head(self._appended, closed=True))
                    await self._threads.run(journal.retire, old)
        except MagdError as error:
            self._warn(f"committed boxes stay in the journal and not in the cube files: {error.message}")
        finally:
            for lease in self._leases.values():
                lease.release()
            self._leases.clear()
            if self._journal is not None:
                self._journal.close()


def _refusal_of(error: Exception) -> str:
    """What an error says of the whole file system: it is full, or mounted read-only. Empty if it says nothing of it."""
    if isinstance(error, DiskFull) or (isinstance(error, MagdError) and error.metadata.get("errno") == "EROFS"):
        return str(error)
    return ""
