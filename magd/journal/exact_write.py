"""Writing all of some buffers, or failing."""

from __future__ import annotations

import os


def write_all(fd: int, buffers: list[memoryview], offset: int) -> None:
    """Write buffers one after the other into a file, from `offset` on.

    :raises OSError: some of it may have been written
    """
    rest = [buffer for buffer in buffers if buffer]
    while rest:
        # After a short write, the next one says why.
        count = os.pwritev(fd, rest, offset)
        offset += count
        while rest and count >= len(rest[0]):
            count -= len(rest.pop(0))
        if count:
            rest[0] = rest[0][count:]
