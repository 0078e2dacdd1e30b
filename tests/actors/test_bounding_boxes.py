"""The bounding box while everybody is at it at once: mags that extend it, other programs that edit the file, and
whoever makes it smaller."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import numpy as np
from structlog.testing import capture_logs

from magd.actors.storage import Storage
from magd.catalog.names import LayerName
from magd.catalog.root import Root
from magd.errors import Conflict
from magd.geometry import BoundingBox, Vec3
from magd.properties.file import PropertiesFile
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, until, write

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from magd.compression.pool import CompressionPool
    from magd.properties.file import Snapshot
    from magd.voxels import VoxelArray

COLOR = LayerName("brain", "color")
WRITES = 12


def ones() -> VoxelArray:
    return np.ones((3, 3, 3), "uint8", order="F")


async def test_extensions_of_all_mags_and_edits_of_others_at_the_same_time_are_all_kept(
    storage: Storage, tmp_path: Path
) -> None:
    mags = [await make_mag(storage, mag=name) for name in ("1", "2", "4")]
    file = tmp_path / "root/brain/datasource-properties.json"
    is_done = False

    def edit_all_the_time() -> int:
        """As another program does: read, think, replace, with whatever box it read."""
        count = 0
        while not is_done or count < 5:
            tree = json.loads(file.read_bytes())
            count += 1
            tree["note"] = count
            mine = file.with_suffix(".theirs")
            mine.write_text(json.dumps(tree))
            os.replace(mine, file)
        return count

    editing = asyncio.create_task(asyncio.to_thread(edit_all_the_time))
    for number in range(WRITES):
        await asyncio.gather(*[write(storage, mag, (7 * number, 0, 0), ones()) for mag in mags])
    is_done = True
    count = await editing
    await storage.flush("")  # what could not be saved while the file changed all the time
    layer = await storage.hierarchy.get_layer(COLOR)
    assert layer.bounding_box == BoundingBox(Vec3(0, 0, 0), Vec3(4 * (7 * (WRITES - 1) + 3), 12, 12))
    tree = json.loads(file.read_bytes())
    assert tree["note"] == count
    assert tree["dataLayers"][0]["boundingBox"]["width"] == layer.bounding_box.size.x
    assert [name for name in os.listdir(file.parent) if "magd-" in name] == []


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
    await storage.flush("")
    assert (await storage.hierarchy.get_layer(COLOR)).bounding_box == box


async def test_a_stale_box_is_noticed_though_nobody_asks(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magd.actors.dataset.LOOK_SECONDS", 0.01)
    mag = await make_mag(storage)
    file = tmp_path / "root/brain/datasource-properties.json"
    stale = file.read_bytes()
    await write(storage, mag, (0, 0, 0), ones())
    extended = file.read_bytes()
    assert extended != stale
    file.write_bytes(stale)
    await until(lambda: file.read_bytes() == extended)


async def test_a_stale_box_is_noticed_before_the_daemon_ends(tmp_path: Path, pool: CompressionPool) -> None:
    root = tmp_path / "root"
    root.mkdir()
    file = root / "brain/datasource-properties.json"
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        stale = file.read_bytes()
        await write(storage, mag, (0, 0, 0), ones())
        extended = file.read_bytes()
        file.write_bytes(stale)
    assert file.read_bytes() == extended


async def test_the_properties_of_another_dataset_that_took_the_name_are_left_alone(
    tmp_path: Path, pool: CompressionPool
) -> None:
    folder = tmp_path / "root/brain"
    folder.parent.mkdir()
    async with Storage(Root(str(folder.parent)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        stale = (folder / "datasource-properties.json").read_bytes()
        await write(storage, mag, (0, 0, 0), ones())
        await storage.flush("")
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        (folder / "datasource-properties.json").write_bytes(stale)
    assert (folder / "datasource-properties.json").read_bytes() == stale


async def test_a_file_that_cannot_be_looked_at_is_told_once_and_made_good_when_it_can(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magd.actors.dataset.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("magd.properties.file._READ_PAUSES_SECONDS", ())
    mag = await make_mag(storage)
    file = tmp_path / "root/brain/datasource-properties.json"
    stale = file.read_bytes()
    await write(storage, mag, (0, 0, 0), ones())
    extended = file.read_bytes()
    looks, load = 0, PropertiesFile.load

    def counted(self: PropertiesFile) -> Snapshot:
        nonlocal looks
        looks += 1
        return load(self)

    monkeypatch.setattr(PropertiesFile, "load", counted)
    with capture_logs() as log:
        file.write_bytes(b"{")
        await until(lambda: looks >= 3)
        assert [line["event"] for line in log] == ["properties cannot be looked at"]
        file.write_bytes(stale)
        await until(lambda: file.read_bytes() == extended)
