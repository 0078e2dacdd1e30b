"""Large boxes: what they leave in memory and on the disk, and what happens beside each other while they travel."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np

from magd.acknowledgement import Durability
from magd.actors.types import Bounds, WriteCommand
from magd.geometry import Box
from tests.support.voxels import make_mag, until

if TYPE_CHECKING:
    from magd.actors.storage import Storage

BOX = Box.of((0, 0, 0), (64, 64, 64))


async def test_a_mag_keeps_nothing_of_a_box_that_is_in_its_files_or_was_read(storage: Storage) -> None:
    name = await make_mag(storage)
    data = np.asfortranarray(np.random.default_rng(1).integers(0, 256, (1, 64, 64, 64), dtype=np.uint8))
    written = weakref.ref(data)
    command = WriteCommand("", BOX, data, Durability.PROCESS, Bounds.EXTEND)
    with await storage.budget.lease(1 << 20) as lease:
        await storage.write(name, command, lease)
    del data, command
    await storage.flush("", to_files=True)
    await until(lambda: written() is None)

    with await storage.budget.lease(1 << 20) as lease:
        result = await storage.read(name, BOX, lease)
    read = weakref.ref(result.data)
    del result
    await until(lambda: read() is None)
