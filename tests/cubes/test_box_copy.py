"""Copying boxes from and to blocks, group by group, against a numpy model."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeAlias
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cubes import box_plan, decode
from magd.cubes.block_copy import rows_of
from magd.cubes.box_copy import BoxCopy
from magd.cubes.box_plan import Decoded, plan
from magd.cubes.decode import decode_all
from magd.cubes.header import BlockType, Header
from magd.cubes.layout import morton_index
from magd.errors import DataLoss
from magd.geometry import Box, Vec3
from magd.voxels import VoxelArray, VoxelFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.cubes.box_plan import Group

Bytes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]
Stored: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.uint8]]
"""The blocks of a cube file, one after the other."""


@st.composite
def boxes(draw: st.DrawFn, cube_len: int) -> Box:
    starts = [draw(st.integers(0, cube_len - 1)) for _ in range(3)]
    return Box.of(starts, [draw(st.integers(1, cube_len - start)) for start in starts])


@st.composite
def headers(draw: st.DrawFn) -> Header:
    voxels = VoxelFormat.of(draw(st.sampled_from(["uint8", "uint16", "float64"])), draw(st.integers(1, 3)))
    return Header(voxels, draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([2, 4, 8])), BlockType.RAW)


def some_voxels(header: Header, size: Vec3, seed: int) -> VoxelArray:
    values = np.random.default_rng(seed).integers(0, 256, (header.voxels.num_channels, *size))
    return np.asfortranarray(values.astype(header.voxels.dtype))


def blocks_of(header: Header, cube: VoxelArray) -> Stored:
    """The blocks of a whole cube file in Morton order, one by one."""
    length = header.block_len
    blocks = np.empty((header.blocks_per_file, header.block_bytes), np.uint8)
    for x, y, z in np.ndindex((header.file_len,) * 3):
        block = cube[:, x * length :, y * length :, z * length :][:, :length, :length, :length]
        at = int(morton_index(np.array(x), np.array(y), np.array(z)))
        blocks[at] = np.frombuffer(block.tobytes(order="F"), np.uint8)
    return blocks


@settings(max_examples=200, deadline=None)
@given(st.data(), headers(), st.integers(1, 80), st.sampled_from([0, 16, 1 << 16]), st.booleans())
def test_boxes_and_blocks_are_copied_both_ways_however_they_are_cut_into_groups_and_calls(
    data: st.DataObject, header: Header, most: int, gap: int, is_part: bool
) -> None:
    box = data.draw(boxes(header.cube_len))
    inside = tuple(slice(start, end) for start, end in zip(box.offset, box.end, strict=True))
    old, new = (some_voxels(header, header.cube_size, seed) for seed in (1, 2))
    # Also a box whose memory is a part of a larger one, as where a box lies over several cube files.
    larger = some_voxels(header, box.size + Vec3.full(2 if is_part else 0), 3)
    size, voxel = box.size, header.voxels.bytes_per_voxel
    rows = rows_of(larger)[: size.z, : size.y, : size.x * voxel]
    in_rows = larger[:, : size.x, : size.y, : size.z]
    copy = BoxCopy(header, box, rows)
    assert copy.nbytes == in_rows.nbytes
    with planned(most * header.block_bytes, gap):
        reading, writing, decoding = copy.groups("read"), copy.groups("write"), copy.groups("decode")
    touched = {int(morton_index(*(np.array(at) for at in block))) for block in blocks_under(box, header.block_len)}
    stored = blocks_of(header, old)

    for group in reading:
        memory = memory_of(copy, group)
        read(stored, group, memory)
        if copy.in_box(group) is None:
            copy.to_box(group, memory)
    np.testing.assert_array_equal(in_rows, old[:, *inside])

    in_rows[...] = 0
    found = [group.first + block.number for group in decoding for block in group.moves.decoded]
    assert sorted(found) == sorted(touched)
    for group in decoding:
        assert len(group.moves.decoded) <= most
        assert list(group.moves.decoded) == sorted(group.moves.decoded)
        memory = memory_of(copy, group)
        for index, place, wanted in group.moves.decoded:
            memory[place : place + wanted] = stored[group.first + index][:wanted]
        if copy.in_box(group) is None:
            copy.to_box(group, memory)
    np.testing.assert_array_equal(in_rows, old[:, *inside])

    in_rows[...] = new[:, *inside]
    expected = old.copy(order="F")
    expected[:, *inside] = new[:, *inside]
    for group in writing:
        # What is not read, because the box lies over it, is not needed.
        memory = memory_of(copy, group)
        read(stored, group, memory)
        if copy.in_box(group) is None:
            copy.from_box(group, memory)
        assert write(stored, group, memory) <= touched, "somebody else may write other blocks"
    np.testing.assert_array_equal(stored, blocks_of(header, expected))


@contextmanager
def planned(group_bytes: int, gap_bytes: int) -> Iterator[None]:
    """Plan anew, with other limits."""
    with mock.patch.multiple(box_plan, GROUP_BYTES=group_bytes, GAP_BYTES=gap_bytes):
        box_plan.forget()
        yield
    box_plan.forget()


def blocks_under(box: Box, length: int) -> Iterator[tuple[int, int, int]]:
    first, last = box.offset // length, box.end.ceildiv(length)
    return product(range(first.x, last.x), range(first.y, last.y), range(first.z, last.z))


def memory_of(copy: BoxCopy, group: Group) -> Bytes:
    """What the blocks of a group are moved into: of the box itself, or something that must not be seen in it."""
    same = copy.in_box(group)
    if same is not None:
        return same
    return np.full(group.moves.memory_bytes + group.moves.gap_bytes, 0xEE, np.uint8)


def read(stored: Stored, group: Group, memory: Bytes) -> None:
    """Move from the file into memory."""
    for offset, size, pieces in group.moves.reads:
        at = start = group.first * stored.shape[1] + offset
        for first, last in pieces:
            memory[first:last] = stored.reshape(-1)[at : at + last - first]
            at += last - first
        assert at - start == size


def write(stored: Stored, group: Group, memory: Bytes) -> set[int]:
    """Move from memory into the file. Gives the blocks that were written to."""
    blocks: set[int] = set()
    for offset, size, pieces in group.moves.writes:
        at = start = group.first * stored.shape[1] + offset
        for first, last in pieces:
            stored.reshape(-1)[at : at + last - first] = memory[first:last]
            at += last - first
        assert at - start == size
        blocks.update(range(start // stored.shape[1], (at - 1) // stored.shape[1] + 1))
    return blocks


@pytest.mark.parametrize("purpose", ["read", "write"])
def test_a_small_box_takes_few_system_calls_and_not_much_more_than_its_planes(
    purpose: Literal["read", "write"],
) -> None:
    # Eight blocks far apart in the file, each of them needed in part.
    (group,) = plan(purpose, 32, 1, (43, 75, 101), (32, 32, 32))
    assert group.moves.memory_bytes == 2 * 2 * 32**3
    assert len(group.moves.reads) == 4
    assert len(group.moves.writes) == (8 if purpose == "write" else 0)
    # One plane, as of an image stack: nothing of the others is touched.
    (group,) = plan(purpose, 32, 1, (40, 64, 64), (1, 64, 64))
    assert group.moves.memory_bytes == 64 * 64
    assert sum(size for _, size, _ in group.moves.writes) == (64 * 64 if purpose == "write" else 0)
    assert not group.moves.reads or purpose == "read"


@pytest.mark.parametrize("finds_it", [True, False])
def test_a_block_is_decoded_in_place_with_the_functions_of_the_c_library_and_without(finds_it: bool) -> None:
    encoded = np.frombuffer(b"\x50abcde", np.uint8)
    target = np.zeros(6, np.uint8)
    source, to = encoded.ctypes.data, target.ctypes.data
    with mock.patch.object(decode, "_in_place", decode.find_in_place() if finds_it else None):
        decode_all([(0, 6, Decoded(0, 0, 5))], source, to, 5, "x0.wkw", 7)
        assert target.tobytes() == b"abcde\0"
        target[:] = 0
        decode_all([(0, 6, Decoded(0, 0, 2)), (0, 6, Decoded(1, 3, 3))], source, to, 5, "x0.wkw", 7)
        assert target.tobytes()[:2] + target.tobytes()[3:] == b"ababc"
        with pytest.raises(DataLoss, match=r"x0\.wkw.*block 7 has 5 bytes instead of 6"):
            decode_all([(0, 6, Decoded(0, 0, 6))], source, to, 6, "x0.wkw", 7)
        with pytest.raises(DataLoss, match=r"x0\.wkw.*block 9 cannot be decompressed"):
            decode_all([(0, 6, Decoded(2, 0, 4))], source, to, 4, "x0.wkw", 7)
        with pytest.raises(DataLoss, match=r"x0\.wkw.*block 7 "):
            decode_all([(0, 3, Decoded(0, 0, 4))], source, to, 5, "x0.wkw", 7)


def test_the_c_library_has_the_functions() -> None:
    assert decode.find_in_place() is not None
