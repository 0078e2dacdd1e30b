"""Boxes that are written together: each cube file once, later over earlier, and what is said of those that failed."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cubes.header import BlockType
from magd.cubes.layout import cube_file_path, split_by_cube_file
from magd.cubes.mag_files import MagFiles
from magd.errors import DataLoss, InvalidRequest, NotAllowed, Reason
from magd.geometry import Box, Vec3
from tests.cubes.oracle import Model, assert_holds, boxes, headers, make_header, some_voxels

if TYPE_CHECKING:
    from pathlib import Path

    from magd.cubes.header import Header
    from magd.voxels import VoxelArray

EDGE = 24


@pytest.fixture(params=[BlockType.RAW, BlockType.LZ4], ids=["raw", "compressed"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> MagFiles:
    """Cube files of 16^3 voxels."""
    return MagFiles.create(str(tmp_path / "1"), make_header("uint16", block_type=request.param))


class FailingCubeFiles:
    """Lets some cube files fail in the moment they are written: raw ones when their blocks are, compressed ones when
    they get their names."""

    def __init__(self, files: MagFiles, failing: set[str]) -> None:
        self._pwrite, self._pwritev, self._rename = os.pwrite, os.pwritev, os.rename
        self._files = files
        self._failing = failing

    def __enter__(self) -> None:
        compressed = self._files.header.block_type.is_compressed
        self._patch = (
            mock.patch.object(os, "rename", self._fail_rename)
            if compressed
            else mock.patch.multiple(os, pwrite=self._fail_pwrite, pwritev=self._fail_pwritev)
        )
        self._patch.start()

    def __exit__(self, *_: object) -> None:
        self._patch.stop()

    def _fail_rename(self, source: str, target: str, **folders: int) -> None:
        self._check(f"/proc/self/fd/{folders['dst_dir_fd']}", target)
        self._rename(source, target, **folders)

    def _fail_pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self._check(f"/proc/self/fd/{fd}", "")
        return self._pwrite(fd, data, offset)

    def _fail_pwritev(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        self._check(f"/proc/self/fd/{fd}", "")
        return self._pwritev(fd, buffers, offset)

    def _check(self, link: str, name: str) -> None:
        path = os.path.relpath(os.path.join(os.readlink(link), name), self._files.folder).removesuffix("/")
        if os.path.normpath(path) in self._failing:
            raise OSError(errno.EIO, "as if the disk had failed")


def boxes_with_voxels(header: Header, edge: int) -> st.SearchStrategy[list[tuple[Box, VoxelArray]]]:
    one = st.tuples(boxes(edge), st.integers(0, 1000)).map(
        lambda drawn: (drawn[0], some_voxels(header, drawn[0].size, seed=drawn[1]))
    )
    return st.lists(one, max_size=6)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), header=headers().filter(lambda header: header.cube_len >= 8))
def test_what_is_said_to_be_in_the_files_is_there_and_what_is_not_can_be_laid_over_it(
    data: st.DataObject, header: Header, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The use of it: boxes that are not in the files stay in memory, are painted over what is read, and are written
    again in front of later ones. What is read so is never an older voxel, whichever cube files fail."""
    with MagFiles.create(str(tmp_path_factory.mktemp("mag") / "1"), header) as files:
        model = Model(header, EDGE)
        cubes = [cube_file_path(index) for index, _ in split_by_cube_file(model.box, header.cube_len)]
        waiting: list[tuple[Box, VoxelArray]] = []
        for _ in range(3):
            new = data.draw(boxes_with_voxels(header, EDGE))
            for box, voxels in new:
                model.write(box, voxels)
            waiting += new
            failing = data.draw(st.sets(st.sampled_from(cubes), max_size=3))
            with FailingCubeFiles(files, failing):
                written = files.write_many(waiting)
            assert (written.error is None) == all(written.in_files)
            for (box, _), in_files in zip(waiting, written.in_files, strict=True):
                touched = {cube_file_path(index) for index, _ in split_by_cube_file(box, header.cube_len)}
                assert not (in_files and touched & failing)
            waiting = [write for write, in_files in zip(waiting, written.in_files, strict=True) if not in_files]
            seen = Model(header, EDGE)
            seen.data[...] = files.read(model.box)
            for box, voxels in waiting:
                seen.write(box, voxels)
            np.testing.assert_array_equal(seen.data, model.data)
        assert all(files.write_many(waiting).in_files)
        assert_holds(files, model)


def test_a_later_box_waits_for_an_earlier_one_it_overlaps_also_where_its_own_cube_file_is_written(
    files: MagFiles,
) -> None:
    wide = Box.of((8, 0, 0), (16, 4, 4))  # in two cube files
    later = Box.of((20, 0, 0), (2, 2, 2))  # in the second one, below it
    beside = Box.of((28, 0, 0), (2, 2, 2))
    writes = [(box, np.full((1, *box.size), value, np.uint16)) for value, box in enumerate((wide, later, beside), 1)]
    with FailingCubeFiles(files, {"z0/y0/x0.wkw"}):
        written = files.write_many(writes)
    assert written.in_files == (False, False, True)
    assert isinstance(written.error, DataLoss)
    assert written.error.metadata["file"].endswith("z0/y0/x0.wkw")
    assert (files.read(later) == 2).all()


def test_many_boxes_in_one_compressed_cube_file_are_one_rewrite(tmp_path: Path) -> None:
    with MagFiles.create(str(tmp_path / "1"), make_header("uint16", block_type=BlockType.LZ4)) as files:
        before = some_voxels(files.header, Vec3.full(16))
        files.write(Box.of((0, 0, 0), (16, 16, 16)), before)
        names = []
        with mock.patch.object(os, "rename", side_effect=os.rename) as rename:
            writes = [
                (Box.of((n % 16, n // 16, 3), (1, 1, 1)), np.full((1, 1, 1, 1), n + 1, np.uint16)) for n in range(100)
            ]
            assert all(files.write_many(writes).in_files)
            names = [call.args[1] for call in rename.call_args_list]
        assert names == ["x0.wkw"]
        before[0, :, :, 3].T.flat[:100] = range(1, 101)
        np.testing.assert_array_equal(files.read(Box.of((0, 0, 0), (16, 16, 16))), before)


def test_a_damaged_block_that_is_covered_in_the_end_is_not_needed(tmp_path: Path) -> None:
    """The first box covers a part of block 0, the second all of it."""
    box = Box.of((0, 0, 0), (16, 16, 16))
    path = tmp_path / "1/z0/y0/x0.wkw"
    with MagFiles.create(str(tmp_path / "1"), make_header("uint16", block_type=BlockType.LZ4)) as files:
        files.write(box, some_voxels(files.header, box.size))
    content = bytearray(path.read_bytes())
    first_block = 16 + 8 * 64
    content[first_block : first_block + 4] = b"\xff" * 4
    path.write_bytes(content)
    part, whole = Box.of((1, 1, 1), (2, 2, 2)), Box.of((0, 0, 0), (4, 4, 4))
    writes = [(box, np.full((1, *box.size), 5, np.uint16)) for box in (part, whole)]
    with MagFiles.open(str(tmp_path / "1")) as files:
        assert not files.write_many(writes[:1]).in_files[0]
        assert files.write_many(writes).in_files == (True, True)
        assert (files.read(whole) == 5).all()


def test_what_cannot_be_written_at_all_is_refused_before_anything_is_changed(files: MagFiles) -> None:
    good = (Box.of((0, 0, 0), (2, 2, 2)), np.ones((1, 2, 2, 2), np.uint16))
    for bad in (
        (Box.of((-1, 0, 0), (2, 2, 2)), good[1]),
        (good[0], good[1].astype(np.uint8)),
        (Box.of((0, 0, 0), (3, 2, 2)), good[1]),
    ):
        with pytest.raises(InvalidRequest):
            files.write_many([good, bad])
    with MagFiles.open(files.folder, read_only=True) as read_only, pytest.raises(NotAllowed) as caught:
        read_only.write_many([good])
    assert caught.value.reason is Reason.READ_ONLY
    assert list(files.cube_files()) == []
    assert files.write_many([]).in_files == ()


def test_what_lies_below_a_box_that_covers_a_cube_file_is_not_written_there(tmp_path: Path) -> None:
    below, whole, above = Box.of((8, 0, 0), (16, 16, 16)), Box.of((0, 0, 0), (16, 16, 16)), Box.of((1, 2, 3), (2, 2, 2))
    writes = [(box, np.full((1, *box.size), value, np.uint16)) for value, box in enumerate((below, whole, above), 1)]
    with MagFiles.create(str(tmp_path / "1"), make_header("uint16")) as files:
        assert files.write_many(writes).in_files == (True, True, True)
        # Of `below`, only the half in the second cube file.
        assert files.unsynced_bytes == 2 * (below.volume // 2 + whole.volume + above.volume)
        assert (files.read(above) == 3).all()
        assert (files.read(Box.of((16, 0, 0), (8, 16, 16))) == 1).all()


def test_a_cube_file_that_a_box_after_these_covers_is_left_out(tmp_path: Path) -> None:
    box, later = Box.of((8, 0, 0), (16, 4, 4)), Box.of((0, 0, 0), (16, 16, 20))
    with MagFiles.create(str(tmp_path / "1"), make_header("uint16")) as files:
        written = files.write_many([(box, np.full((1, *box.size), 1, np.uint16))], later=[later])
        assert written.in_files == (True,)
        assert (files.read(Box.of((16, 0, 0), (8, 4, 4))) == 1).all()
        assert [file.index for file in files.cube_files()] == [Vec3(1, 0, 0)]
