"""Blocks that were written, against voxels in memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.compression.changed_blocks import ChangedBlocks
from magd.cubes.block_source import pieces
from magd.geometry import MAX_COORDINATE, Box, Vec3
from tests.cubes.oracle import boxes, make_header

EDGE = 40
LAYOUT = make_header(block_len=4, file_len=4)


def touched(written: list[Box]) -> set[Vec3]:
    """The blocks that boxes touch, found voxel by voxel."""
    voxels = np.zeros((EDGE, EDGE, EDGE), bool)
    for box in written:
        voxels[tuple(slice(start, end) for start, end in zip(box.offset, box.end, strict=True))] = True
    return {Vec3.of(block) for block in np.unique(np.argwhere(voxels) // 4, axis=0).tolist()}


def blocks_in(found: list[Box]) -> list[Vec3]:
    return [block.offset // 4 for box in found for block in box.split(4)]


@settings(max_examples=40, deadline=None)
@given(written=st.lists(boxes(EDGE), max_size=5))
def test_they_are_those_that_a_written_voxel_lies_in(written: list[Box]) -> None:
    changed = ChangedBlocks(LAYOUT)
    for box in written:
        changed.add(box)
    expected = touched(written)
    assert len(changed) == len(expected)
    assert changed.size_bytes == len(expected) * 4**3
    as_boxes = blocks_in(list(changed.boxes()))
    assert len(as_boxes) == len(expected)
    assert set(as_boxes) == expected
    by_file = []
    for cube, blocks in changed.by_cube_file():
        assert list(blocks) == sorted(set(blocks.tolist()))
        for index in blocks.tolist():
            ((_, _, box),) = pieces(LAYOUT, index, index + 1, 1)
            by_file.append((cube * LAYOUT.cube_len + box.offset) // 4)
    assert len(by_file) == len(expected)
    assert set(by_file) == expected


@settings(max_examples=20, deadline=None)
@given(first=st.lists(boxes(EDGE), max_size=3), second=st.lists(boxes(EDGE), max_size=3))
def test_the_union_of_two_sets_leaves_the_other_as_it_was(first: list[Box], second: list[Box]) -> None:
    one, other = ChangedBlocks(LAYOUT), ChangedBlocks(LAYOUT)
    for changed, written in ((one, first), (other, second)):
        for box in written:
            changed.add(box)
    one.update(other)
    one.add(Box(Vec3(0, 0, 0), Vec3(1, 1, 1)))
    assert set(blocks_in(list(one.boxes()))) == touched([*first, *second]) | {Vec3(0, 0, 0)}
    assert set(blocks_in(list(other.boxes()))) == touched(second)
    one.clear()
    assert (len(one), len(other)) == (0, len(touched(second)))


def test_what_two_sets_share_names_no_cube_file_without_a_block() -> None:
    one, other = ChangedBlocks(LAYOUT), ChangedBlocks(LAYOUT)
    one.add(Box.of((0, 0, 0), (1, 1, 1)))
    other.add(Box.of((LAYOUT.block_len, 0, 0), (1, 1, 1)))
    assert not list(one.intersection(other).by_cube_file())
    other.add(Box.of((0, 0, 0), (1, 1, 1)))
    ((cube, blocks),) = one.intersection(other).by_cube_file()
    assert (cube, blocks.tolist()) == (Vec3(0, 0, 0), [0])


def test_a_block_at_the_end_of_the_world_is_a_box_that_ends_there() -> None:
    changed = ChangedBlocks(LAYOUT)
    changed.add(Box(Vec3.full(MAX_COORDINATE - 1), Vec3(1, 1, 1)))
    (box,) = changed.boxes()
    assert box.problem() is None
    assert box.end == Vec3.full(MAX_COORDINATE)
