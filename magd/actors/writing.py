"""What writes to one mag do when their turn in the schedule has come.

1. A box that must not enlarge the bounding box is looked at once more.
2. A condition on a revision is looked at. The write has its turn: no overlapping box is committed between this look and
   its own commit.
3. With a mask, what is there now is laid under the voxels that are zero.
4. The box is committed, and remembered for later conditions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from magd.actors.history import History
from magd.actors.types import Bounds, Mask

if TYPE_CHECKING:
    from magd.acknowledgement import Acknowledgement
    from magd.actors.commit import CommitPoint
    from magd.actors.messages import Write
    from magd.actors.reach import Reach
    from magd.actors.reading import Reader
    from magd.actors.types import WriteCommand
    from magd.geometry import Box


class Writer:
    """Writes to one mag.

    :param name: of the mag, for errors
    :param point: where boxes are committed

    :ivar history: the boxes that were committed lately
    :ivar count: of boxes that were committed
    """

    def __init__(self, name: str, point: CommitPoint, reach: Reach, reader: Reader) -> None:
        self._name: Final = name
        self._point: Final = point
        self._reach: Final = reach
        self._reader: Final = reader
        self.history: Final = History(point.keeper.revision)
        self.count = 0

    def only_records(self, command: WriteCommand) -> bool:
        """Whether there is nothing to wait for but the record: then a task would be the larger part of the work."""
        return (
            command.bounds is Bounds.EXTEND
            and command.mask is Mask.ALL
            and command.if_revision is None
            and self._point.takes_no_time(command.durability)
            and self._reach.contains_now(command.box)
        )

    async def write(self, write: Write) -> Acknowledgement:
        """Commit one box.

        :raises OutOfBounds: it would enlarge the bounding box, and must not
        :raises Conflict: REVISION_MISMATCH
        :raises MagdError: it was not committed, or with OUTCOME_UNKNOWN perhaps
        """
        if write.command.bounds is Bounds.REJECT:
            await self._reach.require(write.command.box)
        if write.command.if_revision is not None:
            revision = self._point.keeper.revision
            self.history.require_unchanged(write.command.if_revision, write.command.box, self._name, revision)
        if write.command.mask is Mask.NONZERO:
            write = replace(write, command=await self._reader.under_mask(write.command))
        acknowledgement = await self._point.commit(write)
        self.note(write.command.box, acknowledgement)
        return acknowledgement

    def note(self, box: Box, acknowledgement: Acknowledgement) -> None:
        """A box was committed."""
        self.history.add(acknowledgement.revision, box)
        self.count += 1
