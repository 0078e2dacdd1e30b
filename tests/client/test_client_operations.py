"""Following operations and events."""

from __future__ import annotations

import pytest

import magd_client
from magd.errors import (
    Cancelled,
    DataLoss,
    InternalError,
    NotAllowed,
    OutOfBounds,
    Reason,
    TooSlow,
    Unavailable,
)
from magd.v1 import operation_pb2 as pb
from magd.v1 import types_pb2, watch_pb2
from magd_client import aio
from tests.client.fake_daemon import MAG, FakeDaemon

NAME = "operations/1"


def operation(state: pb.OperationState, done: int = 0, total: int = 4, **more: object) -> pb.Operation:
    progress = pb.OperationProgress(bytes_done=done, bytes_total=total)
    return pb.Operation(name=NAME, state=state, progress=progress, **more)  # type: ignore[arg-type]


RUNNING = [operation(pb.OPERATION_STATE_RUNNING, done) for done in range(3)]


def test_waiting_tells_of_progress_and_returns_the_end(fake: FakeDaemon, client: magd_client.Client) -> None:
    fake.operations[NAME] = [*RUNNING, operation(pb.OPERATION_STATE_SUCCEEDED, 4, result=MAG)]
    told: list[tuple[int, int]] = []
    info = client.operation("1").wait(progress=lambda *at: told.append(at))
    assert info.state == "succeeded"
    assert info.ended
    assert info.result == MAG
    assert told == [(0, 4), (1, 4), (2, 4), (4, 4)]


def test_a_bar_is_shown_while_waiting(
    fake: FakeDaemon, client: magd_client.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.operations[NAME] = [*RUNNING, operation(pb.OPERATION_STATE_SUCCEEDED, 4)]
    client.operation(NAME).wait(progress=True)
    assert "4/4 bytes" in capsys.readouterr().out


def test_a_failure_is_raised_as_the_error_it_is(fake: FakeDaemon, client: magd_client.Client) -> None:
    problem = pb.OperationError(
        code=15, reason="CORRUPT_CUBE_FILE", message="z0/y0/x0.wkw is damaged", metadata={"file": "z0/y0/x0.wkw"}
    )
    fake.operations[NAME] = [operation(pb.OPERATION_STATE_FAILED, error=problem)]
    with pytest.raises(DataLoss, match="is damaged") as caught:
        client.operation(NAME).wait()
    assert caught.value.metadata == {"file": "z0/y0/x0.wkw"}
    fake.operations[NAME] = [operation(pb.OPERATION_STATE_CANCELLED)]
    with pytest.raises(Cancelled):
        client.operation(NAME).wait()
    fake.operations[NAME] = [operation(pb.OPERATION_STATE_FAILED)]
    with pytest.raises(InternalError, match="without a reason"):
        client.operation(NAME).wait()


def test_a_connection_that_is_lost_while_waiting_is_made_again(fake: FakeDaemon, client: magd_client.Client) -> None:
    fake.operations[NAME] = [*RUNNING, operation(pb.OPERATION_STATE_SUCCEEDED, 4)]
    fake.fail("WatchOperation", Unavailable("away"), times=2)
    fake.fail("WatchOperation", Unavailable("away"), when="midway", times=2)
    assert client.operation(NAME).wait().state == "succeeded"
    assert fake.calls["WatchOperation"] == 5


def test_an_error_that_is_an_answer_ends_the_waiting(fake: FakeDaemon, client: magd_client.Client) -> None:
    fake.operations[NAME] = RUNNING
    fake.fail("WatchOperation", NotAllowed("no"), when="midway")
    with pytest.raises(NotAllowed):
        client.operation(NAME).wait()


def test_a_wait_that_takes_too_long_says_that_the_operation_goes_on(
    fake: FakeDaemon, client: magd_client.Client
) -> None:
    fake.operations[NAME] = RUNNING
    with pytest.raises(TooSlow, match=r"has not ended within 0\.2 s; it goes on"):
        client.operation(NAME).wait(timeout=0.2)


async def test_an_async_wait_does_the_same(fake: FakeDaemon, async_client: aio.Client) -> None:
    fake.operations[NAME] = [*RUNNING, operation(pb.OPERATION_STATE_SUCCEEDED, 4)]
    fake.fail("WatchOperation", Unavailable("away"), when="midway")
    assert (await async_client.operation(NAME).wait()).state == "succeeded"
    fake.operations[NAME] = RUNNING
    with pytest.raises(TooSlow, match="it goes on"):
        await async_client.operation(NAME).wait(timeout=0.2)


def commit(counter: int) -> watch_pb2.WatchResponse:
    revision = types_pb2.Revision(epoch=1, counter=counter)
    return watch_pb2.WatchResponse(commit=watch_pb2.CommitEvent(name=MAG, revision=revision))


def test_a_watch_tells_of_events_and_raises_when_it_lost_some(fake: FakeDaemon, client: magd_client.Client) -> None:
    fake.events = [
        commit(1),
        watch_pb2.WatchResponse(),  # newer than this client
        watch_pb2.WatchResponse(exchange=watch_pb2.ExchangeEvent(name=MAG, generation=3)),
    ]
    fake.fail("Watch", Unavailable("away"), times=2)
    fake.fail("Watch", OutOfBounds("too slow", reason=Reason.EVENTS_LOST), when="midway")
    with client.watch(MAG) as events:
        first, second = next(events), next(events)
        assert isinstance(first, magd_client.CommitEvent)
        assert first.revision == magd_client.Revision(1, 1)
        assert second == magd_client.ExchangeEvent(MAG, 3)
        with pytest.raises(OutOfBounds) as caught:
            next(events)
    assert caught.value.reason is Reason.EVENTS_LOST


async def test_an_async_watch_does_the_same(fake: FakeDaemon, async_client: aio.Client) -> None:
    fake.events = [commit(1), commit(2)]
    async with async_client.watch() as events:
        found = [event async for event in events]
    assert len(found) == 2


def test_a_watch_must_be_entered(client: magd_client.Client) -> None:
    with pytest.raises(RuntimeError, match="enter the watch first"):
        next(client.watch())
