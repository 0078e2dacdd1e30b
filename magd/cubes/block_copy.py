"""Copying voxels between a box in memory and the blocks of one cube file.

The voxels of a box in Fortran order (c, x, y, z) are, seen as bytes, a C-order array (z, y, bytes of a row
along x), and so is a block. A row of a block is contiguous on both sides. Blocks that lie wholly in the box
are found by their place among each other; of the others, those at the border of the box, the common part is copied.
Both with a row as one item: numpy copies such rows twice as fast as bytes.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from magd.cubes.layout import IntArray, morton_index

if TYPE_CHECKING:
    from magd.cubes.header import Header
    from magd.geometry import Box
    from magd.voxels import VoxelArray

Rows: TypeAlias = npt.NDArray[np.uint8]
"""The bytes of a box of voxels: shape (z, y, x * bytes of a voxel), rows contiguous."""

BlockBuffer: TypeAlias = npt.NDArray[np.uint8]
"""The bytes of some blocks, C order: shape (blocks, block_len, block_len, block_len * bytes of a voxel)."""

VoidRows: TypeAlias = npt.NDArray[np.void]
"""Voxels with a row along x of one block as one item."""

Slices: TypeAlias = tuple[slice, slice, slice]
"""Along z, y, x."""


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
    if part is box:
        return rows
    x, y, z = (inner - outer for inner, outer in zip(part.offset, box.offset, strict=True))
    size = part.size
    return rows[z : z + size.z, y : y + size.y, x * bytes_per_voxel : (x + size.x) * bytes_per_voxel]


class BlockCopy:
    """The blocks that a box touches in one cube file, in Morton order, and copying from and to them.

    :param header: of the mag or the cube file
    :param box: lies in the cube file; in voxels from the first of the cube file
    :param rows: the bytes of `box` in memory

    :ivar index: the Morton indices of the blocks, ascending
    :ivar is_whole: for each, whether all of it lies in the box
    """

    def __init__(self, header: Header, box: Box, rows: Rows) -> None:
        length, voxel = header.block_len, header.voxels.bytes_per_voxel
        start, end = box.offset, box.end
        x = _axis(start.x, end.x, length, voxel)
        y = _axis(start.y, end.y, length, 1)
        z = _axis(start.z, end.z, length, 1)
        self._axes: Final = (z, y, x)
        self._rows: Final = rows
        self._shape: Final = (length, length, length * voxel)

        is_small = len(z) * len(y) * len(x) <= _MAX_KEPT_BLOCKS
        order = (_kept_order if is_small else _order)(z.first, len(z), y.first, len(y), x.first, len(x))
        # Where in its axis each block lies, counted from the first one that the box touches.
        index, self._gaps, self._z, self._y, self._x = order
        self.index: Final[IntArray] = index
        self.is_whole: Final[list[bool]] = [
            z.is_whole[k] and y.is_whole[j] and x.is_whole[i] for k, j, i in zip(self._z, self._y, self._x, strict=True)
        ]

        # Blocks that lie wholly in the box, a row as one item.
        self._row: Final = _row(length * voxel)
        self._whole: VoidRows | None = None
        if z.whole_blocks and y.whole_blocks and x.whole_blocks:
            self._whole = (
                rows[z.whole, y.whole, x.whole]
                .reshape(z.whole_blocks, length, y.whole_blocks, length, x.whole_blocks, length * voxel)
                .transpose(0, 2, 4, 1, 3, 5)
                .view(self._row)[..., 0]
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

    def from_box(self, start: int, blocks: BlockBuffer) -> None:
        """Copy from the box into blocks; those at its border keep what lies outside of it.

        :param start: `blocks` are those of `index[start:]`
        """
        as_rows = self._as_rows(blocks)
        for i, at in enumerate(range(start, start + len(blocks))):
            if self._whole is not None and self.is_whole[at]:
                as_rows[i] = self._whole[self._place_among_whole(at)]
            else:
                in_rows, in_block, row = self._common(at)
                blocks[i][in_block].view(row)[...] = self._rows[in_rows].view(row)

    def _as_rows(self, blocks: BlockBuffer) -> VoidRows:
        """Blocks with a row as one item: shape (blocks, block_len, block_len)."""
        return blocks.view(self._row)[..., 0]

    def _place_among_whole(self, at: int) -> tuple[int, int, int]:
        z, y, x = self._axes
        return self._z[at] - z.first_whole, self._y[at] - y.first_whole, self._x[at] - x.first_whole

    def _common(self, at: int) -> tuple[Slices, Slices, np.dtype[np.void]]:
        """What block `index[at]` and the box share: where it lies in the rows, where in the block, and a row of it."""
        z, y, x = self._axes
        k, j, i = self._z[at], self._y[at], self._x[at]
        row = _row(x.in_box[i].stop - x.in_box[i].start)
        return (z.in_box[k], y.in_box[j], x.in_box[i]), (z.in_block[k], y.in_block[j], x.in_block[i]), row


class _Axis:
    """How a box and the blocks that it touches lie along one axis.

    :param start, end: of the box, in voxels from the first of the cube file
    :param unit: what slices count, per voxel

    :ivar first: coordinate of the first block
    :ivar in_box, in_block: for each block, where the part that it shares with the box lies in either
    :ivar is_whole: for each block, whether the box covers it
    :ivar whole: where the covered blocks lie in the box
    """

    def __init__(self, start: int, end: int, block_len: int, unit: int) -> None:
        first, last = start // block_len, -(-end // block_len)
        self.first: Final = first
        self.in_box: Final[list[slice]] = []
        self.in_block: Final[list[slice]] = []
        self.is_whole: Final[list[bool]] = []
        for block in range(first, last):
            corner = block * block_len
            common_start, common_end = max(corner, start), min(corner + block_len, end)
            self.in_box.append(slice((common_start - start) * unit, (common_end - start) * unit))
            self.in_block.append(slice((common_start - corner) * unit, (common_end - corner) * unit))
            self.is_whole.append(common_end - common_start == block_len)
        # Only the first and the last block can be cut.
        self.first_whole: Final = 0 if self.is_whole[0] else 1
        self.whole_blocks: Final = sum(self.is_whole)
        whole_start = (first + self.first_whole) * block_len - start
        self.whole: Final = slice(whole_start * unit, (whole_start + self.whole_blocks * block_len) * unit)

    def __len__(self) -> int:
        """Number of blocks that the box touches along it."""
        return len(self.in_box)


# Small boxes mostly lie on a grid of their own, so that the same few ways to lie among blocks come again and again; to
# work one out takes longer than to copy a block.
_axis = lru_cache(maxsize=1024)(_Axis)
_MAX_KEPT_BLOCKS: Final = 64


def _order(
    z: int, z_blocks: int, y: int, y_blocks: int, x: int, x_blocks: int
) -> tuple[IntArray, list[int], list[int], list[int], list[int]]:
    """The blocks of a box in Morton order.

    :param z, y, x: the first block
    :return: their Morton indices, ascending; at which positions there is a gap before them, first and end included; and
        where along z, y and x each lies, from the first on
    """
    grid = np.ix_(np.arange(z, z + z_blocks), np.arange(y, y + y_blocks), np.arange(x, x + x_blocks))
    index = morton_index(grid[2], grid[1], grid[0]).ravel()
    order = np.argsort(index)
    k, j, i = np.unravel_index(order, (z_blocks, y_blocks, x_blocks))
    index = index[order]
    return index, _gaps(index), k.tolist(), j.tolist(), i.tolist()


@lru_cache(maxsize=256)
def _row(size: int) -> np.dtype[np.void]:
    return np.dtype((np.void, size))


_kept_order = lru_cache(maxsize=4096)(_order)


def runs(index: IntArray, most: int) -> list[tuple[int, int]]:
    """Cut ascending block indices into runs that follow each other without a gap, of at most `most` blocks.

    :return: [start, end) positions in `index`
    """
    return _cut(_gaps(index), most)


def _gaps(index: IntArray) -> list[int]:
    return [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]


def _cut(gaps: list[int], most: int) -> list[tuple[int, int]]:
    return [(start, min(start + most, end)) for first, end in pairwise(gaps) for start in range(first, end, most)]
