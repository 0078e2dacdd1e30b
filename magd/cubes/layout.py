"""Where voxels lie: which cube file, which block in it, and in what order blocks follow each other.

Cube file (i, j, k) holds the voxels from (i, j, k) * cube_len on and has the path `z{k}/y{j}/x{i}.wkw` in the
folder of the mag. Its blocks lie in Morton order: bit n of a block's x, y and z coordinate is bit 3n, 3n + 1
and 3n + 2 of its index. So an aligned cube of 2^n blocks an edge is one contiguous run.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from magd.cubes.header import MAX_LEN
from magd.geometry import MAX_COORDINATE, Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterable

IntArray: TypeAlias = npt.NDArray[np.int64]

_BITS: Final = MAX_LEN.bit_length() - 1
# Coordinate -> its bits, two zeros between each.
_SPREAD: Final[IntArray] = sum(
    (((np.arange(MAX_LEN, dtype=np.int64) >> bit) & 1) << (3 * bit) for bit in range(_BITS)),
    start=np.zeros(MAX_LEN, dtype=np.int64),
)
_SPREAD_NUMBERS: Final[list[int]] = _SPREAD.tolist()
_NUMBER: Final = "(0|[1-9][0-9]{0,9})"
_PATH: Final = re.compile(rf"z{_NUMBER}/y{_NUMBER}/x{_NUMBER}\.wkw", re.ASCII)
_FOLDER: Final = re.compile(rf"[zy]{_NUMBER}", re.ASCII)


def morton_index(x: IntArray, y: IntArray, z: IntArray) -> IntArray:
    """The place of blocks in their cube file.

    :param x, y, z: block coordinates in the cube file, each from 0 to 127, of shapes that broadcast
    """
    return _SPREAD[x] | (_SPREAD[y] << 1) | (_SPREAD[z] << 2)


def spread_bits(first: int, count: int) -> list[int]:
    """The bits of block coordinates along x as they lie in Morton indices; along y and z: one and two bits higher.

    :param first: the first coordinate
    :param count: how many coordinates from there on
    """
    return _SPREAD_NUMBERS[first : first + count]


def block_coordinates(index: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """The inverse of `morton_index`: x, y and z of blocks in their cube file."""
    axes = []
    for axis in range(3):
        coordinate = np.zeros_like(index)
        for bit in range(_BITS):
            coordinate |= ((index >> (3 * bit + axis)) & 1) << bit
        axes.append(coordinate)
    return axes[0], axes[1], axes[2]


def split_by_cube_file(box: Box, cube_len: int) -> Iterable[tuple[Vec3, Box]]:
    """The cube files that a box touches, in (z, y, x) order.

    :return: index of the cube file, and the part of the box in it, in voxels of the mag
    """
    offset, size = box.offset, box.size
    x, y, z = offset.x // cube_len, offset.y // cube_len, offset.z // cube_len
    if (
        0 < size.x <= (x + 1) * cube_len - offset.x
        and 0 < size.y <= (y + 1) * cube_len - offset.y
        and 0 < size.z <= (z + 1) * cube_len - offset.z
    ):
        return ((_index(x, y, z), box),)  # most small boxes: nothing to cut
    return ((part.offset // cube_len, part) for part in box.split(cube_len))


_index = lru_cache(maxsize=256)(Vec3)  # small boxes mostly come to the same few


def box_of_cube_file(index: Vec3, cube_len: int) -> Box:
    """All voxels of a cube file, in voxels of the mag."""
    return Box(index * cube_len, Vec3.full(cube_len))


def cube_file_path(index: Vec3) -> str:
    """The path of a cube file relative to the folder of the mag."""
    return f"z{index.z}/y{index.y}/x{index.x}.wkw"


def parse_cube_file_path(path: str, cube_len: int) -> Vec3 | None:
    """The inverse of `cube_file_path`; None if no cube file of a mag with this cube_len has the path."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    index = Vec3(int(match[3]), int(match[2]), int(match[1]))
    return index if max(index) * cube_len < MAX_COORDINATE else None


def parse_folder_name(name: str, axis: str) -> int | None:
    """The number in the name of a folder of cube files; None if it is something else.

    :param axis: "z" or "y"
    """
    match = _FOLDER.fullmatch(name)
    return int(match[1]) if match is not None and name[0] == axis else None
