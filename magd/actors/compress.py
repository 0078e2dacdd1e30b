"""Compressing a mag while reads and writes go on.

1. What is committed is brought into the cube files. From now on the actor collects the cubes that writes touch.
2. A work folder, beside the mag or in the layer of the target, gets a header.wkw and, from the pool, a compressed copy
   of every cube file. The pool may read a file in the middle of a write: that cube is among the touched ones, and its
   copy is made again.
3. In rounds, the copies of the cubes touched meanwhile are made again. Each round is shorter than the one before, as
   long as writers touch fewer cubes than the pool can do.
4. The actor holds the mag: no read or write runs. The overlay is brought into the cube files, what was touched since
   the last round is done a last time, and every folder of the copy is synced (the pool has synced every file).
5. In place: the work folder and the mag's folder change places, under the same hold, and the generation rises. Into
   another dataset: the hold ends, and the coordinator makes the work folder a mag of the target.
6. What is left in the work folder is removed: the old files, or, after an error or a cancel, the copies.

A crash before step 5 leaves the mag as it was, and a work folder that the next start removes; after it, the mag as it
is compressed. An operation can be cancelled up to step 4.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from magd.actors.types import OperationProgress
from magd.atomic import fsync_folder
from magd.catalog.folders import remove_tree
from magd.compression.jobs import CompressFile
from magd.cubes.header import BlockType
from magd.cubes.layout import cube_file_path
from magd.cubes.mag_files import MagFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from magd.actors.mag import MagActor, MagFacts
    from magd.actors.operations import Operation
    from magd.actors.threads import Threads
    from magd.compression.pool import CompressionPool
    from magd.cubes.encode import CompressionLevel
    from magd.geometry import Vec3

ROUNDS: Final = 8
"""Rounds at most before the hold, when writers never pause."""

LISTED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Compression:
    """One compression of one mag."""

    actor: MagActor
    operation: Operation
    pool: CompressionPool
    threads: Threads
    level: CompressionLevel
    work_folder: str
    """Does not exist yet; its folder does."""
    publish: Callable[[str], Awaitable[str]] | None
    """Makes the work folder a mag of another dataset and gives its name; None: in place."""

    async def run(self) -> str:
        """Do it.

        :return: the name of the mag that is compressed now
        :raises Cancelled: on request; nothing was changed
        """
        facts = await self.actor.describe()
        self.actor.operation = self.operation.name
        try:
            await self.actor.apply_all()
            self.actor.track_changes()
            return await self._copy_and_publish(facts)
        finally:
            self.actor.stop_tracking()
            self.actor.operation = ""
            await self.threads.run(remove_tree, self.work_folder)

    async def _copy_and_publish(self, facts: MagFacts) -> str:
        header = replace(facts.header, block_type=BlockType.LZ4HC)
        files = await self.threads.run(MagFiles.create, self.work_folder, header)
        await self.threads.run(files.close)
        copy = _Copy(self, facts.folder)

        await copy.make([cube async for cube in self._all_cubes()])
        for _ in range(ROUNDS):
            touched = self.actor.take_changes()
            if len(touched) <= self.pool.statistics.workers:
                # Few enough for the hold: put them back to be done there.
                copy.left = touched
                break
            await copy.make(touched)

        async def finish() -> None:
            await self.actor.apply_all()
            await copy.make(copy.left | self.actor.take_changes())
            await self.threads.run(sync_folders, self.work_folder)
            if self.publish is None:
                await self.actor.swap_files(self.work_folder)

        await self.actor.hold(finish)
        if self.publish is not None:
            return await self.publish(self.work_folder)
        return str(self.actor.mag_name)

    async def _all_cubes(self) -> AsyncIterator[Vec3]:
        after: Vec3 | None = None
        while True:
            some = await self.actor.list_cube_files(None, after, LISTED_AT_ONCE)
            for listed in some:
                if listed.is_on_disk:  # the others will be among the touched ones when they are
                    yield listed.file.index
            if len(some) < LISTED_AT_ONCE:
                return
            after = some[-1].file.index


class _Copy:
    """The compressed copies in the work folder, as far as they are made."""

    def __init__(self, compression: Compression, source_folder: str) -> None:
        self.left: set[Vec3] = set()
        self._compression = compression
        self._source_folder = source_folder
        self._work_folder = compression.work_folder
        self._progress = OperationProgress()
        self._known: set[Vec3] = set()
        self._done: set[Vec3] = set()

    async def make(self, cubes: Iterable[Vec3]) -> None:
        """Make the copies of these cubes, also of those that were made before; a bounded number at once."""
        cubes = list(cubes)
        again = sum(cube in self._known for cube in cubes)
        self._known.update(cubes)
        self._say(files_total=len(self._known), files_redone=self._progress.files_redone + again)
        # Two for each worker, so that none waits for this loop; no more, so that a cancel is quick.
        at_once = 2 * self._compression.pool.statistics.workers
        running: set[asyncio.Task[None]] = set()
        try:
            for cube in cubes:
                self._compression.operation.check_cancelled()
                running.add(asyncio.create_task(self._make_one(cube)))
                while len(running) >= at_once:
                    running = await _some_done(running)
            while running:
                running = await _some_done(running)
                self._compression.operation.check_cancelled()
        finally:
            # The work folder is about to be removed: nobody may write into it any more.
            if running:
                await asyncio.wait(running)

    async def _make_one(self, cube: Vec3) -> None:
        path = cube_file_path(cube)
        source, target = os.path.join(self._source_folder, path), os.path.join(self._work_folder, path)
        await self._compression.threads.run(os.makedirs, os.path.dirname(target), exist_ok=True)
        submitted = self._compression.pool.submit(CompressFile(source, target, self._compression.level))
        made = await asyncio.wrap_future(submitted)
        self._done.add(cube)
        self._say(
            files_done=len(self._done),
            files_redone=self._progress.files_redone + submitted.attempts - 1,
            bytes_in=self._progress.bytes_in + made.bytes_in,
            bytes_out=self._progress.bytes_out + made.bytes_out,
        )

    def _say(self, **changes: int) -> None:
        self._progress = replace(self._progress, **changes)
        self._compression.operation.progress(self._progress)


async def _some_done(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return running


def sync_folders(folder: str) -> None:
    """Sync a folder and all folders below it, so that the names of their files are on the disk."""
    for path, _, _ in os.walk(folder):
        fsync_folder(path)
