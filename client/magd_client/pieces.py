"""Cutting a box that is larger than the daemon takes at once.

Cuts lie on cube files where they can, so that no two pieces touch the same file:

1. Begin with a cell as large as one cube file.
2. While a cell has more bytes than the daemon takes, halve its longest axis (z before y before x: rows stay
   long). Cells stay aligned, to blocks at first and to smaller powers of two at last.
3. While it stays within the size that is best, double it along x, then y, then z, up to the size of the box.
4. The pieces are the box cut along the grid of cells, in (z, y, x) order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterator

BEST_PIECE_BYTES: Final = 32 << 20
"""Large enough that the cost of a call does not count, small enough that several fit in a daemon's budget."""
PIECES_IN_FLIGHT: Final = 4
"""Of one large box."""


def pieces(box: Box, *, cube_len: int, bytes_per_voxel: int, max_bytes: int) -> Iterator[Box]:
    """Cut a box.

    :param cube_len: edge of a cube file, a power of two, in voxels of the mag
    :param max_bytes: of one piece; at least `bytes_per_voxel`
    :return: one piece, the box itself, if it is small enough
    """
    if box.volume * bytes_per_voxel <= max_bytes:
        yield box
        return
    cell = [cube_len] * 3
    while cell[0] * cell[1] * cell[2] * bytes_per_voxel > max_bytes and max(cell) > 1:
        axis = max((2, 1, 0), key=lambda axis: cell[axis])
        cell[axis] //= 2
    best = min(max_bytes, BEST_PIECE_BYTES)
    for axis, extent in enumerate(box.size):
        while cell[axis] < extent and 2 * cell[0] * cell[1] * cell[2] * bytes_per_voxel <= best:
            cell[axis] *= 2
    yield from box.split(Vec3(*cell))
