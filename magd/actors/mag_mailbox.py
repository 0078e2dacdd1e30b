"""What can be asked of the actor of a mag: each method puts one message into its mailbox.

Nothing here touches the mag. A request that has begun is finished, also when the call is cancelled; a read that nobody
awaits any more may be left out.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, cast

from magd.actors.actor import Actor
from magd.actors.messages import Describe, ExpectWrite, Flush, Hold, ListCubeFiles, Message, Read, ReadSlabs, Write
from magd.actors.types import FlushLevel

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from magd.acknowledgement import Acknowledgement
    from magd.actors.budget import Lease
    from magd.actors.cube_listing import ListedCubeFile
    from magd.actors.messages import MagFacts
    from magd.actors.threads import Threads
    from magd.actors.types import Place, ReadResult, Slab, WriteCommand
    from magd.geometry import Box, Vec3


class MagMailbox(Actor[Message]):
    """The side of a mag's actor that its callers see."""

    def __init__(self, name: str, threads: Threads, *, mailbox_size: int, on_end: Callable[[], None]) -> None:
        super().__init__(name, mailbox_size=mailbox_size, on_end=on_end)
        self.is_held = False
        """Whether somebody holds the mag, or waits for it."""
        self._threads = threads

    @abstractmethod
    def facts_if_open(self) -> MagFacts | None:
        """What the mag is, or None while it is being opened or closed."""

    async def describe(self) -> MagFacts:
        """What the mag is.

        :raises NotFound, NotAllowed, DataLoss: it cannot be opened
        """
        return self.facts_if_open() or cast("MagFacts", await self.ask(Describe()))

    async def expect_write(self) -> None:
        """A box is on its way: have the journal begin, and do not wait for that. The write hears of what fails."""
        await self.hand_over(ExpectWrite())

    async def write(self, command: WriteCommand, fingerprint: int, lease: Lease) -> Acknowledgement:
        """Commit one box. Cancelling the call does not cancel the write."""
        envelope = await self.hand_over(Write(command, fingerprint, lease), lease)
        staging = command.staging
        if staging is not None:
            staging.is_handed_over = True
            envelope.done.add_done_callback(lambda _: self._threads.start(staging.discard))
        return cast("Acknowledgement", await self.outcome_of(envelope))

    async def begin_write(
        self, command: WriteCommand, fingerprint: int, lease: Lease
    ) -> asyncio.Future[Acknowledgement]:
        """Take one box, and return without its outcome."""
        return (await self.hand_over(Write(command, fingerprint, lease), lease)).done

    async def begin_read(self, box: Box, lease: Lease) -> asyncio.Future[ReadResult]:
        """Begin to read one box, and return without it."""
        return (await self.hand_over(Read(box), lease)).done

    async def read(self, box: Box, lease: Lease) -> ReadResult:
        """Read one box, in voxels of the mag."""
        return cast("ReadResult", await self.ask(Read(box), lease))

    async def read_slabs(
        self,
        box: Box,
        lease: Lease,
        give: Callable[[Slab], None],
        place: Place | None = None,
    ) -> None:
        """Read one box slab by slab. When the call is cancelled, what was not read then is left out.

        :param give, place: as of `ReadSlabs`; what is read may go there until the lease is given back
        """
        await self.ask(ReadSlabs(box, place, give), lease)

    async def list_cube_files(self, box: Box | None, after: Vec3 | None, limit: int) -> list[ListedCubeFile]:
        """Some cube files in (z, y, x) order."""
        return cast("list[ListedCubeFile]", await self.ask(ListCubeFiles(box, after, limit)))

    async def flush(self, level: FlushLevel = FlushLevel.FILES) -> None:
        """Bring everything acknowledged before further."""
        await self.ask(Flush(level))

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something while no read or write of the mag is under way."""
        self.is_held = True
        try:
            await self.ask(Hold(work))
        finally:
            self.is_held = False
