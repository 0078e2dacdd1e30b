"""Bringing the overlay into the cube files: in order, one thread at a time, also at the end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np

from magd.actors.storage import Storage
from magd.catalog.root import Root
from magd.cubes.mag_files import MagFiles, WrittenBoxes
from magd.geometry import Box
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, until, write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray


async def test_a_flush_under_way_when_the_mag_is_closed_ends_before_the_next_begins(
    tmp_path: Path, pool: CompressionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    at_work = most = 0
    original = MagFiles.write_many

    def slow(self: MagFiles, writes: Sequence[tuple[Box, VoxelArray]], *, later: Sequence[Box]) -> WrittenBoxes:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        begun.set()
        go_on.wait(10)
        written = original(self, writes, later=later)
        at_work -= 1
        return written

    monkeypatch.setattr(MagFiles, "write_many", slow)
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


async def test_many_writes_into_one_compressed_cube_file_cost_one_rewrite(
    tmp_path: Path, pool: CompressionPool
) -> None:
    lazy = replace(CONFIG, flush_seconds=3600.0)
    cube_file = tmp_path / "brain/color/1/z0/y0/x0.wkw"
    async with asyncio.timeout(20), Storage(Root(str(tmp_path)), lazy, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        await write(storage, mag, (0, 0, 0), np.full((1, 1, 1), 1, dtype="uint8"))
        await storage.flush(str(mag))
        with Renames() as renames:
            for number in range(100):
                await write(storage, mag, (number % 16, number // 16, 1), np.full((1, 1, 1), number, dtype="uint8"))
            await storage.flush(str(mag))
        assert renames.of(cube_file) == 1
    with MagFiles.open(str(tmp_path / "brain/color/1"), read_only=True) as files:
        written = files.read(Box.of((0, 0, 1), (16, 7, 1)))
    assert written.ravel(order="F")[:100].tolist() == list(range(100))


async def test_a_hot_compressed_cube_file_is_rewritten_once_in_flush_seconds(
    tmp_path: Path, pool: CompressionPool
) -> None:
    cube_file = tmp_path / "brain/color/1/z0/y0/x0.wkw"
    async with asyncio.timeout(20), Storage(Root(str(tmp_path)), replace(CONFIG, flush_seconds=0.25), pool) as storage:
        mag = await make_mag(storage, compressed=True)
        with Renames() as renames:
            started, writes = time.monotonic(), 0
            while renames.of(cube_file) < 4:
                await write(storage, mag, (0, 0, 0), np.full((1, 1, 1), writes % 255, dtype="uint8"))
                writes += 1
            passed = time.monotonic() - started
        assert passed >= 4 * 0.25
        assert writes > 4


class Renames:
    """Counts how often a file gets its name. A context manager."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def of(self, path: Path) -> int:
        return self._names.count(str(path))

    def __enter__(self) -> Self:
        self._rename = os.rename

        def rename(source: str, target: str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            self._rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            folder = "" if dst_dir_fd is None else os.readlink(f"/proc/self/fd/{dst_dir_fd}")
            self._names.append(os.path.join(folder, target))

        os.rename = rename  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        os.rename = self._rename
