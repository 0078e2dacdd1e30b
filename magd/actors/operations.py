"""Operations: long work that goes on when the client has gone, found again by its name.

1. An operation is a task of the daemon. Its name holds the run of the daemon, so that a name of an earlier run is
   never mistaken for a present one.
2. Each change wakes the watchers, who see the latest state, not each step; and it is published as an event.
3. Cancelling sets a mark that the work looks at where it can stop: the work cleans up after itself, and past its point
   of no return it ends well.
4. Ended operations are kept up to a number; the oldest are forgotten first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final

import structlog

from magd.actors.events import Events, is_within
from magd.actors.types import (
    OperationEvent,
    OperationFailure,
    OperationInfo,
    OperationProgress,
    OperationState,
)
from magd.errors import Cancelled, InternalError, MagdError, NotFound, Reason

MAX_ENDED: Final = 1000
"""Ended operations that can still be asked for."""

log = structlog.get_logger(__name__)


class Operation:
    """One operation, for the work that it is."""

    def __init__(self, info: OperationInfo, publish: Callable[[OperationInfo], None]) -> None:
        self.info = info
        self.cancel_requested = asyncio.Event()
        self.changed = asyncio.Event()
        self._publish = publish

    @property
    def name(self) -> str:
        """operations/{id}"""
        return self.info.name

    @property
    def number(self) -> str:
        """Unlike that of any other operation of this run of the daemon."""
        return self.name.rpartition("-")[2]

    def progress(self, progress: OperationProgress) -> None:
        """Say how far it is."""
        self.update(progress=progress)

    def check_cancelled(self) -> None:
        """Stop here if somebody asked for it.

        :raises Cancelled: somebody did
        """
        if self.cancel_requested.is_set():
            raise Cancelled(f"{self.name} was cancelled", metadata={"operation": self.name})

    def update(self, **changes: object) -> None:
        """Change what it says of itself, and wake the watchers."""
        self.info = replace(self.info, **changes)  # type: ignore[arg-type]  # names of its fields
        self.changed.set()
        self.changed = asyncio.Event()
        self._publish(self.info)


Work = Callable[[Operation], Awaitable[str]]
"""Does the work of an operation; gives the resource it made or changed."""


class Operations:
    """The operations of this run of the daemon.

    :param group: runs their tasks
    :param on_start: called when one has been started
    """

    def __init__(
        self, boot_id: str, events: Events, group: asyncio.TaskGroup, *, on_start: Callable[[], object] = lambda: None
    ) -> None:
        self._boot_id = boot_id
        self._events = events
        self._group = group
        self._on_start = on_start
        self._operations: dict[str, Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0

    def start(self, kind: str, resource: str, work: Work) -> OperationInfo:
        """Begin an operation."""
        operation = self._new(kind, resource)
        task = self._group.create_task(self._run(operation, work), name=operation.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._on_start()
        return operation.info

    def done(self, kind: str, resource: str, result: str) -> OperationInfo:
        """An operation that had nothing to do."""
        operation = self._new(kind, resource)
        operation.update(state=OperationState.SUCCEEDED, result=result, ended_at=time.time())
        return operation.info

    def get(self, name: str) -> OperationInfo:
        """One operation.

        :raises NotFound: OPERATION_NOT_FOUND
        """
        return self._find(name).info

    def list(self, *, resource: str, limit: int, after: str | None) -> list[OperationInfo]:
        """Operations on a resource and below it, newest first, behind the one named `after`."""
        newest_first = [operation.info for operation in reversed(self._operations.values())]
        if after is not None:
            bound = self._number(after)
            newest_first = [info for info in newest_first if self._number(info.name) < bound]
        return [info for info in newest_first if is_within(info.resource, resource)][:limit]

    def running(self, resource: str = "") -> OperationInfo | None:
        """An operation that has not ended, on a resource, below it, or on one that it belongs to."""
        for operation in self._operations.values():
            own = operation.info.resource
            if not operation.info.state.has_ended and (is_within(own, resource) or is_within(resource, own)):
                return operation.info
        return None

    @property
    def running_count(self) -> int:
        """Operations that have not ended."""
        return sum(not operation.info.state.has_ended for operation in self._operations.values())

    def watch(self, name: str) -> AsyncIterator[OperationInfo]:
        """The operation now, after changes, and a last time when it has ended.

        :raises NotFound: OPERATION_NOT_FOUND
        """
        return self._follow(self._find(name))

    def cancel(self, name: str) -> OperationInfo:
        """Ask an operation to stop; what it was about to change stays as it was.

        :raises NotFound: OPERATION_NOT_FOUND
        """
        operation = self._find(name)
        if not operation.info.state.has_ended:
            operation.cancel_requested.set()
        return operation.info

    async def drain(self) -> None:
        """Cancel what runs, and wait for it."""
        for operation in self._operations.values():
            operation.cancel_requested.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ------------------------------------------------------------------------------------------------------------

    def _new(self, kind: str, resource: str) -> Operation:
        self._count += 1
        info = OperationInfo(
            name=f"operations/{self._boot_id}-{self._count}",
            kind=kind,
            resource=resource,
            state=OperationState.PENDING,
            progress=OperationProgress(),
            result="",
            failure=None,
            created_at=time.time(),
            ended_at=None,
        )
        operation = Operation(info, lambda info: self._events.publish(OperationEvent(info)))
        self._operations[info.name] = operation
        self._forget_old()
        return operation

    async def _run(self, operation: Operation, work: Work) -> None:
        operation.update(state=OperationState.RUNNING)
        try:
            operation.check_cancelled()
            result = await work(operation)
        except Cancelled:
            operation.update(state=OperationState.CANCELLED, ended_at=time.time())
        except MagdError as error:
            self._fail(operation, error)
        except Exception as error:  # the border of the operation: a bug in it must not end the daemon
            log.exception("operation failed", operation=operation.name)
            self._fail(operation, InternalError(f"{operation.name}: {error!r}"))
        else:
            operation.update(state=OperationState.SUCCEEDED, result=result, ended_at=time.time())
        log.info("operation ended", operation=operation.name, state=operation.info.state.value)

    def _fail(self, operation: Operation, error: MagdError) -> None:
        failure = OperationFailure(type(error).__name__, error.reason.value, error.message, error.metadata)
        operation.update(state=OperationState.FAILED, failure=failure, ended_at=time.time())

    async def _follow(self, operation: Operation) -> AsyncIterator[OperationInfo]:
        while True:
            changed, info = operation.changed, operation.info
            yield info
            if info.state.has_ended:
                return
            await changed.wait()

    def _find(self, name: str) -> Operation:
        operation = self._operations.get(name)
        if operation is not None:
            return operation
        earlier = "" if name.startswith(f"operations/{self._boot_id}-") else " in this run of the daemon"
        raise NotFound(
            f"{name} does not exist{earlier}",
            reason=Reason.OPERATION_NOT_FOUND,
            metadata={"field": "name", "value": name},
        )

    def _number(self, name: str) -> int:
        _, _, number = name.rpartition("-")
        return int(number) if number.isdecimal() else 0

    def _forget_old(self) -> None:
        ended = [name for name, operation in self._operations.items() if operation.info.state.has_ended]
        for name in ended[: max(0, len(ended) - MAX_ENDED)]:
            del self._operations[name]
