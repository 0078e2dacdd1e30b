"""How far a flush brings what was acknowledged, and that nothing which was promised to be on the disk rests on a file
that was not synced."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magd.acknowledgement import Durability
from magd.actors.storage import Storage
from magd.actors.types import FlushLevel
from magd.catalog.root import Root
from magd.cubes.mag_files import MagFiles
from magd.cubes.mag_folder import MagFolder
from magd.errors import DiskFull, MagdError
from magd.journal.journal import Journal
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, read, write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.catalog.names import MagName
    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray

APPLIED, DISK, FILES = FlushLevel.APPLIED, FlushLevel.DISK, FlushLevel.FILES


def filled(value: int, edge: int = 16) -> VoxelArray:
    return np.full((edge, edge, edge), value, dtype="uint8")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done for good: cube files synced, journal files removed."""
    done: list[str] = []
    sync, retire, sync_everything = MagFiles.sync, Journal.retire, MagFolder.sync_file_system

    def note_sync(files: MagFiles) -> None:
        done.append("sync")
        sync(files)

    def note_retire(journal: Journal, old: object) -> None:
        done.append("retire")
        retire(journal, old)  # type: ignore[arg-type]  # as it came

    def note_everything(folder: MagFolder) -> None:
        done.append("sync everything")
        sync_everything(folder)

    monkeypatch.setattr(MagFiles, "sync", note_sync)
    monkeypatch.setattr(Journal, "retire", note_retire)
    monkeypatch.setattr(MagFolder, "sync_file_system", note_everything)
    return done


def in_files(storage_root: Path, mag: MagName) -> bytes:
    return (storage_root / "brain/color" / str(mag.mag) / "z0/y0/x0.wkw").read_bytes()[16:]


def journal_bytes(storage_root: Path) -> int:
    return sum(path.stat().st_size for path in storage_root.glob("brain/color/*/.magd/journal/*"))


async def test_applied_is_in_the_cube_files_and_out_of_the_journal_without_a_sync(
    storage: Storage, tmp_path: Path, steps: list[str]
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(7))
    assert await storage.flush("", APPLIED) == 1
    assert steps == ["retire"]
    assert in_files(tmp_path / "root", mag) == bytes([7]) * 16**3
    assert journal_bytes(tmp_path / "root") < 16**3
    assert storage.status().mags[0].unsynced_bytes == 16**3, "the power may take it"


@pytest.mark.parametrize("level", [DISK, FILES])
async def test_what_was_applied_without_a_sync_is_synced_by_a_flush_to_the_disk(
    storage: Storage, steps: list[str], level: FlushLevel
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(7))
    await storage.flush("", APPLIED)
    await storage.flush("", level)
    assert steps == ["retire", "sync", "retire"]
    assert storage.status().mags[0].unsynced_bytes == 0
    await write(storage, mag, (0, 0, 0), filled(8))
    await storage.flush("", DISK)
    assert steps == ["retire", "sync", "retire"], "the journal is enough again"
    assert storage.status().mags[0].unsynced_bytes == 0


@pytest.mark.parametrize("how", ["write", "flush"])
async def test_what_was_promised_to_be_on_the_disk_is_synced_before_the_journal_forgets_it(
    storage: Storage, steps: list[str], how: str
) -> None:
    mag = await make_mag(storage)
    await write(
        storage, mag, (0, 0, 0), filled(7), durability=Durability.DISK if how == "write" else Durability.PROCESS
    )
    if how == "flush":
        await storage.flush("", DISK)
    await write(storage, mag, (0, 0, 0), filled(8))
    await storage.flush("", APPLIED)
    assert steps == ["sync", "retire"]
    await write(storage, mag, (0, 0, 0), filled(9))
    await storage.flush("", APPLIED)
    assert steps == ["sync", "retire", "retire"], "the promise was kept, and nothing new was promised"


@pytest.mark.parametrize("how", ["write", "flush"])
async def test_a_promise_that_is_made_while_a_flush_without_a_sync_is_under_way_is_kept(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, steps: list[str], how: str
) -> None:
    mag = await make_mag(storage)
    rotated, go_on = asyncio.Event(), threading.Event()
    write_many, require_unchanged = MagFiles.write_many, MagFiles.require_unchanged

    def slowly(files: MagFiles, *arguments: Any, **options: Any) -> object:
        assert go_on.wait(30)
        return write_many(files, *arguments, **options)

    def note(files: MagFiles) -> None:
        rotated.set()
        require_unchanged(files)

    monkeypatch.setattr(MagFiles, "write_many", slowly)
    monkeypatch.setattr(MagFiles, "require_unchanged", note)
    await write(storage, mag, (0, 0, 0), filled(7))
    applied = asyncio.create_task(storage.flush("", APPLIED))
    await rotated.wait()  # what is promised from now on is about old journal files
    try:
        if how == "flush":
            await storage.flush("", DISK)
        else:
            await write(storage, mag, (32, 0, 0), filled(8), durability=Durability.DISK)
    finally:
        go_on.set()
    await applied
    assert steps[0] == "sync"
    assert steps.index("sync") < steps.index("retire")


async def test_a_flush_that_fails_forgets_no_promise(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, steps: list[str]
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(7), durability=Durability.DISK)
    await write(storage, mag, (32, 0, 0), filled(8), durability=Durability.NONE)

    def full(files: MagFiles) -> None:
        raise DiskFull("no space", metadata={"file": "x"})

    with monkeypatch.context() as patch:
        patch.setattr(MagFiles, "require_unchanged", full)
        with pytest.raises(DiskFull):
            await storage.flush("", APPLIED)
        with pytest.raises(DiskFull):
            await storage.flush("", FILES)
    assert steps == []
    await storage.flush("", DISK)
    assert steps == ["sync", "retire"], "what has no record needs the cube files to be synced"


async def test_after_a_kill_a_flush_to_the_disk_counts_with_what_was_not_synced_before(
    tmp_path: Path, pool: CompressionPool, steps: list[str]
) -> None:
    root, crashed = tmp_path / "root", tmp_path / "crashed"
    root.mkdir()
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), filled(7))
        await storage.flush("", APPLIED)
        shutil.copytree(root, crashed)
    steps.clear()
    async with Storage(Root(str(crashed)), CONFIG, pool) as storage:
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 7).all()
        await storage.flush("", DISK)
        assert steps == ["sync", "sync everything", "retire"]
        await storage.flush("", FILES)
        await storage.flush("", APPLIED)
        assert steps[3:] == [], "there is nothing to do"
        await write(storage, mag, (32, 0, 0), filled(8))
        await storage.flush("", FILES)
        assert steps[3:] == ["sync", "retire"], "once is enough"
        await storage.flush("", FILES)
        assert steps[5:] == []
    steps.clear()
    async with Storage(Root(str(crashed)), CONFIG, pool) as storage:
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 7).all()
        await storage.flush("", DISK)
    assert steps == [], "the daemon before was stopped, and had synced everything"


async def test_a_sync_of_everything_that_fails_is_told(
    tmp_path: Path, pool: CompressionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, crashed = tmp_path / "root", tmp_path / "crashed"
    root.mkdir()
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), filled(7))
        shutil.copytree(root, crashed)

    def fail(folder: MagFolder) -> None:
        raise MagdError("the disk is broken", metadata={"errno": errno.errorcode[errno.EIO]})

    async with Storage(Root(str(crashed)), replace(CONFIG, flush_seconds=3600.0), pool) as storage:
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 7).all()
        with monkeypatch.context() as patch:
            patch.setattr(MagFolder, "sync_file_system", fail)
            with pytest.raises(MagdError, match="the disk is broken"):
                await storage.flush("", DISK)
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 7).all()


class HeldSync:
    """Holds up syncs of cube files until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self._go_on = threading.Event(), threading.Event()
        real = MagFiles.sync

        def sync(files: MagFiles) -> None:
            self.begun.set()
            assert self._go_on.wait(30)
            real(files)

        monkeypatch.setattr(MagFiles, "sync", sync)

    def let_go(self) -> None:
        self._go_on.set()


async def test_a_flush_to_the_disk_waits_for_a_checkpoint_that_syncs_what_no_journal_has(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(7), durability=Durability.NONE)
    held = HeldSync(monkeypatch)
    checkpoint = asyncio.create_task(storage.flush("", FILES))
    await asyncio.to_thread(held.begun.wait, 30)
    flush = asyncio.create_task(storage.flush("", DISK))
    # What a sync of the journal would take, and more.
    await write(storage, mag, (32, 0, 0), filled(8), durability=Durability.DISK)
    await write(storage, mag, (32, 0, 0), filled(9), durability=Durability.DISK)
    assert not flush.done()
    held.let_go()
    await asyncio.gather(checkpoint, flush)
    assert storage.status().mags[0].unsynced_bytes == 0


@pytest.mark.parametrize("durability", [Durability.NONE, Durability.PROCESS])
async def test_bytes_that_a_checkpoint_and_a_sync_of_the_journal_bring_to_the_disk_are_counted_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(7), durability=durability)
    held = HeldSync(monkeypatch)
    checkpoint = asyncio.create_task(storage.flush("", FILES))
    await asyncio.to_thread(held.begun.wait, 30)
    await write(storage, mag, (32, 0, 0), filled(8), durability=Durability.DISK)
    waiting = 0 if durability is Durability.PROCESS else 16**3  # what the journal does not have, waits
    assert storage.status().mags[0].unsynced_bytes == waiting
    await write(storage, mag, (48, 0, 0), filled(9), durability=Durability.PROCESS)
    assert storage.status().mags[0].unsynced_bytes == waiting + 16**3
    held.let_go()
    await checkpoint
    assert storage.status().mags[0].unsynced_bytes == 16**3
