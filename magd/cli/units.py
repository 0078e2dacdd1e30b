"""Numbers as people read and type them: sizes in bytes, vectors, durations, and the click types that take them."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import click

from magd.geometry import Vec3

_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_FACTORS: Final[dict[str, int]] = {
    "": 1,
    "b": 1,
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", start=1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", start=1)},
    **{letter: 1024**power for power, letter in enumerate("kmgtp", start=1)},
}


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `2G` (powers of 1024), `100MB` (powers of 1000) or `4096`.

    :raises ValueError: it is none of these, or below 1
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size like 512MiB, 2GiB or 100MB")
    size = round(float(match[1]) * factor)
    if size < 1:
        raise ValueError(f"{text!r} is less than one byte")
    return size


def format_size(size: float) -> str:
    """`1.5 MiB`, with three digits that count."""
    step = 0 if size < 1024 else min(int(math.log(size, 1024)), len(_BINARY) - 1)
    value = size / 1024**step
    # 1023.9996 KiB would print as 1024 KiB.
    if step and round(value) >= 1024 and step < len(_BINARY) - 1:
        value, step = value / 1024, step + 1
    if step == 0:
        return f"{value:.0f} {_BINARY[0]}"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {_BINARY[step]}"


def format_seconds(seconds: float) -> str:
    """`0.42 s`, `1 min 5 s`, `2 h 3 min`, `4 d 1 h`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    for unit, part, unit_seconds, part_seconds in (
        ("d", "h", 86400, 3600),
        ("h", "min", 3600, 60),
        ("min", "s", 60, 1),
    ):
        if whole >= unit_seconds:
            return f"{whole // unit_seconds} {unit} {whole % unit_seconds // part_seconds} {part}"
    return f"{whole} s"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 cube file`, `3 cube files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _numbers(text: str) -> list[str]:
    return [part for part in re.split(r"[,x\s]+", text.strip().strip("()")) if part]


class SizeType(click.ParamType):
    """A number of bytes, such as 512MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Vec3Type(click.ParamType):
    """Three whole numbers, such as 10,20,30 or 64x64x32.

    :param least: the smallest number that is taken
    """

    name = "x,y,z"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Vec3:
        if isinstance(value, Vec3):
            return value
        try:
            vector = Vec3.of([int(part) for part in _numbers(value)])
        except ValueError:
            self.fail(f"{value!r} is not three whole numbers like 10,20,30", param, ctx)
        if min(vector) < self.least:
            self.fail(f"{value!r} has a component below {self.least}", param, ctx)
        return vector


class VoxelSizeType(click.ParamType):
    """Three numbers above 0, such as 11.24,11.24,28."""

    name = "x,y,z"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        if isinstance(value, tuple):
            return value
        try:
            x, y, z = (float(part) for part in _numbers(value))
        except ValueError:
            self.fail(f"{value!r} is not three numbers like 11.24,11.24,28", param, ctx)
        if not all(math.isfinite(number) and number > 0 for number in (x, y, z)):
            self.fail(f"{value!r} has a component that is not above 0", param, ctx)
        return (x, y, z)


class PowerOfTwoType(click.ParamType):
    """A power of two up to 128: what block_len and file_len can be."""

    name = "power of two"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = 0
        if not 1 <= number <= 128 or number & (number - 1):
            self.fail(f"{value!r} is not a power of two up to 128", param, ctx)
        return number


SIZE: Final = SizeType()
OFFSET: Final = Vec3Type(least=0)
EXTENT: Final = Vec3Type(least=1)
VOXEL_SIZE: Final = VoxelSizeType()
POWER_OF_TWO: Final = PowerOfTwoType()
