"""The life of a mag's journal while its actor runs: it is begun, synced, mended, checkpointed, and closed.

It begins with the first write of the actor, or while a large one is on its way: a new epoch, durably, so that no two
writes ever get the same revision.

One sync of the journal serves all that wait. A sync that fails: what is not on the disk is written again, from memory,
into a new journal file. If that fails too, the waiting writes have an unknown outcome: they do not become visible, a
crash may find them, and once the journal is mended they are void. No write is taken until then.

A checkpoint, so that the journal does not grow for ever:

1. Appends wait, until all that were appended before are visible. Extensions are saved that could not be before.
2. The next journal file is begun; its HEAD has revision and outcomes. Appends go on.
3. The overlay is brought into the cube files.
4. The cube files are synced, if that was asked for, or if the journal files before have anything that was promised to
   be on the disk: by the durability of a write, by a flush, or since it was recovered. Else that is left for later:
   what was written then counts as in no journal, and a flush to the disk ends in a checkpoint that syncs.
5. The journal files before are removed.

After the daemon was killed nobody knows which cube files were written and not synced, so the next sync is one of the
whole file system.

A sync of the cube files that fails: the journal files stay. The actor ends, and the next one applies them anew.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from magd.acknowledgement import Revision
from magd.actors.carrying import begin_journal
from magd.actors.committed import CommittedBoxes
from magd.actors.extensions import Extensions
from magd.actors.heads import remember_outcomes, with_outcomes
from magd.actors.opening import format_of
from magd.actors.outcomes import MAX_OUTCOMES
from magd.actors.sharing import Shared
from magd.actors.types import FlushLevel
from magd.errors import MagdError, Reason, Unavailable
from magd.geometry import BoundingBox
from magd.journal.journal import Journal
from magd.journal.overlay import Entry
from magd.journal.places import boot_id
from magd.journal.records import Head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from typing import TypeVar

    from magd.actors.carrying import Carried
    from magd.actors.outcomes import Outcomes
    from magd.actors.threads import Threads
    from magd.catalog.names import MagName
    from magd.cubes.header import Header
    from magd.cubes.mag_files import MagFiles
    from magd.journal.records import WriteRecord
    from magd.journal.recovery import Recovery

    T = TypeVar("T")

log = structlog.get_logger(__name__)

CHECKPOINT_BYTES: Final = 64 << 20
"""A journal file that has grown so large is followed by the next one."""
MANY_OUTCOMES_FACTOR: Final = 4
"""It may grow so many times larger where its HEAD has as many outcomes as it can have: else small writes would spend
much of their time on writing HEADs."""


class JournalKeeper:
    """Keeps the journal of one mag.

    :param folder: of the mag
    :param recovery: what its journal said when it was opened
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
        outcomes: Outcomes,
        *,
        flush_seconds: float,
        extend: Callable[[BoundingBox], Awaitable[None]],
        on_applied: Callable[[Sequence[Entry]], None],
        on_broken: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self.name: Final = name
        self.folder: Final = folder
        self._recovery = recovery
        self._threads = threads
        self._outcomes = outcomes
        self._on_applied = on_applied
        self._on_broken = on_broken
        self._warn = warn
        head = recovery.head
        self.revision = head.revision if head else Revision(0, 0)
        """Of the last write that is visible."""
        self.generation = head.generation if head else 0
        self.broken = ""
        """Why nothing can be committed any more; empty while it can."""
        self._incarnation = head.incarnation if head else ""
        self.extensions: Final = Extensions(str(name), head.unsaved_box if head else BoundingBox.empty(), extend)
        self._journal: Journal | None = None
        self._appended = self.revision
        self._records: dict[int, WriteRecord] = {}
        """In memory, by their numbers, until their boxes are in the cube files."""
        self._awaiting_sync: set[int] = set()
        """Numbers of records whose writes are committed only when they are on the disk."""
        self._abandoned: set[int] = set()
        """Numbers of records whose writes were not committed, in a journal that is broken."""
        self.order: Final = asyncio.Lock()
        """Held by who appends, from the first look at a write until it has its place."""
        self._in_use = asyncio.Lock()
        """Held while a thread appends to the journal, begins its next file or mends it."""
        self.last_visible: asyncio.Future[None] | None = None
        """Done when the last write that was appended is visible, or failed; None if there was none."""
        # The process before was killed: what it forgot the records of may be in the memory of the machine only.
        self._unjournaled = head is not None and not (head.closed or recovery.power_was_lost or files.read_only)
        """Whether something that is visible is in no journal file, and not on the disk as far as this knows."""
        if self._unjournaled:
            files.add_unsynced()
        self._being_synced = False
        """The same of what a checkpoint under way brings to the disk."""
        self._is_promised = bool(recovery.writes)
        """Whether the journal has something that was promised to be on the disk."""
        self._acknowledged_bytes = 0
        """Of all writes that are visible and were acknowledged below DISK."""
        self._durable_bytes = 0
        """Of these, the first so many are on the disk."""
        self._checkpointing = asyncio.Lock()
        self._sync = Shared(self._sync_or_rewrite)
        self.checkpoint = Shared(lambda: self._checkpoint(to_disk=True))
        """Bring everything that is visible now into the cube files and to the disk, and forget its records."""
        self.retirement = Shared(lambda: self._checkpoint(to_disk=False))
        """The same, but to the disk only where that was promised."""
        self.boxes = CommittedBoxes(
            name,
            folder,
            files,
            threads,
            flush_seconds=flush_seconds,
            journal=lambda: self._journal,
            sync_journal=self._sync,
            on_applied=self._applied,
        )

    @property
    def trouble(self) -> str:
        """What keeps it from taking records, as far as this knows; empty if nothing does."""
        return self.broken or (self._journal.broken if self._journal else "")

    @property
    def undurable_bytes(self) -> int:
        """Acknowledged bytes that a power loss could take."""
        return self._acknowledged_bytes - self._durable_bytes

    def take_up(self) -> None:
        """Go on with outcomes and writes that were recovered. The writes are visible from now on."""
        if self._recovery.head is not None:
            remember_outcomes(self._outcomes, self._recovery.head)
        self.boxes.lay([Entry(write.box, write, None) for write in self._recovery.writes])

    async def begin(self) -> None:
        """Begin the journal, if it has not begun: the next write does not wait for it then.

        :raises MagdError: it could not be begun
        """
        async with self.order:
            if not self.broken:
                await self._begun()

    # -- records -------------------------------------------------------------------------------------------------------

    async def append(self, append: Callable[[Journal, Revision], T]) -> T:
        """Have a thread append records, to a journal that has begun and is sound. Only for who holds `order`.

        :param append: gets the journal, and the last revision that was given
        :raises Unavailable: ACTOR_STOPPED, or the journal is broken and cannot be mended now
        :raises MagdError: the journal could not be begun, or what `append` raised
        """
        if self.broken:
            # The next actor recovers from the journal, and may find the disk in order.
            raise Unavailable(f"{self.name}: {self.broken}", reason=Reason.ACTOR_STOPPED)
        journal = await self._begun()
        async with self._in_use:
            if journal.broken:
                await self._rewrite(journal)
            return await self._threads.run(append, journal, self._appended)

    def note_appended(self, revision: Revision, number: int | None, record: WriteRecord | None) -> None:
        """A write has its revision, and a record unless it asked for no durability.

        :param number: of the record
        """
        if number is None:
            self._unjournaled = True
        elif record is not None:
            self._records[number] = record
        self._appended = revision

    def note_visible(self, revision: Revision, *, undurable_bytes: int) -> None:
        """A write is visible.

        :param undurable_bytes: so much of it may be lost with the power
        """
        self.revision = revision
        self._acknowledged_bytes += undurable_bytes

    def start_checkpoint_if_due(self) -> None:
        """Begin a checkpoint if the journal has grown large."""
        share = self._outcomes.ended_count / MAX_OUTCOMES
        limit = CHECKPOINT_BYTES * (1 + (MANY_OUTCOMES_FACTOR - 1) * share)
        if self._journal is not None and self._journal.size_bytes > limit:
            self.retirement.start()

    async def sync(self, number: int) -> None:
        """Bring a record to the disk, with all that were appended before.

        :raises Unavailable: OUTCOME_UNKNOWN: it may be found after a crash
        """
        self._is_promised = True
        self._awaiting_sync.add(number)
        try:
            await self._sync()
        finally:
            self._awaiting_sync.discard(number)

    def _applied(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.number is not None:
                self._records.pop(entry.number, None)
        self._on_applied(entries)

    # -- begin, sync, mend ---------------------------------------------------------------------------------------------

    async def _begun(self) -> Journal:
        """The journal of this actor's epoch, which begins with the first write."""
        if self._journal is None:
            self._incarnation = self._incarnation or uuid.uuid4().hex
            self._appended = Revision(self.revision.epoch + 1, 0)
            async with self._in_use:
                head = self._head(self._appended)()
                try:
                    self._journal = await self._threads.run(Journal.begin, self.folder, self._recovery, head)
                except MagdError as error:
                    # Whether the epoch has begun on the disk takes a new recovery to know.
                    self.abandon(f"its journal could not be begun: {error.message}")
                    raise
        return self._journal

    def _head(self, revision: Revision, *, closed: bool = False) -> Callable[[], Head]:
        """Makes the head of now, in whatever thread and later."""
        head = Head(
            incarnation=self._incarnation,
            generation=self.generation,
            revision=revision,
            format=format_of(self.boxes.files.header),
            unsaved_box=self.extensions.unsaved,
            outcomes=(),
            boot_id=boot_id(),
            closed=closed,
        )
        return with_outcomes(head, self._outcomes)

    async def _sync_or_rewrite(self) -> None:
        journal = self._journal
        if journal is None:
            return
        acknowledged, awaiting = self._acknowledged_bytes, frozenset(self._awaiting_sync)
        is_all_in_journal = not self._has_unjournaled
        try:
            await self._threads.run(journal.sync)
        except MagdError as error:
            log.exception("sync of the journal failed", mag=str(self.name), error=error.message)
            async with self._in_use:
                if journal.broken:
                    try:
                        await self._rewrite(journal)
                    except MagdError:
                        self._abandon_records(number for number in awaiting if number > journal.durable)
                        raise
            self._warn(f"a sync of the journal failed, and was made good by writing it anew: {error.message}")
        if is_all_in_journal and not self._has_unjournaled:
            self._note_durable(acknowledged)

    @property
    def _has_unjournaled(self) -> bool:
        """Whether a sync of the journal leaves something that is visible behind."""
        return self._unjournaled or self._being_synced

    def _note_durable(self, acknowledged_bytes: int) -> None:
        """What had been acknowledged when there were so many bytes is on the disk. Syncs may end in any order."""
        self._durable_bytes = max(self._durable_bytes, acknowledged_bytes)

    async def _rewrite(self, journal: Journal) -> None:
        """Write what is not on the disk again, from memory.

        :raises Unavailable: OUTCOME_UNKNOWN: that failed
        """
        head, records, abandoned = self._head(self._appended)(), dict(self._records), frozenset(self._abandoned)
        await self._threads.run(journal.rewrite, head, records, without=abandoned)
        self._abandoned -= abandoned

    def _abandon_records(self, numbers: Iterable[int]) -> None:
        """Have records not count when the journal is mended: their writes are not committed, and must not come to lie
        below later ones. To be called while the journal is held, so that nobody mends it before."""
        for number in numbers:
            del self._records[number]
            self._abandoned.add(number)

    # -- flush and checkpoint ------------------------------------------------------------------------------------------

    async def flush(self, level: FlushLevel) -> None:
        """Bring everything that is visible now further."""
        if level is FlushLevel.APPLIED:
            await self.retirement()
        elif level is FlushLevel.FILES or self._has_unjournaled:
            await self.checkpoint()
        else:
            self._is_promised = True
            await self._sync()

    async def checkpoints_ended(self) -> None:
        """Wait until no checkpoint is under way or about to begin."""
        await self.checkpoint.ended()
        await self.retirement.ended()

    async def _checkpoint(self, *, to_disk: bool) -> None:
        async with self._checkpointing:
            if self._has_nothing_to_bring() or self._is_all_brought(to_disk=to_disk):
                return
            async with self.order:
                await self._all_visible()
                await self.extensions.save_unsaved()
                journal = await self._begun()
                async with self._in_use:
                    if journal.broken:
                        await self._rewrite(journal)
                    make_head = self._head(self._appended)
                    old = await self._threads.run(lambda: journal.rotate(make_head()))
                acknowledged = self._acknowledged_bytes
                # What comes from now on is not in the old files, and says so anew.
                promised, self._is_promised = self._is_promised, False
                self._being_synced, self._unjournaled = self._unjournaled, False
            try:
                await self._bring_into_files()
                must_sync = to_disk or promised or self._is_promised
                if must_sync:
                    await self._sync_files()
                else:
                    self._unjournaled = True
                await self._threads.run(journal.retire, old)
                if must_sync:
                    # Not before: an older record might come back over what has none on the disk.
                    self._note_durable(acknowledged)
            except BaseException:
                self._is_promised = self._is_promised or promised
                self._unjournaled = self._has_unjournaled
                raise
            finally:
                self._being_synced = False

    def _has_nothing_to_bring(self) -> bool:
        return (
            self._journal is None
            and not (self._recovery.writes or self._unjournaled)
            and self.extensions.unsaved.is_empty
        )

    def _is_all_brought(self, *, to_disk: bool) -> bool:
        """Whether the checkpoint before left nothing to do for one that begins now."""
        return (
            self._journal is not None
            and self._journal.is_empty
            and not (self.trouble or self._is_promised or self.boxes.overlay.all())
            and self.extensions.unsaved.is_empty
            and not (to_disk and self._has_unjournaled)
        )

    async def _all_visible(self) -> None:
        if self.last_visible is not None:
            await asyncio.wait([self.last_visible])

    async def _bring_into_files(self) -> None:
        """Bring the overlay into the cube files.

        :raises DataLoss: also: another program changed the files. What was brought into those that are gone is to stay
            in the journal
        """
        self.boxes.files.require_unchanged()
        await self.boxes.flusher.flush()

    async def _sync_files(self) -> None:
        try:
            await self._threads.run(self.boxes.files.sync)
        except MagdError as error:
            # A sync that failed once cannot be trusted when it succeeds later: the kernel may have dropped the data.
            self.abandon(f"a sync of its files failed: {error.message}")
            raise

    # -- other files, and the end --------------------------------------------------------------------------------------

    async def begin_in(self, new_folder: str, header: Header, carried: Sequence[Carried]) -> tuple[WriteRecord, ...]:
        """Begin the journal of files that will be the mag's, with everything that shall outlive the present one.

        To be called while nothing else touches the mag, and no checkpoint is under way: one that still runs removes
        journal files by paths that will be those of the new journal.

        :param carried: voxels that the new files do not have
        :return: the records of these, for `use`
        """
        self._incarnation = self._incarnation or uuid.uuid4().hex
        present = self._head(Revision(self.revision.epoch + 1, 0), closed=True)()
        head = replace(present, generation=self.generation + 1, format=format_of(header))
        return await self._threads.run(begin_journal, new_folder, head, carried)

    def use(self, files: MagFiles, recovery: Recovery, carried: Sequence[WriteRecord]) -> None:
        """Go on with other files of the same voxels, after an exchange.

        :param carried: what `begin_in` gave; every box that was not in the files before is among these
        """
        assert recovery.head is not None, "the journal of the new files was begun"
        if self._journal is not None:
            self._journal.close()
        self._recovery, self._journal = recovery, None
        self.revision, self.generation = recovery.head.revision, recovery.head.generation
        self._unjournaled, self._is_promised = False, bool(carried)
        self._note_durable(self._acknowledged_bytes)
        self.boxes.use(files)
        self._abandoned.clear()
        self.boxes.lay([Entry(record.box, record.data, None) for record in carried])

    def abandon(self, why: str) -> None:
        """Commit nothing any more, and leave journal and files as they are on the disk."""
        self._warn(f"it is opened anew: {why}")
        self.broken = why
        self._on_broken()

    async def close(self) -> None:
        """Bring everything into the cube files and to the disk, and close the journal.

        What does not get there is in the journal, and the next actor goes on with it.
        """
        await self.checkpoints_ended()
        try:
            if not self.broken and not self._has_nothing_to_bring():
                await self._all_visible()
                await self.extensions.save_unsaved()
                await self._bring_into_files()
                await self._sync_files()
                journal = await self._begun()
                async with self._in_use:
                    old = await self._threads.run(journal.rotate, self._head(self._appended, closed=True)())
                    await self._threads.run(journal.retire, old)
        except MagdError as error:
            self._warn(f"committed boxes stay in the journal and not in the cube files: {error.message}")
        finally:
            self.boxes.release_all()
            if self._journal is not None:
                self._journal.close()
