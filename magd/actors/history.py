"""Which boxes of a mag were committed after a revision: what conditional writes and updates of coarser mags ask.

The history is kept in memory, from the opening of the mag on and up to a number of commits. For a revision that is
older than what it reaches back to nobody knows: then the answer is that something may have been committed, so that a
condition never holds by mistake. The same goes for a revision above the one the mag was opened with, but of no later
epoch: it was committed once, and a crash has taken it.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from magd.errors import Conflict, OutOfBounds, Reason

if TYPE_CHECKING:
    from magd.acknowledgement import Revision
    from magd.geometry import Box

MAX_COMMITS: Final = 10_000
"""Commits it reaches back."""


class History:
    """The latest commits of one mag.

    :param revision: of the mag when it is opened; its next commit begins a new epoch
    """

    def __init__(self, revision: Revision) -> None:
        self._opened_at = revision
        self._reaches_to = revision
        self._commits: deque[tuple[Revision, Box]] = deque()

    def add(self, revision: Revision, box: Box) -> None:
        """A box was committed."""
        self._commits.append((revision, box))
        if len(self._commits) > MAX_COMMITS:
            self._reaches_to, _ = self._commits.popleft()

    def require_unchanged(self, since: Revision, box: Box, name: str, now: Revision) -> None:
        """Refuse a change that was decided on by looking at an older state of a box.

        :param name: of the mag, for the error
        :param now: its revision, for the error
        :raises Conflict: REVISION_MISMATCH
        """
        if self.is_unchanged_since(since, box):
            return
        raise Conflict(
            f"box {box} of {name} may have changed since revision {since.epoch}.{since.counter}; "
            f"the mag is at {now.epoch}.{now.counter}: read it again",
            reason=Reason.REVISION_MISMATCH,
            metadata={
                "field": "if_revision",
                "value": f"{since.epoch}.{since.counter}",
                "current": f"{now.epoch}.{now.counter}",
            },
        )

    def is_unchanged_since(self, revision: Revision, box: Box) -> bool:
        """Whether surely no overlapping box was committed after a revision."""
        if not self._knows_what_followed(revision):
            return False
        for later, changed in reversed(self._commits):
            if later <= revision:
                break
            if changed.intersects(box):
                return False
        return True

    def boxes_since(self, revision: Revision, name: str) -> list[Box]:
        """The boxes that were committed after a revision, the latest first.

        :param name: of the mag, for the error
        :raises OutOfBounds: EVENTS_LOST: nobody knows all of them
        """
        if not self._knows_what_followed(revision):
            text = f"{revision.epoch}.{revision.counter}"
            raise OutOfBounds(
                f"{name}: not all writes since revision {text} are remembered; name a region, or update everything",
                reason=Reason.EVENTS_LOST,
                metadata={"field": "changed_since", "value": text},
            )
        return [box for _, box in takewhile(lambda commit: commit[0] > revision, reversed(self._commits))]

    def _knows_what_followed(self, revision: Revision) -> bool:
        is_lost = revision > self._opened_at and revision.epoch <= self._opened_at.epoch
        return revision >= self._reaches_to and not is_lost
