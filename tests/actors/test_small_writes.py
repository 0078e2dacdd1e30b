"""Writes that wait for nothing but their record, and go without a task of their own."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from magd.acknowledgement import Durability
from magd.actors import commit
from magd.actors.commit import CommitPoint
from magd.actors.storage import Storage
from magd.catalog.root import Root
from magd.errors import DiskFull, InternalError
from magd.journal.journal import Journal
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, read, until, write

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from magd.catalog.names import MagName
    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray

EDGE = 16
PROCESS = Durability.PROCESS


def filled(value: int) -> VoxelArray:
    return np.full((EDGE, EDGE, EDGE), value, dtype="uint8", order="F")


async def make_room(storage: Storage) -> MagName:
    """A mag whose layer's bounding box contains everything that is written here."""
    mag = await make_mag(storage)
    for corner in (0, 64):
        await write(storage, mag, (corner, corner, corner), filled(1), durability=PROCESS)
    return mag


def count_appended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the records that are appended from now on."""
    appended: list[int] = []
    original = Journal.append

    def append(self: Journal, *arguments: Any) -> int:
        appended.append(original(self, *arguments))
        return appended[-1]

    monkeypatch.setattr(Journal, "append", append)
    return appended


async def test_none_is_visible_before_an_earlier_one_that_waits_for_the_disk(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_room(storage)
    appended = count_appended(monkeypatch)
    go_on, syncs, original = threading.Event(), threading.Event(), os.fdatasync

    def wait(descriptor: int) -> None:
        if "/journal/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            syncs.set()
            go_on.wait()
        original(descriptor)

    monkeypatch.setattr(os, "fdatasync", wait)
    try:
        first = asyncio.create_task(write(storage, mag, (0, 0, 0), filled(2), durability=Durability.DISK))
        await until(syncs.is_set)
        second = asyncio.create_task(write(storage, mag, (32, 0, 0), filled(3), durability=PROCESS))
        third = asyncio.create_task(write(storage, mag, (48, 0, 0), filled(4), durability=PROCESS))
        await until(lambda: len(appended) == 3)
        # Longer than it takes a record to be heard of.
        assert (await read(storage, mag, (64, 64, 64), (EDGE, EDGE, EDGE)) == 1).all()
        assert not any(task.done() for task in (first, second, third))
    finally:
        go_on.set()
    revisions = [ack.revision for ack in await asyncio.gather(first, second, third)]
    assert revisions == sorted(set(revisions))
    assert (await read(storage, mag, (48, 0, 0), (EDGE, EDGE, EDGE)) == 4).all()


async def test_of_many_at_once_only_those_are_refused_for_which_there_is_no_space(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_room(storage)
    small = EDGE**3

    def only_small_ones(_: str, size_bytes: int, __: int) -> None:
        if size_bytes > small:
            raise DiskFull("there is no space")

    monkeypatch.setattr(commit, "require_space", only_small_ones)
    large = np.full((32, EDGE, EDGE), 9, dtype="uint8", order="F")
    outcomes: list[Any] = await asyncio.gather(
        *(write(storage, mag, (EDGE * i, 0, 0), filled(i + 1), durability=PROCESS) for i in range(3)),
        write(storage, mag, (0, 32, 0), large, durability=PROCESS),
        return_exceptions=True,
    )
    assert [isinstance(outcome, DiskFull) for outcome in outcomes] == [False, False, False, True]
    for i in range(3):
        assert (await read(storage, mag, (EDGE * i, 0, 0), (EDGE, EDGE, EDGE)) == i + 1).all()
    assert not (await read(storage, mag, (0, 32, 0), (32, EDGE, EDGE))).any()
    await until(lambda: storage.budget.used_bytes == 0)


async def test_a_bug_in_one_is_its_own_error_and_takes_no_other_with_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_room(storage)
    original = CommitPoint._show

    def show(self: CommitPoint, command: Any, *arguments: Any) -> None:
        if command.box.offset.x == EDGE:
            raise AssertionError("a bug")
        original(self, command, *arguments)

    monkeypatch.setattr(CommitPoint, "_show", show)
    outcomes = await asyncio.gather(
        *(write(storage, mag, (EDGE * i, 0, 0), filled(i + 1), durability=PROCESS) for i in range(3)),
        return_exceptions=True,
    )
    assert [isinstance(outcome, InternalError) for outcome in outcomes] == [False, True, False]
    # Its turn was left: what overlaps it goes on.
    await write(storage, mag, (8, 0, 0), filled(7), durability=PROCESS)
    assert (await read(storage, mag, (8, 0, 0), (EDGE, EDGE, EDGE)) == 7).all()


async def test_those_under_way_are_in_the_files_when_the_storage_has_drained(
    storage: Storage, tmp_path: Path, pool: CompressionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_room(storage)
    go_on, begun, original = threading.Event(), threading.Event(), Journal.append

    def append(self: Journal, *arguments: Any) -> int:
        begun.set()
        go_on.wait()
        return original(self, *arguments)

    monkeypatch.setattr(Journal, "append", append)
    writes = [
        asyncio.create_task(write(storage, mag, (EDGE * i, 0, 0), filled(i + 1), durability=PROCESS)) for i in range(3)
    ]
    try:
        await until(begun.is_set)
        drain = asyncio.create_task(storage.drain())
        await until(lambda: storage.is_draining)
        assert not drain.done()
    finally:
        go_on.set()
    await drain
    assert len(await asyncio.gather(*writes)) == 3
    async with Storage(Root(str(tmp_path / "root")), CONFIG, pool) as again:
        for i in range(3):
            assert (await read(again, mag, (EDGE * i, 0, 0), (EDGE, EDGE, EDGE)) == i + 1).all()
