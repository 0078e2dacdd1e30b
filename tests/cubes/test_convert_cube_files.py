"""Compressed copies of whole cube files."""

from __future__ import annotations

import errno
import os
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cubes.convert import compress_cube_file
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.header import BlockType, Header
from magd.cubes.mag_files import MagFiles
from magd.errors import DataLoss, DiskFull, InvalidRequest
from magd.geometry import Box
from tests.cubes.oracle import Model, headers, make_header, some_voxels, wkw_read, wkw_write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.cubes.encode import CompressionLevel


def converted_mag(folder: Path, header: Header) -> Path:
    """The folder of a compressed mag; the path of its first cube file, which does not exist yet."""
    of_mag = make_header(
        header.voxels.dtype.name, header.voxels.num_channels, header.block_len, header.file_len, BlockType.LZ4HC
    )
    MagFiles.create(str(folder), of_mag).close()
    path = folder / "z0/y0/x0.wkw"
    path.parent.mkdir(parents=True)
    return path


@given(header=headers(), level=st.sampled_from(["auto", "fast", 3, 9, 12]), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_wkw_reads_the_copy_equal(
    tmp_path_factory: pytest.TempPathFactory, header: Header, level: CompressionLevel, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("mags")
    voxels = some_voxels(header, header.cube_size, seed)
    wkw_write(folder / "source", header, voxels)
    source, target = folder / "source/z0/y0/x0.wkw", converted_mag(folder / "target", header)
    converted = compress_cube_file(str(source), str(target), level)
    box = Box.of((0, 0, 0), header.cube_size)
    np.testing.assert_array_equal(wkw_read(folder / "target", box), voxels)
    with MagFiles.open(str(folder / "target")) as files:
        np.testing.assert_array_equal(files.read(box), voxels)
    assert (converted.bytes_in, converted.bytes_out) == (source.stat().st_size, target.stat().st_size)
    counts = converted.blocks
    assert counts.zero + counts.fast + counts.high == header.blocks_per_file


def test_holes_of_a_raw_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = make_header("uint8", block_len=16, file_len=16)
    model = Model(header, 256)
    with MagFiles.create(str(tmp_path / "1"), header) as files:
        for offset in ((0, 0, 0), (100, 100, 100), (250, 17, 250)):
            box = Box.of(offset, (5, 5, 5))
            data = np.ones((1, 5, 5, 5), np.uint8)
            files.write(box, data)
            model.write(box, data)
        files.sync()
    path = tmp_path / "1/z0/y0/x0.wkw"
    read = list[int]()
    preadv = os.preadv

    def count(fd: int, buffers: list[memoryview], offset: int) -> int:
        read.append(preadv(fd, buffers, offset))
        return read[-1]

    monkeypatch.setattr(os, "preadv", count)
    target = converted_mag(tmp_path / "target", header)
    converted = compress_cube_file(str(path), str(target), "auto")
    assert sum(read) < 20 * header.block_bytes
    assert converted.blocks.high + converted.blocks.fast == 3
    assert converted.blocks.zero == 16**3 - 3
    np.testing.assert_array_equal(wkw_read(tmp_path / "target", model.box), model.data)


@pytest.mark.parametrize("code", [errno.ENXIO, errno.EINVAL])
def test_a_file_that_ends_in_a_hole_or_cannot_be_asked_for_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    header = make_header()
    path = tmp_path / "source"
    path.write_bytes(header.of_cube_file().to_bytes())
    os.truncate(path, header.raw_file_bytes)

    def refuse(*_: object) -> int:
        raise OSError(code, "as if the file system answered so")

    monkeypatch.setattr(os, "lseek", refuse)
    target = converted_mag(tmp_path / "target", header)
    assert compress_cube_file(str(path), str(target), "auto").blocks.zero == header.blocks_per_file
    assert not wkw_read(tmp_path / "target", Box.of((0, 0, 0), (16, 16, 16))).any()


def test_a_raw_file_is_never_held_as_a_whole(tmp_path: Path) -> None:
    header = make_header("uint8", block_len=32, file_len=8)  # 16 MiB
    with MagFiles.create(str(tmp_path / "1"), header) as files:
        files.write(Box.of((0, 0, 0), (256, 256, 256)), some_voxels(header, header.cube_size))
    tracemalloc.start()
    try:
        compress_cube_file(str(tmp_path / "1/z0/y0/x0.wkw"), str(tmp_path / "target"), "fast")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_the_copy_is_synced_when_the_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wkw_write(tmp_path / "1", make_header(), some_voxels(make_header(), make_header().cube_size))
    target = tmp_path / "target"
    synced = list[tuple[str, int]]()
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
    )
    compress_cube_file(str(tmp_path / "1/z0/y0/x0.wkw"), str(target), "fast")
    assert synced == [(str(target), target.stat().st_size)]


def test_the_block_type_says_whether_effort_was_spent(tmp_path: Path) -> None:
    wkw_write(tmp_path / "1", make_header(), some_voxels(make_header(), make_header().cube_size))
    levels: dict[CompressionLevel, BlockType] = {
        "fast": BlockType.LZ4,
        "auto": BlockType.LZ4HC,
        9: BlockType.LZ4HC,
    }
    for level, block_type in levels.items():
        target = tmp_path / f"target {level}"
        compress_cube_file(str(tmp_path / "1/z0/y0/x0.wkw"), str(target), level)
        with OpenCubeFile.open(str(target)) as file:
            assert file.header.block_type is block_type


@pytest.mark.parametrize("block_type", [BlockType.RAW, BlockType.LZ4])
@pytest.mark.parametrize("damage", [b"", b"WKW", None])
def test_a_damaged_source_is_an_error_that_names_it_and_leaves_no_target(
    tmp_path: Path, block_type: BlockType, damage: bytes | None
) -> None:
    header = make_header(block_type=block_type)
    wkw_write(tmp_path / "1", header, some_voxels(header, header.cube_size))
    source = tmp_path / "1/z0/y0/x0.wkw"
    source.write_bytes(source.read_bytes()[:-1] if damage is None else damage)
    with pytest.raises(DataLoss) as caught:
        compress_cube_file(str(source), str(tmp_path / "target"), "auto")
    assert caught.value.metadata["file"] == str(source)
    assert not (tmp_path / "target").exists()


def test_a_bad_block_in_the_middle_leaves_no_target(tmp_path: Path) -> None:
    header = make_header("uint32", block_type=BlockType.LZ4)
    wkw_write(tmp_path / "1", header, some_voxels(header, header.cube_size))
    source = tmp_path / "1/z0/y0/x0.wkw"
    content = source.read_bytes()
    source.write_bytes(content[:-30] + b"\xff" * 30)
    with pytest.raises(DataLoss, match="block 6"):
        compress_cube_file(str(source), str(tmp_path / "target"), "auto")
    assert not (tmp_path / "target").exists()


def test_a_source_or_target_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataLoss, match="nowhere"):
        compress_cube_file(str(tmp_path / "nowhere"), str(tmp_path / "target"), "auto")
    wkw_write(tmp_path / "1", make_header(), some_voxels(make_header(), make_header().cube_size))
    with pytest.raises(DataLoss, match="nowhere"):
        compress_cube_file(str(tmp_path / "1/z0/y0/x0.wkw"), str(tmp_path / "nowhere/target"), "auto")


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    wkw_write(tmp_path / "1", make_header(), some_voxels(make_header(), make_header().cube_size))
    (tmp_path / "target").write_bytes(b"here before")
    with pytest.raises(DataLoss, match="target"):
        compress_cube_file(str(tmp_path / "1/z0/y0/x0.wkw"), str(tmp_path / "target"), "auto")
    assert (tmp_path / "target").read_bytes() == b"here before"


def test_a_level_that_does_not_exist_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    wkw_write(tmp_path / "1", make_header(), some_voxels(make_header(), make_header().cube_size))
    with pytest.raises(InvalidRequest):
        compress_cube_file(str(tmp_path / "1/z0/y0/x0.wkw"), str(tmp_path / "target"), 1)
    assert not (tmp_path / "target").exists()


def test_a_full_disk_leaves_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wkw_write(tmp_path / "1", make_header(), some_voxels(make_header(), make_header().cube_size))

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "as if the disk were full")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(DiskFull):
        compress_cube_file(str(tmp_path / "1/z0/y0/x0.wkw"), str(tmp_path / "target"), "auto")
    assert not (tmp_path / "target").exists()
