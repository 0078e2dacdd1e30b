"""The one place where a write of a mag becomes committed.

A write:

1. The cube files it touches are looked at, and the space on the disk: what can be refused is refused before anything is
   written.
2. The first write of an actor begins a new epoch, durably, so that no two writes ever get the same revision; or it has
   begun already, while a large box was on its way.
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
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.actors.types import CommitEvent
from magd.errors import DiskFull, MagdError
from magd.geometry import BoundingBox
from magd.journal.overlay import Entry
from magd.journal.records import WriteRecord
from magd.journal.space import require_space

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from magd.actors.events import Events
    from magd.actors.journal_keeper import JournalKeeper
    from magd.actors.messages import Write
    from magd.actors.outcomes import Outcomes
    from magd.actors.types import WriteCommand
    from magd.geometry import Box
    from magd.journal.journal import Journal

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

    :param keeper: of the mag's journal, with the boxes that are committed
    :param disk_reserve_bytes: disk space that no write may use up
    :param missing: what a bounding box must be enlarged by to contain one, as far as is known without looking
    """

    def __init__(
        self,
        keeper: JournalKeeper,
        events: Events,
        outcomes: Outcomes,
        *,
        min_durability: Durability,
        disk_reserve_bytes: int,
        missing: Callable[[BoundingBox], Awaitable[BoundingBox]],
    ) -> None:
        self.keeper: Final = keeper
        self.boxes: Final = keeper.boxes
        self._name = keeper.name
        self._events = events
        self._outcomes = outcomes
        self._min_durability = min_durability
        self._disk_reserve_bytes = disk_reserve_bytes
        self._missing = missing
        self._waiting: deque[_Waiting] = deque()
        self._placing: asyncio.Task[None] | None = None
        self._following: set[asyncio.Task[None]] = set()
        """Writes without a task that wait for one before them to become visible."""
        self._refusal = ""
        """Why the disk took no write when the last one was tried; empty if it did."""

    @property
    def takes_no_writes(self) -> bool:
        """Whether the disk keeps it from committing anything, as far as this knows."""
        return bool(self.keeper.trouble or self._refusal)

    @property
    def trouble(self) -> str:
        """What is wrong with the disk, as far as this knows; empty if nothing is."""
        return self.keeper.trouble or self._refusal or self.boxes.flusher.stuck

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
                await self.keeper.sync(placed.number)
            await self.keeper.extensions.save(extension, is_recorded=placed.number is not None)
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
                async with self.keeper.order:
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
        keeper = self.keeper
        appended = await keeper.append(lambda journal, revision: self._append(journal, group, revision))
        for waiting, result in zip(group, appended, strict=False):
            if isinstance(result, Exception):
                self._refusal = _refusal_of(result) or self._refusal
                waiting.fail(result)
                continue
            self._refusal = ""
            revision, number, record = result
            keeper.note_appended(revision, number, record)
            placed = _Placed(revision, number, keeper.last_visible, asyncio.get_running_loop().create_future())
            keeper.last_visible = placed.visible
            waiting.place(placed)
        # Those behind one that broke the journal come first when it has been mended.
        self._waiting.extendleft(reversed(group[len(appended) :]))
        keeper.start_checkpoint_if_due()

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
                around = command.box.aligned_outward(self.boxes.files.header.cube_len)
                if around not in looked_at:
                    self.boxes.files.check_write(command.box)
                    looked_at.add(around)
                if not is_roomy:
                    require_space(self.keeper.folder, command.data.nbytes, self._disk_reserve_bytes)
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
            require_space(self.keeper.folder, size_bytes, self._disk_reserve_bytes)
        except MagdError:
            return False  # each is asked about for itself
        return True

    def _show(self, command: WriteCommand, write: Write, ack: Acknowledgement, number: int | None) -> None:
        self.boxes.add(Entry(command.box, command.data, number), write.lease)
        undurable_bytes = command.data.nbytes if ack.durability < Durability.DISK else 0
        self.keeper.note_visible(ack.revision, undurable_bytes=undurable_bytes)
        self._outcomes.remember(command.request_id, write.fingerprint, ack)
        self._events.publish(CommitEvent(self._name, command.box, ack.revision))


def _refusal_of(error: Exception) -> str:
    """What an error says of the whole file system: it is full, or mounted read-only. Empty if it says nothing of it."""
    if isinstance(error, DiskFull) or (isinstance(error, MagdError) and error.metadata.get("errno") == "EROFS"):
        return str(error)
    return ""
