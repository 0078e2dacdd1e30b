"""What is done to a daemon on a recorded disk, and what must hold after a power loss at any time of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magd_client import Client

NEVER = 2**62
"""A position that no log reaches."""


@dataclass(slots=True)
class Checked:
    """What the checks have seen."""

    acknowledged: int = 0
    """Changes that had been acknowledged before the power was lost: there, each time."""
    whole: int = 0
    """Changes that had not, and were there all the same, whole..."""
    absent: int = 0
    """...or not at all."""
    old_ids: int = 0
    """Acknowledged writes that were sent again and got their old outcome."""

    def add(self, other: Checked) -> None:
        """Sum up."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Workload(Protocol):
    """Something that is done once, on a recorded disk, and checked on many copies of it."""

    def prepare(self, client: Client) -> None:
        """Make what it works on. The power is never lost before this has returned."""

    def act(self, address: str, position: Callable[[], int]) -> None:
        """Do it, and note what was acknowledged when.

        :param address: of the daemon
        :param position: how long the log of the disk is now
        """

    def acknowledged(self) -> Sequence[int]:
        """Positions of the log right after each acknowledgement."""

    def check(self, client: Client, cut: int) -> Checked:
        """That everything holds which was promised before the power was lost.

        :param client: of a daemon on the disk as it was then
        :param cut: the position of the log at that time
        :raises GuaranteeBroken: something does not hold
        """

    def check_files(self, root: str) -> None:
        """The same with the files alone, after that daemon has stopped.

        :raises GuaranteeBroken: they do not hold what the daemon has shown
        """
