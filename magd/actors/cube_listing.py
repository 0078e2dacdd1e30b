"""Listing the cube files of a mag, those included that exist only in the overlay so far. Blocking."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from magd.cubes.layout import box_of_cube_file, cube_file_path, split_by_cube_file
from magd.cubes.listing import CubeFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.actors.messages import ListCubeFiles
    from magd.cubes.mag_files import MagFiles
    from magd.geometry import Box, Vec3


@dataclass(frozen=True, slots=True)
class ListedCubeFile:
    """A cube file, and whether committed data of its cube is not in it yet."""

    file: CubeFile
    pending: bool

    @property
    def is_on_disk(self) -> bool:
        """Whether the file exists."""
        return self.file.size_bytes > 0


def list_some(files: MagFiles, pending: Sequence[Box], listing: ListCubeFiles) -> list[ListedCubeFile]:
    """The next cube files in (z, y, x) order.

    :param pending: boxes that are committed and not in the files yet, in voxels of the mag
    """
    cube_len = files.header.cube_len
    waiting = {
        cube
        for box in pending
        for cube, _ in split_by_cube_file(box, cube_len)
        if listing.box is None or box_of_cube_file(cube, cube_len).intersects(listing.box)
    }
    found = list(islice(files.cube_files(listing.box, after=listing.after), listing.limit))
    known = {file.index for file in found}
    start = None if listing.after is None else _place(listing.after)
    # Behind the last one found there may be files on disk that come first: they are the next page's.
    end = _place(found[-1].index) if len(found) == listing.limit else None
    found += [
        _not_there_yet(files, cube)
        for cube in waiting - known
        if (start is None or _place(cube) > start) and (end is None or _place(cube) < end)
    ]
    found.sort(key=lambda file: _place(file.index))
    return [ListedCubeFile(file, file.index in waiting) for file in found[: listing.limit]]


def _place(cube: Vec3) -> tuple[int, int, int]:
    return cube.z, cube.y, cube.x


def _not_there_yet(files: MagFiles, cube: Vec3) -> CubeFile:
    return CubeFile(
        index=cube,
        box=box_of_cube_file(cube, files.header.cube_len),
        path=cube_file_path(cube),
        size_bytes=0,
        allocated_bytes=0,
        block_type=files.header.block_type,
    )
