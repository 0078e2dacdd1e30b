"""Extensions of a layer's bounding box by the writes of one mag.

1. The extension of a write is saved before the write is acknowledged. It is in the record of the write too.
2. Should the save fail, it is remembered, and is in the HEAD of each journal file that begins.
3. It is saved again before the journal forgets a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from magd.errors import MagdError
from magd.geometry import BoundingBox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger(__name__)


class Extensions:
    """The extensions by one mag.

    :param mag: its name
    :param unsaved: what could not be saved before
    :param save: saves an extension before it returns
    """

    def __init__(self, mag: str, unsaved: BoundingBox, save: Callable[[BoundingBox], Awaitable[None]]) -> None:
        self._mag = mag
        self._save = save
        self.unsaved = unsaved
        """What could not be saved yet; empty if nothing."""

    async def save(self, extension: BoundingBox, *, is_recorded: bool) -> None:
        """Save the extension of a write.

        :param extension: may be empty
        :param is_recorded: it is in a record too, so that a save that fails can be made up for
        :raises MagdError: it could not be saved, and is in no record
        """
        if extension.is_empty:
            return
        try:
            await self._save(extension)
        except MagdError as error:
            if not is_recorded:
                raise
            self.unsaved = self.unsaved.union(extension)
            log.warning("bounding box not saved yet", mag=self._mag, error=error.message)

    async def save_unsaved(self) -> None:
        """Before the HEAD of the next journal file is written: what is in it is saved again after a crash, and would
        undo what made the bounding box smaller meanwhile.

        :raises MagdError: it could not be saved again
        """
        if not self.unsaved.is_empty:
            await self._save(self.unsaved)
            self.unsaved = BoundingBox.empty()
