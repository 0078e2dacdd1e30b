"""Whole files that become cube files of a raw mag, also in the place of others."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cubes.header import BlockType, Header
from magd.cubes.layout import box_of_cube_file, cube_file_path, split_by_cube_file
from magd.cubes.mag_files import MagFiles
from magd.errors import MagdError, NotAllowed, Reason
from magd.geometry import Box, Vec3
from tests.cubes.oracle import Model, boxes, make_header, some_voxels, wkw_read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magd.voxels import VoxelArray

HEADER = make_header("uint16")
LENGTH = HEADER.cube_len
EDGE = 3 * LENGTH
WHOLE = box_of_cube_file(Vec3(0, 0, 0), LENGTH)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[MagFiles]:
    """An empty raw mag."""
    with MagFiles.create(str(tmp_path / "1"), HEADER) as files:
        yield files


def make_parts(files: MagFiles, scratch: Path, box: Box, data: VoxelArray) -> list[str]:
    """Files that hold a box, on the disk of the mag."""
    with MagFiles.create(str(scratch), HEADER) as other:
        other.write(box, data)
        other.sync()
    paths = []
    for number, (index, _) in enumerate(split_by_cube_file(box, LENGTH)):
        paths.append(f"{scratch.name}-{number}")
        os.rename(scratch / cube_file_path(index), os.path.join(files.folder, paths[-1]))
    return paths


def link(files: MagFiles, box: Box, paths: list[str]) -> bool:
    """Make files on the disk the cube files under a box."""
    return files.link(box, paths, synced=True)


def file_of(files: MagFiles, index: Vec3) -> str:
    return os.path.join(files.folder, cube_file_path(index))


def temporaries(files: MagFiles) -> list[str]:
    folder = os.path.join(files.folder, ".magd", "tmp")
    return os.listdir(folder) if os.path.exists(folder) else []


@st.composite
def aligned_boxes(draw: st.DrawFn) -> Box:
    """Boxes of whole cube files."""
    start = Vec3(*(draw(st.integers(0, 2)) for _ in range(3)))
    size = Vec3(*(draw(st.integers(1, 3 - at)) for at in start))
    return Box(start * LENGTH, size * LENGTH)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_boxes_that_are_written_or_linked_in_any_order_read_as_they_came(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mag")
    model = Model(HEADER, EDGE)
    with MagFiles.create(str(folder / "1"), HEADER) as files:
        for seed in range(data.draw(st.integers(2, 6))):
            box = data.draw(aligned_boxes() | boxes(EDGE))
            voxels = some_voxels(HEADER, box.size, seed)
            parts = list(split_by_cube_file(box, LENGTH))
            if data.draw(st.booleans()):
                is_free = all(
                    part == box_of_cube_file(index, LENGTH) or not os.path.exists(file_of(files, index))
                    for index, part in parts
                )
                paths = make_parts(files, folder / f"box{seed}", box, voxels)
                assert link(files, box, paths) == is_free
                if is_free:
                    for (index, _), path in zip(parts, paths, strict=True):
                        assert os.path.samefile(file_of(files, index), os.path.join(files.folder, path))
                else:
                    files.write(box, voxels)
            else:
                files.write(box, voxels)
            model.write(box, voxels)
            if data.draw(st.booleans()):
                files.sync()
            box = data.draw(boxes(EDGE))
            np.testing.assert_array_equal(files.read(box), model.read(box))
            assert not temporaries(files)
        everything = Box.of((0, 0, 0), (EDGE,) * 3)
        np.testing.assert_array_equal(files.read(everything), model.read(everything))
    np.testing.assert_array_equal(wkw_read(folder / "1", everything), model.read(everything))


def test_a_file_that_is_a_cube_file_already_is_one_and_nothing_else_is_linked(files: MagFiles, tmp_path: Path) -> None:
    data = some_voxels(HEADER, WHOLE.size, 1)
    files.write(WHOLE, some_voxels(HEADER, WHOLE.size, 2))
    paths = make_parts(files, tmp_path / "part", WHOLE, data)
    assert link(files, WHOLE, paths)
    small = Box.of((3, 3, 3), (2, 2, 2))
    files.write(small, some_voxels(HEADER, small.size, 3))
    unsynced = files.unsynced_bytes
    assert link(files, WHOLE, paths)
    assert files.unsynced_bytes == unsynced > 0
    assert os.stat(file_of(files, Vec3(0, 0, 0))).st_nlink == 2
    assert not temporaries(files)


def test_what_was_written_to_a_replaced_file_needs_no_sync(files: MagFiles, tmp_path: Path) -> None:
    beside = box_of_cube_file(Vec3(1, 0, 0), LENGTH)
    files.write(WHOLE, some_voxels(HEADER, WHOLE.size, 2))
    files.write(beside, some_voxels(HEADER, beside.size, 3))
    assert files.unsynced_bytes == 2 * HEADER.voxels.nbytes(WHOLE)
    open_before = len(os.listdir("/proc/self/fd"))
    assert link(files, WHOLE, make_parts(files, tmp_path / "part", WHOLE, some_voxels(HEADER, WHOLE.size, 1)))
    assert files.unsynced_bytes == HEADER.voxels.nbytes(WHOLE)
    assert len(os.listdir("/proc/self/fd")) == open_before - 1, "the old file is closed"
    files.sync()
    assert files.unsynced_bytes == 0


def test_the_name_of_a_file_that_takes_the_place_of_another_is_synced(
    files: MagFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(WHOLE, some_voxels(HEADER, WHOLE.size, 2))
    files.sync()
    paths = make_parts(files, tmp_path / "part", WHOLE, some_voxels(HEADER, WHOLE.size, 1))
    assert link(files, WHOLE, paths)
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), files.folder))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    files.sync()
    assert "z0/y0" in synced


@pytest.mark.parametrize("has_it_open", [False, True])
def test_who_reads_the_replaced_file_reads_it_to_the_end(files: MagFiles, tmp_path: Path, has_it_open: bool) -> None:
    before, after = (some_voxels(HEADER, WHOLE.size, seed) for seed in (1, 2))
    files.write(WHOLE, before)
    with open(file_of(files, Vec3(0, 0, 0)), "rb") as held:
        if has_it_open:
            held.seek(0)
            assert files.read(WHOLE) is not None
        content = held.read()
        assert link(files, WHOLE, make_parts(files, tmp_path / "part", WHOLE, after))
        held.seek(0)
        assert held.read() == content
    np.testing.assert_array_equal(files.read(WHOLE), after)
    assert files.changed is None


def test_a_compressed_cube_file_in_a_raw_mag_is_not_replaced(files: MagFiles, tmp_path: Path) -> None:
    header = Header(HEADER.voxels, HEADER.block_len, HEADER.file_len, BlockType.LZ4)
    with MagFiles.create(str(tmp_path / "other"), header) as other:
        other.write(WHOLE, some_voxels(HEADER, WHOLE.size, 1))
    target = file_of(files, Vec3(0, 0, 0))
    os.makedirs(os.path.dirname(target))
    shutil.copyfile(tmp_path / "other" / cube_file_path(Vec3(0, 0, 0)), target)
    paths = make_parts(files, tmp_path / "part", WHOLE, some_voxels(HEADER, WHOLE.size, 2))
    with pytest.raises(NotAllowed) as caught:
        link(files, WHOLE, paths)
    assert caught.value.reason is Reason.MIXED_BLOCK_TYPES
    np.testing.assert_array_equal(files.read(WHOLE), some_voxels(HEADER, WHOLE.size, 1))
    assert not temporaries(files)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_file_that_vanished_is_an_error_of_ours(files: MagFiles, is_there: bool) -> None:
    if is_there:
        files.write(WHOLE, some_voxels(HEADER, WHOLE.size, 1))
    with pytest.raises(MagdError):
        link(files, WHOLE, ["vanished"])
    if is_there:
        np.testing.assert_array_equal(files.read(WHOLE), some_voxels(HEADER, WHOLE.size, 1))
    assert not temporaries(files)


def test_a_temporary_name_that_a_crash_left_is_removed_and_its_file_stays(tmp_path: Path) -> None:
    data = some_voxels(HEADER, WHOLE.size, 1)
    with MagFiles.create(str(tmp_path / "1"), HEADER) as files:
        (path,) = make_parts(files, tmp_path / "part", WHOLE, data)
        files._folder.link_as_temporary(path)
        assert temporaries(files)
    with MagFiles.open(str(tmp_path / "1")) as files:
        assert not temporaries(files)
        assert os.stat(os.path.join(files.folder, path)).st_nlink == 1
        assert link(files, WHOLE, [path])
        np.testing.assert_array_equal(files.read(WHOLE), data)
