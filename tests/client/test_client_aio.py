"""What the async client does otherwise: loops, awaiting, cancelling, running side by side."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest

import magd_client
from magd.errors import AlreadyExists, Unavailable
from magd_client import aio
from tests.client.conftest import QUICK

if TYPE_CHECKING:
    from tests.client.fake_daemon import FakeDaemon

LARGE = np.random.default_rng(3).integers(0, 255, (150, 140, 130), dtype=np.uint8)


async def test_boxes_slices_and_views(fake: FakeDaemon, async_mag: aio.MagHandle) -> None:
    assert (await async_mag.read()).shape == (1, 0, 0, 0)
    await async_mag.write(LARGE, offset=(1, 2, 3))
    np.testing.assert_array_equal((await async_mag.read())[0], LARGE)
    np.testing.assert_array_equal(await async_mag[5:9, 5:9, 5], LARGE[4:8, 3:7, 2])
    await async_mag.write_at(np.s_[5:9, 5:9, 5], 77)
    assert (await async_mag[5:9, 5:9, 5] == 77).all()
    view = await async_mag.get_view((5, 5, 5), (4, 4, 1))
    assert (await view.read() == 77).all()
    assert (await view[...] == 77).all()
    with pytest.raises(TypeError, match="write_at"):
        async_mag[0:1, 0:1, 0:1] = 1
    assert [file.path async for file in async_mag.cube_files()] == [f"z0/y0/x{x}.wkw" for x in range(3)]


async def test_a_box_above_the_limit_goes_in_pieces(fake: FakeDaemon, async_mag: aio.MagHandle) -> None:
    fake.max_box_bytes = 200_000
    told: list[int] = []
    await async_mag.write(LARGE, progress=lambda done, total: told.append(done))
    np.testing.assert_array_equal((await async_mag.read())[0], LARGE)
    assert len(fake.applied) > 4
    assert told[-1] == LARGE.nbytes


async def test_the_first_failure_of_a_piece_is_raised(fake: FakeDaemon, async_mag: aio.MagHandle) -> None:
    fake.max_box_bytes = 40_000
    fake.fail("WriteBox", AlreadyExists("no"))
    with pytest.raises(AlreadyExists):
        await async_mag.write(LARGE)
    assert fake.calls["WriteBox"] < 20


async def test_many_calls_run_side_by_side(fake: FakeDaemon, async_mag: aio.MagHandle) -> None:
    fake.fail("WriteBox", Unavailable("away"), times=10)
    values = [np.full((3, 3, 3), number, dtype=np.uint8) for number in range(50)]
    await asyncio.gather(*(async_mag.write(value, offset=(3 * number, 0, 0)) for number, value in enumerate(values)))
    read = await asyncio.gather(*(async_mag.read((3 * number, 0, 0), (3, 3, 3)) for number in range(50)))
    assert all((data[0] == value).all() for data, value in zip(read, values, strict=True))


async def test_a_call_can_be_cancelled(fake: FakeDaemon, async_client: aio.Client) -> None:
    task = asyncio.ensure_future(async_client.get_status())
    await async_client.get_server_info()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await async_client.get_server_info()).version == "fake"


async def test_cancelling_a_large_write_ends_its_pieces(fake: FakeDaemon, async_mag: aio.MagHandle) -> None:
    fake.max_box_bytes = 40_000
    fake.fail("WriteBox", Unavailable("away"), times=1_000_000)
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(async_mag.write(LARGE))
    async with asyncio.timeout(10):
        while not fake.calls["WriteBox"]:  # noqa: ASYNC110  # counted in a thread of the fake
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # gRPC ends its own tasks when it has told the daemon.
    async with asyncio.timeout(10):
        while asyncio.all_tasks() != before:  # noqa: ASYNC110  # gRPC has no event for that
            await asyncio.sleep(0.01)


def test_a_client_belongs_to_one_loop(fake: FakeDaemon) -> None:
    client = aio.connect(fake.address, retry=QUICK)

    async def use() -> None:
        await client.get_server_info()

    async def use_and_close() -> None:
        async with aio.connect(fake.address, retry=QUICK) as other:
            await other.get_server_info()

    with asyncio.Runner() as first:
        first.run(use())
        with asyncio.Runner() as second:
            with pytest.raises(RuntimeError, match="another event loop"):
                second.run(use())
            second.run(use_and_close())
        first.run(client.close())
        with pytest.raises(RuntimeError, match="closed"):
            first.run(use())


async def test_handles_are_pickled(fake: FakeDaemon, async_mag: aio.MagHandle) -> None:
    await async_mag.write(LARGE)
    copy = pickle.loads(pickle.dumps(async_mag))
    np.testing.assert_array_equal(await copy.read(), await async_mag.read())


@pytest.mark.parametrize("name", aio.__all__)
def test_the_twins_have_the_same_names_and_arguments(name: str) -> None:
    sync, twin = getattr(magd_client, name), getattr(aio, name)
    assert inspect.signature(sync).parameters.keys() == inspect.signature(twin).parameters.keys()
    if not inspect.isclass(sync):
        return
    rename = {"__enter__": "__aenter__", "__exit__": "__aexit__", "__next__": "__anext__", "__iter__": "__aiter__"}
    for member, value in vars(sync).items():
        if not callable(value) or member.startswith("_abc"):
            continue
        # `__iter__ = None` forbids iteration in both.
        found = vars(twin).get(rename.get(member, member)) or vars(twin).get(member)
        assert found is not None, f"{name}.{member}"
        assert inspect.signature(value).parameters.keys() == inspect.signature(found).parameters.keys()
