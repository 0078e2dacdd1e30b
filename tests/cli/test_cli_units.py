"""Sizes, vectors and durations."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magd.cli.units import EXTENT, OFFSET, POWER_OF_TWO, VOXEL_SIZE, count, format_seconds, format_size, parse_size
from magd.geometry import Vec3


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1KiB", 1024),
        ("512MiB", 512 << 20),
        ("512 mib", 512 << 20),
        ("2G", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("100MB", 100_000_000),
        ("7b", 7),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1XB", "1 2", "0", "0.1", "1e3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (10240, "10.0 KiB"),
        (1048575, "1.00 MiB"),
        (5 << 30, "5.00 GiB"),
        (1 << 70, "1048576 PiB"),
    ],
)
def test_sizes_are_shown(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(min_value=1, max_value=2**60))
def test_a_size_that_was_shown_reads_as_nearly_the_same(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (42.4, "42 s"), (65, "1 min 5 s"), (7380, "2 h 3 min"), (90000, "1 d 1 h")],
)
def test_durations_are_shown(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_vectors_are_read() -> None:
    assert OFFSET.convert("10,20,30", None, None) == Vec3(10, 20, 30)
    assert OFFSET.convert("(0, 0, 0)", None, None) == Vec3(0, 0, 0)
    assert EXTENT.convert("64x64x32", None, None) == Vec3(64, 64, 32)
    assert VOXEL_SIZE.convert("11.24,11.24,28", None, None) == (11.24, 11.24, 28.0)


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "a,b,c", "1,2,-3", "1.5,2,3"])
def test_what_is_no_offset_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        OFFSET.convert(text, None, None)


@pytest.mark.parametrize("text", ["1,2", "0,1,1", "1,1,-1", "nan,1,1", "inf,1,1", "a,1,1"])
def test_what_is_no_voxel_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        VOXEL_SIZE.convert(text, None, None)


def test_an_extent_of_zero_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="below 1"):
        EXTENT.convert("0,1,1", None, None)


@pytest.mark.parametrize("text", ["0", "3", "256", "-2", "x", "2.0"])
def test_what_is_no_power_of_two_up_to_128_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        POWER_OF_TWO.convert(text, None, None)


def test_things_are_counted_with_the_right_ending() -> None:
    assert [count(1, "mag"), count(0, "mag"), count(2, "box", "boxes")] == ["1 mag", "0 mags", "2 boxes"]
    assert count(1234567, "voxel") == "1,234,567 voxels"
