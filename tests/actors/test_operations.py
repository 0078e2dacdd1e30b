"""Operations: found by name, watched to their end, cancelled where they can stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from magd.actors import operations as module
from magd.actors.events import Events
from magd.actors.operations import Operation, Operations
from magd.actors.types import OperationEvent, OperationProgress, OperationState
from magd.errors import DataLoss, NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RESOURCE = "datasets/brain/layers/color/mags/1"


@pytest.fixture
async def group() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.TaskGroup() as group:
        yield group


async def ended(operations: Operations, name: str) -> OperationState:
    async with asyncio.timeout(5):
        infos = [info async for info in operations.watch(name)]
    assert [info.state.has_ended for info in infos[:-1]] == [False] * (len(infos) - 1)
    return infos[-1].state


async def test_it_runs_says_how_far_it_is_and_what_came_of_it(group: asyncio.TaskGroup) -> None:
    events = Events(10)
    watch = events.watch(RESOURCE)
    operations = Operations("boot", events, group)

    async def work(operation: Operation) -> str:
        operation.progress(OperationProgress(files_total=2, files_done=1))
        return RESOURCE

    info = operations.start("compress", RESOURCE, work)
    assert info.state is OperationState.PENDING
    assert await ended(operations, info.name) is OperationState.SUCCEEDED
    done = operations.get(info.name)
    assert (done.result, done.progress.files_done) == (RESOURCE, 1)
    assert done.ended_at is not None
    assert operations.running() is None
    seen = [await anext(watch) for _ in range(3)]
    assert [event.operation.state for event in seen if isinstance(event, OperationEvent)] == [
        OperationState.RUNNING,
        OperationState.RUNNING,
        OperationState.SUCCEEDED,
    ]


async def test_a_failure_is_kept_with_reason_and_file(group: asyncio.TaskGroup) -> None:
    operations = Operations("boot", Events(10), group)

    async def work(operation: Operation) -> str:
        raise DataLoss("x0.wkw is damaged", metadata={"file": "x0.wkw"})

    info = operations.start("compress", RESOURCE, work)
    assert await ended(operations, info.name) is OperationState.FAILED
    failure = operations.get(info.name).failure
    assert failure is not None
    assert (failure.kind, failure.reason, failure.metadata) == (
        "DataLoss",
        "CORRUPT_CUBE_FILE",
        {"file": "x0.wkw"},
    )


async def test_a_bug_fails_the_operation_not_the_daemon(group: asyncio.TaskGroup) -> None:
    operations = Operations("boot", Events(10), group)

    async def work(operation: Operation) -> str:
        raise RuntimeError("a bug")

    info = operations.start("compress", RESOURCE, work)
    assert await ended(operations, info.name) is OperationState.FAILED


async def test_cancelling_lets_the_work_stop_by_itself(group: asyncio.TaskGroup) -> None:
    operations = Operations("boot", Events(10), group)

    async def work(operation: Operation) -> str:
        await operation.cancel_requested.wait()
        operation.check_cancelled()
        return "not reached"

    info = operations.start("compress", RESOURCE, work)
    assert operations.running("datasets/brain") is not None
    assert not operations.cancel(info.name).state.has_ended
    assert await ended(operations, info.name) is OperationState.CANCELLED
    assert operations.cancel(info.name).state is OperationState.CANCELLED


async def test_draining_cancels_and_waits(group: asyncio.TaskGroup) -> None:
    operations = Operations("boot", Events(10), group)

    async def work(operation: Operation) -> str:
        await operation.cancel_requested.wait()
        operation.check_cancelled()
        return "not reached"

    names = [operations.start("compress", RESOURCE, work).name for _ in range(3)]
    await operations.drain()
    assert {operations.get(name).state for name in names} == {OperationState.CANCELLED}
    assert operations.running_count == 0


async def test_they_are_listed_newest_first_in_pages(group: asyncio.TaskGroup) -> None:
    operations = Operations("boot", Events(10), group)
    names = [operations.done("compress", f"datasets/d{i % 2}", "").name for i in range(5)]
    listed = operations.list(resource="", limit=2, after=None)
    assert [info.name for info in listed] == names[:2:-1]
    listed = operations.list(resource="", limit=9, after=listed[-1].name)
    assert [info.name for info in listed] == names[2::-1]
    assert len(operations.list(resource="datasets/d1", limit=9, after=None)) == 2


async def test_a_name_of_an_earlier_run_is_not_found_and_says_so(group: asyncio.TaskGroup) -> None:
    operations = Operations("boot2", Events(10), group)
    for call in (operations.get, operations.cancel, operations.watch):
        with pytest.raises(NotFound, match="in this run of the daemon") as missing:
            call("operations/boot1-1")
        assert missing.value.reason is Reason.OPERATION_NOT_FOUND


async def test_the_oldest_ended_ones_are_forgotten_first(
    group: asyncio.TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ENDED", 2)
    operations = Operations("boot", Events(10), group)
    names = [operations.done("compress", RESOURCE, "").name for _ in range(5)]
    kept = [info.name for info in operations.list(resource="", limit=99, after=None)]
    assert kept[:2] == names[:2:-1]
    assert names[0] not in kept
