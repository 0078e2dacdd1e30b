"""What an acknowledgement of a write says: how durable it is, and which revision of the mag has it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Durability(IntEnum):
    """How far a write has come when it is acknowledged. Each level includes the ones below it."""

    NONE = 1
    """Seen by every later read while the daemon runs; after kill -9 only the bounding box is sure to be kept."""
    PROCESS = 2
    """Survives kill -9 of the daemon. May be lost or torn by a power loss."""
    DISK = 3
    """Survives a power loss."""


@dataclass(frozen=True, slots=True, order=True)
class Revision:
    """The state of a mag's data. Revisions of one mag compare by epoch, then by counter."""

    epoch: int
    """Rises with each start of the mag's actor that writes, durably."""
    counter: int
    """Rises with each committed write of an epoch."""

    def next(self) -> Revision:
        """The revision after one more committed write."""
        return Revision(self.epoch, self.counter + 1)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The answer to a committed write."""

    revision: Revision
    """Of the mag, with this write in it."""
    durability: Durability
    """The level reached: at least the one asked for."""
