"""Copying voxels between a box in memory and the blocks of one cube file.

The voxels of a box in Fortran order (c, x, y, z) are, seen as bytes, a C-order array (z, y, bytes of a row
along x), and so is a block. A row of a block is contiguous on both sides. Blocks that lie wholly in the box
are copied all at once, a row as one item; of the others, those at the border of the box, the common part is
copied block by block.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from magd.cubes.layout import IntArray, morton_index
from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from magd.cubes.header import Header
    from magd.voxels import VoxelArray

Rows: TypeAlias = npt.NDArray[np.uint8]
"""The bytes of a box of voxels: shape (z, y, x * bytes of a voxel), rows contiguous."""

BlockBuffer: TypeAlias = npt.NDArray[np.uint8]
"""The bytes of some blocks, C order: shape (blocks, block_len, block_len, block_len * bytes of a voxel)."""


def rows_of(data: VoxelArray) -> Rows:
    """The bytes of voxel data in Fortran order, without a copy.

    :param data: shape (c, x, y, z), Fortran order
    """
    channels, x, y, z = data.shape
    return data.T.reshape(z, y, x * channels).view(np.uint8)


def part_of(rows: Rows, box: Box, part: Box, bytes_per_voxel: int) -> Rows:
    """The bytes of a part of a box, without a copy.

    :param rows: the bytes of `box`
    :param part: lies in `box`
    """
    start, end = part.offset - box.offset, part.end - box.offset
    return rows[start.z : end.z, start.y : end.y, start.x * bytes_per_voxel : end.x * bytes_per_voxel]


class BlockCopy:
    """The blocks that a box touches in one cube file, in Morton order, and copying from and to them.

    :param header: of the mag or the cube file
    :param box: lies in the cube file; in voxels from the first of the cube file
    :param rows: the bytes of `box` in memory

    :ivar index: the Morton indices of the blocks, ascending
    :ivar is_whole: for each, whether all of it lies in the box
    """

    def __init__(self, header: Header, box: Box, rows: Rows) -> None:
        self._box: Final = box
        self._rows: Final = rows
        self._block_len: Final = header.block_len
        self._bytes_per_voxel: Final = header.voxels.bytes_per_voxel
        length = header.block_len
        self._shape: Final = (length, length, length * self._bytes_per_voxel)

        touched = box.aligned_outward(length)
        first, last = touched.offset // length, touched.end // length
        z, y, x = (
            coordinate.ravel()
            for coordinate in np.meshgrid(
                *(np.arange(first_, last_) for first_, last_ in _zyx(first, last)), indexing="ij"
            )
        )
        index = morton_index(x, y, z)
        order = np.argsort(index)
        self.index: Final[IntArray] = index[order]
        self._x, self._y, self._z = x[order], y[order], z[order]

        # Blocks that lie wholly in the box, if there are any: [inner_first, inner_last) on each axis.
        inner_first, inner_last = box.offset.ceildiv(length), box.end // length
        self._inner_first: Final = inner_first
        self._inner: npt.NDArray[Any] | None = None
        self.is_whole: npt.NDArray[np.bool_] = np.zeros(len(index), dtype=np.bool_)
        blocks = inner_last - inner_first
        if min(blocks) > 0:
            self.is_whole = (
                (self._x >= inner_first.x)
                & (self._x < inner_last.x)
                & (self._y >= inner_first.y)
                & (self._y < inner_last.y)
                & (self._z >= inner_first.z)
                & (self._z < inner_last.z)
            )
            inner_box = Box(inner_first * length, blocks * length)
            inner = part_of(rows, box, inner_box, self._bytes_per_voxel)
            row_bytes = self._shape[2]
            self._inner = (
                inner.reshape(blocks.z, length, blocks.y, length, blocks.x, row_bytes)
                .transpose(0, 2, 4, 1, 3, 5)
                .view(np.dtype((np.void, row_bytes)))[..., 0]
            )

    def __len__(self) -> int:
        """Number of blocks that the box touches."""
        return len(self.index)

    def buffer(self, blocks: int) -> BlockBuffer:
        """Memory for so many blocks, not set."""
        return np.empty((blocks, *self._shape), dtype=np.uint8)

    def as_blocks(self, data: bytes) -> BlockBuffer:
        """The bytes of whole blocks as a buffer, without a copy; read-only."""
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, *self._shape)

    def to_box(self, start: int, blocks: BlockBuffer) -> None:
        """Copy blocks into the box; of those at its border, what lies in it.

        :param start: `blocks` are those of `index[start:]`
        """
        at, whole = self._select(start, len(blocks))
        if self._inner is not None and whole.any():
            chosen = blocks if whole.all() else blocks[whole]
            self._inner[at] = self._as_row_items(chosen)
        for i in np.flatnonzero(~whole).tolist():
            in_rows, in_block = self._common(start + i)
            self._rows[in_rows] = blocks[i][in_block]

    def from_box(self, start: int, blocks: BlockBuffer) -> None:
        """Copy from the box into blocks; those at its border keep what lies outside of it.

        :param start: `blocks` are those of `index[start:]`
        """
        at, whole = self._select(start, len(blocks))
        if self._inner is not None and whole.any():
            if whole.all():
                self._as_row_items(blocks)[...] = self._inner[at]
            else:
                self._as_row_items(blocks)[whole] = self._inner[at]
        for i in np.flatnonzero(~whole).tolist():
            in_rows, in_block = self._common(start + i)
            blocks[i][in_block] = self._rows[in_rows]

    def _select(
        self, start: int, count: int
    ) -> tuple[tuple[IntArray, IntArray, IntArray], npt.NDArray[np.bool_]]:
        """Where the whole blocks among `count` lie in `_inner`, and which they are."""
        here = slice(start, start + count)
        whole = self.is_whole[here]
        first = self._inner_first
        return (
            (self._z[here][whole] - first.z, self._y[here][whole] - first.y, self._x[here][whole] - first.x),
            whole,
        )

    def _as_row_items(self, blocks: BlockBuffer) -> npt.NDArray[Any]:
        """Blocks with a row as one item: shape (blocks, block_len, block_len)."""
        return blocks.view(np.dtype((np.void, self._shape[2])))[..., 0]

    def _common(self, i: int) -> tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]]:
        """What block `index[i]` and the box share: where it lies in the rows, and where in the block."""
        block = Box(
            Vec3(int(self._x[i]), int(self._y[i]), int(self._z[i])) * self._block_len,
            Vec3.full(self._block_len),
        )
        common = block.intersection(self._box)
        return self._slices(common, self._box.offset), self._slices(common, block.offset)

    def _slices(self, box: Box, origin: Vec3) -> tuple[slice, slice, slice]:
        start, end, step = box.offset - origin, box.end - origin, self._bytes_per_voxel
        return slice(start.z, end.z), slice(start.y, end.y), slice(start.x * step, end.x * step)


def _zyx(first: Vec3, last: Vec3) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    return (first.z, last.z), (first.y, last.y), (first.x, last.x)


def runs(index: IntArray, most: int) -> list[tuple[int, int]]:
    """Cut ascending block indices into runs that follow each other without a gap, of at most `most` blocks.

    :return: [start, end) positions in `index`
    """
    gaps = np.flatnonzero(np.diff(index) != 1) + 1
    borders = [0, *gaps.tolist(), len(index)]
    return [
        (start, min(start + most, end))
        for first, end in pairwise(borders)
        for start in range(first, end, most)
    ]
