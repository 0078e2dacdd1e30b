"""What an operator hears of boxes that fail in calls that go well: metrics and the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc.aio
import pytest
from structlog.testing import capture_logs

from magd.errors import DataLoss, Reason
from magd.v1.volume_pb2 import (
    ReadBoxBatchRequest,
    ReadBoxesRequest,
    ReadBoxRequest,
    WriteBoxBatchRequest,
    WriteBoxesRequest,
    WriteBoxRequest,
)
from magd.voxels import VoxelFormat
from tests.rpc.fake_storage import NAME, FakeStorage
from tests.rpc.serving import served, volume_stub
from tests.rpc.test_write_box import box_message, header, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from tests.rpc.serving import Served

GOOD: Final = NAME
WRONG: Final = "nonsense"
UINT8: Final = VoxelFormat.of("uint8", 1)


def a_write(name: str) -> WriteBoxRequest:
    return header(name=name, data=bytes(64))


def a_read(name: str) -> ReadBoxRequest:
    return ReadBoxRequest(name=name, box=box_message((0, 0, 0), (4, 4, 4)))


async def write_batch(channel: Any, names: Sequence[str]) -> None:
    await volume_stub(channel).WriteBoxBatch(WriteBoxBatchRequest(boxes=[a_write(name) for name in names]))


async def read_batch(channel: Any, names: Sequence[str]) -> None:
    await volume_stub(channel).ReadBoxBatch(ReadBoxBatchRequest(boxes=[a_read(name) for name in names]))


async def write_stream(channel: Any, names: Sequence[str]) -> None:
    boxes = [WriteBoxesRequest(index=index, box=a_write(name)) for index, name in enumerate(names)]
    async for _ in volume_stub(channel).WriteBoxes(in_stream(boxes)):
        pass


async def write_stream_of_one_message(channel: Any, names: Sequence[str]) -> None:
    first, *more = [WriteBoxesRequest(index=index, box=a_write(name)) for index, name in enumerate(names)]
    first.more.extend(more)
    async for _ in volume_stub(channel).WriteBoxes(in_stream([first])):
        pass


async def read_stream(channel: Any, names: Sequence[str]) -> None:
    boxes = [ReadBoxesRequest(index=index, box=a_read(name)) for index, name in enumerate(names)]
    async for _ in volume_stub(channel).ReadBoxes(in_stream(boxes)):
        pass


async def in_stream(messages: Sequence[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


WAYS: Final = [
    ("WriteBoxBatch", write_batch),
    ("ReadBoxBatch", read_batch),
    ("WriteBoxes", write_stream),
    ("WriteBoxes", write_stream_of_one_message),
    ("ReadBoxes", read_stream),
]


@pytest.mark.parametrize(("method", "send"), WAYS)
async def test_boxes_that_fail_are_counted_and_logged_though_their_call_goes_well(
    method: str, send: Callable[[Any, Sequence[str]], Awaitable[None]]
) -> None:
    storage = FakeStorage(UINT8)
    async with served(storage.as_storage()) as server:
        with capture_logs() as log:
            await send(server.channel, [GOOD, GOOD])
            await send(server.channel, [GOOD, WRONG, WRONG])
            storage.fail = DataLoss("x.wkw is broken", reason=Reason.CORRUPT_CUBE_FILE)
            await send(server.channel, [WRONG, GOOD])
            await until(lambda: len(log) == 3)
    assert [line["code"] for line in log] == ["OK"] * 3
    assert [line["log_level"] for line in log] == ["debug", "info", "error"]
    assert [line.get("failed_boxes") for line in log] == [None, 2, 2]
    assert [line.get("reason") for line in log] == [None, "INVALID_NAME", "CORRUPT_CUBE_FILE"]
    assert log[2]["error"] == "x.wkw is broken"
    assert failed(server, method) == {"INVALID_ARGUMENT": 3, "DATA_LOSS": 1}


@pytest.mark.parametrize(("method", "send"), WAYS[:2])
async def test_a_box_that_is_alone_and_fails_is_no_exception(
    method: str, send: Callable[[Any, Sequence[str]], Awaitable[None]]
) -> None:
    async with served(FakeStorage(UINT8).as_storage()) as server:
        with capture_logs() as log:
            await send(server.channel, [WRONG])
            await until(lambda: len(log) == 1)
    assert (log[0]["log_level"], log[0]["failed_boxes"]) == ("info", 1)
    assert failed(server, method) == {"INVALID_ARGUMENT": 1}


async def test_a_box_that_failed_is_in_the_line_of_a_call_that_fails_after_it() -> None:
    storage = FakeStorage(UINT8)
    storage.fail = DataLoss("x.wkw is broken", reason=Reason.CORRUPT_CUBE_FILE)
    async with served(storage.as_storage()) as server:
        with capture_logs() as log:
            call: Any = volume_stub(server.channel).WriteBoxes()
            await call.write(WriteBoxesRequest(index=0, box=a_write(GOOD)))
            assert (await call.read()).HasField("error")
            await call.write(WriteBoxesRequest(index=5, box=WriteBoxRequest(data=b"of no box")))
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            await until(lambda: len(log) == 1)
    (line,) = log
    assert (line["code"], line["log_level"], line["failed_boxes"]) == ("INVALID_ARGUMENT", "error", 1)
    assert line["reason"] == "INVALID_FIELD", "of what ended the call"


def failed(server: Served, method: str) -> dict[str, float]:
    (metric,) = (metric for metric in server.registry.collect() if metric.name == "magd_rpc_failed_boxes")
    return {
        sample.labels["code"]: sample.value
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["method"] == f"VolumeService/{method}"
    }
