"""Committed boxes that are not in the cube files yet.

1. A committed box is added at the end: later ones lie over earlier ones, as they were committed.
2. A read takes the entries that touch its box in the moment its turn begins, reads the cube files, and paints the
   entries over what it read, in order. Whatever a flush does to the files meanwhile, the voxels of an entry it holds
   come from the entry; and those of an entry that was dropped before came into the files before.
3. A flush applies entries in order and drops only those it applied.
4. The voxels of an entry are in memory, leased from the budget by who wrote them; or, of one that was recovered, in the
   journal, and read when they are needed: what a crash left may be more than fits into memory. A read may find its
   journal file removed. Then everything that was recovered is in the cube files, which are read once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magd.box_index import BoxIndex
from magd.journal.scan import StoredWrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from magd.geometry import Box
    from magd.voxels import VoxelArray


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One committed box."""

    box: Box
    """In voxels of the mag."""
    source: VoxelArray | StoredWrite
    """(c, x, y, z), Fortran order, not changed any more; or where they are in the journal."""
    number: int | None
    """Of its record in the journal; None if it has none, or one of an earlier run."""

    @property
    def data(self) -> VoxelArray:
        """(c, x, y, z), Fortran order.

        :raises DataLoss: they are in the journal, and not what was written there, or cannot be read
        :raises FileNotFoundError: they were in the journal, and are in the cube files now
        """
        return self.source.read().data if isinstance(self.source, StoredWrite) else self.source

    @property
    def size_bytes(self) -> int:
        """What the voxels take in memory when they are there."""
        return self.source.data_bytes if isinstance(self.source, StoredWrite) else self.source.nbytes

    @property
    def is_in_memory(self) -> bool:
        """Whether the voxels are in memory already."""
        return not isinstance(self.source, StoredWrite)

    @property
    def has_parts(self) -> bool:
        """Whether the voxels are in the journal, in files that may be cube files by now."""
        return isinstance(self.source, StoredWrite) and bool(self.source.parts)

    def paint(self, target: VoxelArray, around: Box) -> None:
        """Lay its voxels over an array.

        :param target: (c, x, y, z), the voxels of `around`
        :raises DataLoss, FileNotFoundError: as for `data`
        """
        part = self.box.intersection(around)
        if not part.is_empty:
            target[_within(part, around)] = self.data[_within(part, self.box)]


class Overlay:
    """The entries of one mag, in the order of their commits."""

    def __init__(self) -> None:
        self._entries = BoxIndex[Entry]()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Lay a box over all that are there."""
        self._entries.add(entry, entry.box)
        self.size_bytes += entry.size_bytes

    def all(self) -> tuple[Entry, ...]:
        """Every entry, in order."""
        return tuple(self._entries)

    def boxes(self) -> tuple[Box, ...]:
        """The boxes of all entries, in order."""
        return tuple(entry.box for entry in self._entries)

    def touching(self, box: Box) -> tuple[Entry, ...]:
        """The entries that share a voxel with a box, in order."""
        return tuple(self._entries.touching(box))

    def drop(self, applied: Iterable[Entry]) -> None:
        """Forget entries that are in the cube files now."""
        for entry in applied:
            self._entries.remove(entry)
            self.size_bytes -= entry.size_bytes


def read_through(read: Callable[[Box], VoxelArray], box: Box, entries: Sequence[Entry]) -> VoxelArray:
    """The voxels of a box as they are with entries over the cube files.

    :param read: reads the cube files
    :param entries: that were there in the moment for which the read stands, in order. A flush may apply them meanwhile
    :raises DataLoss: one cannot be read
    """
    try:
        return _painted(read(box), box, entries)
    except FileNotFoundError:
        return _painted(read(box), box, [entry for entry in entries if entry.is_in_memory])


def _painted(data: VoxelArray, box: Box, entries: Iterable[Entry]) -> VoxelArray:
    for entry in entries:
        entry.paint(data, box)
    return data


def _within(part: Box, around: Box) -> tuple[slice, slice, slice, slice]:
    """Where a part lies in the array of the box around it."""
    start, end = part.offset - around.offset, part.end - around.offset
    return slice(None), slice(start.x, end.x), slice(start.y, end.y), slice(start.z, end.z)
