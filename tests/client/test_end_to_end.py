"""The client and a real daemon: what a user does in the first hour."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import magd_client
from magd.geometry import BoundingBox, Box, Vec3
from magd_client import aio

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

RANDOM = np.random.default_rng(5)


def volume(*shape: int, dtype: str = "uint8") -> Any:
    return RANDOM.integers(0, 200, shape).astype(dtype)


@pytest.fixture
def address(serve: Serve, tmp_path: Path) -> str:
    """Of a daemon on an empty root."""
    return serve(tmp_path).grpc


def make_mag(client: magd_client.Client, **options: Any) -> magd_client.MagHandle:
    dataset = client.create_dataset("cortex", voxel_size=(11.24, 11.24, 28.0), exist_ok=True)
    layer = dataset.add_layer("color", dtype="uint8", exist_ok=True)
    return layer.add_mag("1", **{"block_len": 8, "file_len": 4, **options})


def test_datasets_layers_and_mags_are_made_listed_changed_and_deleted(address: str) -> None:
    with magd_client.connect(address) as client:
        dataset = client.create_dataset("cortex", voxel_size=(11.24, 11.24, 28.0), unit="nanometer")
        with pytest.raises(magd_client.AlreadyExists):
            client.create_dataset("cortex", voxel_size=(11.24, 11.24, 28.0))
        client.create_dataset("cortex", voxel_size=(11.24, 11.24, 28.0), exist_ok=True)
        layer = dataset.add_layer("segments", category="segmentation", dtype=np.uint32)
        for mag in (1, "2", "4-4-2"):
            layer.add_mag(mag, compressed=mag == "2")
        assert [info.id for info in client.list_datasets()] == ["cortex"]
        assert [info.id for info in layer.list_mags()] == ["1", "2", "4-4-2"]
        assert [info.compressed for info in layer.list_mags()] == [False, True, False]
        info = dataset.get_info()
        assert info.voxel_size == (11.24, 11.24, 28.0)
        assert info.layers[0] == dataset.list_layers()[0] == layer.get_info()
        assert (info.layers[0].category, info.layers[0].dtype) == ("segmentation", "uint32")
        updated = layer.update(largest_segment_id=2**40, default_view_configuration={"color": [1, 2, 3]})
        assert updated.largest_segment_id == 2**40
        assert updated.default_view_configuration == {"color": [1, 2, 3]}
        assert layer.update(default_view_configuration=None).default_view_configuration is None
        assert dataset.update(default_view_configuration={"zoom": 1}).default_view_configuration == {"zoom": 1}
        renamed = layer.rename("neurons")
        assert renamed.get_info().id == "neurons"
        with pytest.raises(magd_client.NotFound):
            layer.get_info()
        renamed.mag("4-4-2").delete()
        assert len(renamed.list_mags()) == 2
        renamed.delete()
        assert dataset.list_layers() == []
        dataset.delete()
        assert client.list_datasets() == []


def test_voxels_are_written_and_read_with_the_bounding_box_and_the_files_following(
    serve: Serve, tmp_path: Path, any_address: str
) -> None:
    with magd_client.connect(serve(tmp_path, grpc=any_address).grpc) as client:
        mag = make_mag(client)
        layer = client.dataset("cortex").layer("color")
        assert layer.get_bounding_box().is_empty
        data = volume(50, 60, 70)
        acknowledgement = mag.write(data, offset=(10, 20, 30))
        assert acknowledgement.durability is magd_client.Durability.DISK
        assert acknowledgement.revision < mag.write(data[:1], offset=(10, 20, 30)).revision
        np.testing.assert_array_equal(mag.read()[0], data)
        mag[0:4, 0:4, 5] = 9
        assert (mag[0:4, 0:4, 5] == 9).all()
        assert layer.get_bounding_box() == BoundingBox(Vec3(0, 0, 5), Vec3(60, 80, 95))
        with pytest.raises(magd_client.OutOfBounds):
            mag.write(data, offset=(11, 21, 31), bounds="reject")
        mag.flush()
        files = list(mag.cube_files())
        assert all(file.box.size == Vec3(32, 32, 32) for file in files)
        assert [file.box.offset for file in mag.cube_files((0, 0, 0), (1, 1, 6))] == [Vec3(0, 0, 0)]
        etag = layer.get_info().etag
        shrunk = layer.set_bounding_box(BoundingBox(Vec3(10, 20, 30), Vec3(50, 60, 70)), etag=etag)
        assert shrunk.bounding_box == BoundingBox(Vec3(10, 20, 30), Vec3(50, 60, 70))
        with pytest.raises(magd_client.Conflict):
            layer.set_bounding_box(BoundingBox.empty(), etag=etag)
        np.testing.assert_array_equal(mag.get_view()[...], data)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_slices_match_numpy(address: str, num_channels: int) -> None:
    with magd_client.connect(address) as client:
        dataset = client.create_dataset("cortex", voxel_size=(1, 1, 1))
        mag = dataset.add_layer("x", dtype="uint16", num_channels=num_channels).add_mag(1, block_len=8, file_len=1)
        data = volume(num_channels, 20, 20, 20, dtype="uint16")
        mag.write(data)
        model = data if num_channels > 1 else data[0]
        for key in (np.s_[...], np.s_[0, 3:9], np.s_[..., 4], np.s_[:, 2:3, 5:], np.s_[0, ..., 1:2, 7]):
            np.testing.assert_array_equal(mag[key], model[key])
        mag[..., 3:6, 7] = np.uint16(5)
        model[..., 3:6, 7] = 5
        np.testing.assert_array_equal(mag[...], model)


def test_a_large_box_with_a_small_part_of_the_limit(address: str) -> None:
    with magd_client.connect(address) as client:
        mag = make_mag(client, block_len=32, file_len=2)
        data = volume(200, 200, 200)
        told: list[tuple[int, int]] = []
        mag.write(np.ascontiguousarray(data), durability="none", progress=lambda *at: told.append(at))
        np.testing.assert_array_equal(mag.read(progress=lambda *at: told.append(at))[0], data)
        assert told[-1] == (data.nbytes, data.nbytes)


def test_a_mag_is_compressed_while_it_is_read(address: str) -> None:
    with magd_client.connect(address) as client:
        mag = make_mag(client)
        data = np.kron(volume(10, 10, 10), np.ones((8, 8, 8), np.uint8))
        mag.write(data)
        told: list[int] = []
        operation = mag.compress(level="auto")
        info = client.operation(operation.name).wait(progress=lambda done, total: told.append(done))
        assert info.state == "succeeded"
        assert told[-1] == info.progress.bytes_done == info.progress.bytes_total
        assert info.progress.files_done == info.progress.files_total
        assert operation.get_progress() == info.progress
        assert [info.name for info in client.list_operations(mag)] == [operation.name]
        assert mag.get_info().compressed
        np.testing.assert_array_equal(mag.read()[0], data)
        assert mag.compress().wait().state == "succeeded"
        with pytest.raises(magd_client.NotFound):
            client.operation("nothing").get_info()


def test_events_are_told(address: str) -> None:
    with magd_client.connect(address) as client:
        mag = make_mag(client)
        with client.watch(mag, timeout=60) as events:
            acknowledgement = mag.write(volume(3, 3, 3), offset=(1, 1, 1))
            event = next(event for event in events if isinstance(event, magd_client.CommitEvent))
            assert event == magd_client.CommitEvent(mag.name, Box.of((1, 1, 1), (3, 3, 3)), acknowledgement.revision)


def test_the_daemon_tells_of_itself(address: str) -> None:
    with magd_client.connect(address, name="test") as client:
        info = client.get_server_info()
        assert info.limits.max_box_bytes > 0
        assert not info.read_only
        mag = make_mag(client)
        mag.write(volume(3, 3, 3))
        status = client.get_status()
        assert [found.name for found in status.mags] == [mag.name]
        assert status.mags[0].state == "serving"
        assert status.mags[0].writes == 1
        client.flush()
        client.flush("disk")
        steps = list(client.check(mag, deep=True))
        assert steps[-1].files_damaged == 0
        assert steps[-1].files_checked > 0


def test_an_error_names_field_and_value(address: str) -> None:
    with magd_client.connect(address) as client:
        with pytest.raises(magd_client.InvalidRequest) as caught:
            client.create_dataset("..", voxel_size=(1, 1, 1))
        assert caught.value.reason is magd_client.Reason.INVALID_NAME
        assert caught.value.metadata["field"] == "dataset_id"
        assert ".." in caught.value.metadata["value"]
        with pytest.raises(magd_client.NotFound) as missing:
            client.dataset("cortex").get_info()
        assert missing.value.reason is magd_client.Reason.DATASET_NOT_FOUND


def test_threads_write_boxes_that_overlap_and_each_is_whole(address: str) -> None:
    with magd_client.connect(address) as client:
        mag = make_mag(client)
        mag.write(np.zeros((40, 40, 40), np.uint8))

        def write(value: int) -> None:
            for _ in range(5):
                mag.write(np.full((30, 30, 30), value, np.uint8), offset=(5, 5, 5), durability="none")

        threads = [threading.Thread(target=write, args=(value,)) for value in range(1, 5)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert len(np.unique(mag.read((5, 5, 5), (30, 30, 30)))) == 1
        for thread in threads:
            thread.join()


async def test_the_async_client_does_it_all_the_same(address: str) -> None:
    async with aio.connect(address) as client:
        dataset = await client.create_dataset("cortex", voxel_size=(1, 1, 1))
        layer = await dataset.add_layer("color")
        mag = await layer.add_mag(1, block_len=8, file_len=2)
        data = volume(130, 130, 130)
        async with client.watch(mag) as events:
            acknowledgement = await mag.write(data, offset=(1, 2, 3))
            async for event in events:
                if isinstance(event, magd_client.CommitEvent):
                    assert event.revision == acknowledgement.revision
                    break
        np.testing.assert_array_equal((await mag.read())[0], data)
        await mag.write_at(np.s_[5:9, 5:9, 5:9], 3)
        assert (await mag[5:9, 5:9, 5:9] == 3).all()
        operation = await mag.compress()
        assert (await operation.wait()).state == "succeeded"
        assert {file.block_type async for file in mag.cube_files()} <= {"lz4", "lz4hc"}
        await client.flush()
        assert [info.id for info in await client.list_datasets()] == ["cortex"]
        with pytest.raises(magd_client.NotFound):
            await client.dataset("nothing").get_info()
        assert [step.files_damaged async for step in client.check()][-1] == 0


def test_several_who_correct_labels_at_once_lose_nothing(address: str) -> None:
    with magd_client.connect(address) as client:
        mag = make_mag(client)
        mag.write(np.full((8, 8, 8), 1, np.uint8), offset=(0, 0, 0))
        seen = mag.get_info().revision
        correction = np.zeros((8, 8, 8), np.uint8)
        correction[2] = 7
        mag.write(correction, offset=(0, 0, 0), only_nonzero=True)
        expected = np.full((8, 8, 8), 1, np.uint8)
        expected[2] = 7
        assert np.array_equal(mag.read(offset=(0, 0, 0), size=(8, 8, 8))[0], expected)
        with pytest.raises(magd_client.Conflict) as refused:
            mag.write(correction, offset=(0, 0, 0), if_revision=seen)
        assert refused.value.reason == "REVISION_MISMATCH"
        assert np.array_equal(mag.read(offset=(0, 0, 0), size=(8, 8, 8))[0], expected)
        mag.write(correction, offset=(0, 0, 0), if_revision=mag.get_info().revision)
        assert np.array_equal(mag.read(offset=(0, 0, 0), size=(8, 8, 8))[0], correction)


@pytest.mark.parametrize("encoding", ["lz4", "raw", "auto"])
def test_boxes_travel_compressed_if_the_client_wants_that(address: str, encoding: Any) -> None:
    data = np.asfortranarray(np.repeat(volume(16, 16, 16), 8, axis=0).repeat(8, axis=1).repeat(8, axis=2))
    with magd_client.connect(address, encoding=encoding) as client:
        mag = make_mag(client)
        mag.write(data, offset=(3, 5, 7))
        assert np.array_equal(mag.read((3, 5, 7), data.shape)[0], data)
        mag.write(volume(9, 9, 9), offset=(0, 0, 0))


def test_an_encoding_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(magd_client.InvalidRequest, match="encoding"):
        magd_client.connect(address, encoding="zip")  # type: ignore[arg-type]
