"""The one place where a write of a mag becomes committed.

1. The first write of an actor makes its epoch durable, so that no two writes ever get the same revision.
2. The data is applied to the cube files. Everything that can be refused is refused before the first byte changes.
3. A write that asked for DISK waits until the files it changed are synced. One sync serves all writes that wait.
4. If the box left the layer's bounding box, the extension is saved: data first, properties second. The save is on the
   disk before the write is acknowledged at any level.
5. The counter rises, the event is published, and the acknowledgement names what was reached.

The caller holds a turn in the schedule meanwhile and leaves it after step 5: what is not committed is not visible to
any read of the daemon.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.actors.types import CommitEvent, WriteCommand
from magd.errors import MagdError
from magd.journal import head as heads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from magd.actors.events import Events
    from magd.actors.threads import Threads
    from magd.catalog.names import MagName
    from magd.cubes.mag_files import MagFiles
    from magd.geometry import BoundingBox
    from magd.journal.head import Head

log = structlog.get_logger(__name__)


class GroupSync:
    """One sync that all who wait share: who asks while one runs waits for the next, which covers their files."""

    def __init__(self, sync: Callable[[], Awaitable[None]]) -> None:
        self._sync = sync
        self._next: asyncio.Future[None] | None = None
        self._running = asyncio.Lock()

    async def __call__(self) -> None:
        """Return when a sync that began after this call has ended.

        :raises DataLoss, DiskFull: that sync failed
        """
        if self._next is not None:
            await asyncio.shield(self._next)
            return
        mine = self._next = asyncio.get_running_loop().create_future()
        try:
            async with self._running:
                self._next = None
                await self._sync()
        except BaseException as error:
            # Who joined must hear of it, also when the one who leads is cancelled; nobody may have joined.
            mine.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            mine.exception()
            raise
        mine.set_result(None)


class CommitPoint:
    """Commits the writes of one mag.

    :param extend: saves an extension of the layer's bounding box before it returns
    """

    def __init__(
        self,
        name: MagName,
        folder: str,
        head: Head,
        files: MagFiles,
        threads: Threads,
        events: Events,
        *,
        min_durability: Durability,
        extend: Callable[[BoundingBox], Awaitable[None]],
    ) -> None:
        self._name = name
        self._folder = folder
        self._files = files
        self._threads = threads
        self._events = events
        self._min_durability = min_durability
        self._extend = extend
        self._stored = head
        self._epoch_opening = asyncio.Lock()
        self.revision = Revision(head.epoch + 1, 0)
        self.broken = ""
        """Why nothing can be committed any more; empty while it can."""
        self.sync = GroupSync(self._sync_files)

    @property
    def head(self) -> Head:
        """What is stored for the mag."""
        return self._stored

    def use(self, folder: str, files: MagFiles, head: Head) -> None:
        """Go on with other files of the same voxels, after an exchange."""
        self._folder, self._files, self._stored = folder, files, head

    async def commit(self, command: WriteCommand) -> Acknowledgement:
        """Make one write visible and as durable as it asks.

        :raises MagdError: it is not acknowledged
        """
        await self._open_epoch()
        await self._threads.run(self._files.write, command.box, command.data)
        durability = max(command.durability, self._min_durability)
        if durability >= Durability.DISK:
            await self.sync()
        await self._extend(command.box.in_mag_1(self._name.mag))
        self.revision = self.revision.next()
        self._events.publish(CommitEvent(self._name, command.box, self.revision))
        return Acknowledgement(self.revision, durability)

    async def _open_epoch(self) -> None:
        if self._stored.epoch == self.revision.epoch:
            return
        async with self._epoch_opening:
            if self._stored.epoch != self.revision.epoch:
                head = self._stored.started(self.revision.epoch)
                await self._threads.run(heads.save, self._folder, head)
                self._stored = head

    async def _sync_files(self) -> None:
        try:
            await self._threads.run(self._files.sync)
        except MagdError as error:
            # A sync that failed once cannot be trusted when it succeeds later: the kernel may have dropped the data.
            self.broken = f"a sync of its files failed: {error}"
            log.exception("sync failed, the mag takes no more writes", mag=str(self._name))
            raise
