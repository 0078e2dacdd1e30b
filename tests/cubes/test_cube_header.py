"""The 16 bytes of header.wkw and of cube files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import wkw
from hypothesis import given, settings

from magd.cubes.header import HEADER_BYTES, BlockType, Header, read_header
from magd.errors import DataLoss, NotFound, Reason
from tests.cubes.oracle import headers, make_header, wkw_header

if TYPE_CHECKING:
    from pathlib import Path

GOOD = make_header("uint16", 3, 8, 4, BlockType.LZ4HC).to_bytes()


def with_byte(position: int, value: int) -> bytes:
    changed = bytearray(GOOD)
    changed[position] = value
    return bytes(changed)


@given(headers())
@settings(max_examples=60)
def test_a_header_is_what_its_bytes_say(header: Header) -> None:
    assert Header.parse(header.to_bytes(), file="header.wkw") == header
    placed = header.of_cube_file()
    assert Header.parse(placed.to_bytes(), file="x0.wkw") == placed


@given(header=headers())
@settings(max_examples=60, deadline=None)
def test_the_bytes_are_those_that_wkw_writes(tmp_path_factory: pytest.TempPathFactory, header: Header) -> None:
    folder = tmp_path_factory.mktemp("mag") / "1"
    wkw.Dataset.create(str(folder), wkw_header(header)).close()
    assert (folder / "header.wkw").read_bytes() == header.to_bytes()
    assert read_header(str(folder / "header.wkw")) == header


def test_every_length_from_1_to_128_is_kept() -> None:
    for exponent in range(8):
        header = make_header(block_len=1 << exponent, file_len=1 << (7 - exponent))
        assert Header.parse(header.to_bytes(), file="header.wkw") == header


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "ends after 0 of the 16 bytes"),
        (GOOD[:-1], "ends after 15 of the 16 bytes"),
        (b"NOT" + GOOD[3:], "starts with b'NOT'"),
        (with_byte(3, 2), "version 2"),
        (with_byte(4, 0x82), "file_len 256"),
        (with_byte(4, 0x28), "block_len 256"),
        (with_byte(5, 0), "block type 0"),
        (with_byte(5, 4), "block type 4"),
        (with_byte(6, 0), "dtype 0"),
        (with_byte(6, 11), "dtype 11"),
        (with_byte(7, 0), "0 bytes a voxel"),
        (with_byte(7, 3), "3 bytes a voxel"),
    ],
)
def test_bytes_that_no_wkw_file_has_are_damage_that_names_the_file(data: bytes, what: str) -> None:
    with pytest.raises(DataLoss, match=what) as caught:
        Header.parse(data, file="somewhere/x0.wkw")
    assert caught.value.reason is Reason.CORRUPT_CUBE_FILE
    assert caught.value.metadata["file"] == "somewhere/x0.wkw"


@pytest.mark.parametrize("length", [0, -2, 3, 100, 256])
def test_lengths_that_are_no_power_of_two_up_to_128_are_a_problem(length: int) -> None:
    assert make_header().problem() is None
    assert str(length) in str(make_header(block_len=length).problem())
    assert str(length) in str(make_header(file_len=length).problem())


def test_sizes_follow_from_the_lengths() -> None:
    header = make_header("uint16", 3, block_len=8, file_len=4)
    assert header.cube_len == 32
    assert header.blocks_per_file == 64
    assert header.block_bytes == 8**3 * 6
    assert header.raw_file_bytes == HEADER_BYTES + 32**3 * 6
    assert header.of_cube_file().data_offset == HEADER_BYTES
    assert header.of_cube_file(BlockType.LZ4).data_offset == HEADER_BYTES + 8 * 64


def test_layouts_are_equal_whatever_the_block_type() -> None:
    header = make_header("uint16", 3, 8, 4)
    assert header.has_layout_of(replace(header, block_type=BlockType.LZ4, data_offset=99))
    for other in (
        make_header("int16", 3, 8, 4),
        make_header("uint16", 2, 8, 4),
        make_header("uint16", 3, 4, 4),
        make_header("uint16", 3, 8, 8),
    ):
        assert not header.has_layout_of(other)


def test_a_header_file_that_does_not_exist_means_there_is_no_mag(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        read_header(str(tmp_path / "header.wkw"))
    assert caught.value.reason is Reason.MAG_NOT_FOUND


def test_a_header_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "header.wkw").mkdir()
    with pytest.raises(DataLoss, match=r"header\.wkw"):
        read_header(str(tmp_path / "header.wkw"))
