"""WriteBox over a real server: what is committed, what is refused, what a vanished client leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.acknowledgement import Durability
from magd.actors.types import Bounds
from magd.errors import Busy, DataLoss, MagdError, NotAllowed, Reason
from magd.geometry import Box
from magd.rpc.addresses import UnixPath
from magd.rpc.admission import STREAM_BYTES, EdgeConfig
from magd.v1.types_pb2 import (
    DATA_TYPE_UINT8,
    DATA_TYPE_UINT16,
    DURABILITY_DISK,
    DURABILITY_PROCESS,
    ENCODING_LZ4,
    ORDER_C,
    ORDER_FORTRAN,
    Vec3,
)
from magd.v1.types_pb2 import Box as BoxMessage
from magd.v1.volume_pb2 import BOUNDS_REJECT, SharedMemory, WriteBoxRequest, WriteBoxResponse
from magd.v1.volume_pb2_grpc import VolumeServiceStub
from magd.voxels import VoxelArray, VoxelFormat
from tests.rpc.fake_storage import NAME, FakeStorage
from tests.rpc.serving import Failure, failure_of, served, volume_stub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from tests.rpc.serving import Served

UINT8 = VoxelFormat.of("uint8", 1)


def box_message(offset: tuple[int, int, int], size: tuple[int, int, int]) -> BoxMessage:
    return BoxMessage(offset=Vec3(x=offset[0], y=offset[1], z=offset[2]), size=Vec3(x=size[0], y=size[1], z=size[2]))


def header(size: tuple[int, int, int] = (4, 4, 4), **fields: Any) -> WriteBoxRequest:
    return WriteBoxRequest(
        **{
            "name": NAME,
            "box": box_message((1, 2, 3), size),
            "data_type": DATA_TYPE_UINT8,
            "num_channels": 1,
            **fields,
        }
    )


async def write(channel: grpc.aio.Channel, requests: Iterable[WriteBoxRequest]) -> WriteBoxResponse:
    return await volume_stub(channel).WriteBox(iter(requests))


async def write_failure(channel: grpc.aio.Channel, requests: Iterable[WriteBoxRequest]) -> Failure:
    return await failure_of(write(channel, requests))


@contextlib.asynccontextmanager
async def fake_server(
    voxels: VoxelFormat = UINT8, *, config: EdgeConfig | None = None, **options: Any
) -> AsyncIterator[tuple[FakeStorage, grpc.aio.Channel]]:
    """A server on a fake storage. At the end nothing may be left in memory."""
    storage = FakeStorage(voxels, **options)
    async with served(storage.as_storage(), config=config) as server:
        yield storage, server.channel
        storage.gate.set()
        await asyncio.gather(*storage.work, return_exceptions=True)
    assert storage.budget.used_bytes == 0
    assert storage.budget.waiting == 0


async def until(condition: Any) -> None:
    """Let the event loop turn until something has become true; the test's timeout ends it otherwise."""
    while not condition():  # noqa: ASYNC110  # what is waited for has no event
        await asyncio.sleep(0.001)


def code_of_refusal(server: Served, requests: Iterator[WriteBoxRequest]) -> grpc.StatusCode:
    """The status of a write that is refused while its client sends. Blocks.

    An aio client that sends while the server refuses may see an error of its own instead.
    """
    with grpc.insecure_channel(str(server.rpc.address)) as channel:
        try:
            VolumeServiceStub(channel).WriteBox(requests)
        except grpc.RpcError as failed:
            code: grpc.StatusCode = failed.code()
            return code
    raise AssertionError("it was not refused")


# -- what is committed ---------------------------------------------------------------------------------------


async def test_one_message_writes_one_small_box() -> None:
    async with fake_server() as (storage, channel):
        data = np.arange(64, dtype=np.uint8)
        request = header(data=data.tobytes(), durability=DURABILITY_PROCESS, bounds=BOUNDS_REJECT, request_id="id-1")
        response = await write(channel, [request])
        assert (response.revision.epoch, response.revision.counter) == (1, 1)
        assert response.durability == DURABILITY_PROCESS
        (command,) = storage.committed
        assert command.box == Box.of((1, 2, 3), (4, 4, 4))
        assert command.durability is Durability.PROCESS
        assert command.bounds is Bounds.REJECT
        assert command.request_id == "id-1"
        assert command.data.shape == (1, 4, 4, 4)
        assert command.data.flags.f_contiguous
        assert np.array_equal(command.data.ravel(order="F"), data)


async def test_the_defaults_are_disk_extend_and_no_id() -> None:
    async with fake_server() as (storage, channel):
        response = await write(channel, [header(data=bytes(64), order=ORDER_FORTRAN)])
        assert response.durability == DURABILITY_DISK
        (command,) = storage.committed
        assert (command.durability, command.bounds, command.request_id) == (
            Durability.DISK,
            Bounds.EXTEND,
            "",
        )


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 9)] * 3),
    dtype=st.sampled_from(["uint8", "uint16", "uint64", "int8", "float32", "float64"]),
    num_channels=st.integers(1, 3),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    leading=st.booleans(),
)
async def test_voxels_arrive_as_they_were_sent_however_they_are_cut(
    size: tuple[int, int, int], dtype: str, num_channels: int, cuts: list[float], leading: bool
) -> None:
    voxels = VoxelFormat.of(dtype, num_channels)
    rng = np.random.default_rng(7)
    raw = rng.integers(0, 256, voxels.nbytes(Box.of((0, 0, 0), size)), dtype=np.uint8).tobytes()
    sent: VoxelArray = np.frombuffer(raw, voxels.dtype).reshape((num_channels, *size), order="F")
    at = sorted({0, len(raw), *(int(cut * len(raw)) for cut in cuts)})
    parts = [raw[start:end] for start, end in itertools.pairwise(at)]
    first = header(size, data_type=f"DATA_TYPE_{dtype.upper()}", num_channels=num_channels)
    if leading:
        first.data = parts.pop(0)
    async with fake_server(voxels) as (storage, channel):
        await write(channel, [first, *(WriteBoxRequest(data=part) for part in parts)])
        (command,) = storage.committed
        assert command.data.tobytes(order="F") == sent.tobytes(order="F")
        assert command.data.shape == sent.shape


async def test_a_client_that_waits_for_the_grant_gets_it_before_it_sends_data() -> None:
    async with fake_server() as (storage, channel):
        size = (256, 256, 64)
        call = volume_stub(channel).WriteBox()
        await call.write(header(size))
        await call.initial_metadata()
        assert storage.budget.used_bytes == 256 * 256 * 64 + STREAM_BYTES
        part = bytes(1 << 20)
        for _ in range(4):
            await call.write(WriteBoxRequest(data=part))
        await call.done_writing()
        response = await call
        assert response.revision.counter == 1


async def test_writes_go_over_a_unix_socket(unix_address: str) -> None:
    storage = FakeStorage(UINT8)
    address = UnixPath(unix_address.removeprefix("unix:"))
    async with served(storage.as_storage(), address=address) as server:
        await write(server.channel, [header(data=bytes(64))])
        assert len(storage.committed) == 1
    assert not os.path.lexists(address.path)  # noqa: ASYNC240  # nothing else runs here


# -- what is refused -----------------------------------------------------------------------------------------

BAD_HEADERS: list[tuple[str, dict[str, Any], Reason, str]] = [
    ("a negative offset", {"box": box_message((-1, 0, 0), (4, 4, 4))}, Reason.INVALID_BOX, "box"),
    ("a size of 0", {"box": box_message((0, 0, 0), (4, 0, 4))}, Reason.INVALID_BOX, "box"),
    ("a negative size", {"box": box_message((0, 0, 0), (4, 4, -4))}, Reason.INVALID_BOX, "box"),
    ("an end beyond int32", {"box": box_message((2**31 - 2, 0, 0), (4, 4, 4))}, Reason.INVALID_BOX, "box"),
    ("a box without size", {"box": BoxMessage(offset=Vec3(x=1))}, Reason.INVALID_BOX, "box"),
    ("no box", {"box": None}, Reason.INVALID_BOX, "box"),
    ("no data type", {"data_type": 0}, Reason.INVALID_FIELD, "data_type"),
    ("an unknown data type", {"data_type": 77}, Reason.INVALID_FIELD, "data_type"),
    ("no channels", {"num_channels": 0}, Reason.INVALID_FIELD, "num_channels"),
    ("too many channels", {"num_channels": 256}, Reason.INVALID_FIELD, "num_channels"),
    ("an unknown durability", {"durability": 9}, Reason.INVALID_FIELD, "durability"),
    ("unknown bounds", {"bounds": 9}, Reason.INVALID_FIELD, "bounds"),
    ("a long request id", {"request_id": "x" * 129}, Reason.INVALID_FIELD, "request_id"),
    ("a request id with a line break", {"request_id": "a\nb"}, Reason.INVALID_FIELD, "request_id"),
    ("a request id that is not ASCII", {"request_id": "ü"}, Reason.INVALID_FIELD, "request_id"),
    ("no name", {"name": ""}, Reason.INVALID_NAME, "name"),
    ("the name of a layer", {"name": "datasets/a/layers/b"}, Reason.INVALID_NAME, "name"),
    ("a name with ..", {"name": "datasets/../layers/b/mags/1"}, Reason.INVALID_NAME, "name"),
    ("a name with NUL", {"name": "datasets/a\0/layers/b/mags/1"}, Reason.INVALID_NAME, "name"),
    ("a hidden name", {"name": "datasets/.a/layers/b/mags/1"}, Reason.INVALID_NAME, "name"),
    ("a name with more slashes", {"name": "datasets/a/b/layers/c/mags/1"}, Reason.INVALID_NAME, "name"),
    ("a name of 10 kB", {"name": f"datasets/{'a' * 10_000}/layers/b/mags/1"}, Reason.INVALID_NAME, "name"),
    ("a mag that is none", {"name": "datasets/a/layers/b/mags/3"}, Reason.INVALID_NAME, "name"),
]


@pytest.mark.parametrize(
    ("fields", "reason", "field"), [case[1:] for case in BAD_HEADERS], ids=[case[0] for case in BAD_HEADERS]
)
async def test_a_bad_header_is_refused_before_the_storage_is_asked(
    fields: dict[str, Any], reason: Reason, field: str
) -> None:
    async with fake_server() as (storage, channel):
        failure = await write_failure(channel, [header(**fields), WriteBoxRequest(data=bytes(64))])
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert failure.metadata["field"] == field
        assert "value" in failure.metadata
        assert failure.fields == (field,)
        assert storage.checked == 0
        assert storage.committed == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order", 17),
        ("encoding", 17),
        ("crc32c", 0),
        ("shared_memory", SharedMemory(region="r")),
    ],
)
async def test_a_field_that_this_version_does_not_do_is_refused_and_never_ignored(field: str, value: Any) -> None:
    async with fake_server() as (storage, channel):
        failure = await write_failure(channel, [header(data=bytes(64), **{field: value})])
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNIMPLEMENTED, Reason.NOT_IMPLEMENTED)
        assert failure.metadata == {"field": field}
        assert storage.committed == []


@pytest.mark.parametrize("sent", [0, 1, 63, 65, 128])
@pytest.mark.parametrize("in_one_message", [True, False])
async def test_a_short_or_long_stream_is_refused_and_changes_nothing(sent: int, in_one_message: bool) -> None:
    async with fake_server() as (storage, channel):
        data = bytes(sent)
        requests = (
            [header(data=data)]
            if in_one_message
            else [header(), WriteBoxRequest(data=data[:10]), WriteBoxRequest(data=data[10:])]
        )
        failure = await write_failure(channel, requests)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            Reason.DATA_LENGTH_MISMATCH,
        )
        assert failure.metadata == {"field": "data", "value": str(sent), "expected": "64"}
        assert storage.committed == []


async def test_a_message_after_the_last_byte_is_refused() -> None:
    async with fake_server() as (storage, channel):
        failure = await write_failure(channel, [header(data=bytes(64)), WriteBoxRequest(data=b"x")])
        assert failure.reason == Reason.DATA_LENGTH_MISMATCH
        assert storage.committed == []


async def test_one_byte_too_many_is_refused_before_the_stream_ends() -> None:
    async with fake_server() as (_, channel):
        call = volume_stub(channel).WriteBox()
        await call.write(header())
        await call.write(WriteBoxRequest(data=bytes(65)))
        failure = await failure_of(call)
        assert failure.reason == Reason.DATA_LENGTH_MISMATCH


async def test_a_later_message_with_more_than_data_is_refused() -> None:
    async with fake_server() as (storage, channel):
        failure = await write_failure(channel, [header(), header(data=bytes(64))])
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)
        assert failure.metadata["field"] == "name"
        assert storage.committed == []


async def test_a_stream_without_a_message_is_refused() -> None:
    async with fake_server() as (_, channel):
        failure = await write_failure(channel, [])
        assert (failure.code, failure.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "message")


async def test_garbage_in_place_of_a_message_is_refused() -> None:
    async with fake_server() as (storage, channel):
        call: Any = channel.stream_unary("/magd.v1.VolumeService/WriteBox")
        for stream in ([b"\xff\xff\xff\xff"], [header().SerializeToString(), b"\x0a\xff"]):
            failure = await failure_of(call(iter(stream)))
            assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)
            assert failure.metadata["field"] == "message"
        assert storage.committed == []


async def test_a_message_that_is_too_long_is_refused() -> None:
    async with fake_server() as (storage, channel):
        failure = await write_failure(channel, [header((512, 512, 32), data=bytes(5 << 20))])
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert storage.committed == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotAllowed("read-only"), grpc.StatusCode.FAILED_PRECONDITION),
        (DataLoss("damaged", metadata={"file": "header.wkw"}), grpc.StatusCode.DATA_LOSS),
        (Busy("full", retry_after=0.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_the_data_of_a_refused_write_is_not_read(error: MagdError, code: grpc.StatusCode) -> None:
    storage = FakeStorage(UINT8)
    storage.fail = error
    async with served(storage.as_storage()) as server:
        sent = 0

        def endless() -> Iterator[WriteBoxRequest]:
            nonlocal sent
            yield header((512, 512, 64))
            while True:
                yield WriteBoxRequest(data=bytes(1 << 20))
                sent += 1

        assert await asyncio.to_thread(code_of_refusal, server, endless()) is code
        # What gRPC reads ahead by itself is all that can have been sent.
        assert sent < 16
    assert storage.committed == []
    assert storage.budget.used_bytes == 0


async def test_a_write_waits_for_memory_and_is_then_told_to_come_back() -> None:
    async with fake_server(budget_bytes=1000, patience=0.05) as (storage, channel):
        with await storage.budget.lease(storage.budget.largest_bytes):
            failure = await write_failure(channel, [header(data=bytes(64))])
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.BUSY)
        assert failure.retry_seconds == 1.0
        assert (await write(channel, [header(data=bytes(64))])).revision.counter == 1


async def test_a_failed_write_is_the_failure_of_its_call() -> None:
    async with fake_server() as (storage, channel):
        storage.fail_write = DataLoss("cannot write", reason=Reason.IO_ERROR, metadata={"file": "x.wkw"})
        failure = await write_failure(channel, [header(data=bytes(64))])
        assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, Reason.IO_ERROR)
        assert failure.metadata == {"file": "x.wkw"}


# -- clients that vanish or dawdle ---------------------------------------------------------------------------


async def test_a_client_that_vanishes_before_its_header_leaves_nothing() -> None:
    async with fake_server() as (storage, channel):
        call = volume_stub(channel).WriteBox()
        await call.wait_for_connection()
        call.cancel()
        await write(channel, [header(data=bytes(64))])
        assert len(storage.committed) == 1


async def test_a_client_that_vanishes_while_it_waits_for_memory_leaves_nothing() -> None:
    async with fake_server(budget_bytes=1000) as (storage, channel):
        with await storage.budget.lease(storage.budget.largest_bytes):
            call = volume_stub(channel).WriteBox()
            await call.write(header())
            await until(lambda: storage.budget.waiting == 1)
            call.cancel()
            await until(lambda: storage.budget.waiting == 0)
        assert storage.budget.used_bytes == 0
        assert storage.committed == []


@pytest.mark.parametrize("sent", [0, 1, 63])
async def test_a_client_that_vanishes_after_the_grant_or_among_its_data_leaves_nothing(sent: int) -> None:
    async with fake_server() as (storage, channel):
        call = volume_stub(channel).WriteBox()
        await call.write(header())
        await call.initial_metadata()
        if sent:
            await call.write(WriteBoxRequest(data=bytes(sent)))
        assert storage.budget.used_bytes == 64
        call.cancel()
        await until(lambda: storage.budget.used_bytes == 0)
        assert storage.committed == []


async def test_a_client_that_vanishes_with_its_connection_leaves_nothing() -> None:
    storage = FakeStorage(UINT8)
    async with served(storage.as_storage()) as server:
        own_connection = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(str(server.rpc.address), own_connection) as channel:
            call = volume_stub(channel).WriteBox()
            await call.write(header())
            await call.initial_metadata()
            await call.write(WriteBoxRequest(data=bytes(63)))
            assert storage.budget.used_bytes == 64
        await until(lambda: storage.budget.used_bytes == 0)
        assert storage.committed == []


async def test_after_the_last_byte_the_write_goes_on_without_its_client() -> None:
    async with fake_server() as (storage, channel):
        storage.gate.clear()
        call = volume_stub(channel).WriteBox(iter([header(data=bytes(64))]))
        await storage.reached_gate.wait()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        assert storage.budget.used_bytes == 64
        storage.gate.set()
        await until(lambda: storage.committed)
        await until(lambda: storage.budget.used_bytes == 0)


async def test_a_deadline_ends_the_call_and_not_the_write() -> None:
    async with fake_server() as (storage, channel):
        storage.gate.clear()
        call = volume_stub(channel).WriteBox(iter([header(data=bytes(64))]), timeout=0.2)
        failure = await failure_of(call)
        assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
        storage.gate.set()
        await until(lambda: storage.committed)


async def test_a_client_that_stalls_loses_its_call_and_its_memory() -> None:
    config = EdgeConfig(stall_seconds=0.1, min_rate_bytes_per_second=1 << 30)
    async with fake_server(config=config) as (storage, channel):
        stub = volume_stub(channel)
        silent = await failure_of(stub.WriteBox())
        assert (silent.code, silent.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.TOO_SLOW)
        for sent in (0, 63, 64):
            call = stub.WriteBox()
            await call.write(header())
            await call.write(WriteBoxRequest(data=bytes(sent)))
            failure = await failure_of(call)
            assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.TOO_SLOW)
            assert failure.metadata["limit"] == str(1 << 30)
            await until(lambda: storage.budget.used_bytes == 0)
        assert storage.committed == []


async def test_a_client_that_sends_nothing_but_empty_parts_loses_its_call() -> None:
    config = EdgeConfig(stall_seconds=0.2, min_rate_bytes_per_second=1 << 30)
    storage = FakeStorage(UINT8)
    async with served(storage.as_storage(), config=config) as server:

        def drip() -> Iterator[WriteBoxRequest]:
            yield header()
            while True:
                yield WriteBoxRequest()

        assert await asyncio.to_thread(code_of_refusal, server, drip()) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert storage.committed == []
    assert storage.budget.used_bytes == 0


def encoded(raw: bytes, **fields: Any) -> WriteBoxRequest:
    block = lz4.block.compress(raw, store_size=False)
    return WriteBoxRequest(decoded_size=len(raw), data=block, **fields)


async def test_parts_may_be_encoded_or_not_as_the_client_finds_best() -> None:
    raw = np.random.default_rng(1).integers(0, 3, (4, 4, 4), dtype="uint8")
    data = raw.tobytes(order="F")
    async with fake_server() as (storage, channel):
        first = header(encoding=ENCODING_LZ4)
        await write(channel, [first, encoded(data[:10]), WriteBoxRequest(data=data[10:30]), encoded(data[30:])])
        assert np.array_equal(storage.committed[0].data[0], raw)
        whole = header(encoding=ENCODING_LZ4, decoded_size=64, data=lz4.block.compress(data, store_size=False))
        await write(channel, [whole])
        assert np.array_equal(storage.committed[1].data[0], raw)


@pytest.mark.parametrize(
    ("first", "part", "field"),
    [
        (header(), encoded(bytes(64)), "decoded_size"),
        (header(encoding=ENCODING_LZ4), WriteBoxRequest(decoded_size=64, data=b"\xff\xff"), "data"),
        (header(encoding=ENCODING_LZ4), WriteBoxRequest(decoded_size=65, data=encoded(bytes(64)).data), "data"),
        (header(encoding=ENCODING_LZ4), WriteBoxRequest(decoded_size=-1, data=b"x"), "decoded_size"),
        (header(encoding=ENCODING_LZ4), encoded(bytes(2 << 20)), "decoded_size"),
        (header(encoding=ENCODING_LZ4), encoded(bytes(65)), "data"),
    ],
)
async def test_parts_that_cannot_be_decoded_are_refused(
    first: WriteBoxRequest, part: WriteBoxRequest, field: str
) -> None:
    async with fake_server() as (storage, channel):
        failure = await write_failure(channel, [first, part])
        assert (failure.code, failure.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        assert storage.committed == []


async def test_a_box_may_come_in_c_order() -> None:
    voxels = VoxelFormat.of("uint16", 2)
    data = np.random.default_rng(2).integers(0, 1000, (2, 50, 60, 61), dtype="uint16")
    async with fake_server(voxels) as (storage, channel):
        raw = data.tobytes(order="C")
        first = header((50, 60, 61), data_type=DATA_TYPE_UINT16, num_channels=2, order=ORDER_C)
        await write(
            channel, [first, *(WriteBoxRequest(data=raw[at : at + 333_333]) for at in range(0, len(raw), 333_333))]
        )
        assert np.array_equal(storage.committed[0].data, data)
        assert storage.committed[0].data.flags.f_contiguous
