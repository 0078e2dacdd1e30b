"""What reads of one mag do when their turn in the schedule has come.

A read takes the entries of the overlay that touch its box, and the revision, in one step; then a thread reads the cube
files and paints the entries over. So it sees the mag as it was in that moment, whatever is applied meanwhile.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from magd.actors.cube_listing import list_some
from magd.actors.requests import slabs_of
from magd.actors.types import ReadResult, Slab
from magd.journal.overlay import read_through

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.actors.carrying import Carried
    from magd.actors.cube_listing import ListedCubeFile
    from magd.actors.journal_keeper import JournalKeeper
    from magd.actors.messages import ListCubeFiles, ReadSlabs
    from magd.actors.threads import Threads
    from magd.actors.types import WriteCommand
    from magd.compression.changed_blocks import ChangedBlocks
    from magd.geometry import Box
    from magd.voxels import VoxelArray, VoxelFormat


class Reader:
    """Reads one mag: its cube files, and what is committed and not in them yet.

    :param keeper: has both

    :ivar count: of boxes that were read for a client
    """

    def __init__(self, keeper: JournalKeeper, threads: Threads) -> None:
        self._keeper: Final = keeper
        self._threads: Final = threads
        self.count = 0

    async def box(self, box: Box) -> ReadResult:
        """One box, in voxels of the mag.

        :raises DataLoss: it cannot be read
        """
        result = await self._box(box)
        self.count += 1
        return result

    async def _box(self, box: Box) -> ReadResult:
        revision, entries = self._keeper.revision, self._keeper.boxes.overlay.touching(box)
        data = await self._threads.run(read_through, self._keeper.boxes.files.read, box, entries)
        return ReadResult(box, data, revision)

    async def slabs(self, reading: ReadSlabs, is_wanted: Callable[[], bool]) -> None:
        """The same, slab by slab: the whole box is of the moment in which its turn begins.

        :param is_wanted: whether the next slab is
        """
        revision, entries = self._keeper.revision, self._keeper.boxes.overlay.touching(reading.box)
        files = self._keeper.boxes.files
        loop = asyncio.get_running_loop()

        def read() -> None:
            for slab in slabs_of(reading.box, files.header):
                if not is_wanted():
                    return
                out = self._place_of(slab, reading, files.header.voxels)
                data = read_through(partial(files.read, out=out), slab, entries)
                loop.call_soon_threadsafe(reading.give, Slab(data, revision, out is not None))

        await self._threads.run(read)
        self.count += 1

    @staticmethod
    def _place_of(slab: Box, reading: ReadSlabs, voxels: VoxelFormat) -> VoxelArray | None:
        if reading.place is None:
            return None
        size = voxels.nbytes(slab)
        start = size // slab.size.z * (slab.offset.z - reading.box.offset.z)
        place = reading.place(start, size)
        return None if place is None else voxels.of_bytes(place, slab.size)

    async def cube_files(self, listing: ListCubeFiles) -> list[ListedCubeFile]:
        """Some cube files, those included that are to come to be."""
        # Pending first: what gets into the files meanwhile is in both.
        pending = self._keeper.boxes.overlay.boxes()
        return await self._threads.run(list_some, self._keeper.boxes.files, pending, listing)

    async def under_mask(self, command: WriteCommand) -> WriteCommand:
        """A write with what is there now in place of the voxels that are zero."""
        there = (await self._box(command.box)).data

        def lay() -> VoxelArray:
            np.copyto(there, command.data, where=(command.data != 0).any(axis=0))
            return there

        return replace(command, data=await self._threads.run(lay), staging=None)

    async def blocks(self, changed: ChangedBlocks) -> list[Carried]:
        """The voxels of some blocks, and of everything that is not in the cube files yet. Only for work that holds the
        mag.

        :param changed: gets the blocks of what is not in the cube files
        """
        boxes = self._keeper.boxes
        for box in boxes.overlay.boxes():
            changed.add(box)
        wanted = [(box, boxes.overlay.touching(box)) for box in changed.boxes()]

        def read() -> list[Carried]:
            return [(box, read_through(boxes.files.read, box, entries)) for box, entries in wanted]

        return await self._threads.run(read)
