"""An actor: one task, one bounded mailbox. Callers await a future, never the work itself.

1. `ask` waits for a place in the mailbox, puts the message in, and awaits the future that belongs to it. The place is
   given back when the message is finished, so the mailbox bounds what waits and what runs together.
2. A caller that goes away leaves its message where it is: work that was accepted is done. It is only marked as
   abandoned, and the actor may skip what nobody wants any more, such as a read.
3. `close` refuses new messages; the actor finishes what it accepted and ends.
4. However the task ends, every future that is still owed gets an error. The set of owed futures is kept outside of the
   queue and settled by a callback of the task, because a task that is cancelled before its first step runs no
   `finally`, and a queue that nobody reads any more would keep its writers waiting.

A failure of one message goes to its caller. A failure of the actor itself (its files cannot be opened, or a bug) goes
to every caller it owes, and the next request gets a new actor.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from magd.errors import InternalError, MagdError, Reason, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.actors.budget import Lease

MessageT = TypeVar("MessageT")

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Envelope(Generic[MessageT]):
    """A message on its way through an actor."""

    message: MessageT
    done: asyncio.Future[Any]
    abandoned: bool = False
    """Nobody awaits the outcome any more."""

    def resolve(self, result: object) -> None:
        """Give the caller its result."""
        if not self.done.done():
            self.done.set_result(result)

    def reject(self, error: BaseException) -> None:
        """Give the caller an error."""
        if not self.done.done():
            self.done.set_exception(error)
            # The caller may be gone; an error that nobody fetches is not worth a warning at exit.
            self.done.exception()


class Actor(ABC, Generic[MessageT]):
    """One task and one bounded mailbox.

    :param name: for logs and errors
    :param mailbox_size: messages it holds, waiting and under way together, before callers wait
    :param on_end: called once, when the task has ended for whatever reason
    """

    def __init__(self, name: str, *, mailbox_size: int, on_end: Callable[[], None]) -> None:
        self.name = name
        self._on_end = on_end
        self._queue: asyncio.Queue[Envelope[MessageT] | None] = asyncio.Queue()
        self._places = asyncio.Semaphore(mailbox_size)
        self._owed: set[Envelope[MessageT]] = set()
        self._closed = False
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    # -- for callers ---------------------------------------------------------------------------------------------

    async def ask(self, message: MessageT, lease: Lease | None = None) -> Any:
        """Hand a message over and await its outcome. Cancelling the call does not cancel accepted work.

        :param lease: memory that the message holds until it is finished, also when the caller is gone
        :raises Unavailable: ACTOR_STOPPED: the actor ended before it took the message; asking again is safe
        """
        return await self.outcome_of(await self.hand_over(message, lease))

    @staticmethod
    async def outcome_of(envelope: Envelope[MessageT]) -> Any:
        """Await the outcome of a message that was handed over. Cancelling the call does not cancel the work."""
        try:
            return await asyncio.shield(envelope.done)
        except asyncio.CancelledError:
            envelope.abandoned = True
            raise

    async def hand_over(self, message: MessageT, lease: Lease | None = None) -> Envelope[MessageT]:
        """Hand a message over, and do not await its outcome, which is the future of the envelope. It is not to be
        cancelled.

        :param lease: memory that the message holds until it is finished
        :raises Unavailable: ACTOR_STOPPED: the actor ended before it took the message; asking again is safe
        """
        await self._places.acquire()
        if self._closed:
            self._places.release()  # the next one in line has to hear of it too
            raise self._stopped()
        # No await between here and the queue: either the message is in, and owed, or nothing has happened.
        envelope = Envelope(message, asyncio.get_running_loop().create_future())
        self._owed.add(envelope)
        if lease is not None:
            lease.keep()
        envelope.done.add_done_callback(lambda _: self._settle(envelope, lease))
        self._queue.put_nowait(envelope)
        return envelope

    def close(self) -> None:
        """Refuse new messages, finish accepted ones, then end."""
        if not self._closed:
            self._closed = True
            self._places.release()  # wakes one that waits for a place; it wakes the next
            self._queue.put_nowait(None)

    async def ended(self) -> None:
        """Wait until the task has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def is_closed(self) -> bool:
        """Whether it refuses messages."""
        return self._closed

    @property
    def waiting(self) -> int:
        """Messages it has not begun to look at."""
        return self._queue.qsize()

    @property
    def owed(self) -> int:
        """Messages without an outcome yet."""
        return len(self._owed)

    # -- for the task --------------------------------------------------------------------------------------------

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run as a task of this group."""
        self._task = group.create_task(self._supervise(), name=f"actor:{self.name}")
        self._task.add_done_callback(self._abandon)

    @abstractmethod
    async def _run(self) -> None:
        """Receive until `_receive` gives None."""

    async def _receive(self, idle_seconds: float | None = None) -> Envelope[MessageT] | None:
        """The next message; None when the actor is closed and drained.

        :raises TimeoutError: none came for `idle_seconds`
        """
        if not self._queue.empty():
            return self._queue.get_nowait()
        async with asyncio.timeout(idle_seconds):
            return await self._queue.get()

    def _receive_waiting(self) -> Envelope[MessageT] | None:
        """The next message if there is one already, else None. The end of the mailbox stays where it is."""
        if self._queue.empty():
            return None
        envelope = self._queue.get_nowait()
        if envelope is None:
            self._queue.put_nowait(None)
        return envelope

    async def _supervise(self) -> None:
        try:
            await self._run()
        except MagdError as error:
            self._failure = error
        except Exception as error:  # the border of the actor: one actor's bug must not end the daemon
            log.exception("actor failed", actor=self.name)
            self._failure = error

    async def _all_answered(self) -> None:
        """Wait until every message that was accepted has its outcome."""
        if self._owed:
            await asyncio.wait([envelope.done for envelope in self._owed])

    def _settle(self, envelope: Envelope[MessageT], lease: Lease | None) -> None:
        self._owed.discard(envelope)
        self._places.release()
        if lease is not None:
            lease.release()

    def _abandon(self, _: asyncio.Task[None]) -> None:
        self.close()
        for envelope in list(self._owed):
            envelope.reject(self._stopped())
        self._on_end()

    def _stopped(self) -> MagdError:
        failure = self._failure
        if isinstance(failure, MagdError):
            # A fresh one for each caller: a raised error collects a traceback.
            return type(failure)(
                failure.message,
                reason=failure.reason,
                metadata=failure.metadata,
                retry_after=failure.retry_after,
            )
        if failure is not None:
            return InternalError(f"{self.name} failed by a bug; the log has it", metadata={"actor": self.name})
        return Unavailable(f"{self.name} was closed before it took the request", reason=Reason.ACTOR_STOPPED)
