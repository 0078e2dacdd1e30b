"""What the first message of a box says, checked: a write by itself, before the mag is asked and data is read; a read
against the mag, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd.actors.types import Bounds, Mask, WriteCommand
from magd.catalog.names import MagName
from magd.errors import InvalidRequest, Reason
from magd.rpc import from_proto, to_proto
from magd.rpc.enums import DATA_TYPES
from magd.rpc.from_proto import refuse
from magd.v1 import types_pb2, volume_pb2

if TYPE_CHECKING:
    from magd.acknowledgement import Durability, Revision
    from magd.actors.storage import Storage
    from magd.geometry import Box
    from magd.journal.staging import Staging
    from magd.voxels import VoxelArray, VoxelFormat

MAX_ANSWER_BYTES: Final = 2 * 1024 * 1024
"""Of the answer to a batch, and so of every message of the daemon."""
MESSAGE_BYTES: Final = 256
"""More than what stands beside the data of one box in a message."""


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


@dataclass(frozen=True, slots=True)
class ReadHeader:
    """One box to read that travels in the messages of many: raw, in Fortran order."""

    name: MagName
    box: Box
    """May be empty: the layer has no data yet."""
    voxels: VoxelFormat
    revision: Revision
    """Of the mag, before the box is read."""
    cost: int
    """Bytes of memory to lease for it."""

    @classmethod
    async def of(cls, storage: Storage, request: volume_pb2.ReadBoxRequest) -> ReadHeader:
        """Check it.

        :raises MagdError: it would be refused
        """
        if from_proto.is_c_order(request.order):
            raise refuse("order")
        from_proto.is_lz4(request.encoding)  # which the client would accept too: they are not encoded
        if request.HasField("shared_memory"):
            raise refuse("shared_memory")
        name = MagName.parse(request.name)
        box, facts, cost = await storage.volume.check_read(name, from_proto.optional_box(request))
        return cls(name, box, facts.header.voxels, facts.revision, cost)

    @property
    def answer_bytes(self) -> int:
        """What its data and header take in an answer, or a little less."""
        return self.voxels.nbytes(self.box) + MESSAGE_BYTES

    def require_room(self, limit_bytes: int) -> None:
        """Refuse it if an answer has no room for it.

        :param limit_bytes: what is left in the answer
        :raises InvalidRequest: BOX_TOO_LARGE
        """
        if self.answer_bytes > limit_bytes:
            size_bytes = self.voxels.nbytes(self.box)
            raise InvalidRequest(
                f"the answer to the batch would be larger than {MAX_ANSWER_BYTES} bytes: ask for this box in another "
                "batch, or by ReadBoxes",
                reason=Reason.BOX_TOO_LARGE,
                metadata={"field": "box", "value": size_bytes, "limit": MAX_ANSWER_BYTES},
            )

    def response(self, box: Box, revision: Revision) -> volume_pb2.ReadBoxResponse:
        """What the first message of the result says beside its data.

        :param box, revision: as read
        """
        return volume_pb2.ReadBoxResponse(
            box=to_proto.box(box),
            data_type=DATA_TYPES[self.voxels.dtype.name],
            num_channels=self.voxels.num_channels,
            revision=to_proto.revision(revision),
            order=types_pb2.ORDER_FORTRAN,
            encoding=types_pb2.ENCODING_RAW,
        )
