"""Committed boxes of a mag on their way into the cube files.

1. A box that becomes visible is laid into the overlay, with the memory that was leased for it, and the flusher is
   woken. What was recovered from the journal is laid into it before any message is taken.
2. A large box may have arrived in files that are laid out like cube files, its parts. When nothing that was committed
   before is on its way into the same cube files, these become the cube files. Then there is no second copy of its
   voxels: the record is brought to the disk before, unless nothing was promised of the disk and the cube files are
   missing. A sync that fails in between undoes this: the box is written into them from memory.
3. The flusher applies what is left. Once a box is in the cube files, its memory goes back to the budget, and who keeps
   the journal hears that its record is not needed any more.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from magd.actors.flusher import Flusher
from magd.errors import MagdError
from magd.journal.overlay import Entry, Overlay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from magd.actors.budget import Lease
    from magd.actors.threads import Threads
    from magd.catalog.names import MagName
    from magd.cubes.mag_files import MagFiles
    from magd.geometry import Box
    from magd.journal.journal import Journal

log = structlog.get_logger(__name__)


class CommittedBoxes:
    """The boxes of one mag that are committed and not in the cube files yet.

    :param folder: of the mag
    :param journal: the journal as it is now; None before the first write
    :param sync_journal: brings all records that were appended to the disk
    :param on_applied: called with the entries that got into the cube files
    """

    def __init__(
        self,
        name: MagName,
        folder: str,
        files: MagFiles,
        threads: Threads,
        *,
        flush_seconds: float,
        journal: Callable[[], Journal | None],
        sync_journal: Callable[[], Awaitable[None]],
        on_applied: Callable[[Sequence[Entry]], None],
    ) -> None:
        self._name = name
        self._folder = folder
        self._threads = threads
        self._journal = journal
        self._sync_journal = sync_journal
        self._on_applied = on_applied
        self._leases: dict[Entry, Lease] = {}
        self.files = files
        """The files of the mag as they are now."""
        self.overlay = Overlay()
        self.flusher = Flusher(
            str(name),
            self.overlay,
            threads,
            lambda: self.files,
            self._link,
            age_seconds=flush_seconds,
            on_applied=self._applied,
        )

    def add(self, entry: Entry, lease: Lease) -> None:
        """Lay a box over all that are there."""
        self.overlay.add(entry)
        lease.keep()
        self._leases[entry] = lease
        self.flusher.wake()
        if lease.is_wanted:
            # Those who wait now had the flusher hurry when they began to; what came later would rest here.
            self.flusher.hurry()

    def lay(self, entries: Sequence[Entry]) -> None:
        """Take up boxes that nothing was leased for, in their order."""
        for entry in entries:
            self.overlay.add(entry)
        if entries:
            self.flusher.wake()

    def use(self, files: MagFiles) -> None:
        """Go on with other files, which have everything that was not in the files before, or get it laid over them."""
        self.files = files
        left = self.overlay.all()
        self.overlay.drop(left)
        self._applied(left)

    def release_all(self) -> None:
        """Give all memory back: the mag is closed."""
        for lease in self._leases.values():
            lease.release()
        self._leases.clear()

    def _applied(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            lease = self._leases.pop(entry, None)
            if lease is not None:
                lease.release()
        self._on_applied(entries)

    async def _link(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Make the parts of records cube files, where nothing that was committed before is on its way there.

        :return: the entries that are wholly in the cube files now
        """
        journal = self._journal()
        if journal is None:
            return ()
        in_parts = {
            entry.number: entry
            for entry in entries
            if entry.number is not None and journal.has_parts(entry.number) and self._is_first(entry)
        }
        if not in_parts:
            return ()
        # What is visible and not on the disk was not promised to be.
        boxes = {number: entry.box for number, entry in in_parts.items() if number > journal.durable}
        unsynced = await self._threads.run(self._without_cube_files, boxes)
        if len(unsynced) < len(boxes):
            # When a part is a cube file there is no second copy of its voxels: they have to be on the disk before.
            try:
                await self._sync_journal()
            except MagdError:
                return ()
        return await self._threads.run(self._link_parts, journal, in_parts, unsynced)

    def _without_cube_files(self, boxes: Mapping[int, Box]) -> set[int]:
        """Of some boxes, those under which there is no cube file."""
        try:
            return {number for number, box in boxes.items() if not self.files.has_cube_files(box)}
        except MagdError:
            return set()  # who writes the boxes will say what is wrong

    def _is_first(self, entry: Entry) -> bool:
        """Whether no entry before touches one of its cube files."""
        around = entry.box.aligned_outward(self.files.header.cube_len)
        return self.overlay.touching(around)[0] is entry

    def _link_parts(
        self, journal: Journal, in_parts: Mapping[int, Entry], unsynced: Collection[int]
    ) -> Sequence[Entry]:
        linked: list[Entry] = []
        for number, paths in journal.link(in_parts.keys(), unsynced=unsynced).items():
            entry = in_parts[number]
            parts = [os.path.relpath(path, self._folder) for path in paths]
            try:
                is_done = self.files.link(entry.box, parts, synced=number not in unsynced)
                # A sync of the parts that failed meanwhile was heard of by the journal, and may not be any more by the
                # descriptors of the cube files. To write the box from memory makes that good.
                if is_done and not journal.broken and journal.has_parts(number):
                    linked.append(entry)
            except MagdError as error:
                # It is tried again by writing the box.
                log.warning("parts did not become cube files", mag=str(self._name), error=error.message)
        return linked
