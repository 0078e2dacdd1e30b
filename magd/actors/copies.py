"""Making the cube files of a work folder in the processes of the pool.

1. Small cube files are made by one job each, several at once. A large one is split over jobs of some MiB. As long as
   there are files enough, each part of one is made when the part before it is done, and so in its place. Where there
   are fewer, so that one alone keeps all processes busy, parts are made ahead, and brought to their places when all
   before them are done.
2. Blocks that were written meanwhile are spliced into the files that hold them, by one job for each file.
3. Should it be cancelled, or one job fail, the jobs that wait are taken back, and processes are stopped that are at
   work. When that is heard of, nobody writes into the work folder any more.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from magd.actors.types import OperationProgress
from magd.compression.jobs import (
    FinishFile,
    MakeFile,
    MakePart,
    MakePartAhead,
    PlacePart,
    RemoveBuffers,
    SampleBlocks,
    SpliceBlocks,
)
from magd.cubes.encode import BlockCounts
from magd.cubes.new_blocks import Made
from magd.errors import Cancelled, MagdError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from magd.actors.operations import Operation
    from magd.compression.changed_blocks import ChangedBlocks
    from magd.compression.jobs import Job
    from magd.compression.pool import CompressionPool, JobFuture
    from magd.cubes.convert import Conversion
    from magd.geometry import Vec3

T = TypeVar("T")

SAMPLED_SHARE: Final = 1 / 64
"""Of the blocks of a cube file that are encoded to see whether compressing gains enough..."""
LEAST_SAMPLED: Final = 8
"""...and how many at least."""


class Copies:
    """The copies in one work folder, as far as they are made."""

    def __init__(self, conversion: Conversion, operation: Operation, pool: CompressionPool) -> None:
        self._conversion: Final = conversion
        self._operation: Final = operation
        self._pool: Final = pool
        self._at_once: Final = 2 * pool.statistics.workers
        """Jobs handed in: two for each worker, so that none waits for this loop."""
        self._places: Final = asyncio.Semaphore(self._at_once)
        self._files_under_way = 0
        """Of those that are made in parts."""
        self._progress = OperationProgress()
        self._sizes: Final[dict[Vec3, int]] = {}
        self.made: Final = Made(BlockCounts())
        """What the blocks became when they were made first."""
        self.respliced_blocks = 0

    @property
    def stored_bytes(self) -> int:
        """Of all blocks as they are stored now."""
        if not self._conversion.header.block_type.is_compressed:
            return self.made.data_bytes
        start = self._conversion.header.of_cube_file().data_offset
        return sum(size - start for size in self._sizes.values() if size)

    @property
    def raw_bytes(self) -> int:
        """Of all voxels, not compressed."""
        return len(self._sizes) * self._file_bytes

    async def estimate_gain(self, cubes: Sequence[Vec3]) -> float:
        """The share of its data by which the mag would become smaller, from a sample of the blocks of each cube file.
        Blocks of zeros do not count: they take hardly any space in either form.

        :raises Cancelled: on request
        """
        data_bytes = stored_bytes = 0
        count = max(LEAST_SAMPLED, math.ceil(SAMPLED_SHARE * self._conversion.header.blocks_per_file))

        async def look(cube: Vec3) -> None:
            nonlocal data_bytes, stored_bytes
            sample = await self._run(SampleBlocks(self._conversion, cube, count))
            data_bytes += sample.data_bytes
            stored_bytes += sample.stored_data_bytes

        await self._each(cubes, look, self._at_once)
        return 1 - stored_bytes / data_bytes if data_bytes else 1.0

    async def make(self, cubes: Sequence[Vec3]) -> None:
        """Make these cube files.

        :param cubes: each one once, in this and other calls
        :raises Cancelled: on request
        """
        self._say(
            files_total=self._progress.files_total + len(cubes),
            bytes_total=self._progress.bytes_total + len(cubes) * self._file_bytes,
        )
        if self._conversion.in_one_step:
            await self._each(cubes, self._make_at_once, self._at_once)
            return
        # The one that was used last comes first: the next ones may never be needed.
        buffers = asyncio.LifoQueue[int]()
        for number in range(self._at_once):
            buffers.put_nowait(number)
        await self._each(cubes, partial(self._make_in_parts, buffers), self._at_once)
        await self._run(RemoveBuffers(self._conversion, self._at_once))

    async def splice(self, changed: ChangedBlocks, *, in_haste: bool = False, can_cancel: bool = True) -> None:
        """Bring these blocks up to date, also in cube files that were not there before.

        :param in_haste: spend no effort on compressing them
        :raises Cancelled: on request
        """
        block_bytes = self._conversion.header.block_bytes
        conversion = replace(self._conversion, level="fast") if in_haste else self._conversion

        async def splice(item: tuple[Vec3, bytes, int]) -> None:
            cube, blocks, count = item
            made = await self._run(SpliceBlocks(conversion, cube, blocks))
            is_new = cube not in self._sizes
            grown = made.size_bytes - self._sizes.get(cube, 0)
            self._sizes[cube] = made.size_bytes
            self.respliced_blocks += count
            self._say(
                files_done=self._progress.files_done + is_new,
                files_total=self._progress.files_total + is_new,
                files_redone=self._progress.files_redone + (not is_new),
                bytes_done=self._progress.bytes_done + count * block_bytes,
                bytes_out=self._progress.bytes_out + grown,
            )

        self._say(bytes_total=self._progress.bytes_total + changed.size_bytes)
        items = ((cube, blocks.tobytes(), len(blocks)) for cube, blocks in changed.by_cube_file())
        await self._each(items, splice, self._at_once, can_cancel=can_cancel)

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _file_bytes(self) -> int:
        return self._conversion.header.blocks_per_file * self._conversion.header.block_bytes

    async def _make_at_once(self, cube: Vec3) -> None:
        made = await self._run(MakeFile(self._conversion, cube))
        self._note(made)
        self._note_file(cube, made.size_bytes)

    async def _make_in_parts(self, buffers: asyncio.Queue[int], cube: Vec3) -> None:
        conversion = self._conversion
        total, most = conversion.header.blocks_per_file, conversion.blocks_per_part
        is_compressed = conversion.header.block_type.is_compressed
        offset = conversion.header.of_cube_file().data_offset
        lengths: list[bytes] = []
        is_zero = True
        under_way: deque[asyncio.Task[tuple[Made, int | None]]] = deque()

        async def make(first: int, offset: int) -> tuple[Made, None]:
            return await self._run(MakePart(conversion, cube, first, min(first + most, total), offset)), None

        async def make_ahead(first: int) -> tuple[Made, int]:
            buffer = await buffers.get()
            return await self._run(MakePartAhead(conversion, cube, first, min(first + most, total), buffer)), buffer

        async def place(buffer: int, offset: int, size: int) -> None:
            # Without waiting for a place, ahead of the parts that do: they may wait for the buffer.
            await self._await(self._pool.submit(PlacePart(conversion, cube, buffer, offset, size)))
            buffers.put_nowait(buffer)

        self._files_under_way += 1
        async with asyncio.TaskGroup() as group:
            for first in range(0, total, most):
                is_in_place = not is_compressed or not under_way
                under_way.append(group.create_task(make(first, offset) if is_in_place else make_ahead(first)))
                is_last = first + most >= total
                while len(under_way) >= max(1, self._at_once // self._files_under_way) or (is_last and under_way):
                    made, buffer = await under_way.popleft()
                    self._note(made)
                    is_zero = is_zero and made.is_zero
                    lengths.append(made.lengths)
                    if buffer is not None:
                        group.create_task(place(buffer, offset, made.size_bytes))
                    offset += made.size_bytes
        self._files_under_way -= 1
        finish = FinishFile(conversion, cube, None if is_zero else b"".join(lengths))
        self._note_file(cube, await self._run(finish))

    def _note(self, made: Made) -> None:
        self.made.add(made)
        done = made.blocks.total * self._conversion.header.block_bytes
        self._say(bytes_in=self._progress.bytes_in + done, bytes_done=self._progress.bytes_done + done)

    def _note_file(self, cube: Vec3, size_bytes: int) -> None:
        self._sizes[cube] = size_bytes
        self._say(files_done=self._progress.files_done + 1, bytes_out=self._progress.bytes_out + size_bytes)

    def _say(self, **changes: int) -> None:
        self._progress = replace(self._progress, **changes)
        self._operation.progress(self._progress)

    async def _run(self, job: Job[T]) -> T:
        """Have a job done when it has its place."""
        async with self._places:
            return await self._await(self._pool.submit(job))

    async def _await(self, submitted: JobFuture[T]) -> T:
        """The result of a job. Cancelling this stops the job, and ends when it has stopped."""
        done = asyncio.wrap_future(submitted)
        try:
            result = await asyncio.shield(done)
        except asyncio.CancelledError:
            self._pool.stop(submitted)
            await asyncio.wait([done])
            if not done.cancelled():
                done.exception()  # that it was stopped is no news
            raise
        if submitted.attempts > 1:
            self._say(files_redone=self._progress.files_redone + submitted.attempts - 1)
        return result

    async def _each(
        self, items: Iterable[T], do: Callable[[T], Awaitable[None]], at_once: int, *, can_cancel: bool = True
    ) -> None:
        """Do something with each item, with some at the same time; stop at the first error, or if asked to."""
        left = iter(items)

        async def work() -> None:
            for item in left:
                await do(item)

        async def watch() -> None:
            await self._operation.cancel_requested.wait()
            self._operation.check_cancelled()

        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(watch()) if can_cancel else None
                await asyncio.wait([group.create_task(work()) for _ in range(at_once)])
                if watcher is not None:
                    watcher.cancel()
        except BaseExceptionGroup as failed:
            raise _what_matters(failed) from None


def _what_matters(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of several: the first that is not only of a job that was stopped for another's error."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            leaves.append(error)
    of_magd = [error for error in leaves if isinstance(error, MagdError)]
    others = [error for error in leaves if not isinstance(error, MagdError)]
    failures = [error for error in of_magd if not isinstance(error, Cancelled)]
    return (others or failures or of_magd)[0]
