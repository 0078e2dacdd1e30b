"""A mag whose files another program changed stops, visibly, and goes on when an operator says so."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.acknowledgement import Durability
from magd.actors.storage import Storage
from magd.actors.types import MagState, Mask, OperationState
from magd.catalog.root import Root
from magd.cubes.mag_files import MagFiles
from magd.errors import DataLoss, Reason
from magd.geometry import Box
from tests.actors.conftest import CONFIG
from tests.support.voxels import finished, make_mag, read, until, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from magd.actors.mag import MagActor
    from magd.catalog.names import MagName
    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray

LAZY = replace(CONFIG, flush_seconds=3600.0, idle_seconds=3600.0)


@pytest.fixture(params=[False, True], ids=["raw", "compressed"])
async def stopped(
    request: pytest.FixtureRequest, tmp_path: Path, pool: CompressionPool
) -> AsyncIterator[tuple[Storage, MagName]]:
    """A mag with ones in its first cube file, which another program has replaced by twos, and read since."""
    async with Storage(Root(str(tmp_path)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=request.param)
        other = await make_mag(storage, layer="other", compressed=request.param)
        for name, value in ((mag, 1), (other, 2)):
            await write(storage, name, (0, 0, 0), filled(value))
            await storage.flush(str(name))
            assert (await read(storage, name, (0, 0, 0), (16, 16, 16)) == value).all()
        # Committed, and kept in the overlay by what happens next.
        committing = write(storage, mag, (16, 0, 0), np.full((2, 2, 2), 7, dtype="uint8"), durability=Durability.DISK)
        put_in_place(tmp_path / "brain/other/1/z0/y0/x0.wkw", cube_file(tmp_path))
        await committing
        with pytest.raises(DataLoss) as caught:
            await read(storage, mag, (0, 0, 0), (16, 16, 16))
        assert caught.value.reason is Reason.CHANGED_ON_DISK
        assert caught.value.metadata["file"] == str(cube_file(tmp_path))
        yield storage, mag


def filled(value: int) -> VoxelArray:
    return np.full((16, 16, 16), value, dtype="uint8", order="F")


def cube_file(root: Path) -> Path:
    return root / "brain/color/1/z0/y0/x0.wkw"


def put_in_place(source: Path, target: Path) -> None:
    shutil.copyfile(source, target.with_suffix(".new"))
    os.replace(target.with_suffix(".new"), target)


def actor_of(storage: Storage, mag: MagName) -> MagActor | None:
    return next((actor for actor in storage._registry.open_mags(str(mag)) if actor.mag_name == mag), None)


def state_of(storage: Storage, mag: MagName) -> tuple[MagState, str]:
    status = next(status for status in storage.status().mags if status.name == mag)
    return status.state, status.reason


async def test_reads_and_writes_are_refused_and_the_state_says_why(
    stopped: tuple[Storage, MagName], tmp_path: Path
) -> None:
    storage, mag = stopped
    for call in (
        lambda: read(storage, mag, (0, 0, 0), (1, 1, 1)),
        lambda: read(storage, mag, (100, 0, 0), (1, 1, 1)),
        lambda: write(storage, mag, (0, 0, 0), filled(3)),
        lambda: write(storage, mag, (0, 0, 0), filled(3), durability=Durability.NONE),
        lambda: write(storage, mag, (0, 0, 0), filled(3), mask=Mask.NONZERO),
    ):
        with pytest.raises(DataLoss) as caught:
            await call()
        assert caught.value.reason is Reason.CHANGED_ON_DISK
        assert caught.value.metadata["file"] == str(cube_file(tmp_path))
    state, reason = state_of(storage, mag)
    assert state is MagState.FAILED
    assert str(cube_file(tmp_path)) in reason


async def test_it_does_not_rest(stopped: tuple[Storage, MagName], monkeypatch: pytest.MonkeyPatch) -> None:
    storage, mag = stopped
    other = await make_mag(storage, layer="third")
    await read(storage, other, (0, 0, 0), (1, 1, 1))
    # The stopped one is asked first: when the other one has rested, it has had the time to.
    for name in (mag, other):
        monkeypatch.setattr(actor_of(storage, name), "_config", replace(LAZY, idle_seconds=0.01))
        with suppress(DataLoss):
            await read(storage, name, (0, 0, 0), (1, 1, 1))
    await until(lambda: actor_of(storage, other) is None)
    assert state_of(storage, mag)[0] is MagState.FAILED


async def test_its_files_are_neither_written_nor_exchanged(stopped: tuple[Storage, MagName], tmp_path: Path) -> None:
    storage, mag = stopped
    before = cube_file(tmp_path).read_bytes()
    with pytest.raises(DataLoss):
        await storage.flush(str(mag))
    operation = await finished(storage, await storage.compress(mag, target=None, level=3, request_id=""))
    assert operation.state in (OperationState.FAILED, OperationState.SUCCEEDED)
    assert cube_file(tmp_path).read_bytes() == before
    assert state_of(storage, mag)[0] is MagState.FAILED


async def test_after_reopen_the_files_are_read_as_they_are_and_what_was_committed_is_brought_into_them(
    stopped: tuple[Storage, MagName], tmp_path: Path
) -> None:
    storage, mag = stopped
    status = await storage.reopen(mag)
    assert (status.name, status.state, status.reason) == (mag, MagState.SERVING, "")
    assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 2).all()
    assert (await read(storage, mag, (16, 0, 0), (2, 2, 2)) == 7).all()
    await write(storage, mag, (0, 0, 0), np.full((1, 1, 1), 9, dtype="uint8"))
    await storage.flush(str(mag))
    with MagFiles.open(str(tmp_path / "brain/color/1"), read_only=True) as files:
        assert files.read(Box.of((0, 0, 0), (2, 1, 1))).ravel().tolist() == [9, 2]
        assert (files.read(Box.of((16, 0, 0), (2, 2, 2))) == 7).all()


async def test_a_drain_leaves_the_files_alone_and_the_next_start_goes_on(tmp_path: Path, pool: CompressionPool) -> None:
    path = cube_file(tmp_path)
    async with asyncio.timeout(20), Storage(Root(str(tmp_path)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        await write(storage, mag, (0, 0, 0), filled(1))
        await storage.flush(str(mag))
        await write(storage, mag, (0, 0, 0), np.full((2, 2, 2), 7, dtype="uint8"))
        put_in_place(path, path)
        before = path.read_bytes()
        with pytest.raises(DataLoss):
            await read(storage, mag, (0, 0, 0), (1, 1, 1))
    assert path.read_bytes() == before
    async with Storage(Root(str(tmp_path)), LAZY, pool) as storage:
        assert (await read(storage, mag, (0, 0, 0), (2, 2, 2)) == 7).all()
        assert (await read(storage, mag, (2, 0, 0), (2, 2, 2)) == 1).all()


async def test_what_was_brought_into_a_file_that_is_gone_stays_in_the_journal(
    tmp_path: Path, pool: CompressionPool
) -> None:
    """In a raw mag it is in the files at once; they are not on the disk before a checkpoint, which must not succeed."""
    path = cube_file(tmp_path)
    async with asyncio.timeout(20), Storage(Root(str(tmp_path)), LAZY, pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), filled(1))
        await storage.flush(str(mag))
        shutil.copyfile(path, path.with_suffix(".old"))
        await write(storage, mag, (0, 0, 0), filled(5))
        with MagFiles.open(str(tmp_path / "brain/color/1"), read_only=True) as files:
            await until(lambda: files.read(Box.of((15, 15, 15), (1, 1, 1))).item() == 5)
        os.replace(path.with_suffix(".old"), path)
        with pytest.raises(DataLoss):
            await read(storage, mag, (0, 0, 0), (1, 1, 1))
        with pytest.raises(DataLoss):
            await storage.flush(str(mag))
        await storage.reopen(mag)
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 5).all()


async def test_reopening_leaves_a_mag_alone_that_has_not_stopped(storage: Storage) -> None:
    mag = await make_mag(storage)
    epoch = (await write(storage, mag, (0, 0, 0), filled(1))).revision.epoch
    assert (await storage.reopen(mag)).state is MagState.SERVING
    assert (await write(storage, mag, (0, 0, 0), filled(2))).revision.epoch == epoch
