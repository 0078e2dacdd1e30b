"""Cube files of one mag made from those of another: compressed, raw, of other lengths; at once, in parts, spliced."""

from __future__ import annotations

import errno
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cubes import convert
from magd.cubes.block_source import pieces
from magd.cubes.convert import (
    Conversion,
    finish_file,
    make_file,
    make_part,
    make_part_ahead,
    place_part,
    remove_buffers,
    sample,
    splice,
)
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.encode import BlockCounts
from magd.cubes.header import BlockType, Header
from magd.cubes.layout import split_by_cube_file
from magd.cubes.mag_files import MagFiles
from magd.cubes.new_blocks import Made
from magd.errors import DataLoss, DiskFull, InvalidRequest
from magd.geometry import Box, Vec3
from tests.cubes.oracle import headers, make_header, some_voxels, wkw_read, wkw_write

if TYPE_CHECKING:
    from magd.cubes.encode import CompressionLevel
    from magd.voxels import VoxelArray

ORIGIN = Vec3(0, 0, 0)
COMPRESSED = make_header(block_type=BlockType.LZ4HC)
LEVELS: list[CompressionLevel] = ["auto", "fast", 3, 9, 12]


def conversion_of(
    folder: Path, source: Header, target: Header = COMPRESSED, level: CompressionLevel = "auto"
) -> Conversion:
    """From the mag `source` in a folder to the mag `target`, which is made here."""
    MagFiles.create(str(folder / "target"), target).close()
    return Conversion(str(folder / "source"), source, str(folder / "target"), target, level)


def make_in_parts(conversion: Conversion, cube: Vec3, blocks_per_part: int, ahead: int = 0) -> Made:
    """As the daemon does it, without the processes.

    :param ahead: so many parts are made ahead while the one before them is made
    """
    total = conversion.header.blocks_per_file
    offset = conversion.header.of_cube_file().data_offset
    firsts = range(0, total, blocks_per_part)
    if not conversion.header.block_type.is_compressed:
        ahead = 0
    parts = dict[int, Made]()
    made = Made(BlockCounts())
    for number, first in enumerate(firsts):
        buffer = number % (ahead + 1) - 1
        if buffer >= 0:
            part = parts[first]
            place_part(conversion, cube, buffer, offset, part.size_bytes)
        else:
            # Not in their order: the parts are made by several processes at the same time.
            for free, later in reversed(list(enumerate(firsts[number + 1 : number + 1 + ahead]))):
                last = min(later + blocks_per_part, total)
                parts[later] = make_part_ahead(conversion, cube, later, last, free)
            part = make_part(conversion, cube, first, min(first + blocks_per_part, total), offset)
        offset += part.size_bytes
        made.blocks += part.blocks
        made.lengths += part.lengths
    made.size_bytes = finish_file(conversion, cube, None if made.is_zero else made.lengths)
    remove_buffers(conversion, ahead + 1)
    return made


def cubes_of(header: Header, size: Vec3) -> list[Vec3]:
    """The cube files of a mag that has voxels from the origin on."""
    return [cube for cube, _ in split_by_cube_file(Box(ORIGIN, size), header.cube_len)]


def assert_no_temporaries(conversion: Conversion) -> None:
    assert os.listdir(os.path.join(conversion.target, ".magd/tmp")) == []


@given(
    source=headers(),
    block_len=st.sampled_from([1, 2, 4, 8]),
    file_len=st.sampled_from([1, 2, 4]),
    block_type=st.sampled_from(BlockType),
    level=st.sampled_from(LEVELS),
    parts=st.integers(1, 70),
    ahead=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_wkw_reads_every_conversion_equal(
    tmp_path_factory: pytest.TempPathFactory,
    source: Header,
    block_len: int,
    file_len: int,
    block_type: BlockType,
    level: CompressionLevel,
    parts: int,
    ahead: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("mags")
    voxels = some_voxels(source, source.cube_size, seed)
    wkw_write(folder / "source", source, voxels)
    target = replace(source, block_len=block_len, file_len=file_len, block_type=block_type)
    conversion = conversion_of(folder, source, target, level)
    for cube in cubes_of(target, source.cube_size):
        made = make_in_parts(conversion, cube, parts, ahead) if parts > 1 else make_file(conversion, cube)
        path = conversion.file(cube)
        assert made.blocks.total == target.blocks_per_file
        assert os.path.exists(path) != made.is_zero
        assert made.size_bytes == (0 if made.is_zero else os.path.getsize(path))
    np.testing.assert_array_equal(wkw_read(folder / "target", Box(ORIGIN, source.cube_size)), voxels)
    with MagFiles.open(str(folder / "target")) as files:
        np.testing.assert_array_equal(files.read(Box(ORIGIN, source.cube_size)), voxels)
    assert_no_temporaries(conversion)


@given(
    header=headers(),
    block_type=st.sampled_from(BlockType),
    halves=st.booleans(),
    there=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_blocks_that_changed_are_spliced_in_and_the_others_stay(
    tmp_path_factory: pytest.TempPathFactory,
    header: Header,
    block_type: BlockType,
    halves: bool,
    there: bool,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("mags")
    block_len = header.block_len // 2 if halves and header.block_len > 1 else header.block_len
    target = replace(header, block_len=block_len, block_type=block_type)
    conversion = conversion_of(folder, header, target)
    before, after = (some_voxels(header, header.cube_size, seed + n) for n in range(2))
    cube, expected = ORIGIN, np.zeros_like(before)
    with MagFiles.create(str(folder / "source"), header) as files:
        files.write(Box(ORIGIN, header.cube_size), before)
        if there and not make_file(conversion, cube).is_zero:
            expected = before.copy(order="F")
        files.write(Box(ORIGIN, header.cube_size), after)
    random = np.random.default_rng(seed)
    changed = np.flatnonzero(random.random(target.blocks_per_file) < 0.3)
    changed = changed if len(changed) else np.array([0])
    made = splice(conversion, cube, changed)
    for index in changed.tolist():
        for _, _, box in pieces(target, index, index + 1, 1):
            part = tuple(slice(start, end) for start, end in zip(box.offset, box.end, strict=True))
            expected[(slice(None), *part)] = after[(slice(None), *part)]
    box = Box(ORIGIN, target.cube_size)
    limits = tuple(slice(0, end) for end in box.end)
    np.testing.assert_array_equal(wkw_read(folder / "target", box), expected[(slice(None), *limits)])
    assert made.blocks.total == len(changed)
    assert made.size_bytes == os.path.getsize(conversion.file(cube))
    assert_no_temporaries(conversion)


@given(file_len=st.sampled_from([1, 2, 4, 8]), data=st.data(), most=st.integers(1, 600))
def test_pieces_of_a_cube_file_are_boxes_with_the_blocks_in_their_order(
    file_len: int, data: st.DataObject, most: int
) -> None:
    header = make_header(block_len=4, file_len=file_len)
    first = data.draw(st.integers(0, header.blocks_per_file - 1))
    last = data.draw(st.integers(first + 1, header.blocks_per_file))
    done = first
    for start, count, box in pieces(header, first, last, most):
        assert start == done
        assert 0 < count <= most
        assert box.size.volume == count * 4**3
        done += count
    assert done == last


def test_holes_of_a_raw_file_are_not_read_and_none_are_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = make_header("uint8", block_len=16, file_len=16)
    voxels = np.zeros((1, 256, 256, 256), np.uint8, order="F")
    with MagFiles.create(str(tmp_path / "source"), header) as files:
        for x, y, z in ((0, 0, 0), (100, 100, 100), (250, 17, 250)):
            files.write(Box.of((x, y, z), (5, 5, 5)), np.ones((1, 5, 5, 5), np.uint8))
            voxels[:, x : x + 5, y : y + 5, z : z + 5] = 1
        files.sync()
    read = list[int]()
    preadv = os.preadv

    def count(fd: int, buffers: list[memoryview], offset: int) -> int:
        read.append(preadv(fd, buffers, offset))
        return read[-1]

    conversion = conversion_of(tmp_path, header, replace(header, block_type=BlockType.LZ4))
    monkeypatch.setattr(os, "preadv", count)
    made = make_file(conversion, ORIGIN)
    assert sum(read) < 20 * header.block_bytes
    assert (made.blocks.zero, made.blocks.total) == (16**3 - 3, 16**3)
    np.testing.assert_array_equal(wkw_read(tmp_path / "target", Box.of((0, 0, 0), (256, 256, 256))), voxels)

    back = Conversion(conversion.target, conversion.header, str(tmp_path / "back"), header, "fast")
    MagFiles.create(back.target, header).close()
    make_file(back, ORIGIN)
    assert os.stat(back.file(ORIGIN)).st_blocks * 512 < 20 * max(header.block_bytes, 4096)
    np.testing.assert_array_equal(wkw_read(tmp_path / "back", Box.of((0, 0, 0), (256, 256, 256))), voxels)


@pytest.mark.parametrize("code", [errno.ENXIO, errno.EINVAL])
def test_a_file_of_zeros_is_left_out_also_where_the_file_system_cannot_be_asked_for_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    header = make_header()
    wkw_write(tmp_path / "source", header, np.zeros((1, 16, 16, 16), np.uint8))

    def refuse(*_: object) -> int:
        raise OSError(code, "as if the file system answered so")

    monkeypatch.setattr(os, "lseek", refuse)
    conversion = conversion_of(tmp_path, header)
    assert make_file(conversion, ORIGIN).is_zero
    assert make_in_parts(conversion, ORIGIN, 7).is_zero
    assert not os.path.exists(conversion.file(ORIGIN))
    assert not wkw_read(tmp_path / "target", Box.of((0, 0, 0), (16, 16, 16))).any()


@pytest.mark.parametrize("block_len", [32, 16])
def test_a_file_is_never_held_as_a_whole(tmp_path: Path, block_len: int, monkeypatch: pytest.MonkeyPatch) -> None:
    header = make_header("uint8", block_len=32, file_len=8)  # 16 MiB
    with MagFiles.create(str(tmp_path / "source"), header) as files:
        files.write(Box.of((0, 0, 0), (256, 256, 256)), some_voxels(header, header.cube_size))
    target = make_header("uint8", block_len=block_len, file_len=256 // block_len, block_type=BlockType.LZ4)
    conversion = conversion_of(tmp_path, header, target, "fast")
    monkeypatch.setattr("magd.cubes.block_source.BOX_BYTES", 1 << 20)
    tracemalloc.start()
    try:
        make_file(conversion, ORIGIN)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 << 20


def test_files_are_synced_when_the_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    conversion = conversion_of(tmp_path, make_header())
    path = conversion.file(ORIGIN)
    synced = list[int]()
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
    make_file(conversion, ORIGIN)
    assert synced == [os.stat(path).st_ino]
    splice(conversion, ORIGIN, np.array([1]))
    assert synced[1:] == [os.stat(path).st_ino]
    os.unlink(path)
    make_in_parts(conversion, ORIGIN, 30)
    assert synced[2:] == [os.stat(path).st_ino]


def test_a_file_in_parts_has_the_bytes_of_one_that_was_made_at_once(tmp_path: Path) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    conversion = conversion_of(tmp_path, make_header())
    made = list[bytes]()
    for blocks_per_part, ahead in ((64, 0), (30, 0), (30, 2), (7, 3)):
        make_in_parts(conversion, ORIGIN, blocks_per_part, ahead)
        made.append(Path(conversion.file(ORIGIN)).read_bytes())
        os.unlink(conversion.file(ORIGIN))
    make_file(conversion, ORIGIN)
    assert set(made) == {Path(conversion.file(ORIGIN)).read_bytes()}


def test_the_disk_begins_with_each_part_when_it_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    begun = list[tuple[int, int]]()
    monkeypatch.setattr(convert, "start_writeback", lambda _, offset, size: begun.append((offset, offset + size)))
    for block_type, ahead in ((BlockType.LZ4HC, 2), (BlockType.LZ4HC, 0), (BlockType.RAW, 0)):
        begun.clear()
        header = make_header(block_type=block_type)
        conversion = conversion_of(tmp_path, make_header(), header)
        made = make_in_parts(conversion, ORIGIN, 30, ahead)
        assert [start for start, _ in begun] == [header.of_cube_file().data_offset, *(end for _, end in begun[:-1])]
        assert begun[-1][1] == made.size_bytes
        shutil.rmtree(conversion.target)


def test_what_an_attempt_that_was_killed_left_behind_the_last_block_is_cut_off(tmp_path: Path) -> None:
    voxels: VoxelArray = some_voxels(make_header(), make_header().cube_size)
    wkw_write(tmp_path / "source", make_header(), voxels)
    conversion = conversion_of(tmp_path, make_header())
    part = make_part(conversion, ORIGIN, 0, 64)
    with open(conversion.file(ORIGIN), "ab") as file:
        file.write(b"longer than it is now")
    size = finish_file(conversion, ORIGIN, part.lengths)
    assert (
        size
        == os.path.getsize(conversion.file(ORIGIN))
        == conversion.header.of_cube_file().data_offset + (part.size_bytes)
    )
    np.testing.assert_array_equal(wkw_read(tmp_path / "target", Box.of((0, 0, 0), (16, 16, 16))), voxels)


def test_a_file_that_is_shorter_than_its_blocks_or_has_too_few_is_not_finished(tmp_path: Path) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    conversion = conversion_of(tmp_path, make_header())
    part = make_part(conversion, ORIGIN, 0, 64)
    with pytest.raises(DataLoss, match="63 blocks end at byte"):
        finish_file(conversion, ORIGIN, part.lengths[4:])
    os.truncate(conversion.file(ORIGIN), os.path.getsize(conversion.file(ORIGIN)) - 1)
    with pytest.raises(DataLoss, match="blocks end at byte"):
        finish_file(conversion, ORIGIN, part.lengths)


def test_a_part_that_is_longer_than_its_buffer_is_damage(tmp_path: Path) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    conversion = conversion_of(tmp_path, make_header())
    part = make_part_ahead(conversion, ORIGIN, 0, 64, 0)
    with pytest.raises(DataLoss, match=r"cube-00\.tmp"):
        place_part(conversion, ORIGIN, 0, conversion.header.of_cube_file().data_offset, part.size_bytes + 1)


def test_buffers_have_no_names_of_cube_files(tmp_path: Path) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    conversion = conversion_of(tmp_path, make_header())
    make_part_ahead(conversion, ORIGIN, 0, 10, 0)
    with MagFiles.open(conversion.target, read_only=True) as files:
        assert list(files.cube_files()) == []
    # A mag that is opened after a crash removes them.
    MagFiles.open(conversion.target).close()
    assert_no_temporaries(conversion)


def test_a_sample_tells_what_would_come_of_it_and_writes_nothing(tmp_path: Path) -> None:
    header = make_header(block_len=16, file_len=4)
    voxels = np.zeros((1, 64, 64, 64), np.uint8, order="F")
    voxels[:, :32] = np.random.default_rng(1).integers(1, 256, (1, 32, 64, 64))
    wkw_write(tmp_path / "source", header, voxels)
    conversion = conversion_of(tmp_path, header, replace(header, block_type=BlockType.LZ4HC))
    sampled = sample(conversion, ORIGIN, 20)
    assert 0 < sampled.data_bytes < 20 * header.block_bytes
    assert 1 <= sampled.stored_data_bytes / sampled.data_bytes < 1.01
    assert sample(conversion, ORIGIN, 64).data_bytes == 32 * header.block_bytes
    assert not os.path.exists(conversion.file(ORIGIN))


@pytest.mark.parametrize("block_type", [BlockType.RAW, BlockType.LZ4])
@pytest.mark.parametrize("damage", [b"", b"WKW", None])
def test_a_damaged_source_is_an_error_that_names_it_and_leaves_no_target(
    tmp_path: Path, block_type: BlockType, damage: bytes | None
) -> None:
    header = make_header(block_type=block_type)
    wkw_write(tmp_path / "source", header, some_voxels(header, header.cube_size))
    source = tmp_path / "source/z0/y0/x0.wkw"
    source.write_bytes(source.read_bytes()[:-1] if damage is None else damage)
    conversion = conversion_of(tmp_path, header)
    for make in (
        lambda conversion, cube: make_part_ahead(conversion, cube, 0, 64, 0),
        lambda conversion, cube: make_part(conversion, cube, 0, 64),
        make_file,
    ):
        with pytest.raises(DataLoss) as caught:
            make(conversion, ORIGIN)
        assert caught.value.metadata["file"] == str(source)
    assert not os.path.exists(conversion.file(ORIGIN))
    remove_buffers(conversion, 1)
    assert_no_temporaries(conversion)


def test_a_bad_block_in_the_middle_leaves_no_target(tmp_path: Path) -> None:
    header = make_header("uint32", block_type=BlockType.LZ4)
    wkw_write(tmp_path / "source", header, some_voxels(header, header.cube_size))
    source = tmp_path / "source/z0/y0/x0.wkw"
    content = source.read_bytes()
    source.write_bytes(content[:-30] + b"\xff" * 30)
    conversion = conversion_of(tmp_path, header, replace(header, block_type=BlockType.LZ4HC))
    with pytest.raises(DataLoss, match="block 6"):
        make_file(conversion, ORIGIN)
    assert not os.path.exists(conversion.file(ORIGIN))


def test_a_source_that_vanished_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    conversion = conversion_of(tmp_path, make_header())
    os.unlink(tmp_path / "source/z0/y0/x0.wkw")
    for make in (make_file, lambda conversion, cube: splice(conversion, cube, np.array([1]))):
        with pytest.raises(DataLoss, match=r"x0\.wkw vanished"):
            make(conversion, ORIGIN)
    gone = replace(conversion, source=str(tmp_path / "nowhere"))
    with pytest.raises(DataLoss, match="vanished"):
        make_file(gone, ORIGIN)


def test_the_voxels_of_a_spliced_file_survive_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels: VoxelArray = some_voxels(make_header(), make_header().cube_size)
    wkw_write(tmp_path / "source", make_header(), voxels)
    conversion = conversion_of(tmp_path, make_header())
    make_file(conversion, ORIGIN)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "as if the disk were full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(DiskFull):
            splice(conversion, ORIGIN, np.array([1]))
    np.testing.assert_array_equal(wkw_read(tmp_path / "target", Box.of((0, 0, 0), (16, 16, 16))), voxels)
    assert_no_temporaries(conversion)


def test_a_full_disk_leaves_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    conversion = conversion_of(tmp_path, make_header())

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "as if the disk were full")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(DiskFull):
        make_file(conversion, ORIGIN)
    assert not os.path.exists(conversion.file(ORIGIN))


def test_a_level_that_does_not_exist_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    conversion = conversion_of(tmp_path, make_header(), COMPRESSED, 1)
    with pytest.raises(InvalidRequest):
        make_file(conversion, ORIGIN)
    assert not os.path.exists(conversion.file(ORIGIN))


def test_the_block_type_says_whether_effort_was_spent(tmp_path: Path) -> None:
    wkw_write(tmp_path / "source", make_header(), some_voxels(make_header(), make_header().cube_size))
    for level, block_type in (("fast", BlockType.LZ4), ("auto", BlockType.LZ4HC), (9, BlockType.LZ4HC)):
        assert convert.block_type_of(level) is block_type  # type: ignore[arg-type]
    conversion = conversion_of(tmp_path, make_header())
    make_file(conversion, ORIGIN)
    with OpenCubeFile.open(conversion.file(ORIGIN)) as file:
        assert file.header.block_type is BlockType.LZ4HC
