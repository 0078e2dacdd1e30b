"""Boxes on grids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from magd.geometry import Box, Vec3

offsets = st.builds(Vec3, *[st.integers(0, 500)] * 3)
sizes = st.builds(Vec3, *[st.integers(1, 300)] * 3)
spacings = st.builds(Vec3, *[st.integers(1, 64)] * 3)


@given(offset=offsets, size=sizes, grid=spacings | st.integers(1, 64))
def test_a_box_aligned_outward_is_the_smallest_around_it_on_the_grid(
    offset: Vec3, size: Vec3, grid: Vec3 | int
) -> None:
    aligned = Box(offset, size).aligned_outward(grid)
    step = grid if isinstance(grid, Vec3) else Vec3.full(grid)
    axes = zip(offset, Box(offset, size).end, aligned.offset, aligned.end, step, strict=True)
    for start, end, low, high, spacing in axes:
        assert low % spacing == high % spacing == 0
        assert start - spacing < low <= start
        assert end <= high < end + spacing
