"""What sync brings to the disk, and what it says when that fails."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.cubes.descriptors import POOL
from magd.cubes.header import BlockType
from magd.cubes.mag_files import MagFiles
from magd.cubes.unsynced import MAX_OPEN
from magd.errors import DataLoss, Reason
from magd.geometry import Box, Vec3
from tests.cubes.oracle import make_header

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE = np.ones((1, 1, 1, 1), np.uint8)


class Disk:
    """Records what is synced, by path below the folder of the mag; can fail for one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.synced: list[str] = []
        self.failing: str | None = None
        self._folder = folder
        for name in ("fdatasync", "fsync"):
            monkeypatch.setattr(os, name, self._recording(getattr(os, name)))

    def _recording(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def record(fd: int) -> None:
            path = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), self._folder)
            self.synced.append(path)
            if path == self.failing:
                raise OSError(errno.EIO, "as if the disk had failed")
            sync(fd)

        return record

    def take(self) -> list[str]:
        taken, self.synced = self.synced, []
        return sorted(path for path in taken if ".magd" not in path)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    return Disk(monkeypatch, tmp_path / "1")


@pytest.fixture
def raw(disk: Disk, tmp_path: Path) -> MagFiles:
    files = MagFiles.create(str(tmp_path / "1"), make_header())
    disk.take()
    return files


@pytest.fixture
def compressed(disk: Disk, tmp_path: Path) -> MagFiles:
    files = MagFiles.create(str(tmp_path / "1"), make_header(block_type=BlockType.LZ4))
    disk.take()
    return files


def write_at(files: MagFiles, *index: int) -> None:
    files.write(Box(Vec3.of(index) * 16, Vec3.full(1)), ONE)


def test_create_syncs_the_header_its_folder_and_the_parent(disk: Disk, tmp_path: Path) -> None:
    MagFiles.create(str(tmp_path / "1"), make_header()).close()
    header, folder, parent = disk.synced
    assert header.startswith(".magd/tmp/")
    assert (folder, parent) == (".", "..")


def test_a_new_raw_file_is_synced_with_its_new_folders_and_their_parents(raw: MagFiles, disk: Disk) -> None:
    write_at(raw, 1, 2, 3)
    assert disk.take() == []
    assert raw.unsynced_bytes == 1
    raw.sync()
    assert disk.take() == [".", "z3", "z3/y2", "z3/y2/x1.wkw"]
    assert raw.unsynced_bytes == 0
    raw.sync()
    assert disk.take() == []


def test_a_changed_raw_file_is_synced_alone(raw: MagFiles, disk: Disk) -> None:
    write_at(raw, 1, 2, 3)
    raw.sync()
    disk.take()
    write_at(raw, 1, 2, 3)
    write_at(raw, 1, 2, 3)
    raw.sync()
    assert disk.take() == ["z3/y2/x1.wkw"]


def test_a_second_file_in_a_known_folder_syncs_this_folder_only(raw: MagFiles, disk: Disk) -> None:
    write_at(raw, 1, 2, 3)
    raw.sync()
    disk.take()
    write_at(raw, 2, 2, 3)
    raw.sync()
    assert disk.take() == ["z3/y2", "z3/y2/x2.wkw"]


def test_folders_that_a_process_before_may_not_have_synced_are_synced(
    raw: MagFiles, disk: Disk, tmp_path: Path
) -> None:
    write_at(raw, 1, 2, 3)
    raw.close()
    with MagFiles.open(str(tmp_path / "1")) as files:
        write_at(files, 1, 2, 3)
        files.sync()
    assert disk.take() == [".", "z3", "z3/y2", "z3/y2/x1.wkw"]


def test_a_raw_file_gets_its_name_only_when_it_is_whole_on_the_disk(raw: MagFiles, disk: Disk) -> None:
    """Otherwise a power loss could leave an empty file, which is damage, where nothing was."""
    write_at(raw, 0, 0, 0)
    assert [path.startswith(".magd/tmp/") for path in disk.synced] == [True]


def test_a_compressed_file_is_synced_before_it_replaces_another_and_its_name_by_sync(
    compressed: MagFiles, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, order = os.rename, list[str]()

    def note(*arguments: object, **folders: object) -> None:
        order.extend(disk.synced)
        order.append("rename")
        rename(*arguments, **folders)  # type: ignore[arg-type]

    write_at(compressed, 0, 0, 0)
    compressed.sync()
    disk.synced.clear()
    monkeypatch.setattr(os, "rename", note)
    write_at(compressed, 0, 0, 0)
    assert [step.split("/")[0] for step in order] == [".magd", "rename"]
    assert compressed.unsynced_bytes == os.stat(f"{compressed.folder}/z0/y0/x0.wkw").st_size
    assert disk.take() == []
    compressed.sync()
    assert disk.take() == ["z0/y0"]
    assert compressed.unsynced_bytes == 0


@pytest.mark.parametrize("failing", ["z3/y2/x1.wkw", "z3/y2", "z3", "."])
def test_a_sync_that_failed_fails_for_ever_and_does_not_keep_others_from_the_disk(
    raw: MagFiles, disk: Disk, failing: str
) -> None:
    write_at(raw, 1, 2, 3)
    write_at(raw, 0, 0, 9)
    disk.failing = failing
    with pytest.raises(DataLoss, match="may be lost") as caught:
        raw.sync()
    assert caught.value.reason is Reason.IO_ERROR
    assert caught.value.metadata["errno"] == "EIO"
    assert caught.value.metadata["file"] == os.path.normpath(f"{raw.folder}/{failing}")
    assert {"z9/y0/x0.wkw", "z9/y0", "z9"} <= set(disk.take())
    # The kernel has forgotten what it could not write: a second sync would succeed, and lie.
    disk.failing = None
    for _ in range(2):
        with pytest.raises(DataLoss, match="may be lost"):
            raw.sync()
    write_at(raw, 1, 2, 3)
    with pytest.raises(DataLoss, match="may be lost"):
        raw.sync()


def test_bytes_of_a_write_that_failed_half_way_are_synced_too(
    raw: MagFiles, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_at(raw, 0, 0, 0)
    raw.sync()
    disk.take()

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "as if the disk had failed")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        with pytest.raises(DataLoss):
            write_at(raw, 0, 0, 0)
    raw.sync()
    assert disk.take() == ["z0/y0/x0.wkw"]


def test_descriptors_that_wait_for_a_sync_are_bounded(raw: MagFiles, disk: Disk) -> None:
    POOL.close_idle()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3 * MAX_OPEN):
        write_at(raw, number, 0, 0)
        POOL.close_idle()
        assert len(os.listdir("/proc/self/fd")) <= before + MAX_OPEN
    raw.sync()
    synced = disk.take()
    assert {f"z0/y0/x{number}.wkw" for number in range(3 * MAX_OPEN)} <= set(synced)
    POOL.close_idle()
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_lets_go_of_the_descriptors(raw: MagFiles) -> None:
    before = len(os.listdir("/proc/self/fd"))
    write_at(raw, 0, 0, 0)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    raw.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    raw.close()
