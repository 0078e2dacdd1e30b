"""Voxels that new files of a mag do not have yet, and that come along in their journal.

New files are made while writes go on, so they are always a little behind. In the last moment, when the mag is held,
what they lack is not brought into them: that could take as long as rewriting large files. It is written to their
journal, which takes as long as writing the voxels, and whoever opens the files next lays it over them, as after a
crash.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

from magd.acknowledgement import Durability
from magd.geometry import BoundingBox, Box
from magd.journal.journal import Journal
from magd.journal.records import WriteRecord
from magd.journal.recovery import recover
from magd.voxels import VoxelArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.journal.records import Head

Carried: TypeAlias = tuple[Box, VoxelArray]
"""A box, in voxels of the mag, and its voxels: (c, x, y, z), Fortran order."""


def begin_journal(folder: str, head: Head, carried: Sequence[Carried]) -> tuple[WriteRecord, ...]:
    """Begin the journal of new files. When this returns, all of it is on the disk. Blocks.

    :param folder: of the new files
    :return: the records of what was carried
    """
    revision, records = head.revision, []
    journal = Journal.begin(folder, recover(folder, head.format), head)
    try:
        for box, data in carried:
            revision = revision.next()
            record = WriteRecord(
                request_id="",
                fingerprint=0,
                box=box,
                extension=BoundingBox.empty(),
                durability=Durability.DISK,
                revision=revision,
                unix_time=time.time(),
                data=data,
            )
            journal.append(record)
            records.append(record)
        if records:
            journal.sync()
    finally:
        journal.close()
    return tuple(records)
