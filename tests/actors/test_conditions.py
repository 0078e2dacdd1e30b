"""Conditional and masked writes: several who correct labels at once lose nothing of each other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.acknowledgement import Revision
from magd.actors import history as module
from magd.actors.history import History
from magd.actors.storage import Storage
from magd.actors.types import Mask
from magd.catalog.root import Root
from magd.errors import Conflict, InvalidRequest, Reason
from magd.geometry import Box
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, read, read_result, write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray

BOX = Box.of((0, 0, 0), (8, 8, 8))
SIZE = (8, 8, 8)


def filled(value: int, *size: int) -> VoxelArray:
    return np.full(size or SIZE, value, dtype="uint8", order="F")


async def test_a_condition_holds_until_an_overlapping_box_is_committed(storage: Storage) -> None:
    mag = await make_mag(storage)
    first = await write(storage, mag, (0, 0, 0), filled(1))
    await write(storage, mag, (8, 0, 0), filled(2))
    second = await write(storage, mag, (0, 0, 0), filled(3), if_revision=first.revision)
    with pytest.raises(Conflict) as refused:
        await write(storage, mag, (7, 7, 7), filled(4), if_revision=first.revision)
    assert refused.value.reason is Reason.REVISION_MISMATCH
    assert refused.value.metadata["current"] == f"{second.revision.epoch}.{second.revision.counter}"
    assert (await read(storage, mag, (0, 0, 0), SIZE) == 3).all()
    await write(storage, mag, (7, 7, 7), filled(4), if_revision=second.revision)


async def test_a_retry_of_a_conditional_write_gets_its_outcome_not_a_conflict_with_itself(storage: Storage) -> None:
    mag = await make_mag(storage)
    first = await write(storage, mag, (0, 0, 0), filled(1))
    again = [
        await write(storage, mag, (0, 0, 0), filled(2), if_revision=first.revision, request_id="same") for _ in range(2)
    ]
    assert again[0] == again[1]
    with pytest.raises(InvalidRequest):
        await write(storage, mag, (0, 0, 0), filled(2), request_id="same")


async def test_of_many_who_decided_on_the_same_state_one_gets_through(storage: Storage) -> None:
    mag = await make_mag(storage)
    state = (await write(storage, mag, (0, 0, 0), filled(0))).revision
    outcomes = await asyncio.gather(
        *[write(storage, mag, (0, 0, 0), filled(value), if_revision=state) for value in range(1, 9)],
        return_exceptions=True,
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert all(isinstance(outcome, Conflict) for outcome in outcomes if isinstance(outcome, BaseException))


async def test_counting_up_with_conditions_loses_no_count(storage: Storage) -> None:
    mag = await make_mag(storage)

    async def count(times: int) -> None:
        for _ in range(times):
            while True:
                state = await read_result(storage, mag, BOX)
                try:
                    await write(storage, mag, (0, 0, 0), state.data + np.uint8(1), if_revision=state.revision)
                except Conflict:
                    continue
                break

    await asyncio.gather(*[count(10) for _ in range(5)])
    assert (await read(storage, mag, (0, 0, 0), SIZE) == 50).all()


async def test_a_condition_on_a_state_before_a_restart_holds_if_nothing_came_after(
    tmp_path: Path, pool: CompressionPool
) -> None:
    async with Storage(Root(str(tmp_path)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        old = await write(storage, mag, (0, 0, 0), filled(1))
        last = await write(storage, mag, (16, 0, 0), filled(1))
    async with Storage(Root(str(tmp_path)), CONFIG, pool) as storage:
        with pytest.raises(Conflict):
            await write(storage, mag, (0, 0, 0), filled(2), if_revision=old.revision)  # nobody knows any more
        await write(storage, mag, (0, 0, 0), filled(2), if_revision=last.revision)


def test_a_history_that_does_not_reach_back_never_says_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COMMITS", 2)
    history = History(Revision(0, 3))
    far = Box.of((100, 0, 0), (1, 1, 1))
    for counter in range(1, 5):
        history.add(Revision(1, counter), far)
    assert not history.is_unchanged_since(Revision(1, 1), BOX)
    assert history.is_unchanged_since(Revision(1, 2), BOX)
    assert not history.is_unchanged_since(Revision(1, 2), far)
    assert history.is_unchanged_since(Revision(1, 4), far)


def test_a_revision_that_a_crash_has_taken_is_never_unchanged() -> None:
    history = History(Revision(2, 5))
    assert history.is_unchanged_since(Revision(2, 5), BOX)
    assert not history.is_unchanged_since(Revision(2, 6), BOX)


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_masked_write_changes_only_where_its_data_is_not_zero(storage: Storage, compressed: bool) -> None:
    mag = await make_mag(storage, num_channels=2, compressed=compressed)
    below = np.full((2, *SIZE), 9, dtype="uint8", order="F")
    await write(storage, mag, (4, 4, 4), below)
    data = np.zeros((2, *SIZE), dtype="uint8", order="F")
    data[0, 1:3] = 5  # one channel of these voxels is zero: the voxel is not
    await write(storage, mag, (4, 4, 4), data, mask=Mask.NONZERO)
    expected = below.copy()
    expected[:, 1:3] = data[:, 1:3]
    assert np.array_equal(await read(storage, mag, (4, 4, 4), SIZE), expected)


async def test_masked_writes_at_once_all_have_their_effect(storage: Storage) -> None:
    mag = await make_mag(storage)

    async def paint(slab: int) -> None:
        data = filled(0)
        data[slab] = slab + 1
        await write(storage, mag, (0, 0, 0), data, mask=Mask.NONZERO)

    await asyncio.gather(*[paint(slab) for slab in range(8)])
    seen = (await read(storage, mag, (0, 0, 0), SIZE))[0]
    assert [seen[slab].min() for slab in range(8)] == list(range(1, 9))
    await storage.flush("")
    assert storage.budget.used_bytes == 0
