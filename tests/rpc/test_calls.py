"""What happens around every call: statuses for everything, draining, what is counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from magd.errors import InternalError, Reason
from magd.v1.maintenance_pb2 import GetServerInfoRequest, GetStatusRequest
from magd.v1.volume_pb2 import ReadBoxRequest
from magd.v1.watch_pb2 import WatchRequest
from magd.voxels import VoxelFormat
from tests.rpc.fake_storage import NAME, FakeStorage
from tests.rpc.serving import Failure, Served, failure_of, maintenance_stub, served, volume_stub, watch_stub
from tests.rpc.test_write_box import box_message, header, until, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from magd.rpc.admission import EdgeConfig

UINT8 = VoxelFormat.of("uint8", 1)


async def fake_served(config: EdgeConfig | None = None) -> AsyncIterator[tuple[FakeStorage, Served]]:
    storage = FakeStorage(UINT8)
    async with served(storage.as_storage(), config=config) as server:
        yield storage, server


@pytest.fixture
async def fake() -> AsyncIterator[tuple[FakeStorage, Served]]:
    async for pair in fake_served():
        yield pair


def value_of(server: Served, name: str, **labels: str) -> float:
    return server.registry.get_sample_value(name, labels) or 0.0


async def test_a_bug_is_an_internal_error_whose_text_stays_in_the_log(
    fake: tuple[FakeStorage, Served],
) -> None:
    storage, server = fake
    storage.fail = ZeroDivisionError("the secret of line 7")
    with capture_logs() as log:
        failure = await failure_of(write(server.channel, [header(data=bytes(64))]))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, Reason.INTERNAL)
    assert "secret" not in repr(failure)
    (entry,) = (entry for entry in log if entry["log_level"] == "error" and "exc_info" in entry)
    assert entry["id"] == failure.metadata["request_id"]
    assert entry["exc_info"] is storage.fail


async def test_an_internal_error_of_the_storage_gets_the_id_of_its_call(
    fake: tuple[FakeStorage, Served],
) -> None:
    storage, server = fake
    storage.fail = InternalError("three workers died", metadata={"file": "x.wkw"})
    failure = await failure_of(write(server.channel, [header(data=bytes(64))]))
    assert failure.message == "three workers died"
    assert failure.metadata["file"] == "x.wkw"
    assert len(failure.metadata["request_id"]) == 16


async def test_a_cancellation_that_is_not_the_clients_is_a_status_and_no_hang(
    fake: tuple[FakeStorage, Served],
) -> None:
    storage, server = fake
    storage.fail_write = asyncio.CancelledError()
    failure = await failure_of(write(server.channel, [header(data=bytes(64))]))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, Reason.OUTCOME_UNKNOWN)


@pytest.mark.parametrize("method", ["MaintenanceService/GetStatus", "DatasetService/CreateDataset"])
async def test_garbage_is_refused_in_unary_calls(method: str, fake: tuple[FakeStorage, Served]) -> None:
    _, server = fake
    call: Any = server.channel.unary_unary(f"/magd.v1.{method}")
    failure = await failure_of(call(b"\x0b\xff\xff"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)
    assert failure.metadata["field"] == "message"


async def test_text_that_is_not_utf_8_is_refused(fake: tuple[FakeStorage, Served]) -> None:
    _, server = fake
    call: Any = server.channel.unary_unary("/magd.v1.DatasetService/GetDataset")
    failure = await failure_of(call(b"\x0a\x02\xff\xfe"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)


async def test_fields_that_are_not_known_are_accepted(fake: tuple[FakeStorage, Served]) -> None:
    _, server = fake
    call: Any = server.channel.unary_unary("/magd.v1.MaintenanceService/GetStatus")
    assert await call(b"\xa0\x06\x01")


async def test_a_method_that_does_not_exist_is_unimplemented(fake: tuple[FakeStorage, Served]) -> None:
    _, server = fake
    call: Any = server.channel.unary_unary("/magd.v1.VolumeService/Nothing")
    assert (await failure_of(call(b""))).code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_compressed_message_is_refused_since_it_could_unpack_to_any_size(
    fake: tuple[FakeStorage, Served],
) -> None:
    _, server = fake
    async with grpc.aio.insecure_channel(str(server.rpc.address), compression=grpc.Compression.Gzip) as channel:
        failure = await failure_of(write(channel, [header(data=bytes(64))]))
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_are_counted_with_their_bytes(fake: tuple[FakeStorage, Served]) -> None:
    storage, server = fake
    storage.gate.clear()
    request = header(data=bytes(64))
    call = asyncio.ensure_future(write(server.channel, [request]))
    await storage.reached_gate.wait()
    method = "VolumeService/WriteBox"
    assert value_of(server, "magd_rpc_running", method=method) == 1
    storage.gate.set()
    response = await call
    # The status reaches the client before the call is counted or after.
    await until(lambda: value_of(server, "magd_rpc_running", method=method) == 0)
    await failure_of(write(server.channel, [header(name="datasets/a", data=bytes(64))]))
    assert value_of(server, "magd_rpc_calls_total", method=method, code="OK") == 1
    assert value_of(server, "magd_rpc_calls_total", method=method, code="INVALID_ARGUMENT") == 1
    assert value_of(server, "magd_rpc_seconds_count", method=method) == 2
    assert value_of(server, "magd_rpc_received_bytes_total", method=method) >= request.ByteSize()
    assert value_of(server, "magd_rpc_sent_bytes_total", method=method) == response.ByteSize()


async def test_each_call_has_one_line_in_the_log(fake: tuple[FakeStorage, Served]) -> None:
    _, server = fake
    with capture_logs() as log:
        await maintenance_stub(server.channel).GetServerInfo(GetServerInfoRequest())
    (line,) = log
    assert (line["event"], line["method"], line["code"]) == (
        "call",
        "MaintenanceService/GetServerInfo",
        "OK",
    )
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["bytes_in"] == 0
    assert line["bytes_out"] > 0
    assert line["seconds"] >= 0


async def test_boxes_that_went_well_are_for_those_who_want_to_see_everything(
    fake: tuple[FakeStorage, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, server = fake
    with capture_logs() as log:
        await write(server.channel, [header(data=bytes(64))])
        await until(lambda: len(log) == 1)
        await failure_of(write(server.channel, [header(name="datasets/a", data=bytes(64))]))
        await until(lambda: len(log) == 2)
        monkeypatch.setattr("magd.rpc.interceptors.SLOW_SECONDS", 0)
        await write(server.channel, [header(data=bytes(64))])
        await until(lambda: len(log) == 3)
    assert [line["log_level"] for line in log] == ["debug", "info", "info"]


async def test_a_drain_lets_a_write_finish_and_refuses_what_comes_later(
    fake: tuple[FakeStorage, Served],
) -> None:
    storage, server = fake
    storage.gate.clear()
    write_call = asyncio.ensure_future(write(server.channel, [header(data=bytes(64))]))
    await storage.reached_gate.wait()
    drain = asyncio.ensure_future(server.rpc.drain(30))
    await until(lambda: not server.rpc.is_serving)
    for late in (
        maintenance_stub(server.channel).GetStatus(GetStatusRequest()),
        write(server.channel, [header(data=bytes(64))]),
        anext(aiter(volume_stub(server.channel).ReadBox(ReadBoxRequest(name=NAME)))),
    ):
        failure = await failure_of(late)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, Reason.SHUTTING_DOWN)
    assert not drain.done()
    storage.gate.set()
    assert (await write_call).revision.counter == 1
    await drain
    assert len(storage.committed) == 1
    assert storage.budget.used_bytes == 0


async def test_a_drain_ends_streams_that_wait_for_something_to_happen(
    fake: tuple[FakeStorage, Served],
) -> None:
    _, server = fake
    watch = aiter(watch_stub(server.channel).Watch(WatchRequest()))
    assert (await anext(watch)).HasField("started")
    next_event = asyncio.ensure_future(failure_of(anext(watch)))
    await server.rpc.drain(30)
    failure: Failure = await next_event
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, Reason.SHUTTING_DOWN)


async def test_the_grace_of_a_drain_bounds_it_and_the_write_still_goes_on(
    fake: tuple[FakeStorage, Served],
) -> None:
    storage, server = fake
    storage.gate.clear()
    call = asyncio.ensure_future(failure_of(write(server.channel, [header(data=bytes(64))])))
    await storage.reached_gate.wait()
    await server.rpc.drain(0.05)
    assert (await call).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    storage.gate.set()
    await asyncio.gather(*storage.work)
    assert len(storage.committed) == 1
    assert storage.budget.used_bytes == 0


async def test_a_drain_is_not_held_up_by_a_client_that_does_not_read(
    fake: tuple[FakeStorage, Served],
) -> None:
    storage, server = fake
    call = volume_stub(server.channel).ReadBox(ReadBoxRequest(name=NAME, box=box_message((0, 0, 0), (512, 512, 128))))
    await call.read()
    await server.rpc.drain(0.05)
    assert storage.budget.used_bytes == 0
