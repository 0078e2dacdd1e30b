"""Storing a mag in another way while reads and writes go on: compressed, raw, or in cube files of other lengths.

1. What is committed is brought into the cube files. From now on the actor collects the blocks that writes touch,
   counted in the layout of the copy.
2. With a least gain, a sample of the blocks is encoded. If they promise less, it ends here: nothing was written.
3. A work folder, beside the mag or in the layer of the target, gets a header.wkw and, from the pool, a copy of every
   cube file. The pool may read a block in the middle of a write: that block is among the touched ones.
4. In rounds, the blocks touched meanwhile are spliced into the copies. A round costs as much as was touched during the
   one before, and the files these blocks lie in. There is no further round when what is left is small. From the third
   one on, blocks are compressed without effort: who writes all the time writes them again anyway.
5. The names of all new files are synced (their contents are).
6. The actor holds the mag: no read or write runs. What was touched since the last round, and what is in no file yet, is
   read and written to the journal of the copy. So the hold is short also where cube files are large. (Only where more
   is left than the memory shall take, it is spliced into the copies before.)
7. In place: the work folder and the mag's folder change places, under the same hold, and the generation rises. Where
   the edge of a cube file changes, so does `cubeLength` in the properties; an intent keeps both together. Into another
   dataset: the hold ends, and the coordinator makes the work folder a mag of the target.
8. What is left in the work folder is removed: the old files, or, after an error or a cancel, the copies.

A crash before step 7 leaves the mag as it was, and a work folder that the next start removes; after it, the mag as it
is stored now. An operation can be cancelled up to step 6.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd.actors.copies import Copies
from magd.actors.types import OperationStatistics
from magd.atomic import fsync_folder
from magd.catalog.folders import remove_tree
from magd.cubes.convert import Conversion
from magd.cubes.layout import box_of_cube_file, split_by_cube_file
from magd.cubes.mag_files import MagFiles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from magd.actors.carrying import Carried
    from magd.actors.mag import Exchange, MagActor
    from magd.actors.operations import Operation
    from magd.actors.threads import Threads
    from magd.compression.changed_blocks import ChangedBlocks
    from magd.compression.pool import CompressionPool
    from magd.cubes.encode import CompressionLevel
    from magd.cubes.header import Header
    from magd.geometry import Vec3

ROUNDS: Final = 8
"""Rounds at most before the hold, when writers never pause."""
PATIENT_ROUNDS: Final = 2
"""After so many, blocks that are touched again and again get no effort any more, so that rounds become shorter."""
LITTLE_BYTES: Final = 4 << 20
"""Voxels that may be left for the hold without a further round: to journal them takes some milliseconds."""
CARRIED_BYTES: Final = 128 << 20
"""Voxels that may come along in the journal at most."""
HARDLY_ANY_GAIN: Final = 0.02
LISTED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Target:
    """Where the new files go."""

    header: Header
    work_folder: str
    """Does not exist yet; its folder does."""
    exchange: Exchange | None = None
    """In place: exchanges the folders together with what changes with them; None: the folders alone."""
    in_turn: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]] | None = None
    """In place: calls what needs the dataset for itself; None: nothing does."""
    publish: Callable[[str, list[Carried]], Awaitable[str]] | None = None
    """Makes the work folder, with what it lacks, a mag of another dataset and gives its name; None: in place."""


class ConversionRun:
    """One conversion of one mag."""

    def __init__(
        self,
        actor: MagActor,
        operation: Operation,
        pool: CompressionPool,
        threads: Threads,
        target: Target,
        *,
        level: CompressionLevel,
        min_gain: float = 0.0,
    ) -> None:
        self._actor: Final = actor
        self._operation: Final = operation
        self._pool: Final = pool
        self._threads: Final = threads
        self._target: Final = target
        self._level: Final[CompressionLevel] = level
        self._min_gain: Final = min_gain
        self._hold_seconds = 0.0

    async def run(self) -> str:
        """Do it.

        :return: the name of the mag as it is now; of the mag itself if it would have gained too little
        :raises Cancelled: on request; nothing was changed
        """
        actor, work_folder = self._actor, self._target.work_folder
        began = time.monotonic()
        facts = await actor.describe()
        conversion = Conversion(facts.folder, facts.header, work_folder, self._target.header, self._level)
        copies = Copies(conversion, self._operation, self._pool)
        actor.operation = self._operation.name
        try:
            await actor.apply_all()
            actor.tracker.begin(self._target.header)
            cubes = await self._cubes(facts.header.cube_len)
            gain = await copies.estimate_gain(cubes) if self._min_gain else 1.0
            if gain < self._min_gain:
                name = str(actor.mag_name)
                note = f"left as it is: compressing would save {gain:.1%} of its data, less than {self._min_gain:.1%}"
            else:
                files = await self._threads.run(MagFiles.create, work_folder, self._target.header)
                await self._threads.run(files.close)
                await copies.make(cubes)
                name = await self._catch_up_and_publish(copies)
                note = self._note_on_gain(copies)
        finally:
            actor.tracker.end()
            actor.operation = ""
            await self._threads.run(remove_tree, work_folder)
        self._operation.update(statistics=self._statistics(copies, time.monotonic() - began, note))
        return name

    async def _catch_up_and_publish(self, copies: Copies) -> str:
        actor, target = self._actor, self._target
        changed = await self._rounds(copies)
        self._operation.check_cancelled()
        await self._threads.run(sync_folders, target.work_folder)
        carried: list[Carried] = []

        async def finish() -> None:
            changed.update(actor.tracker.take())
            if changed.size_bytes + actor.unapplied_bytes > CARRIED_BYTES:
                await actor.apply_all()
                changed.update(actor.tracker.take())
                await copies.splice(changed, in_haste=True, can_cancel=False)
                changed.clear()
                await self._threads.run(sync_folders, target.work_folder)
            if target.publish is None:
                await actor.swap_files(target.work_folder, changed, target.exchange)
            else:
                carried.extend(await actor.read_changed(changed))

        async def hold() -> None:
            began = time.monotonic()
            await actor.hold(finish)
            self._hold_seconds = time.monotonic() - began

        await (hold() if target.in_turn is None else target.in_turn(hold))
        if target.publish is not None:
            return await target.publish(target.work_folder, carried)
        return str(actor.mag_name)

    async def _rounds(self, copies: Copies) -> ChangedBlocks:
        """Splice what is touched meanwhile, until little is left.

        :return: what is left
        """
        for number in range(ROUNDS):
            await self._actor.apply_all()
            changed = self._actor.tracker.take()
            if changed.size_bytes <= LITTLE_BYTES:
                return changed
            await copies.splice(changed, in_haste=number >= PATIENT_ROUNDS)
        await self._actor.apply_all()
        return self._actor.tracker.take()

    async def _cubes(self, cube_len: int) -> list[Vec3]:
        """The cube files of the copy under which there are cube files of the mag.

        :param cube_len: of the mag
        """
        new_len = self._target.header.cube_len
        found: dict[Vec3, None] = {}
        after: Vec3 | None = None
        while True:
            some = await self._actor.list_cube_files(None, after, LISTED_AT_ONCE)
            for listed in some:
                if listed.is_on_disk:  # the others will be among the touched ones when they are
                    box = box_of_cube_file(listed.file.index, cube_len)
                    found.update((cube, None) for cube, _ in split_by_cube_file(box, new_len))
            if len(some) < LISTED_AT_ONCE:
                return list(found)
            after = some[-1].file.index

    def _statistics(self, copies: Copies, seconds: float, note: str) -> OperationStatistics:
        blocks = copies.made.blocks
        return OperationStatistics(
            zero_blocks=blocks.zero,
            stored_blocks=blocks.stored,
            fast_blocks=blocks.fast,
            high_blocks=blocks.high,
            respliced_blocks=copies.respliced_blocks,
            raw_bytes=copies.raw_bytes,
            stored_bytes=copies.stored_bytes,
            seconds=seconds,
            longest_hold_seconds=self._hold_seconds,
            note=note,
        )

    def _note_on_gain(self, copies: Copies) -> str:
        made = copies.made
        if not self._target.header.block_type.is_compressed or not made.data_bytes:
            return ""
        gain = 1 - made.stored_data_bytes / made.data_bytes
        if gain >= HARDLY_ANY_GAIN:
            return ""
        return f"compressing gained next to nothing: the data takes {1 - gain:.1%} of what it took"


def sync_folders(folder: str) -> None:
    """Sync a folder and all folders below it, so that the names of their files are on the disk."""
    for path, _, _ in os.walk(folder):
        fsync_folder(path)
