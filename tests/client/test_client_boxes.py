"""Boxes, views and slices of the sync client, on voxels in memory."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import magd_client
from magd.errors import AlreadyExists, InvalidRequest, NotAllowed, OutOfBounds, Unavailable
from magd.geometry import BoundingBox, Box, Vec3
from magd.voxels import VoxelFormat
from tests.client.fake_daemon import EXTENT, MAG, FakeDaemon, FakeMag

RANDOM = np.random.default_rng(2)


def volume(*shape: int, dtype: str = "uint8") -> Any:
    return RANDOM.integers(0, 200, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_what_was_written_is_read_in_every_format(
    fake: FakeDaemon, mag: magd_client.MagHandle, dtype: str, num_channels: int
) -> None:
    fake.mags[MAG] = FakeMag(VoxelFormat.of(dtype, num_channels))
    data = volume(num_channels, 7, 8, 9, dtype=dtype)
    mag.write(data, offset=(3, 2, 1))
    read = mag.read((3, 2, 1), (7, 8, 9))
    np.testing.assert_array_equal(read, data)
    assert read.dtype == np.dtype(dtype)
    assert read.flags.f_contiguous


def test_read_without_arguments_reads_the_bounding_box(mag: magd_client.MagHandle) -> None:
    assert mag.read().shape == (1, 0, 0, 0)
    data = volume(7, 8, 9)
    mag.write(data, offset=(3, 2, 1))
    np.testing.assert_array_equal(mag.read()[0], data)
    np.testing.assert_array_equal(mag.read(offset=(4, 4, 4))[0], data[1:, 2:, 3:])
    np.testing.assert_array_equal(mag.read(size=(2, 2, 2))[0], data[:2, :2, :2])
    assert mag.read((0, 0, 0), (20, 20, 20)).sum() == data.sum()
    with pytest.raises(OutOfBounds, match="not inside"):
        mag.read(offset=(10, 2, 1))


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("max_box_bytes", [64 << 20, 2000])
def test_a_box_is_read_into_an_array_that_is_there(
    fake: FakeDaemon, mag: magd_client.MagHandle, num_channels: int, max_box_bytes: int
) -> None:
    fake.mags[MAG] = FakeMag(VoxelFormat.of("uint16", num_channels))
    fake.max_box_bytes = max_box_bytes
    data = volume(num_channels, 17, 18, 19, dtype="uint16")
    mag.write(data, offset=(3, 2, 1))
    around = np.full((num_channels, 17, 18, 21), 9, dtype=np.uint16, order="F")
    out = around[..., 1:-1]
    assert mag.read((3, 2, 1), (17, 18, 19), out=out) is out
    np.testing.assert_array_equal(out, data)
    assert (around[..., [0, -1]] == 9).all()
    out[...] = 0
    assert mag.get_view((3, 2, 1), (17, 18, 19)).read(out=out) is out
    np.testing.assert_array_equal(out, data)
    with pytest.raises(InvalidRequest, match="shape"):
        mag.read((3, 2, 1), (17, 18, 18), out=out)


def test_an_array_without_channels_is_enough_for_one_channel(mag: magd_client.MagHandle) -> None:
    nothing = np.empty((0, 0, 0), dtype=np.uint8, order="F")
    assert mag.read(out=nothing) is nothing
    data = volume(7, 8, 9)
    out = np.zeros((7, 8, 9), dtype=np.uint8, order="F")
    with pytest.raises(InvalidRequest, match="shape"):
        mag.read(out=out)
    mag.write(data)
    assert mag.read(out=out) is out
    np.testing.assert_array_equal(out, data)


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        ((-1, 0, 0), (1, 1, 1)),
        ((0, 0, 0), (0, 1, 1)),
        ((2**31 - 1, 0, 0), (1, 1, 1)),
        ((0, 0), (1, 1, 1)),
        ("abc", "abc"),
    ],
)
def test_a_box_that_is_not_possible_is_refused(mag: magd_client.MagHandle, offset: Any, size: Any) -> None:
    with pytest.raises(InvalidRequest):
        mag.read(offset, size)
    with pytest.raises(InvalidRequest):
        mag.get_view(offset, size, read_only=True)
    with pytest.raises(InvalidRequest):
        next(mag.cube_files(offset, size))


def test_options_that_do_not_exist_are_refused(mag: magd_client.MagHandle, client: magd_client.Client) -> None:
    data, wrong = volume(2, 2, 2), "wrong"
    for call in (
        lambda: mag.write(data, durability=wrong),  # type: ignore[arg-type]
        lambda: mag.write(data, bounds=wrong),  # type: ignore[arg-type]
        lambda: mag.write(data, offset=(-1, 0, 0)),
        lambda: mag.flush(wrong),  # type: ignore[arg-type]
        lambda: mag.compress(level=wrong),  # type: ignore[arg-type]
        lambda: client.dataset("cortex").add_layer("x", category=wrong),  # type: ignore[arg-type]
        lambda: client.dataset("cortex").add_layer("x", dtype="complex64"),
        lambda: client.dataset("cortex").add_layer("x", num_channels=0),
        lambda: client.dataset("cortex").layer("x").add_mag(3),
        lambda: client.dataset("cortex").layer("x").add_mag(1, block_len=2**40),
        lambda: client.dataset("cortex").layer("x").update(largest_segment_id=-1),
        lambda: (
            client.dataset("cortex")
            .layer("x")
            .set_bounding_box(BoundingBox(Vec3(0, 0, 0), Vec3(2**40, 1, 1)), etag="1")
        ),
        lambda: client.create_dataset("x", voxel_size=(1, 2)),
        lambda: client.dataset("a/b"),
        lambda: client.dataset(""),
        lambda: client.dataset("cortex").layer("a\0"),
        lambda: client.operation("a/b"),
        lambda: next(mag.cube_files(offset=(0, 0, 0))),
        lambda: magd_client.connect(durability=wrong),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.metadata


def test_durability_and_bounds_travel(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    acknowledgement = mag.write(volume(2, 2, 2), durability="process", bounds="reject")
    assert acknowledgement.durability is magd_client.Durability.PROCESS
    assert fake.requests[-1].bounds == 2
    with magd_client.connect(fake.address, durability="none") as client:
        mag = client.dataset("cortex").layer("color").mag("1")
        assert mag.write(volume(2, 2, 2)).durability is magd_client.Durability.NONE


def test_a_box_above_the_limit_is_written_and_read_in_pieces_along_cube_files(
    fake: FakeDaemon, mag: magd_client.MagHandle
) -> None:
    fake.max_box_bytes = 100_000
    data = volume(100, 90, 80)
    told: list[tuple[int, int]] = []
    acknowledgement = mag.write(data, offset=(5, 6, 7), progress=lambda *at: told.append(at))
    np.testing.assert_array_equal(mag.read((5, 6, 7), data.shape)[0], data)
    assert len(fake.applied) > 4
    assert acknowledgement.revision.counter == len(fake.applied)
    assert told[-1] == (data.nbytes, data.nbytes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    inner = {piece.offset.x for piece in fake.applied} - {5}
    assert inner
    assert all(x % 32 == 0 for x in inner)
    assert fake.calls["GetServerInfo"] == 1


def test_a_box_within_the_limit_is_never_cut(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    fake.max_box_bytes = 2 << 20
    mag.write(volume(128, 128, 128))
    assert len(fake.applied) == 1


def test_the_first_failure_of_a_piece_is_raised_and_no_further_piece_is_begun(
    fake: FakeDaemon, mag: magd_client.MagHandle
) -> None:
    fake.max_box_bytes = 40_000
    fake.fail("WriteBox", AlreadyExists("no"), when="before")
    with pytest.raises(AlreadyExists):
        mag.write(volume(250, 250, 100))
    assert fake.calls["WriteBox"] < 20


def test_a_bar_is_shown_on_request(mag: magd_client.MagHandle, capsys: pytest.CaptureFixture[str]) -> None:
    mag.write(volume(120, 120, 120), progress=True)
    mag.read(progress=True)
    out = capsys.readouterr().out
    assert f"write {MAG}"[:20] in out
    assert "100%" in out or "MB" in out


def test_slices_read_and_write(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    data = volume(20, 20, 20)
    mag[10:30, 10:30, 10:30] = data
    np.testing.assert_array_equal(mag[...], data)
    np.testing.assert_array_equal(mag[12:15, 11, 20:], data[2:5, 1, 10:])
    assert mag[12, 11, 20] == data[2, 1, 10]
    assert mag[12:12].shape == (0, 20, 20)
    mag[15:, 15, 15] = 9
    data[5:, 5, 5] = 9
    np.testing.assert_array_equal(mag[...], data)
    mag[0:5, 0:5, 0:5] = np.uint8(3)
    assert fake.mag.bounding_box == BoundingBox(Vec3(0, 0, 0), Vec3(30, 30, 30))
    count = len(fake.applied)
    mag[4:4] = 1
    assert len(fake.applied) == count
    for bad in (np.s_[-1], np.s_[0:31], np.s_[::2]):
        with pytest.raises(IndexError):
            mag[bad]
    with pytest.raises(ValueError, match="astype"):
        mag[0:5, 0:5, 0:5] = np.zeros((5, 5, 5))
    with pytest.raises(TypeError):
        iter(mag)


def test_a_view_refuses_what_leaves_it(mag: magd_client.MagHandle) -> None:
    mag.write(volume(20, 20, 20), offset=(10, 10, 10))
    view = mag.get_view((12, 12, 12), (8, 8, 8))
    data = volume(8, 8, 8)
    view.write(data)
    np.testing.assert_array_equal(view.read()[0], data)
    np.testing.assert_array_equal(view[...], data)
    np.testing.assert_array_equal(view[13:15, 12, :], data[1:3, 0, :])
    np.testing.assert_array_equal(view.read((13, 13, 13))[0], data[1:, 1:, 1:])
    view[12:14, 12:14, 12:14] = 5
    assert (mag[12:14, 12:14, 12:14] == 5).all()
    for call in (
        lambda: view.read((11, 12, 12), (1, 1, 1)),
        lambda: view.read((12, 12, 12), (9, 1, 1)),
        lambda: view.write(data, offset=(13, 12, 12)),
        lambda: view.get_view((12, 12, 12), (9, 8, 8)),
        lambda: view[11],
        lambda: view.write_at(np.s_[12:21], 1),
    ):
        with pytest.raises(OutOfBounds):
            call()


def test_a_view_is_of_the_bounding_box_and_inside_of_it_unless_it_is_read_only(
    mag: magd_client.MagHandle,
) -> None:
    with pytest.raises(InvalidRequest):
        mag.get_view()
    mag.write(volume(20, 20, 20), offset=(10, 10, 10))
    assert mag.get_view().box == Box.of((10, 10, 10), (20, 20, 20))
    assert mag.get_view(offset=(15, 15, 15)).box == Box.of((15, 15, 15), (15, 15, 15))
    with pytest.raises(OutOfBounds, match="leaves the bounding box"):
        mag.get_view((0, 0, 0), (30, 30, 30))
    view = mag.get_view((0, 0, 0), (40, 40, 40), read_only=True)
    assert view.read((35, 35, 35), (5, 5, 5)).sum() == 0
    for writable in (view, view.get_view((5, 5, 5), (1, 1, 1))):
        assert writable.read_only
        with pytest.raises(NotAllowed, match="read-only"):
            writable.write(volume(1, 1, 1))
        with pytest.raises(NotAllowed, match="read-only"):
            writable[5, 5, 5] = 1


def test_a_mag_that_is_not_served_is_refused_with_the_reason(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    fake.mag.unserved_reason = "its format is zarr3"
    assert mag.get_info().unserved_reason == "its format is zarr3"
    with pytest.raises(NotAllowed, match="its format is zarr3"):
        mag.read((0, 0, 0), (1, 1, 1))
    with pytest.raises(NotAllowed, match="its format is zarr3"):
        mag.write(volume(1, 1, 1))


def test_all_pages_of_a_listing_are_read(fake: FakeDaemon, client: magd_client.Client) -> None:
    fake.datasets = list("abcde")
    assert [dataset.id for dataset in client.list_datasets()] == list("abcde")
    assert fake.calls["ListDatasets"] == 3
    fake.fail("ListDatasets", Unavailable("away"), times=2)
    assert len(client.list_datasets()) == 5


def test_handles_are_pickled_with_their_address_and_settings(fake: FakeDaemon, client: magd_client.Client) -> None:
    mag = client.dataset("cortex").layer("color").mag(1)
    mag.write(volume(5, 5, 5))
    view = mag.get_view()
    handles = (client.dataset("cortex"), client.dataset("cortex").layer("color"), mag, view, client)
    copies = [pickle.loads(pickle.dumps(handle)) for handle in handles]
    client.close()
    np.testing.assert_array_equal(copies[2].read(), copies[3].read())
    copies[2].write(volume(5, 5, 5), durability="disk")
    assert copies[4].get_server_info().version == "fake"
    assert copies[0].name == "datasets/cortex"
    # Those of one process share a connection: closing one closes all.
    copies[4].close()
    with pytest.raises(RuntimeError, match="closed"):
        copies[2].read()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    boxes=st.lists(
        st.tuples(st.tuples(*[st.integers(0, 40)] * 3), st.tuples(*[st.integers(1, 60)] * 3)), min_size=1, max_size=4
    ),
    max_box_bytes=st.sampled_from([20_000, 100_000, 10**9]),
)
def test_writes_of_any_size_match_an_array(
    fake: FakeDaemon, boxes: list[tuple[tuple[int, int, int], tuple[int, int, int]]], max_box_bytes: int
) -> None:
    fake.max_box_bytes = max_box_bytes
    fake.mags[MAG] = FakeMag(VoxelFormat.of("uint16", 1))
    model = np.zeros((EXTENT,) * 3, np.uint16)
    with magd_client.connect(fake.address) as client:
        mag = client.dataset("cortex").layer("color").mag(1)
        for (x, y, z), (dx, dy, dz) in boxes:
            data = volume(dx, dy, dz, dtype="uint16")
            model[x : x + dx, y : y + dy, z : z + dz] = data
            mag.write(data, (x, y, z))
        np.testing.assert_array_equal(mag.read((0, 0, 0), (100, 100, 100))[0], model[:100, :100, :100])
