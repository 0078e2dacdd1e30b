"""Writes that a test tried, what became of them, and what a volume must hold after them.

Each attempt fills its box with a value that no other has, so a voxel says which attempt it is from. A box that is
there in part shows at once, and so does one that lies over another that came after it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TextIO

import numpy as np
import numpy.typing as npt

from magd.geometry import ORIGIN, Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magd_client import Acknowledgement, Durability

Voxels = npt.NDArray[np.uint32]

DTYPE: Final = np.dtype(np.uint32)


class GuaranteeBroken(AssertionError):
    """Something a guarantee rules out has happened."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One write of one value."""

    request_id: str
    box: Box
    value: int
    durability: Durability
    sent: float
    """When, by the clock `time.monotonic`."""
    acknowledged: float = float("inf")
    """When its acknowledgement had arrived."""
    acknowledgement: Acknowledgement | None = None

    @property
    def data(self) -> Voxels:
        """What is written: (x, y, z)."""
        return np.full(tuple(self.box.size), self.value, DTYPE, order="F")

    @property
    def known(self) -> Acknowledgement:
        """Its acknowledgement, which has come."""
        assert self.acknowledgement is not None
        return self.acknowledgement

    def __str__(self) -> str:
        end = f"acknowledged as {self.acknowledgement}" if self.acknowledgement else "not acknowledged"
        return f"value {self.value} at {self.box}, id {self.request_id}, {end}"


class Notes:
    """A file with a line before and after each attempt, written before anything else happens. It tells what went on
    also where the program that wrote it is gone.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def attempted(self, attempt: Attempt) -> None:
        """It is about to be sent."""
        box = [*attempt.box.offset, *attempt.box.size]
        self._write({"attempt": attempt.value, "id": attempt.request_id, "box": box})

    def acknowledged(self, attempt: Attempt) -> None:
        """Its acknowledgement has come."""
        revision = attempt.known.revision
        self._write(
            {
                "acknowledged": attempt.value,
                "revision": [revision.epoch, revision.counter],
                "durability": attempt.known.durability.name,
            }
        )

    def close(self) -> None:
        """No more notes."""
        self._file.close()

    def _write(self, what: object) -> None:
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()


@dataclass(slots=True)
class Model:
    """What a mag holds: an arena of voxels at the origin, and boxes apart from it that are never written twice."""

    arena: Voxels
    apart: dict[Box, int] = field(default_factory=dict)

    @classmethod
    def empty(cls, edge: int) -> Model:
        """Nothing was written. The arena has this edge."""
        return cls(np.zeros((edge, edge, edge), DTYPE, order="F"))

    @property
    def box(self) -> Box:
        """The box of the arena."""
        return Box(ORIGIN, Vec3.of(self.arena.shape))

    def copy(self) -> Model:
        """Another one, to go on with."""
        return Model(self.arena.copy(order="F"), dict(self.apart))

    def write(self, attempt: Attempt) -> None:
        """Apply one attempt after those before."""
        if self.box.contains(attempt.box):
            self.arena[within(attempt.box)] = attempt.value
        else:
            self.apart[attempt.box] = attempt.value

    def replay(self, attempts: Iterable[Attempt]) -> Model:
        """Another one, with these in the order of their revisions."""
        result = self.copy()
        for attempt in sorted(attempts, key=lambda attempt: attempt.known.revision):
            result.write(attempt)
        return result

    def check_arena(self, seen: Voxels, what: str, attempts: Sequence[Attempt]) -> None:
        """Compare the arena with what was read.

        :param attempts: those that may explain a difference
        :raises GuaranteeBroken: they differ
        """
        different = np.argwhere(seen != self.arena)
        if not len(different):
            return
        at = tuple(int(place) for place in different[0])
        by_value = {attempt.value: str(attempt) for attempt in attempts}
        found, wanted = int(seen[at]), int(self.arena[at])
        raise GuaranteeBroken(
            f"{what}: {len(different)} voxels differ; the first, {at}, holds {found} instead of {wanted}\n"
            f"  found:  {by_value.get(found, 'a value from before')}\n"
            f"  wanted: {by_value.get(wanted, 'a value from before')}"
        )


def within(box: Box) -> tuple[slice, slice, slice]:
    """Where a box lies in an array that begins at the origin."""
    x, y, z = (slice(start, end) for start, end in zip(box.offset, box.end, strict=True))
    return x, y, z


def check_order(attempts: Iterable[Attempt]) -> None:
    """That revisions agree with real time: what was acknowledged before another was sent has the lower one.

    :param attempts: with acknowledgements; those of retries count from when the first attempt was sent
    :raises GuaranteeBroken: two have one revision, or the wrong order
    """
    ordered = sorted(attempts, key=lambda attempt: attempt.known.revision)
    for before, after in pairwise(ordered):
        if before.known.revision == after.known.revision:
            raise GuaranteeBroken(f"one revision for two writes:\n  {before}\n  {after}")
    # Everything after a write in the order must have been acknowledged after it was sent.
    earliest: Attempt | None = None
    for attempt in reversed(ordered):
        if earliest is not None and earliest.acknowledged < attempt.sent:
            raise GuaranteeBroken(
                f"acknowledged before the other was sent, but ordered after it:\n  {earliest}\n  {attempt}"
            )
        if earliest is None or attempt.acknowledged < earliest.acknowledged:
            earliest = attempt
