"""Memory for boxes under way, as one budget in bytes that readers and writers share.

1. A request takes a lease on everything it will need before it reads its data or enters a mailbox.
2. A small request that would have to wait takes its lease from a share that is kept for small ones: it never waits
   behind large ones.
3. No client holds more than half of the budget, unless by one single lease.
4. Those who wait get their turn by what their clients hold already, the least first, and in the order they came. Nobody
   overtakes the one whose turn it is: a large request is not starved by small ones behind it, and one client's many
   requests do not keep another's waiting.
5. Who waits longer than `patience` is refused with Busy, and so is who asks while too many wait.
6. A lease is given back when every holder has let go of it: the call, and each piece of work it was handed to. A
   client that goes away ends its call, never the work, and the memory counts until the work is done.
7. What only saves time (shared memory) takes what is free at once, or goes without.
8. Work that makes room (flush, checkpoint, exchange, recovery) takes no lease, so it never waits for clients: what it
   needs beyond what is leased already is bounded by the storage, and comes on top of the budget.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from magd.errors import Busy, InvalidRequest, Reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

CLIENT: Final[ContextVar[str]] = ContextVar("CLIENT", default="")
"""Which client the present task works for; empty: one of its own. Set by the edges."""

SMALL_SHARE: Final = 16
"""One part in so many of the budget is kept for small requests; the largest of these is one part in so many of that."""


class Lease:
    """Bytes taken from the budget until every holder has let go. Leaving its context lets go once."""

    def __init__(self, budget: MemoryBudget, give_back: Callable[[], None], size_bytes: int) -> None:
        self._budget = budget
        self._give_back = give_back
        self._holders = 1
        self._on_release: list[Callable[[], None]] = []
        self.size_bytes: Final = size_bytes

    @property
    def is_wanted(self) -> bool:
        """Whether others wait for memory: who keeps it only to save work should not keep it now."""
        return self._budget.waiting > 0

    def keep_until(self, work: asyncio.Future[Any]) -> None:
        """Also hold it until this work has ended, however it ends."""
        self.keep()
        work.add_done_callback(lambda _: self.release())

    def keep(self) -> None:
        """Also hold it until one more `release`."""
        self._holders += 1

    def when_released(self, function: Callable[[], None]) -> None:
        """Have something done when every holder has let go."""
        self._on_release.append(function)

    def release(self) -> None:
        """Let go of it once."""
        self._holders -= 1
        if self._holders == 0:
            self._give_back()
            for function in self._on_release:
                function()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    size_bytes: int
    client: str
    granted: asyncio.Future[Lease]


class MemoryBudget:
    """A budget in bytes.

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
        self._on_pressure = on_pressure
        self._small_free = total_bytes // SMALL_SHARE
        self._small_limit: Final = self._small_free // SMALL_SHARE
        self.largest_bytes: Final = total_bytes - self._small_free
        """What one request can get."""
        self._free = self.largest_bytes
        self._held: Counter[str] = Counter()
        """By client; of those whose client is known."""
        self._queue: dict[_Request, None] = {}

    @property
    def used_bytes(self) -> int:
        """Taken by clients now."""
        return self.total_bytes - self._free - self._small_free

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    async def lease(self, size_bytes: int) -> Lease:
        """Wait for this many bytes, for the client that `CLIENT` names.

        :raises InvalidRequest: more than any client can get
        :raises Busy: not granted in time, or too many wait already
        """
        if size_bytes > self.largest_bytes:
            raise InvalidRequest(
                f"the request needs {size_bytes} bytes of memory, the budget has {self.largest_bytes} for one request",
                reason=Reason.BOX_TOO_LARGE,
                metadata={"field": "box", "value": size_bytes, "limit": self.largest_bytes},
            )
        request = _Request(size_bytes, CLIENT.get(), asyncio.get_running_loop().create_future())
        if not self._queue and self._fits(request):
            return self._take(request)
        if self._fits_among_small(request):
            return self._take_among_small(request)
        if len(self._queue) >= self._max_waiting:
            raise Busy(f"{len(self._queue)} requests wait for memory already", retry_after=1.0)
        self._queue[request] = None
        self._on_pressure()
        # Its client may hold too much, while there is room for others.
        self._grant()
        try:
            async with asyncio.timeout(self._patience):
                return await request.granted
        except TimeoutError:
            self._leave(request)
            raise Busy(
                f"no {size_bytes} bytes of memory became free in {self._patience:g} s", retry_after=1.0
            ) from None
        except asyncio.CancelledError:
            self._leave(request)
            raise

    def take_at_once(self, size_bytes: int) -> Lease | None:
        """Take bytes that would only save time, for no client in particular; None if they are not free, or if others
        wait."""
        if self._queue or size_bytes > self._free:
            return None
        return self._take(_Request(size_bytes, "", asyncio.get_running_loop().create_future()))

    def _leave(self, request: _Request) -> None:
        if request.granted.done() and not request.granted.cancelled():
            # Granted in the very moment the wait ended.
            request.granted.result().release()
            return
        self._queue.pop(request, None)
        self._grant()  # a large request may have held back smaller ones behind it

    def _grant(self) -> None:
        for small in [request for request in self._queue if request.size_bytes <= self._small_limit]:
            if self._fits_among_small(small):
                self._answer(small, self._take_among_small)
        while (request := self._whose_turn()) is not None and self._fits(request):
            self._answer(request, self._take)

    def _answer(self, request: _Request, take: Callable[[_Request], Lease]) -> None:
        del self._queue[request]
        # A future is cancelled before the task that awaits it gets to leave the queue.
        if not request.granted.cancelled():
            request.granted.set_result(take(request))

    def _whose_turn(self) -> _Request | None:
        in_share = (request for request in self._queue if self._is_in_share(request))
        return min(in_share, key=lambda request: self._held[request.client], default=None)

    def _is_in_share(self, request: _Request) -> bool:
        held = self._held[request.client]
        return not held or held + request.size_bytes <= self.total_bytes // 2

    def _fits(self, request: _Request) -> bool:
        return request.size_bytes <= self._free and self._is_in_share(request)

    def _take(self, request: _Request) -> Lease:
        self._free -= request.size_bytes
        if request.client:
            self._held[request.client] += request.size_bytes
        return Lease(self, partial(self._give_back, request.size_bytes, request.client), request.size_bytes)

    def _give_back(self, size_bytes: int, client: str) -> None:
        self._free += size_bytes
        if client:
            self._held[client] -= size_bytes
            if not self._held[client]:
                del self._held[client]
        self._grant()

    def _fits_among_small(self, request: _Request) -> bool:
        return request.size_bytes <= min(self._small_limit, self._small_free)

    def _take_among_small(self, request: _Request) -> Lease:
        self._small_free -= request.size_bytes
        return Lease(self, partial(self._give_back_small, request.size_bytes), request.size_bytes)

    def _give_back_small(self, size_bytes: int) -> None:
        self._small_free += size_bytes
        self._grant()
