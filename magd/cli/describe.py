"""The documents that `--json` prints. Keys are stable: they are added to, never renamed, and mean the same everywhere.

    dataset     name, voxel_size [x, y, z], unit, layers [...], unserved_reason
    layer       name, category, dtype, num_channels, bounding_box {offset, size} in mag-1 voxels, mags [...],
                largest_segment_id, data_format, unserved_reason
    mag         name, mag, block_len, file_len, compressed, dtype, num_channels, bounding_box in voxels of the mag,
                revision [epoch, counter], unserved_reason
    cube file   path, box {offset, size} in voxels of the mag, size_bytes, allocated_bytes, block_type, pending
    operation   name, kind, resource, state, files_total, files_done, bytes_in, bytes_out, files_redone, bytes_total,
                bytes_done, statistics {...} or null, result, error {reason, message}, create_time, end_time (ISO 8601,
                UTC)
    finding     file, severity ("note" or "damage"), message

`name` is always the short name: cortex/color/1. What is not known is null, what does not apply is null or empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from magd.cli.names import short

if TYPE_CHECKING:
    from datetime import datetime

    from magd.acknowledgement import Revision
    from magd.geometry import BoundingBox, Box
    from magd_client.info import (
        CubeFile,
        DatasetInfo,
        Finding,
        LayerInfo,
        MagInfo,
        MagStatus,
        OperationInfo,
        OperationStatistics,
        ServerStatus,
    )

Document: TypeAlias = dict[str, Any]


def box_document(box: Box | BoundingBox) -> Document:
    """A box or bounding box; null sizes of an empty one are zeros."""
    return {"offset": list(box.offset), "size": list(box.size)}


def dataset_document(info: DatasetInfo, *, with_layers: bool = True) -> Document:
    """A dataset; a listing has no layers."""
    document: Document = {
        "name": short(info.name),
        "voxel_size": list(info.voxel_size),
        "unit": info.unit,
    }
    if with_layers:
        document["layers"] = [layer_document(layer) for layer in info.layers]
    return document | {"unserved_reason": info.unserved_reason or None}


def layer_document(info: LayerInfo) -> Document:
    """A layer with its mags."""
    return {
        "name": short(info.name),
        "category": info.category or None,
        "dtype": info.dtype or None,
        "num_channels": info.num_channels,
        "bounding_box": box_document(info.bounding_box),
        "mags": [mag_document(mag) for mag in info.mags],
        "largest_segment_id": info.largest_segment_id,
        "data_format": info.data_format,
        "unserved_reason": info.unserved_reason or None,
    }


def mag_document(info: MagInfo) -> Document:
    """A mag."""
    return {
        "name": short(info.name),
        "mag": info.mag.name,
        "block_len": info.block_len,
        "file_len": info.file_len,
        "compressed": info.compressed,
        "dtype": info.dtype or None,
        "num_channels": info.num_channels,
        "bounding_box": box_document(info.bounding_box),
        "revision": revision_document(info.revision),
        "unserved_reason": info.unserved_reason or None,
    }


def cube_file_document(file: CubeFile) -> Document:
    """A cube file."""
    return {
        "path": file.path,
        "box": box_document(file.box),
        "size_bytes": file.size_bytes,
        "allocated_bytes": file.allocated_bytes,
        "block_type": file.block_type,
        "pending": file.pending,
    }


def operation_document(info: OperationInfo) -> Document:
    """An operation."""
    problem = info.problem
    return {
        "name": info.name,
        "kind": info.kind,
        "resource": short(info.resource),
        "state": info.state,
        "files_total": info.progress.files_total,
        "files_done": info.progress.files_done,
        "bytes_in": info.progress.bytes_in,
        "bytes_out": info.progress.bytes_out,
        "files_redone": info.progress.files_redone,
        "bytes_total": info.progress.bytes_total,
        "bytes_done": info.progress.bytes_done,
        "statistics": None if info.statistics is None else statistics_document(info.statistics),
        "result": short(info.result) if info.result else None,
        "error": None if problem is None else {"reason": problem.reason, "message": problem.message},
        "create_time": _time_document(info.create_time),
        "end_time": _time_document(info.end_time),
    }


def statistics_document(statistics: OperationStatistics) -> Document:
    """What an operation that writes cube files found and did."""
    return {
        "zero_blocks": statistics.zero_blocks,
        "stored_blocks": statistics.stored_blocks,
        "fast_blocks": statistics.fast_blocks,
        "high_blocks": statistics.high_blocks,
        "respliced_blocks": statistics.respliced_blocks,
        "raw_bytes": statistics.raw_bytes,
        "stored_bytes": statistics.stored_bytes,
        "ratio": round(statistics.ratio, 3),
        "seconds": round(statistics.seconds, 3),
        "bytes_per_second": round(statistics.bytes_per_second),
        "longest_hold_seconds": round(statistics.longest_hold_seconds, 4),
        "note": statistics.note or None,
    }


def finding_document(finding: Finding) -> Document:
    """Something a check found."""
    return {"file": finding.file, "severity": finding.severity, "message": finding.message}


def status_document(info: ServerStatus) -> Document:
    """What a daemon is doing."""
    return {
        "mags": [mag_status_document(mag) for mag in info.mags],
        "budget_used_bytes": info.budget_used_bytes,
        "budget_bytes": info.budget_bytes,
        "budget_waiting": info.budget_waiting,
        "operations_running": info.operations_running,
        "uptime_seconds": info.uptime_seconds,
    }


def revision_document(revision: Revision | None) -> list[int] | None:
    """A revision as [epoch, counter]."""
    return None if revision is None else [revision.epoch, revision.counter]


def mag_status_document(info: MagStatus) -> Document:
    """How a mag in use is doing."""
    return {
        "name": short(info.name),
        "state": info.state,
        "reason": info.reason or None,
        "queue": info.queue,
        "running": info.running,
        "revision": revision_document(info.revision),
        "unsynced_bytes": info.unsynced_bytes,
        "operation": info.operation or None,
        "writes": info.writes,
        "reads": info.reads,
        "warnings": list(info.warnings),
    }


def _time_document(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
