"""Boxes under way in one call that carries many of them.

1. A box enters before anything of it is kept. While as many are under way as may be it waits, and the call reads no
   further: so the client waits, too.
2. It lands with its outcome, in whatever order.
3. It leaves when the client has taken the outcome. A client that takes nothing holds a bounded number of boxes.
4. When the call ends, however it ends, what has landed and was not taken is disposed of. Work that the storage has
   begun goes on without the call.

Messages are read in a task of their own. While nothing is under way, or a box is only half there, the next message must
come in time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from magd.errors import TooSlow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from types import TracebackType

    from magd.rpc.admission import EdgeConfig, Pace

MAX_BOXES_IN_FLIGHT: Final = 256
"""Of one call. As many as the mailbox of a mag holds."""

FrameT = TypeVar("FrameT")
OutcomeT = TypeVar("OutcomeT")


class Flight(Generic[OutcomeT]):
    """The boxes under way in one call. Leaving its context ends what still works for the call.

    :param dispose: called with outcomes that nobody will take
    """

    def __init__(self, *, dispose: Callable[[OutcomeT], None] = lambda _: None) -> None:
        self._dispose = dispose
        self._places = asyncio.Semaphore(MAX_BOXES_IN_FLIGHT)
        self._entered = 0
        self._landed: list[OutcomeT] = []
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._feeding = 0
        self._failure: BaseException | None = None
        self._ended = False
        self.on_empty: Callable[[], None] = lambda: None
        """Called when the last box under way has left."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for outcome in self._landed:
            self._dispose(outcome)
        self._landed.clear()

    @property
    def is_empty(self) -> bool:
        """Whether no box is under way."""
        return not self._entered

    async def enter(self) -> None:
        """Take a place; wait for one."""
        await self._places.acquire()
        self._entered += 1

    def land(self, outcome: OutcomeT) -> None:
        """A box has its outcome."""
        if self._ended:
            self._dispose(outcome)
            return
        self._landed.append(outcome)
        self._news.set()

    def leave(self, count: int) -> None:
        """Outcomes were taken."""
        self._entered -= count
        for _ in range(count):
            self._places.release()
        if self.is_empty:
            self.on_empty()

    def feed(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that lets boxes enter, or land. If it fails, the call fails."""
        self._feeding += 1
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._fed)

    def fail(self, error: BaseException) -> None:
        """Have the call fail."""
        self._failure = self._failure or error
        self._news.set()

    async def landed(self) -> list[OutcomeT]:
        """What has landed since the last call; waits until something has. Empty: nothing is under way any more."""
        while not self._landed:
            if self._failure is not None:
                raise self._failure
            if not self._feeding and self.is_empty:
                return []
            self._news.clear()
            await self._news.wait()
        landed, self._landed = self._landed, []
        return landed

    def _fed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._feeding -= 1
        if task.cancelled():
            # Not by us, as long as the call goes on: something that it awaited was cancelled.
            self.fail(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self.fail(error)
        self._news.set()


class Incoming(Generic[FrameT]):
    """The messages of a call of many boxes, as long as they come in time.

    :param flight: of their boxes
    """

    def __init__(self, frames: AsyncIterator[FrameT], flight: Flight[Any], config: EdgeConfig) -> None:
        self._frames = frames
        self._flight = flight
        self._config = config
        self._scope: asyncio.Timeout | None = None
        self.pace: Pace | None = None
        """Of the box that is half there."""
        flight.on_empty = self._set_deadline

    async def next(self) -> FrameT | None:
        """The next message; None at the end of the stream.

        :raises TooSlow: it does not come in time
        """
        try:
            async with asyncio.timeout_at(self._deadline()) as self._scope:
                return await anext(self._frames, None)
        except TimeoutError:
            if self.pace is not None:
                raise self.pace.too_slow() from None
            raise TooSlow(
                f"the stream was open without a box for {self._config.stall_seconds:g} s",
                metadata={"limit": f"{self._config.stall_seconds:g} s"},
            ) from None
        finally:
            self._scope = None

    def _deadline(self) -> float | None:
        if self.pace is not None:
            return self.pace.deadline()
        if not self._flight.is_empty:
            return None
        return asyncio.get_running_loop().time() + self._config.stall_seconds

    def _set_deadline(self) -> None:
        if self._scope is not None:
            self._scope.reschedule(self._deadline())
