"""After a crash: what was acknowledged is there, whole, and remembered.

A crash of the process is a copy of the files at that moment: what the kernel has is what the next process finds.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.acknowledgement import Durability
from magd.actors.storage import Storage
from magd.actors.types import OperationState
from magd.catalog.names import LayerName
from magd.catalog.root import Root
from magd.cubes.mag_files import MagFiles
from magd.errors import DataLoss, InvalidRequest, Reason
from magd.geometry import BoundingBox, Box, Vec3
from tests.actors.conftest import CONFIG
from tests.support.voxels import finished, make_mag, read, read_result, until, write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray

COLOR = LayerName("brain", "color")
LAZY = replace(CONFIG, flush_seconds=3600.0)
"""Nothing gets into the files of a compressed mag by itself."""


def filled(value: int, *size: int) -> VoxelArray:
    return np.full(size, value, dtype="uint8", order="F")


def crash(root: Path) -> Path:
    """The files as the next process finds them."""
    copy = root.with_name(root.name + "-crashed")
    shutil.copytree(root, copy)
    return copy


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
async def test_acknowledged_writes_that_were_only_in_the_journal_are_there_in_order(
    root: Path, pool: CompressionPool, durability: Durability
) -> None:
    async with Storage(Root(str(root)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        await write(storage, mag, (0, 0, 0), filled(1, 20, 20, 20), durability=durability)
        await write(storage, mag, (10, 10, 10), filled(2, 20, 5, 5), durability=durability, request_id="second")
        last = await write(storage, mag, (12, 0, 0), filled(3, 2, 20, 20), durability=durability)
        crashed = crash(root)
        expected = (await read(storage, mag, (0, 0, 0), (40, 40, 40))).copy()
    async with Storage(Root(str(crashed)), LAZY, pool) as storage:
        result = await read_result(storage, mag, Box.of((0, 0, 0), (40, 40, 40)))
        assert np.array_equal(result.data, expected)
        assert result.revision == last.revision
        layer = await storage.hierarchy.get_layer(COLOR)
        assert layer.bounding_box == BoundingBox(Vec3(0, 0, 0), Vec3(30, 20, 20))


async def test_a_retry_after_a_crash_is_recognised_also_when_others_wrote_in_between(
    root: Path, pool: CompressionPool
) -> None:
    async with Storage(Root(str(root)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        first = await write(storage, mag, (0, 0, 0), filled(1, 8, 8, 8), request_id="mine")
        await write(storage, mag, (0, 0, 0), filled(2, 8, 8, 8), request_id="theirs")
        crashed = crash(root)
    async with Storage(Root(str(crashed)), LAZY, pool) as storage:
        assert await write(storage, mag, (0, 0, 0), filled(1, 8, 8, 8), request_id="mine") == first
        assert (await read(storage, mag, (0, 0, 0), (8, 8, 8)) == 2).all()
        with pytest.raises(InvalidRequest) as refused:
            await write(storage, mag, (0, 0, 0), filled(3, 8, 8, 8), request_id="mine")
        assert refused.value.reason is Reason.REQUEST_ID_REUSED


async def test_ids_are_remembered_over_a_checkpoint_an_exchange_and_a_clean_restart(
    root: Path, pool: CompressionPool
) -> None:
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        first = await write(storage, mag, (0, 0, 0), filled(1, 8, 8, 8), request_id="mine")
        await write(storage, mag, (0, 0, 0), filled(2, 8, 8, 8))
        await storage.flush("")
        assert await write(storage, mag, (0, 0, 0), filled(1, 8, 8, 8), request_id="mine") == first
        operation = await storage.compress(mag, target=None, level="fast", request_id="")
        assert (await finished(storage, operation)).state is OperationState.SUCCEEDED
        assert await write(storage, mag, (0, 0, 0), filled(1, 8, 8, 8), request_id="mine") == first
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        assert await write(storage, mag, (0, 0, 0), filled(1, 8, 8, 8), request_id="mine") == first
        assert (await read(storage, mag, (0, 0, 0), (8, 8, 8)) == 2).all()
        later = await write(storage, mag, (0, 0, 0), filled(3, 8, 8, 8))
        assert later.revision > first.revision


async def test_a_daemon_that_starts_brings_what_it_finds_into_the_files_without_being_asked(
    root: Path, pool: CompressionPool
) -> None:
    async with Storage(Root(str(root)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        await write(storage, mag, (0, 0, 0), filled(7, 8, 8, 8))
        crashed = crash(root)
    folder = crashed / "brain/color/1"
    assert not (folder / "z0").exists()
    async with Storage(Root(str(crashed)), replace(CONFIG, flush_seconds=0.0), pool):
        await until((folder / "z0/y0/x0.wkw").exists)
    with MagFiles.open(str(folder), read_only=True) as files:
        assert (files.read(Box.of((0, 0, 0), (8, 8, 8))) == 7).all()


async def test_a_read_only_daemon_shows_what_is_in_the_journal_and_leaves_it(root: Path, pool: CompressionPool) -> None:
    async with Storage(Root(str(root)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        await write(storage, mag, (0, 0, 0), filled(7, 8, 8, 8))
        crashed = crash(root)
    before = {path: path.read_bytes() for path in crashed.rglob("*") if path.is_file()}
    async with Storage(Root(str(crashed), read_only=True), LAZY, pool) as storage:
        assert (await read(storage, mag, (0, 0, 0), (8, 8, 8)) == 7).all()
    assert {path: path.read_bytes() for path in crashed.rglob("*") if path.is_file()} == before


async def test_after_a_clean_end_the_journal_has_nothing_left_to_apply(root: Path, pool: CompressionPool) -> None:
    async with Storage(Root(str(root)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        await asyncio.gather(*[write(storage, mag, (4 * i, 0, 0), filled(i + 1, 4, 4, 4)) for i in range(10)])
    journal = root / "brain/color/1/.magd/journal"
    assert len(list(journal.iterdir())) == 1
    with MagFiles.open(str(root / "brain/color/1"), read_only=True) as files:
        data = files.read(Box.of((0, 0, 0), (40, 4, 4)))[0]
    for i in range(10):
        assert (data[4 * i : 4 * i + 4] == i + 1).all()


async def test_a_damaged_cube_file_stops_only_its_own_writes_and_they_stay_committed(
    root: Path, pool: CompressionPool
) -> None:
    eager = replace(CONFIG, flush_seconds=0.0)
    async with Storage(Root(str(root)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        await write(storage, mag, (0, 0, 0), filled(1, 32, 8, 8))
        await storage.flush("")
        await write(storage, mag, (2, 2, 2), filled(2, 4, 4, 4))
        await write(storage, mag, (18, 2, 2), filled(3, 4, 4, 4))
        crashed = crash(root)
    damaged = crashed / "brain/color/1/z0/y0/x0.wkw"
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[:30])
    async with Storage(Root(str(crashed)), eager, pool) as storage:
        assert (await read(storage, mag, (18, 2, 2), (4, 4, 4)) == 3).all()
        with pytest.raises(DataLoss):
            await storage.flush("")
        assert "x0.wkw" in storage.status().mags[0].reason
        with pytest.raises(DataLoss):
            await write(storage, mag, (0, 0, 0), filled(9, 2, 2, 2))
    damaged.write_bytes(sound)
    async with Storage(Root(str(crashed)), eager, pool) as storage:
        assert (await read(storage, mag, (2, 2, 2), (4, 4, 4)) == 2).all()
        assert (await read(storage, mag, (18, 2, 2), (4, 4, 4)) == 3).all()


async def test_a_damaged_journal_is_an_error_that_names_it_not_a_mag_without_its_writes(
    root: Path, pool: CompressionPool
) -> None:
    async with Storage(Root(str(root)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        for value in range(1, 5):
            await write(storage, mag, (0, 0, 0), filled(value, 8, 8, 8), durability=Durability.DISK)
        crashed = crash(root)
    (journal,) = (crashed / "brain/color/1/.magd/journal").iterdir()
    content = bytearray(journal.read_bytes())
    content[len(content) // 2] ^= 1
    journal.write_bytes(content)
    async with Storage(Root(str(crashed)), LAZY, pool) as storage:
        with pytest.raises(DataLoss) as loss:
            await read(storage, mag, (0, 0, 0), (8, 8, 8))
        assert loss.value.metadata["file"] == str(journal)


async def test_a_power_loss_is_told_in_the_status_also_when_the_mag_is_at_rest_again(
    root: Path, pool: CompressionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), filled(1, 8, 8, 8))
        assert storage.status().mags[0].warnings == ()
        crashed = crash(root)
    monkeypatch.setattr("magd.journal.recovery.boot_id", lambda: "another run of the machine")
    async with Storage(Root(str(crashed)), replace(CONFIG, idle_seconds=0.01), pool) as again:
        assert (await read(again, mag, (0, 0, 0), (8, 8, 8)) == 1).all()
        await until(lambda: not again._registry.open_mags())
        status = again.status()
        assert [each.name for each in status.mags] == [mag]
        assert [warning.startswith("the power was lost") for warning in status.mags[0].warnings] == [True]


async def test_what_was_recovered_stays_in_the_journal_until_it_is_needed(
    root: Path, pool: CompressionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Storage(Root(str(root)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        for value in range(1, 9):
            await write(storage, mag, (value, value, value), filled(value, 16, 16, 16))
        seen = await read(storage, mag, (0, 0, 0), (32, 32, 32))
        crashed = crash(root)
    monkeypatch.setattr("magd.actors.storage.recover_unopened", no_recovery)
    monkeypatch.setattr("magd.actors.flusher.READ_AT_ONCE_BYTES", 3 * 16**3)
    async with Storage(Root(str(crashed)), LAZY, pool) as again:
        assert np.array_equal(await read(again, mag, (0, 0, 0), (32, 32, 32)), seen)
        (actor,) = again._registry.open_mags()
        assert not any(entry.is_in_memory for entry in actor._point().boxes.overlay.all())
        assert again.budget.used_bytes == 0
        # One cube file cannot be written at first: what touches it stays, and what lies over that.
        damaged = crashed / "brain/color/1/z0/y0/x0.wkw"
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_bytes(b"WKW")
        with pytest.raises(DataLoss):
            await again.flush(str(mag))
        damaged.unlink()
        await again.flush(str(mag))
        assert len(actor._point().boxes.overlay) == 0
        assert np.array_equal(await read(again, mag, (0, 0, 0), (32, 32, 32)), seen)


async def no_recovery(*_: object) -> None:
    """In place of the recovery in the background."""
