"""One large box on its way in: what can be done with its data before all of it is there.

1. Parts are copied into the array of the box, on the event loop: that much must not be larger than a message. What lies
   in shared memory is copied by a thread, piece by piece. It is copied, and not used where it is, because its client
   can change it at any moment: checksum, file and what is read later must be of the same bytes.
2. Whenever a piece has come together, a thread takes it: into the checksum and into the file that will be the side file
   of its record (`journal.staging`). One piece is worked on at a time, while further parts arrive.
3. When the last part is there, what is left is taken. Then the write can be handed to the mag's actor, which sees to
   the file from then on.
4. Who leaves before leaves nothing: the file is removed by a thread, behind the piece that is worked on. The memory
   counts until then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from types import TracebackType

    from magd.actors.budget import Lease
    from magd.actors.regions import Range
    from magd.actors.threads import Threads
    from magd.geometry import Vec3
    from magd.journal.staging import Staging
    from magd.voxels import VoxelFormat

PIECE_BYTES: Final = 4 << 20
"""What a thread takes at least at a time, but for the end."""


class Arrival:
    """The data of one box, while it arrives. A context manager: leaving it cleans up, unless the write was handed over.

    :param size: of the box, in voxels of the mag
    :param staging: gets the data; None: nothing is done with it before all is there
    :param lease: the memory of the data

    :ivar data: the array of the box: (c, x, y, z), Fortran order
    """

    def __init__(
        self, voxels: VoxelFormat, size: Vec3, staging: Staging | None, threads: Threads, lease: Lease
    ) -> None:
        self.data: Final = voxels.empty(size)
        self.staging: Final = staging
        if staging is not None:
            staging.attach(self.data)
        self._bytes: Final = self.data.reshape(-1, order="F").view(np.uint8)
        self._threads: Final = threads
        self._lease: Final = lease
        self._filled = 0
        self._taken = 0
        self._work: asyncio.Future[None] | None = None

    @property
    def size_bytes(self) -> int:
        """Of the whole box."""
        return self._bytes.size

    @property
    def filled_bytes(self) -> int:
        """Of these, those that have arrived."""
        return self._filled

    def add(self, part: bytes | memoryview) -> None:
        """Take the next bytes. There must be no more than the box has."""
        end = self._filled + len(part)
        self._bytes[self._filled : end] = np.frombuffer(part, np.uint8)
        self._filled = end
        if self._work is None or self._work.done():
            self._begin(PIECE_BYTES)

    async def add_shared(self, part: Range) -> None:
        """Take the next bytes from shared memory. There must be no more than the box has.

        :raises InvalidRequest: they are not there any more
        """
        for start in range(0, len(part), PIECE_BYTES):
            end = self._filled + min(PIECE_BYTES, len(part) - start)
            await part.read_into(self._bytes[self._filled : end].data, start, self._lease)
            self._filled = end
            if self._work is None or self._work.done():
                self._begin(PIECE_BYTES)

    async def finish(self) -> None:
        """Wait until everything that has arrived was taken."""
        while self._work is not None or self._begin(1):
            if self._work is not None:
                # Cancelling this does not stop the thread.
                await asyncio.shield(self._work)
                self._work = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        staging = self.staging
        if staging is None or staging.is_handed_over:
            return
        if self._work is None or self._work.done():
            self._discard(staging)
        else:
            self._lease.keep_until(self._work)
            self._work.add_done_callback(lambda _: self._discard(staging))

    def _begin(self, least: int) -> bool:
        """Have a thread take what has arrived, if it is so much. To be called while none does."""
        if self._work is not None:
            self._work.result()  # a piece that was not taken must not go unnoticed
        if self.staging is None or self._filled - self._taken < least:
            return False
        piece = self._bytes[self._taken : self._filled].data
        self._taken = self._filled
        self._work = self._threads.start(self.staging.take, piece)
        return True

    def _discard(self, staging: Staging) -> None:
        self._threads.start(staging.discard)
