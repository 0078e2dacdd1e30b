"""Building coarser mags and bringing them up to date, beside writers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.acknowledgement import Durability, Revision
from magd.actors.downsampler import DownsampleRequest
from magd.actors.storage import Storage
from magd.actors.types import OperationInfo, OperationState
from magd.catalog.names import LayerName, MagName
from magd.catalog.root import Root
from magd.downsampling.boxes import downsample_box
from magd.downsampling.kernels import Method
from magd.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, OutOfBounds, Reason
from magd.geometry import BoundingBox, Box, Mag, Vec3
from magd.voxels import VoxelArray, VoxelFormat
from tests.actors.conftest import CONFIG
from tests.support.voxels import finished, make_mag, read, write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.compression.pool import CompressionPool

COLOR = LayerName("brain", "color")


def mags(*names: str) -> tuple[Mag, ...]:
    return tuple(Mag.of(name) for name in names)


def name_of(mag: str) -> MagName:
    return MagName("brain", "color", Mag.of(mag))


def noise(size: Vec3, dtype: str = "uint8", channels: int = 1, seed: int = 0) -> VoxelArray:
    generator = np.random.default_rng(seed)
    return np.asfortranarray(generator.integers(0, 200, size=(channels, *size)).astype(dtype))


async def downsample(storage: Storage, request: DownsampleRequest) -> OperationInfo:
    return await finished(storage, await storage.downsample(request, request_id=""))


async def bounding_box(storage: Storage) -> BoundingBox:
    return (await storage.hierarchy.get_layer(COLOR)).bounding_box


async def check(storage: Storage, source: str, target: str, method: Method) -> None:
    """The whole coarser mag is what its definition makes of the finer one."""
    box = await bounding_box(storage)
    finer, coarser = Mag.of(source), Mag.of(target)
    bounds, whole = box.in_mag(finer), box.in_mag(coarser)
    inside = await read(storage, name_of(source), bounds.offset, bounds.size)

    def part(wanted: Box) -> VoxelArray:
        x, y, z = wanted.offset - bounds.offset
        return inside[:, x : x + wanted.size.x, y : y + wanted.size.y, z : z + wanted.size.z]

    voxels = VoxelFormat.of(inside.dtype, inside.shape[0])
    expected = downsample_box(whole, coarser.factor // finer.factor, method, bounds, voxels, part)
    assert expected.any()
    np.testing.assert_array_equal(await read(storage, name_of(target), whole.offset, whole.size), expected)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("offset", "size"), [((0, 0, 0), Vec3(40, 33, 21)), ((5, 18, 3), Vec3(37, 20, 30))])
async def test_coarser_mags_are_made_one_from_the_other(
    storage: Storage, offset: tuple[int, int, int], size: Vec3, compressed: bool
) -> None:
    mag = await make_mag(storage, dtype="uint16", num_channels=2, compressed=compressed)
    await write(storage, mag, offset, noise(size, "uint16", 2))
    before = await bounding_box(storage)
    ended = await downsample(storage, DownsampleRequest(COLOR, targets=mags("2-2-1", "4-4-2", "8")))
    assert ended.state is OperationState.SUCCEEDED, ended.failure
    assert ended.result == str(COLOR)
    assert ended.progress.files_done == ended.progress.files_total > 0
    assert ended.progress.bytes_done == ended.progress.bytes_total > 0
    await check(storage, "1", "2-2-1", Method.MEDIAN)
    await check(storage, "2-2-1", "4-4-2", Method.MEDIAN)
    await check(storage, "4-4-2", "8", Method.MEDIAN)
    assert await bounding_box(storage) == before
    source = await storage.hierarchy.get_mag(mag)
    for info in (await storage.hierarchy.get_layer(COLOR)).mags:
        assert (info.block_len, info.file_len, info.block_type) == (8, 2, source.block_type)


@pytest.mark.parametrize("method", Method)
async def test_every_method_is_used_as_asked(storage: Storage, method: Method) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), noise(Vec3(20, 20, 20)) % 4)
    await downsample(storage, DownsampleRequest(COLOR, targets=mags("2"), method=method))
    await check(storage, "1", "2", method)


async def test_which_mags_follows_from_the_voxel_size(storage: Storage) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), noise(Vec3(20, 20, 20)))
    await downsample(storage, DownsampleRequest(COLOR))
    layer = await storage.hierarchy.get_layer(COLOR)
    assert [info.name.mag.name for info in layer.mags] == ["1", "2-2-1", "4-4-2"]
    again = await storage.downsample(DownsampleRequest(COLOR, source=Mag.of("4-4-2")), request_id="")
    assert again.state is OperationState.SUCCEEDED


async def test_a_layer_without_data_gets_empty_mags(storage: Storage) -> None:
    await make_mag(storage)
    ended = await downsample(storage, DownsampleRequest(COLOR))
    assert ended.state is OperationState.SUCCEEDED, ended.failure
    assert not (await read(storage, name_of("2-2-1"), (0, 0, 0), (9, 9, 9))).any()


@pytest.mark.parametrize("compressed", [False, True])
async def test_what_is_written_meanwhile_is_in_the_coarser_mags(storage: Storage, compressed: bool) -> None:
    mag = await make_mag(storage, compressed=compressed)
    await write(storage, mag, (0, 0, 0), noise(Vec3(128, 128, 64)))
    started = await storage.downsample(DownsampleRequest(COLOR, targets=mags("2", "4")), request_id="")
    generator = np.random.default_rng(3)
    seen, count = (await storage.hierarchy.get_mag(mag)).revision, 0
    while not storage.get_operation(started.name).state.has_ended and count < 60:
        written = await write(
            storage, mag, generator.integers(0, 53, size=3).tolist(), noise(Vec3(11, 7, 9), seed=count)
        )
        now = storage.get_operation(started.name)
        if now.progress.files_done < now.progress.files_total:
            # Acknowledged while files were still being made: it must be in them, or be brought up to date at the end.
            seen, count = written.revision, count + 1
    ended = await finished(storage, started)
    assert ended.state is OperationState.SUCCEEDED, ended.failure
    assert count > 0
    # What was written in the last moment may be missing.
    await downsample(storage, DownsampleRequest(COLOR, update=True, changed_since=seen))
    await check(storage, "1", "2", Method.MEDIAN)
    await check(storage, "2", "4", Method.MEDIAN)


async def test_an_update_after_some_writes_changes_only_what_they_touch(storage: Storage, tmp_path: Path) -> None:
    mag = await make_mag(storage, compressed=True)
    await write(storage, mag, (0, 0, 0), noise(Vec3(64, 48, 40)))
    await downsample(storage, DownsampleRequest(COLOR, targets=mags("2", "4")))
    before = await write(storage, mag, (1, 1, 1), noise(Vec3(3, 3, 3), seed=1))
    await downsample(storage, DownsampleRequest(COLOR, update=True, region=BoundingBox(Vec3(1, 1, 1), Vec3(3, 3, 3))))
    await check(storage, "1", "2", Method.MEDIAN)
    # A mark where nothing is written: an update that touches it would remove it.
    await write(storage, name_of("2"), (30, 20, 18), np.full((1, 1, 1), 255, dtype="uint8"))
    await write(storage, mag, (20, 21, 22), noise(Vec3(5, 9, 2), seed=2))
    ended = await downsample(storage, DownsampleRequest(COLOR, update=True, changed_since=before.revision))
    assert ended.state is OperationState.SUCCEEDED, ended.failure
    assert ended.progress.bytes_done == 3 * 5 * 1 + 2 * 3 * 1
    assert (await read(storage, name_of("2"), (30, 20, 18), (1, 1, 1)))[0, 0, 0, 0] == 255
    await downsample(storage, DownsampleRequest(COLOR, update=True, targets=mags("2")))
    await check(storage, "1", "2", Method.MEDIAN)
    await check(storage, "2", "4", Method.MEDIAN)


async def test_an_update_without_changes_does_nothing(storage: Storage) -> None:
    mag = await make_mag(storage)
    written = await write(storage, mag, (0, 0, 0), noise(Vec3(20, 20, 20)))
    await downsample(storage, DownsampleRequest(COLOR, targets=mags("2")))
    ended = await downsample(storage, DownsampleRequest(COLOR, update=True, changed_since=written.revision))
    assert (ended.state, ended.progress.bytes_total) == (OperationState.SUCCEEDED, 0)


async def test_a_revision_that_nobody_remembers_is_refused(storage: Storage) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), noise(Vec3(20, 20, 20)))
    await downsample(storage, DownsampleRequest(COLOR, targets=mags("2")))
    request = DownsampleRequest(COLOR, update=True, changed_since=Revision(-1, 0))
    with pytest.raises(OutOfBounds) as refused:
        await storage.downsample(request, request_id="")
    assert refused.value.reason is Reason.EVENTS_LOST


async def test_an_update_survives_a_restart(tmp_path: Path, pool: CompressionPool) -> None:
    root = tmp_path / "root"
    root.mkdir()
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), noise(Vec3(20, 20, 20)))
        await downsample(storage, DownsampleRequest(COLOR, targets=mags("2")))
        await write(storage, mag, (0, 0, 0), noise(Vec3(9, 9, 9), seed=4), durability=Durability.DISK)
        await downsample(storage, DownsampleRequest(COLOR, update=True))
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        await check(storage, "1", "2", Method.MEDIAN)


async def test_what_cannot_be_done_is_refused_and_changes_nothing(storage: Storage) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), noise(Vec3(20, 20, 20)))
    await make_mag(storage, mag="4")
    region = BoundingBox(Vec3(0, 0, 0), Vec3(1, 1, 1))
    refusals = [
        (DownsampleRequest(LayerName("brain", "none")), NotFound),
        (DownsampleRequest(COLOR, source=Mag.of("2")), NotFound),
        (DownsampleRequest(COLOR, targets=mags("2", "4")), AlreadyExists),
        (DownsampleRequest(COLOR, targets=mags("2-2-4", "2")), InvalidRequest),
        (DownsampleRequest(COLOR, targets=mags("32")), InvalidRequest),
        (DownsampleRequest(COLOR, region=region), InvalidRequest),
        (DownsampleRequest(COLOR, changed_since=Revision(1, 0)), InvalidRequest),
        (DownsampleRequest(COLOR, update=True, targets=mags("2")), NotFound),
        (DownsampleRequest(COLOR, update=True, source=Mag.of("4"), targets=mags("1")), InvalidRequest),
    ]
    for request, error in refusals:
        with pytest.raises(error):
            await storage.downsample(request, request_id="")
    assert storage.list_operations(resource="", limit=9, after=None) == []
    assert len((await storage.hierarchy.get_layer(COLOR)).mags) == 2


async def test_while_it_runs_the_layer_takes_no_other_operation_and_a_cancel_leaves_no_half_mag(
    storage: Storage, tmp_path: Path
) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), noise(Vec3(96, 96, 96)))
    started = await storage.downsample(DownsampleRequest(COLOR, targets=mags("2")), request_id="")
    with pytest.raises(Conflict):
        await storage.compress(mag, target=None, level="fast", request_id="")
    with pytest.raises(Conflict):
        await storage.downsample(DownsampleRequest(COLOR, targets=mags("4")), request_id="")
    storage.cancel_operation(started.name)
    assert (await finished(storage, started)).state is OperationState.CANCELLED
    layer = await storage.hierarchy.get_layer(COLOR)
    assert [info.name for info in layer.mags] == [mag]
    assert [path.name for path in (tmp_path / "root" / "brain" / "color").iterdir()] == ["1"]
    await write(storage, mag, (0, 0, 0), noise(Vec3(8, 8, 8)))
    assert (await downsample(storage, DownsampleRequest(COLOR, targets=mags("2")))).state is OperationState.SUCCEEDED
    await check(storage, "1", "2", Method.MEDIAN)


async def test_updates_and_reads_of_the_coarser_mag_run_side_by_side(storage: Storage) -> None:
    mag = await make_mag(storage, compressed=True)
    await write(storage, mag, (0, 0, 0), np.full((32, 32, 32), 1, dtype="uint8"))
    await downsample(storage, DownsampleRequest(COLOR, targets=mags("2")))
    await write(storage, mag, (0, 0, 0), np.full((32, 32, 32), 2, dtype="uint8"))
    started = await storage.downsample(DownsampleRequest(COLOR, update=True), request_id="")
    while not storage.get_operation(started.name).state.has_ended:
        assert len(np.unique(await read(storage, name_of("2"), (0, 0, 0), (16, 16, 16)))) == 1
    assert (await read(storage, name_of("2"), (0, 0, 0), (16, 16, 16)) == 2).all()
