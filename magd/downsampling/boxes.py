"""Making a box of coarser voxels from the boxes of finer ones under it, in bounded memory.

1. The box is cut into tiles, so that what is read for one is small.
2. Of the finer voxels under a tile, those inside the layer's bounding box are read. Where none is, the tile is zero.
3. Finer voxels outside of the bounding box do not count: in their place stands the nearest one inside, on each axis. So
   a layer does not get a dark rim where its bounding box does not lie on the grid of the coarser mag.
4. The method makes one voxel of each group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from magd.downsampling.kernels import downsample
from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.downsampling.kernels import Method
    from magd.voxels import VoxelArray, VoxelFormat

TILE_BYTES: Final = 8 << 20
"""Of finer voxels under one tile."""


def downsample_box(
    box: Box, factor: Vec3, method: Method, bounds: Box, voxels: VoxelFormat, read: Callable[[Box], VoxelArray]
) -> VoxelArray:
    """Make a box of coarser voxels.

    :param box: in voxels of the coarser mag
    :param factor: finer voxels in a coarser one along each axis
    :param bounds: the layer's bounding box, in voxels of the finer mag
    :param read: gives the voxels of a box of the finer mag; (c, x, y, z)
    :return: shape (c, x, y, z), Fortran order
    """
    result = voxels.zeros(box.size)
    for tile in box.split(tile_size(box.size, factor, voxels)):
        finer = Box(tile.offset * factor, tile.size * factor)
        inside = finer.intersection(bounds)
        if inside.is_empty:
            continue
        data = read(inside)
        if not data.any():
            continue
        if inside != finer:
            before, after = inside.offset - finer.offset, finer.end - inside.end
            data = np.pad(data, ((0, 0), *zip(before, after, strict=True)), mode="edge")
        x, y, z = tile.offset - box.offset
        part = result[:, x : x + tile.size.x, y : y + tile.size.y, z : z + tile.size.z]
        part[...] = downsample(data, factor, method)
    return result


def tile_size(size: Vec3, factor: Vec3, voxels: VoxelFormat) -> Vec3:
    """Edges of tiles, powers of two, of which none needs more than `TILE_BYTES` of finer voxels (or is one voxel)."""
    edges = [1 << (edge - 1).bit_length() for edge in size]
    while (Vec3(*edges) * factor).volume * voxels.bytes_per_voxel > TILE_BYTES and max(edges) > 1:
        # The longest edge; of equal ones that along z, so that what is read stays contiguous.
        longest = max(range(3), key=lambda axis: (edges[axis], axis))
        edges[longest] //= 2
    return Vec3(*edges)
