"""Which cube files there are."""

from __future__ import annotations

import errno
import itertools
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
import wkw
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cubes.check import check_mag
from magd.cubes.header import BlockType
from magd.cubes.mag_files import MagFiles
from magd.errors import Busy, DataLoss
from magd.geometry import Box, Vec3
from tests.cubes.oracle import make_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INDICES = [Vec3(x, y, z) for z, y, x in itertools.product((0, 2, 10), (0, 9, 11), (1, 3, 20))]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MagFiles]:
    """Cube files of 4^3 voxels at INDICES: numbers whose order as text is another."""
    with MagFiles.create(str(tmp_path_factory.mktemp("mag") / "1"), make_header(block_len=2, file_len=2)) as files:
        for index in INDICES:
            files.write(Box(index * 4, Vec3.full(1)), np.ones((1, 1, 1, 1), np.uint8))
        yield files


def test_cube_files_come_in_numeric_z_y_x_order(listed: MagFiles) -> None:
    assert [cube_file.index for cube_file in listed.cube_files()] == INDICES


def test_each_says_what_it_is(listed: MagFiles) -> None:
    cube_file = next(listed.cube_files())
    assert cube_file.path == "z0/y0/x1.wkw"
    assert cube_file.box == Box.of((4, 0, 0), (4, 4, 4))
    assert cube_file.size_bytes == 16 + 64
    assert cube_file.block_type is BlockType.RAW
    assert cube_file.allocated_bytes == os.stat(f"{listed.folder}/{cube_file.path}").st_blocks * 512


def test_a_hole_is_not_counted_as_allocated(tmp_path: Path) -> None:
    with MagFiles.create(str(tmp_path / "1"), make_header(block_len=16, file_len=16)) as files:
        files.write(Box.of((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1, 1), np.uint8))
        files.sync()
        (cube_file,) = files.cube_files()
    assert cube_file.size_bytes == 16 + 256**3
    assert cube_file.allocated_bytes < 100_000


@given(st.tuples(*[st.integers(0, 90)] * 3), st.tuples(*[st.integers(1, 90)] * 3))
@settings(max_examples=50, deadline=None)
def test_a_box_selects_the_cube_files_that_it_touches(
    listed: MagFiles, offset: tuple[int, ...], size: tuple[int, ...]
) -> None:
    box = Box.of(offset, size)
    expected = [index for index in INDICES if Box(index * 4, Vec3.full(4)).intersects(box)]
    assert [cube_file.index for cube_file in listed.cube_files(box)] == expected


def test_a_listing_goes_on_after_any_index(listed: MagFiles) -> None:
    for place, index in enumerate(INDICES):
        assert [cube_file.index for cube_file in listed.cube_files(after=index)] == INDICES[place + 1 :]
    assert [cube_file.index for cube_file in listed.cube_files(after=Vec3(2, 9, 2))] == [
        index for index in INDICES if (index.z, index.y, index.x) > (2, 9, 2)
    ]


def test_a_listing_that_goes_on_does_not_read_the_folders_before(
    listed: MagFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[str]()
    listdir = os.listdir

    def note(fd: int) -> list[str]:
        read.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), listed.folder))
        return listdir(fd)

    monkeypatch.setattr(os, "listdir", note)
    assert len(list(listed.cube_files(after=Vec3(3, 9, 10)))) == 4
    assert read == [".", "z10", "z10/y9", "z10/y11"]


def test_wkw_lists_the_same_files(listed: MagFiles) -> None:
    with wkw.Dataset.open(listed.folder) as dataset:
        theirs = {os.path.relpath(path, listed.folder) for path in dataset.list_files()}
    assert {cube_file.path for cube_file in listed.cube_files()} == theirs


def test_the_folders_are_read_as_the_listing_comes_to_them(tmp_path: Path) -> None:
    with MagFiles.create(str(tmp_path / "1"), make_header(block_len=2, file_len=2)) as files:
        for z in range(3):
            files.write(Box.of((0, 0, 4 * z), (1, 1, 1)), np.ones((1, 1, 1, 1), np.uint8))
        listing = files.cube_files()
        assert next(listing).index == Vec3(0, 0, 0)
        # What vanishes meanwhile is not listed.
        (tmp_path / "1/z1/y0/x0.wkw").unlink()
        (tmp_path / "1/z2/y0/x0.wkw").unlink()
        (tmp_path / "1/z2/y0").rmdir()
        assert list(listing) == []


def test_what_is_no_cube_file_is_passed_over(tmp_path: Path) -> None:
    with MagFiles.create(str(tmp_path / "1"), make_header(block_len=2, file_len=2)) as files:
        files.write(Box.of((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1, 1), np.uint8))
        for path in ("z0/y0/x1.wkw_tmp", "z0/y0/x01.wkw", "z0/notes", "z01/y0/x0.wkw", "y0/z0/x0.wkw", "z7"):
            (tmp_path / "1" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "1" / path).write_bytes(b"")
        (tmp_path / "1/z9").symlink_to(tmp_path / "1/z0")
        assert [cube_file.path for cube_file in files.cube_files()] == ["z0/y0/x0.wkw"]


def test_damaged_cube_files_are_listed_without_a_block_type(tmp_path: Path) -> None:
    with MagFiles.create(str(tmp_path / "1"), make_header(block_len=2, file_len=2)) as files:
        files.write(Box.of((0, 0, 0), (12, 1, 1)), np.ones((1, 12, 1, 1), np.uint8))
        (tmp_path / "1/z0/y0/x0.wkw").write_bytes(b"damaged")
        (tmp_path / "1/z0/y0/x1.wkw").unlink()
        (tmp_path / "1/z0/y0/x1.wkw").symlink_to("x2.wkw")
        listed = [(cube_file.index.x, cube_file.block_type) for cube_file in files.cube_files()]
    assert listed == [(0, None), (1, None), (2, BlockType.RAW)]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MagFiles.create(str(tmp_path / "1"), make_header(block_len=2, file_len=2)) as files:
        files.write(Box.of((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1, 1), np.uint8))

        def fail(_: object) -> list[str]:
            raise PermissionError(13, "as if it were somebody else's")

        monkeypatch.setattr(os, "listdir", fail)
        with pytest.raises(DataLoss):
            list(files.cube_files())


def test_running_out_of_descriptors_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MagFiles.create(str(tmp_path / "1"), make_header(block_len=2, file_len=2)) as files:
        files.write(Box.of((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1, 1), np.uint8))
        open_file = os.open

        def fail(path: str, flags: int, *arguments: int, dir_fd: int | None = None) -> int:
            if path in ("x0.wkw", "header.wkw"):
                raise OSError(errno.EMFILE, "as if too many were open")
            return open_file(path, flags, *arguments, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", fail)
        for use in (lambda: list(files.cube_files()), lambda: list(check_mag(files.folder, deep=False))):
            with pytest.raises(Busy) as caught:
                use()
            assert caught.value.metadata["errno"] == "EMFILE"
