"""What a rewritten compressed cube file consists of, and which bytes are touched on the way."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.cubes import handles
from magd.cubes.compressed import JumpTable
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.handles import Handles
from magd.cubes.header import HEADER_BYTES, BlockType
from magd.cubes.layout import morton_index
from magd.cubes.mag_files import MagFiles
from magd.cubes.mag_folder import MagFolder
from magd.geometry import Box, Vec3
from tests.cubes.oracle import Model, make_header, some_voxels, wkw_read, wkw_write

if TYPE_CHECKING:
    from pathlib import Path

HEADER = make_header("uint32", block_len=8, file_len=4, block_type=BlockType.LZ4HC)
BLOCKS = HEADER.blocks_per_file


def encoded_blocks(path: Path) -> list[bytes]:
    """The bytes of each block as they are stored, in Morton order."""
    content = path.read_bytes()
    with OpenCubeFile.open(str(path)) as file:
        table = JumpTable(file)
        assert table.end(BLOCKS - 1) == len(content)
        return [content[table.start(index) : table.end(index)] for index in range(BLOCKS)]


def index_of(x: int, y: int, z: int) -> int:
    return int(morton_index(*(np.array(place) for place in (x, y, z))))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A cube file that wkw compressed: with level 9, which magd would not choose."""
    wkw_write(tmp_path / "1", HEADER, some_voxels(HEADER, HEADER.cube_size, seed=1))
    return tmp_path / "1/z0/y0/x0.wkw"


def test_only_touched_blocks_are_encoded_again_and_the_bytes_of_the_others_are_copied(
    path: Path, tmp_path: Path
) -> None:
    before = encoded_blocks(path)
    box = Box.of((7, 8, 17), (9, 8, 2))  # of the blocks 0 and 1 on x, 1 on y, 2 on z
    with MagFiles.open(str(tmp_path / "1")) as files:
        model = Model(HEADER, HEADER.cube_len)
        model.data[:] = files.read(model.box)
        data = np.arange(box.volume, dtype=np.uint32).reshape((1, *box.size), order="F")
        files.write(box, data)
        model.write(box, data)
    after = encoded_blocks(path)
    touched = {index_of(0, 1, 2), index_of(1, 1, 2)}
    assert {index for index in range(BLOCKS) if before[index] != after[index]} == touched
    np.testing.assert_array_equal(wkw_read(tmp_path / "1", model.box), model.data)


def test_the_bytes_of_other_blocks_never_enter_the_process(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[int]()
    preadv = os.preadv

    def count(fd: int, buffers: list[memoryview], offset: int) -> int:
        read.append(preadv(fd, buffers, offset))
        return read[-1]

    monkeypatch.setattr(os, "preadv", count)
    with MagFiles.open(str(tmp_path / "1")) as files:
        files.write(Box.of((8, 8, 8), (8, 8, 8)), np.ones((1, 8, 8, 8), np.uint32))
    # The header twice at most (to check and to write) and the jump table; the block is replaced whole.
    assert sum(read) <= 2 * HEADER_BYTES + 8 * BLOCKS


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_where_the_kernel_cannot_copy_the_bytes_are_copied_here(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, "as if the file system could not")

    before = encoded_blocks(path)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    with MagFiles.open(str(tmp_path / "1")) as files:
        files.write(Box.of((8, 8, 8), (8, 8, 8)), np.ones((1, 8, 8, 8), np.uint32))
    after = encoded_blocks(path)
    assert [index for index in range(BLOCKS) if before[index] != after[index]] == [index_of(1, 1, 1)]


def test_a_reader_that_holds_the_old_file_goes_on_reading_it(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with path.open("rb") as held, MagFiles.open(str(tmp_path / "1")) as files:
        files.write(Box.of((0, 0, 0), (32, 32, 32)), np.ones((1, 32, 32, 32), np.uint32))
        assert held.read() == before
        assert path.read_bytes() != before


def test_a_new_file_holds_zeros_where_nothing_was_written(tmp_path: Path) -> None:
    with MagFiles.create(str(tmp_path / "1"), HEADER) as files:
        files.write(Box.of((8, 0, 0), (1, 1, 1)), np.ones((1, 1, 1, 1), np.uint32))
    blocks = encoded_blocks(tmp_path / "1/z0/y0/x0.wkw")
    assert len(set(blocks)) == 2
    assert [index for index in range(BLOCKS) if blocks[index] != blocks[0]] == [1]
    assert len(blocks[0]) < HEADER.block_bytes // 100


def test_a_small_read_reads_only_what_it_needs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = encoded_blocks(path)
    read = list[int]()
    preadv = os.preadv

    def count(fd: int, buffers: list[memoryview], offset: int) -> int:
        read.append(preadv(fd, buffers, offset))
        return read[-1]

    monkeypatch.setattr(os, "preadv", count)
    with MagFiles.open(str(tmp_path / "1"), read_only=True) as files:
        files.read(Box(Vec3(9, 9, 9), Vec3.full(3)))
        block_bytes = len(blocks[index_of(1, 1, 1)])
        assert read == [HEADER_BYTES, 8 * len(blocks), block_bytes]
        # Header and jump table are known now.
        read.clear()
        files.read(Box(Vec3(9, 9, 9), Vec3.full(3)))
        assert read == [block_bytes]


def test_of_a_large_jump_table_only_what_is_needed_is_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "MAX_TABLE_BLOCKS", 1)
    with MagFiles.open(str(tmp_path / "1"), read_only=True) as files:
        handle = Handles(MagFolder(files.folder), files.header, is_owner=True).find(Vec3(0, 0, 0))
        assert handle is not None
        with handle:
            table, whole = handle.table(5, 7), JumpTable(handle.file)
            assert table.borders(5, 7) == whole.borders(5, 7)
            assert handle.held_bytes == 0
