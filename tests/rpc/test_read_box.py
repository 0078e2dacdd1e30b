"""ReadBox over a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.errors import Busy, Reason
from magd.geometry import Box
from magd.rpc.admission import MAX_MESSAGE_BYTES, PART_BYTES, STREAM_BYTES, EdgeConfig
from magd.v1.types_pb2 import (
    DATA_TYPE_UINT8,
    DATA_TYPE_UINT16,
    ENCODING_LZ4,
    ENCODING_RAW,
    ORDER_C,
    ORDER_FORTRAN,
)
from magd.v1.volume_pb2 import ReadBoxRequest, ReadBoxResponse, SharedMemory
from magd.voxels import VoxelFormat
from tests.rpc.fake_storage import NAME
from tests.rpc.serving import failure_of, volume_stub
from tests.rpc.test_write_box import box_message, fake_server, until

UINT8 = VoxelFormat.of("uint8", 1)


async def read(channel: Any, **fields: Any) -> list[ReadBoxResponse]:
    return [response async for response in volume_stub(channel).ReadBox(ReadBoxRequest(name=NAME, **fields))]


@settings(max_examples=20, deadline=None)
@given(
    offset=st.tuples(*[st.integers(0, 40)] * 3),
    size=st.tuples(*[st.integers(1, 20)] * 3),
    dtype=st.sampled_from(["uint8", "int16", "uint32", "float64"]),
    num_channels=st.integers(1, 3),
)
async def test_a_box_is_read_as_it_is(
    offset: tuple[int, int, int], size: tuple[int, int, int], dtype: str, num_channels: int
) -> None:
    voxels = VoxelFormat.of(dtype, num_channels)
    async with fake_server(voxels) as (storage, channel):
        storage.data[:, :64, :64, :64] = np.random.default_rng(3).integers(0, 100, (num_channels, 64, 64, 64))
        responses = await read(channel, box=box_message(offset, size))
        first = responses[0]
        assert first.box == box_message(offset, size)
        assert first.num_channels == num_channels
        assert first.order == ORDER_FORTRAN
        assert first.encoding == ENCODING_RAW
        assert (first.revision.epoch, first.revision.counter) == (1, 0)
        data = np.frombuffer(b"".join(response.data for response in responses), voxels.dtype)
        x, y, z = (slice(start, start + length) for start, length in zip(offset, size, strict=True))
        expected = storage.data[:, x, y, z]
        assert np.array_equal(data.reshape((num_channels, *size), order="F"), expected)


async def test_a_large_box_comes_in_parts_and_the_fields_only_with_the_first() -> None:
    async with fake_server() as (storage, channel):
        size = (256, 256, 65)
        storage.data[0, :256, :256, :65] = np.random.default_rng(3).integers(0, 256, size, dtype=np.uint8)
        responses = await read(channel, box=box_message((0, 0, 0), size))
        assert [len(response.data) for response in responses] == [PART_BYTES] * 4 + [256 * 256]
        assert responses[0].data_type == DATA_TYPE_UINT8
        for response in responses[1:]:
            assert response == ReadBoxResponse(data=response.data)
        assert all(response.ByteSize() <= 2 << 20 <= MAX_MESSAGE_BYTES for response in responses)
        raw = b"".join(response.data for response in responses)
        expected = storage.data[0, :256, :256, :65]
        assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(size, order="F"), expected)


async def test_without_a_box_the_bounding_box_is_read() -> None:
    async with fake_server() as (storage, channel):
        storage.bounding_box = Box.of((3, 4, 5), (2, 2, 2))
        (response,) = await read(channel)
        assert response.box == box_message((3, 4, 5), (2, 2, 2))
        assert len(response.data) == 8


async def test_where_there_is_no_data_yet_the_answer_is_one_message_without_voxels() -> None:
    async with fake_server(VoxelFormat.of("uint16", 2)) as (_, channel):
        (response,) = await read(channel)
        assert response.box == box_message((0, 0, 0), (0, 0, 0))
        assert (response.data_type, response.num_channels) == (DATA_TYPE_UINT16, 2)
        assert response.data == b""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order", 17),
        ("encoding", 17),
        ("shared_memory", SharedMemory(region="r")),
    ],
)
async def test_a_field_that_this_version_does_not_do_is_refused(field: str, value: Any) -> None:
    async with fake_server() as (storage, channel):
        failure = await failure_of(read(channel, **{field: value}))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNIMPLEMENTED, Reason.NOT_IMPLEMENTED)
        assert failure.metadata == {"field": field}
        assert storage.checked == 0


async def test_a_bad_box_and_a_bad_name_are_refused_before_the_storage_is_asked() -> None:
    async with fake_server() as (storage, channel):
        failure = await failure_of(read(channel, box=box_message((0, 0, -1), (1, 1, 1))))
        assert (failure.reason, failure.metadata["field"]) == (Reason.INVALID_BOX, "box")
        call = volume_stub(channel).ReadBox(ReadBoxRequest(name="datasets/a/layers/../mags/1"))
        failure = await failure_of(anext(aiter(call)))
        assert (failure.reason, failure.metadata["field"]) == (Reason.INVALID_NAME, "name")
        assert storage.checked == 0


async def test_a_mag_that_does_not_exist_is_not_found() -> None:
    async with fake_server() as (_, channel):
        call = volume_stub(channel).ReadBox(ReadBoxRequest(name="datasets/a/layers/b/mags/1"))
        failure = await failure_of(anext(aiter(call)))
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, Reason.MAG_NOT_FOUND)


async def test_a_read_waits_for_memory_and_is_then_told_to_come_back() -> None:
    async with fake_server(budget_bytes=1000, patience=0.05) as (storage, channel):
        with await storage.budget.lease(storage.budget.largest_bytes):
            failure = await failure_of(read(channel, box=box_message((0, 0, 0), (4, 4, 4))))
        assert (failure.code, failure.retry_seconds) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0)
        storage.fail = Busy("full", retry_after=7)
        failure = await failure_of(read(channel, box=box_message((0, 0, 0), (1, 1, 1))))
        assert failure.retry_seconds == 7.0


@pytest.mark.parametrize("read_first", [False, True])
async def test_a_client_that_vanishes_while_it_reads_gives_its_memory_back(read_first: bool) -> None:
    async with fake_server(budget_bytes=128 << 20) as (storage, channel):
        request = ReadBoxRequest(name=NAME, box=box_message((0, 0, 0), (512, 512, 256)))
        if not read_first:
            storage.gate.clear()
        call = volume_stub(channel).ReadBox(request)
        if read_first:
            await call.read()
        else:
            await until(storage.reached_gate.is_set)
        assert storage.budget.used_bytes == 512 * 512 * 256 + STREAM_BYTES
        call.cancel()
        await until(lambda: storage.budget.used_bytes == 0)


async def test_a_client_that_stops_reading_loses_its_call_and_its_memory() -> None:
    config = EdgeConfig(stall_seconds=0.2, min_rate_bytes_per_second=1)
    async with fake_server(config=config, budget_bytes=128 << 20) as (storage, channel):
        request = ReadBoxRequest(name=NAME, box=box_message((0, 0, 0), (512, 512, 256)))
        call = volume_stub(channel).ReadBox(request)
        await call.read()
        await until(lambda: storage.budget.used_bytes == 0)
        # What was sent before is still there to be read; then comes the status.
        failure = await failure_of(_read_to_the_end(call))
        assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.TOO_SLOW)


async def test_a_client_that_reads_slower_than_the_minimum_rate_loses_its_call() -> None:
    config = EdgeConfig(stall_seconds=0.1, min_rate_bytes_per_second=1 << 40)
    async with fake_server(config=config, budget_bytes=128 << 20) as (_, channel):

        async def slowly() -> None:
            async for _ in volume_stub(channel).ReadBox(
                ReadBoxRequest(name=NAME, box=box_message((0, 0, 0), (512, 512, 256)))
            ):
                await asyncio.sleep(0.02)

        failure = await failure_of(slowly())
        assert failure.reason == Reason.TOO_SLOW


async def _read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
    await call.code()
    raise AssertionError("it did not fail")


async def test_parts_are_encoded_for_a_client_that_takes_it_where_that_pays() -> None:
    async with fake_server() as (storage, channel):
        storage.data[:, :, :, 16:] = np.random.default_rng(1).integers(0, 255, storage.data[:, :, :, 16:].shape)
        box = box_message((0, 0, 0), (256, 256, 32))
        responses = await read(channel, box=box, encoding=ENCODING_LZ4)
        assert responses[0].encoding == ENCODING_LZ4
        found = b"".join(
            lz4.block.decompress(part.data, uncompressed_size=part.decoded_size) if part.decoded_size else part.data
            for part in responses
        )
        assert found == storage.data[:, :256, :256, :32].tobytes(order="F")
        assert {bool(part.decoded_size) for part in responses} == {True, False}


async def test_a_box_is_sent_in_c_order_to_a_client_that_wants_it() -> None:
    async with fake_server(VoxelFormat.of("uint16", 2)) as (storage, channel):
        storage.data[...] = np.random.default_rng(1).integers(0, 1000, storage.data.shape)
        responses = await read(channel, box=box_message((1, 2, 3), (40, 50, 60)), order=ORDER_C)
        assert responses[0].order == ORDER_C
        expected = storage.data[:, 1:41, 2:52, 3:63]
        assert b"".join(part.data for part in responses) == expected.tobytes(order="C")
