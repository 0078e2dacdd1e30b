"""Heads and writes for the tests of the journal."""

from __future__ import annotations

import numpy as np

from magd.acknowledgement import Durability, Revision
from magd.geometry import BoundingBox, Box, Mag
from magd.journal.places import boot_id
from magd.journal.records import FileFormat, Head, Outcome, WriteRecord
from magd.voxels import VoxelFormat

VOXELS = VoxelFormat.of("uint16", 2)
FORMAT = FileFormat(VOXELS, block_len=32, file_len=32, block_type=1)
MAG = Mag.of("2-2-1")


def make_head(
    epoch: int = 1,
    counter: int = 0,
    *,
    outcomes: tuple[Outcome, ...] = (),
    unsaved_box: BoundingBox | None = None,
    format: FileFormat = FORMAT,  # noqa: A002
    incarnation: str = "0f" * 16,
    boot: str | None = None,
    closed: bool = False,
) -> Head:
    return Head(
        incarnation=incarnation,
        generation=3,
        revision=Revision(epoch, counter),
        format=format,
        unsaved_box=unsaved_box or BoundingBox.empty(),
        outcomes=outcomes,
        boot_id=boot_id() if boot is None else boot,
        closed=closed,
    )


def make_write(
    counter: int,
    *,
    epoch: int = 1,
    box: Box | None = None,
    value: int | None = None,
    durability: Durability = Durability.DISK,
    request_id: str | None = None,
    voxels: VoxelFormat = VOXELS,
) -> WriteRecord:
    """A write whose voxels all have one value, its counter by default."""
    box = box or Box.of((counter, 0, 0), (4, 3, 2))
    data = voxels.empty(box.size)
    data[...] = np.asarray(counter if value is None else value).astype(voxels.dtype)
    return WriteRecord(
        request_id=f"request-{epoch}-{counter}" if request_id is None else request_id,
        fingerprint=2**63 + counter,
        box=box,
        extension=box.in_mag_1(MAG),
        durability=durability,
        revision=Revision(epoch, counter),
        unix_time=1.7e9 + counter / 8,
        data=data,
    )
