"""How an import is cut into pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cli.importing.plan import cube_file_count, piece_shape, pieces, sensible_file_len
from magd.geometry import ORIGIN, Box, Vec3

small = st.integers(min_value=0, max_value=60)
extent = st.integers(min_value=1, max_value=60)
vectors = st.builds(Vec3, small, small, small)
extents = st.builds(Vec3, extent, extent, extent)
boxes = st.builds(Box, vectors, extents)


@settings(max_examples=80, deadline=None)
@given(boxes, extents)
def test_pieces_cover_each_voxel_once_and_stay_inside(box: Box, shape: Vec3) -> None:
    # Bounded so that a cell of one voxel does not make 216,000 pieces.
    shape = shape.max(Vec3.full(7))
    seen = np.zeros(tuple(box.size), dtype=np.uint8)
    for piece in pieces(box, shape):
        assert box.contains(piece)
        assert piece.offset // shape == (piece.end - Vec3.full(1)) // shape
        (x, y, z), (end_x, end_y, end_z) = piece.offset - box.offset, piece.end - box.offset
        seen[x:end_x, y:end_y, z:end_z] += 1
    assert (seen == 1).all()


@settings(max_examples=200, deadline=None)
@given(
    boxes,
    st.sampled_from([1, 2, 4, 8, 16, 32]),
    st.sampled_from([1, 2, 8, 32]),
    st.sampled_from([1, 3, 8]),
    st.integers(min_value=1, max_value=1 << 24),
    st.booleans(),
)
def test_pieces_stay_below_the_limit_and_on_the_grid_of_the_mag(
    box: Box, block_len: int, file_len: int, bytes_per_voxel: int, max_bytes: int, whole_pages: bool
) -> None:
    cube_len = block_len * file_len
    shape = piece_shape(
        box,
        cube_len=cube_len,
        block_len=block_len,
        bytes_per_voxel=bytes_per_voxel,
        max_bytes=max_bytes,
        whole_pages=whole_pages,
    )
    for piece in pieces(box, shape):
        least = box.size.x * box.size.y if whole_pages else block_len**3
        assert piece.volume * bytes_per_voxel <= max(max_bytes, least * bytes_per_voxel)
    if whole_pages:
        assert all(piece.size.x == box.size.x and piece.size.y == box.size.y for piece in pieces(box, shape))
        assert cube_len % shape.z == 0
    else:
        assert all(length % block_len == 0 for length in shape)
        assert all(length % cube_len == 0 or cube_len % length == 0 for length in shape)


def test_pieces_are_cube_files_where_these_fit() -> None:
    box = Box(ORIGIN, Vec3(4096, 4096, 4096))
    shape = piece_shape(box, cube_len=256, block_len=32, bytes_per_voxel=1, max_bytes=16 << 20, whole_pages=False)
    assert shape == Vec3(256, 256, 256)


@pytest.mark.parametrize(
    ("size", "file_len"),
    [
        ((1, 1, 1), 1),
        ((128, 96, 24), 2),
        ((512, 512, 256), 8),
        ((10000, 10000, 5000), 32),
    ],
)
def test_the_cube_files_of_a_new_mag_fit_its_volume(size: tuple[int, int, int], file_len: int) -> None:
    assert sensible_file_len(Box.of((0, 0, 0), size), 32) == file_len


@given(boxes, st.sampled_from([1, 8, 32]))
def test_a_small_volume_has_few_cube_files_that_are_not_larger_than_needed(box: Box, block_len: int) -> None:
    file_len = sensible_file_len(box, block_len)
    assert file_len == 32 or cube_file_count(box, file_len * block_len) <= 8
    assert file_len == 1 or cube_file_count(box, file_len // 2 * block_len) > 8
