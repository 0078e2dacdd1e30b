"""Memory for boxes under way, as one budget in bytes that readers and writers share.

1. A request takes a lease on everything it will need before it reads its data or enters a mailbox.
2. Leases are granted in the order they were asked for: a large one is not starved by small ones behind it.
3. Who waits longer than `patience` is refused with Busy, and so is who asks while too many wait.
4. A lease is given back when every holder has let go of it: the call, and each piece of work it was handed to. A
   client that goes away ends its call, never the work, and the memory counts until the work is done.
5. Work that makes room (flush, checkpoint, exchange, recovery) takes no lease, so it never waits for clients: what it
   needs beyond what is leased already is bounded by the storage, and comes on top of the budget.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self

from magd.errors import Busy, InvalidRequest, Reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Lease:
    """Bytes taken from the budget until every holder has let go. Leaving its context lets go once."""

    def __init__(self, budget: MemoryBudget, size_bytes: int) -> None:
        self._budget = budget
        self._holders = 1
        self.size_bytes: Final = size_bytes

    def keep_until(self, work: asyncio.Future[Any]) -> None:
        """Also hold it until this work has ended, however it ends."""
        self._holders += 1
        work.add_done_callback(lambda _: self.release())

    def release(self) -> None:
        """Let go of it once."""
        self._holders -= 1
        if self._holders == 0:
            self._budget._give_back(self.size_bytes)  # noqa: SLF001  # one mechanism in two classes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class MemoryBudget:
    """A first-come-first-served budget in bytes.

    :param total_bytes: what leases of clients may take together
    :param patience: seconds a request waits before it is refused
    :param max_waiting: requests that may wait at once
    :param on_pressure: called when a request has to wait, so that whoever holds memory gives it back sooner
    """

    def __init__(
        self,
        total_bytes: int,
        *,
        patience: float = 30.0,
        max_waiting: int = 1024,
        on_pressure: Callable[[], object] = lambda: None,
    ) -> None:
        self.total_bytes: Final = total_bytes
        self._patience = patience
        self._max_waiting = max_waiting
        self._free = total_bytes
        self._on_pressure = on_pressure
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        """Taken by clients now."""
        return self.total_bytes - self._free

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    async def lease(self, size_bytes: int) -> Lease:
        """Wait for this many bytes.

        :raises InvalidRequest: more than the whole budget
        :raises Busy: not granted in time, or too many wait already
        """
        if size_bytes > self.total_bytes:
            raise InvalidRequest(
                f"the request needs {size_bytes} bytes of memory, the budget is {self.total_bytes}",
                reason=Reason.BOX_TOO_LARGE,
                metadata={"field": "box", "value": size_bytes, "limit": self.total_bytes},
            )
        if not self._queue and size_bytes <= self._free:
            self._free -= size_bytes
            return Lease(self, size_bytes)
        if len(self._queue) >= self._max_waiting:
            raise Busy(f"{len(self._queue)} requests wait for memory already", retry_after=1.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._queue.append(entry)
        self._on_pressure()
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except TimeoutError:
            self._leave(entry)
            raise Busy(
                f"no {size_bytes} bytes of memory became free in {self._patience:g} s", retry_after=1.0
            ) from None
        except asyncio.CancelledError:
            self._leave(entry)
            raise
        return Lease(self, size_bytes)

    def _leave(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        size_bytes, turn = entry
        if turn.done() and not turn.cancelled():
            # Granted in the very moment the wait ended.
            self._give_back(size_bytes)
            return
        if entry in self._queue:
            self._queue.remove(entry)
        self._grant()  # a large request may have held back smaller ones behind it

    def _give_back(self, size_bytes: int) -> None:
        self._free += size_bytes
        self._grant()

    def _grant(self) -> None:
        while self._queue:
            size_bytes, turn = self._queue[0]
            if size_bytes > self._free:
                return
            self._queue.popleft()
            if not turn.cancelled():
                self._free -= size_bytes
                turn.set_result(None)
