"""From the values of the domain to the messages of responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from magd.actors.types import (
    CommitEvent,
    ExchangeEvent,
    OperationEvent,
    PropertiesEvent,
)
from magd.rpc.enums import (
    BLOCK_TYPES,
    CATEGORIES,
    DATA_TYPES,
    DURABILITIES,
    FINDING_SEVERITIES,
    MAG_STATES,
    OPERATION_KINDS,
    OPERATION_STATES,
)
from magd.rpc.errors import clean, operation_error
from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, types_pb2, volume_pb2, watch_pb2

if TYPE_CHECKING:
    from magd.acknowledgement import Acknowledgement, Revision
    from magd.actors.types import (
        CubeFileInfo,
        DatasetInfo,
        Event,
        LayerInfo,
        MagInfo,
        MagStatus,
        OperationInfo,
        OperationStatistics,
        Status,
    )
    from magd.cubes.check import Finding
    from magd.geometry import BoundingBox, Box, Vec3
    from magd.properties.forms import JsonObject
    from magd.properties.model import VoxelSize


def vec3(value: Vec3) -> types_pb2.Vec3:
    """Three integers."""
    return types_pb2.Vec3(x=value.x, y=value.y, z=value.z)


def box(value: Box) -> types_pb2.Box:
    """A box in voxels of a mag."""
    return types_pb2.Box(offset=vec3(value.offset), size=vec3(value.size))


def bounding_box(value: BoundingBox) -> types_pb2.BoundingBox:
    """An extent in mag-1 voxels."""
    return types_pb2.BoundingBox(offset=vec3(value.offset), size=vec3(value.size))


def revision(value: Revision) -> types_pb2.Revision:
    """The state of a mag's data."""
    return types_pb2.Revision(epoch=value.epoch, counter=value.counter)


def voxel_size(value: VoxelSize) -> dataset_pb2.VoxelSize:
    """The size of a mag-1 voxel."""
    return dataset_pb2.VoxelSize(x=value.x, y=value.y, z=value.z, unit=clean(value.unit))


def dataset(info: DatasetInfo) -> dataset_pb2.Dataset:
    """A dataset with the layers it has."""
    return dataset_pb2.Dataset(
        name=str(info.name),
        voxel_size=None if info.voxel_size is None else voxel_size(info.voxel_size),
        layers=[layer(each) for each in info.layers],
        default_view_configuration_json=_json(info.default_view_configuration),
        etag=info.etag,
        unserved_reason=clean(info.unserved_reason or ""),
    )


def layer(info: LayerInfo) -> dataset_pb2.Layer:
    """A layer with its mags."""
    message = dataset_pb2.Layer(
        name=str(info.name),
        category=None if info.category is None else CATEGORIES[info.category],
        bounding_box=bounding_box(info.bounding_box),
        mags=[mag(each) for each in info.mags],
        largest_segment_id=info.largest_segment_id,
        default_view_configuration_json=_json(info.default_view_configuration),
        data_format=clean(info.data_format),
        etag=info.etag,
        unserved_reason=clean(info.unserved_reason or ""),
    )
    if info.voxels is not None:
        message.data_type = DATA_TYPES[info.voxels.dtype.name]
        message.num_channels = info.voxels.num_channels
    return message


def mag(info: MagInfo) -> dataset_pb2.Mag:
    """A mag."""
    message = dataset_pb2.Mag(
        name=str(info.name),
        factor=vec3(info.name.mag.factor),
        block_len=info.block_len,
        file_len=info.file_len,
        block_type=None if info.block_type is None else BLOCK_TYPES[info.block_type],
        bounding_box=box(info.bounding_box),
        revision=None if info.revision is None else revision(info.revision),
        generation=info.generation or 0,
        unserved_reason=clean(info.unserved_reason or ""),
        folder=info.folder,
    )
    if info.voxels is not None:
        message.data_type = DATA_TYPES[info.voxels.dtype.name]
        message.num_channels = info.voxels.num_channels
    return message


def cube_file(info: CubeFileInfo) -> dataset_pb2.CubeFile:
    """One file of a mag."""
    return dataset_pb2.CubeFile(
        box=box(info.box),
        size_bytes=info.size_bytes,
        allocated_bytes=info.allocated_bytes,
        block_type=None if info.block_type is None else BLOCK_TYPES[info.block_type],
        pending=info.pending,
        path=info.path,
    )


def acknowledgement(value: Acknowledgement) -> volume_pb2.WriteBoxResponse:
    """The answer to a committed write."""
    return volume_pb2.WriteBoxResponse(revision=revision(value.revision), durability=DURABILITIES[value.durability])


def operation(info: OperationInfo) -> operation_pb2.Operation:
    """Long work, at one moment."""
    progress = info.progress
    return operation_pb2.Operation(
        name=info.name,
        kind=OPERATION_KINDS[info.kind],
        resource=info.resource,
        state=OPERATION_STATES[info.state],
        progress=operation_pb2.OperationProgress(
            files_total=progress.files_total,
            files_done=progress.files_done,
            bytes_in=progress.bytes_in,
            bytes_out=progress.bytes_out,
            files_redone=progress.files_redone,
            bytes_total=progress.bytes_total,
            bytes_done=progress.bytes_done,
        ),
        result=info.result,
        error=None if info.failure is None else operation_error(info.failure),
        create_time=_timestamp(info.created_at),
        end_time=None if info.ended_at is None else _timestamp(info.ended_at),
        statistics=None if info.statistics is None else _statistics(info.statistics),
    )


def _statistics(value: OperationStatistics) -> operation_pb2.OperationStatistics:
    return operation_pb2.OperationStatistics(
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


def event(value: Event) -> watch_pb2.WatchResponse:
    """Something that happened."""
    match value:
        case CommitEvent():
            return watch_pb2.WatchResponse(
                commit=watch_pb2.CommitEvent(
                    name=str(value.name), box=box(value.box), revision=revision(value.revision)
                )
            )
        case ExchangeEvent():
            return watch_pb2.WatchResponse(
                exchange=watch_pb2.ExchangeEvent(name=str(value.name), generation=value.generation)
            )
        case PropertiesEvent():
            return watch_pb2.WatchResponse(properties=watch_pb2.PropertiesEvent(dataset=dataset(value.dataset)))
        case OperationEvent():
            return watch_pb2.WatchResponse(operation=watch_pb2.OperationEvent(operation=operation(value.operation)))


def finding(value: Finding) -> maintenance_pb2.Finding:
    """Something a check found."""
    return maintenance_pb2.Finding(
        file=clean(value.file),
        severity=FINDING_SEVERITIES[value.severity],
        message=clean(value.message),
    )


def status(value: Status) -> maintenance_pb2.GetStatusResponse:
    """What the daemon is doing."""
    return maintenance_pb2.GetStatusResponse(
        mags=[mag_status(each) for each in value.mags],
        budget_used_bytes=value.budget_used_bytes,
        budget_bytes=value.budget_bytes,
        budget_waiting=value.budget_waiting,
        operations_running=value.operations_running,
        uptime_seconds=value.uptime_seconds,
    )


def mag_status(value: MagStatus) -> maintenance_pb2.MagStatus:
    """How a mag in use is doing."""
    return maintenance_pb2.MagStatus(
        name=str(value.name),
        state=MAG_STATES[value.state],
        reason=value.reason,
        queue=value.queue,
        running=value.running,
        revision=None if value.revision is None else revision(value.revision),
        unsynced_bytes=value.unsynced_bytes,
        operation=value.operation,
        writes=value.writes,
        reads=value.reads,
        warnings=value.warnings,
    )


def _json(value: JsonObject | None) -> str:
    # What is no Unicode becomes an escape, which JSON has for it.
    return "" if value is None else clean(json.dumps(value, ensure_ascii=False))


def _timestamp(seconds: float) -> Timestamp:
    message = Timestamp()
    message.FromNanoseconds(round(seconds * 1e9))
    return message
