"""The actor of a mag: the only code that touches its files.

1. It opens the mag's folder as the properties name it, after finishing or undoing what a crash left there, and takes up
   the writes in its journal.
2. It takes messages in order. Each enters the schedule with a claim, and becomes a job that starts when no earlier job
   it overlaps is under way. The actor itself never waits for a job.
3. A write with an id that is known joins the first attempt, or gets its outcome. Others go through the commit point.
4. A read takes the entries of the overlay that touch its box, and the files, in one step. One that nobody awaits any
   more is left out. A write never is.
5. With nothing to do and no operation under way it closes after a while: everything goes into the cube files and to the
   disk, and the journal keeps only what must be remembered.
6. Once it notices that another program changed its files it refuses reads and writes. What is committed stays in memory
   and in the journal, and it does not rest. When an operator asks for it, it is closed as it is; the next actor opens
   the files as they are by then, and brings what the journal has into them.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import structlog

from magd.acknowledgement import Acknowledgement, Revision
from magd.actors.commit import CommitPoint
from magd.actors.journal_keeper import JournalKeeper
from magd.actors.mag_mailbox import MagMailbox
from magd.actors.messages import (
    Describe,
    ExpectWrite,
    Flush,
    Hold,
    ListCubeFiles,
    MagFacts,
    Message,
    Read,
    ReadSlabs,
    Write,
)
from magd.actors.opening import exchange_files, header_of, open_mag
from magd.actors.outcomes import Outcomes
from magd.actors.reach import Reach
from magd.actors.reading import Reader
from magd.actors.schedule import Claim, Schedule, Turn
from magd.actors.tracking import Tracker
from magd.actors.types import (
    ExchangeEvent,
    MagState,
    MagStatus,
    StorageConfig,
)
from magd.actors.writing import Writer
from magd.errors import InternalError, MagdError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from magd.actors.actor import Envelope
    from magd.actors.carrying import Carried
    from magd.actors.dataset import DatasetActor
    from magd.actors.events import Events
    from magd.actors.notices import Notices
    from magd.actors.opening import OpenedMag
    from magd.actors.threads import Threads
    from magd.catalog.names import MagName
    from magd.catalog.root import Root
    from magd.compression.changed_blocks import ChangedBlocks
    from magd.geometry import Box

log = structlog.get_logger(__name__)

Exchange: TypeAlias = "Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]"
"""Calls what it is given, once, and changes with it what has to change."""


class MagActor(MagMailbox):
    """One mag."""

    def __init__(
        self,
        name: MagName,
        root: Root,
        dataset: DatasetActor,
        threads: Threads,
        events: Events,
        config: StorageConfig,
        notices: Notices,
        *,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(str(name), threads, mailbox_size=config.mailbox_size, on_end=on_end)
        self.mag_name = name
        self.operation = ""
        """The name of the operation that runs on the mag; while there is one, the actor does not rest."""
        self.tracker = Tracker()
        """Of the blocks that are written."""
        self._root = root
        self._dataset = dataset
        self._events = events
        self._config = config
        self._notices = notices
        self._schedule = Schedule()
        self._outcomes = Outcomes(config.request_id_window_seconds)
        self._opened: OpenedMag | None = None
        self._commit_point: CommitPoint | None = None
        self._reading: Reader | None = None
        self._writing: Writer | None = None
        self._reach = Reach(name, dataset)
        self._running = 0

    # -- for callers, beside the mailbox -----------------------------------------------------------------------------

    def facts_if_open(self) -> MagFacts | None:
        """What the mag is, or None while it is being opened or closed."""
        return self._facts() if self._opened is not None and not self.is_closed else None

    async def apply_all(self) -> None:
        """Bring everything that is visible into the cube files.

        :raises MagdError: some of it could not be applied
        """
        await self._point().boxes.flusher.flush()

    def hurry(self) -> None:
        """Memory is short: give back what is held for writes that share a rewrite."""
        if self._commit_point is not None:
            self._commit_point.boxes.flusher.hurry()

    @property
    def unapplied_bytes(self) -> int:
        """Of committed boxes that are not in the cube files yet."""
        return self._point().boxes.overlay.size_bytes

    async def read_changed(self, changed: ChangedBlocks) -> list[Carried]:
        """The voxels of some blocks, of those that were written since `tracker.take`, and of everything that is not in
        the cube files yet. Only for work that holds the mag.
        """
        changed.update(self.tracker.take())
        return await self._reader().blocks(changed)

    async def swap_files(self, new_folder: str, changed: ChangedBlocks, exchange: Exchange | None = None) -> None:
        """Put other files of the same voxels in place of the mag's. Only for work that holds the mag.

        :param new_folder: where the new files are, complete and on the disk; the old ones are there afterwards
        :param changed: blocks that were written since they were copied to the new files: they come along in the
            journal, with what was written since `tracker.take`
        :param exchange: is given what exchanges the folders, where more has to change with them
        """
        opened, keeper = self._require(), self._point().keeper
        opened.files.require_unchanged()
        await keeper.checkpoints_ended()
        async with keeper.boxes.flusher.still():
            carried = await self.read_changed(changed)
            header = await self._threads.run(header_of, new_folder)
            # The journal of the new files comes first: it is live in the moment the folders change places.
            records = await keeper.begin_in(new_folder, header, carried)

            async def swap() -> None:
                self._opened = await self._threads.run(exchange_files, opened, new_folder)

            try:
                await (swap() if exchange is None else exchange(swap))
            except MagdError as error:
                # Which files are live is for the next actor to find out: it opens the mag as after a crash.
                keeper.abandon(f"its files could not be exchanged: {error.message}")
                raise
            now = self._require()
            keeper.use(now.files, now.recovery, records)
        self._events.publish(ExchangeEvent(self.mag_name, keeper.generation))

    async def changes_since(self, revision: Revision) -> list[Box]:
        """The boxes that were committed after a revision, in voxels of the mag.

        :raises OutOfBounds: EVENTS_LOST: not all writes since then are remembered
        """
        await self.describe()
        return self._writer().history.boxes_since(revision, self.name)

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return max(0, self.owed - self._running)

    def status(self) -> MagStatus:
        """How the mag is doing."""
        point = self._commit_point
        state, reason = self._state()
        return MagStatus(
            name=self.mag_name,
            state=state,
            reason=reason,
            queue=self.queued,
            running=self._running,
            revision=point.keeper.revision if point else None,
            unsynced_bytes=point.keeper.undurable_bytes if point else 0,
            operation=self.operation,
            writes=self._writing.count if self._writing else 0,
            reads=self._reading.count if self._reading else 0,
            warnings=self._notices.of(self.mag_name),
        )

    @property
    def is_stopped(self) -> bool:
        """Whether another program changed the files, so that nothing is read or written any more."""
        return self._opened is not None and self._opened.files.changed is not None

    def _state(self) -> tuple[MagState, str]:
        """The state and its reason."""
        if self._root.read_only:
            return MagState.READ_ONLY, "the daemon serves its root read-only"
        changed = self._opened.files.changed if self._opened is not None else None
        if changed is not None:
            return MagState.FAILED, changed.message
        point = self._commit_point
        if point is None:
            return MagState.SERVING, ""
        return MagState.READ_ONLY if point.takes_no_writes else MagState.SERVING, point.trouble

    # -- the task ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        snapshot = await self._dataset.known()
        opened = await self._threads.run(open_mag, self._root, self.mag_name, snapshot)
        self._opened = opened
        try:
            keeper = self._keeper_of(opened)
            self._commit_point = CommitPoint(
                keeper,
                self._events,
                self._outcomes,
                min_durability=self._config.min_durability,
                disk_reserve_bytes=self._config.disk_reserve_bytes,
                missing=self._reach.missing,
            )
            self._reading = Reader(keeper, self._threads)
            self._writing = Writer(self.name, self._commit_point, self._reach, self._reading)
            await self._take_up(opened, keeper)
            async with asyncio.TaskGroup() as jobs:
                if not self._root.read_only:
                    jobs.create_task(keeper.boxes.flusher.run())
                try:
                    await self._take_messages(jobs)
                finally:
                    keeper.boxes.flusher.stop()
            if not self._root.read_only:
                await keeper.close()
        finally:
            await self._threads.run(self._require().close)

    def _keeper_of(self, opened: OpenedMag) -> JournalKeeper:
        return JournalKeeper(
            self.mag_name,
            opened.folder,
            opened.files,
            opened.recovery,
            self._threads,
            self._outcomes,
            flush_seconds=self._config.flush_seconds,
            extend=lambda box: self._dataset.extend(self.mag_name.layer, box),
            on_applied=self.tracker.note,
            on_broken=self.close,
            warn=lambda text: self._notices.add(self.mag_name, text),
        )

    async def _take_up(self, opened: OpenedMag, keeper: JournalKeeper) -> None:
        """Go on where the actor before stopped, or was stopped."""
        keeper.take_up()
        recovery = opened.recovery
        for note in recovery.notes:
            self._notices.add(self.mag_name, f"journal: {note}")
        if recovery.power_was_lost:
            self._notices.add(
                self.mag_name, "the power was lost: writes acknowledged below DISK may be lost, or there in part"
            )
        if recovery.head is not None and not recovery.head.unsaved_box.is_empty and not self._root.read_only:
            await self._dataset.extend(self.mag_name.layer, recovery.head.unsaved_box)

    async def _take_messages(self, jobs: asyncio.TaskGroup) -> None:
        while True:
            try:
                envelope = await self._receive(self._config.idle_seconds)
            except TimeoutError:
                # No await from here to close: nothing can come in between.
                if self._may_rest():
                    self.close()
                continue
            if envelope is None:
                await self._all_answered()  # a write may have no job of its own
                return
            self._begin(envelope, jobs)
            del envelope  # it holds a box, which would stay in memory until the next message comes

    def _may_rest(self) -> bool:
        return not self.owed and not self.operation and not self.is_stopped

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _begin(self, envelope: Envelope[Message], jobs: asyncio.TaskGroup) -> None:
        match envelope.message:
            case Describe():
                envelope.resolve(self._facts())
            case ExpectWrite():
                turn = self._schedule.enter(Claim())
                jobs.create_task(self._perform(envelope, turn, self._point().keeper.begin))
            case Write():
                self._begin_write(envelope, envelope.message, jobs)
            case Read(box):
                turn = self._schedule.enter(Claim.reading(box))
                jobs.create_task(self._perform(envelope, turn, lambda: self._reader().box(box), skippable=True))
            case ReadSlabs() as reading:
                turn = self._schedule.enter(Claim.reading(reading.box))
                work = partial(self._reader().slabs, reading, lambda: not envelope.abandoned)
                jobs.create_task(self._perform(envelope, turn, work, skippable=True))
            case ListCubeFiles() as listing:
                turn = self._schedule.enter(Claim())
                jobs.create_task(
                    self._perform(envelope, turn, lambda: self._reader().cube_files(listing), skippable=True)
                )
            case Flush(level):
                # Everything acknowledged before has left the schedule: a flush that begins now covers it.
                turn = self._schedule.enter(Claim())
                jobs.create_task(self._perform(envelope, turn, lambda: self._point().keeper.flush(level)))
            case Hold(work):
                turn = self._schedule.enter(Claim.whole_mag())
                jobs.create_task(self._perform(envelope, turn, work))

    def _begin_write(self, envelope: Envelope[Message], write: Write, jobs: asyncio.TaskGroup) -> None:
        command = write.command
        try:
            earlier = self._outcomes.join(command.request_id, write.fingerprint)
        except MagdError as error:
            envelope.reject(error)
            return
        if earlier is not None:
            jobs.create_task(self._join(envelope, earlier))
            return
        self._outcomes.begin(command.request_id, write.fingerprint, envelope.done)
        turn = self._schedule.enter(Claim.writing(command.box))
        if turn.has_come and self._writer().only_records(command):
            self._running += 1
            self._point().start(write, lambda outcome: self._end_write(envelope, turn, command.box, outcome))
        else:
            jobs.create_task(self._perform(envelope, turn, lambda: self._writer().write(write)))

    def _end_write(
        self, envelope: Envelope[Message], turn: Turn, box: Box, outcome: Acknowledgement | Exception
    ) -> None:
        """A write that had no job has its outcome."""
        if isinstance(outcome, Acknowledgement):
            self._writer().note(box, outcome)
        self._running -= 1
        turn.leave()
        if isinstance(outcome, Acknowledgement):
            envelope.resolve(outcome)
        else:
            self._reject(envelope, outcome)

    async def _join(self, envelope: Envelope[Message], earlier: asyncio.Future[Acknowledgement]) -> None:
        await asyncio.wait([earlier])
        error = earlier.exception()
        if error is None:
            envelope.resolve(earlier.result())
        else:
            envelope.reject(error)

    async def _perform(
        self,
        envelope: Envelope[Message],
        turn: Turn,
        work: Callable[[], Awaitable[object]],
        *,
        skippable: bool = False,
    ) -> None:
        """Do the work of one message in its turn. The caller hears of it when the turn has been left."""
        try:
            async with turn:
                self._running += 1
                try:
                    result = None if skippable and envelope.abandoned else await work()
                finally:
                    self._running -= 1
        except Exception as error:  # noqa: BLE001  # a bug in one job must not take the others with it
            self._reject(envelope, error)
        else:
            envelope.resolve(result)

    def _reject(self, envelope: Envelope[Message], error: Exception) -> None:
        if not isinstance(error, MagdError):
            log.error("job failed", mag=self.name, message=type(envelope.message).__name__, exc_info=error)
            error = InternalError(f"{self.name}: {error!r}", metadata={"mag": self.name})
        error.let_go()
        envelope.reject(error)

    def _facts(self) -> MagFacts:
        opened, point = self._require(), self._point()
        return MagFacts(opened.folder, opened.files.header, point.keeper.revision, point.keeper.generation)

    def _require(self) -> OpenedMag:
        assert self._opened is not None, "the actor receives after it has opened"
        return self._opened

    def _writer(self) -> Writer:
        assert self._writing is not None, "the actor receives after it has opened"
        return self._writing

    def _reader(self) -> Reader:
        assert self._reading is not None, "the actor receives after it has opened"
        return self._reading

    def _point(self) -> CommitPoint:
        assert self._commit_point is not None, "the actor receives after it has opened"
        return self._commit_point
