"""Copying boxes from and to blocks, group by group, against a numpy model."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cubes import box_copy, decode
from magd.cubes.block_copy import rows_of
from magd.cubes.box_copy import BoxCopy
from magd.cubes.header import BlockType, Header
from magd.cubes.layout import morton_index
from magd.errors import DataLoss
from magd.geometry import Box, Vec3
from magd.voxels import VoxelArray, VoxelFormat


@st.composite
def boxes(draw: st.DrawFn, cube_len: int) -> Box:
    starts = [draw(st.integers(0, cube_len - 1)) for _ in range(3)]
    return Box.of(starts, [draw(st.integers(1, cube_len - start)) for start in starts])


@st.composite
def headers(draw: st.DrawFn) -> Header:
    voxels = VoxelFormat.of(draw(st.sampled_from(["uint8", "uint16", "float64"])), draw(st.integers(1, 3)))
    return Header(voxels, draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([2, 4])), BlockType.RAW)


def some_voxels(header: Header, size: Vec3, seed: int) -> VoxelArray:
    values = np.random.default_rng(seed).integers(0, 256, (header.voxels.num_channels, *size))
    return np.asfortranarray(values.astype(header.voxels.dtype))


def blocks_of(header: Header, cube: VoxelArray) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The blocks of a whole cube file in Morton order, one by one."""
    length = header.block_len
    blocks = np.empty((header.blocks_per_file, header.block_bytes), np.uint8)
    for x, y, z in np.ndindex((header.file_len,) * 3):
        block = cube[:, x * length :, y * length :, z * length :][:, :length, :length, :length]
        at = int(morton_index(np.array(x), np.array(y), np.array(z)))
        blocks[at] = np.frombuffer(block.tobytes(order="F"), np.uint8)
    return blocks


@settings(max_examples=100, deadline=None)
@given(st.data(), headers(), st.integers(1, 80), st.booleans())
def test_boxes_and_blocks_are_copied_both_ways_however_they_are_cut_into_groups(
    data: st.DataObject, header: Header, most: int, is_part: bool
) -> None:
    box = data.draw(boxes(header.cube_len))
    inside = tuple(slice(start, end) for start, end in zip(box.offset, box.end, strict=True))
    old, new = (some_voxels(header, header.cube_size, seed) for seed in (1, 2))
    # Also a box whose memory is a part of a larger one, as where a box lies over several cube files.
    larger = some_voxels(header, box.size + Vec3.full(2 if is_part else 0), 3)
    size, voxel = box.size, header.voxels.bytes_per_voxel
    rows = rows_of(larger)[: size.z, : size.y, : size.x * voxel]
    in_rows = larger[:, : size.x, : size.y, : size.z]

    with mock.patch.object(box_copy, "GROUP_BYTES", most * header.block_bytes):
        copy = BoxCopy(header, box, rows)
    found = sorted(index for group in copy.groups for index in group.indices)
    assert len(found) == len(set(found)) == copy.block_count
    stored = blocks_of(header, old)
    for group in copy.groups:
        assert len(group.indices) <= most
        assert [at for run in group.runs for at in range(run.first, run.first + blocks_in(run))] == list(group.indices)
        blocks = np.empty((len(group.indices), header.block_bytes), np.uint8)
        blocks[list(group.places)] = stored[list(group.indices)]
        same = copy.in_box(group)
        if same is not None:
            same[...] = blocks.reshape(-1)
        else:
            copy.to_box(group, blocks.reshape(-1))
    np.testing.assert_array_equal(in_rows, old[:, *inside])

    in_rows[...] = new[:, *inside]
    expected = old.copy(order="F")
    expected[:, *inside] = new[:, *inside]
    written = stored.copy()
    for group in copy.groups:
        # Of blocks that lie wholly in the box, the old voxels are not needed.
        blocks = np.full((len(group.indices), header.block_bytes), 0xEE, np.uint8)
        for run in copy.cut_runs(group):
            places = [place for start, end in run.pieces for place in range(start, end)]
            blocks[places] = stored[run.first : run.first + len(places)]
        same = copy.in_box(group)
        if same is None:
            copy.from_box(group, blocks.reshape(-1))
        else:
            blocks.reshape(-1)[...] = same
        written[list(group.indices)] = blocks[list(group.places)]
    np.testing.assert_array_equal(written, blocks_of(header, expected))


def blocks_in(run: box_copy.Run) -> int:
    return sum(end - start for start, end in run.pieces)


@pytest.mark.parametrize("finds_it", [True, False])
def test_a_block_is_decoded_in_place_with_the_function_of_the_c_library_and_without(finds_it: bool) -> None:
    encoded = np.frombuffer(b"\x50abcde", np.uint8)
    target = np.zeros(6, np.uint8)
    places = encoded.ctypes.data, 6, target.ctypes.data
    with mock.patch.object(decode, "_in_place", decode.find_in_place() if finds_it else None):
        decode.decode_at(*places, 5, 0, "x0.wkw")
        assert target.tobytes() == b"abcde\0"
        with pytest.raises(DataLoss, match=r"x0\.wkw.*block 7 has 5 bytes instead of 6"):
            decode.decode_at(*places, 6, 7, "x0.wkw")
        with pytest.raises(DataLoss, match=r"x0\.wkw.*block 7 cannot be decompressed"):
            decode.decode_at(*places, 4, 7, "x0.wkw")


def test_the_c_library_has_the_function() -> None:
    assert decode.find_in_place() is not None
