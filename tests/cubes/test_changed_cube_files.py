"""Cube files that another program changes behind our back stop the mag: neither old voxels nor zeros are read."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import pytest

from magd.cubes import handles
from magd.cubes.descriptors import POOL, Pool
from magd.cubes.handles import Handles
from magd.cubes.header import BlockType
from magd.cubes.mag_files import MagFiles
from magd.cubes.mag_folder import MagFolder
from magd.errors import DataLoss, Reason
from magd.geometry import Box, Vec3
from tests.cubes.oracle import make_header, some_voxels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BOTH = Box.of((0, 0, 0), (32, 16, 16))
FIRST = Box.of((0, 0, 0), (16, 16, 16))
ONE = np.ones((1, 1, 1, 1), np.uint16)


@pytest.fixture(params=[BlockType.RAW, BlockType.LZ4], ids=["raw", "compressed"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MagFiles]:
    """A mag with two cube files of 16^3 voxels side by side on x, of which the second one was looked up."""
    header = make_header("uint16", block_type=request.param)
    with MagFiles.create(str(tmp_path / "1"), header) as files:
        files.write(BOTH, some_voxels(header, BOTH.size, seed=1))
    with MagFiles.open(str(tmp_path / "1")) as files:
        files.read(Box.of((20, 0, 0), (4, 4, 4)))
        yield files


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return tmp_path / "1/z0/y0/x1.wkw"


def replace_by_a_copy(path: Path) -> None:
    shutil.copyfile(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def remove(path: Path) -> None:
    path.unlink()


def remove_with_its_folders(path: Path) -> None:
    shutil.rmtree(path.parent.parent)


CHANGES = (replace_by_a_copy, remove, remove_with_its_folders)


def assert_stopped(files: MagFiles, path: Path) -> None:
    """Everything is refused, also what lies in the other file."""
    for call in (
        lambda: files.read(FIRST),
        lambda: files.read(BOTH),
        lambda: files.write(Box.of((0, 0, 0), (1, 1, 1)), ONE),
        lambda: files.check_write(FIRST),
    ):
        with pytest.raises(DataLoss) as caught:
            call()
        assert caught.value.reason is Reason.CHANGED_ON_DISK
        assert caught.value.metadata["file"] == str(path)
    written = files.write_many([(Box.of((0, 0, 0), (1, 1, 1)), ONE)])
    assert written.in_files == (False,)
    assert written.error is not None
    assert written.error.reason is Reason.CHANGED_ON_DISK
    assert files.changed is not None


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("forgotten", [False, True], ids=["open", "closed meanwhile"])
@pytest.mark.parametrize("use", ["read", "check_write", "write", "write_many"])
def test_a_file_that_was_replaced_or_removed_stops_the_mag(
    files: MagFiles, second: Path, change: Callable[[Path], None], forgotten: bool, use: str
) -> None:
    before = second.read_bytes()
    assert files.changed is None
    change(second)
    if forgotten:
        POOL.close_idle()
    box = Box.of((25, 0, 0), (1, 1, 1))
    match use:
        case "read":
            with pytest.raises(DataLoss, match="another program"):
                files.read(box)
        case "check_write":
            with pytest.raises(DataLoss, match="another program"):
                files.check_write(box)
        case "write":
            with pytest.raises(DataLoss, match="another program"):
                files.write(box, ONE)
        case _:
            assert files.write_many([(box, ONE)]).in_files == (False,)
    assert_stopped(files, second)
    # What the other program put there is as it was.
    assert not second.exists() or second.read_bytes() == before


def test_a_compressed_file_that_was_written_in_place_stops_the_mag(tmp_path: Path) -> None:
    header = make_header("uint16", block_type=BlockType.LZ4)
    path = tmp_path / "1/z0/y0/x0.wkw"
    with MagFiles.create(str(tmp_path / "1"), header) as files:
        files.write(FIRST, some_voxels(header, FIRST.size))
        content = bytearray(path.read_bytes())
        path.write_bytes(content)
        os.utime(path, ns=(0, 1_000_000_000))
        with pytest.raises(DataLoss) as caught:
            files.read(FIRST)
        assert caught.value.reason is Reason.CHANGED_ON_DISK
        assert_stopped(files, path)


def test_a_raw_file_whose_blocks_were_written_in_place_is_read_as_it_is(tmp_path: Path) -> None:
    """What nobody can see: raw files are changed in place by us too."""
    with MagFiles.create(str(tmp_path / "1"), make_header("uint16")) as files:
        files.write(FIRST, np.ones((1, *FIRST.size), np.uint16))
        with (tmp_path / "1/z0/y0/x0.wkw").open("r+b") as file:
            file.seek(16)
            file.write(b"\7")
        os.utime(tmp_path / "1/z0/y0/x0.wkw", ns=(0, 1_000_000_000))
        assert files.read(FIRST)[0, 0, 0, 0] == 7
        assert files.changed is None


def test_a_file_that_others_make_where_there_was_none_is_read(files: MagFiles, tmp_path: Path) -> None:
    there = Box.of((0, 0, 16), (16, 16, 16))
    assert not files.read(there).any()
    (tmp_path / "1/z1/y0").mkdir(parents=True)
    shutil.copyfile(tmp_path / "1/z0/y0/x0.wkw", tmp_path / "1/z1/y0/x0.wkw")
    np.testing.assert_array_equal(files.read(there), files.read(FIRST))


def test_a_file_that_comes_to_be_while_we_make_it_is_not_replaced(files: MagFiles, tmp_path: Path) -> None:
    path = tmp_path / "1/z1/y0/x0.wkw"
    mkdir = os.mkdir

    def make_and_put(name: str, *arguments: int, dir_fd: int | None = None) -> None:
        mkdir(name, *arguments, dir_fd=dir_fd)
        if name == "y0":
            shutil.copyfile(tmp_path / "1/z0/y0/x0.wkw", path)

    with mock.patch.object(os, "mkdir", make_and_put), pytest.raises(DataLoss) as caught:
        files.write(Box.of((0, 0, 16), (1, 1, 1)), ONE)
    assert caught.value.reason is Reason.CHANGED_ON_DISK
    assert path.read_bytes() == (tmp_path / "1/z0/y0/x0.wkw").read_bytes()
    assert os.listdir(tmp_path / "1/.magd/tmp") == []


def test_a_file_replaced_while_its_successor_is_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = make_header("uint16", block_type=BlockType.LZ4)
    path = tmp_path / "1/z0/y0/x0.wkw"
    with MagFiles.create(str(tmp_path / "1"), header) as files:
        files.write(FIRST, some_voxels(header, FIRST.size))
        sync = os.fdatasync

        def replace_too(fd: int) -> None:
            sync(fd)
            replace_by_a_copy(path)

        monkeypatch.setattr(os, "fdatasync", replace_too)
        before = path.read_bytes()
        with pytest.raises(DataLoss) as caught:
            files.write(Box.of((0, 0, 0), (1, 1, 1)), ONE)
        assert caught.value.reason is Reason.CHANGED_ON_DISK
        assert path.read_bytes() == before


def test_who_only_reads_follows_the_changes_of_others(files: MagFiles, second: Path) -> None:
    box = Box.of((16, 0, 0), (16, 16, 16))
    with MagFiles.open(files.folder, read_only=True) as reading:
        reading.read(box)
        files.write(box, np.full((1, 16, 16, 16), 9, np.uint16))
        assert (reading.read(box) == 9).all()
        second.unlink()
        assert not reading.read(box).any()
        assert reading.changed is None


def test_our_own_rewrites_are_no_changes_also_for_readers_at_the_same_time(tmp_path: Path) -> None:
    header = make_header("uint16", block_type=BlockType.LZ4)
    done = threading.Event()
    errors: list[Exception] = []
    with MagFiles.create(str(tmp_path / "1"), header) as files:
        files.write(FIRST, np.zeros((1, *FIRST.size), np.uint16))

        def read() -> None:
            try:
                while not done.is_set():
                    voxels = files.read(FIRST)
                    assert (voxels == voxels[0, 0, 0, 0]).all()
            except Exception as error:  # noqa: BLE001  # the main thread tells
                errors.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for value in range(60):
                files.write(FIRST, np.full((1, *FIRST.size), value, np.uint16))
                if value % 7 == 0:
                    POOL.close_idle()
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert errors == []


def test_files_beyond_what_is_remembered_are_read_as_they_are(
    files: MagFiles, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "MAX_KNOWN", 1)
    files.read(FIRST)
    POOL.close_idle()
    replace_by_a_copy(second)
    assert files.read(BOTH).any()


# The pool of descriptors.


def handles_of(files: MagFiles, pool: Pool) -> Handles:
    return Handles(MagFolder(files.folder), files.header, is_owner=True, pool=pool)


def test_the_one_that_was_idle_longest_is_closed_and_one_in_use_never(files: MagFiles) -> None:
    pool = Pool(most=1)
    opened = handles_of(files, pool)
    first, second = opened.find(Vec3(0, 0, 0)), opened.find(Vec3(1, 0, 0))
    assert first is not None
    assert second is not None
    second.release()
    os.fstat(first.file.fd)
    os.fstat(second.file.fd)
    first.release()
    os.fstat(first.file.fd)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(second.file.fd)
    opened.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(first.file.fd)


def test_a_second_look_costs_one_system_call_and_shares_the_descriptor(files: MagFiles) -> None:
    opened = handles_of(files, Pool())
    first = opened.find(Vec3(0, 0, 0))
    with (
        mock.patch.object(os, "open", side_effect=AssertionError),
        mock.patch.object(os, "stat", side_effect=os.stat) as stat,
    ):
        again = opened.find(Vec3(0, 0, 0))
    assert again is first is not None
    assert stat.call_count == 1
    writable = opened.find(Vec3(0, 0, 0), writable=True)
    assert writable is not None
    assert writable is not first
    assert opened.find(Vec3(0, 0, 0)) is writable


def test_idle_files_hold_a_bounded_number_of_bytes(tmp_path: Path) -> None:
    header = make_header("uint16", block_type=BlockType.LZ4)
    with MagFiles.create(str(tmp_path / "1"), header) as files:
        files.write(BOTH, some_voxels(header, BOTH.size))
        opened = handles_of(files, Pool(most_bytes=8 * 65))
        looked_up = []
        for x in (0, 1):
            handle = opened.find(Vec3(x, 0, 0))
            assert handle is not None
            handle.table(0, 64)
            handle.release()
            looked_up.append(handle)
        assert not looked_up[0].is_kept
        assert looked_up[1].is_kept
