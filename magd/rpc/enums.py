"""Which value of the domain each number of the protos' enums stands for.

The names agree, so that the tables make themselves; a value that the protos lack fails at import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from magd.acknowledgement import Durability
from magd.actors.types import Bounds, MagState, Mask, OperationState
from magd.cubes.header import BlockType
from magd.downsampling.kernels import Method
from magd.downsampling.plan import SamplingMode
from magd.properties.model import LayerCategory
from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, types_pb2, volume_pb2
from magd.voxels import VOXEL_DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magd.cubes.check import Severity

ValueT = TypeVar("ValueT")


def _numbers(enum: Any, prefix: str, names: Mapping[ValueT, str]) -> dict[ValueT, Any]:
    return {value: enum.Value(f"{prefix}_{name.upper()}") for value, name in names.items()}


DATA_TYPES: Final[Mapping[str, types_pb2.DataType]] = _numbers(
    types_pb2.DataType, "DATA_TYPE", {name: name for name in VOXEL_DTYPES}
)
"""By the name of the dtype."""

BLOCK_TYPES: Final[Mapping[BlockType, types_pb2.BlockType]] = _numbers(
    types_pb2.BlockType, "BLOCK_TYPE", {value: value.name for value in BlockType}
)
DURABILITIES: Final[Mapping[Durability, types_pb2.Durability]] = _numbers(
    types_pb2.Durability, "DURABILITY", {value: value.name for value in Durability}
)
CATEGORIES: Final[Mapping[LayerCategory, dataset_pb2.LayerCategory]] = _numbers(
    dataset_pb2.LayerCategory, "LAYER_CATEGORY", {value: value.name for value in LayerCategory}
)
MASKS: Final[Mapping[Mask, volume_pb2.Mask]] = _numbers(volume_pb2.Mask, "MASK", {value: value.name for value in Mask})
BOUNDS: Final[Mapping[Bounds, volume_pb2.Bounds]] = _numbers(
    volume_pb2.Bounds, "BOUNDS", {value: value.name for value in Bounds}
)
OPERATION_STATES: Final[Mapping[OperationState, operation_pb2.OperationState]] = _numbers(
    operation_pb2.OperationState, "OPERATION_STATE", {value: value.name for value in OperationState}
)
OPERATION_KINDS: Final[Mapping[str, operation_pb2.OperationKind]] = _numbers(
    operation_pb2.OperationKind,
    "OPERATION_KIND",
    {kind: kind for kind in ("compress", "decompress", "rechunk", "downsample")},
)
"""By the kind of an operation."""

DOWNSAMPLING_METHODS: Final[Mapping[Method, operation_pb2.DownsamplingMethod]] = _numbers(
    operation_pb2.DownsamplingMethod, "DOWNSAMPLING_METHOD", {value: value.name for value in Method}
)
SAMPLING_MODES: Final[Mapping[SamplingMode, operation_pb2.SamplingMode]] = _numbers(
    operation_pb2.SamplingMode, "SAMPLING_MODE", {value: value.name for value in SamplingMode}
)

MAG_STATES: Final[Mapping[MagState, maintenance_pb2.MagState]] = _numbers(
    maintenance_pb2.MagState, "MAG_STATE", {value: value.name for value in MagState}
)

FINDING_SEVERITIES: Final[Mapping[Severity, maintenance_pb2.FindingSeverity]] = _numbers(
    maintenance_pb2.FindingSeverity, "FINDING_SEVERITY", {"note": "note", "damage": "damage"}
)
