"""The jobs of the pool: what is to be done with a file, as data that travels to a worker process.

A job may be begun more than once, since a worker can die in the middle of it. So it changes nothing but its
target, which its caller named and owns, and it replaces what an earlier attempt left there. Jobs and results are
small (names and numbers, never voxels): they cross a pipe. What they do is in magd/cubes/convert.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from magd.cubes import convert

if TYPE_CHECKING:
    from magd.cubes.convert import Conversion, Sample
    from magd.cubes.new_blocks import Made
    from magd.geometry import Vec3

ResultT_co = TypeVar("ResultT_co", covariant=True)


class Job(Protocol[ResultT_co]):
    """Something a worker process can do."""

    @property
    def file(self) -> str:
        """The file the job is about, for errors."""

    def run(self) -> ResultT_co:
        """Do it, in the worker. Blocks.

        :raises MagdError: as it is raised here, the caller in the daemon gets it
        """


@dataclass(frozen=True, slots=True)
class _OfCubeFile:
    conversion: Conversion
    cube: Vec3
    """Which cube file of the target."""

    @property
    def file(self) -> str:
        """See Job."""
        return self.conversion.file(self.cube)


@dataclass(frozen=True, slots=True)
class MakeFile(_OfCubeFile):
    """Make a small cube file."""

    def run(self) -> Made:
        """See Job."""
        return convert.make_file(self.conversion, self.cube)


@dataclass(frozen=True, slots=True)
class MakePart(_OfCubeFile):
    """Make a part of a large cube file in its place."""

    first: int
    last: int
    """The blocks from `first` up to, without, `last`."""
    offset: int
    """Where they begin in a compressed cube file, in bytes. Without a meaning in a raw one."""

    def run(self) -> Made:
        """See Job."""
        return convert.make_part(self.conversion, self.cube, self.first, self.last, self.offset)


@dataclass(frozen=True, slots=True)
class MakePartAhead(_OfCubeFile):
    """Make a part of a large compressed cube file before its place is known."""

    first: int
    last: int
    """The blocks from `first` up to, without, `last`."""
    buffer: int
    """For their bytes."""

    def run(self) -> Made:
        """See Job."""
        return convert.make_part_ahead(self.conversion, self.cube, self.first, self.last, self.buffer)


@dataclass(frozen=True, slots=True)
class PlacePart(_OfCubeFile):
    """Bring a part to its place that was made ahead."""

    buffer: int
    """What has its bytes."""
    offset: int
    size: int
    """In the cube file, in bytes."""

    def run(self) -> None:
        """See Job."""
        convert.place_part(self.conversion, self.cube, self.buffer, self.offset, self.size)


@dataclass(frozen=True, slots=True)
class FinishFile(_OfCubeFile):
    """Finish a cube file whose parts are in their places."""

    lengths: bytes | None
    """Of all its blocks, as int32; empty for a raw file; None: all blocks are zero, remove it."""

    def run(self) -> int:
        """See Job. Gives the length of the file in bytes."""
        return convert.finish_file(self.conversion, self.cube, self.lengths)


@dataclass(frozen=True, slots=True)
class RemoveBuffers:
    """Remove what parts were made ahead in."""

    conversion: Conversion
    count: int

    @property
    def file(self) -> str:
        """See Job."""
        return self.conversion.buffer(0)

    def run(self) -> None:
        """See Job."""
        convert.remove_buffers(self.conversion, self.count)


@dataclass(frozen=True, slots=True)
class SpliceBlocks(_OfCubeFile):
    """Bring blocks of a cube file up to date."""

    changed: bytes
    """Which ones: ascending, as int64."""

    def run(self) -> Made:
        """See Job."""
        return convert.splice(self.conversion, self.cube, np.frombuffer(self.changed, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class SampleBlocks(_OfCubeFile):
    """Encode some blocks to see what comes of it."""

    count: int

    @property
    def file(self) -> str:
        """See Job."""
        return self.conversion.source

    def run(self) -> Sample:
        """See Job."""
        return convert.sample(self.conversion, self.cube, self.count)
