"""States in which a power loss may leave a recorded disk.

1. The log is cut somewhere. What was written before the last flush before the cut is on the disk.
2. Of each write after that flush and before the cut the disk has nothing, all of it, or some of its sectors of 512
   bytes, or of its blocks of 4096 bytes. Later writes may be there where earlier ones are not.
3. Cuts are drawn more often where they hurt: at an acknowledgement, and right before a flush, where most is at stake.

One thing is never torn: the first block of the disk. ext4 itself counts on its superblock being written at once.
"""

from __future__ import annotations

import bisect
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.powerloss.disk_log import Flush, Write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.powerloss.disk_log import Event

SECTOR: Final = 512
BLOCK: Final = 4096
_COPIED_AT_ONCE: Final = 16 << 20


@dataclass(frozen=True, slots=True, order=True)
class PowerLoss:
    """One state: where the log is cut, and what becomes of the writes that were not flushed."""

    cut: int
    """Events before it have happened."""
    kept: float
    """How many of the unflushed writes, or of their sectors, the disk has: 0 none, 1 all."""
    unit: int
    """Bytes that are written at once or not at all; 0: each write is."""
    seed: int

    def __str__(self) -> str:
        what = "writes" if self.unit == 0 else f"{self.unit}-byte pieces"
        return f"cut {self.cut}, {self.kept:.0%} of the unflushed {what}, seed {self.seed}"


def draw(events: Sequence[Event], first: int, acknowledged: Sequence[int], count: int, seed: int) -> list[PowerLoss]:
    """Draw states, in the order of their cuts.

    :param first: no cut before it
    :param acknowledged: cuts right after an acknowledgement
    """
    rng = random.Random(seed)
    flushes = [at for at, event in enumerate(events) if isinstance(event, Flush) and at >= first]
    acknowledged = [cut for cut in acknowledged if cut >= first]
    states = []
    for _ in range(count):
        where = rng.random()
        if where < 0.3 and acknowledged:
            cut = rng.choice(acknowledged)
        elif where < 0.6 and flushes:
            cut = rng.choice(flushes)
        else:
            cut = rng.randint(first, len(events))
        kept = rng.choice((0.0, 1.0, 0.1, 0.5, 0.5, 0.9))
        states.append(PowerLoss(cut, kept, rng.choice((0, SECTOR, BLOCK)), rng.getrandbits(32)))
    return sorted(states)


class Images:
    """Makes the images of a recording's states, one after the other in the order of their cuts.

    :param first_image: the disk before the first event
    :param folder: for its own image; exists
    """

    def __init__(self, first_image: str, events: Sequence[Event], folder: str) -> None:
        self._events = events
        self._flushes = [at for at, event in enumerate(events) if isinstance(event, Flush)]
        self._base = os.path.join(folder, "base")
        self._applied = 0
        copy_sparse(first_image, self._base)

    def make(self, state: PowerLoss, path: str) -> None:
        """Make the image of one state; its cut is not before that of the state before."""
        at = bisect.bisect_left(self._flushes, state.cut) - 1
        flushed = self._flushes[at] if at >= 0 else 0
        if flushed < self._applied:
            raise ValueError(f"{state} comes after one with a later cut")
        with open(self._base, "r+b", buffering=0) as file:
            for event in self._events[self._applied : flushed]:
                if isinstance(event, Write):
                    os.pwrite(file.fileno(), event.data, event.offset)
        self._applied = flushed
        copy_sparse(self._base, path)
        with open(path, "r+b", buffering=0) as file:
            for offset, data in surviving(self._events[flushed : state.cut], state):
                os.pwrite(file.fileno(), data, offset)


def surviving(unflushed: Sequence[Event], state: PowerLoss) -> Iterator[tuple[int, memoryview]]:
    """What a disk has of writes that were not flushed: offsets and bytes, in order."""
    rng = random.Random(state.seed)
    for event in unflushed:
        if not isinstance(event, Write):
            continue
        unit = state.unit if event.offset >= BLOCK and state.unit else len(event.data)
        for start in range(0, len(event.data), unit):
            if rng.random() < state.kept:
                yield event.offset + start, event.data[start : start + unit]


def copy_sparse(source: str, target: str) -> None:
    """Copy a file with many holes, quickly. What the target held is gone."""
    with open(source, "rb", buffering=0) as old, open(target, "wb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                return  # nothing but a hole up to the end
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(old.fileno(), min(end - at, _COPIED_AT_ONCE), at)
                os.pwrite(new.fileno(), data, at)
                at += len(data)
