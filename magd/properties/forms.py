"""How single values stand in datasource-properties.json, in both directions.

The file has been written by many programs over ten years, so reading is generous: every form that was ever
written is understood. Writing gives one form, the one that the `webknossos` package writes today. What cannot
be understood is a ValueError whose text says what was found; where it stood is for the caller to add.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Final, TypeAlias

from magd.geometry import BoundingBox, Box, Mag, Vec3
from magd.voxels import VOXEL_DTYPES, VoxelFormat

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object as `json` reads it."""

DEFAULT_UNIT: Final = "nanometer"
"""The unit of a scale without one."""

MAX_SEGMENT_ID: Final = 2**64 - 1
_MAX_JSON_INTEGER: Final = 2**53 - 1
"""JavaScript holds larger integers inexactly; they are written as text."""

_LONGEST: Final = sys.float_info.max
"""JSON has no limit for numbers; a length has to be one of floating point."""

MAX_DEPTH: Final = 100
"""How many lists and objects may lie in each other. What is deeper could be read, but not be copied or written again:
both go level by level into the stack."""

_ELEMENT_CLASS: Final = re.compile(r"(u?int|float)([1-9][0-9]{0,3})")
_ELEMENT_CLASS_ALIASES: Final = {"float": "float32", "double": "float64"}


def is_deeper(tree: object, levels: int) -> bool:
    """Whether lists and objects lie in each other more than so many times."""
    level = [tree]
    for _ in range(levels + 1):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    return bool(level)


def shown(value: object) -> str:
    """A value of the file as error texts show it: on one line, and short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def whole_number(value: object) -> int:
    """A whole number, also one that was written as `16.0`."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected a whole number, found {shown(value)}")


def read_vec3(value: object) -> Vec3:
    """Three whole numbers."""
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"expected three whole numbers, found {shown(value)}")
    return Vec3(*(whole_number(part) for part in value))


def read_bounding_box(value: object) -> BoundingBox:
    """`{topLeft, width, height, depth}`. A zero or negative extent on any axis means empty."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {shown(value)}")  # noqa: TRY004  # of a file, not of code
    missing = [key for key in ("topLeft", "width", "height", "depth") if key not in value]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    size = Vec3(*(whole_number(value[key]) for key in ("width", "height", "depth")))
    box = BoundingBox(read_vec3(value["topLeft"]), size)
    if box.is_empty:
        return BoundingBox.empty()
    problem = bounding_box_problem(box)
    if problem:
        raise ValueError(problem)
    return box


def bounding_box_problem(box: BoundingBox) -> str | None:
    """Why no layer that magd serves may have this bounding box, or None. An empty one is right."""
    return None if box.is_empty else Box(box.offset, box.size).problem()


def write_bounding_box(into: JsonObject, box: BoundingBox) -> None:
    """Set the extent in an object; other keys in it stay."""
    box = BoundingBox.empty() if box.is_empty else box
    into["topLeft"] = list(box.offset)
    into["width"], into["height"], into["depth"] = box.size


def read_mag(value: object) -> Mag:
    """`2`, `[2, 2, 1]`, `"2"` or `"2-2-1"`."""
    try:
        if isinstance(value, list):
            return Mag.of(list(read_vec3(value)))
        if isinstance(value, str):
            return Mag.of(value)
        return Mag.of(whole_number(value))
    except ValueError as error:
        raise ValueError(f"{shown(value)} is not a mag: {shortened(str(error))}") from None


def read_voxels(element_class: object, num_channels: object) -> VoxelFormat:
    """The voxels of a layer, from `elementClass` and `numChannels` (None where it is missing).

    An element class counts the bits of all channels together: three channels of uint8 are `uint24`. Without a
    number of channels it is one, or three where no single channel has so many bits. Files made by hand often
    name one channel instead; that is understood where the first reading gives nothing WKW has.
    """
    name = _ELEMENT_CLASS_ALIASES.get(element_class, element_class) if isinstance(element_class, str) else ""
    match = _ELEMENT_CLASS.fullmatch(name)
    if match is None:
        raise ValueError(f"elementClass {shown(element_class)} is not known")
    kind, bits = match[1], int(match[2])
    usual_channels = 1 if name in VOXEL_DTYPES else 3
    channels = usual_channels if num_channels is None else whole_number(num_channels)
    if channels < 1:
        raise ValueError(f"numChannels {channels} is below 1")
    shared = f"{kind}{bits // channels}"
    if bits % channels == 0 and shared in VOXEL_DTYPES:
        return VoxelFormat.of(shared, channels)
    if name in VOXEL_DTYPES:
        return VoxelFormat.of(name, channels)
    raise ValueError(f"elementClass {shown(element_class)} does not go with {channels} channels")


def element_class(voxels: VoxelFormat) -> str:
    """The `elementClass` of a layer with these voxels."""
    kind = {"u": "uint", "i": "int", "f": "float"}[voxels.dtype.kind]
    name = f"{kind}{voxels.bytes_per_voxel * 8}"
    return {written: alias for alias, written in _ELEMENT_CLASS_ALIASES.items()}.get(name, name)


def read_segment_id(value: object) -> int | None:
    """A segment id, as a number or as text marked `bigint`; None for what is no id, for instance -1."""
    if isinstance(value, dict) and value.get("customJsonEncoding") == "bigint":
        text = value.get("value")
        value = int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,20}", text) else None
    try:
        number = whole_number(value)
    except ValueError:
        return None
    return number if 0 <= number <= MAX_SEGMENT_ID else None


def write_segment_id(value: int) -> int | JsonObject:
    """A segment id for the file."""
    if value <= _MAX_JSON_INTEGER:
        return value
    return {"customJsonEncoding": "bigint", "value": str(value)}


def read_scale(value: object) -> tuple[float, float, float, str]:
    """`[x, y, z]`, or `{factor: [x, y, z], unit}`; a unit is kept as it is spelled."""
    factor, unit = value, DEFAULT_UNIT
    if isinstance(value, dict):
        factor, unit = value.get("factor"), value.get("unit", DEFAULT_UNIT)
        if not isinstance(unit, str):
            raise ValueError(f"unit {shown(unit)} is not text")  # noqa: TRY004  # of a file, not of code
    if not isinstance(factor, list) or len(factor) != 3:
        raise ValueError(f"expected three numbers, found {shown(factor)}")
    for part in factor:
        if not isinstance(part, int | float) or isinstance(part, bool) or not 0 < part <= _LONGEST:
            raise ValueError(f"{shown(part)} is not a length above 0")
    x, y, z = (float(part) for part in factor)
    return x, y, z, unit


def shortened(text: str) -> str:
    """A text of somebody else, short enough for an error."""
    return text if len(text) <= 160 else text[:157] + "..."


def name_problem(name: str) -> str | None:
    """Why no folder of a dataset or layer that magd serves can have this name, or None."""
    if not name:
        return "it is empty"
    if name.startswith("."):
        return "it starts with a dot"
    if "/" in name:
        return "it has a slash"
    return text_problem(name, limit=255)


def text_problem(text: str, *, limit: int) -> str | None:
    """Why a text can be no part of a path, or None.

    :param limit: bytes it may have
    """
    if "\0" in text:
        return "it has a NUL character"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if size > limit:
        return f"it has {size} bytes, more than {limit}"
    return None
