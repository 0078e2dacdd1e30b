"""What a journal remembers: writes, and heads.

A write is kept as it was received: the box and its voxels, not the blocks it touches. To apply it again is to
overwrite the box again, so applying all of them in the order of their numbers, any number of times, gives the same
voxels; and it needs nothing of how the cube files store them.

A head begins each journal file. It says what the mag had come to, so that everything before it can be forgotten
once it is in the cube files.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from magd.acknowledgement import Acknowledgement, Durability, Revision

if TYPE_CHECKING:
    from magd.geometry import BoundingBox, Box
    from magd.voxels import VoxelArray, VoxelFormat


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a write with a request id ended. Only writes that ended well have one."""

    request_id: str
    fingerprint: int
    """Of what was asked for: the same id with another fingerprint is an error."""
    acknowledgement: Acknowledgement
    unix_time: float
    """When it ended, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFacts:
    """A write, without its voxels."""

    request_id: str
    """Empty if the client gave none."""
    fingerprint: int
    box: Box
    """In voxels of the mag."""
    extension: BoundingBox
    """What the layer's bounding box must be enlarged by, in mag-1 voxels; empty if the box lay inside of it."""
    durability: Durability
    """The level it is acknowledged with."""
    revision: Revision
    """Of the mag, with this write in it."""
    unix_time: float
    """When it was committed, in seconds."""

    @property
    def outcome(self) -> Outcome:
        """What its client is told, also when asking again."""
        return Outcome(
            self.request_id, self.fingerprint, Acknowledgement(self.revision, self.durability), self.unix_time
        )


def facts_of(write: WriteFacts) -> dict[str, Any]:
    """The fields that every kind of write has, to make another kind of it."""
    return {name: getattr(write, name) for name in _FACTS}


_FACTS: Final = tuple(field.name for field in fields(WriteFacts))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WriteRecord(WriteFacts):
    """A write."""

    data: VoxelArray
    """(c, x, y, z) in Fortran order, of the box's size and the mag's voxel format."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What the cube files of a mag are like. A journal is applied only to files like those it was written for."""

    voxels: VoxelFormat
    block_len: int
    """Edge of a block in voxels."""
    file_len: int
    """Edge of a cube file in blocks."""
    block_type: int
    """As in the header of a WKW file."""

    def __str__(self) -> str:
        return f"{self.voxels}, block_len {self.block_len}, file_len {self.file_len}, block type {self.block_type}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a mag had come to when a journal file was begun."""

    incarnation: str
    """Drawn when the mag was made by magd, or first written by it."""
    generation: int
    """How often the mag's files were exchanged as a whole."""
    revision: Revision
    """The last one committed. Its epoch is that of every write in the file."""
    format: FileFormat
    unsaved_box: BoundingBox
    """What the layer's bounding box must be enlarged by and the properties do not have yet, in mag-1 voxels."""
    outcomes: tuple[Outcome, ...]
    """Of the requests to remember, oldest first."""
    boot_id: str
    """The run of the machine; empty where the system does not say."""
    closed: bool = False
    """Whether everything acknowledged was on the disk and the actor ended: then no power loss can have lost anything
    as long as no write follows."""
