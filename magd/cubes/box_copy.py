"""Copying a box in memory from and to the blocks of one cube file, many blocks at a time.

How the blocks lie in memory, box_plan.py tells.

1. `numpy.take` brings the rows of the blocks into the order of the box: by z, then y, then x. It moves items of 32
   bytes, the rows of blocks of uint8, twice as fast as an assignment. Which row goes where depends on the number of
   planes and columns of blocks only, and is remembered.
2. Where the box cuts blocks along x, or the group is not all of the box along x and y, what `take` makes is a canvas
   from which long rows are copied into the box.

The other way, from the box into blocks, the same in the opposite order, if all of the blocks lie in the box. Else they
keep what lies outside of it: each region that lies alike in neighbouring blocks is assigned. So it is where rows are
longer than those that `take` is good at, and would have to be copied twice.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from magd.cubes import scratch
from magd.cubes.box_plan import plan

if TYPE_CHECKING:
    from magd.cubes.block_copy import Rows
    from magd.cubes.box_plan import Group, Purpose, Triple
    from magd.cubes.header import Header
    from magd.geometry import Box

Blocks: TypeAlias = npt.NDArray[np.uint8]
"""The bytes of a group in memory; there may be more behind them."""

Order: TypeAlias = npt.NDArray[np.intp]

FAST_ROW_BYTES: Final = 32
"""Rows that `numpy.take` moves faster than others."""


MOST_KEPT_LINES: Final = 1 << 10
"""Of boxes with so many rows along x, the order is kept as it is needed."""


class BoxCopy:
    """A box in memory, and the blocks that it touches in one cube file. Several threads may use it.

    :param header: of the mag or the cube file
    :param box: lies in one cube file; in voxels of the mag, or from the first of the cube file
    :param rows: the bytes of `box` in memory
    """

    __slots__ = ("_length", "_row", "_rows", "_size", "_start", "_voxel")

    def __init__(self, header: Header, box: Box, rows: Rows) -> None:
        offset, size, cube_len = box.offset, box.size, header.block_len * header.file_len
        self._length: Final = header.block_len
        self._voxel: Final = header.voxels.bytes_per_voxel
        self._row: Final = self._length * self._voxel
        self._start: Final = (offset.z % cube_len, offset.y % cube_len, offset.x % cube_len)
        self._size: Final = (size.z, size.y, size.x)
        self._rows: Final = rows

    @property
    def nbytes(self) -> int:
        """The bytes of the box."""
        return self._rows.nbytes

    def groups(self, purpose: Purpose) -> tuple[Group, ...]:
        """The blocks that the box touches."""
        return plan(purpose, self._length, self._voxel, self._start, self._size)

    def in_box(self, group: Group) -> Blocks | None:
        """The memory of the box as that of the group, where one is like the other: no copy is needed then."""
        _, height, width = group.moves.shape
        if height != 1 or width != 1 or group.is_cut:
            return None
        rows = self._rows[group.in_box]
        return rows.reshape(-1) if rows.flags.c_contiguous else None

    def to_box(self, group: Group, blocks: Blocks) -> None:
        """Copy from blocks into the box; of those at its border, what lies in it."""
        row, shape = self._row, group.moves.shape
        rows = self._rows[group.in_box]
        planes, lines, size = rows.shape
        z, y, x = group.in_blocks
        kept = _kept_order if planes * lines <= MOST_KEPT_LINES else _part_of_order
        order = kept(shape, self._length, z.start, z.stop, y.start, y.stop)
        items = blocks[: group.moves.memory_bytes].reshape(-1, row)
        if not group.is_cut_along_x and rows.flags.c_contiguous:
            items.take(order, 0, rows.reshape(-1, row), "clip")
            return
        memory = scratch.take(order.size * row)
        canvas = memory.array[: order.size * row]
        items.take(order, 0, canvas.reshape(-1, row), "clip")
        item = _item(size)
        rows.view(item)[...] = canvas.reshape(planes, lines, -1)[:, :, x].view(item)
        scratch.give_back(memory)

    def from_box(self, group: Group, blocks: Blocks) -> None:
        """Copy from the box into blocks; those at its border keep what lies outside of it."""
        row = self._row
        rows = self._rows[group.in_box]
        in_memory = blocks[: group.moves.memory_bytes]
        if not group.is_cut and (row <= FAST_ROW_BYTES or rows.flags.c_contiguous):
            order = _order_in_blocks(group.moves.shape, self._length)
            if rows.flags.c_contiguous:
                rows.reshape(-1, row).take(order, 0, in_memory.reshape(-1, row), "clip")
                return
            memory = scratch.take(rows.size)
            canvas = memory.array[: rows.size]
            item = _item(rows.shape[2])
            canvas.reshape(rows.shape).view(item)[...] = rows.view(item)
            canvas.reshape(-1, row).take(order, 0, in_memory.reshape(-1, row), "clip")
            scratch.give_back(memory)
            return
        planes, height, width = group.moves.shape
        columns = in_memory.reshape(height, width, planes, self._length, row)
        for blocks_y, lines, in_box_y in group.along_y:
            for blocks_x, in_row, in_box_x in group.along_x:
                target = columns[blocks_y, blocks_x, :, lines, in_row]
                item = _item(target.shape[4])
                source = rows[:, in_box_y, in_box_x].view(item)
                source = source.reshape(planes, target.shape[0], target.shape[3], target.shape[1])
                target.view(item)[..., 0] = source.transpose(1, 3, 0, 2)


@lru_cache(maxsize=32)
def _order_in_box(shape: Triple, length: int) -> Order:
    """Which row of the blocks of a group is which of the box, if all of them lie in it.

    :param shape: planes along z; number of blocks along y and x
    :return: shape (z in voxels, y in voxels, x in blocks)
    """
    planes, height, width = shape
    rows = np.arange(planes * height * width * length, dtype=np.intp)
    in_space = rows.reshape(height, width, planes, length).transpose(2, 0, 3, 1)
    return in_space.reshape(planes, height * length, width)


def _part_of_order(shape: Triple, length: int, z: int, z_end: int, y: int, y_end: int) -> Order:
    """The same for a part of them, in one row."""
    return _order_in_box(shape, length)[z:z_end, y:y_end].reshape(-1)


_kept_order = lru_cache(maxsize=256)(_part_of_order)


@lru_cache(maxsize=32)
def _order_in_blocks(shape: Triple, length: int) -> Order:
    """The inverse: which row of the box is which of the blocks of a group."""
    planes, height, width = shape
    rows = np.arange(planes * height * width * length, dtype=np.intp)
    return rows.reshape(planes, height, length, width).transpose(1, 3, 0, 2).reshape(-1)


@lru_cache(maxsize=256)
def _item(size: int) -> np.dtype[np.void]:
    """A row as one item."""
    return np.dtype((np.void, size))
