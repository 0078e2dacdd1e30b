"""What a user gives, as messages of magd.v1. The way back is `magd_client.answers`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from magd.acknowledgement import Durability, Revision
from magd.errors import InvalidRequest, Reason
from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, types_pb2, volume_pb2
from magd.voxels import VoxelFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from magd.geometry import BoundingBox, Box, Vec3
    from magd_client.settings import Encoding

DurabilityLike: TypeAlias = Durability | Literal["none", "process", "disk"]
Bounds: TypeAlias = Literal["extend", "reject"]
FlushLevel: TypeAlias = Literal["applied", "disk", "files"]
Level: TypeAlias = Literal["auto", "fast"] | int
"""How hard to compress: "auto", "fast", or an LZ4HC level from 3 to 12."""

SamplingMode: TypeAlias = Literal["anisotropic", "isotropic", "constant_z"]
"""Which coarser mags to build."""
DownsamplingMethod: TypeAlias = Literal["default", "median", "mean", "mode", "nearest"]
"""How the voxels of a coarser mag come from those of a finer one."""

_FLUSH_LEVELS: Final[dict[str, maintenance_pb2.FlushLevel]] = {
    "applied": maintenance_pb2.FLUSH_LEVEL_APPLIED,
    "disk": maintenance_pb2.FLUSH_LEVEL_DISK,
    "files": maintenance_pb2.FLUSH_LEVEL_FILES,
}
_SAMPLING_MODES: Final[Mapping[str, operation_pb2.SamplingMode]] = {
    "anisotropic": operation_pb2.SAMPLING_MODE_ANISOTROPIC,
    "isotropic": operation_pb2.SAMPLING_MODE_ISOTROPIC,
    "constant_z": operation_pb2.SAMPLING_MODE_CONSTANT_Z,
}
_DOWNSAMPLING_METHODS: Final[Mapping[str, operation_pb2.DownsamplingMethod]] = {
    "default": operation_pb2.DOWNSAMPLING_METHOD_UNSPECIFIED,
    "median": operation_pb2.DOWNSAMPLING_METHOD_MEDIAN,
    "mean": operation_pb2.DOWNSAMPLING_METHOD_MEAN,
    "mode": operation_pb2.DOWNSAMPLING_METHOD_MODE,
    "nearest": operation_pb2.DOWNSAMPLING_METHOD_NEAREST,
}
DATA_TYPES: Final[Mapping[str, types_pb2.DataType]] = {
    "uint8": types_pb2.DATA_TYPE_UINT8,
    "uint16": types_pb2.DATA_TYPE_UINT16,
    "uint32": types_pb2.DATA_TYPE_UINT32,
    "uint64": types_pb2.DATA_TYPE_UINT64,
    "int8": types_pb2.DATA_TYPE_INT8,
    "int16": types_pb2.DATA_TYPE_INT16,
    "int32": types_pb2.DATA_TYPE_INT32,
    "int64": types_pb2.DATA_TYPE_INT64,
    "float32": types_pb2.DATA_TYPE_FLOAT32,
    "float64": types_pb2.DATA_TYPE_FLOAT64,
}
DURABILITIES: Final[Mapping[Durability, types_pb2.Durability]] = {
    Durability.NONE: types_pb2.DURABILITY_NONE,
    Durability.PROCESS: types_pb2.DURABILITY_PROCESS,
    Durability.DISK: types_pb2.DURABILITY_DISK,
}
CATEGORIES: Final = {
    dataset_pb2.LAYER_CATEGORY_COLOR: "color",
    dataset_pb2.LAYER_CATEGORY_SEGMENTATION: "segmentation",
}


def vec3_to_proto(value: Vec3) -> types_pb2.Vec3:
    """A vector, of numbers that fit 32 bits."""
    return types_pb2.Vec3(x=value.x, y=value.y, z=value.z)


def box_to_proto(box: Box) -> types_pb2.Box:
    """A box that was checked with `Box.problem`."""
    return types_pb2.Box(offset=vec3_to_proto(box.offset), size=vec3_to_proto(box.size))


def bounding_box_to_proto(box: BoundingBox) -> types_pb2.BoundingBox:
    """A bounding box.

    :raises InvalidRequest: its numbers do not fit 32 bits
    """
    try:
        return types_pb2.BoundingBox(offset=vec3_to_proto(box.offset), size=vec3_to_proto(box.size))
    except ValueError:
        raise InvalidRequest(
            f"bounding box {box} does not fit 32 bits",
            reason=Reason.INVALID_BOX,
            metadata={"field": "bounding_box", "value": box},
        ) from None


def revision_to_proto(value: Revision | None) -> types_pb2.Revision | None:
    """A revision, if there is one."""
    return None if value is None else types_pb2.Revision(epoch=value.epoch, counter=value.counter)


def voxel_size_to_proto(size: Sequence[float], unit: str) -> dataset_pb2.VoxelSize:
    """The size of a mag-1 voxel.

    :raises InvalidRequest: it is not three numbers
    """
    try:
        x, y, z = (float(extent) for extent in size)
    except (TypeError, ValueError):
        raise _invalid("voxel_size", size, "three numbers (x, y, z)") from None
    return dataset_pb2.VoxelSize(x=x, y=y, z=z, unit=unit)


def voxel_format_of(dtype: npt.DTypeLike, num_channels: int) -> VoxelFormat:
    """What one voxel is, of what a user gave.

    :raises InvalidRequest: WKW has no such dtype, or not so many channels
    """
    try:
        return VoxelFormat.of(dtype, num_channels)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            str(error), metadata={"field": "dtype", "value": dtype, "num_channels": num_channels}
        ) from None


def data_type_to_proto(dtype: str) -> types_pb2.DataType:
    """The data type of a name that `VoxelFormat` accepts."""
    return DATA_TYPES[dtype]


def category_to_proto(category: str) -> dataset_pb2.LayerCategory:
    """A layer's category.

    :raises InvalidRequest: there is none of this name
    """
    for number, name in CATEGORIES.items():
        if name == category:
            return number
    raise _invalid("category", category, "'color' or 'segmentation'")


def durability_of(value: DurabilityLike) -> Durability:
    """A durability, of what a user gave.

    :raises InvalidRequest: there is none of this name
    """
    if isinstance(value, Durability):
        return value
    if value in ("none", "process", "disk"):
        return Durability[value.upper()]
    raise _invalid("durability", value, "'none', 'process' or 'disk'")


def encoding_of(value: str) -> Encoding:
    """An encoding, of what a user gave.

    :raises InvalidRequest: there is none of this name
    """
    if value not in ("auto", "raw", "lz4"):
        raise _invalid("encoding", value, "'auto', 'raw' or 'lz4'")
    return cast("Encoding", value)


def durability_to_proto(value: Durability) -> types_pb2.Durability:
    """A durability."""
    return DURABILITIES[value]


def bounds_to_proto(value: Bounds) -> volume_pb2.Bounds:
    """What to do outside of the bounding box.

    :raises InvalidRequest: it is neither "extend" nor "reject"
    """
    if value not in ("extend", "reject"):
        raise _invalid("bounds", value, "'extend' or 'reject'")
    return volume_pb2.BOUNDS_EXTEND if value == "extend" else volume_pb2.BOUNDS_REJECT


def flush_level_to_proto(value: FlushLevel) -> maintenance_pb2.FlushLevel:
    """How far to flush.

    :raises InvalidRequest: there is no such level
    """
    if value not in _FLUSH_LEVELS:
        raise _invalid("level", value, "'applied', 'disk' or 'files'")
    return _FLUSH_LEVELS[value]


def sampling_mode_to_proto(value: SamplingMode) -> operation_pb2.SamplingMode:
    """Which coarser mags to build.

    :raises InvalidRequest: there is no such mode
    """
    if value not in _SAMPLING_MODES:
        raise _invalid("sampling_mode", value, "'anisotropic', 'isotropic' or 'constant_z'")
    return _SAMPLING_MODES[value]


def downsampling_method_to_proto(value: DownsamplingMethod) -> operation_pb2.DownsamplingMethod:
    """How to make coarser voxels.

    :raises InvalidRequest: there is no such method
    """
    if value not in _DOWNSAMPLING_METHODS:
        raise _invalid("method", value, "'default', 'median', 'mean', 'mode' or 'nearest'")
    return _DOWNSAMPLING_METHODS[value]


def compression_level_to_proto(value: Level) -> operation_pb2.CompressionLevel:
    """How hard to compress.

    :raises InvalidRequest: it is neither "auto", "fast" nor a whole number
    """
    if value == "auto":
        return operation_pb2.CompressionLevel(auto=True)
    if value == "fast":
        return operation_pb2.CompressionLevel(fast=True)
    try:
        return operation_pb2.CompressionLevel(high=value)
    except (TypeError, ValueError):
        raise _invalid("level", value, "'auto', 'fast' or a number from 3 to 12") from None


def int32(field: str, value: int) -> int:
    """A whole number that a message can hold.

    :raises InvalidRequest: it cannot
    """
    if not -(1 << 31) <= value < 1 << 31:
        raise _invalid(field, value, "a number of 32 bits")
    return int(value)


def uint64(field: str, value: int) -> int:
    """A whole number that a message can hold.

    :raises InvalidRequest: it cannot
    """
    if not 0 <= value < 1 << 64:
        raise _invalid(field, value, "a number from 0 to 2^64 - 1")
    return int(value)


def json_object_to_text(value: Mapping[str, Any] | None) -> str:
    """A JSON object as text; None as the empty text, which removes it."""
    return "" if value is None else json.dumps(value)


def _invalid(field: str, value: object, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field} {value!r} is not {expected}",
        metadata={"field": field, "value": value, "expected": expected},
    )
