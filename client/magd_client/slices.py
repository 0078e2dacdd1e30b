"""What `mag[0:64, 0:64, 5]` means. Arithmetic only, no voxels are read here.

A key has one entry for each axis: (x, y, z), or (c, x, y, z) if there are several channels. Positions are
absolute, in voxels of the mag; the bounds are the bounding box, or the box of a view, whose corner is rarely 0.
That is why the conveniences of a list are errors here: a negative index would not count from the end.

1. Fill up to the number of axes: an ellipsis, or else the end of the key, stands for whole axes.
2. Turn each entry into a range: an index is a range of one voxel whose axis is dropped from the result; an open
   end of a slice is the end of the bounds.
3. Refuse what leaves the bounds, unless the caller can grow.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Final, SupportsIndex, TypeAlias

from magd.errors import InvalidRequest, OutOfBounds, Reason
from magd.geometry import MAX_COORDINATE, Box, Vec3

KeyPart: TypeAlias = "slice[Any, Any, Any] | SupportsIndex | EllipsisType"
Key: TypeAlias = "KeyPart | tuple[KeyPart, ...]"
"""What may stand between the brackets."""

_SPATIAL: Final = ("x", "y", "z")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a key selects."""

    box: Box
    """In voxels of the mag; may be empty."""
    channels: slice[int, int, None]
    """Of the voxels of the box."""
    all_channels: bool
    """Whether `channels` is every channel."""
    shape: tuple[int, ...]
    """Of the result: without dropped axes, and without the channel axis if there is one channel."""
    cut: tuple[int | slice[int, int, None], ...]
    """What turns an array (c, x, y, z) of the box, cut to `channels`, into the result."""


def select(key: Key, bounds: Box, num_channels: int, *, may_grow: bool = False) -> Selection:
    """Find out what a key selects.

    :param bounds: what open ends mean, in voxels of the mag; may be empty
    :param may_grow: whether ranges may leave the bounds; open ends then need bounds that are not empty
    :raises OutOfBounds: a negative position, a step, a range that leaves the bounds or runs backwards, too many
        axes
    :raises InvalidRequest: an entry is neither index, slice nor ellipsis
    """
    axes = _SPATIAL if num_channels == 1 else ("c", *_SPATIAL)
    starts = {"c": 0, **dict(zip(_SPATIAL, bounds.offset, strict=True))}
    ends = {"c": num_channels, **dict(zip(_SPATIAL, bounds.end, strict=True))}
    ranges = {"c": (0, num_channels)}
    cut: dict[str, int | slice[int, int, None]] = {"c": 0}
    shape: list[int] = []
    for axis, part in zip(axes, _filled(key, len(axes)), strict=True):
        start, stop = _range(axis, part, starts[axis], ends[axis], may_grow=may_grow and axis != "c")
        ranges[axis] = (start, stop)
        if isinstance(part, slice):
            shape.append(stop - start)
            cut[axis] = slice(0, stop - start)
        else:
            cut[axis] = 0
    lower = Vec3(*(ranges[axis][0] for axis in _SPATIAL))
    upper = Vec3(*(ranges[axis][1] for axis in _SPATIAL))
    return Selection(
        box=Box.between(lower, upper),
        channels=slice(*ranges["c"]),
        all_channels=ranges["c"] == (0, num_channels),
        shape=tuple(shape),
        cut=tuple(cut[axis] for axis in ("c", *_SPATIAL)),
    )


def _filled(key: Key, num_axes: int) -> list[slice[Any, Any, Any] | SupportsIndex]:
    parts = key if isinstance(key, tuple) else (key,)
    ellipses = sum(1 for part in parts if part is Ellipsis)
    if ellipses > 1:
        raise _out_of_bounds(key, "only one ellipsis has a meaning")
    missing = num_axes - (len(parts) - ellipses)
    if missing < 0:
        raise _out_of_bounds(key, f"{len(parts) - ellipses} axes given, there are {num_axes}")
    filled: list[slice[Any, Any, Any] | SupportsIndex] = []
    for part in parts if ellipses else (*parts, Ellipsis):
        if isinstance(part, EllipsisType):
            filled.extend([slice(None)] * missing)
        else:
            filled.append(part)
    return filled


def _range(
    axis: str,
    part: slice[Any, Any, Any] | SupportsIndex,
    lower: int,
    upper: int,
    *,
    may_grow: bool,
) -> tuple[int, int]:
    """The half-open range that one entry selects."""
    if not isinstance(part, slice):
        index = _whole(axis, part)
        if index < 0:
            raise _out_of_bounds(part, f"{axis} is negative: positions are absolute")
        if not may_grow and not lower <= index < upper:
            raise _out_of_bounds(part, f"{axis} is not in {lower}:{upper}")
        _check_end(axis, part, index + 1)
        return index, index + 1
    if part.step is not None and _whole(axis, part.step) != 1:
        raise _out_of_bounds(part, f"{axis} has a step")
    if may_grow and upper <= lower and (part.start is None or part.stop is None):
        raise _out_of_bounds(part, f"{axis} has an open end, but there is no data yet that would close it")
    start = lower if part.start is None else _whole(axis, part.start)
    stop = upper if part.stop is None else _whole(axis, part.stop)
    if start < 0 or stop < 0:
        raise _out_of_bounds(part, f"{axis} is negative: positions are absolute")
    if stop < start:
        raise _out_of_bounds(part, f"{axis} ends before it starts ({start}:{stop})")
    if not may_grow and not lower <= start <= stop <= upper:
        raise _out_of_bounds(part, f"{axis} leaves {lower}:{upper}")
    _check_end(axis, part, stop)
    return start, stop


def _check_end(axis: str, part: object, end: int) -> None:
    if end > MAX_COORDINATE:
        raise _out_of_bounds(part, f"{axis} ends beyond {MAX_COORDINATE}")


def _whole(axis: str, value: object) -> int:
    # Python takes True for 1, but as the position of a voxel it is a mistake.
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]  # what has no __index__ raises
        except TypeError:
            pass
    raise InvalidRequest(
        f"{axis} is {value!r}: a position is a whole number, a slice or an ellipsis",
        metadata={"field": axis, "value": value},
    )


def _out_of_bounds(part: object, why: str) -> OutOfBounds:
    written = f"[{_as_written(part)}]"
    return OutOfBounds(
        f"{written}: {why}",
        reason=Reason.OUTSIDE_BOUNDING_BOX,
        metadata={"field": "key", "value": written},
    )


def _as_written(part: object) -> str:
    if isinstance(part, tuple):
        return ", ".join(_as_written(entry) for entry in part)
    if isinstance(part, slice):
        ends = [part.start, part.stop] + ([] if part.step is None else [part.step])
        return ":".join("" if end is None else str(end) for end in ends)
    return "..." if part is Ellipsis else str(part)
