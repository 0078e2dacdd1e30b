"""The bounding box while mags extend it and somebody makes it smaller, all at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from magd.catalog.names import LayerName
from magd.errors import Conflict
from magd.geometry import BoundingBox, Vec3
from tests.support.voxels import make_mag, write

if TYPE_CHECKING:
    from magd.actors.storage import Storage
    from magd.voxels import VoxelArray

COLOR = LayerName("brain", "color")


def ones() -> VoxelArray:
    return np.ones((3, 3, 3), "uint8", order="F")


async def test_a_box_that_is_made_smaller_while_mags_extend_it_has_all_that_came_after(storage: Storage) -> None:
    mags = [await make_mag(storage, mag=name) for name in ("1", "2")]
    small = BoundingBox(Vec3(0, 0, 0), Vec3(1, 1, 1))

    async def shrink() -> bool:
        """Only what it knows: a box that grew since is not made smaller by mistake."""
        known = await storage.hierarchy.get_layer(COLOR)
        try:
            after = await storage.hierarchy.update_layer(COLOR, etag=known.etag, bounding_box=small, request_id="")
        except Conflict:
            return False
        return after.bounding_box.contains(small)

    for number in range(6):
        boxes = [write(storage, mag, (7 * number, 0, 0), ones()) for mag in mags]
        await asyncio.gather(*boxes, shrink())
    # With nobody else at it, it is made smaller, and then has just what is written after.
    assert await shrink()
    assert (await storage.hierarchy.get_layer(COLOR)).bounding_box == small
    await asyncio.gather(*[write(storage, mag, (70, 0, 0), ones()) for mag in mags])
    box = (await storage.hierarchy.get_layer(COLOR)).bounding_box
    assert box == BoundingBox(Vec3(0, 0, 0), Vec3(2 * 73, 6, 6))
    await storage.flush("", to_files=True)
    assert (await storage.hierarchy.get_layer(COLOR)).bounding_box == box
