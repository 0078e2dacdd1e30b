"""What callers of the actors give and get: plain, frozen data.

The edges (gRPC, HTTP) translate between these and their own messages. Nothing here does anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, TypeAlias

from magd.acknowledgement import Durability, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from magd.catalog.names import DatasetName, LayerName, MagName
    from magd.cubes.header import BlockType
    from magd.geometry import BoundingBox, Box
    from magd.journal.staging import Staging
    from magd.properties.forms import JsonObject
    from magd.properties.model import LayerCategory, VoxelSize
    from magd.voxels import VoxelArray, VoxelFormat


class FlushLevel(Enum):
    """How far what was acknowledged is brought."""

    APPLIED = "applied"
    """Into the cube files and the properties, where other programs see it; as durable as it was promised."""
    DISK = "disk"
    """To the disk, wherever it is."""
    FILES = "files"
    """Into the cube files and the properties, and to the disk."""


class Bounds(Enum):
    """What to do with a box that leaves the layer's bounding box (enlarged outward to the mag)."""

    EXTEND = "extend"
    REJECT = "reject"


class Mask(Enum):
    """Which voxels of a box a write changes."""

    ALL = "all"
    NONZERO = "nonzero"
    """Those that are not zero, in any channel, in the data."""


class Unchanged(Enum):
    """The value of a field that an update does not touch; None means to remove it."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class MagInfo:
    """One mag, as its properties and its header.wkw say."""

    name: MagName
    folder: str
    """Relative to the dataset's folder."""
    voxels: VoxelFormat | None
    """None if the mag is not served."""
    block_len: int
    file_len: int
    block_type: BlockType | None
    bounding_box: Box
    """The layer's bounding box in voxels of this mag, enlarged outward; empty if the layer holds no data."""
    revision: Revision | None
    """None until the mag was used in this run of the daemon."""
    generation: int | None
    unserved_reason: str | None


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer, as the properties say."""

    name: LayerName
    category: LayerCategory | None
    voxels: VoxelFormat | None
    bounding_box: BoundingBox
    data_format: str
    mags: tuple[MagInfo, ...]
    """Finest first."""
    largest_segment_id: int | None
    default_view_configuration: JsonObject | None
    etag: str
    unserved_reason: str | None


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One dataset, as the properties say."""

    name: DatasetName
    voxel_size: VoxelSize | None
    """None if the properties cannot be read."""
    layers: tuple[LayerInfo, ...]
    """In the order of the properties; left out where many datasets are listed."""
    default_view_configuration: JsonObject | None
    etag: str
    unserved_reason: str | None


@dataclass(frozen=True, slots=True)
class WriteCommand:
    """Store `data` at `box` and make it `durability` before it is acknowledged."""

    request_id: str
    """The same id with the same content is applied once; empty: the write has no id."""
    box: Box
    """In voxels of the mag."""
    data: VoxelArray
    """(c, x, y, z), Fortran order. Belongs to the actor from now on."""
    durability: Durability
    bounds: Bounds
    mask: Mask = Mask.ALL
    if_revision: Revision | None = None
    """Refuse the write if an overlapping box was committed after this revision."""
    staging: Staging | None = None
    """All of `data`, as it arrived."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A box as it was at one revision."""

    box: Box
    data: VoxelArray
    """(c, x, y, z), Fortran order."""
    revision: Revision


Place: TypeAlias = "Callable[[int, int], npt.NDArray[np.uint8] | None]"
"""Called in a thread with a number of a byte of a box and a number of bytes: where these bytes from that one on are to
go; None: there is no place for them."""


@dataclass(frozen=True, slots=True)
class Slab:
    """The next voxels of a box that is read: some layers along z."""

    data: VoxelArray
    """(c, x, y, z), Fortran order."""
    revision: Revision
    """The one of the mag that the whole box is of."""
    is_placed: bool = False
    """Whether the data is where the reader was told to put it."""


@dataclass(frozen=True, slots=True)
class CubeFileInfo:
    """One cube file of a mag."""

    box: Box
    """In voxels of the mag; the whole cube."""
    path: str
    """Relative to the mag's folder."""
    size_bytes: int
    allocated_bytes: int
    block_type: BlockType | None
    """None if its header is damaged."""
    pending: bool
    """Committed data of this cube is not in the file yet."""


class OperationState(StrEnum):
    """Where an operation stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED)


@dataclass(frozen=True, slots=True)
class OperationProgress:
    """How far an operation is."""

    files_total: int = 0
    files_done: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    files_redone: int = 0
    bytes_total: int = 0
    """Of voxels to do, not compressed."""
    bytes_done: int = 0
    """Of voxels done, not compressed."""


@dataclass(frozen=True, slots=True)
class OperationStatistics:
    """What an operation that writes cube files found and did."""

    zero_blocks: int = 0
    """Blocks of zeros."""
    stored_blocks: int = 0
    """Blocks stored without effort, since it would gain nothing."""
    fast_blocks: int = 0
    """Blocks compressed by LZ4's default."""
    high_blocks: int = 0
    """Blocks compressed by LZ4HC."""
    respliced_blocks: int = 0
    """Blocks done again because they were written meanwhile."""
    raw_bytes: int = 0
    """Of the voxels, not compressed."""
    stored_bytes: int = 0
    """Of the blocks as they are stored now."""
    seconds: float = 0.0
    longest_hold_seconds: float = 0.0
    """How long reads and writes of the mag had to wait for it."""
    note: str = ""
    """What a person should know; may be empty."""


@dataclass(frozen=True, slots=True)
class OperationFailure:
    """Why an operation failed; the fields of a MagdError."""

    kind: str
    """The name of the class in magd.errors."""
    reason: str
    message: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OperationInfo:
    """Long work, at one moment."""

    name: str
    """operations/{id}"""
    kind: str
    """Which work: "compress", "decompress", "rechunk"."""
    resource: str
    state: OperationState
    progress: OperationProgress
    result: str
    """The resource it made or changed; empty until it has succeeded."""
    failure: OperationFailure | None
    created_at: float
    """Seconds since 1970."""
    ended_at: float | None
    statistics: OperationStatistics | None = None
    """Set when it has succeeded, if it writes cube files."""


class MagState(StrEnum):
    """How a mag in use is doing."""

    SERVING = "serving"
    READ_ONLY = "read-only"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class MagStatus:
    """One mag in use."""

    name: MagName
    state: MagState
    reason: str
    queue: int
    """Requests waiting."""
    running: int
    """Requests under way."""
    revision: Revision | None
    unsynced_bytes: int
    """Acknowledged bytes that a power loss could take."""
    operation: str
    writes: int
    reads: int
    warnings: tuple[str, ...] = ()
    """What an operator should know, oldest first."""

    @classmethod
    def at_rest(cls, name: MagName, warnings: tuple[str, ...]) -> MagStatus:
        """Of a mag that nobody uses now."""
        return cls(name, MagState.SERVING, "", 0, 0, None, 0, "", 0, 0, warnings)


@dataclass(frozen=True, slots=True)
class Status:
    """What the daemon is doing."""

    mags: tuple[MagStatus, ...]
    budget_used_bytes: int
    budget_bytes: int
    budget_waiting: int
    operations_running: int
    uptime_seconds: float
    pool_workers: int = 0
    pool_workers_replaced: int = 0


@dataclass(frozen=True, slots=True)
class CommitEvent:
    """A write was committed."""

    name: MagName
    box: Box
    revision: Revision


@dataclass(frozen=True, slots=True)
class ExchangeEvent:
    """A mag's files were exchanged as a whole, without a change of a voxel."""

    name: MagName
    generation: int


@dataclass(frozen=True, slots=True)
class PropertiesEvent:
    """Properties of a dataset changed."""

    dataset: DatasetInfo
    """As it is now, without its layers."""


@dataclass(frozen=True, slots=True)
class OperationEvent:
    """An operation made progress or ended."""

    operation: OperationInfo


Event: TypeAlias = CommitEvent | ExchangeEvent | PropertiesEvent | OperationEvent


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Every setting of the storage behind the edges."""

    read_only: bool = False
    budget_bytes: int = 1 << 30
    """Memory for boxes under way."""
    max_box_bytes: int = 0
    """0: a quarter of the budget."""
    min_durability: Durability = Durability.NONE
    mailbox_size: int = 256
    """Requests one mag holds before further ones wait."""
    io_threads: int = 8
    """Threads for file input and output."""
    pool_workers: int = 0
    """Processes for background work; 0: one for each core that it may take, at most 16."""
    max_cpu: float = 1.0
    """Share of the machine's cores that background work may take."""
    flush_seconds: float = 5.0
    """How old a committed write may get that is not in the files of a compressed mag."""
    disk_reserve_bytes: int = 256 << 20
    """Disk space that new writes leave free, for what was committed before: journal, flush and properties need some.
    Of a small file system at most one part in 64."""
    idle_seconds: float = 60.0
    """A mag that nobody used for so long is closed."""
    request_id_window_seconds: float = 600.0
    """How long a request id is remembered."""
    shared_memory_bytes: int = 0
    """Shared memory for clients on the same machine, out of the budget; 0: none."""
    shared_memory_folder: str = ""
    """Where the folder of regions is made; empty: in memory, if the system has such a place."""
    events_kept: int = 10_000
    """Events that a watcher may lie behind."""

    @property
    def box_limit_bytes(self) -> int:
        """The largest box in bytes."""
        return self.max_box_bytes or self.budget_bytes // 4
