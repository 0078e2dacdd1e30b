"""Finding space for large data before it is written."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cubes import allocation, raw
from magd.cubes.allocation import allocate, allocate_blocks
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.header import BlockType, Header
from magd.cubes.layout import morton_index
from magd.errors import DiskFull
from magd.geometry import Box, Vec3
from magd.voxels import VoxelFormat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
HEADER = Header(VoxelFormat.of(np.dtype("uint8"), 1), block_len=8, file_len=16, block_type=BlockType.RAW)


@contextmanager
def cube_file(folder: Path) -> Iterator[OpenCubeFile]:
    path = str(folder / "file")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        raw.write_empty_file(fd, HEADER, path)
        yield OpenCubeFile(fd, path, HEADER.of_cube_file(), os.fstat(fd))
    finally:
        os.close(fd)


def fail_with(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: int) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(allocation, "_fallocate", fail)


def test_space_is_found_and_the_file_stays_as_long_as_it_was(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb+", buffering=0) as file:
        file.write(b"data")
        allocate(file.fileno(), 0, 2 * MIB, file.name)
        status = os.fstat(file.fileno())
        assert status.st_size == 4
        if status.st_blocks * 512 < 2 * MIB:
            pytest.skip("this file system cannot do it")
        assert (tmp_path / "file").read_bytes() == b"data"


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EINTR])
def test_a_file_system_that_cannot_do_it_is_not_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_with(monkeypatch, number)
    with cube_file(tmp_path) as file:
        allocate(file.fd, 0, 2 * MIB, file.path)
        allocate_blocks(file, Box.of((0, 0, 0), (128, 128, 128)))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_too_little_space_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fail_with(monkeypatch, number)
    with cube_file(tmp_path) as file:
        with pytest.raises(DiskFull, match=file.path):
            allocate(file.fd, 0, MIB, file.path)
        allocate(file.fd, 0, MIB - 1, file.path)  # too little to ask
        with pytest.raises(DiskFull, match=file.path):
            allocate_blocks(file, Box.of((0, 0, 0), (128, 128, 128)))


def test_without_the_system_call_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_fallocate", None)
    with cube_file(tmp_path) as file:
        allocate(file.fd, 0, MIB, file.path)


@settings(max_examples=50)
@given(
    st.tuples(*[st.integers(0, 127)] * 3),
    st.tuples(*[st.integers(1, 128)] * 3),
)
def test_only_blocks_that_lie_wholly_in_the_box_get_space(
    offset: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    box = Box.of(offset, size).intersection(Box.of((0, 0, 0), (128, 128, 128)))
    inside = np.zeros((16, 16, 16), dtype=bool)
    high = box.end // 8
    start = Vec3(*(-(-value // 8) for value in box.offset))
    inside[start.x : high.x, start.y : high.y, start.z : high.z] = True
    expected = set(morton_index(*np.nonzero(inside)).tolist())
    runs = list(allocation._runs(HEADER, box))
    found = [index for first, count in runs for index in range(first, first + count)]
    assert len(found) == len(expected)
    assert set(found) == expected
    assert all(first + count < following for (first, count), (following, _) in pairwise(runs))


def test_what_lies_outside_of_the_box_stays_a_hole(tmp_path: Path) -> None:
    with cube_file(tmp_path) as file:
        allocate_blocks(file, Box.of((0, 0, 0), (128, 128, 64)))
        status = os.fstat(file.fd)
        assert status.st_size == HEADER.raw_file_bytes
        assert status.st_blocks * 512 < MIB + 64 * 1024
        assert not any(os.pread(file.fd, 2 * MIB, HEADER.data_offset + 16))


def test_a_box_of_very_many_blocks_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "MOST_BLOCKS", 16**3 - 1)
    fail_with(monkeypatch, errno.ENOSPC)
    with cube_file(tmp_path) as file:
        allocate_blocks(file, Box.of((0, 0, 0), (128, 128, 128)))
