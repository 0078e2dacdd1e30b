"""Cutting large boxes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.geometry import Box, Vec3
from magd_client.pieces import BEST_PIECE_BYTES, pieces

vectors = st.builds(Vec3, *[st.integers(0, 100)] * 3)
sizes = st.builds(Vec3, *[st.integers(1, 120)] * 3)


@settings(deadline=None, max_examples=50)
@given(
    box=st.builds(Box, vectors, sizes),
    cube_len=st.sampled_from([8, 32, 64, 1024]),
    bytes_per_voxel=st.sampled_from([1, 3, 8]),
    max_bytes=st.integers(20_000, 12 << 20),
)
def test_the_pieces_are_the_box_and_none_is_too_large(
    box: Box, cube_len: int, bytes_per_voxel: int, max_bytes: int
) -> None:
    cut = list(pieces(box, cube_len=cube_len, bytes_per_voxel=bytes_per_voxel, max_bytes=max_bytes))
    assert sum(piece.volume for piece in cut) == box.volume
    assert all(box.contains(piece) for piece in cut)
    painted = np.zeros(tuple(box.end), dtype=bool)
    for piece in cut:
        (x, y, z), (x1, y1, z1) = piece.offset, piece.end
        painted[x:x1, y:y1, z:z1] = True
    assert painted.sum() == box.volume
    assert all(piece.volume * bytes_per_voxel <= max_bytes for piece in cut)
    assert cut == sorted(cut, key=lambda piece: tuple(piece.offset)[::-1])
    if cube_len**3 * bytes_per_voxel <= max_bytes:
        inner = [piece.offset for piece in cut]
        for axis in range(3):
            starts = {tuple(offset)[axis] for offset in inner} - {tuple(box.offset)[axis]}
            assert all(start % cube_len == 0 for start in starts)


def test_a_box_that_fits_is_one_piece() -> None:
    box = Box.of((1, 2, 3), (100, 100, 100))
    assert list(pieces(box, cube_len=8, bytes_per_voxel=1, max_bytes=10**6)) == [box]


def test_pieces_are_merged_to_a_size_at_which_a_call_does_not_count() -> None:
    box = Box.of((0, 0, 0), (1024, 1024, 256))
    cut = list(pieces(box, cube_len=32, bytes_per_voxel=1, max_bytes=200 << 20))
    assert {piece.volume for piece in cut} == {BEST_PIECE_BYTES}
