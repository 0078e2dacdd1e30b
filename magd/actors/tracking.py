"""Which blocks of a mag were written since somebody began to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magd.compression.changed_blocks import ChangedBlocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magd.cubes.header import Header
    from magd.journal.overlay import Entry


class Tracker:
    """Collects the blocks that are written, while an operation wants to know."""

    def __init__(self) -> None:
        self._changed: ChangedBlocks | None = None

    def begin(self, layout: Header) -> None:
        """Collect the blocks that are written from now on, in writes under way included.

        :param layout: whose blocks to count
        """
        self._changed = ChangedBlocks(layout)

    def take(self) -> ChangedBlocks:
        """The blocks written since tracking began or since the last call."""
        assert self._changed is not None, "tracking has begun"
        changed, self._changed = self._changed, ChangedBlocks(self._changed.layout)
        return changed

    def end(self) -> None:
        """Collect no more."""
        self._changed = None

    def note(self, entries: Iterable[Entry]) -> None:
        """Entries of the overlay got into the cube files."""
        if self._changed is not None:
            for entry in entries:
                self._changed.add(entry.box)
