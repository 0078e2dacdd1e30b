"""The Python client of magd.

    import magd_client

    with magd_client.connect("127.0.0.1:7733") as client:
        mag = client.dataset("cortex").layer("color").mag("1")
        mag.write(data, offset=(10, 20, 30))
        data = mag.read(offset=(0, 0, 0), size=(64, 64, 64))
        cut = mag[5:9, 5:9, 5]

`magd_client.aio` is the async twin: the same names, and whatever does I/O is awaited.

A client and its handles may be used by several threads at the same time. In a forked child they open a
connection of their own; handles can be pickled, and connect anew where they are unpickled. See
`magd_client.fork` for the limits of forking.
"""

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.errors import (
    AlreadyExists,
    Busy,
    Cancelled,
    Conflict,
    DataLoss,
    DiskFull,
    InternalError,
    InvalidRequest,
    MagdError,
    NotAllowed,
    NotFound,
    OutOfBounds,
    Reason,
    TooSlow,
    Unavailable,
    Unimplemented,
)
from magd.geometry import BoundingBox, Box, Mag, MagLike, Vec3, Vec3Like
from magd.voxels import VoxelArray, VoxelFormat
from magd_client._sync.batch import Batch
from magd_client._sync.client import Client, connect
from magd_client._sync.dataset import Dataset
from magd_client._sync.layer import Layer
from magd_client._sync.mag import MagHandle
from magd_client._sync.operation import Operation
from magd_client._sync.view import View
from magd_client._sync.watch import Watch
from magd_client.info import (
    CheckProgress,
    CommitEvent,
    CubeFile,
    DatasetInfo,
    Event,
    ExchangeEvent,
    Finding,
    LayerInfo,
    Limits,
    MagInfo,
    MagStatus,
    OperationEvent,
    OperationInfo,
    OperationProblem,
    OperationStatistics,
    Progress,
    PropertiesEvent,
    ServerInfo,
    ServerStatus,
)
from magd_client.outcome import Outcome
from magd_client.retry import RetryPolicy
from magd_client.unchanged import UNCHANGED

__all__ = [
    "UNCHANGED",
    "Acknowledgement",
    "AlreadyExists",
    "Batch",
    "BoundingBox",
    "Box",
    "Busy",
    "Cancelled",
    "CheckProgress",
    "Client",
    "CommitEvent",
    "Conflict",
    "CubeFile",
    "DataLoss",
    "Dataset",
    "DatasetInfo",
    "DiskFull",
    "Durability",
    "Event",
    "ExchangeEvent",
    "Finding",
    "InternalError",
    "InvalidRequest",
    "Layer",
    "LayerInfo",
    "Limits",
    "Mag",
    "MagHandle",
    "MagInfo",
    "MagLike",
    "MagStatus",
    "MagdError",
    "NotAllowed",
    "NotFound",
    "Operation",
    "OperationEvent",
    "OperationInfo",
    "OperationProblem",
    "OperationStatistics",
    "OutOfBounds",
    "Outcome",
    "Progress",
    "PropertiesEvent",
    "Reason",
    "RetryPolicy",
    "Revision",
    "ServerInfo",
    "ServerStatus",
    "TooSlow",
    "Unavailable",
    "Unimplemented",
    "Vec3",
    "Vec3Like",
    "View",
    "VoxelArray",
    "VoxelFormat",
    "Watch",
    "connect",
]
