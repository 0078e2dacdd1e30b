"""What a daemon answers, as the values a user sees. The way there is `magd_client.convert`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.geometry import BoundingBox, Box, Mag, Vec3
from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, types_pb2, volume_pb2, watch_pb2
from magd.voxels import VoxelFormat
from magd_client import info
from magd_client.convert import CATEGORIES, DATA_TYPES, DURABILITIES

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

_BLOCK_TYPES: Final = {
    types_pb2.BLOCK_TYPE_RAW: "raw",
    types_pb2.BLOCK_TYPE_LZ4: "lz4",
    types_pb2.BLOCK_TYPE_LZ4HC: "lz4hc",
}


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
    for known, number in DURABILITIES.items():
        if number == value:
            return known
    return Durability.NONE


def acknowledgement(value: volume_pb2.WriteBoxResponse) -> Acknowledgement:
    """The acknowledgement of a write."""
    return Acknowledgement(revision(value.revision), durability(value.durability))


def dtype_name(value: types_pb2.DataType) -> str:
    """The name of a data type; empty if it is not said, or newer than this client."""
    for name, number in DATA_TYPES.items():
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
        category=CATEGORIES.get(value.category, ""),
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
