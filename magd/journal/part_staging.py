"""The data of one large write, on its way into files that can become cube files while it arrives: see `parts`.

As `staging`, but that the voxels are brought into blocks: whenever layers of blocks along z are complete, they are
written, by twos, as more blocks follow each other in the file then. What arrives comes in the order of the box, with z
slowest. Of a write that need not be on the disk, only headers and lengths are synced, and before: see there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from magd.cubes import raw
from magd.cubes.allocation import allocate_blocks
from magd.cubes.block_copy import rows_of
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.layout import box_of_cube_file, cube_file_path
from magd.geometry import Box, Vec3
from magd.journal.parts import MAX_PARTS, copy_of, in_cube_file, parts_of
from magd.journal.staging import Staging

if TYPE_CHECKING:
    from magd.cubes.block_copy import Rows
    from magd.cubes.header import Header
    from magd.voxels import VoxelArray

TWO_LAYERS_BYTES: Final = 16 << 20
"""Larger layers are written one by one: what waits for the next one is to be in the cache of the processor still, and
not much is to be left for the end."""


class PartStaging(Staging):
    """The checksum of data, and as long as nothing goes wrong its parts.

    :param box: in voxels of the mag
    :param header: of the mag, which is raw
    :param sync: whether the box has to reach the disk. If not, the parts may become cube files without a sync
    """

    def __init__(self, mag_folder: str, box: Box, header: Header, *, sync: bool) -> None:
        self._box: Final = box
        self._header: Final = header
        self._rows: Rows | None = None
        self._plane_bytes: Final = header.voxels.nbytes(box) // box.size.z
        is_small = 2 * self._plane_bytes * header.block_len <= TWO_LAYERS_BYTES
        self._grid: Final = header.block_len * (2 if is_small else 1)
        self._parts: Final = parts_of(box, header)
        self._files: Final[list[OpenCubeFile]] = []
        self._written_z = box.offset.z
        self._is_promised: Final = sync
        super().__init__(mag_folder, sync=sync, count=len(self._parts))

    @property
    def header(self) -> Header | None:
        """What the cube files are like that its files are parts for."""
        return self._header

    def attach(self, data: VoxelArray) -> None:
        """Say where the data comes together."""
        self._rows = rows_of(data)

    def _prepare(self) -> None:
        for fd, path, (_, part) in zip(self._fds, self._paths, self._parts, strict=True):
            raw.write_empty_file(fd, self._header, path)
            file = OpenCubeFile(fd, path, self._header.of_cube_file(), os.fstat(fd))
            allocate_blocks(file, in_cube_file(part, self._header))
            if not self._is_promised:
                os.fdatasync(fd)  # a cube file that a power loss leaves must have its header and its length
            self._files.append(file)

    def _write(self, data: memoryview) -> None:
        """Write the layers of blocks that are complete with these bytes.

        :raises OSError, MagdError: some of it may have been written
        """
        box, rows = self._box, self._rows
        assert rows is not None, "attached"
        end_z = box.offset.z + (self.size_bytes + len(data)) // self._plane_bytes
        if end_z < box.end.z:
            end_z -= end_z % self._grid
        if end_z <= self._written_z:
            return
        start = Vec3(box.offset.x, box.offset.y, self._written_z)
        layers = Box(start, Vec3(box.size.x, box.size.y, end_z - self._written_z))
        for file, (_, part) in zip(self._files, self._parts, strict=True):
            common = part.intersection(layers)
            if not common.is_empty:
                raw.write_blocks(file, copy_of(common, box, rows, self._header))
        self._written_z = end_z


def can_become_cube_files(mag_folder: str, header: Header, box: Box, *, sync: bool) -> bool:
    """Whether it is worth while to bring a box into parts: each cube file is missing, or lies wholly in the box. Not
    more than a guess: whether they become cube files is found out when the flusher comes to the box.

    Before they replace cube files they have to be synced. Where that was not asked for, it takes longer than to write
    the box twice.

    :param header: of the mag
    :param box: in voxels of the mag
    :param sync: whether the box has to reach the disk
    """
    if header.block_type.is_compressed:
        return False
    parts = parts_of(box, header)
    return len(parts) <= MAX_PARTS and all(
        (sync and part == box_of_cube_file(index, header.cube_len))
        or not os.path.lexists(os.path.join(mag_folder, cube_file_path(index)))
        for index, part in parts
    )
