"""Many writers on one mag, and the proof that each write was seen whole and in one order.

`magd demo` and the quickstart use it.

1. Each writer writes boxes at random places, which overlap those of the others and lie across cube files. What it
   writes follows from a number, so that nobody has to remember it. Some writes are sent twice with the same request id,
   as a client does that lost its connection: the second must change nothing.
2. Each acknowledgement names a revision. The writes of all writers, applied to an array in the order of revisions, give
   what the mag must hold: to the last voxel, since revisions put overlapping writes in the order they happened.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magd.acknowledgement import Revision
    from magd.voxels import VoxelArray, VoxelFormat
    from magd_client import MagHandle

RETRIED = 5
"""Every so many writes, one is sent twice."""


@dataclass(frozen=True, slots=True)
class Written:
    """A write that was acknowledged."""

    revision: Revision
    box: Box
    number: int
    """What its voxels follow from."""
    retried: bool


def voxels_of(number: int, size: Vec3, voxels: VoxelFormat) -> VoxelArray:
    """The voxels that a number stands for: noise, so that torn or misplaced writes cannot look right."""
    noise = np.random.default_rng(number).bytes(size.volume * voxels.num_channels)
    values = np.frombuffer(noise, dtype=np.uint8).reshape((voxels.num_channels, *size), order="F")
    return np.asfortranarray(values.astype(voxels.dtype))


def random_box(random: np.random.Generator, within: Box) -> Box:
    """A box at a random place, up to a half of each extent long."""
    size = Vec3.of([int(random.integers(1, max(2, extent // 2 + 1))) for extent in within.size])
    room = within.size - size
    return Box(within.offset + Vec3.of([int(random.integers(0, length + 1)) for length in room]), size)


def write_boxes(mag: MagHandle, within: Box, voxels: VoxelFormat, *, writer: int, count: int) -> list[Written]:
    """Be one writer.

    :param writer: its number; another one for each, below 1000
    :param count: of boxes, at most a million
    :return: its writes, in the order they were made
    :raises AssertionError: a write that was sent twice got two revisions
    """
    random = np.random.default_rng(writer)
    done: list[Written] = []
    for index in range(count):
        box = random_box(random, within)
        number = writer * 1_000_000 + index
        data = voxels_of(number, box.size, voxels)
        request_id = str(uuid.uuid4())
        revision = mag.write(data, offset=box.offset, request_id=request_id, durability="process").revision
        retried = index % RETRIED == RETRIED - 1
        if retried:
            again = mag.write(data, offset=box.offset, request_id=request_id, durability="process").revision
            assert again == revision, f"a retry was applied again: revision {revision} became {again}"
        done.append(Written(revision, box, number, retried))
    return done


def replay(start: VoxelArray, within: Box, written: Iterable[Written], voxels: VoxelFormat) -> VoxelArray:
    """What a mag must hold after writes.

    :param start: what it held in the box `within` before; not changed
    """
    model = start.copy(order="F")
    for write in sorted(written, key=lambda write: write.revision):
        (x, y, z), (end_x, end_y, end_z) = write.box.offset - within.offset, write.box.end - within.offset
        model[:, x:end_x, y:end_y, z:end_z] = voxels_of(write.number, write.box.size, voxels)
    return model


def overlaps(written: Iterable[Written]) -> int:
    """How many pairs of writes overlap."""
    boxes = [write.box for write in written]
    return sum(a.intersects(b) for index, a in enumerate(boxes) for b in boxes[:index])
