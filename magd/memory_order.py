"""Bringing arrays of any memory order into the one in which voxels travel, while they travel; and back.

Users have C order: z fastest. Voxels travel with x fastest. To turn one into the other, the array is gone through
slab by slab along z, so that each slab is a stretch of the bytes of the box and no second array of the size of the box
is needed:

1. A slab is so deep that the voxels of a row along z that are in it fill cache lines.
2. It is made of tiles along x and y that fit into the processor's nearest cache. A tile is first copied as it lies,
   row after row, into a buffer; rows there are some bytes further apart than they are long, since at powers of two
   they would push each other out of the cache. From there it is turned into the slab.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.voxels import VoxelArray, VoxelFormat

SLAB_BYTES: Final = 8 << 20
CACHE_LINE: Final = 64
TILE_X: Final = 64
TILE_Y: Final = 16


def slabs(array: VoxelArray, voxels: VoxelFormat) -> Iterator[VoxelArray]:
    """An array as it travels, as slabs along z, first to last; the array itself if it is in that order already.

    :param array: (c, x, y, z) of the format, in any memory and byte order
    :return: arrays (c, x, y, z), Fortran order, little-endian. Each is made when it is asked for
    """
    if array.flags.f_contiguous and array.dtype == voxels.dtype:
        yield array
        return
    for start, end in _cuts(array):
        slab = array[..., start:end]
        turned = np.empty(slab.shape, dtype=voxels.dtype, order="F")
        _turn(slab, turned)
        yield turned


def in_fortran_order(array: VoxelArray) -> VoxelArray:
    """An array in Fortran order, of the same dtype; the array itself if it is in that order already.

    :param array: shape (c, x, y, z), in any memory order
    """
    if array.flags.f_contiguous:
        return array
    turned = np.empty(array.shape, dtype=array.dtype, order="F")
    for start, end in _cuts(array):
        _turn(array[..., start:end], turned[..., start:end])
    return turned


def c_order_slabs(array: VoxelArray, voxels: VoxelFormat) -> Iterator[VoxelArray]:
    """An array in C order, as slabs whose bytes follow each other.

    :param array: (c, x, y, z) of the format, in any memory order
    :return: arrays of four dimensions whose bytes in Fortran order are the next bytes of `array` in C order
    """
    # C order of axes is Fortran order of the same axes reversed. The channels are gone through one by one.
    for channel in array:
        yield from slabs(channel.T[np.newaxis], voxels)


def _cuts(array: VoxelArray) -> Iterator[tuple[int, int]]:
    """Where along z the slabs of an array lie: [start, end)."""
    _, _, _, depth = array.shape
    step = max(SLAB_BYTES // max(1, array[..., 0].nbytes), CACHE_LINE // array.itemsize)
    for start in range(0, depth, step):
        yield start, min(start + step, depth)


def _turn(slab: VoxelArray, turned: VoxelArray) -> None:
    """Bring a slab into Fortran order.

    :param turned: where to, of the same shape
    """
    channels, x_size, y_size, depth = slab.shape
    row = depth * channels
    padded = np.empty((TILE_X, TILE_Y * row + CACHE_LINE), dtype=turned.dtype)
    tiles = padded[:, : TILE_Y * row].reshape(TILE_X, TILE_Y, channels, depth)
    for x in range(0, x_size, TILE_X):
        for y in range(0, y_size, TILE_Y):
            part = slab[:, x : x + TILE_X, y : y + TILE_Y]
            tile = tiles[: part.shape[1], : part.shape[2]].transpose(2, 0, 1, 3)
            np.copyto(tile, part)
            np.copyto(turned[:, x : x + TILE_X, y : y + TILE_Y], tile)
