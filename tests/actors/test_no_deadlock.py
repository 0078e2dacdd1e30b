"""Work that waits for memory, work that gives memory back, and work that waits for other work never wait in a circle.

The budget holds two boxes at a time, and everything below wants more. What ends here with Busy was refused, in time and
with a time to come back; what does not end is the bug.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.actors.storage import Storage
from magd.actors.types import OperationState
from magd.catalog.root import Root
from magd.errors import Busy
from tests.actors.conftest import CONFIG
from tests.support.voxels import finished, make_mag, read, until, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from magd.catalog.names import MagName
    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray

EDGE = 32
BOX_BYTES = EDGE**3
BUDGET = 5 * BOX_BYTES
"""Two writes into a compressed mag, with what they need beside their data."""
SECONDS = 60


@asynccontextmanager
async def tight(tmp_path: Path, pool: CompressionPool) -> AsyncIterator[Storage]:
    """A storage with hardly any memory, that flushes when it has to and not before."""
    tmp_path.joinpath("root").mkdir()
    config = replace(CONFIG, budget_bytes=BUDGET, max_box_bytes=2 * BOX_BYTES, flush_seconds=3600.0)
    async with asyncio.timeout(SECONDS), Storage(Root(str(tmp_path / "root")), config, pool) as storage:
        yield storage


def filled(value: int) -> VoxelArray:
    return np.full((EDGE, EDGE, EDGE), value, dtype="uint8", order="F")


async def patient(call: Awaitable[object]) -> bool:
    """Whether it was done, and not refused."""
    try:
        await call
    except Busy:
        return False
    return True


async def write_at(storage: Storage, mag: MagName, place: int, value: int) -> None:
    await write(storage, mag, (place * EDGE // 2, 0, 0), filled(value))


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
async def test_reads_and_writes_of_the_same_voxels_that_all_wait_for_memory_all_end(
    tmp_path: Path, pool: CompressionPool, compressed: bool
) -> None:
    async with tight(tmp_path, pool) as storage:
        mag = await make_mag(storage, compressed=compressed)
        calls = [
            call
            for number in range(30)
            for call in (
                write_at(storage, mag, number % 3, number + 1),
                read(storage, mag, (0, 0, 0), (2 * EDGE, EDGE, EDGE)),
            )
        ]
        assert all(await asyncio.gather(*map(patient, calls)))
        await storage.flush(str(mag))
        assert storage.budget.used_bytes == 0


async def test_an_overlay_that_fills_the_budget_is_flushed_for_who_waits(tmp_path: Path, pool: CompressionPool) -> None:
    async with tight(tmp_path, pool) as storage:
        mags = [await make_mag(storage, mag=name, compressed=True) for name in ("1", "2", "4")]
        for number in range(12):
            await write_at(storage, mags[number % 3], number, number + 1)
        for number in range(12):
            seen = await read(storage, mags[number % 3], (number * EDGE // 2, 0, 0), (1, 1, 1))
            assert seen.item() in range(1, 13)


async def test_an_exchange_behind_queued_writers_comes_to_its_turn(tmp_path: Path, pool: CompressionPool) -> None:
    async with tight(tmp_path, pool) as storage:
        mag = await make_mag(storage)
        await write_at(storage, mag, 0, 1)
        over = asyncio.Event()

        async def keep_writing(place: int) -> int:
            value = 0
            while not over.is_set():
                value = value % 250 + 1
                await write(storage, mag, (place * EDGE, 0, 0), filled(value))
            return value

        writers = [asyncio.create_task(keep_writing(place)) for place in range(6)]
        await until(lambda: storage.budget.waiting)
        operation = await storage.compress(mag, target=None, level="fast", request_id="")
        ended = await finished(storage, operation)
        over.set()
        last = await asyncio.gather(*writers)
        assert ended.state is OperationState.SUCCEEDED
        for place, value in enumerate(last):
            assert (await read(storage, mag, (place * EDGE, 0, 0), (EDGE, EDGE, EDGE)) == value).all()
