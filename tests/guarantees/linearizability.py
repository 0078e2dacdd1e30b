"""Whether a history of reads and writes of some voxels can be put in one order that agrees with real time.

This trusts nothing the daemon says about order. It is the search of Wing and Gong, with the cache of Lowe ("Testing
for linearizability", 2017), as in the checker porcupine:

1. All calls and returns lie in one list, by time. The first operation of the order must be one whose call comes before
   the first return in the list.
2. Try one: if the voxels allow it, take its call and return out of the list, and go on with the rest. A set of
   operations that was taken before with the same voxels after it need not be tried again.
3. At a return whose operation was not taken, there is no way on: put the last one back and try the next after it. If
   none was taken, there is no order.

Registers are independent, so a history of many voxels is linearizable if that of each one is; several voxels in one
search also find writes that are there in part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Values = tuple[int | None, ...]
"""Of the voxels that are looked at; None for those that an operation does not touch."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation, as far as it concerns the voxels that are looked at."""

    sent: float
    done: float
    writes: bool
    values: Values
    """What it wrote, or what it read."""

    def after(self, voxels: Values) -> Values | None:
        """The voxels after it, or None if it cannot have come next."""
        if self.writes:
            return tuple(old if new is None else new for old, new in zip(voxels, self.values, strict=True))
        fits = all(seen is None or seen == voxel for voxel, seen in zip(voxels, self.values, strict=True))
        return voxels if fits else None


class _Events:
    """Calls and returns by time, as a list from which an operation can be taken and put back."""

    def __init__(self, steps: Sequence[Step]) -> None:
        # At the same moment a call counts as earlier: then the two overlap, and either order is allowed.
        events = sorted(
            [(step.sent, 0, number) for number, step in enumerate(steps)]
            + [(step.done, 1, number) for number, step in enumerate(steps)]
        )
        self.head = len(events)
        self.number = [number for _, _, number in events]
        self.is_call = [kind == 0 for _, kind, _ in events]
        self.next = [*range(1, len(events) + 1), 0]
        self._before = [self.head, *range(len(events))]
        self._return_of = {number: place for place, (_, kind, number) in enumerate(events) if kind == 1}

    def take(self, call: int) -> None:
        """Take an operation out."""
        for place in (call, self._return_of[self.number[call]]):
            before, after = self._before[place], self.next[place]
            self.next[before], self._before[after] = after, before

    def put_back(self, call: int) -> None:
        """Put the operation back that was taken last."""
        for place in (self._return_of[self.number[call]], call):
            self.next[self._before[place]] = self._before[self.next[place]] = place


def is_linearizable(steps: Sequence[Step], initial: Values) -> bool:
    """Search for an order.

    :param initial: the voxels before all of it
    """
    if not steps:
        return True
    events = _Events(steps)
    voxels, taken = initial, 0
    seen: set[tuple[int, Values]] = set()
    way: list[tuple[int, Values]] = []
    place = events.next[events.head]
    while events.next[events.head] != events.head:
        if events.is_call[place]:
            number = events.number[place]
            after = steps[number].after(voxels)
            if after is not None and (taken | 1 << number, after) not in seen:
                taken |= 1 << number
                seen.add((taken, after))
                way.append((place, voxels))
                voxels = after
                events.take(place)
                place = events.next[events.head]
            else:
                place = events.next[place]
        else:
            if not way:
                return False
            place, voxels = way.pop()
            taken ^= 1 << events.number[place]
            events.put_back(place)
            place = events.next[place]
    return True
