"""Bringing arrays of any memory order into the one in which voxels travel, while they travel; and back.

Users have C order: z fastest. Voxels travel with x fastest. To turn one into the other, the array is gone through
slab by slab along z, so that each slab is a stretch of the bytes of the box and no second array of the size of the box
is needed:

1. A slab is so deep that the voxels of a row along z that are in it fill cache lines.
2. It is gone through in tiles of rows along z: as many along x, then y, as fit into the processor's nearest cache. The
   rows of a tile are first copied into a buffer, each as one item, side by side along x: however far apart they lie in
   the array, they are close together from here on.
3. From the buffer the tile is turned into the slab, one long row along x after the other.

Where the voxels along y lie closer together than those along z, y and z change places in steps 2 and 3. An array in
which those along x lie closest together needs no turning: numpy copies it.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from magd.voxels import VoxelArray, VoxelFormat

SLAB_BYTES: Final = 8 << 20
CACHE_LINE: Final = 64
ROW_BYTES: Final = 2 * CACHE_LINE
"""Of the rows of a tile: processors fetch the line after the one that is asked for."""
TILE_BYTES: Final = 32 << 10
"""Of a tile of voxels of one byte, each of whose cache lines is gone to as often as a row has voxels. The wider a
voxel, the less that counts, and the more that rows along x are long: tiles are up to four times as large."""


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
    if not slab.size:
        return
    channels, x_size, y_size, depth = slab.shape
    target = turned.T.reshape(depth, y_size, x_size * channels)
    x_step, y_step, z_step = (_distance(slab, axis) for axis in (1, 2, 3))
    if x_step < min(y_step, z_step):
        np.copyto(turned, slab)
    elif z_step <= y_step:
        _turn_rows(slab.transpose(2, 1, 0, 3), target)
    else:
        _turn_rows(slab.transpose(3, 1, 0, 2), target.swapaxes(0, 1))


def _distance(array: VoxelArray, axis: int) -> int:
    """How far apart in memory neighbours along an axis lie."""
    return abs(array.strides[axis]) if array.shape[axis] > 1 else sys.maxsize


def _turn_rows(source: VoxelArray, target: npt.NDArray[Any]) -> None:
    """Turn rows along the last axis of an array into rows along x.

    :param source: (y, x, c, z), or with y and z exchanged
    :param target: (z, y, x * c), or the same
    """
    height, width, channels, depth = source.shape
    item = source.itemsize
    row = min(depth, max(1, ROW_BYTES // item))
    rows = max(1, TILE_BYTES * min(item, 4) // (row * channels * item))
    x_step = min(width, rows)
    y_step = min(height, rows // x_step)
    scratch = np.empty(y_step * x_step * channels * row, dtype=source.dtype)
    for z, y, x in product(range(0, depth, row), range(0, height, y_step), range(0, width, x_step)):
        lying = source[y : y + y_step, x : x + x_step, :, z : z + row]
        tile = scratch[: lying.size].reshape(lying.shape)
        _copy_rows(lying, tile)
        to = target[z : z + row, y : y + y_step, x * channels : (x + x_step) * channels]
        np.copyto(to.transpose(1, 2, 0), tile.reshape(*to.shape[1:], -1))


def _copy_rows(source: VoxelArray, target: VoxelArray) -> None:
    """Copy rows along the last axis; each as one item, where its voxels follow each other."""
    length = source.shape[-1]
    if length == 1 or source.strides[-1] == source.itemsize:
        whole = np.dtype((np.void, length * source.itemsize))
        source, target = source.view(whole), target.view(whole)
    np.copyto(target, source)
