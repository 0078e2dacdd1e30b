"""Reading and writing boxes of a mag, against voxels in memory and against `wkw`."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cubes.check import check_mag
from magd.cubes.header import BlockType, Header
from magd.cubes.mag_files import MagFiles
from magd.errors import AlreadyExists, InvalidRequest, MagdError, NotAllowed, NotFound, Reason
from magd.geometry import Box, Vec3
from tests.cubes.oracle import (
    Model,
    assert_holds,
    boxes,
    headers,
    make_header,
    some_voxels,
    wkw_read,
    wkw_write,
)

if TYPE_CHECKING:
    from pathlib import Path

EDGE = 40  # of the models, in voxels: a few cube files of the largest header, many of the smallest that matter


@pytest.fixture(params=list(BlockType), ids=lambda block_type: block_type.name)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> MagFiles:
    """An empty mag of each block type: uint16, cube files of 16^3 voxels."""
    return MagFiles.create(str(tmp_path / "1"), make_header("uint16", block_type=request.param))


@given(header=headers(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_written_in_boxes_is_read_in_other_boxes_and_by_wkw(
    tmp_path_factory: pytest.TempPathFactory, header: Header, data: st.DataObject
) -> None:
    edge = min(EDGE, 5 * header.cube_len)
    folder = tmp_path_factory.mktemp("mag") / "1"
    model = Model(header, edge)
    with MagFiles.create(str(folder), header) as files:
        for seed in range(data.draw(st.integers(1, 4))):
            box = data.draw(boxes(edge))
            written = some_voxels(header, box.size, seed)
            if data.draw(st.booleans()):
                written = np.ascontiguousarray(written)
            files.write(box, written)
            model.write(box, written)
            box = data.draw(boxes(edge))
            np.testing.assert_array_equal(files.read(box), model.read(box))
    np.testing.assert_array_equal(wkw_read(folder, model.box), model.data)
    assert [checked for checked in check_mag(str(folder), deep=True) if checked.findings] == []


@given(header=headers(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_wkw_wrote_is_read(tmp_path_factory: pytest.TempPathFactory, header: Header, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("mag") / "1"
    voxels = some_voxels(header, Vec3.full(2 * header.cube_len), seed=1)
    wkw_write(folder, header, voxels)
    model = Model(header, 3 * header.cube_len)
    model.write(Box.of((0, 0, 0), voxels.shape[1:]), voxels)
    with MagFiles.open(str(folder), read_only=True) as files:
        assert_holds(files, model)
        box = data.draw(boxes(model.box.size.x))
        np.testing.assert_array_equal(files.read(box), model.read(box))


def test_what_wkw_wrote_can_be_changed(tmp_path: Path) -> None:
    for block_type in BlockType:
        header = make_header("uint32", block_type=block_type)
        folder = tmp_path / block_type.name
        model = Model(header, 32)
        model.data[:] = some_voxels(header, model.box.size, seed=5)
        wkw_write(folder, header, model.data)
        box = Box.of((3, 14, 15), (20, 9, 2))
        changed = some_voxels(header, box.size, seed=6)
        with MagFiles.open(str(folder)) as files:
            files.write(box, changed)
        model.write(box, changed)
        np.testing.assert_array_equal(wkw_read(folder, model.box), model.data)


def test_the_result_is_fortran_order_and_belongs_to_the_caller(files: MagFiles) -> None:
    box = Box.of((1, 2, 3), (17, 5, 4))
    first = files.read(box)
    assert first.shape == (1, 17, 5, 4)
    assert first.flags.f_contiguous
    assert first.dtype == np.dtype("uint16")
    assert not first.any()
    first[...] = 9
    assert not files.read(box).any()


def test_a_strided_view_is_written_as_it_looks(files: MagFiles) -> None:
    base = some_voxels(files.header, Vec3(40, 40, 40), seed=2)
    view = base[:, ::2, 5:25, ::-2]
    box = Box.of((7, 8, 9), view.shape[1:])
    files.write(box, view)
    np.testing.assert_array_equal(files.read(box), view)


def test_far_offsets_are_reached(files: MagFiles) -> None:
    end = 2**31 - 1
    box = Box.of((end - 5, 3, end - 1), (5, 2, 1))
    data = some_voxels(files.header, box.size, seed=3) + np.uint16(1)
    files.write(box, data)
    np.testing.assert_array_equal(files.read(box), data)
    assert [cube_file.index for cube_file in files.cube_files()] == [Vec3(end // 16, 0, end // 16)]


@pytest.mark.parametrize(
    ("box", "what"),
    [
        (Box.of((-1, 0, 0), (1, 1, 1)), "negative"),
        (Box.of((0, 0, 0), (1, 0, 1)), "below 1"),
        (Box.of((2**31 - 1, 0, 0), (1, 1, 1)), "beyond"),
    ],
)
def test_boxes_that_no_request_may_have_are_refused(files: MagFiles, box: Box, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as caught:
        files.read(box)
    assert caught.value.reason is Reason.INVALID_BOX
    with pytest.raises(InvalidRequest, match=what):
        files.write(box, np.zeros((1, *box.size.max(Vec3.full(1))), np.uint16))


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((1, 2, 2, 2), "int16", Reason.DATA_TYPE_MISMATCH),
        ((1, 2, 2, 2), ">u2", Reason.DATA_TYPE_MISMATCH),
        ((2, 2, 2, 2), "uint16", Reason.DATA_LENGTH_MISMATCH),
        ((1, 2, 2, 3), "uint16", Reason.DATA_LENGTH_MISMATCH),
        ((2, 2, 2), "uint16", Reason.DATA_LENGTH_MISMATCH),
    ],
)
def test_data_that_does_not_fit_is_refused_and_changes_nothing(
    files: MagFiles, shape: tuple[int, ...], dtype: str, reason: Reason
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        files.write(Box.of((0, 0, 0), (2, 2, 2)), np.ones(shape, dtype))
    assert caught.value.reason is reason
    assert list(files.cube_files()) == []


def test_writes_and_reads_of_boxes_apart_by_the_grain_run_at_the_same_time(files: MagFiles) -> None:
    """Each thread owns the boxes of one place on the grid of the grain, and sees in them nothing but its own. All begin
    together on files that do not exist, so that making files is part of the race.
    """
    grain = files.write_grain
    assert grain == (16 if files.header.block_type.is_compressed else 4)
    threads, rounds = 8, 12
    start = threading.Barrier(threads)

    def own(number: int) -> None:
        box = Box(Vec3(number % 2, number // 2 % 2, number // 4) * grain, Vec3.full(grain))
        random = np.random.default_rng(number)
        start.wait()
        for _ in range(rounds):
            inner = Box.of(box.offset + Vec3(1, 0, 1), (grain - 1, grain, grain - 2))
            data = np.asfortranarray(random.integers(1, 1000, (1, *inner.size), dtype=np.uint16))
            files.write(inner, data)
            expected = np.zeros((1, *box.size), np.uint16)
            expected[:, 1:, :, 1:-1] = data
            np.testing.assert_array_equal(files.read(box), expected)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(own, number) for number in range(threads)]:
            done.result()


def test_reads_beside_writes_to_other_voxels_of_the_same_blocks_are_not_disturbed(files: MagFiles) -> None:
    still, busy = Box.of((0, 0, 0), (16, 16, 7)), Box.of((0, 0, 7), (16, 16, 9))
    data = some_voxels(files.header, still.size, seed=4) + np.uint16(1)
    files.write(still, data)
    stop = threading.Event()

    def keep_writing() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            files.write(busy, np.full((1, *busy.size), value % 60_000, np.uint16, order="F"))

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(keep_writing)
        try:
            for _ in range(100):
                np.testing.assert_array_equal(files.read(still), data)
        finally:
            stop.set()
        writing.result()


def test_a_file_of_the_other_kind_refuses_a_write_before_anything_is_changed(tmp_path: Path) -> None:
    """The mag's second cube file is of the other kind, so that a check that comes too late has changed the first."""
    for own, other in ((BlockType.RAW, BlockType.LZ4), (BlockType.LZ4HC, BlockType.RAW)):
        header = make_header("uint16", block_type=own)
        folder = tmp_path / own.name
        with MagFiles.create(str(folder), header) as files:
            box = Box.of((0, 0, 0), (32, 16, 16))
            before = some_voxels(header, box.size, seed=7)
            files.write(box, before)
            with MagFiles.create(str(tmp_path / f"not {own.name}"), make_header("uint16", block_type=other)) as source:
                source.write(box, before)
                os.replace(f"{source.folder}/z0/y0/x1.wkw", folder / "z0/y0/x1.wkw")
        with MagFiles.open(str(folder)) as files:
            np.testing.assert_array_equal(files.read(box), before)
            for refused in (box, Box.of((20, 0, 0), (1, 1, 1))):
                with pytest.raises(NotAllowed) as caught:
                    files.write(refused, np.full((1, *refused.size), 3, np.uint16))
                assert caught.value.reason is Reason.MIXED_BLOCK_TYPES
                assert caught.value.metadata["file"].endswith("z0/y0/x1.wkw")
            np.testing.assert_array_equal(files.read(box), before)
            alone = Box.of((0, 0, 0), (3, 3, 3))
            files.write(alone, np.full((1, 3, 3, 3), 3, np.uint16))
            assert (files.read(alone) == 3).all()


def test_lz4_and_lz4hc_files_are_no_mix(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    box = Box.of((0, 0, 0), (16, 16, 16))
    with MagFiles.create(str(folder), make_header(block_type=BlockType.LZ4)) as files:
        files.write(box, np.ones((1, 16, 16, 16), np.uint8))
    (folder / "header.wkw").write_bytes(make_header(block_type=BlockType.LZ4HC).to_bytes())
    with MagFiles.open(str(folder)) as files:
        files.write(Box.of((1, 1, 1), (2, 2, 2)), np.full((1, 2, 2, 2), 5, np.uint8))
        assert files.read(box).sum() == 16**3 + 8 * 4
        assert [cube_file.block_type for cube_file in files.cube_files()] == [BlockType.LZ4HC]


def test_create_makes_a_mag_that_open_and_wkw_know(files: MagFiles, tmp_path: Path) -> None:
    with MagFiles.open(str(tmp_path / "1"), read_only=True) as again:
        assert again.header == files.header
    assert not wkw_read(tmp_path / "1", Box.of((0, 0, 0), (20, 20, 20))).any()
    assert sorted(os.listdir(tmp_path / "1")) == [".magd", "header.wkw"]


def test_create_takes_an_empty_folder_and_what_an_attempt_that_died_left(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    (folder / ".magd/tmp").mkdir(parents=True)
    (folder / ".magd/tmp/cube-0123456789abcdef.tmp").write_bytes(b"")
    MagFiles.create(str(folder), make_header()).close()
    assert (folder / "header.wkw").read_bytes() == make_header().to_bytes()


@pytest.mark.parametrize("present", ["header.wkw", "z0/y0/x0.wkw", ".magd/journal/1", "notes"])
def test_create_refuses_a_folder_with_something_in_it(tmp_path: Path, present: str) -> None:
    (tmp_path / "1" / present).parent.mkdir(parents=True)
    (tmp_path / "1" / present).write_bytes(b"here before")
    with pytest.raises(AlreadyExists) as caught:
        MagFiles.create(str(tmp_path / "1"), make_header())
    assert caught.value.reason is Reason.MAG_EXISTS
    assert (tmp_path / "1" / present).read_bytes() == b"here before"


def test_create_refuses_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"here before")
    with pytest.raises(AlreadyExists):
        MagFiles.create(str(tmp_path / "1"), make_header())


def test_create_needs_a_parent_and_lengths_that_wkw_can_store(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        MagFiles.create(str(tmp_path / "layer/1"), make_header())
    with pytest.raises(InvalidRequest, match="file_len 3"):
        MagFiles.create(str(tmp_path / "1"), make_header(file_len=3))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("missing", ["1", "1/header.wkw"])
def test_open_says_that_there_is_no_mag(tmp_path: Path, missing: str) -> None:
    (tmp_path / missing).parent.mkdir(exist_ok=True)
    with pytest.raises(NotFound) as caught:
        MagFiles.open(str(tmp_path / "1"))
    assert caught.value.reason is Reason.MAG_NOT_FOUND


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    header = make_header()
    wkw_write(tmp_path / "1", header, some_voxels(header, Vec3.full(16)))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with MagFiles.open(str(tmp_path / "1"), read_only=True) as files:
        files.read(Box.of((0, 0, 0), (20, 20, 20)))
        list(files.cube_files())
        with pytest.raises(NotAllowed) as caught:
            files.write(Box.of((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1, 1), np.uint8))
    assert caught.value.reason is Reason.READ_ONLY
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_opening_for_writing_removes_the_temporaries_of_a_process_that_died_and_nothing_else(tmp_path: Path) -> None:
    MagFiles.create(str(tmp_path / "1"), make_header()).close()
    temporaries = tmp_path / "1/.magd/tmp"
    left = temporaries / "cube-0123456789abcdef.tmp"
    foreign = temporaries / "somebody's"
    for path in (left, foreign):
        path.write_bytes(b"half of it")
    MagFiles.open(str(tmp_path / "1"), read_only=True).close()
    assert left.exists()
    MagFiles.open(str(tmp_path / "1")).close()
    assert not left.exists()
    assert foreign.exists()


def test_writing_leaves_no_temporary(files: MagFiles) -> None:
    files.write(Box.of((3, 3, 3), (30, 30, 30)), np.ones((1, 30, 30, 30), np.uint16))
    assert os.listdir(f"{files.folder}/.magd/tmp") == []


def test_a_rewritten_file_keeps_its_permissions(tmp_path: Path) -> None:
    with MagFiles.create(str(tmp_path / "1"), make_header(block_type=BlockType.LZ4)) as files:
        box = Box.of((0, 0, 0), (4, 4, 4))
        files.write(box, np.ones((1, 4, 4, 4), np.uint8))
        path = tmp_path / "1/z0/y0/x0.wkw"
        path.chmod(0o640)
        files.write(box, np.full((1, 4, 4, 4), 2, np.uint8))
        assert path.stat().st_mode & 0o777 == 0o640


def test_the_folder_may_be_renamed_while_it_is_open(files: MagFiles, tmp_path: Path) -> None:
    box = Box.of((0, 0, 0), (20, 4, 4))
    os.rename(tmp_path / "1", tmp_path / "2")
    files.write(box, np.ones((1, *box.size), np.uint16))
    assert files.read(box).all()
    files.sync()
    assert (tmp_path / "2/z0/y0/x1.wkw").exists()


def test_no_descriptor_is_left_open(files: MagFiles, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with MagFiles.open(str(tmp_path / "1")) as again:
        again.write(Box.of((0, 0, 0), (33, 17, 17)), np.ones((1, 33, 17, 17), np.uint16))
        again.read(Box.of((0, 0, 0), (33, 17, 17)))
        list(again.cube_files())
        (tmp_path / "1/z0/y0/x2.wkw").write_bytes(b"damaged")
        for call in (
            lambda: again.read(Box.of((0, 0, 0), (48, 1, 1))),
            lambda: again.write(Box.of((0, 0, 0), (48, 1, 1)), np.ones((1, 48, 1, 1), np.uint16)),
        ):
            with pytest.raises(MagdError):
                call()
    assert len(os.listdir("/proc/self/fd")) == before
