"""Everything that can be done with the datasets below one root, behind one door.

The edges (gRPC, HTTP) call this and nothing else of the actors. Each method raises errors of `magd.errors` and
changes nothing when it does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.actors.budget import Lease, MemoryBudget
from magd.actors.types import (
    UNCHANGED,
    Bounds,
    CubeFileInfo,
    DatasetInfo,
    Event,
    JsonObject,
    LayerInfo,
    MagInfo,
    OperationInfo,
    ReadResult,
    Status,
    StorageConfig,
    Unchanged,
    WriteCommand,
)
from magd.catalog.names import DatasetName, LayerName, MagName
from magd.cubes.check import Finding
from magd.cubes.encode import CompressionLevel
from magd.cubes.header import BlockType
from magd.geometry import BoundingBox, Box, Mag
from magd.properties.model import LayerCategory, VoxelSize
from magd.voxels import VoxelFormat


class Storage:
    """The datasets below one root. An async context manager: leaving it drains every actor."""

    config: StorageConfig
    budget: MemoryBudget
    boot_id: str

    # Datasets, layers, mags. Every mutating call takes a request id: the same id again gives the same outcome.
    async def list_datasets(self, *, limit: int, after: str | None) -> list[DatasetInfo]: ...
    async def get_dataset(self, name: DatasetName) -> DatasetInfo: ...
    async def create_dataset(self, name: str, voxel_size: VoxelSize, *, exist_ok: bool, request_id: str) -> DatasetInfo: ...
    async def update_dataset(self, name: DatasetName, *, etag: str, default_view_configuration: JsonObject | None | Unchanged = UNCHANGED, request_id: str) -> DatasetInfo: ...
    async def delete_dataset(self, name: DatasetName, *, etag: str, request_id: str) -> str:
        """:return: the folder in the trash, relative to the root"""
    async def get_layer(self, name: LayerName) -> LayerInfo: ...
    async def create_layer(self, dataset: DatasetName, layer: str, category: LayerCategory, voxels: VoxelFormat, *, exist_ok: bool, request_id: str) -> LayerInfo: ...
    async def update_layer(self, name: LayerName, *, etag: str, bounding_box: BoundingBox | Unchanged = UNCHANGED, default_view_configuration: JsonObject | None | Unchanged = UNCHANGED, largest_segment_id: int | Unchanged = UNCHANGED, request_id: str) -> LayerInfo: ...
    async def rename_layer(self, name: LayerName, new_name: str, *, etag: str, request_id: str) -> LayerInfo: ...
    async def delete_layer(self, name: LayerName, *, etag: str, request_id: str) -> str: ...
    async def get_mag(self, name: MagName) -> MagInfo: ...
    async def create_mag(self, layer: LayerName, mag: Mag, *, block_len: int, file_len: int, block_type: BlockType, exist_ok: bool, request_id: str) -> MagInfo: ...
    async def delete_mag(self, name: MagName, *, request_id: str) -> str: ...
    def cube_files(self, name: MagName, box: Box | None) -> AsyncIterator[list[CubeFileInfo]]:
        """Some hundred at a time, in (z, y, x) order."""

    # Voxels.
    async def check_write(self, name: MagName, box: Box, voxels: VoxelFormat, bounds: Bounds) -> int:
        """Everything that can be said about a write before its data is there.

        :return: the bytes of memory to lease for it
        :raises NotFound, NotAllowed, InvalidRequest, OutOfBounds: it would be refused
        """
    async def write(self, name: MagName, command: WriteCommand, lease: Lease) -> Acknowledgement:
        """Commit one box. Cancelling the call does not cancel the write; the lease is held until the write is done."""
    async def check_read(self, name: MagName, box: Box | None) -> tuple[Box, MagInfo, int]:
        """Everything that can be said about a read before it is done.

        :param box: None: the layer's bounding box, enlarged outward to the mag (may be empty: then there is nothing to read)
        :return: the box to read, the mag, and the bytes of memory to lease
        """
    async def read(self, name: MagName, box: Box, lease: Lease) -> ReadResult: ...

    # Operations.
    async def compress(self, name: MagName, *, target: str | None, level: CompressionLevel, request_id: str) -> OperationInfo: ...
    def get_operation(self, name: str) -> OperationInfo: ...
    def list_operations(self, *, resource: str, limit: int, after: str | None) -> list[OperationInfo]:
        """Newest first; `after` is the name of the last one of the page before."""
    def watch_operation(self, name: str) -> AsyncIterator[OperationInfo]: ...
    def cancel_operation(self, name: str) -> OperationInfo: ...

    # The daemon.
    async def watch(self, name: str, after: Revision | None) -> AsyncIterator[Event]:
        """Events on a resource and below it ("" for all).

        The watch has begun when this returns. :raises OutOfBounds: EVENTS_LOST
        """
    async def flush(self, name: str, level: Durability) -> int:
        """Raise what was acknowledged on a resource and below it ("" for all) to DISK.

        :return: mags flushed
        """
    def check(self, name: str, *, deep: bool) -> AsyncIterator[tuple[list[Finding], int, int]]:
        """Look for damage.

        :return: findings since the last item (files relative to the root), files checked so far, files damaged so far
        """
    def status(self) -> Status: ...
    @property
    def is_draining(self) -> bool: ...
