"""Memory that is used for a moment, again and again.

A MiB that is taken from the system and given back for each group of blocks costs as much as to copy it: its pages are
zeroed and mapped anew each time. So what was given back is kept for the next one who asks, the last one first: it may
still be in the cache of the processor.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

KEPT_BYTES: Final = 2 << 20
"""The size of what is kept. More is made for the moment."""
MOST_KEPT: Final = 16
"""Pieces that this process keeps at most, for all its threads."""

_kept: Final[deque[Memory]] = deque(maxlen=MOST_KEPT)


class Memory(NamedTuple):
    """Some bytes, not set.

    :ivar array: at least as many as were asked for
    :ivar address: where they lie
    """

    array: npt.NDArray[np.uint8]
    address: int


def take(size: int) -> Memory:
    """At least so many bytes. They are the caller's until it gives them back, which it may leave, as after an error."""
    if size <= KEPT_BYTES:
        try:
            return _kept.pop()
        except IndexError:
            pass
    array = np.empty(max(size, KEPT_BYTES), dtype=np.uint8)
    return Memory(array, address_of(array))


def give_back(memory: Memory) -> None:
    """Let others have it. The caller has no view of it any more."""
    if len(memory.array) == KEPT_BYTES:
        _kept.append(memory)


def address_of(array: npt.NDArray[np.uint8]) -> int:
    """Where the bytes of an array lie."""
    address: int = array.__array_interface__["data"][0]
    return address
