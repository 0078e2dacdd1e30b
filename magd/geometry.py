"""Vectors, boxes, bounding boxes and mags: the coordinates everything else speaks.

Two kinds of boxes exist, as two types. A `Box` counts voxels of one mag. A `BoundingBox` is the extent of a layer in
mag-1 voxels. They are converted only by `BoundingBox.in_mag`, which enlarges outward, and `Box.in_mag_1`. The
semantics (half-open, xyz, absolute, union with an empty box) are those of WEBKNOSSOS.

This module imports nothing of magd; server and client share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

MAX_COORDINATE: Final = 2**31 - 1
"""The largest end of a box on any axis: WEBKNOSSOS stores coordinates in 32 bits."""


@dataclass(frozen=True, slots=True, order=True)
class Vec3:
    """Three integers along x, y and z."""

    x: int
    y: int
    z: int

    @classmethod
    def of(cls, value: Vec3Like) -> Vec3:
        """Make a vector of anything that holds three whole numbers.

        :raises ValueError: it does not hold exactly three, or one of them is not a whole number
        """
        if isinstance(value, Vec3):
            return value
        parts = tuple(value)
        if len(parts) != 3:
            raise ValueError(f"expected three numbers (x, y, z), got {value!r}")
        x, y, z = (_whole(part, value) for part in parts)
        return cls(x, y, z)

    @classmethod
    def full(cls, value: int) -> Vec3:
        """The vector with the same value on each axis."""
        return cls(value, value, value)

    def __iter__(self) -> Iterator[int]:
        yield self.x
        yield self.y
        yield self.z

    def __add__(self, other: Vec3) -> Vec3:
        return Vec3(self.x + other.x, self.y + other.y, self.z + other.z)

    def __sub__(self, other: Vec3) -> Vec3:
        return Vec3(self.x - other.x, self.y - other.y, self.z - other.z)

    def __mul__(self, other: Vec3 | int) -> Vec3:
        x, y, z = (other.x, other.y, other.z) if isinstance(other, Vec3) else (other, other, other)
        return Vec3(self.x * x, self.y * y, self.z * z)

    def __floordiv__(self, other: Vec3 | int) -> Vec3:
        x, y, z = (other.x, other.y, other.z) if isinstance(other, Vec3) else (other, other, other)
        return Vec3(self.x // x, self.y // y, self.z // z)

    def ceildiv(self, other: Vec3 | int) -> Vec3:
        """Divide, rounding up."""
        x, y, z = (other.x, other.y, other.z) if isinstance(other, Vec3) else (other, other, other)
        return Vec3(-(-self.x // x), -(-self.y // y), -(-self.z // z))

    def min(self, other: Vec3) -> Vec3:
        """The smaller component on each axis."""
        return Vec3(min(self.x, other.x), min(self.y, other.y), min(self.z, other.z))

    def max(self, other: Vec3) -> Vec3:
        """The larger component on each axis."""
        return Vec3(max(self.x, other.x), max(self.y, other.y), max(self.z, other.z))

    @property
    def volume(self) -> int:
        """The product of the components."""
        return self.x * self.y * self.z

    def __str__(self) -> str:
        return f"({self.x}, {self.y}, {self.z})"


Vec3Like: TypeAlias = Vec3 | Sequence[int]
"""A `Vec3`, or any sequence of three whole numbers."""

ORIGIN: Final = Vec3(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box [offset, offset + size) in voxels of the addressed mag."""

    offset: Vec3
    size: Vec3

    @classmethod
    def of(cls, offset: Vec3Like, size: Vec3Like) -> Box:
        """Make a box of two vectors.

        :raises ValueError: one of them is not three whole numbers
        """
        return cls(Vec3.of(offset), Vec3.of(size))

    @classmethod
    def between(cls, start: Vec3, end: Vec3) -> Box:
        """The box from `start` up to, without, `end`."""
        return cls(start, end - start)

    @property
    def end(self) -> Vec3:
        """The first voxel beyond the box on each axis."""
        return self.offset + self.size

    @property
    def is_empty(self) -> bool:
        """Whether it holds no voxel."""
        return self.size.x <= 0 or self.size.y <= 0 or self.size.z <= 0

    @property
    def volume(self) -> int:
        """Number of voxels; 0 if it is empty."""
        return 0 if self.is_empty else self.size.volume

    def problem(self) -> str | None:
        """Why no request may have this box, or None: offset below 0, size below 1, end beyond 2^31 - 1."""
        offset, size = self.offset, self.size
        if offset.x < 0 or offset.y < 0 or offset.z < 0:
            return f"offset {offset} is negative"
        if size.x < 1 or size.y < 1 or size.z < 1:
            return f"size {size} is below 1"
        if max(offset.x + size.x, offset.y + size.y, offset.z + size.z) > MAX_COORDINATE:
            return f"end {self.end} is beyond {MAX_COORDINATE}"
        return None

    def contains(self, other: Box) -> bool:
        """Whether all of `other` lies inside."""
        return _lies_inside(other, self)

    def intersects(self, other: Box) -> bool:
        """Whether they share a voxel."""
        a, b, c, d = self.offset, self.size, other.offset, other.size
        return (
            a.x < c.x + d.x
            and c.x < a.x + b.x
            and a.y < c.y + d.y
            and c.y < a.y + b.y
            and a.z < c.z + d.z
            and c.z < a.z + b.z
        )

    def intersection(self, other: Box) -> Box:
        """The voxels of both; may be empty."""
        start = self.offset.max(other.offset)
        return Box.between(start, self.end.min(other.end).max(start))

    def union(self, other: Box) -> Box:
        """The smallest box around both; an empty one does not count."""
        if self.is_empty:
            return other
        if other.is_empty:
            return self
        return Box.between(self.offset.min(other.offset), self.end.max(other.end))

    def aligned_outward(self, grid: Vec3 | int) -> Box:
        """The smallest box around it whose corners lie on a grid of this spacing."""
        step = grid if isinstance(grid, Vec3) else Vec3.full(grid)
        # Component by component: each write does this several times, and vectors in between are most of its time.
        offset, size = self.offset, self.size
        x, y, z = offset.x // step.x * step.x, offset.y // step.y * step.y, offset.z // step.z * step.z
        return Box(
            Vec3(x, y, z),
            Vec3(
                -(-(offset.x + size.x) // step.x) * step.x - x,
                -(-(offset.y + size.y) // step.y) * step.y - y,
                -(-(offset.z + size.z) // step.z) * step.z - z,
            ),
        )

    def split(self, grid: Vec3 | int) -> Iterator[Box]:
        """Cut it along a grid of this spacing; the pieces come in (z, y, x) order."""
        step = grid if isinstance(grid, Vec3) else Vec3.full(grid)
        if self.is_empty:
            return
        first, last = self.offset // step, self.end.ceildiv(step)
        for z in range(first.z, last.z):
            for y in range(first.y, last.y):
                for x in range(first.x, last.x):
                    yield self.intersection(Box(Vec3(x, y, z) * step, step))

    def in_mag_1(self, mag: Mag) -> BoundingBox:
        """The same extent in mag-1 voxels, for a box that counts voxels of `mag`."""
        return BoundingBox(self.offset * mag.factor, self.size * mag.factor)

    def __str__(self) -> str:
        return f"{self.offset}+{self.size}"


@dataclass(frozen=True, slots=True)
class BoundingBox:
    """The extent of a layer in mag-1 voxels, half-open. A size of 0 on any axis means no data yet."""

    offset: Vec3
    size: Vec3

    @classmethod
    def of(cls, offset: Vec3Like, size: Vec3Like) -> BoundingBox:
        """Make a bounding box of two vectors.

        :raises ValueError: one of them is not three whole numbers
        """
        return cls(Vec3.of(offset), Vec3.of(size))

    @classmethod
    def empty(cls) -> BoundingBox:
        """The bounding box of a layer without data."""
        return cls(ORIGIN, ORIGIN)

    @property
    def end(self) -> Vec3:
        """The first mag-1 voxel beyond it on each axis."""
        return self.offset + self.size

    @property
    def is_empty(self) -> bool:
        """Whether the layer holds no data: a zero or negative extent on any axis."""
        return self.size.x <= 0 or self.size.y <= 0 or self.size.z <= 0

    def contains(self, other: BoundingBox) -> bool:
        """Whether all of `other` lies inside; an empty one always does."""
        if other.is_empty:
            return True
        if self.is_empty:
            return False
        return _lies_inside(other, self)

    def union(self, other: BoundingBox) -> BoundingBox:
        """The smallest bounding box around both; an empty one does not count."""
        if self.is_empty:
            return other
        if other.is_empty:
            return self
        start = self.offset.min(other.offset)
        return BoundingBox(start, self.end.max(other.end) - start)

    def in_mag(self, mag: Mag) -> Box:
        """The voxels of `mag` that it touches, enlarged outward; an empty box at the origin if it is empty."""
        if self.is_empty:
            return Box(ORIGIN, ORIGIN)
        return Box.between(self.offset // mag.factor, self.end.ceildiv(mag.factor))

    def __str__(self) -> str:
        return f"{self.offset}+{self.size} in mag 1"


@dataclass(frozen=True, slots=True)
class Mag:
    """A magnification: the downsampling factor along each axis, each a power of two."""

    factor: Vec3

    @classmethod
    def of(cls, value: MagLike) -> Mag:
        """Make a mag of `1`, `"1"`, `"2-2-1"` or `(2, 2, 1)`.

        :raises ValueError: it is none of these, or a factor is not a power of two
        """
        if isinstance(value, Mag):
            return value
        if isinstance(value, int):
            factor = Vec3.full(value)
        elif isinstance(value, str):
            parts = value.split("-")
            if not all(part.isascii() and part.isdecimal() for part in parts) or len(parts) not in (1, 3):
                raise ValueError(f"mag {value!r} is neither like '2' nor like '2-2-1'")
            numbers = [int(part) for part in parts]
            factor = Vec3.full(numbers[0]) if len(numbers) == 1 else Vec3.of(numbers)
        else:
            factor = Vec3.of(value)
        for component in factor:
            if component < 1 or component > MAX_COORDINATE or component & (component - 1):
                raise ValueError(f"mag {value!r}: {component} is not a power of two")
        return cls(factor)

    @property
    def name(self) -> str:
        """The short folder name: `"2"` where the factors are equal, else `"2-2-1"`."""
        x, y, z = self.factor
        return str(x) if x == y == z else f"{x}-{y}-{z}"

    @property
    def long_name(self) -> str:
        """The long folder name: `"2-2-2"`."""
        return "-".join(str(component) for component in self.factor)

    @property
    def sort_key(self) -> tuple[int, Vec3]:
        """Finest first."""
        return (self.factor.volume, self.factor)

    def __str__(self) -> str:
        return self.name


MagLike: TypeAlias = Mag | int | str | Sequence[int]
"""A `Mag`, or `2`, `"2"`, `"2-2-1"`, `(2, 2, 1)`."""


def _lies_inside(inner: Box | BoundingBox, outer: Box | BoundingBox) -> bool:
    # Asked for every box that is read or written, so without vectors in between.
    a, b, c, d = inner.offset, inner.size, outer.offset, outer.size
    return (
        c.x <= a.x
        and a.x + b.x <= c.x + d.x
        and c.y <= a.y
        and a.y + b.y <= c.y + d.y
        and c.z <= a.z
        and a.z + b.z <= c.z + d.z
    )


def _whole(part: object, of: object) -> int:
    try:
        index = part.__index__()  # type: ignore[attr-defined]  # numpy integers have it, floats do not
    except AttributeError:
        raise ValueError(f"expected whole numbers, got {part!r} in {of!r}") from None
    return int(index)
