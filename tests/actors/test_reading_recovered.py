"""Reads of voxels that a crash left in the journal, while they are brought into the cube files."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from magd.acknowledgement import Durability
from magd.actors.storage import Storage
from magd.catalog.root import Root
from magd.cubes.mag_files import MagFiles
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, read, write

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from magd.compression.pool import CompressionPool
    from magd.geometry import Box
    from magd.voxels import VoxelArray

LAZY = replace(CONFIG, flush_seconds=3600.0)
"""Nothing gets into the files of a compressed mag by itself."""


async def test_a_read_that_finds_its_journal_file_removed_takes_the_voxels_from_the_cube_files(
    tmp_path: Path, pool: CompressionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, crashed = tmp_path / "root", tmp_path / "crashed"
    root.mkdir()
    async with Storage(Root(str(root)), LAZY, pool) as storage:
        mag = await make_mag(storage, compressed=True)
        await write(storage, mag, (3, 3, 3), np.full((20, 20, 20), 7, "uint8"), durability=Durability.DISK)
        shutil.copytree(root, crashed)
    journal = crashed / "brain" / "color" / "1" / ".magd" / "journal"
    before = set(os.listdir(journal))

    has_read, may_go_on = threading.Event(), threading.Event()
    read_files = MagFiles.read

    def read_and_wait(files: MagFiles, box: Box) -> VoxelArray:
        data = read_files(files, box)
        if not has_read.is_set():
            has_read.set()
            assert may_go_on.wait(60.0)
        return data

    monkeypatch.setattr(MagFiles, "read", read_and_wait)
    async with Storage(Root(str(crashed)), LAZY, pool) as storage:
        reading = asyncio.create_task(read(storage, mag, (0, 0, 0), (30, 30, 30)))
        await asyncio.to_thread(has_read.wait)
        try:
            await storage.flush(str(mag))
            assert not before & set(os.listdir(journal))
        finally:
            may_go_on.set()
        seen = (await reading)[0]
    expected = np.zeros((30, 30, 30), "uint8")
    expected[3:23, 3:23, 3:23] = 7
    assert np.array_equal(seen, expected)
