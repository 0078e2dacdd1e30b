"""Shared memory over a real server: what clients of any language see of leases, and of boxes that lie in regions."""

# ruff: noqa: ASYNC230, ASYNC240  # looking at small files in memory blocks nobody here

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
import pytest

from magd.actors.regions import GRAIN_BYTES, Regions
from magd.actors.threads import Threads
from magd.errors import Reason
from magd.rpc import sharing
from magd.v1.types_pb2 import ENCODING_LZ4, ORDER_C
from magd.v1.volume_pb2 import (
    ReadBoxRequest,
    ReadBoxResponse,
    SharedMemory,
    ShareMemoryRequest,
    ShareMemoryResponse,
    WriteBoxRequest,
)
from magd.voxels import VoxelFormat
from tests.rpc.fake_storage import NAME, FakeStorage
from tests.rpc.serving import failure_of, served, volume_stub
from tests.rpc.test_write_box import box_message, header, until, write, write_failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SIZE = (16, 16, 16)
BYTES = 16**3
DATA = bytes(np.random.default_rng(1).integers(0, 256, BYTES, dtype=np.uint8))


class Leasing:
    """A client's stream of leases."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: Any = volume_stub(channel).ShareMemory()

    async def lease(self, size_bytes: int) -> ShareMemoryResponse:
        await self.call.write(ShareMemoryRequest(lease_bytes=size_bytes))
        answer = await self.call.read()
        assert isinstance(answer, ShareMemoryResponse)
        return answer

    async def release(self, name: str) -> None:
        await self.call.write(ShareMemoryRequest(release=name))


@asynccontextmanager
async def sharing_server(folder: Path) -> AsyncIterator[tuple[FakeStorage, grpc.aio.Channel]]:
    """A server that shares memory. At the end nothing is left of it."""
    storage = FakeStorage(VoxelFormat.of("uint8", 1))
    threads = Threads(2)
    storage.regions = Regions(storage.budget, threads, limit_bytes=8 * GRAIN_BYTES, parent=str(folder))
    await storage.regions.open()
    async with served(storage.as_storage()) as server:
        yield storage, server.channel
        await asyncio.gather(*storage.work, return_exceptions=True)
    await storage.regions.close()
    threads.close()
    assert storage.budget.used_bytes == 0
    assert os.listdir(folder) == []


async def read(channel: grpc.aio.Channel, **fields: Any) -> list[ReadBoxResponse]:
    request = ReadBoxRequest(name=NAME, box=box_message((0, 0, 0), SIZE), **fields)
    return [response async for response in volume_stub(channel).ReadBox(request)]


async def test_the_first_message_can_name_the_whole_box(tmp_path: Path) -> None:
    async with sharing_server(tmp_path) as (storage, channel):
        leased = await Leasing(channel).lease(10)
        assert leased.size_bytes == GRAIN_BYTES
        with open(leased.path, "r+b") as file:
            file.seek(100)
            file.write(DATA)
        shared = SharedMemory(region=leased.region, offset=100, size=BYTES)
        await write(channel, [header(SIZE, shared_memory=shared)])
        assert storage.committed[0].data.tobytes(order="F") == DATA


async def test_parts_in_messages_and_in_regions_may_be_mixed(tmp_path: Path) -> None:
    async with sharing_server(tmp_path) as (storage, channel):
        leasing = Leasing(channel)
        first, second = await leasing.lease(1), await leasing.lease(1)
        for leased in (first, second):
            with open(leased.path, "r+b") as file:
                file.write(DATA)
        parts = [
            WriteBoxRequest(shared_memory=SharedMemory(region=first.region, offset=10, size=90)),
            WriteBoxRequest(data=DATA[100:1000]),
            WriteBoxRequest(shared_memory=SharedMemory(region=second.region, offset=1000, size=BYTES - 1000)),
        ]
        start = header(SIZE, data=DATA[:10])
        await write(channel, [start, *parts])
        assert storage.committed[0].data.tobytes(order="F") == DATA
        failure = await write_failure(channel, [start, *parts[:2]])
        assert failure.reason == Reason.DATA_LENGTH_MISMATCH
        failure = await write_failure(channel, [start, *parts, parts[0]])
        assert failure.reason == Reason.DATA_LENGTH_MISMATCH
        assert len(storage.committed) == 1


async def test_a_read_fills_the_region_as_far_as_there_is_room(tmp_path: Path) -> None:
    async with sharing_server(tmp_path) as (storage, channel):
        storage.data[0, :16, :16, :16] = np.frombuffer(DATA, np.uint8).reshape(SIZE, order="F")
        leased = await Leasing(channel).lease(1)
        for offset, size in ((0, BYTES), (77, GRAIN_BYTES - 77)):
            shared = SharedMemory(region=leased.region, offset=offset, size=size)
            (response,) = await read(channel, shared_memory=shared)
            assert response.box == box_message((0, 0, 0), SIZE)
            assert response.shared_memory == SharedMemory(region=leased.region, offset=offset, size=BYTES)
            assert response.data == b""
            with open(leased.path, "rb") as file:
                assert os.pread(file.fileno(), BYTES, offset) == DATA
        (response,) = await read(channel, shared_memory=SharedMemory(region=leased.region, size=BYTES - 1))
        assert response.data == DATA
        assert not response.HasField("shared_memory")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"data": b"1"}, "shared_memory"),
        ({"order": ORDER_C}, "shared_memory"),
        ({"encoding": ENCODING_LZ4, "decoded_size": 4}, "shared_memory"),
    ],
)
async def test_what_does_not_go_with_a_region_is_refused(tmp_path: Path, fields: dict[str, Any], field: str) -> None:
    async with sharing_server(tmp_path) as (storage, channel):
        leased = await Leasing(channel).lease(1)
        shared = SharedMemory(region=leased.region, size=BYTES)
        failure = await write_failure(channel, [header(SIZE, shared_memory=shared, **fields)])
        assert (failure.code, failure.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        assert storage.committed == []


@pytest.mark.parametrize(
    ("offset", "size", "known"), [(0, BYTES, False), (-1, BYTES, True), (GRAIN_BYTES - 1, 2, True), (0, -1, True)]
)
async def test_regions_and_ranges_that_are_not_there_are_refused(
    tmp_path: Path, offset: int, size: int, known: bool
) -> None:
    async with sharing_server(tmp_path) as (storage, channel):
        leased = await Leasing(channel).lease(1)
        shared = SharedMemory(region=leased.region if known else "../x", offset=offset, size=size)
        failure = await write_failure(channel, [header(SIZE, shared_memory=shared)])
        assert (failure.code, failure.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "shared_memory")
        failure = await failure_of(read(channel, shared_memory=shared))
        assert (failure.code, failure.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "shared_memory")
        assert storage.committed == []


async def test_where_there_is_no_memory_the_answer_is_empty_and_comes_at_once(tmp_path: Path) -> None:
    async with sharing_server(tmp_path) as (storage, channel):
        leasing = Leasing(channel)
        assert await leasing.lease(4 * GRAIN_BYTES + 1) == ShareMemoryResponse()
        whole = await leasing.lease(4 * GRAIN_BYTES)
        assert whole.region
        assert await leasing.lease(1) == ShareMemoryResponse()
        await leasing.release(whole.region)
        assert (await leasing.lease(1)).region == whole.region
        assert storage.budget.used_bytes == 4 * GRAIN_BYTES


async def test_when_the_stream_ends_the_regions_are_taken_back(tmp_path: Path) -> None:
    async with sharing_server(tmp_path) as (storage, channel):
        for end in ("half-close", "cancel"):
            leasing = Leasing(channel)
            leased = await leasing.lease(1)
            if end == "cancel":
                leasing.call.cancel()
            else:
                await leasing.call.done_writing()
                assert await leasing.call.code() is grpc.StatusCode.OK
            await until(lambda: storage.budget.used_bytes == 0)
            shared = SharedMemory(region=leased.region, size=BYTES)
            failure = await write_failure(channel, [header(SIZE, shared_memory=shared)])
            assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
            assert not os.path.exists(leased.path)


@pytest.mark.parametrize(
    "wrong", [ShareMemoryRequest(), ShareMemoryRequest(release="x"), ShareMemoryRequest(lease_bytes=-1)]
)
async def test_a_wrong_question_ends_the_stream_with_its_reason(tmp_path: Path, wrong: ShareMemoryRequest) -> None:
    async with sharing_server(tmp_path) as (storage, channel):
        leasing = Leasing(channel)
        await leasing.lease(1)
        await leasing.call.write(wrong)
        failure = await failure_of(leasing.call.read())
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        await until(lambda: storage.budget.used_bytes == 0)


async def test_a_stream_without_a_region_ends_after_a_while_and_one_with_a_region_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "QUIET_SECONDS", 0.05)
    async with sharing_server(tmp_path) as (storage, channel):
        quiet, leasing = Leasing(channel), Leasing(channel)
        leased = await leasing.lease(1)
        assert await quiet.call.code() is grpc.StatusCode.OK
        assert not leasing.call.done()
        await leasing.release(leased.region)
        assert await leasing.call.code() is grpc.StatusCode.OK
        await until(lambda: storage.budget.used_bytes == 0)
