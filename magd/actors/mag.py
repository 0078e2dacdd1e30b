"""The actor of a mag: the only code that touches its files.

1. It opens the mag's folder as the properties name it, after finishing or undoing what a crash left there.
2. It takes messages in order. Each enters the schedule with a claim, and becomes a job that starts when no earlier job
   it overlaps is under way. The actor itself never waits for a job.
3. A write with an id that is known joins the first attempt, or gets its outcome. Others go through the commit point.
4. A read that nobody awaits any more is left out. A write never is.
5. With nothing to do, no request id to remember and no operation under way it closes after a while: it syncs what is
   not on the disk yet, and ends.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import structlog

from magd.actors.actor import Actor, Envelope
from magd.actors.commit import CommitPoint
from magd.actors.messages import Describe, Flush, Hold, ListCubeFiles, Message, Read, Write
from magd.actors.opening import OpenedMag, layer_box, open_mag
from magd.actors.outcomes import Outcomes
from magd.actors.schedule import Claim, Schedule, Turn
from magd.actors.types import (
    Bounds,
    ExchangeEvent,
    MagState,
    MagStatus,
    ReadResult,
    StorageConfig,
    WriteCommand,
)
from magd.catalog.folders import exchange_mag_folders
from magd.catalog.locks import lock_folder
from magd.cubes.layout import split_by_cube_file
from magd.cubes.mag_files import CubeFile, MagFiles
from magd.errors import InternalError, MagdError, NotAllowed, OutOfBounds, Reason
from magd.journal import head as heads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from magd.acknowledgement import Acknowledgement, Revision
    from magd.actors.budget import Lease
    from magd.actors.dataset import DatasetActor
    from magd.actors.events import Events
    from magd.actors.threads import Threads
    from magd.catalog.names import MagName
    from magd.catalog.root import Root
    from magd.cubes.header import Header
    from magd.geometry import Box, Vec3

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MagFacts:
    """What a mag in use is."""

    folder: str
    """Absolute."""
    header: Header
    revision: Revision
    generation: int


class MagActor(Actor[Message]):
    """One mag."""

    def __init__(
        self,
        name: MagName,
        root: Root,
        dataset: DatasetActor,
        threads: Threads,
        events: Events,
        config: StorageConfig,
        *,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(str(name), mailbox_size=config.mailbox_size, on_end=on_end)
        self.mag_name = name
        self.operation = ""
        """The name of the operation that runs on the mag; while there is one, the actor does not rest."""
        self._root = root
        self._dataset = dataset
        self._threads = threads
        self._events = events
        self._config = config
        self._schedule = Schedule()
        self._outcomes = Outcomes(config.request_id_window_seconds)
        self._opened: OpenedMag | None = None
        self._commit_point: CommitPoint | None = None
        self._touched: set[Vec3] | None = None
        self._coming_grains: list[int] = []
        self._running = 0
        self._writes = 0
        self._reads = 0

    # -- for callers ---------------------------------------------------------------------------------------------

    def facts_if_open(self) -> MagFacts | None:
        """What the mag is, or None while it is being opened or closed."""
        return self._facts() if self._opened is not None and not self.is_closed else None

    async def describe(self) -> MagFacts:
        """What the mag is.

        :raises NotFound, NotAllowed, DataLoss: it cannot be opened
        """
        return self.facts_if_open() or cast("MagFacts", await self.ask(Describe()))

    async def write(self, command: WriteCommand, fingerprint: int, lease: Lease) -> Acknowledgement:
        """Commit one box. Cancelling the call does not cancel the write."""
        return cast("Acknowledgement", await self.ask(Write(command, fingerprint), lease))

    async def read(self, box: Box, lease: Lease) -> ReadResult:
        """Read one box, in voxels of the mag."""
        return cast("ReadResult", await self.ask(Read(box), lease))

    async def list_cube_files(self, box: Box | None, after: Vec3 | None, limit: int) -> list[CubeFile]:
        """Some cube files in (z, y, x) order."""
        return cast("list[CubeFile]", await self.ask(ListCubeFiles(box, after, limit)))

    async def flush(self) -> None:
        """Raise everything acknowledged before to DISK."""
        await self.ask(Flush())

    async def hold(self, work: Callable[[], Awaitable[None]], *, grain: int) -> None:
        """Run something while nothing else touches the mag.

        :param grain: if the work swaps the files: what two writes into the new ones must not share, in voxels
        """
        await self.ask(Hold(work, grain))

    async def swap_files(self, new_folder: str) -> None:
        """Put other files of the same voxels in place of the mag's. Only for work that holds the mag.

        :param new_folder: where the new files are, complete and on the disk; the old ones are there afterwards
        """
        opened, point = self._require(), self._point()

        def swap() -> OpenedMag:
            # The head goes into the new folder first: it is live in the moment the folders change places.
            head = point.head.exchanged()
            heads.save(new_folder, head)
            lock = lock_folder(new_folder, shared=False)
            try:
                exchange_mag_folders(opened.folder, new_folder)
                files = MagFiles.open(opened.folder)
            except BaseException:
                lock.close()
                raise
            opened.close()
            return OpenedMag(opened.folder, files, head, lock)

        try:
            self._opened = await self._threads.run(swap)
        except MagdError:
            # Which files are live is for the next actor to find out: it opens the mag as after a crash.
            self.close()
            raise
        point.use(self._opened.folder, self._opened.files, self._opened.head)
        self._events.publish(ExchangeEvent(self.mag_name, self._opened.head.generation))

    def track_changes(self) -> None:
        """Collect the cubes that writes touch from now on, writes under way included."""
        self._touched = set()

    def take_changes(self) -> set[Vec3]:
        """The cubes touched since tracking began or since the last call."""
        touched, self._touched = self._touched or set(), set()
        return touched

    def stop_tracking(self) -> None:
        """Collect no more."""
        self._touched = None

    def status(self) -> MagStatus:
        """How the mag is doing."""
        broken = self._commit_point.broken if self._commit_point else ""
        read_only = "the daemon serves its root read-only" if self._root.read_only else broken
        return MagStatus(
            name=self.mag_name,
            state=MagState.READ_ONLY if read_only else MagState.SERVING,
            reason=read_only,
            queue=max(0, self.owed - self._running),
            running=self._running,
            revision=self._commit_point.revision if self._commit_point else None,
            unsynced_bytes=self._opened.files.unsynced_bytes if self._opened else 0,
            operation=self.operation,
            writes=self._writes,
            reads=self._reads,
        )

    # -- the task ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        snapshot = await self._dataset.known()
        opened = await self._threads.run(open_mag, self._root, self.mag_name, snapshot)
        self._opened = opened
        try:
            self._commit_point = CommitPoint(
                self.mag_name,
                opened.folder,
                opened.head,
                opened.files,
                self._threads,
                self._events,
                min_durability=self._config.min_durability,
                extend=lambda box: self._dataset.extend(self.mag_name.layer, box),
            )
            async with asyncio.TaskGroup() as jobs:
                await self._take_messages(jobs)
        finally:
            await self._threads.run(self._close_files)

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
                return
            self._begin(envelope, jobs)

    def _may_rest(self) -> bool:
        return not self.owed and not self.operation and not len(self._outcomes)

    def _close_files(self) -> None:
        opened = self._require()
        try:
            if opened.files.unsynced_bytes and not self._point().broken:
                opened.files.sync()
        except MagdError:
            log.exception("sync at close failed", mag=self.name)
        opened.close()

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _begin(self, envelope: Envelope[Message], jobs: asyncio.TaskGroup) -> None:
        match envelope.message:
            case Describe():
                envelope.resolve(self._facts())
            case Write():
                self._begin_write(envelope, envelope.message, jobs)
            case Read(box):
                turn = self._schedule.enter(Claim.reading(box))
                jobs.create_task(self._perform(envelope, turn, lambda: self._read(box), skippable=True))
            case ListCubeFiles() as listing:
                turn = self._schedule.enter(Claim())
                jobs.create_task(self._perform(envelope, turn, lambda: self._list(listing), skippable=True))
            case Flush():
                # Everything acknowledged before has left the schedule: a sync that begins now covers it.
                turn = self._schedule.enter(Claim())
                jobs.create_task(self._perform(envelope, turn, self._point().sync))
            case Hold(work, grain):
                turn = self._schedule.enter(Claim.whole_mag())
                self._coming_grains.append(grain)
                envelope.done.add_done_callback(lambda _: self._coming_grains.remove(grain))
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
        # A write that waits behind a hold may go into other files: its claim must suit both.
        grain = max(self._require().files.write_grain, *self._coming_grains, 1)
        turn = self._schedule.enter(Claim.writing(command.box, grain))
        jobs.create_task(self._perform(envelope, turn, lambda: self._write(command)))

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
        except MagdError as error:
            envelope.reject(error)
        except Exception as error:  # a bug in one job must not take the others with it
            log.exception("job failed", mag=self.name, message=type(envelope.message).__name__)
            envelope.reject(InternalError(f"{self.name}: {error!r}", metadata={"mag": self.name}))
        else:
            envelope.resolve(result)

    async def _write(self, command: WriteCommand) -> Acknowledgement:
        if self._point().broken:
            raise NotAllowed(f"{self.name} takes no writes: {self._point().broken}", reason=Reason.READ_ONLY)
        if command.bounds is Bounds.REJECT:
            await self._check_bounds(command.box)
        try:
            acknowledgement = await self._point().commit(command)
        finally:
            # Also after a failure: some cube files may have been changed.
            if self._touched is not None:
                cube_len = self._require().files.header.cube_len
                self._touched.update(cube for cube, _ in split_by_cube_file(command.box, cube_len))
        self._writes += 1
        return acknowledgement

    async def _check_bounds(self, box: Box) -> None:
        bounds = layer_box(await self._dataset.known(), self.mag_name)
        if not bounds.contains(box):
            raise outside(box, bounds, self.mag_name)

    async def _read(self, box: Box) -> ReadResult:
        revision = self._point().revision
        data = await self._threads.run(self._require().files.read, box)
        self._reads += 1
        return ReadResult(box, data, revision)

    async def _list(self, listing: ListCubeFiles) -> list[CubeFile]:
        files = self._require().files

        def some() -> list[CubeFile]:
            found: list[CubeFile] = []
            for cube_file in files.cube_files(listing.box, after=listing.after):
                found.append(cube_file)
                if len(found) == listing.limit:
                    break
            return found

        return await self._threads.run(some)

    def _facts(self) -> MagFacts:
        opened, point = self._require(), self._point()
        return MagFacts(opened.folder, opened.files.header, point.revision, point.head.generation)

    def _require(self) -> OpenedMag:
        assert self._opened is not None, "the actor receives after it has opened"
        return self._opened

    def _point(self) -> CommitPoint:
        assert self._commit_point is not None, "the actor receives after it has opened"
        return self._commit_point


def outside(box: Box, bounds: Box, name: MagName) -> OutOfBounds:
    """The error of a box that leaves the bounding box of its layer."""
    return OutOfBounds(
        f"box {box} leaves the bounding box {bounds} of {name}",
        metadata={"field": "box", "value": box, "limit": bounds},
    )
