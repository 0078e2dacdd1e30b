"""Copying a box in memory from and to the blocks of one cube file, many blocks at a time.

To ask numpy for the copy of one block takes longer than the copy. So:

1. The blocks that a box touches are cut into groups: neighbours in space, as many as fit into the caches of the
   processor, and all along x, then y, if that is not too much. A small box is one group.
2. In memory, the blocks of a group lie in the order in which they lie in space (z, y, x), wherever they lie in the
   file. So the order of their rows depends on the number of blocks along each axis only, and is remembered.
3. `numpy.take` brings the rows of the blocks into the order of the box: by z, then y, then x. It moves items of 32
   bytes, the rows of blocks of uint8, twice as fast as an assignment. Rows that lie outside of the box along z or y
   are left out.
4. Where the box cuts blocks along x, or the group is not all of the box along x and y, what `take` makes is a canvas
   from which long rows are copied into the box.

The other way, from the box into blocks, the same in the opposite order. Blocks at the border of the box keep what lies
outside of it: the canvas is filled with the old voxels first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from magd.cubes import scratch
from magd.cubes.layout import spread_bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.cubes.block_copy import Rows
    from magd.cubes.header import Header
    from magd.geometry import Box

Blocks: TypeAlias = npt.NDArray[np.uint8]
"""The bytes of the blocks of a group, one after the other: (z, y, x) of the blocks, then (z, y, bytes of a row)."""

Order: TypeAlias = npt.NDArray[np.intp]

GROUP_BYTES: Final = 2 << 20
"""What is moved at a time, at most; but at least a block."""
GROUP_ROWS: Final = 1 << 16
"""The rows of these blocks, at most: for each, its place is remembered."""
MOST_PIECES: Final = 512
"""Of memory that one system call fills; Linux takes up to 1024."""


class Run(NamedTuple):
    """Blocks of a group that follow each other in the file.

    :ivar first: the Morton index of the first one
    :ivar pieces: [start, end) of their places in the group, in the order of the file
    """

    first: int
    pieces: tuple[tuple[int, int], ...]


class Group(NamedTuple):
    """Blocks that are moved together.

    :ivar corner: how many blocks lie before it along z, y, x, from the first one that the box touches
    :ivar shape: number of blocks along z, y, x
    :ivar indices: their Morton indices, ascending
    :ivar places: where each lies in the group
    :ivar runs: the same, as blocks that follow each other
    """

    corner: tuple[int, int, int]
    shape: tuple[int, int, int]
    indices: tuple[int, ...]
    places: tuple[int, ...]
    runs: tuple[Run, ...]


class BoxCopy:
    """A box in memory, and the groups of blocks that it touches in one cube file. Several threads may use it.

    :param header: of the mag or the cube file
    :param box: lies in the cube file; in voxels from the first of the cube file
    :param rows: the bytes of `box` in memory

    :ivar groups: the blocks
    :ivar block_count: how many they are
    """

    def __init__(self, header: Header, box: Box, rows: Rows) -> None:
        length, voxel = header.block_len, header.voxels.bytes_per_voxel
        offset, size = box.offset, box.size
        first = (offset.z // length, offset.y // length, offset.x // length)
        start = (offset.z % length, offset.y % length, offset.x % length)
        end = (start[0] + size.z, start[1] + size.y, start[2] + size.x)
        shape = (-(-end[0] // length), -(-end[1] // length), -(-end[2] // length))
        self._length: Final = length
        self._voxel: Final = voxel
        self._block_bytes: Final = length**3 * voxel
        self._start: Final = start
        self._end: Final = end
        self._rows: Final = rows
        self.block_count: Final = shape[0] * shape[1] * shape[2]
        most = max(1, min(GROUP_BYTES // self._block_bytes, GROUP_ROWS // (length * length)))
        self.groups: Final = (_kept_groups if self.block_count <= _MOST_KEPT_BLOCKS else _groups)(first, shape, most)

    def group_bytes(self, group: Group) -> int:
        """The bytes of the blocks of a group."""
        return len(group.indices) * self._block_bytes

    def in_box(self, group: Group) -> Blocks | None:
        """The memory of the box as that of the group, where one is like the other: no copy is needed then."""
        if group.shape != (1, 1, 1):
            return None
        window = self._window(group)
        if window.is_cut or not window.rows.flags.c_contiguous:
            return None
        return window.rows.reshape(-1)

    def to_box(self, group: Group, blocks: Blocks) -> None:
        """Copy from blocks into the box; of those at its border, what lies in it."""
        window = self._window(group)
        row = self._length * self._voxel
        order = _order_in_box(group.shape, self._length)[window.z, window.y]
        items = blocks.reshape(-1, row)
        if not window.is_cut_along_x and window.rows.flags.c_contiguous:
            items.take(order.reshape(-1), 0, window.rows.reshape(-1, row), "clip")
            return
        memory = scratch.take(order.size * row)
        canvas = memory.array[: order.size * row]
        items.take(order.reshape(-1), 0, canvas.reshape(-1, row), "clip")
        item = _item(window.rows.shape[2])
        window.rows.view(item)[...] = canvas.reshape(*order.shape[:2], -1)[:, :, window.x].view(item)
        scratch.give_back(memory)

    def from_box(self, group: Group, blocks: Blocks) -> None:
        """Copy from the box into blocks; those at its border keep what lies outside of it."""
        window = self._window(group)
        row = self._length * self._voxel
        items = blocks.reshape(-1, row)
        order = _order_in_blocks(group.shape, self._length)
        if not window.is_cut and window.rows.flags.c_contiguous:
            window.rows.reshape(-1, row).take(order, 0, items, "clip")
            return
        memory = scratch.take(blocks.size)
        canvas = memory.array[: blocks.size].reshape(-1, row)
        if window.is_cut:
            items.take(_order_in_box(group.shape, self._length).reshape(-1), 0, canvas, "clip")
        depth, height, width = group.shape
        item = _item(window.rows.shape[2])
        in_canvas = canvas.reshape(depth * self._length, height * self._length, width * row)
        in_canvas[window.z, window.y, window.x].view(item)[...] = window.rows.view(item)
        canvas.take(order, 0, items, "clip")
        scratch.give_back(memory)

    def cut_runs(self, group: Group) -> tuple[Run, ...]:
        """Those blocks of a group that lie only in part in the box, as runs."""
        window = self._window(group)
        if not window.is_cut:
            return ()
        edges = zip((window.z, window.y, window.x), group.shape, (1, 1, self._voxel), strict=True)
        cut = [
            {
                place
                for place, is_cut in ((0, part.start > 0), (count - 1, part.stop < count * self._length * unit))
                if is_cut
            }
            for part, count, unit in edges
        ]
        _, height, width = group.shape
        found = [
            (index, place)
            for index, place in zip(group.indices, group.places, strict=True)
            if place // (height * width) in cut[0] or place // width % height in cut[1] or place % width in cut[2]
        ]
        return tuple(_runs(found))

    def _window(self, group: Group) -> _Window:
        length, start, end = self._length, self._start, self._end
        (k, j, i), (depth, height, width) = group.corner, group.shape
        # In voxels, from the first block that the box touches, and from the first of the group.
        z, y, x = k * length, j * length, i * length
        z_start, y_start, x_start = max(start[0] - z, 0), max(start[1] - y, 0), max(start[2] - x, 0)
        z_end = min(end[0] - z, depth * length)
        y_end = min(end[1] - y, height * length)
        x_end = min(end[2] - x, width * length)
        voxel = self._voxel
        is_cut_along_x = x_end - x_start != width * length
        z, y, x = z - start[0], y - start[1], x - start[2]
        return _Window(
            slice(z_start, z_end),
            slice(y_start, y_end),
            slice(x_start * voxel, x_end * voxel),
            self._rows[z + z_start : z + z_end, y + y_start : y + y_end, (x + x_start) * voxel : (x + x_end) * voxel],
            is_cut_along_x,
            is_cut_along_x or z_end - z_start != depth * length or y_end - y_start != height * length,
        )


class _Window(NamedTuple):
    """What a box and a group share.

    :ivar z, y: in the group, in rows
    :ivar x: in the group, in bytes
    :ivar rows: in the box
    :ivar is_cut: whether the group has voxels that are not in the box
    """

    z: slice
    y: slice
    x: slice
    rows: Rows
    is_cut_along_x: bool
    is_cut: bool


def _groups(first: tuple[int, int, int], shape: tuple[int, int, int], most: int) -> list[Group]:
    """The blocks of a box as groups.

    :param first: the first block, along z, y, x
    :param shape: number of blocks along each
    :param most: blocks of a group
    """
    depth, height, width = shape
    x_step = _step(width, most)
    y_step = _step(height, most // x_step)
    z_step = _step(depth, most // (x_step * y_step))
    return [
        _group((k, j, i), (z_end - k, y_end - j, x_end - i), first)
        for k, z_end in _steps(first[0], depth, z_step)
        for j, y_end in _steps(first[1], height, y_step)
        for i, x_end in _steps(first[2], width, x_step)
    ]


# Small boxes mostly lie on a grid of their own, so that the same few groups come again and again.
_MOST_KEPT_BLOCKS: Final = 128
_kept_groups = lru_cache(maxsize=2048)(_groups)


def _step(blocks: int, most: int) -> int:
    """All of them, or a power of two, on whose grid more blocks follow each other in Morton order."""
    return blocks if blocks <= most else 1 << (max(1, most).bit_length() - 1)


def _steps(first: int, blocks: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut blocks along one axis, at multiples of `step` from the first of the cube file if they are more than it.

    :return: [start, end), counted from `first`
    """
    start = 0
    while start < blocks:
        end = blocks if step == blocks else min(blocks, start + step - (first + start) % step)
        yield start, end
        start = end


def _group(corner: tuple[int, int, int], shape: tuple[int, int, int], first: tuple[int, int, int]) -> Group:
    z, y, x = (spread_bits(first[axis] + corner[axis], shape[axis]) for axis in range(3))
    indices = [at_z << 2 | at_y << 1 | at_x for at_z in z for at_y in y for at_x in x]
    blocks = sorted(zip(indices, range(len(indices)), strict=True))
    index, places = zip(*blocks, strict=True)
    return Group(corner, shape, index, places, tuple(_runs(blocks)))


def _runs(blocks: list[tuple[int, int]]) -> Iterator[Run]:
    """Cut blocks where one does not follow the other.

    :param blocks: index and place, by index
    """
    first = next_index = -1
    pieces: list[tuple[int, int]] = []
    for index, place in blocks:
        if index != next_index or len(pieces) == MOST_PIECES:
            if pieces:
                yield Run(first, tuple(pieces))
            first, pieces = index, [(place, place + 1)]
        elif pieces[-1][1] == place:
            pieces[-1] = (pieces[-1][0], place + 1)
        else:
            pieces.append((place, place + 1))
        next_index = index + 1
    if pieces:
        yield Run(first, tuple(pieces))


@lru_cache(maxsize=32)
def _order_in_box(shape: tuple[int, int, int], length: int) -> Order:
    """Which row of the blocks of a group is which of the box, if all of them lie in it.

    :param shape: number of blocks along z, y, x
    :return: shape (z in voxels, y in voxels, x in blocks)
    """
    depth, height, width = shape
    rows = np.arange(depth * height * width * length * length, dtype=np.intp)
    in_space = rows.reshape(depth, height, width, length, length).transpose(0, 3, 1, 4, 2)
    return in_space.reshape(depth * length, height * length, width)


@lru_cache(maxsize=32)
def _order_in_blocks(shape: tuple[int, int, int], length: int) -> Order:
    """The inverse: which row of the box is which of the blocks of a group."""
    depth, height, width = shape
    rows = np.arange(depth * height * width * length * length, dtype=np.intp)
    return rows.reshape(depth, length, height, length, width).transpose(0, 2, 4, 1, 3).reshape(-1)


@lru_cache(maxsize=256)
def _item(size: int) -> np.dtype[np.void]:
    """A row as one item."""
    return np.dtype((np.void, size))
