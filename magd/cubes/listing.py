"""Which cube files a mag has, in (z, y, x) order, without holding the whole tree in memory; and what they are like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.layout import box_of_cube_file, cube_file_path, parse_cube_file_path, parse_folder_name
from magd.errors import DataLoss, NotAllowed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.cubes.header import BlockType
    from magd.cubes.mag_folder import MagFolder
    from magd.geometry import Box, Vec3


@dataclass(frozen=True, slots=True)
class CubeFile:
    """A cube file, at the moment it was listed.

    :ivar box: what it covers, in voxels of the mag
    :ivar path: relative to the folder of the mag
    :ivar size_bytes: its length
    :ivar allocated_bytes: what it takes on disk
    :ivar block_type: of its own header; None if that is damaged
    """

    index: Vec3
    box: Box
    path: str
    size_bytes: int
    allocated_bytes: int
    block_type: BlockType | None


def list_cube_files(
    folder: MagFolder, cube_len: int, *, within: Box | None = None, after: Vec3 | None = None
) -> Iterator[Vec3]:
    """Indices of the cube files that exist, by their names: they are not opened.

    :param within: only these indices
    :param after: only indices after this one, in (z, y, x) order
    :raises DataLoss: a folder cannot be read

    Each folder is read when the iteration comes to it. A folder that vanishes meanwhile has no files. Links,
    and what has another name than magd would give it, are passed over.
    """
    first = (after.z, after.y, after.x) if after is not None else (-1, -1, -1)
    for z in _folders(folder, "", "z"):
        if z < first[0] or not _inside(within, 2, z):
            continue
        for y in _folders(folder, f"z{z}", "y"):
            if (z, y) < first[:2] or not _inside(within, 1, y):
                continue
            for index in _files(folder, z, y, cube_len):
                if (z, y, index.x) > first and _inside(within, 0, index.x):
                    yield index


def look_at(folder: MagFolder, index: Vec3, cube_len: int) -> CubeFile | None:
    """What there is to say about a cube file. None if it does not exist.

    :raises DataLoss: there are no descriptors left
    """
    path = cube_file_path(index)
    try:
        status = folder.status(path)
        block_type = _block_type_of(folder, path)
    except FileNotFoundError:
        return None
    return CubeFile(
        index=index,
        box=box_of_cube_file(index, cube_len),
        path=path,
        size_bytes=status.st_size,
        allocated_bytes=status.st_blocks * 512,
        block_type=block_type,
    )


def _block_type_of(folder: MagFolder, path: str) -> BlockType | None:
    """The block type of a cube file's own header; None if it is damaged."""
    try:
        with OpenCubeFile.of(folder.open_file(path), folder.full(path)) as file:
            return file.header.block_type
    except (DataLoss, NotAllowed):
        return None


def _folders(folder: MagFolder, parent: str, axis: str) -> list[int]:
    """The numbers of the folders for an axis, ascending."""
    numbers = (parse_folder_name(name, axis) for name in _names(folder, parent))
    prefix = f"{parent}/{axis}" if parent else axis
    return sorted(number for number in numbers if number is not None and folder.is_folder(f"{prefix}{number}"))


def _files(folder: MagFolder, z: int, y: int, cube_len: int) -> list[Vec3]:
    parent = f"z{z}/y{y}"
    indices = (parse_cube_file_path(f"{parent}/{name}", cube_len) for name in _names(folder, parent))
    return sorted(index for index in indices if index is not None)


def _names(folder: MagFolder, relative: str) -> list[str]:
    try:
        return folder.list(relative)
    except FileNotFoundError:
        return []


def _inside(within: Box | None, axis: int, number: int) -> bool:
    if within is None:
        return True
    start, end = tuple(within.offset)[axis], tuple(within.end)[axis]
    return start <= number < end
