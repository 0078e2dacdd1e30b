"""What the first message of a box says, checked by itself: before the mag is asked, and before data is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magd.actors.types import Bounds, Mask, WriteCommand
from magd.catalog.names import MagName
from magd.rpc import from_proto
from magd.rpc.from_proto import refuse

if TYPE_CHECKING:
    from magd.acknowledgement import Durability, Revision
    from magd.geometry import Box
    from magd.journal.staging import Staging
    from magd.v1 import volume_pb2
    from magd.voxels import VoxelArray, VoxelFormat


@dataclass(frozen=True, slots=True)
class WriteHeader:
    """What the first message of a write says."""

    name: MagName
    box: Box
    voxels: VoxelFormat
    durability: Durability
    bounds: Bounds
    request_id: str
    mask: Mask
    if_revision: Revision | None
    is_encoded: bool
    """Whether parts may be encoded with LZ4."""
    is_c_order: bool
    """Whether the bytes come in C order."""

    @classmethod
    def of(cls, request: volume_pb2.WriteBoxRequest, *, may_share: bool = False) -> WriteHeader:
        """Check it.

        :param may_share: whether the data may lie in shared memory
        :raises InvalidRequest, Unimplemented: it cannot be right, or asks for what this version does not do
        """
        for field in ("crc32c",) if may_share else ("crc32c", "shared_memory"):
            if request.HasField(field):
                raise refuse(field)
        return cls(
            name=MagName.parse(request.name),
            box=from_proto.box(request),
            voxels=from_proto.voxel_format(request.data_type, request.num_channels),
            durability=from_proto.durability(request.durability),
            bounds=from_proto.bounds(request.bounds),
            request_id=from_proto.request_id(request.request_id),
            mask=from_proto.mask(request.mask),
            if_revision=from_proto.if_revision(request),
            is_encoded=from_proto.is_lz4(request.encoding),
            is_c_order=from_proto.is_c_order(request.order),
        )

    def command(self, data: VoxelArray, staging: Staging | None = None) -> WriteCommand:
        """The write, with its data.

        :param staging: all of the data, as it arrived
        """
        return WriteCommand(
            self.request_id, self.box, data, self.durability, self.bounds, self.mask, self.if_revision, staging
        )
