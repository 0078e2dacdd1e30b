"""Boxes that arrive in files of their own, which may become cube files, between others that do not.

The arena has four cube files along x and two along y and z, of 1 MiB each. Of the boxes

- some cover eight cube files: they take the place of cube files that are missing, and of those that are there;
- some leave out a margin of those: they can only become cube files that are missing;
- some lie across more cube files, so that they wait in a side file;
- the others are small, and go into the journal between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from magd.geometry import Box, Vec3
from tests.powerloss.boxes import Scale, box_within

if TYPE_CHECKING:
    import random

CUBE_LEN: Final = 64
EDGE: Final = 2 * CUBE_LEN
"""Of a large box: 8 MiB."""
MARGIN: Final = 12
"""What is left out at most; what remains is too large for the journal."""


def draw_large(rng: random.Random) -> Box:
    """A box in the arena of `LARGE`."""
    kind = rng.random()
    if kind < 0.4:
        return box_within(rng, LARGE.arena, Vec3(*(rng.randint(1, 24) for _ in range(3))))
    if kind < 0.55:
        return box_within(rng, LARGE.arena, Vec3(EDGE, EDGE, EDGE))
    box = Box(Vec3(rng.choice((0, 1, 2)) * CUBE_LEN, 0, 0), Vec3(EDGE, EDGE, EDGE))
    if kind < 0.85:
        return box
    start = box.offset + Vec3(*(rng.randint(0, MARGIN) for _ in range(3)))
    return Box(start, box.end - start)


LARGE: Final = Scale(Vec3(2 * EDGE, EDGE, EDGE), block_len=16, file_len=4, writers=2, draw=draw_large)
