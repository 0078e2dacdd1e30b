"""Everything that can happen to a mag. Nothing else touches its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from magd.acknowledgement import Revision
    from magd.actors.budget import Lease
    from magd.actors.types import FlushLevel, Place, Slab, WriteCommand
    from magd.cubes.header import Header
    from magd.geometry import Box, Vec3


@dataclass(frozen=True, slots=True)
class MagFacts:
    """What a mag in use is."""

    folder: str
    """Absolute."""
    header: Header
    revision: Revision
    generation: int


@dataclass(frozen=True, slots=True)
class Describe:
    """Say what the mag is; the outcome is a MagFacts."""


@dataclass(frozen=True, slots=True)
class ExpectWrite:
    """A box is on its way: see to what takes time before the first write; there is no outcome."""


@dataclass(frozen=True, slots=True)
class Write:
    """Commit one box; the outcome is an Acknowledgement."""

    command: WriteCommand
    fingerprint: int
    """Of box and data: tells a retry from another request with the same id."""
    lease: Lease
    """Memory of the data, held until it is in the cube files."""


@dataclass(frozen=True, slots=True)
class Read:
    """Read one box; the outcome is a ReadResult."""

    box: Box
    """In voxels of the mag."""


@dataclass(frozen=True, slots=True)
class ReadSlabs:
    """Read one box slab by slab; there is no outcome but that all were given."""

    box: Box
    """In voxels of the mag."""
    place: Place | None
    """Where it is to go; None: into new arrays."""
    give: Callable[[Slab], None]
    """Called on the event loop with each slab, in the order of their bytes, while the next ones are read."""


@dataclass(frozen=True, slots=True)
class ListCubeFiles:
    """List some cube files in (z, y, x) order; the outcome is a list of ListedCubeFile."""

    box: Box | None
    """Only those that touch it, in voxels of the mag; None: all."""
    after: Vec3 | None
    """Those behind this cube; None: from the first."""
    limit: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Bring everything acknowledged before further."""

    level: FlushLevel


@dataclass(frozen=True, slots=True)
class Hold:
    """Run something while nothing else touches the mag; the outcome is what it gives."""

    work: Callable[[], Awaitable[object]]


Message: TypeAlias = Describe | ExpectWrite | Write | Read | ReadSlabs | ListCubeFiles | Flush | Hold
