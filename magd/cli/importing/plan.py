"""How an import is cut into pieces, and how large the cube files of a new mag should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE_LEN: Final = 32
"""Blocks along an edge of the cube files that are made, at most: 1024 voxels with blocks of 32."""
FEW_FILES: Final = 8


def sensible_file_len(box: Box, block_len: int) -> int:
    """The smallest power of two with which a volume lies in a few cube files.

    A raw cube file has its full length however little of it is used: a scan of 15 MB in cube files of 1024 voxels
    shows as a gigabyte. Large volumes get the largest cube files, since each file costs a name and an open.

    :param box: where the volume lies, in voxels of the mag
    :param block_len: edge of a block in voxels
    :return: edge of a cube file in blocks, at most 32
    """
    file_len = 1
    while file_len < MAX_FILE_LEN and cube_file_count(box, file_len * block_len) > FEW_FILES:
        file_len *= 2
    return file_len


def cube_file_count(box: Box, cube_len: int) -> int:
    """How many cube files a box touches."""
    return (box.end.ceildiv(cube_len) - box.offset // cube_len).volume


def piece_shape(
    box: Box, *, cube_len: int, block_len: int, bytes_per_voxel: int, max_bytes: int, whole_pages: bool
) -> Vec3:
    """The size of the pieces that a volume is copied in.

    1. Begin with a cube file: two pieces then never touch the same one, and each is written at once.
    2. While that is too large, halve z, then y, then x, but not below a block.
    3. While twice as much still fits and the volume goes on, double x, then y, then z: fewer calls.
    Where only whole planes can be read, x and y are those of the volume, and only z is chosen, down to one plane.

    :param box: where the volume lies, in voxels of the mag
    :param max_bytes: of a piece; a single block or plane may be larger
    """
    extent = box.end.ceildiv(cube_len) * cube_len
    if whole_pages:
        shape = Vec3(extent.x, extent.y, cube_len)
        plane_bytes = box.size.x * box.size.y * bytes_per_voxel
        while shape.z > 1 and plane_bytes * min(shape.z, box.size.z) > max_bytes:
            shape = Vec3(shape.x, shape.y, shape.z // 2)
        return shape
    x = y = z = cube_len
    while x * y * z * bytes_per_voxel > max_bytes and x > block_len:
        if z > block_len:
            z //= 2
        elif y > block_len:
            y //= 2
        else:
            x //= 2
    for axis in range(3):
        while x * y * z * bytes_per_voxel * 2 <= max_bytes and (x, y, z)[axis] < tuple(extent)[axis]:
            x, y, z = (length * 2 if index == axis else length for index, length in enumerate((x, y, z)))
    return Vec3(x, y, z)


def pieces(box: Box, shape: Vec3) -> Iterator[Box]:
    """The parts of a box that lie in the cells of a grid through the origin, z slowest.

    :param shape: of a cell
    """
    first, last = box.offset // shape, box.end.ceildiv(shape)
    for z in range(first.z, last.z):
        for y in range(first.y, last.y):
            for x in range(first.x, last.x):
                yield Box(Vec3(x, y, z) * shape, shape).intersection(box)
