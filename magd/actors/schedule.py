"""The order of work on one mag: overlapping boxes one after the other, disjoint work side by side.

1. Each piece of work enters with a claim, in the order its message arrived.
2. It may start as soon as no earlier piece that has not left conflicts with it. Later ones never overtake earlier ones
   they conflict with, so nobody starves.
3. It leaves when its effect is visible to reads. Those that waited for it alone may start.

Two claims conflict if one of them is everything, or if they share a voxel and at least one of them writes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from magd.box_index import BoxIndex

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from magd.geometry import Box


@dataclass(frozen=True, slots=True)
class Claim:
    """What a piece of work touches. Without a box it touches no voxels and conflicts with `everything` only."""

    box: Box | None = None
    """Voxels it reads or writes."""
    writes: bool = False
    """Whether it changes them."""
    everything: bool = False
    """Conflicts with all other work."""

    @classmethod
    def reading(cls, box: Box) -> Claim:
        """The claim of a read."""
        return cls(box)

    @classmethod
    def writing(cls, box: Box) -> Claim:
        """The claim of a write."""
        return cls(box, writes=True)

    @classmethod
    def whole_mag(cls) -> Claim:
        """The claim of work that needs the mag for itself."""
        return cls(everything=True)

    def conflicts_with(self, other: Claim) -> bool:
        """Whether the two must not run at the same time."""
        if self.everything or other.everything:
            return True
        if self.box is None or other.box is None or not (self.writes or other.writes):
            return False
        return self.box.intersects(other.box)


class Turn:
    """The place of one piece of work in the order. Entering its context waits for its turn; leaving it makes room."""

    __slots__ = ("_blockers", "_followers", "_left", "_schedule", "_start", "claim")

    def __init__(self, schedule: Schedule, claim: Claim) -> None:
        self.claim = claim
        self._schedule = schedule
        self._followers: list[Turn] = []
        self._blockers = 0
        self._start: asyncio.Future[None] | None = None
        self._left = False

    @property
    def has_come(self) -> bool:
        """Whether entering it would not wait."""
        return not self._blockers

    async def __aenter__(self) -> Self:
        if self._blockers:
            self._start = asyncio.get_running_loop().create_future()
            try:
                await self._start
            except asyncio.CancelledError:
                self.leave()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Make room; also for a piece of work that never started."""
        if self._left:
            return
        self._left = True
        self._schedule._remove(self)  # noqa: SLF001  # one mechanism in two classes
        for follower in self._followers:
            follower._unblock()  # noqa: SLF001  # another turn
        self._followers.clear()

    def _wait_for(self, earlier: Turn) -> None:
        earlier._followers.append(self)
        self._blockers += 1

    def _unblock(self) -> None:
        self._blockers -= 1
        if not self._blockers and self._start is not None and not self._start.done():
            self._start.set_result(None)


class Schedule:
    """All work on one mag that has entered and not left, in order."""

    def __init__(self) -> None:
        self._turns: dict[Turn, None] = {}
        self._boxes = BoxIndex[Turn]()
        self._of_everything: dict[Turn, None] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def enter(self, claim: Claim) -> Turn:
        """Take a place behind everything that entered before."""
        turn = Turn(self, claim)
        for earlier in self._candidates(claim):
            if claim.conflicts_with(earlier.claim):
                turn._wait_for(earlier)  # noqa: SLF001  # one mechanism in two classes
        self._turns[turn] = None
        if claim.everything:
            self._of_everything[turn] = None
        elif claim.box is not None:
            self._boxes.add(turn, claim.box)
        return turn

    def _candidates(self, claim: Claim) -> Iterable[Turn]:
        """Those among which all are that conflict with a claim."""
        if claim.everything:
            return self._turns
        return (*self._of_everything, *(() if claim.box is None else self._boxes.touching(claim.box)))

    def _remove(self, turn: Turn) -> None:
        del self._turns[turn]
        if turn.claim.everything:
            del self._of_everything[turn]
        elif turn.claim.box is not None:
            self._boxes.remove(turn)
