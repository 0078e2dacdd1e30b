"""Morton order, cube file indices and paths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magd.cubes.layout import (
    block_coordinates,
    cube_file_path,
    morton_index,
    parse_cube_file_path,
    parse_folder_name,
    split_by_cube_file,
)
from magd.geometry import Box, Vec3


def interleaved(x: int, y: int, z: int) -> int:
    """The Morton index by its definition, bit by bit."""
    return sum(
        ((value >> bit) & 1) << (3 * bit + axis)
        for axis, value in enumerate((x, y, z))
        for bit in range(value.bit_length())
    )


def test_the_morton_index_interleaves_bits_with_x_lowest() -> None:
    random = np.random.default_rng(1)
    x, y, z = random.integers(0, 128, (3, 500))
    expected = [interleaved(*place) for place in zip(x.tolist(), y.tolist(), z.tolist(), strict=True)]
    assert morton_index(x, y, z).tolist() == expected


def test_block_coordinates_are_the_inverse_of_the_morton_index() -> None:
    index = np.arange(16**3, dtype=np.int64)
    np.testing.assert_array_equal(morton_index(*block_coordinates(index)), index)
    last = np.array([128**3 - 1], dtype=np.int64)
    assert [axis.tolist() for axis in block_coordinates(last)] == [[127]] * 3


@given(st.tuples(*[st.integers(0, 40)] * 3), st.tuples(*[st.integers(1, 40)] * 3))
def test_the_parts_in_cube_files_cover_a_box_exactly(offset: tuple[int, ...], size: tuple[int, ...]) -> None:
    box = Box.of(offset, size)
    parts = list(split_by_cube_file(box, 16))
    assert sum(part.volume for _, part in parts) == box.volume
    assert all(Box(index * 16, Vec3.full(16)).contains(part) and box.contains(part) for index, part in parts)
    indices = [(index.z, index.y, index.x) for index, _ in parts]
    assert indices == sorted(set(indices))


@given(st.builds(Vec3, *[st.integers(0, 2**21)] * 3))
def test_a_path_is_parsed_back_to_its_index(index: Vec3) -> None:
    assert parse_cube_file_path(cube_file_path(index), 1) == index


def test_the_axes_of_a_path_are_z_y_x() -> None:
    assert cube_file_path(Vec3(1, 2, 3)) == "z3/y2/x1.wkw"


@pytest.mark.parametrize(
    "path",
    [
        "z0/y0/x0.wkw_tmp",
        "z0/y0/x0",
        "z0/y0/x00.wkw",
        "z00/y0/x0.wkw",
        "z0/y0/x-1.wkw",
        "z0/y0/x1 .wkw",
        "z0/y0/x\u0663.wkw",
        "z0/y0/y0.wkw",
        "y0/z0/x0.wkw",
        "/z0/y0/x0.wkw",
        "z0/y0/x0.wkw\n",
        "header.wkw",
        "",
    ],
)
def test_other_paths_are_those_of_no_cube_file(path: str) -> None:
    assert parse_cube_file_path(path, 32) is None


def test_a_cube_file_beyond_the_largest_coordinate_does_not_exist() -> None:
    assert parse_cube_file_path(f"z0/y0/x{2**21 - 1}.wkw", 1024) == Vec3(2**21 - 1, 0, 0)
    assert parse_cube_file_path(f"z0/y0/x{2**21}.wkw", 1024) is None


def test_folder_names_are_a_letter_and_a_number_without_padding() -> None:
    assert parse_folder_name("z10", "z") == 10
    assert parse_folder_name("y0", "y") == 0
    assert [parse_folder_name(name, "z") for name in ("y1", "z01", "z", "z1.", ".magd", "zz1")] == [None] * 6
