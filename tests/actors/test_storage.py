"""The storage as its callers see it: datasets, layers, mags, boxes; what is refused changes nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from magd.acknowledgement import Durability, Revision
from magd.actors.storage import Storage
from magd.actors.types import Bounds, CommitEvent, OperationState, WriteCommand
from magd.catalog.names import DatasetName, LayerName, MagName
from magd.catalog.root import Root
from magd.cubes.header import BlockType
from magd.errors import (
    AlreadyExists,
    Conflict,
    DataLoss,
    InvalidRequest,
    MagdError,
    NotAllowed,
    NotFound,
    OutOfBounds,
    Reason,
    Unavailable,
)
from magd.geometry import BoundingBox, Box, Mag, Vec3
from magd.properties.model import LayerCategory, VoxelSize
from magd.voxels import VoxelArray, VoxelFormat
from tests.actors.conftest import CONFIG
from tests.support.voxels import NANOMETERS, finished, make_mag, read, read_result, until, write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.compression.pool import CompressionPool

BRAIN = DatasetName("brain")
COLOR = LayerName("brain", "color")
UINT8 = VoxelFormat.of("uint8", 1)


def tree_of(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {os.path.relpath(path, folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def ones(*size: int) -> VoxelArray:
    return np.ones(size, dtype="uint8", order="F")


# -- datasets, layers and mags ---------------------------------------------------------------------------------------


async def test_what_is_created_is_listed_and_found(storage: Storage) -> None:
    mag = await make_mag(storage, dtype="uint16", num_channels=3, block_len=32, file_len=4)
    assert [info.name for info in await storage.hierarchy.list_datasets(limit=10, after=None)] == [BRAIN]
    dataset = await storage.hierarchy.get_dataset(BRAIN)
    assert dataset.voxel_size == NANOMETERS
    (layer,) = dataset.layers
    assert (layer.name, layer.category, layer.data_format) == (COLOR, LayerCategory.COLOR, "wkw")
    assert layer.voxels == VoxelFormat.of("uint16", 3)
    assert layer.bounding_box.is_empty
    (info,) = layer.mags
    assert info == await storage.hierarchy.get_mag(mag)
    assert (info.block_len, info.file_len, info.block_type, info.folder) == (32, 4, BlockType.RAW, "color/1")
    assert info.unserved_reason is None


async def test_datasets_are_listed_in_pages_also_those_copied_in_while_it_runs(
    storage: Storage, tmp_path: Path
) -> None:
    for name in ("b", "c", "a"):
        await storage.hierarchy.create_dataset(name, NANOMETERS, exist_ok=False, request_id="")
    first = await storage.hierarchy.list_datasets(limit=2, after=None)
    assert [info.name.dataset for info in first] == ["a", "b"]
    copied = tmp_path / "root" / "bb"
    copied.mkdir()
    (copied / "datasource-properties.json").write_bytes(
        (tmp_path / "root" / "a" / "datasource-properties.json").read_bytes()
    )
    rest = await storage.hierarchy.list_datasets(limit=9, after="b")
    assert [info.name.dataset for info in rest] == ["bb", "c"]
    assert (await storage.hierarchy.get_dataset(DatasetName("bb"))).voxel_size == NANOMETERS


async def test_a_dataset_that_cannot_be_read_is_listed_with_the_reason(storage: Storage, tmp_path: Path) -> None:
    broken = tmp_path / "root" / "broken"
    broken.mkdir()
    (broken / "datasource-properties.json").write_text("{")
    await storage.hierarchy.create_dataset("whole", NANOMETERS, exist_ok=False, request_id="")
    listed = {
        info.name.dataset: info.unserved_reason for info in await storage.hierarchy.list_datasets(limit=9, after=None)
    }
    assert listed["whole"] is None
    assert listed["broken"]
    with pytest.raises(NotAllowed) as refused:
        await storage.hierarchy.get_dataset(DatasetName("broken"))
    assert refused.value.reason is Reason.INVALID_PROPERTIES


async def test_exist_ok_takes_what_is_equal_and_refuses_what_differs(storage: Storage) -> None:
    await make_mag(storage)
    with pytest.raises(AlreadyExists) as refused:
        await storage.hierarchy.create_dataset("brain", NANOMETERS, exist_ok=False, request_id="")
    assert refused.value.reason is Reason.DATASET_EXISTS
    await storage.hierarchy.create_dataset("brain", NANOMETERS, exist_ok=True, request_id="")
    with pytest.raises(AlreadyExists) as refused:
        await storage.hierarchy.create_dataset("brain", VoxelSize(1, 1, 1, "nanometer"), exist_ok=True, request_id="")
    assert refused.value.reason is Reason.EXISTS_WITH_OTHER_PARAMETERS
    assert refused.value.metadata["field"] == "voxel_size"

    async def layer(voxels: VoxelFormat, *, exist_ok: bool) -> None:
        await storage.hierarchy.create_layer(
            BRAIN, "color", LayerCategory.COLOR, voxels, exist_ok=exist_ok, request_id=""
        )

    await layer(UINT8, exist_ok=True)
    with pytest.raises(AlreadyExists):
        await layer(UINT8, exist_ok=False)
    with pytest.raises(AlreadyExists, match="data_type"):
        await layer(VoxelFormat.of("uint16", 1), exist_ok=True)

    async def mag(block_len: int, *, exist_ok: bool) -> None:
        await storage.hierarchy.create_mag(
            COLOR,
            Mag.of(1),
            block_len=block_len,
            file_len=2,
            block_type=BlockType.RAW,
            exist_ok=exist_ok,
            request_id="",
        )

    await mag(8, exist_ok=True)
    with pytest.raises(AlreadyExists) as refused:
        await mag(8, exist_ok=False)
    assert refused.value.reason is Reason.MAG_EXISTS
    with pytest.raises(AlreadyExists, match="block_len"):
        await mag(16, exist_ok=True)


async def test_many_writers_that_start_at_once_make_one_dataset(storage: Storage) -> None:
    async def start(number: int) -> MagName:
        await storage.hierarchy.create_dataset("brain", NANOMETERS, exist_ok=True, request_id=f"d{number}")
        await storage.hierarchy.create_layer(
            BRAIN, "color", LayerCategory.COLOR, UINT8, exist_ok=True, request_id=f"l{number}"
        )
        info = await storage.hierarchy.create_mag(
            COLOR,
            Mag.of(1),
            block_len=8,
            file_len=2,
            block_type=BlockType.RAW,
            exist_ok=True,
            request_id=f"m{number}",
        )
        await write(storage, info.name, (number * 3, 0, 0), ones(3, 5, 5) * np.uint8(number + 1))
        return info.name

    (name, *_) = await asyncio.gather(*[start(number) for number in range(16)])
    whole = (await read_result(storage, name)).data[0]
    assert whole.shape == (48, 5, 5)
    for number in range(16):
        assert (whole[number * 3 : number * 3 + 3] == number + 1).all()


async def test_a_repeated_request_id_gives_the_same_outcome_and_other_arguments_are_refused(
    storage: Storage,
) -> None:
    first = await storage.hierarchy.create_dataset("brain", NANOMETERS, exist_ok=False, request_id="once")
    assert await storage.hierarchy.create_dataset("brain", NANOMETERS, exist_ok=False, request_id="once") == first
    with pytest.raises(InvalidRequest) as refused:
        await storage.hierarchy.create_dataset("other", NANOMETERS, exist_ok=False, request_id="once")
    assert refused.value.reason is Reason.REQUEST_ID_REUSED


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\0b", "ä", "x" * 300])
async def test_names_that_magd_does_not_give_are_refused(storage: Storage, tmp_path: Path, name: str) -> None:
    await make_mag(storage)
    before = tree_of(tmp_path / "root")
    with pytest.raises(InvalidRequest) as refused:
        await storage.hierarchy.create_dataset(name, NANOMETERS, exist_ok=False, request_id="")
    assert refused.value.reason is Reason.INVALID_NAME
    with pytest.raises(InvalidRequest):
        await storage.hierarchy.create_layer(BRAIN, name, LayerCategory.COLOR, UINT8, exist_ok=False, request_id="")
    with pytest.raises(InvalidRequest):
        await storage.hierarchy.rename_layer(COLOR, name, etag="", request_id="")
    assert tree_of(tmp_path / "root") == before


@pytest.mark.parametrize(("block_len", "file_len"), [(0, 1), (3, 1), (256, 1), (8, -1), (8, 129)])
async def test_lengths_that_wkw_does_not_have_are_refused(storage: Storage, block_len: int, file_len: int) -> None:
    await make_mag(storage)
    with pytest.raises(InvalidRequest, match="power of two"):
        await storage.hierarchy.create_mag(
            COLOR,
            Mag.of(2),
            block_len=block_len,
            file_len=file_len,
            block_type=BlockType.RAW,
            exist_ok=False,
            request_id="",
        )
    with pytest.raises(NotFound):
        await storage.hierarchy.get_mag(MagName("brain", "color", Mag.of(2)))


async def test_a_layer_is_renamed_with_its_folder_and_data(storage: Storage, tmp_path: Path) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (1, 2, 3), ones(4, 4, 4))
    renamed = await storage.hierarchy.rename_layer(COLOR, "grey", etag="", request_id="")
    assert renamed.name == LayerName("brain", "grey")
    assert (await read(storage, MagName("brain", "grey", Mag.of(1)), (1, 2, 3), (4, 4, 4))).all()
    assert not (tmp_path / "root/brain/color").exists()
    with pytest.raises(NotFound) as missing:
        await read(storage, mag, (0, 0, 0), (1, 1, 1))
    assert missing.value.reason is Reason.LAYER_NOT_FOUND


async def test_deleting_moves_to_the_trash_and_what_is_made_again_is_empty(storage: Storage, tmp_path: Path) -> None:
    root = tmp_path / "root"
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), ones(4, 4, 4))
    trash_path = await storage.hierarchy.delete_mag(mag, request_id="")
    assert (root / trash_path / "header.wkw").exists()
    with pytest.raises(NotFound):
        await read(storage, mag, (0, 0, 0), (1, 1, 1))
    mag = await make_mag(storage)
    assert not (await read(storage, mag, (0, 0, 0), (4, 4, 4))).any()
    assert (await storage.hierarchy.delete_layer(COLOR, etag="", request_id="")) != ""
    with pytest.raises(NotFound):
        await storage.hierarchy.get_layer(COLOR)
    trash_path = await storage.hierarchy.delete_dataset(BRAIN, etag="", request_id="")
    assert (root / trash_path / "datasource-properties.json").exists()
    assert await storage.hierarchy.list_datasets(limit=9, after=None) == []
    await make_mag(storage)


async def test_names_that_no_dataset_has_leave_nothing_behind(storage: Storage) -> None:
    for number in range(3):
        with pytest.raises(NotFound):
            await storage.hierarchy.delete_dataset(DatasetName(f"no{number}"), etag="", request_id="")

    def none_is_left() -> bool:
        gc.collect()
        return not storage._coordinator.changes._locks

    # A thread may hold what it did last for a moment.
    await until(none_is_left)


async def test_a_write_that_waits_while_its_layer_is_deleted_finds_it_gone(storage: Storage) -> None:
    mag = await make_mag(storage)
    outcomes = await asyncio.gather(
        *[write(storage, mag, (0, 0, i), ones(4, 4, 1)) for i in range(8)],
        storage.hierarchy.delete_layer(COLOR, etag="", request_id=""),
        *[write(storage, mag, (0, 0, i), ones(4, 4, 1)) for i in range(8)],
        return_exceptions=True,
    )
    for outcome in outcomes:
        assert not isinstance(outcome, BaseException) or isinstance(outcome, NotFound), outcome
    with pytest.raises(NotFound):
        await write(storage, mag, (0, 0, 0), ones(1, 1, 1))


# -- properties ------------------------------------------------------------------------------------------------------


async def test_a_bounding_box_grows_with_writes_and_shrinks_only_with_an_etag(storage: Storage) -> None:
    mag = await make_mag(storage, mag="2")
    await write(storage, mag, (5, 0, 0), ones(3, 2, 1))
    layer = await storage.hierarchy.get_layer(COLOR)
    assert layer.bounding_box == BoundingBox(Vec3(10, 0, 0), Vec3(6, 4, 2))
    smaller = BoundingBox(Vec3(10, 0, 0), Vec3(1, 1, 1))
    with pytest.raises(InvalidRequest, match="etag"):
        await storage.hierarchy.update_layer(COLOR, etag="", bounding_box=smaller, request_id="")
    await write(storage, mag, (0, 0, 0), ones(1, 1, 1))
    with pytest.raises(Conflict) as stale:
        await storage.hierarchy.update_layer(COLOR, etag=layer.etag, bounding_box=smaller, request_id="")
    assert stale.value.reason is Reason.ETAG_MISMATCH
    layer = await storage.hierarchy.get_layer(COLOR)
    layer = await storage.hierarchy.update_layer(COLOR, etag=layer.etag, bounding_box=smaller, request_id="")
    assert layer.bounding_box == smaller
    await write(storage, mag, (0, 0, 0), ones(1, 1, 1))
    assert (await storage.hierarchy.get_layer(COLOR)).bounding_box == BoundingBox(Vec3(0, 0, 0), Vec3(11, 2, 2))


async def test_extensions_of_many_mags_and_edits_of_others_are_all_kept(storage: Storage, tmp_path: Path) -> None:
    mags = [await make_mag(storage, mag=name) for name in ("1", "2", "4")]
    file = tmp_path / "root/brain/datasource-properties.json"

    async def edit() -> None:
        tree = json.loads(file.read_bytes())
        tree["note"] = "by somebody else"
        file.write_text(json.dumps(tree))

    await asyncio.gather(*[write(storage, mag, (7 * i, 0, 0), ones(3, 3, 3)) for i in range(4) for mag in mags])
    await edit()
    await asyncio.gather(*[write(storage, mag, (7 * i, 0, 0), ones(3, 3, 3)) for i in range(4, 8) for mag in mags])
    tree = json.loads(file.read_bytes())
    assert tree["note"] == "by somebody else"
    assert (await storage.hierarchy.get_layer(COLOR)).bounding_box == BoundingBox(Vec3(0, 0, 0), Vec3(4 * 52, 12, 12))


async def test_a_stale_box_written_back_by_another_program_does_not_lose_the_extension(
    storage: Storage, tmp_path: Path
) -> None:
    mag = await make_mag(storage)
    file = tmp_path / "root/brain/datasource-properties.json"
    stale = file.read_bytes()
    await write(storage, mag, (0, 0, 0), ones(9, 9, 9))
    for _ in range(3):  # programs write back what they read at their start, again and again
        file.write_bytes(stale)
        with capture_logs() as log:
            layer = await storage.hierarchy.get_layer(COLOR)
        assert layer.bounding_box == BoundingBox(Vec3(0, 0, 0), Vec3(9, 9, 9))
        assert [line["log_level"] for line in log] == ["warning"]


async def test_view_configurations_and_segment_ids_are_updated(storage: Storage) -> None:
    await make_mag(storage)
    dataset = await storage.hierarchy.update_dataset(
        BRAIN, etag="", default_view_configuration={"zoom": 2}, request_id=""
    )
    assert dataset.default_view_configuration == {"zoom": 2}
    layer = await storage.hierarchy.update_layer(
        COLOR, etag="", default_view_configuration={"alpha": 50}, request_id=""
    )
    assert layer.default_view_configuration == {"alpha": 50}
    layer = await storage.hierarchy.update_layer(COLOR, etag=layer.etag, default_view_configuration=None, request_id="")
    assert layer.default_view_configuration is None
    await storage.hierarchy.create_layer(
        BRAIN,
        "segmentation",
        LayerCategory.SEGMENTATION,
        VoxelFormat.of("uint64", 1),
        exist_ok=False,
        request_id="",
    )
    segmentation = LayerName("brain", "segmentation")
    layer = await storage.hierarchy.update_layer(segmentation, etag="", largest_segment_id=2**64 - 1, request_id="")
    assert layer.largest_segment_id == 2**64 - 1


# -- voxels ----------------------------------------------------------------------------------------------------------


async def test_what_was_never_written_is_zero_and_a_read_without_a_box_reads_the_bounding_box(
    storage: Storage,
) -> None:
    mag = await make_mag(storage)
    empty = await storage.volume.check_read(mag, None)
    assert empty[0].is_empty
    await write(storage, mag, (10, 20, 30), ones(5, 6, 7))
    result = await read_result(storage, mag)
    assert result.box == Box.of((10, 20, 30), (5, 6, 7))
    assert result.data.all()
    around = await read(storage, mag, (9, 19, 29), (7, 8, 9))
    assert around.sum() == 5 * 6 * 7


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        ((-1, 0, 0), (1, 1, 1)),
        ((0, 0, 0), (0, 1, 1)),
        ((2**31 - 2, 0, 0), (2, 1, 1)),
        ((0, 0, 0), (1, -5, 1)),
    ],
)
async def test_boxes_that_no_mag_has_are_refused(
    storage: Storage, offset: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    mag = await make_mag(storage)
    box = Box.of(offset, size)
    for attempt in (storage.volume.check_write(mag, box, UINT8, Bounds.EXTEND), storage.volume.check_read(mag, box)):
        with pytest.raises(InvalidRequest) as refused:
            await attempt
        assert refused.value.reason is Reason.INVALID_BOX


async def test_wrong_voxels_and_too_large_boxes_are_refused_before_any_data(storage: Storage, tmp_path: Path) -> None:
    mag = await make_mag(storage)
    before = tree_of(tmp_path / "root")
    box = Box.of((0, 0, 0), (1, 1, 1))
    cases = [
        (VoxelFormat.of("uint16", 1), box, Reason.DATA_TYPE_MISMATCH, r"\.astype\('uint8'\)"),
        (VoxelFormat.of("uint8", 3), box, Reason.CHANNELS_MISMATCH, "num_channels"),
        (UINT8, Box.of((0, 0, 0), (2000, 2000, 2000)), Reason.BOX_TOO_LARGE, "split"),
    ]
    for voxels, wanted, reason, text in cases:
        with pytest.raises(InvalidRequest, match=text) as refused:
            await storage.volume.check_write(mag, wanted, voxels, Bounds.EXTEND)
        assert refused.value.reason is reason
    with pytest.raises(NotFound):
        await storage.volume.check_write(MagName("brain", "color", Mag.of(4)), box, UINT8, Bounds.EXTEND)
    assert tree_of(tmp_path / "root") == before


async def test_bounds_reject_refuses_what_would_grow_the_layer(storage: Storage) -> None:
    mag = await make_mag(storage, mag="2")
    with pytest.raises(OutOfBounds):
        await write(storage, mag, (0, 0, 0), ones(1, 1, 1), bounds=Bounds.REJECT)
    await write(storage, mag, (0, 0, 0), ones(4, 4, 4))
    await write(storage, mag, (3, 3, 3), ones(1, 1, 1), bounds=Bounds.REJECT)
    with pytest.raises(OutOfBounds):
        await write(storage, mag, (3, 3, 3), ones(2, 1, 1), bounds=Bounds.REJECT)
    assert (await storage.hierarchy.get_mag(mag)).bounding_box == Box.of((0, 0, 0), (4, 4, 4))


async def test_a_retry_joins_and_other_content_under_the_same_id_is_refused(storage: Storage) -> None:
    mag = await make_mag(storage)
    attempts = [write(storage, mag, (0, 0, 0), ones(8, 8, 8), request_id="same") for _ in range(4)]
    acks = await asyncio.gather(*attempts)
    assert len({ack.revision for ack in acks}) == 1
    await write(storage, mag, (0, 0, 0), ones(8, 8, 8) * np.uint8(7))
    assert await write(storage, mag, (0, 0, 0), ones(8, 8, 8), request_id="same") == acks[0]
    assert (await read(storage, mag, (0, 0, 0), (8, 8, 8)) == 7).all()
    for offset, data in (((0, 0, 1), ones(8, 8, 8)), ((0, 0, 0), ones(8, 8, 8) * np.uint8(2))):
        with pytest.raises(InvalidRequest) as refused:
            await write(storage, mag, offset, data, request_id="same")
        assert refused.value.reason is Reason.REQUEST_ID_REUSED


async def test_a_write_whose_caller_goes_away_is_done_and_its_memory_given_back(storage: Storage) -> None:
    mag = await make_mag(storage)
    calls = [asyncio.create_task(write(storage, mag, (0, 0, 4 * i), ones(64, 64, 4))) for i in range(8)]
    await until(lambda: any(mag.running for mag in storage.status().mags))
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    data = (await read(storage, mag, (0, 0, 0), (64, 64, 32)))[0]
    assert storage.status().mags[0].writes >= 1
    await storage.flush("")
    assert storage.budget.used_bytes == 0
    for i in range(8):
        part = data[:, :, 4 * i : 4 * i + 4]
        assert part.all() or not part.any()


@pytest.mark.parametrize("compressed", [False, True])
async def test_disjoint_boxes_in_one_block_do_not_lose_each_other(storage: Storage, compressed: bool) -> None:
    mag = await make_mag(storage, block_len=32, file_len=1, compressed=compressed)
    boxes = [(x, y, z) for x in range(0, 32, 8) for y in range(0, 32, 8) for z in range(0, 32, 16)]
    await asyncio.gather(
        *[
            write(storage, mag, offset, np.full((8, 8, 16), number + 1, dtype="uint8"))
            for number, offset in enumerate(boxes)
        ]
    )
    data = (await read(storage, mag, (0, 0, 0), (32, 32, 32)))[0]
    for number, (x, y, z) in enumerate(boxes):
        assert (data[x : x + 8, y : y + 8, z : z + 16] == number + 1).all()


async def test_revisions_rise_with_each_write_and_their_epoch_with_each_start(
    tmp_path: Path, pool: CompressionPool
) -> None:
    mag = MagName("brain", "color", Mag.of(1))
    last = Revision(0, 0)
    for epoch in range(1, 4):
        async with Storage(Root(str(tmp_path)), CONFIG, pool) as storage:
            if epoch == 1:
                await make_mag(storage)
            assert (await read_result(storage, mag, Box.of((0, 0, 0), (1, 1, 1)))).revision == last
            for counter in range(1, 3):
                last = (await write(storage, mag, (0, 0, 0), ones(1, 1, 1))).revision
                assert last == Revision(epoch, counter)


async def test_damage_is_an_error_that_names_the_file_and_the_rest_stays_usable(
    storage: Storage, tmp_path: Path
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), ones(32, 16, 16))
    await storage.flush("")
    damaged = tmp_path / "root/brain/color/1/z0/y0/x0.wkw"
    damaged.write_bytes(damaged.read_bytes()[:100])
    for attempt in (read(storage, mag, (0, 0, 0), (4, 4, 4)), write(storage, mag, (0, 0, 0), ones(4, 4, 4))):
        with pytest.raises(DataLoss) as loss:
            await attempt
        assert loss.value.metadata["file"].endswith("z0/y0/x0.wkw")
    assert (await read(storage, mag, (16, 0, 0), (16, 16, 16))).all()
    findings = [finding async for step in storage.check("", deep=True) for finding in step.findings]
    assert any("z0/y0/x0.wkw" in finding.file for finding in findings)


async def test_flush_makes_everything_durable(storage: Storage) -> None:
    mag = await make_mag(storage)
    ack = await write(storage, mag, (0, 0, 0), ones(8, 8, 8), durability=Durability.PROCESS)
    assert ack.durability is Durability.PROCESS
    assert storage.status().mags[0].unsynced_bytes > 0
    assert await storage.flush("datasets/brain") == 1
    assert storage.status().mags[0].unsynced_bytes == 0
    ack = await write(storage, mag, (0, 0, 0), ones(8, 8, 8), durability=Durability.DISK)
    assert ack.durability is Durability.DISK
    assert storage.status().mags[0].unsynced_bytes == 0


async def test_cube_files_are_listed_in_order_with_what_they_cover(storage: Storage) -> None:
    mag = await make_mag(storage)
    for offset in ((0, 0, 16), (160, 0, 0), (32, 0, 0), (0, 16, 0)):
        await write(storage, mag, offset, ones(4, 4, 4))
    await storage.flush("")
    files = [file async for some in storage.volume.cube_files(mag, None) for file in some]
    assert [file.path for file in files] == ["z0/y0/x2.wkw", "z0/y0/x10.wkw", "z0/y1/x0.wkw", "z1/y0/x0.wkw"]
    assert files[0].box == Box.of((32, 0, 0), (16, 16, 16))
    assert files[0].size_bytes == 16 + 16**3
    some = [file.path async for part in storage.volume.cube_files(mag, Box.of((0, 0, 0), (33, 1, 1))) for file in part]
    assert some == ["z0/y0/x2.wkw"]


async def test_a_compressed_mag_takes_small_writes_at_once_and_rewrites_its_files_later(
    storage: Storage, tmp_path: Path
) -> None:
    mag = await make_mag(storage, compressed=True)
    folder = tmp_path / "root/brain/color/1"
    for i in range(8):
        await write(storage, mag, (2 * i, 0, 0), ones(2, 3, 3) * np.uint8(i + 1))
    listed = [file async for some in storage.volume.cube_files(mag, None) for file in some]
    assert [(file.path, file.pending, file.size_bytes) for file in listed] == [("z0/y0/x0.wkw", True, 0)]
    assert not (folder / "z0").exists()
    expected = np.repeat(np.arange(1, 9, dtype=np.uint8), 2)
    assert (await read(storage, mag, (0, 0, 0), (16, 1, 1))).ravel().tolist() == expected.tolist()
    await storage.flush(str(mag))
    (file,) = [file async for some in storage.volume.cube_files(mag, None) for file in some]
    assert not file.pending
    assert file.size_bytes == (folder / "z0/y0/x0.wkw").stat().st_size
    assert (await read(storage, mag, (0, 0, 0), (16, 1, 1))).ravel().tolist() == expected.tolist()


# -- compression -----------------------------------------------------------------------------------------------------


async def test_compressing_in_place_keeps_every_voxel_and_raises_the_generation(storage: Storage) -> None:
    mag = await make_mag(storage)
    rng = np.random.default_rng(1)
    data = rng.integers(0, 4, (40, 30, 20), dtype=np.uint8)
    await write(storage, mag, (3, 5, 7), data)
    before = await storage.hierarchy.get_mag(mag)
    operation = await storage.compress(mag, target=None, level="auto", request_id="c")
    assert (await storage.compress(mag, target=None, level="auto", request_id="c")).name == operation.name
    done = await finished(storage, operation)
    assert done.state is OperationState.SUCCEEDED
    assert done.result == str(mag)
    assert done.progress.files_done == done.progress.files_total == 3 * 3 * 2
    assert 0 < done.progress.bytes_out < done.progress.bytes_in
    after = await storage.hierarchy.get_mag(mag)
    assert after.block_type is not None
    assert after.block_type.is_compressed
    assert (before.generation, after.generation) == (0, 1)
    assert np.array_equal((await read(storage, mag, (3, 5, 7), (40, 30, 20)))[0], data)
    again = await storage.compress(mag, target=None, level="auto", request_id="")
    assert again.state is OperationState.SUCCEEDED
    await write(storage, mag, (0, 0, 0), ones(5, 5, 5))
    assert (await read(storage, mag, (0, 0, 0), (5, 5, 5))).all()


async def test_compressing_into_another_dataset_leaves_the_source_and_refuses_an_existing_target(
    storage: Storage, tmp_path: Path
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (3, 5, 7), ones(40, 30, 20))
    await storage.flush("")
    source = tree_of(tmp_path / "root/brain")
    done = await finished(storage, await storage.compress(mag, target="small", level=5, request_id=""))
    assert done.state is OperationState.SUCCEEDED, done
    target = MagName("small", "color", Mag.of(1))
    assert done.result == str(target)
    assert (await read(storage, target, (3, 5, 7), (40, 30, 20))).all()
    layer = await storage.hierarchy.get_layer(target.layer_name)
    assert layer.bounding_box == (await storage.hierarchy.get_layer(COLOR)).bounding_box
    assert tree_of(tmp_path / "root/brain") == source
    small = tree_of(tmp_path / "root/small")
    with pytest.raises(AlreadyExists) as refused:
        await storage.compress(mag, target="small", level=5, request_id="")
    assert refused.value.reason is Reason.MAG_EXISTS
    assert tree_of(tmp_path / "root/small") == small


async def test_a_second_compression_of_a_mag_and_its_deletion_wait_for_the_first(storage: Storage) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), ones(64, 64, 64))
    operation = await storage.compress(mag, target=None, level="auto", request_id="")
    for attempt in (
        storage.compress(mag, target=None, level="auto", request_id=""),
        storage.hierarchy.delete_mag(mag, request_id=""),
        storage.hierarchy.delete_dataset(BRAIN, etag="", request_id=""),
        storage.hierarchy.rename_layer(COLOR, "grey", etag="", request_id=""),
    ):
        with pytest.raises(Conflict) as refused:
            await attempt
        assert refused.value.metadata["operation"] == operation.name
    await finished(storage, operation)


async def test_cancelling_leaves_the_mag_as_it_was(storage: Storage, tmp_path: Path) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), ones(64, 64, 64))
    operation = await storage.compress(mag, target=None, level=12, request_id="")
    storage.cancel_operation(operation.name)
    assert (await finished(storage, operation)).state is OperationState.CANCELLED
    info = await storage.hierarchy.get_mag(mag)
    assert info.block_type is BlockType.RAW
    assert (await read(storage, mag, (0, 0, 0), (64, 64, 64))).all()
    assert sorted(os.listdir(tmp_path / "root/brain/color")) == ["1"]


async def test_writes_during_a_compression_are_all_in_the_result(storage: Storage) -> None:
    mag = await make_mag(storage)
    model = np.zeros((64, 64, 64), dtype="uint8", order="F")
    rng = np.random.default_rng(3)
    await write(storage, mag, (0, 0, 0), model)
    operation = await storage.compress(mag, target=None, level="auto", request_id="")
    value = 0
    while not storage.get_operation(operation.name).state.has_ended:
        x, y, z = (int(v) for v in rng.integers(0, 50, 3))
        value = value % 250 + 1
        data = np.full((9, 9, 9), value, dtype="uint8")
        await write(storage, mag, (x, y, z), data)
        model[x : x + 9, y : y + 9, z : z + 9] = value
    assert storage.get_operation(operation.name).state is OperationState.SUCCEEDED
    assert np.array_equal((await read(storage, mag, (0, 0, 0), (64, 64, 64)))[0], model)


async def test_writes_that_wait_behind_the_exchange_do_not_lose_each_other(storage: Storage) -> None:
    # Eight writers, each with a block of its own in one cube file. While it is raw they may run side by side; those
    # that wait while the files are exchanged go into a compressed file, which is rewritten as a whole.
    mag = await make_mag(storage, block_len=8, file_len=2)
    offsets = [(x, y, z) for x in (0, 8) for y in (0, 8) for z in (0, 8)]
    for _ in range(5):
        operation = await storage.compress(mag, target=None, level="fast", request_id="")

        async def keep_writing(offset: tuple[int, int, int], name: str, mag: MagName) -> int:
            value = 0
            for _ in range(40):
                if value and storage.get_operation(name).state.has_ended:
                    break
                value += 1
                await write(storage, mag, offset, ones(8, 8, 8) * np.uint8(value))
            return value

        last = await asyncio.gather(*[keep_writing(offset, operation.name, mag) for offset in offsets])
        assert (await finished(storage, operation)).state is OperationState.SUCCEEDED
        data = (await read(storage, mag, (0, 0, 0), (16, 16, 16)))[0]
        for (x, y, z), value in zip(offsets, last, strict=True):
            assert (data[x : x + 8, y : y + 8, z : z + 8] == value).all()
        await storage.hierarchy.delete_mag(mag, request_id="")
        mag = await make_mag(storage, block_len=8, file_len=2)


# -- the daemon ------------------------------------------------------------------------------------------------------


async def test_a_read_only_storage_serves_and_leaves_no_trace(tmp_path: Path, pool: CompressionPool) -> None:
    async with Storage(Root(str(tmp_path)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), ones(8, 8, 8))
    before = tree_of(tmp_path)
    box = Box.of((0, 0, 0), (1, 1, 1))
    async with Storage(Root(str(tmp_path), read_only=True), CONFIG, pool) as storage:
        assert (await read(storage, mag, (0, 0, 0), (8, 8, 8))).all()
        refused: list[MagdError] = []
        for attempt in (
            storage.volume.check_write(mag, box, UINT8, Bounds.EXTEND),
            storage.hierarchy.create_dataset("new", NANOMETERS, exist_ok=True, request_id=""),
            storage.hierarchy.delete_dataset(BRAIN, etag="", request_id=""),
            storage.compress(mag, target=None, level="auto", request_id=""),
            storage.hierarchy.update_layer(COLOR, etag="x", largest_segment_id=1, request_id=""),
            storage.hierarchy.rename_layer(COLOR, "grey", etag="", request_id=""),
        ):
            with pytest.raises(NotAllowed) as error:
                await attempt
            refused.append(error.value)
        assert {error.reason for error in refused} == {Reason.READ_ONLY}
    assert tree_of(tmp_path) == before


async def test_a_dataset_is_served_by_one_storage_at_a_time(tmp_path: Path, pool: CompressionPool) -> None:
    async with Storage(Root(str(tmp_path)), CONFIG, pool) as first:
        mag = await make_mag(first)
        async with Storage(Root(str(tmp_path)), CONFIG, pool) as second:
            with pytest.raises(NotAllowed) as refused:
                await read(second, mag, (0, 0, 0), (1, 1, 1))
            assert refused.value.reason is Reason.LOCKED


async def test_one_folder_under_two_names_has_one_actor(storage: Storage, tmp_path: Path) -> None:
    mag = await make_mag(storage)
    await make_mag(storage, dataset="alias", layer="other")
    file = tmp_path / "root/alias/datasource-properties.json"
    tree = json.loads(file.read_bytes())
    tree["dataLayers"][0]["mags"][0]["path"] = "../brain/color/1"
    file.write_text(json.dumps(tree))
    await storage.hierarchy.get_dataset(DatasetName("alias"))
    await write(storage, mag, (0, 0, 0), ones(4, 4, 4))
    with pytest.raises(NotAllowed) as refused:
        await write(storage, MagName("alias", "other", Mag.of(1)), (0, 0, 0), ones(4, 4, 4))
    assert refused.value.reason is Reason.LOCKED


@pytest.mark.parametrize("waits_for", ["mag", "dataset"])
async def test_who_waits_for_an_actor_to_end_gets_no_other_one_while_the_storage_drains(
    tmp_path: Path, pool: CompressionPool, waits_for: str
) -> None:
    (tmp_path / "root").mkdir()
    async with asyncio.timeout(30), Storage(Root(str(tmp_path / "root")), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), ones(4, 4, 4))
        registry = storage._registry
        late: asyncio.Task[Any]
        if waits_for == "mag":
            registry._mags[mag].close()
            late = asyncio.create_task(read(storage, mag, (0, 0, 0), (4, 4, 4)))
        else:
            registry._datasets[BRAIN].close()
            late = asyncio.create_task(storage.hierarchy.get_dataset(BRAIN))
        await asyncio.sleep(0)
        assert not late.done()
    with pytest.raises(Unavailable) as refused:
        await late
    assert refused.value.reason is Reason.SHUTTING_DOWN


async def test_draining_finishes_accepted_writes_and_refuses_new_ones(tmp_path: Path, pool: CompressionPool) -> None:
    async with Storage(Root(str(tmp_path)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        calls = [asyncio.create_task(write(storage, mag, (0, 0, 4 * i), ones(64, 64, 4))) for i in range(8)]
        await until(lambda: any(mag.running for mag in storage.status().mags))
        await storage.drain()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(Unavailable):
            await write(storage, mag, (0, 0, 0), ones(1, 1, 1))
    async with Storage(Root(str(tmp_path)), CONFIG, pool) as storage:
        data = (await read(storage, mag, (0, 0, 0), (64, 64, 32)))[0]
    for i, outcome in enumerate(outcomes):
        if not isinstance(outcome, BaseException):
            assert data[:, :, 4 * i : 4 * i + 4].all()
        else:
            assert isinstance(outcome, Unavailable)


async def test_a_mag_that_nobody_uses_is_closed_and_opened_again(tmp_path: Path, pool: CompressionPool) -> None:
    config = replace(CONFIG, idle_seconds=0.01, request_id_window_seconds=0.01)
    async with Storage(Root(str(tmp_path)), config, pool) as storage:
        mag = await make_mag(storage)
        first = await write(storage, mag, (0, 0, 0), ones(4, 4, 4))
        await until(lambda: not storage.status().mags)
        second = await write(storage, mag, (0, 0, 0), ones(4, 4, 4))
        assert second.revision.epoch == first.revision.epoch + 1


async def test_events_tell_of_commits_exchanges_and_properties(storage: Storage) -> None:
    mag = await make_mag(storage)
    watch = await storage.watch(str(mag), None)
    ack = await write(storage, mag, (0, 0, 0), ones(4, 4, 4))
    await finished(storage, await storage.compress(mag, target=None, level="fast", request_id=""))
    seen: list[str] = []
    async with asyncio.timeout(10):
        async for event in watch:
            seen.append(type(event).__name__)
            if {"CommitEvent", "ExchangeEvent", "PropertiesEvent", "OperationEvent"} <= set(seen):
                break
    after = await storage.watch(str(mag), ack.revision)
    second = await write(storage, mag, (0, 0, 0), ones(4, 4, 4))
    async with asyncio.timeout(10):
        async for event in after:
            if isinstance(event, CommitEvent):
                assert event == CommitEvent(mag, Box.of((0, 0, 0), (4, 4, 4)), second.revision)
                break


async def test_a_command_for_a_missing_mag_gives_its_memory_back(storage: Storage) -> None:
    await make_mag(storage)
    box = Box.of((0, 0, 0), (4, 4, 4))
    command = WriteCommand("id", box, UINT8.zeros(box.size), Durability.NONE, Bounds.EXTEND)
    with await storage.budget.lease(64) as lease, pytest.raises(NotFound):
        await storage.volume.write(MagName("brain", "color", Mag.of(8)), command, lease)
    assert storage.budget.used_bytes == 0
