"""Large boxes over missing cube files are written once, and nobody can tell from the voxels."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magd.acknowledgement import Durability
from magd.actors import arrival as arrival_module
from magd.actors import flusher
from magd.actors import volume as volume_module
from magd.actors.storage import Storage
from magd.actors.types import Bounds, FlushLevel, Mask, WriteCommand
from magd.catalog.root import Root
from magd.cubes.mag_files import MagFiles
from magd.errors import MagdError
from magd.geometry import Box
from magd.journal import journal_file
from magd.journal.journal import Journal
from magd.voxels import VoxelArray, VoxelFormat
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, read, until, write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.catalog.names import MagName
    from magd.compression.pool import CompressionPool

UINT8 = VoxelFormat.of("uint8", 1)
SIZE = 96


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small boxes are large."""
    monkeypatch.setattr(volume_module, "SIDE_BYTES", 1000)
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 1000)
    monkeypatch.setattr(arrival_module, "PIECE_BYTES", 3000)
    # A box that waits in the overlay keeps a large one in the same cube files from becoming them.
    monkeypatch.setattr(flusher, "GATHER_SECONDS", 0.0)


async def arrive(storage: Storage, name: MagName, box: Box, data: VoxelArray, durability: Durability) -> None:
    """Write a box as its handler does: its bytes come one part after the other."""
    cost = await storage.volume.check_write(name, box, UINT8, Bounds.EXTEND, Mask.ALL)
    raw = data.tobytes(order="F")
    with (
        await storage.budget.lease(cost) as lease,
        await storage.volume.arrival(name, box, UINT8, durability, Mask.ALL, lease) as arrival,
    ):
        for start in range(0, len(raw), 7000):
            arrival.add(raw[start : start + 7000])
            await asyncio.sleep(0)
        await arrival.finish()
        command = WriteCommand("", box, arrival.data, durability, Bounds.EXTEND, staging=arrival.staging)
        await storage.volume.write(name, command, lease)


def noise(box: Box, seed: int = 1) -> VoxelArray:
    return np.asfortranarray(np.random.default_rng(seed).integers(1, 256, (1, *box.size), dtype=np.uint8))


def count_links(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note of each box whose parts are to become cube files, whether they did."""
    real, results = MagFiles.link, []

    def link(self: MagFiles, box: Box, paths: list[str], *, synced: bool) -> bool:
        results.append(real(self, box, paths, synced=synced))
        return results[-1]

    monkeypatch.setattr(MagFiles, "link", link)
    return results


def copy_with_links(source: Path, target: Path) -> None:
    """Copy a folder as a crash of the process leaves it: two names of one file stay two names of one file."""
    copied: dict[int, Path] = {}
    for path in sorted(source.rglob("*")):
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            to.mkdir()
        elif (number := path.stat().st_ino) in copied:
            to.hardlink_to(copied[number])
        else:
            copied[number] = shutil.copyfile(path, to)


def random_box(rng: random.Random, most: int, cube_len: int) -> Box:
    """A box; it may cover cube files wholly."""
    size = [rng.randrange(1, most) for _ in range(3)]
    offset = [rng.randrange(SIZE - edge) for edge in size]
    if rng.random() < 0.4:
        size = [min(-(-edge // cube_len) * cube_len, SIZE) for edge in size]
        offset = [min(start // cube_len * cube_len, SIZE - edge) for start, edge in zip(offset, size, strict=True)]
    return Box.of(offset, size)


@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
async def test_a_box_over_missing_cube_files_becomes_them(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    results = count_links(monkeypatch)
    name = await make_mag(storage, block_len=8, file_len=4)
    box = Box.of((3, 5, 7), (50, 40, 30))
    await arrive(storage, name, box, noise(box), durability)
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))
    await storage.flush("")
    assert results == [True]
    await until(lambda: storage.budget.used_bytes == 0)
    folder = tmp_path / "root" / "brain" / "color" / "1"
    assert {path.name.rpartition(".")[2] for path in (folder / ".magd" / "journal").iterdir()} == {"journal"}
    assert {path.stat().st_nlink for path in folder.glob("z*/y*/x*.wkw")} == {1}
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))
    await write(storage, name, (10, 10, 10), np.full((5, 5, 5), 7, np.uint8))
    await storage.flush("")
    expected = noise(box)
    expected[:, 7:12, 5:10, 3:8] = 7
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), expected)


async def test_a_box_over_whole_cube_files_takes_their_place(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = count_links(monkeypatch)
    name = await make_mag(storage, block_len=8, file_len=4)
    folder = tmp_path / "root" / "brain" / "color" / "1"
    around = Box.of((0, 0, 0), (96, 64, 32))
    await write(storage, name, around.offset, noise(around, 1))
    await storage.flush("")
    before = {path: path.stat() for path in folder.glob("z*/y*/x*.wkw")}
    for path in before:
        path.chmod(0o640)
    await write(storage, name, (30, 30, 30), np.full((5, 5, 2), 7, np.uint8))  # in the journal still
    box = Box.of((32, 0, 0), (64, 64, 40))  # also half of what is missing behind
    await arrive(storage, name, box, noise(box, 2), Durability.DISK)
    await until(lambda: storage.budget.used_bytes == 0)
    assert results == [True]
    expected = np.zeros((1, 96, 64, 64), np.uint8)
    expected[:, :96, :64, :32] = noise(around, 1)
    expected[:, 30:35, 30:35, 30:32] = 7
    expected[:, 32:, :, :40] = noise(box, 2)
    np.testing.assert_array_equal(await read(storage, name, (0, 0, 0), (96, 64, 64)), expected)
    after = {path: path.stat() for path in before}
    same = {path for path in before if before[path].st_ino == after[path].st_ino}
    assert same == {folder / "z0" / "y0" / "x0.wkw", folder / "z0" / "y1" / "x0.wkw"}
    assert {status.st_mode & 0o777 for status in after.values()} == {0o640}
    await write(storage, name, (60, 60, 20), np.full((4, 4, 4), 9, np.uint8))
    expected[:, 60:64, 60:64, 20:24] = 9
    await storage.flush("")
    np.testing.assert_array_equal(await read(storage, name, (0, 0, 0), (96, 64, 64)), expected)
    assert {path.stat().st_nlink for path in before} == {1}
    assert not list((folder / ".magd" / "tmp").iterdir())


async def test_a_box_that_need_not_be_on_the_disk_becomes_missing_cube_files_without_a_sync(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = count_links(monkeypatch)
    name = await make_mag(storage, block_len=8, file_len=4)
    await write(storage, name, (90, 90, 90), np.full((2, 2, 2), 9, np.uint8))  # the journal has begun
    await until(lambda: storage.budget.used_bytes == 0)
    folder = tmp_path / "root" / "brain" / "color" / "1"
    synced: list[str] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}").rpartition(".")[2])
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    box = Box.of((0, 0, 0), (64, 32, 32))
    await arrive(storage, name, box, noise(box), Durability.PROCESS)
    await until(lambda: storage.budget.used_bytes == 0)
    assert results == [True]
    # Only their headers and lengths are.
    assert synced == ["staged", "staged"]
    assert {path.stat().st_nlink for path in folder.glob("z0/y0/x*.wkw")} == {2}
    assert list((folder / ".magd" / "journal").glob("*.unsynced"))
    synced.clear()
    await storage.flush("")
    assert synced.count("wkw") == 3
    assert not list((folder / ".magd" / "journal").glob("*.unsynced"))
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))


async def test_a_box_whose_parts_failed_to_be_synced_while_they_became_cube_files_is_written_from_memory(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await make_mag(storage, block_len=8, file_len=4)
    await write(storage, name, (90, 90, 90), np.full((2, 2, 2), 9, np.uint8))  # the journal has begun
    await until(lambda: storage.budget.used_bytes == 0)
    real_link, real_write = MagFiles.link, MagFiles.write_many
    written: list[Box] = []

    def link(self: MagFiles, box: Box, paths: list[str], *, synced: bool) -> bool:
        # The journal hears of it before the cube files have a descriptor that would.
        monkeypatch.setattr(Journal, "broken", "a sync failed")
        return real_link(self, box, paths, synced=synced)

    def write_many(self: MagFiles, boxes: Any, **options: Any) -> Any:
        written.extend(box for box, _ in boxes)
        return real_write(self, boxes, **options)

    monkeypatch.setattr(MagFiles, "link", link)
    monkeypatch.setattr(MagFiles, "write_many", write_many)
    box = Box.of((0, 0, 0), (64, 32, 32))
    await arrive(storage, name, box, noise(box), Durability.PROCESS)
    await until(lambda: storage.budget.used_bytes == 0)
    assert written == [box]
    monkeypatch.undo()
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))


async def test_a_box_that_need_not_be_on_the_disk_is_synced_before_it_takes_the_place_of_cube_files(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await make_mag(storage, block_len=8, file_len=4)
    box = Box.of((0, 0, 0), (64, 32, 32))
    await write(storage, name, (0, 0, 0), np.full((40, 8, 8), 9, np.uint8), durability=Durability.DISK)
    await storage.flush("")
    calls: list[str] = []
    real_sync, real_rename = os.fdatasync, os.rename

    def fdatasync(fd: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{fd}").rpartition(".")[2])
        real_sync(fd)

    def rename(source: str, target: str, **folders: int) -> None:
        calls.append(f"to {target.rpartition('.')[2]}")
        real_rename(source, target, **folders)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "rename", rename)
    # As if the cube files had come to be while the box arrived: else it would have a side file.
    monkeypatch.setattr(volume_module, "can_become_cube_files", lambda *_, **__: True)
    await arrive(storage, name, box, noise(box), Durability.PROCESS)
    await until(lambda: storage.budget.used_bytes == 0)
    assert calls[-5:] == ["part0", "part1", "journal", "to wkw", "to wkw"]
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))


@pytest.mark.parametrize("read_at_once_bytes", [1, 64 << 20])
async def test_what_lies_below_a_box_does_not_get_into_it_when_both_are_applied_again(
    tmp_path: Path, pool: CompressionPool, monkeypatch: pytest.MonkeyPatch, read_at_once_bytes: int
) -> None:
    results = count_links(monkeypatch)
    monkeypatch.setattr(flusher, "READ_AT_ONCE_BYTES", read_at_once_bytes)
    root, crashed = tmp_path / "root", tmp_path / "crashed"
    root.mkdir()
    box = Box.of((0, 0, 0), (64, 32, 32))
    expected = np.zeros((1, 96, 64, 64), np.uint8)
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        name = await make_mag(storage, block_len=8, file_len=4)
        for number in range(1, 4):
            await write(storage, name, (20, 20, 20), np.full((40, 40, 40), number, np.uint8))
            expected[:, 20:60, 20:60, 20:60] = number
            await arrive(storage, name, box, noise(box, number), Durability.DISK)
            expected[:, :64, :32, :32] = noise(box, number)
            await until(lambda: storage.budget.used_bytes == 0)
        copy_with_links(root, crashed)
    assert results == [True] * 3
    async with Storage(Root(str(crashed)), CONFIG, pool) as storage:
        np.testing.assert_array_equal(await read(storage, name, (0, 0, 0), (96, 64, 64)), expected)
        await storage.flush("")
        np.testing.assert_array_equal(await read(storage, name, (0, 0, 0), (96, 64, 64)), expected)


@pytest.mark.parametrize("seed", range(8))
async def test_boxes_beside_and_over_each_other_read_as_they_were_written(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    results = count_links(monkeypatch)
    rng = random.Random(seed)
    linked = 0
    for mag in ("1", "2", "4", "8"):
        file_len = rng.choice((2, 4, 4))
        name = await make_mag(storage, mag=mag, block_len=8, file_len=file_len)
        expected = np.zeros((1, SIZE, SIZE, SIZE), np.uint8)
        for _ in range(rng.randrange(2, 5)):
            group: list[Box] = []
            for _ in range(6):
                box = random_box(rng, 48, 8 * file_len)
                if not any(box.intersects(other) for other in group):
                    group.append(box)
            async with asyncio.TaskGroup() as tasks:
                for box in group:
                    data = noise(box, rng.getrandbits(30))
                    expected[:, box.offset.x : box.end.x, box.offset.y : box.end.y, box.offset.z : box.end.z] = data
                    durability = rng.choice(list(Durability))
                    if rng.random() < 0.7:
                        tasks.create_task(arrive(storage, name, box, data, durability))
                    else:
                        tasks.create_task(write(storage, name, box.offset, data, durability=durability))
            np.testing.assert_array_equal(await read(storage, name, (0, 0, 0), (SIZE, SIZE, SIZE)), expected)
            if rng.random() < 0.3:
                await storage.flush("", rng.choice(list(FlushLevel)))
        await storage.flush("")
        np.testing.assert_array_equal(await read(storage, name, (0, 0, 0), (SIZE, SIZE, SIZE)), expected)
        linked += sum(results)
    assert linked


@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
@pytest.mark.parametrize("call", ["link", "rename", "fdatasync", "mark", "write"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("at", [0, 1, 3])
async def test_a_box_whose_parts_cannot_become_cube_files_is_written(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, durability: Durability, call: str, code: int, at: int
) -> None:
    name = await make_mag(storage, block_len=8, file_len=4)
    await write(storage, name, (90, 90, 90), np.full((2, 2, 2), 9, np.uint8))
    await storage.flush("")
    box = Box.of((3, 5, 7), (50, 40, 30))
    calls = 0

    def is_it(path: object) -> bool:
        nonlocal calls
        calls += 1
        return calls == at + 1

    if call == "mark":
        real_open = os.open

        def failing_open(path: str, *arguments: int, **options: int) -> int:
            if str(path).endswith(".linked") and is_it(path):
                raise OSError(code, os.strerror(code))
            return real_open(path, *arguments, **options)

        monkeypatch.setattr(os, "open", failing_open)
    else:
        attribute = {"write": "pwrite"}.get(call, call)
        real = getattr(os, attribute)

        def failing(*arguments: object, **options: object) -> object:
            if is_it(arguments[0]):
                raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        monkeypatch.setattr(os, attribute, failing)
    await arrive(storage, name, box, noise(box), durability)
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))
    try:
        await storage.flush("")
    except MagdError:
        # A sync of the cube files failed: they are opened anew.
        await storage.flush("")
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))
