"""Bringing the overlay into the cube files: in order, one thread at a time, also at the end."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from magd.actors.storage import Storage
from magd.catalog.root import Root
from magd.cubes.mag_files import MagFiles
from magd.geometry import Box
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, until, write

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray


async def test_a_flush_under_way_when_the_mag_is_closed_ends_before_the_next_begins(
    tmp_path: Path, pool: CompressionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    at_work: list[Box] = []
    most = 0
    original = MagFiles.write

    def slow(self: MagFiles, box: Box, data: VoxelArray) -> None:
        nonlocal most
        at_work.append(box)
        most = max(most, len(at_work))
        begun.set()
        go_on.wait(10)
        original(self, box, data)
        at_work.remove(box)

    monkeypatch.setattr(MagFiles, "write", slow)
    async with Storage(Root(str(tmp_path)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), np.full((8, 8, 8), 1, dtype="uint8"))
        await until(begun.is_set)
        await write(storage, mag, (0, 0, 0), np.full((8, 8, 8), 2, dtype="uint8"))
        draining = asyncio.create_task(storage.drain())
        for _ in range(50):
            await asyncio.sleep(0)
        go_on.set()
        await draining
    assert most == 1
    with MagFiles.open(str(tmp_path / "brain/color/1"), read_only=True) as files:
        assert (files.read(Box.of((0, 0, 0), (8, 8, 8))) == 2).all()


async def test_a_mag_that_is_compressed_is_not_waited_for_when_it_closes(tmp_path: Path, pool: CompressionPool) -> None:
    lazy = replace(CONFIG, flush_seconds=3600.0)
    async with asyncio.timeout(20), Storage(Root(str(tmp_path)), lazy, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        await write(storage, mag, (0, 0, 0), np.full((8, 8, 8), 1, dtype="uint8"))
    with MagFiles.open(str(tmp_path / "brain/color/1"), read_only=True) as files:
        assert (files.read(Box.of((0, 0, 0), (8, 8, 8))) == 1).all()


async def test_short_memory_ends_the_wait_of_a_compressed_mag(tmp_path: Path, pool: CompressionPool) -> None:
    lazy = replace(CONFIG, flush_seconds=3600.0, budget_bytes=40_000)
    async with asyncio.timeout(20), Storage(Root(str(tmp_path)), lazy, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        for value in range(1, 9):
            await write(storage, mag, (0, 0, 0), np.full((16, 16, 16), value, dtype="uint8"))
        assert storage.budget.used_bytes <= lazy.budget_bytes
