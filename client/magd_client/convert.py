"""Between the messages of magd.v1 and the values a user sees."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.errors import InvalidRequest, Reason
from magd.geometry import BoundingBox, Box, Mag, Vec3
from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, types_pb2, volume_pb2, watch_pb2
from magd.voxels import VoxelFormat
from magd_client import info

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from google.protobuf.timestamp_pb2 import Timestamp

    from magd_client.settings import Encoding

DurabilityLike: TypeAlias = Durability | Literal["none", "process", "disk"]
Bounds: TypeAlias = Literal["extend", "reject"]
FlushLevel: TypeAlias = Literal["disk", "files"]
Level: TypeAlias = Literal["auto", "fast"] | int
"""How hard to compress: "auto", "fast", or an LZ4HC level from 3 to 12."""

SamplingMode: TypeAlias = Literal["anisotropic", "isotropic", "constant_z"]
"""Which coarser mags to build."""
DownsamplingMethod: TypeAlias = Literal["default", "median", "mean", "mode", "nearest"]
"""How the voxels of a coarser mag come from those of a finer one."""

_BLOCK_TYPES: Final = {
    types_pb2.BLOCK_TYPE_RAW: "raw",
    types_pb2.BLOCK_TYPE_LZ4: "lz4",
    types_pb2.BLOCK_TYPE_LZ4HC: "lz4hc",
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
_DATA_TYPES: Final[Mapping[str, types_pb2.DataType]] = {
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
_DURABILITIES: Final[Mapping[Durability, types_pb2.Durability]] = {
    Durability.NONE: types_pb2.DURABILITY_NONE,
    Durability.PROCESS: types_pb2.DURABILITY_PROCESS,
    Durability.DISK: types_pb2.DURABILITY_DISK,
}
_CATEGORIES: Final = {
    dataset_pb2.LAYER_CATEGORY_COLOR: "color",
    dataset_pb2.LAYER_CATEGORY_SEGMENTATION: "segmentation",
}


# To messages.


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
    return _DATA_TYPES[dtype]


def category_to_proto(category: str) -> dataset_pb2.LayerCategory:
    """A layer's category.

    :raises InvalidRequest: there is none of this name
    """
    for number, name in _CATEGORIES.items():
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
    return _DURABILITIES[value]


def bounds_to_proto(value: Bounds) -> volume_pb2.Bounds:
    """What to do outside of the bounding box.

    :raises InvalidRequest: it is neither "extend" nor "reject"
    """
    if value not in ("extend", "reject"):
        raise _invalid("bounds", value, "'extend' or 'reject'")
    return volume_pb2.BOUNDS_EXTEND if value == "extend" else volume_pb2.BOUNDS_REJECT


def flush_level_to_proto(value: FlushLevel) -> maintenance_pb2.FlushLevel:
    """How far to flush.

    :raises InvalidRequest: it is neither "disk" nor "files"
    """
    if value not in ("disk", "files"):
        raise _invalid("level", value, "'disk' or 'files'")
    return maintenance_pb2.FLUSH_LEVEL_DISK if value == "disk" else maintenance_pb2.FLUSH_LEVEL_FILES


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


# From messages.


def vec3(value: types_pb2.Vec3) -> Vec3:
    """A vector."""
    return Vec3(value.x, value.y, value.z)


def box(value: types_pb2.Box) -> Box:
    """A box, in voxels of the mag it came with."""
    return Box(vec3(value.offset), vec3(value.size))


def bounding_box(value: types_pb2.BoundingBox) -> BoundingBox:
    """A bounding box."""
    return BoundingBox(vec3(value.offset), vec3(value.size))


def revision(value: types_pb2.Revision) -> Revision:
    """A revision."""
    return Revision(value.epoch, value.counter)


def durability(value: types_pb2.Durability) -> Durability:
    """A durability; the lowest if it is not said."""
    for known, number in _DURABILITIES.items():
        if number == value:
            return known
    return Durability.NONE


def acknowledgement(value: volume_pb2.WriteBoxResponse) -> Acknowledgement:
    """The acknowledgement of a write."""
    return Acknowledgement(revision(value.revision), durability(value.durability))


def dtype_name(value: types_pb2.DataType) -> str:
    """The name of a data type; empty if it is not said, or newer than this client."""
    for name, number in _DATA_TYPES.items():
        if number == value:
            return name
    return ""


def voxel_format(header: volume_pb2.ReadBoxResponse) -> VoxelFormat:
    """What the voxels of a box are."""
    return VoxelFormat.of(dtype_name(header.data_type), header.num_channels)


def mag_info(value: dataset_pb2.Mag) -> info.MagInfo:
    """A mag."""
    return info.MagInfo(
        name=value.name,
        mag=Mag(vec3(value.factor)),
        block_len=value.block_len,
        file_len=value.file_len,
        block_type=_BLOCK_TYPES.get(value.block_type, ""),
        dtype=dtype_name(value.data_type),
        num_channels=value.num_channels,
        bounding_box=box(value.bounding_box),
        revision=revision(value.revision) if value.HasField("revision") else None,
        generation=value.generation,
        unserved_reason=value.unserved_reason,
        folder=value.folder,
    )


def layer_info(value: dataset_pb2.Layer) -> info.LayerInfo:
    """A layer."""
    return info.LayerInfo(
        name=value.name,
        category=_CATEGORIES.get(value.category, ""),
        dtype=dtype_name(value.data_type),
        num_channels=value.num_channels,
        bounding_box=bounding_box(value.bounding_box),
        mags=tuple(mag_info(mag) for mag in value.mags),
        largest_segment_id=value.largest_segment_id if value.HasField("largest_segment_id") else None,
        default_view_configuration=_json_object(value.default_view_configuration_json),
        data_format=value.data_format,
        etag=value.etag,
        unserved_reason=value.unserved_reason,
    )


def dataset_info(value: dataset_pb2.Dataset) -> info.DatasetInfo:
    """A dataset."""
    size = value.voxel_size
    return info.DatasetInfo(
        name=value.name,
        voxel_size=(size.x, size.y, size.z),
        unit=size.unit,
        layers=tuple(layer_info(layer) for layer in value.layers),
        default_view_configuration=_json_object(value.default_view_configuration_json),
        etag=value.etag,
        unserved_reason=value.unserved_reason,
    )


def cube_file(value: dataset_pb2.CubeFile) -> info.CubeFile:
    """A cube file."""
    return info.CubeFile(
        box=box(value.box),
        size_bytes=value.size_bytes,
        allocated_bytes=value.allocated_bytes,
        block_type=_BLOCK_TYPES.get(value.block_type, ""),
        pending=value.pending,
        path=value.path,
    )


def operation_info(value: operation_pb2.Operation) -> info.OperationInfo:
    """An operation."""
    progress, error = value.progress, value.error
    problem = info.OperationProblem(error.code, error.reason, error.message, dict(error.metadata))
    state = _lower_name(operation_pb2.OperationState, value.state, "OPERATION_STATE_")
    return info.OperationInfo(
        name=value.name,
        kind=_lower_name(operation_pb2.OperationKind, value.kind, "OPERATION_KIND_"),
        resource=value.resource,
        state=cast("info.OperationState", state),
        progress=info.Progress(
            files_total=progress.files_total,
            files_done=progress.files_done,
            bytes_in=progress.bytes_in,
            bytes_out=progress.bytes_out,
            files_redone=progress.files_redone,
            bytes_total=progress.bytes_total,
            bytes_done=progress.bytes_done,
        ),
        result=value.result,
        problem=problem if value.HasField("error") else None,
        create_time=_time(value.create_time) if value.HasField("create_time") else None,
        end_time=_time(value.end_time) if value.HasField("end_time") else None,
        statistics=_statistics(value.statistics) if value.HasField("statistics") else None,
    )


def _statistics(value: operation_pb2.OperationStatistics) -> info.OperationStatistics:
    return info.OperationStatistics(
        zero_blocks=value.zero_blocks,
        stored_blocks=value.stored_blocks,
        fast_blocks=value.fast_blocks,
        high_blocks=value.high_blocks,
        respliced_blocks=value.respliced_blocks,
        raw_bytes=value.raw_bytes,
        stored_bytes=value.stored_bytes,
        seconds=value.seconds,
        longest_hold_seconds=value.longest_hold_seconds,
        note=value.note,
    )


def server_info(value: maintenance_pb2.GetServerInfoResponse) -> info.ServerInfo:
    """What a daemon is."""
    limits = value.limits
    return info.ServerInfo(
        version=value.version,
        capabilities=tuple(value.capabilities),
        limits=info.Limits(
            max_box_bytes=limits.max_box_bytes,
            max_message_bytes=limits.max_message_bytes,
            part_bytes=limits.part_bytes,
            budget_bytes=limits.budget_bytes,
            min_durability=durability(limits.min_durability),
            request_id_window_seconds=limits.request_id_window_seconds,
            max_boxes_in_flight=limits.max_boxes_in_flight,
            min_rate_bytes_per_second=limits.min_rate_bytes_per_second,
            shared_memory_bytes=limits.shared_memory_bytes,
        ),
        read_only=value.read_only,
        boot_id=value.boot_id,
    )


def server_status(value: maintenance_pb2.GetStatusResponse) -> info.ServerStatus:
    """What a daemon is doing."""
    return info.ServerStatus(
        mags=tuple(mag_status(mag) for mag in value.mags),
        budget_used_bytes=value.budget_used_bytes,
        budget_bytes=value.budget_bytes,
        budget_waiting=value.budget_waiting,
        operations_running=value.operations_running,
        uptime_seconds=value.uptime_seconds,
    )


def check_progress(value: maintenance_pb2.CheckResponse) -> info.CheckProgress:
    """A step of a check."""
    return info.CheckProgress(
        findings=tuple(_finding(finding) for finding in value.findings),
        files_checked=value.files_checked,
        files_damaged=value.files_damaged,
        removed=tuple(value.removed),
    )


def event(value: watch_pb2.WatchResponse) -> info.Event | None:
    """An event; None for one that this client does not know, and for the first message."""
    match value.WhichOneof("event"):
        case "commit":
            commit = value.commit
            return info.CommitEvent(commit.name, box(commit.box), revision(commit.revision))
        case "exchange":
            return info.ExchangeEvent(value.exchange.name, value.exchange.generation)
        case "properties":
            return info.PropertiesEvent(dataset_info(value.properties.dataset))
        case "operation":
            return info.OperationEvent(operation_info(value.operation.operation))
        case _:
            return None


def _finding(value: maintenance_pb2.Finding) -> info.Finding:
    severity = _lower_name(maintenance_pb2.FindingSeverity, value.severity, "FINDING_SEVERITY_")
    return info.Finding(value.file, cast("info.Severity", severity), value.message)


def mag_status(value: maintenance_pb2.MagStatus) -> info.MagStatus:
    """How a mag in use is doing."""
    state = _lower_name(maintenance_pb2.MagState, value.state, "MAG_STATE_")
    return info.MagStatus(
        name=value.name,
        state=cast("info.MagState", state),
        reason=value.reason,
        queue=value.queue,
        running=value.running,
        revision=revision(value.revision) if value.HasField("revision") else None,
        unsynced_bytes=value.unsynced_bytes,
        operation=value.operation,
        writes=value.writes,
        reads=value.reads,
        warnings=tuple(value.warnings),
    )


def _lower_name(enum: Any, number: int, prefix: str) -> str:
    """The name of a number of a generated enum as users see it; empty if it is 0 or newer than this client."""
    if number == 0 or number not in enum.values():
        return ""
    return str(enum.Name(number)).removeprefix(prefix).lower()


def _json_object(text: str) -> dict[str, Any] | None:
    return cast("dict[str, Any]", json.loads(text)) if text else None


def _time(value: Timestamp) -> datetime:
    return value.ToDatetime(tzinfo=UTC)
