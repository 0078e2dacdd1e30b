"""Changes of folders and properties that an error or a crash cut short, as a daemon meets them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magd import atomic
from magd.actors.storage import Storage
from magd.catalog import folders, intents, settling
from magd.catalog.names import DatasetName, LayerName, MagName
from magd.catalog.root import Root
from magd.cubes.header import BlockType
from magd.errors import DataLoss, MagdError, NotAllowed, NotFound, Reason
from magd.geometry import Mag
from magd.properties.edits import RenameLayer
from magd.properties.file import PROPERTIES_NAME, PropertiesFile
from magd.properties.model import LayerCategory
from magd.voxels import VoxelFormat
from tests.actors.conftest import CONFIG
from tests.support.voxels import make_mag, read, until, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from magd.compression.pool import CompressionPool
    from magd.properties.forms import JsonObject
    from magd.voxels import VoxelArray

BRAIN = DatasetName("brain")
COLOR = LayerName("brain", "color")
ALL = ((0, 0, 0), (16, 16, 16))


def home(tmp_path: Path) -> Path:
    return tmp_path / "root" / "brain"


def filled(value: int) -> VoxelArray:
    return np.full((16, 16, 16), value, "uint8", order="F")


def fail(monkeypatch: pytest.MonkeyPatch, where: Callable[[str], bool]) -> None:
    """Let every rename to a place fail that fits."""
    rename: Callable[..., Any] = os.rename
    no_replace, exchange = atomic.rename_no_replace, atomic.exchange

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(source: str, target: str, **how: Any) -> Any:
            if where(str(target)):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(source, target, **how)

        return run

    monkeypatch.setattr(os, "rename", failing(rename))
    monkeypatch.setattr(atomic, "rename_no_replace", failing(no_replace))
    monkeypatch.setattr(atomic, "exchange", failing(exchange))


async def add_mag(storage: Storage, mag: str, layer: LayerName = COLOR) -> None:
    await storage.hierarchy.create_mag(
        layer, Mag.of(mag), block_len=8, file_len=2, block_type=BlockType.RAW, exist_ok=False, request_id=""
    )


async def add_layer(storage: Storage, layer: str) -> None:
    await storage.hierarchy.create_layer(
        BRAIN, layer, LayerCategory.COLOR, VoxelFormat.of("uint8", 1), exist_ok=False, request_id=""
    )


async def test_a_deletion_that_the_disk_does_not_let_end_ends_with_the_next_change(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(7))
    with monkeypatch.context() as patch:
        fail(patch, lambda target: "/trash/" in target)
        with pytest.raises(DataLoss):
            await storage.hierarchy.delete_mag(mag, request_id="")
        with pytest.raises(NotFound):
            await storage.hierarchy.get_mag(mag)
        assert (home(tmp_path) / intents.INTENT_NAME).exists()
        with pytest.raises(DataLoss):  # nothing further is changed on top of it
            await add_mag(storage, "1")
        assert not (await storage.hierarchy.get_layer(COLOR)).mags
    await add_mag(storage, "1")
    assert not (await read(storage, mag, *ALL)).any()
    assert not (home(tmp_path) / intents.INTENT_NAME).exists()
    (trashed,) = (home(tmp_path) / ".magd" / "trash").iterdir()
    assert trashed.name.startswith("1-")


async def test_a_creation_whose_properties_cannot_be_saved_leaves_nothing(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_mag(storage)
    before = sorted(os.walk(home(tmp_path)))
    with monkeypatch.context() as patch:
        patch.setattr(PropertiesFile, "_replace", _no_space)
        with pytest.raises(MagdError):
            await add_mag(storage, "2")
        with pytest.raises(MagdError):
            await add_layer(storage, "more")
        with pytest.raises(MagdError):
            await storage.hierarchy.rename_layer(COLOR, "new", etag="", request_id="")
        assert sorted(os.walk(home(tmp_path))) == before
    await add_mag(storage, "2")
    await add_layer(storage, "more")
    await storage.hierarchy.rename_layer(COLOR, "new", etag="", request_id="")


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["short", "long", "layer"])
async def test_what_another_tool_made_is_neither_taken_nor_removed(tmp_path: Path, storage: Storage, what: str) -> None:
    await make_mag(storage)
    place = home(tmp_path) / {"short": "color/2", "long": "color/2-2-2", "layer": "new"}[what]
    place.mkdir()
    (place / "header.wkw").write_text("theirs")
    change = (
        storage.hierarchy.rename_layer(COLOR, "new", etag="", request_id="")
        if what == "layer"
        else add_mag(storage, "2")
    )
    with pytest.raises(MagdError) as caught:
        await change
    assert caught.value.reason is (Reason.LAYER_EXISTS if what == "layer" else Reason.MAG_EXISTS)
    assert (place / "header.wkw").read_text() == "theirs"
    assert not (home(tmp_path) / intents.INTENT_NAME).exists()


async def cut_short(tmp_path: Path, pool: CompressionPool) -> None:
    """Leave the renaming of a layer as it is when the properties have just been saved."""
    (tmp_path / "root").mkdir()
    async with Storage(Root(str(tmp_path / "root")), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), filled(7))
    folder = str(home(tmp_path))
    intent = intents.renaming(folder, old="color", new="new")
    assert intent is not None
    settling.begin(folder, intent)
    PropertiesFile(os.path.join(folder, PROPERTIES_NAME)).save([RenameLayer("color", "new")])


async def test_a_start_settles_what_was_cut_short(tmp_path: Path, pool: CompressionPool) -> None:
    await cut_short(tmp_path, pool)
    async with Storage(Root(str(tmp_path / "root")), CONFIG, pool) as storage:
        await until(lambda: not (home(tmp_path) / intents.INTENT_NAME).exists())
        assert (await read(storage, MagName("brain", "new", Mag.of(1)), *ALL) == 7).all()
    assert (home(tmp_path) / "new").is_dir()
    assert not (home(tmp_path) / "new").is_symlink()
    assert "color" not in os.listdir(home(tmp_path))


async def test_a_read_only_daemon_leaves_it_and_serves_what_the_properties_say(
    tmp_path: Path, pool: CompressionPool
) -> None:
    await cut_short(tmp_path, pool)
    before = sorted(os.walk(tmp_path))
    async with Storage(Root(str(tmp_path / "root"), read_only=True), CONFIG, pool) as storage:
        assert (await read(storage, MagName("brain", "new", Mag.of(1)), *ALL) == 7).all()
        with pytest.raises(NotAllowed) as caught:
            async for _ in storage.check("", deep=False, repair=True):
                pass
        assert caught.value.reason is Reason.READ_ONLY
    assert sorted(os.walk(tmp_path)) == before


async def test_an_intent_that_nobody_understands_stops_changes_of_this_kind_and_nothing_else(
    tmp_path: Path, storage: Storage
) -> None:
    mag = await make_mag(storage)
    (home(tmp_path) / intents.INTENT_NAME).write_text("{}")
    await write(storage, mag, (0, 0, 0), filled(7))
    assert (await read(storage, mag, *ALL) == 7).all()
    layer = await storage.hierarchy.get_layer(COLOR)
    assert tuple(layer.bounding_box.size) == (16, 16, 16)
    for change in (
        lambda: add_mag(storage, "2"),
        lambda: add_layer(storage, "more"),
        lambda: storage.hierarchy.delete_mag(mag, request_id=""),
        lambda: storage.hierarchy.delete_layer(COLOR, etag="", request_id=""),
        lambda: storage.hierarchy.rename_layer(COLOR, "new", etag="", request_id=""),
    ):
        with pytest.raises(NotAllowed) as caught:
            await change()
        assert caught.value.reason is Reason.CHANGED_ON_DISK
        assert caught.value.metadata["file"] == str(home(tmp_path) / intents.INTENT_NAME)
    assert (home(tmp_path) / intents.INTENT_NAME).read_text() == "{}"
    await storage.hierarchy.delete_dataset(BRAIN, etag="", request_id="")


# -- an exchange with a change of the properties --


@dataclass(frozen=True)
class CubeLength:
    length: int

    def apply(self, tree: JsonObject) -> None:
        tree["dataLayers"][0]["mags"][0]["cubeLength"] = self.length


@pytest.mark.parametrize("fails", ["", "the properties", "the exchange"])
async def test_an_exchange_of_files_and_properties_is_as_before_or_as_after(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(7))
    folder, work = home(tmp_path) / "color" / "1", home(tmp_path) / "color" / ".1.magd-new-9-9"

    async def swap() -> None:
        if fails == "the exchange":
            raise DataLoss("not now")
        folders.exchange_mag_folders(str(folder), str(work))

    async def exchange() -> None:
        async with storage._registry.holding(str(mag)):
            shutil.copytree(folder, work)
            (work / "new").write_text("x")
            with monkeypatch.context() as patch:
                if fails == "the properties":
                    patch.setattr(PropertiesFile, "_replace", _no_space)
                await storage._coordinator.exchange(mag, str(folder), str(work), 32, CubeLength(32), swap)

    if fails:
        with pytest.raises(MagdError):
            await storage._coordinator.changes.once("", "brain", (), exchange)
    else:
        await storage._coordinator.changes.once("", "brain", (), exchange)
    tree = json.loads((home(tmp_path) / PROPERTIES_NAME).read_text())
    is_after = tree["dataLayers"][0]["mags"][0]["cubeLength"] == 32
    assert is_after is (fails != "the properties")
    assert (folder / "new").exists() is is_after
    assert not (home(tmp_path) / intents.INTENT_NAME).exists()
    assert (await read(storage, mag, *ALL) == 7).all()


async def test_no_mag_is_opened_whose_files_are_about_to_go(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written into the old files would be lost when the exchange is finished."""
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), filled(7))
    folder, work = home(tmp_path) / "color" / "1", home(tmp_path) / "color" / ".1.magd-new-9-9"

    async def swap() -> None:
        raise DataLoss("not now")

    async def exchange() -> None:
        async with storage._registry.holding(str(mag)):
            shutil.copytree(folder, work)
            (work / "new").write_text("x")
            await storage._coordinator.exchange(mag, str(folder), str(work), 32, CubeLength(32), swap)

    with monkeypatch.context() as patch:
        fail(patch, lambda target: target.endswith((".1.magd-new-9-9", ".1.magd-old")))
        with pytest.raises(DataLoss):
            await storage._coordinator.changes.once("", "brain", (), exchange)
        with pytest.raises(DataLoss):
            await write(storage, mag, (0, 0, 0), filled(8))
    await write(storage, mag, (0, 0, 0), filled(9))
    assert (folder / "new").exists()
    assert (await read(storage, mag, *ALL) == 9).all()


# -- repair --


async def test_a_repair_beside_the_daemon_removes_what_is_left_and_passes_over_what_is_in_use(
    tmp_path: Path, storage: Storage
) -> None:
    used, idle = await make_mag(storage), await make_mag(storage, dataset="other")
    for mag in (used, idle):
        await write(storage, mag, (0, 0, 0), filled(7))
    await storage.flush("")
    async with storage._registry.holding(str(idle)):
        pass
    left = []
    for dataset in ("brain", "other"):
        layer = tmp_path / "root" / dataset / "color"
        (layer / ".1.magd-new-7-1").mkdir()
        side = layer / "1" / ".magd" / "journal" / "0000000000009999.side"
        side.write_text("x")
        left += [str(path.relative_to(tmp_path / "root")) for path in (layer / ".1.magd-new-7-1", side)]
    steps = [step async for step in storage.check("", deep=True, repair=True)]
    removed = [file for step in steps for file in step.removed]
    assert sorted(removed) == sorted(set(left) - {"brain/color/1/.magd/journal/0000000000009999.side"})
    assert not [finding for step in steps for finding in step.findings]
    assert steps[-1].files_checked == 2
    for mag in (used, idle):
        assert (await read(storage, mag, *ALL) == 7).all()
    with pytest.raises(NotFound):
        [step async for step in storage.check("datasets/none", deep=True, repair=True)]
