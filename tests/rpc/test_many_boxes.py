"""WriteBoxes, ReadBoxes and their batches over a real server: what each box gets, and what ends a stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.errors import Busy, DataLoss, Reason
from magd.rpc.admission import EdgeConfig
from magd.rpc.box_headers import MAX_ANSWER_BYTES
from magd.rpc.errors import box_error
from magd.rpc.flight import MAX_BOXES_IN_FLIGHT
from magd.v1 import maintenance_pb2, types_pb2
from magd.v1.volume_pb2 import (
    BOUNDS_REJECT,
    ReadBoxBatchRequest,
    ReadBoxesRequest,
    ReadBoxesResponse,
    ReadBoxRequest,
    WriteBoxBatchRequest,
    WriteBoxesRequest,
    WriteBoxesResponse,
    WriteBoxRequest,
)
from tests.rpc.fake_storage import NAME, FakeStorage
from tests.rpc.serving import failure_from, maintenance_stub, served, volume_stub
from tests.rpc.test_write_box import UINT8, box_message, fake_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from tests.rpc.serving import Failure

RANDOM = np.random.default_rng(11)


def tile(*size: int) -> Any:
    return RANDOM.integers(1, 255, size).astype("uint8")


def as_bytes(data: Any) -> bytes:
    return bytes(data.tobytes(order="F"))


def write(offset: tuple[int, int, int], voxels: Any, **fields: Any) -> WriteBoxRequest:
    return WriteBoxRequest(
        **{
            "name": NAME,
            "box": box_message(offset, voxels.shape),
            "data_type": types_pb2.DATA_TYPE_UINT8,
            "num_channels": 1,
            "data": as_bytes(voxels),
            **fields,
        }
    )


def together(messages: Sequence[Any]) -> Any:
    """One message with all of them."""
    first, *more = messages
    first.more.extend(more)
    return first


async def each_once(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def write_boxes(
    channel: grpc.aio.Channel, messages: Iterable[WriteBoxesRequest]
) -> dict[int, WriteBoxesResponse]:
    call = volume_stub(channel).WriteBoxes(each_once(messages))
    return {one.index: one async for response in call for one in (response, *response.more)}


async def read_boxes(
    channel: grpc.aio.Channel, messages: Iterable[ReadBoxesRequest]
) -> dict[int, list[ReadBoxesResponse]]:
    results: dict[int, list[ReadBoxesResponse]] = {}
    async for response in volume_stub(channel).ReadBoxes(each_once(messages)):
        for one in (response, *response.more):
            results.setdefault(one.index, []).append(one)
    return results


async def failure_of_stream(call: Any) -> Failure:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return failure_from(error)
    raise AssertionError("the stream did not fail")


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
async def test_each_box_of_a_stream_is_committed_and_acknowledged(packed: bool) -> None:
    data = [tile(4, 4, 4) for _ in range(20)]
    messages = [WriteBoxesRequest(index=100 + i, box=write((4 * i, 0, 0), data[i])) for i in range(20)]
    async with fake_server() as (storage, channel):
        outcomes = await write_boxes(channel, [together(messages)] if packed else messages)
        assert sorted(outcomes) == list(range(100, 120))
        revisions = {outcome.acknowledgement.revision.counter for outcome in outcomes.values()}
        assert revisions == set(range(1, 21))
        for i in range(20):
            assert (storage.data[0, 4 * i : 4 * i + 4, :4, :4] == data[i]).all()


async def test_outcomes_come_together_only_if_the_boxes_did() -> None:
    async with fake_server() as (storage, channel):
        storage.gate.clear()
        call = volume_stub(channel).WriteBoxes()
        for i in range(5):
            await call.write(WriteBoxesRequest(index=i, box=write((0, 0, i), tile(1, 1, 1))))
        await until(lambda: len(storage.work) == 5)
        storage.gate.set()
        await call.done_writing()
        assert [len(response.more) async for response in call] == [0] * 5


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    packed=st.booleans(),
)
async def test_boxes_may_come_in_parts(sizes: list[int], cuts: list[int], packed: bool) -> None:
    messages, data = [], [tile(size, 1, 3) for size in sizes]
    for i, voxels in enumerate(data):
        whole, cut = as_bytes(voxels), cuts[i % len(cuts)]
        first = write((0, i, 0), voxels, data=whole[: cut - 1])
        parts = [WriteBoxRequest(data=whole[at : at + cut]) for at in range(cut - 1, len(whole), cut)]
        messages += [WriteBoxesRequest(index=i, box=box) for box in (first, *parts)]
    async with fake_server() as (storage, channel):
        outcomes = await write_boxes(channel, [together(messages)] if packed else messages)
        assert all(outcomes[i].HasField("acknowledgement") for i in range(len(data)))
        for i, voxels in enumerate(data):
            assert (storage.data[0, : sizes[i], i : i + 1, :3] == voxels).all()


@pytest.mark.parametrize("in_parts", [False, True])
async def test_a_box_that_fails_does_not_end_the_stream(in_parts: bool) -> None:
    good, bad = tile(4, 4, 4), tile(4, 4, 4)
    refused = {
        1: (
            write((0, 0, 0), bad, name="datasets/brain/layers/color/mags/2"),
            "MAG_NOT_FOUND",
            grpc.StatusCode.NOT_FOUND,
        ),
        2: (write((0, 0, 0), bad, name="nonsense"), "INVALID_NAME", grpc.StatusCode.INVALID_ARGUMENT),
        3: (write((-1, 0, 0), bad), "INVALID_BOX", grpc.StatusCode.INVALID_ARGUMENT),
        4: (write((0, 0, 0), bad, data=bytes(65)), "DATA_LENGTH_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT),
        5: (write((0, 0, 0), bad, data=bytes(63)), "DATA_LENGTH_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT),
        6: (write((0, 0, 0), bad, encoding=99), "NOT_IMPLEMENTED", grpc.StatusCode.UNIMPLEMENTED),
    }
    messages = [WriteBoxesRequest(index=0, box=write((8, 0, 0), good))]
    for index, (box, reason, _) in refused.items():
        messages.append(WriteBoxesRequest(index=index, box=box))
        if in_parts and reason != "DATA_LENGTH_MISMATCH":
            messages.append(WriteBoxesRequest(index=index, box=WriteBoxRequest(data=bytes(7))))
    messages.append(WriteBoxesRequest(index=7, box=write((16, 0, 0), good)))
    async with fake_server() as (storage, channel):
        outcomes = await write_boxes(channel, messages)
        assert sorted(outcomes) == list(range(8))
        for index, (_, reason, code) in refused.items():
            error = outcomes[index].error
            assert (error.reason, error.code) == (reason, code.value[0]), index
            assert error.message
            assert error.metadata or reason == "MAG_NOT_FOUND"
        assert len(storage.committed) == 2
        assert not storage.data[0, :8].any()


async def test_the_failure_of_the_work_is_the_outcome_of_the_box() -> None:
    async with fake_server() as (storage, channel):
        storage.fail_write = Busy("later", retry_after=2.5)
        error = (await write_boxes(channel, [WriteBoxesRequest(index=3, box=write((0, 0, 0), tile(1, 1, 1)))]))[3].error
        assert (error.code, error.retry_delay_ms) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], 2500)
        storage.fail_write = DataLoss("broken", reason=Reason.CORRUPT_CUBE_FILE, metadata={"file": "x.wkw"})
        error = (await write_boxes(channel, [WriteBoxesRequest(index=3, box=write((0, 0, 0), tile(1, 1, 1)))]))[3].error
        assert (error.reason, dict(error.metadata)) == ("CORRUPT_CUBE_FILE", {"file": "x.wkw"})


@pytest.mark.parametrize(
    "box",
    [
        WriteBoxRequest(data=b"1"),
        WriteBoxRequest(num_channels=1, data=b"1"),
        WriteBoxRequest(),
    ],
)
async def test_a_part_of_no_box_ends_the_stream(box: WriteBoxRequest) -> None:
    async with fake_server() as (storage, channel):
        whole = WriteBoxesRequest(index=1, box=write((0, 0, 0), tile(1, 1, 1)))
        call = volume_stub(channel).WriteBoxes(each_once([whole, WriteBoxesRequest(index=1, box=box)]))
        failure = await failure_of_stream(call)
        assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("index",))
        # What had come before goes on.
        await until(lambda: len(storage.committed) == 1)


async def test_a_part_with_other_fields_ends_the_stream() -> None:
    async with fake_server() as (storage, channel):
        first = WriteBoxesRequest(index=1, box=write((0, 0, 0), tile(4, 4, 4), data=bytes(10)))
        part = WriteBoxesRequest(index=1, box=WriteBoxRequest(num_channels=1, data=bytes(54)))
        failure = await failure_of_stream(volume_stub(channel).WriteBoxes(each_once([first, part])))
        assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("num_channels",))
        assert not storage.committed


async def test_bytes_that_are_no_message_end_the_stream() -> None:
    async with fake_server() as (_, channel):
        call: Any = channel.stream_stream("/magd.v1.VolumeService/WriteBoxes")(each_once([b"\xff\xff\xff"]))
        assert (await failure_of_stream(call)).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_bug_in_the_work_of_a_box_ends_the_stream_and_says_nothing_of_it() -> None:
    async with fake_server() as (storage, channel):
        storage.fail_write = ZeroDivisionError("secret")
        call = volume_stub(channel).WriteBoxes(
            each_once([WriteBoxesRequest(index=1, box=write((0, 0, 0), tile(1, 1, 1)))])
        )
        failure = await failure_of_stream(call)
        assert failure.code is grpc.StatusCode.INTERNAL
        assert "secret" not in failure.message


async def test_no_more_boxes_are_taken_than_may_be_in_flight() -> None:
    async with fake_server() as (storage, channel):
        info = await maintenance_stub(channel).GetServerInfo(maintenance_pb2.GetServerInfoRequest())
        assert info.limits.max_boxes_in_flight == MAX_BOXES_IN_FLIGHT
        storage.gate.clear()
        count = MAX_BOXES_IN_FLIGHT + 50
        messages = [WriteBoxesRequest(index=i, box=write((i % 500, 0, 0), tile(1, 1, 1))) for i in range(count)]
        writing = asyncio.create_task(write_boxes(channel, [together(messages)]))
        await until(lambda: len(storage.work) == MAX_BOXES_IN_FLIGHT)
        assert storage.checked == MAX_BOXES_IN_FLIGHT
        storage.gate.set()
        assert len(await writing) == count


async def test_a_client_that_vanishes_leaves_whole_boxes_to_be_committed_and_others_never() -> None:
    async with fake_server() as (storage, channel):
        storage.gate.clear()
        call = volume_stub(channel).WriteBoxes()
        await call.write(WriteBoxesRequest(index=0, box=write((0, 0, 0), tile(4, 4, 4))))
        await call.write(WriteBoxesRequest(index=1, box=write((8, 0, 0), tile(4, 4, 4), data=bytes(60))))
        await until(lambda: storage.checked == 2)
        call.cancel()
        # The half box gives its memory back; the other one holds it until it is done.
        await until(lambda: storage.budget.used_bytes == 64)
        storage.gate.set()
        await until(lambda: len(storage.committed) == 1)
        assert storage.committed[0].box.offset.x == 0


async def test_a_box_that_stays_half_there_ends_the_stream() -> None:
    async with fake_server(config=EdgeConfig(stall_seconds=0.05)) as (storage, channel):
        call = volume_stub(channel).WriteBoxes()
        await call.write(WriteBoxesRequest(index=1, box=write((8, 0, 0), tile(4, 4, 4), data=bytes(60))))
        assert (await failure_of_stream(call)).code is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: storage.budget.used_bytes == 0)


async def test_a_stream_without_a_box_ends_but_not_while_the_daemon_works() -> None:
    async with fake_server(config=EdgeConfig(stall_seconds=0.05)) as (storage, channel):
        storage.gate.clear()
        call = volume_stub(channel).WriteBoxes()
        await call.write(WriteBoxesRequest(index=1, box=write((8, 0, 0), tile(1, 1, 1))))
        await asyncio.sleep(0.2)  # longer than a stall
        storage.gate.set()
        response = await call.read()
        assert isinstance(response, WriteBoxesResponse)
        assert response.HasField("acknowledgement")
        assert (await failure_of_stream(call)).code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_batch_of_writes_gives_outcomes_in_its_order() -> None:
    data = tile(4, 4, 4)
    boxes = [write((0, 0, 0), data), write((0, 0, 0), data, data=b"1"), write((8, 0, 0), data), WriteBoxRequest()]
    async with fake_server() as (storage, channel):
        response = await volume_stub(channel).WriteBoxBatch(WriteBoxBatchRequest(boxes=boxes))
        assert [result.index for result in response.results] == [0, 1, 2, 3]
        assert [result.WhichOneof("outcome") for result in response.results] == [
            "acknowledgement",
            "error",
            "acknowledgement",
            "error",
        ]
        assert (storage.data[0, 8:12, :4, :4] == data).all()
        assert not (await volume_stub(channel).WriteBoxBatch(WriteBoxBatchRequest())).results


DATA = tile(4, 4, 4)


@pytest.mark.parametrize(
    "box",
    [
        write((1, 2, 3), DATA),
        write((1, 2, 3), DATA, data=b"1"),
        write((1, 2, 3), DATA, data=as_bytes(DATA) + b"1"),
        write((1, 2, 3), DATA, data=b""),
        write((1, 2, 3), DATA, order=types_pb2.ORDER_C),
        write((1, 2, 3), DATA, encoding=types_pb2.ENCODING_LZ4),
        write((1, 2, 3), DATA, encoding=types_pb2.ENCODING_LZ4, decoded_size=64),
        write((1, 2, 3), DATA, decoded_size=64),
        write((1, 2, 3), DATA, name="nonsense"),
        write((1, 2, 3), DATA, data_type=types_pb2.DATA_TYPE_UINT16),
        write((1, 2, 3), DATA, num_channels=2),
        write((-1, 2, 3), DATA),
        write((1, 2, 3), DATA, request_id="\n"),
        write((1, 2, 3), DATA, bounds=BOUNDS_REJECT),
        write((1, 2, 3), DATA, crc32c=1),
        write((1, 2, 3), DATA, shared_memory={"region": "none"}),
        WriteBoxRequest(),
    ],
)
async def test_a_box_that_is_alone_in_its_batch_gets_what_one_of_several_gets(box: WriteBoxRequest) -> None:
    async with fake_server() as (storage, channel):
        stub = volume_stub(channel)
        (alone,) = (await stub.WriteBoxBatch(WriteBoxBatchRequest(boxes=[box]))).results
        corner = storage.data[:, :16, :16, :16]
        written, corner[...] = corner.copy(), 0
        one, _ = (await stub.WriteBoxBatch(WriteBoxBatchRequest(boxes=[box, write((99, 99, 99), DATA)]))).results
        assert (written == corner).all()
        assert written.any() == alone.HasField("acknowledgement")
        assert alone.WhichOneof("outcome") == one.WhichOneof("outcome")
        if alone.HasField("error"):
            assert alone.error.message.replace("at least ", "") == one.error.message.replace("at least ", "")
            for error in (alone.error, one.error):
                error.message = ""
            assert alone.error == one.error
        assert storage.budget.used_bytes == 0


async def test_the_failure_of_the_work_is_the_outcome_of_a_box_that_is_alone() -> None:
    async with fake_server() as (storage, channel):
        for error in (Busy("full", retry_after=1.5), DataLoss("broken", metadata={"file": "x"})):
            storage.fail_write = error
            response = await volume_stub(channel).WriteBoxBatch(WriteBoxBatchRequest(boxes=[write((0, 0, 0), DATA)]))
            assert response.results[0].error == box_error(error)
        assert storage.budget.used_bytes == 0


# -- reading -----------------------------------------------------------------------------------------------------------


def read(offset: tuple[int, int, int], size: tuple[int, int, int], **fields: Any) -> ReadBoxRequest:
    return ReadBoxRequest(**{"name": NAME, "box": box_message(offset, size), **fields})


@pytest.mark.parametrize("packed", [False, True])
async def test_boxes_of_a_stream_are_read_small_and_large(packed: bool) -> None:
    boxes = [((i, 2 * i, 3 * i), (1 + i, 5, 7)) for i in range(30)] + [((1, 2, 3), (200, 200, 70))]
    messages = [ReadBoxesRequest(index=i, box=read(*box)) for i, box in enumerate(boxes)]
    async with fake_server() as (storage, channel):
        storage.data[0, :300, :300, :300] = tile(300, 300, 300)
        results = await read_boxes(channel, [together(messages)] if packed else messages)
        assert sorted(results) == list(range(31))
        assert len(results[30]) == 3  # parts of 1 MiB
        for i, ((x, y, z), (a, b, c)) in enumerate(boxes):
            first = results[i][0].box
            assert first.box == box_message((x, y, z), (a, b, c))
            assert (first.data_type, first.num_channels) == (types_pb2.DATA_TYPE_UINT8, 1)
            data = b"".join(result.box.data for result in results[i])
            assert data == as_bytes(storage.data[0, x : x + a, y : y + b, z : z + c])


async def test_a_read_that_fails_does_not_end_the_stream() -> None:
    async with fake_server() as (_, channel):
        boxes = [
            read((0, 0, 0), (2, 2, 2)),
            read((0, 0, 0), (2, 2, 2), name="nonsense"),
            read((0, 0, 0), (0, 2, 2)),
            ReadBoxRequest(name=NAME),
        ]
        results = await read_boxes(channel, [ReadBoxesRequest(index=i, box=box) for i, box in enumerate(boxes)])
        assert [results[i][0].error.reason for i in range(4)] == ["", "INVALID_NAME", "INVALID_BOX", ""]
        assert results[3][0].box.data == b""  # the bounding box of a mag without data


async def test_results_that_a_client_does_not_take_are_bounded_and_given_back() -> None:
    async with fake_server(budget_bytes=64 << 20, config=EdgeConfig(stall_seconds=0.5)) as (storage, channel):
        call = volume_stub(channel).ReadBoxes()
        for i in range(20):
            await call.write(ReadBoxesRequest(index=i, box=read((0, 0, 0), (128, 128, 128))))
        await until(lambda: storage.budget.used_bytes > 0)
        # It takes none: in the end the stream is ended, and all memory is given back.
        await until(lambda: storage.budget.used_bytes == 0)
        assert (await failure_of_stream(call)).code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_batch_of_reads_gives_results_in_its_order_and_refuses_what_is_too_much() -> None:
    async with fake_server() as (storage, channel):
        storage.data[0, :100, :100, :100] = tile(100, 100, 100)
        boxes = [read((0, 0, 0), (100, 100, 100)), read((1, 1, 1), (100, 100, 100)), read((2, 2, 2), (100, 100, 100))]
        boxes.append(read((3, 3, 3), (5, 5, 5)))
        response = await volume_stub(channel).ReadBoxBatch(ReadBoxBatchRequest(boxes=boxes))
        assert response.ByteSize() <= MAX_ANSWER_BYTES
        assert [result.error.reason for result in response.results] == ["", "", "BOX_TOO_LARGE", ""]
        assert response.results[3].box.data == as_bytes(storage.data[0, 3:8, 3:8, 3:8])
        assert response.results[1].box.data == as_bytes(storage.data[0, 1:101, 1:101, 1:101])


@pytest.mark.parametrize(
    "box",
    [
        read((1, 2, 3), (20, 30, 40)),
        ReadBoxRequest(name=NAME),
        read((1, 2, 3), (20, 30, 40), name="nonsense"),
        read((1, 2, 3), (0, 30, 40)),
        read((1, 2, 3), (20, 30, 40), order=types_pb2.ORDER_C),
        read((1, 2, 3), (20, 30, 40), shared_memory={"region": "none"}),
        read((0, 0, 0), (200, 200, 200)),
    ],
)
async def test_a_box_that_is_read_alone_in_its_batch_gets_what_one_of_several_gets(box: ReadBoxRequest) -> None:
    async with fake_server() as (storage, channel):
        storage.data[0, :100, :100, :100] = tile(100, 100, 100)
        stub = volume_stub(channel)
        (alone,) = (await stub.ReadBoxBatch(ReadBoxBatchRequest(boxes=[box]))).results
        one, _ = (await stub.ReadBoxBatch(ReadBoxBatchRequest(boxes=[box, read((0, 0, 0), (1, 1, 1))]))).results
        assert alone == one
        assert storage.budget.used_bytes == 0


async def test_an_empty_batch_and_an_empty_stream_are_nothing() -> None:
    async with fake_server() as (_, channel):
        assert await write_boxes(channel, []) == {}
        assert await read_boxes(channel, []) == {}
        assert not (await volume_stub(channel).ReadBoxBatch(ReadBoxBatchRequest())).results


async def test_a_drain_ends_streams_of_many_boxes() -> None:
    storage = FakeStorage(UINT8)
    async with served(storage.as_storage()) as server:
        call = volume_stub(server.channel).WriteBoxes()
        await call.write(WriteBoxesRequest(index=1, box=write((0, 0, 0), tile(1, 1, 1))))
        await call.read()
        await server.rpc.drain(5)
        failure = await failure_of_stream(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
