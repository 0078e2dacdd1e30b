"""What the client makes of a daemon that fails at every moment of a call."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import pytest

import magd_client
from magd.errors import (
    Busy,
    Conflict,
    DataLoss,
    DiskFull,
    InternalError,
    InvalidRequest,
    MagdError,
    NotFound,
    OutOfBounds,
    Reason,
    TooSlow,
    Unavailable,
)
from magd.voxels import VoxelFormat
from magd_client import aio
from tests.client.conftest import QUICK
from tests.client.fake_daemon import MAG, FakeDaemon, FakeMag, When

if TYPE_CHECKING:
    from magd.voxels import VoxelArray

SMALL = np.full((5, 5, 5), 7, dtype=np.uint8)
LARGE = np.random.default_rng(1).integers(0, 255, (130, 130, 130), dtype=np.uint8)  # three parts

RETRIED = [
    Unavailable("the daemon drains"),
    Unavailable("the actor stopped", reason=Reason.ACTOR_STOPPED),
    Unavailable("unknown", reason=Reason.OUTCOME_UNKNOWN),
    Busy("no memory", retry_after=0.001),
]
FINAL = [
    DiskFull("full"),
    Conflict("etag", reason=Reason.ETAG_MISMATCH),
    DataLoss("damaged"),
    InternalError("bug"),
    OutOfBounds("outside"),
    TooSlow("too slow"),
]


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("when", ["before", "midway", "after"])
@pytest.mark.parametrize("error", RETRIED, ids=lambda error: error.reason)
def test_a_write_that_fails_for_a_while_is_applied_once(
    fake: FakeDaemon, mag: magd_client.MagHandle, error: MagdError, when: When, data: VoxelArray
) -> None:
    fake.fail("WriteBox", error, when=when, times=3)
    acknowledgement = mag.write(data, offset=(1, 2, 3))
    assert acknowledgement.revision.counter == 1
    assert len(fake.applied) == 1
    assert len({request.request_id for request in fake.requests}) == 1
    np.testing.assert_array_equal(mag.read((1, 2, 3), data.shape)[0], data)


@pytest.mark.parametrize("when", ["before", "midway", "after"])
async def test_an_async_write_that_fails_for_a_while_is_applied_once(
    fake: FakeDaemon, async_mag: aio.MagHandle, when: When
) -> None:
    fake.fail("WriteBox", Unavailable("away"), when=when, times=3)
    await async_mag.write(LARGE)
    assert len(fake.applied) == 1
    np.testing.assert_array_equal((await async_mag.read())[0], LARGE)


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_other_failures_of_a_write_are_raised_at_once(
    fake: FakeDaemon, mag: magd_client.MagHandle, error: MagdError
) -> None:
    fake.fail("WriteBox", error)
    with pytest.raises(type(error)):
        mag.write(SMALL)
    assert fake.calls["WriteBox"] == 1
    assert fake.applied == []


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
async def test_other_failures_of_an_async_write_are_raised_at_once(
    fake: FakeDaemon, async_mag: aio.MagHandle, error: MagdError
) -> None:
    fake.fail("WriteBox", error)
    with pytest.raises(type(error)):
        await async_mag.write(LARGE)
    assert fake.calls["WriteBox"] == 1
    assert fake.applied == []


@pytest.mark.parametrize("when", ["before", "midway"])
def test_a_read_that_breaks_off_begins_again(fake: FakeDaemon, mag: magd_client.MagHandle, when: When) -> None:
    mag.write(LARGE)
    fake.fail("ReadBox", Unavailable("away"), when=when, times=3)
    told: list[int] = []
    data = mag.read((0, 0, 0), LARGE.shape, progress=lambda done, total: told.append(done))
    np.testing.assert_array_equal(data[0], LARGE)
    assert fake.calls["ReadBox"] == 4
    assert told[-1] == LARGE.nbytes == max(told)


async def test_an_async_read_that_breaks_off_begins_again(fake: FakeDaemon, async_mag: aio.MagHandle) -> None:
    await async_mag.write(LARGE)
    fake.fail("ReadBox", Busy("full", retry_after=0.001), when="midway", times=3)
    np.testing.assert_array_equal((await async_mag.read((0, 0, 0), LARGE.shape))[0], LARGE)


def test_a_change_is_repeated_with_its_id(fake: FakeDaemon, client: magd_client.Client) -> None:
    fake.fail("CreateDataset", Unavailable("lost after it was done"), when="after", times=2)
    client.create_dataset("new", voxel_size=(1, 1, 1))
    assert fake.calls["CreateDataset"] == 3
    assert len(fake.datasets) == 2


def test_a_daemon_that_stays_away_is_given_up_at_the_deadline(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    fake.fail("WriteBox", Unavailable("the daemon drains"), times=1_000_000)
    mag.get_info()
    with pytest.raises(Unavailable, match="the daemon drains") as caught:
        mag.write(SMALL, timeout=0.1)
    assert caught.value.reason is Reason.SHUTTING_DOWN
    assert caught.value.metadata["request_id"] in str(caught.value)
    assert fake.calls["WriteBox"] > 2


def test_a_write_without_an_answer_says_that_its_outcome_is_unknown(
    fake: FakeDaemon, mag: magd_client.MagHandle
) -> None:
    fake.fail("WriteBox", TooSlow("the deadline passed"), when="after")
    with pytest.raises(TooSlow, match=r"not known whether the write of .* was committed") as caught:
        mag.write(SMALL)
    assert fake.calls["WriteBox"] == 1
    request_id = caught.value.metadata["request_id"]
    assert request_id in str(caught.value)
    assert mag.write(SMALL, request_id=request_id).revision.counter == 1
    assert len(fake.applied) == 1


def test_the_parts_of_a_large_box_wait_for_the_grant(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    fake.grant_after_seconds = 0.1
    mag.write(LARGE)
    assert not fake.came_early
    assert fake.messages == [4]
    assert fake.requests[0].data == b""


async def test_the_parts_of_an_async_large_box_wait_for_the_grant(fake: FakeDaemon, async_mag: aio.MagHandle) -> None:
    fake.grant_after_seconds = 0.1
    await async_mag.write(LARGE)
    assert not fake.came_early
    assert fake.messages == [4]


def test_a_small_box_goes_with_the_first_message(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    mag.write(SMALL)
    assert fake.messages == [1]


def test_a_listing_is_repeated_until_it_has_begun_but_not_after(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    fake.fail("ListCubeFiles", Unavailable("away"), times=2)
    assert [file.path[-5] for file in mag.cube_files()] == ["0", "1", "2"]
    fake.fail("ListCubeFiles", Unavailable("away"), when="midway")
    files = mag.cube_files()
    next(files)
    with pytest.raises(Unavailable):
        next(files)
    assert fake.calls["ListCubeFiles"] == 4


def test_a_mag_that_was_made_anew_with_other_voxels_is_noticed(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    mag.write(SMALL)
    fake.mags[MAG] = FakeMag(VoxelFormat.of("uint16", 1))
    with pytest.raises(Conflict, match="made anew: it had voxels of uint8, it has voxels of uint16"):
        mag.read((0, 0, 0), (5, 5, 5))
    assert mag.read((0, 0, 0), (5, 5, 5)).dtype == np.uint16
    fake.mags[MAG] = FakeMag(VoxelFormat.of("uint8", 1))
    mag.write(SMALL)
    fake.mags[MAG] = FakeMag(VoxelFormat.of("uint16", 1))
    with pytest.raises(InvalidRequest, match="other voxels"):
        mag.write(SMALL)
    with pytest.raises(InvalidRequest, match="astype"):
        mag.write(SMALL)


def test_many_threads_share_a_client(fake: FakeDaemon, client: magd_client.Client) -> None:
    fake.fail("WriteBox", Unavailable("away"), times=5)
    fake.fail("ReadBox", Busy("full", retry_after=0.001), times=5)
    mag = client.dataset("cortex").layer("color").mag(1)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(10):
                value = np.full((3, 3, 3), number * 10 + i, dtype=np.uint8)
                mag.write(value, offset=(number * 3, i * 3, 0))
                assert (mag.read((number * 3, i * 3, 0), (3, 3, 3))[0] == value).all()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(fake.applied) == 80


def test_a_closed_client_refuses_calls(fake: FakeDaemon) -> None:
    with magd_client.connect(fake.address, retry=QUICK) as client:
        client.get_server_info()
    with pytest.raises(RuntimeError, match="closed"):
        client.get_server_info()
    client.close()


def test_a_name_that_is_not_there_is_raised(client: magd_client.Client) -> None:
    with pytest.raises(NotFound) as caught:
        client.dataset("cortex").layer("color").mag("2-2-1").get_info()
    assert caught.value.reason is Reason.MAG_NOT_FOUND


def test_a_daemon_that_comes_back_is_found_again() -> None:
    with FakeDaemon() as first:
        client = magd_client.connect(first.address, timeout=20.0)
        client.get_server_info()
    restarted = threading.Event()

    def restart() -> None:
        daemon = FakeDaemon(first.address)
        stack.enter_context(daemon)
        restarted.set()

    with ExitStack() as stack, client:
        threading.Timer(0.3, restart).start()
        assert client.get_server_info().version == "fake"
        assert restarted.wait(10)


def test_ids_of_a_user_that_are_no_uuid_are_taken(fake: FakeDaemon, mag: magd_client.MagHandle) -> None:
    fake.max_box_bytes = 40_000
    for request_id in ("step-17", str(uuid4())):
        data = LARGE[:70, :70, :70]
        mag.write(data, request_id=request_id)
        count = len(fake.applied)
        mag.write(data, request_id=request_id)
        assert len(fake.applied) == count
