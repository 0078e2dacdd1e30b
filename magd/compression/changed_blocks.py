"""Which blocks of a mag's cube files were written since somebody looked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from magd.cubes.layout import morton_index, split_by_cube_file
from magd.geometry import MAX_COORDINATE, Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from magd.cubes.header import Header
    from magd.cubes.layout import IntArray


class ChangedBlocks:
    """A set of blocks. Memory: a byte for each block of each cube file with a block in the set.

    :param layout: whose block and file lengths count
    """

    def __init__(self, layout: Header) -> None:
        self.layout: Final = layout
        self._cubes: Final[dict[Vec3, npt.NDArray[np.bool_]]] = {}

    def add(self, box: Box) -> None:
        """All blocks that share a voxel with a box, in voxels of the mag."""
        block_len, file_len = self.layout.block_len, self.layout.file_len
        for cube, part in split_by_cube_file(box, self.layout.cube_len):
            blocks = self._cubes.setdefault(cube, np.zeros((file_len, file_len, file_len), dtype=np.bool_))
            corner = cube * self.layout.cube_len
            start, end = (part.offset - corner) // block_len, (part.end - corner).ceildiv(block_len)
            blocks[start.z : end.z, start.y : end.y, start.x : end.x] = True

    def update(self, other: ChangedBlocks) -> None:
        """All blocks of another set of the same layout."""
        for cube, blocks in other._cubes.items():
            if cube in self._cubes:
                self._cubes[cube] |= blocks
            else:
                self._cubes[cube] = blocks.copy()

    def clear(self) -> None:
        """No blocks."""
        self._cubes.clear()

    def by_cube_file(self) -> Iterator[tuple[Vec3, IntArray]]:
        """The cube files with blocks in the set, and the places of these in Morton order, ascending."""
        for cube, blocks in self._cubes.items():
            z, y, x = np.nonzero(blocks)
            yield cube, np.sort(morton_index(x, y, z))

    def boxes(self) -> Iterator[Box]:
        """The blocks as boxes, in voxels of the mag; rows of blocks along x as one."""
        block_len = self.layout.block_len
        for cube, blocks in self._cubes.items():
            corner = cube * self.layout.cube_len
            for z, y in np.argwhere(blocks.any(axis=2)).tolist():
                borders = np.flatnonzero(np.diff(np.concatenate(([False], blocks[z, y], [False]))))
                for start, end in borders.reshape(-1, 2).tolist():
                    first = corner + Vec3(start, y, z) * block_len
                    size = Vec3(end - start, 1, 1) * block_len
                    yield Box.between(first, (first + size).min(Vec3.full(MAX_COORDINATE)))

    def intersection(self, other: ChangedBlocks) -> ChangedBlocks:
        """The blocks that are in both sets, which count the same blocks."""
        both = ChangedBlocks(self.layout)
        for cube in self._cubes.keys() & other._cubes.keys():
            common = self._cubes[cube] & other._cubes[cube]
            if common.any():
                both._cubes[cube] = common
        return both

    def __len__(self) -> int:
        """Number of blocks."""
        return sum(int(blocks.sum()) for blocks in self._cubes.values())

    @property
    def size_bytes(self) -> int:
        """Of all their voxels, not compressed."""
        return len(self) * self.layout.block_bytes
