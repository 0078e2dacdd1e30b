"""What the daemon tells, as plain frozen values: datasets, layers, mags, cube files, operations, events, status.

`name` is always the full resource name; `id` is its last part, what a user calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from magd.voxels import VoxelFormat
from magd_client.names import last_part

if TYPE_CHECKING:
    from datetime import datetime

    from magd.acknowledgement import Durability, Revision
    from magd.geometry import BoundingBox, Box, Mag

Category: TypeAlias = Literal["color", "segmentation"]
OperationState: TypeAlias = Literal["pending", "running", "succeeded", "failed", "cancelled", ""]
MagState: TypeAlias = Literal["serving", "read_only", "failed", ""]
Severity: TypeAlias = Literal["note", "damage", ""]


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    """The full resource name."""

    @property
    def id(self) -> str:
        """The last part of the name."""
        return last_part(self.name)


@dataclass(frozen=True, slots=True)
class MagInfo(_Named):
    """One magnification of a layer."""

    mag: Mag
    """The downsampling factor along each axis."""
    block_len: int
    """Edge of a block, in voxels."""
    file_len: int
    """Edge of a cube file, in blocks."""
    block_type: str
    """How blocks are stored: "raw", "lz4" or "lz4hc"; empty if the mag is not served."""
    dtype: str
    """Of one channel, for instance "uint8"; empty if the mag is not served."""
    num_channels: int
    """Channels of a voxel."""
    bounding_box: Box
    """The layer's bounding box in voxels of this mag, enlarged outward; empty if the layer has no data yet."""
    revision: Revision | None
    """The state of the data. None until the mag was used in this run of the daemon."""
    generation: int
    """Changes when the mag's files are exchanged as a whole."""
    unserved_reason: str
    """Why the mag is not served; empty if it is."""
    folder: str
    """Relative to the dataset's folder."""

    @property
    def cube_len(self) -> int:
        """Edge of a cube file, in voxels of this mag."""
        return self.block_len * self.file_len

    @property
    def compressed(self) -> bool:
        """Whether its blocks are compressed."""
        return self.block_type in ("lz4", "lz4hc")

    @property
    def voxels(self) -> VoxelFormat:
        """What one voxel is.

        :raises ValueError: the mag is not served
        """
        return VoxelFormat.of(self.dtype, self.num_channels)


@dataclass(frozen=True, slots=True)
class LayerInfo(_Named):
    """One volume of a dataset."""

    category: str
    """ "color" or "segmentation"; empty if the layer is not served."""
    dtype: str
    """Of one channel, for instance "uint8"; empty if the layer is not served."""
    num_channels: int
    """Channels of a voxel."""
    bounding_box: BoundingBox
    """In mag-1 voxels; empty if the layer has no data yet."""
    mags: tuple[MagInfo, ...]
    """Finest first."""
    largest_segment_id: int | None
    """Of a segmentation, if it is known."""
    default_view_configuration: dict[str, Any] | None
    """How WEBKNOSSOS shows it, if that is set."""
    data_format: str
    """ "wkw", or a format that magd does not serve."""
    etag: str
    """Changes with every change of the layer's properties."""
    unserved_reason: str
    """Why the layer is not served; empty if it is."""

    @property
    def voxels(self) -> VoxelFormat:
        """What one voxel is.

        :raises ValueError: the layer is not served
        """
        return VoxelFormat.of(self.dtype, self.num_channels)


@dataclass(frozen=True, slots=True)
class DatasetInfo(_Named):
    """One dataset."""

    voxel_size: tuple[float, float, float]
    """Of a mag-1 voxel, along x, y and z."""
    unit: str
    """Of the voxel size, for instance "nanometer"."""
    layers: tuple[LayerInfo, ...]
    """In the order of the properties; empty in a listing."""
    default_view_configuration: dict[str, Any] | None
    """How WEBKNOSSOS shows it, if that is set."""
    etag: str
    """Changes with every change of the dataset's properties."""
    unserved_reason: str
    """Why the dataset is not served; empty if it is."""


@dataclass(frozen=True, slots=True)
class CubeFile:
    """One file of a mag."""

    box: Box
    """What it covers, in voxels of the mag: the whole cube, also beyond the bounding box."""
    size_bytes: int
    """The length of the file."""
    allocated_bytes: int
    """What it takes on disk: less than `size_bytes` where a raw file has holes."""
    block_type: str
    """Of this file: "raw", "lz4" or "lz4hc"."""
    pending: bool
    """Whether committed data of this cube is not in the file yet."""
    path: str
    """Relative to the mag's folder."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is."""

    files_total: int
    """Cube files to do. May rise while files are written meanwhile."""
    files_done: int
    """Cube files done."""
    bytes_in: int
    """Bytes of cube files read."""
    bytes_out: int
    """Bytes of cube files written."""
    files_redone: int
    """Cube files done again because they were written meanwhile, or because a worker died."""
    bytes_total: int
    """Bytes of voxels to do, not compressed. May rise while files are written meanwhile."""
    bytes_done: int
    """Bytes of voxels done, not compressed."""


@dataclass(frozen=True, slots=True)
class OperationStatistics:
    """What an operation that writes cube files found and did."""

    zero_blocks: int
    """Blocks of zeros, stored in the shortest way or not at all."""
    stored_blocks: int
    """Blocks stored without effort, since it would gain nothing."""
    fast_blocks: int
    """Blocks compressed by LZ4's fast encoder."""
    high_blocks: int
    """Blocks compressed by LZ4HC."""
    respliced_blocks: int
    """Blocks done again because they were written meanwhile."""
    raw_bytes: int
    """Bytes of the voxels, not compressed."""
    stored_bytes: int
    """Bytes of the blocks as they are stored now."""
    seconds: float
    """How long it took."""
    longest_hold_seconds: float
    """The longest time that reads and writes of the mag had to wait for it."""
    note: str
    """What a person should know, for instance that compressing gained nothing; may be empty."""

    @property
    def blocks(self) -> int:
        """All blocks that were made."""
        return self.zero_blocks + self.stored_blocks + self.fast_blocks + self.high_blocks

    @property
    def ratio(self) -> float:
        """How many times smaller the blocks are than their voxels; 0 if nothing is stored."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Voxels done in a second, in bytes that are not compressed."""
        return self.raw_bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class OperationProblem:
    """Why an operation failed."""

    code: int
    """A google.rpc.Code."""
    reason: str
    """For programs."""
    message: str
    """For people."""
    metadata: dict[str, str]
    """Field, value or file."""


@dataclass(frozen=True, slots=True)
class OperationInfo(_Named):
    """Long work, as it was at one moment."""

    kind: str
    """What it does: "compress", "decompress", "rechunk" or "downsample"."""
    resource: str
    """The full name of what it works on."""
    state: OperationState
    """Where it stands; empty if the state is newer than this client."""
    progress: Progress
    """How far it is."""
    result: str
    """The full name of what it makes or changes, once it has succeeded."""
    problem: OperationProblem | None
    """Why it failed, if it did."""
    create_time: datetime | None
    """When it was accepted, in UTC."""
    end_time: datetime | None
    """When it ended, in UTC."""
    statistics: OperationStatistics | None
    """What it found and did, once it has succeeded, if it writes cube files."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit of a daemon. Sizes in bytes."""

    max_box_bytes: int
    """One box. Larger boxes are split by this client."""
    max_message_bytes: int
    """One message to the daemon."""
    part_bytes: int
    """Of the parts the daemon sends."""
    budget_bytes: int
    """Memory for boxes under way."""
    min_durability: Durability
    """The least durability of an acknowledgement."""
    request_id_window_seconds: int
    """How long a request id is remembered."""
    max_boxes_in_flight: int
    """In one stream of many boxes."""
    min_rate_bytes_per_second: int
    """The slowest a client may send or read a box."""
    shared_memory_bytes: int
    """Shared memory for clients on a unix socket; 0: there is none."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a daemon is."""

    version: str
    """Of magd."""
    capabilities: tuple[str, ...]
    """What it can do beyond the first version of the interface."""
    limits: Limits
    """Every limit."""
    read_only: bool
    """Whether it refuses every change."""
    boot_id: str
    """Changes with each start of the daemon."""


@dataclass(frozen=True, slots=True)
class MagStatus(_Named):
    """How one mag in use is doing."""

    state: MagState
    """Empty if the state is newer than this client."""
    reason: str
    """Why, if it does not read and write."""
    queue: int
    """Requests waiting."""
    running: int
    """Requests under way."""
    revision: Revision | None
    """Of its data."""
    unsynced_bytes: int
    """Acknowledged bytes that a power loss could take."""
    operation: str
    """The operation that runs on it; empty if none does."""
    writes: int
    """Committed in this run of the daemon."""
    reads: int
    """Boxes read in this run of the daemon."""
    warnings: tuple[str, ...]
    """What an operator should know, oldest first: for instance that a power loss may have taken writes."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What a daemon is doing."""

    mags: tuple[MagStatus, ...]
    """Those in use."""
    budget_used_bytes: int
    """Of the byte budget, taken now."""
    budget_bytes: int
    """Of the byte budget, in all."""
    budget_waiting: int
    """Calls that wait for the budget."""
    operations_running: int
    """Operations pending or running."""
    uptime_seconds: float
    """Since the daemon was ready."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a check found."""

    file: str
    """Relative to the root."""
    severity: Severity
    """ "damage": data cannot be read or trusted; "note": worth knowing."""
    message: str
    """What it is, in words."""


@dataclass(frozen=True, slots=True)
class CheckProgress:
    """What a check found since the last one of these, and its totals so far."""

    findings: tuple[Finding, ...]
    files_checked: int
    files_damaged: int
    removed: tuple[str, ...] = ()
    """With `repair`: files and folders that the daemon had left behind and has removed, relative to its root."""


@dataclass(frozen=True, slots=True)
class CommitEvent(_Named):
    """A write to a mag was committed."""

    box: Box
    """The voxels it changed, in voxels of the mag."""
    revision: Revision
    """The revision it made."""


@dataclass(frozen=True, slots=True)
class ExchangeEvent(_Named):
    """A mag's files were exchanged as a whole, without a change of a voxel."""

    generation: int
    """The new one."""


@dataclass(frozen=True, slots=True)
class PropertiesEvent:
    """Properties of a dataset changed."""

    dataset: DatasetInfo
    """After the change."""


@dataclass(frozen=True, slots=True)
class OperationEvent:
    """An operation made progress or ended."""

    operation: OperationInfo
    """As it was then."""


Event: TypeAlias = CommitEvent | ExchangeEvent | PropertiesEvent | OperationEvent
"""What a watch tells of."""
