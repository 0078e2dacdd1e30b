"""When the disk fails: nothing acknowledged is lost, nothing refused appears, and the mag says what is wrong."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magd.acknowledgement import Durability
from magd.actors.storage import Storage
from magd.actors.types import MagState
from magd.catalog.root import Root
from magd.errors import DataLoss, DiskFull, MagdError, Reason, Unavailable
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, read, until, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray


def filled(value: int) -> VoxelArray:
    return np.full((16, 16, 16), value, dtype="uint8", order="F")


@contextmanager
def failing(
    monkeypatch: pytest.MonkeyPatch, call: str, error: int, where: Callable[[str], bool], times: int = 10**9
) -> Iterator[list[str]]:
    """Let a system call on a descriptor fail for files whose path fits, so many times."""
    original: Callable[..., Any] = getattr(os, call)
    failed: list[str] = []

    def fail(descriptor: int, *arguments: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if where(path) and len(failed) < times:
            failed.append(path)
            raise OSError(error, os.strerror(error))
        return original(descriptor, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        yield failed


def in_journal(path: str) -> bool:
    return "/journal/" in path


def in_cube_file(path: str) -> bool:
    return path.endswith(".wkw")


async def test_a_full_disk_refuses_a_write_that_then_never_appears(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pool: CompressionPool
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(1))
    with failing(monkeypatch, "pwritev", errno.ENOSPC, in_journal):
        with pytest.raises(DiskFull):
            await write(storage, mag, (0, 0, 0), filled(2))
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 1).all()
    await write(storage, mag, (16, 0, 0), filled(3))
    assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 1).all()
    assert storage.status().mags[0].state is MagState.SERVING
    await storage.drain()
    async with Storage(Root(str(tmp_path / "root")), CONFIG, pool) as again:
        assert (await read(again, mag, (0, 0, 0), (16, 16, 16)) == 1).all()
        assert (await read(again, mag, (16, 0, 0), (16, 16, 16)) == 3).all()


async def test_a_sync_of_the_journal_that_fails_once_costs_no_acknowledgement(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(1))
    with failing(monkeypatch, "fdatasync", errno.EIO, in_journal, times=1) as failed:
        ack = await write(storage, mag, (0, 0, 0), filled(2), durability=Durability.DISK)
    assert len(failed) == 1
    assert ack.durability is Durability.DISK
    assert "a sync of the journal failed, and was made good" in storage.status().mags[0].warnings[0]
    assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 2).all()
    await write(storage, mag, (0, 0, 0), filled(3), durability=Durability.DISK)


async def test_a_journal_that_cannot_be_synced_gives_an_unknown_outcome_and_recovers_with_the_disk(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(1))
    with failing(monkeypatch, "fdatasync", errno.EIO, in_journal):
        with pytest.raises(Unavailable) as unknown:
            await write(storage, mag, (0, 0, 0), filled(2), durability=Durability.DISK, request_id="retry")
        assert unknown.value.reason is Reason.OUTCOME_UNKNOWN
        with pytest.raises(MagdError):
            await write(storage, mag, (0, 0, 0), filled(9), durability=Durability.PROCESS)
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 1).all()
    await write(storage, mag, (0, 0, 0), filled(2), durability=Durability.DISK, request_id="retry")
    assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 2).all()


async def test_a_sync_of_cube_files_that_fails_keeps_the_journal_and_the_next_actor_applies_it_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(1), durability=Durability.DISK)
    with failing(monkeypatch, "fdatasync", errno.EIO, in_cube_file, times=1) as failed, pytest.raises(DataLoss):
        await storage.flush("")
    assert len(failed) == 1
    assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 1).all()
    await write(storage, mag, (0, 0, 0), filled(2), durability=Durability.DISK)
    await storage.flush("")
    assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 2).all()


async def test_boxes_that_do_not_fit_into_the_files_stay_committed_until_there_is_room(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(1))
    await storage.flush("")
    with failing(monkeypatch, "pwritev", errno.ENOSPC, in_cube_file):
        await write(storage, mag, (0, 0, 0), filled(2))
        with pytest.raises(DiskFull):
            await storage.flush("")
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 2).all()
        assert "No space" in storage.status().mags[0].reason
        assert storage.budget.used_bytes > 0
    await until(lambda: storage.budget.used_bytes == 0)
    assert storage.status().mags[0].reason == ""
    assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 2).all()


async def test_a_write_of_unknown_outcome_never_comes_to_lie_below_later_ones(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pool: CompressionPool
) -> None:
    mag = await make_mag(storage, compressed=True)  # nothing gets into the files by itself for some seconds
    await write(storage, mag, (0, 0, 0), filled(1))
    with failing(monkeypatch, "fdatasync", errno.EIO, in_journal):
        with pytest.raises(Unavailable):
            await write(storage, mag, (0, 0, 0), filled(2), durability=Durability.DISK)
        status = storage.status().mags[0]
        assert (status.state, "Input/output error" in status.reason) == (MagState.READ_ONLY, True)
    await write(storage, mag, (8, 0, 0), filled(3), durability=Durability.DISK)
    assert storage.status().mags[0].state is MagState.SERVING
    seen = await read(storage, mag, (0, 0, 0), (24, 16, 16))
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "root", crashed)
    async with Storage(Root(str(crashed)), CONFIG, pool) as again:
        assert np.array_equal(await read(again, mag, (0, 0, 0), (24, 16, 16)), seen)
    assert (seen[:, :8] == 1).all()


async def test_a_write_of_unknown_outcome_is_void_also_if_another_writer_mends_the_journal_at_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pool: CompressionPool
) -> None:
    mag = await make_mag(storage, compressed=True)  # nothing gets into the files by itself for some seconds
    await write(storage, mag, (0, 0, 0), filled(1))
    mending, others_wait = threading.Event(), threading.Event()
    original, calls = os.fdatasync, itertools.count(1)

    def fail_twice(descriptor: int) -> None:
        if not in_journal(os.readlink(f"/proc/self/fd/{descriptor}")):
            return original(descriptor)
        call = next(calls)
        if call == 2:
            mending.set()
            assert others_wait.wait(20)
        if call <= 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(descriptor)

    monkeypatch.setattr(os, "fdatasync", fail_twice)
    unknown = asyncio.create_task(write(storage, mag, (0, 0, 0), filled(2), durability=Durability.DISK))
    await asyncio.to_thread(mending.wait, 20)
    # These wait for the journal while the first attempt to mend it fails: they are the first to have it after that.
    later = [asyncio.create_task(write(storage, mag, (x, 0, 0), filled(3))) for x in (16, 32)]
    await until(lambda: storage.status().mags[0].running == 3)
    await asyncio.gather(*(asyncio.to_thread(lambda: None) for _ in range(20)))  # their checks of cube files are over
    others_wait.set()
    with pytest.raises(Unavailable):
        await unknown
    await asyncio.gather(*later)
    assert next(calls) > 3, "the journal was mended"
    await write(storage, mag, (8, 0, 0), filled(4), durability=Durability.DISK)
    seen = await read(storage, mag, (0, 0, 0), (48, 16, 16))
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "root", crashed)
    async with Storage(Root(str(crashed)), CONFIG, pool) as again:
        assert np.array_equal(await read(again, mag, (0, 0, 0), (48, 16, 16)), seen)
    assert (seen[:, :8] == 1).all()


async def test_a_write_that_would_eat_into_the_reserve_of_the_disk_is_refused_until_there_is_space(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(1))
    original = os.statvfs

    def nearly_full(path: str) -> os.statvfs_result:
        found = original(path)
        return os.statvfs_result((*found[:3], 4, 4, *found[5:]))  # blocks free, of some thousand that are kept

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", nearly_full)
        with pytest.raises(DiskFull, match="kept for what was committed before"):
            await write(storage, mag, (0, 0, 0), filled(2))
        status = storage.status().mags[0]
        assert (status.state, "free space" in status.reason) == (MagState.READ_ONLY, True)
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 1).all()
        await storage.flush(str(mag))
    await write(storage, mag, (0, 0, 0), filled(3))
    assert storage.status().mags[0].state is MagState.SERVING
    assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 3).all()
