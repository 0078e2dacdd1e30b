"""What the async client does otherwise than the sync one, besides gRPC: the twin of `magd_client._sync.twins`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from magd_client.slices import Key

T = TypeVar("T")

sleep = asyncio.sleep
Lock = asyncio.Lock


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, limit: int) -> None:
    """Do the work for each item, several side by side, in the order of the items.

    After a failure no further item is begun; those under way are finished, then the first failure is raised.

    :param limit: how many side by side
    """
    waiting = iter(items)
    failures: list[BaseException] = []

    async def worker() -> None:
        while not failures:
            try:
                item = next(waiting)
            except StopIteration:
                return
            try:
                await work(item)
            except BaseException as error:
                failures.append(error)
                raise

    tasks = [asyncio.ensure_future(worker()) for _ in range(limit)]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    finally:
        # Waits for those that were cancelled, and takes the failures of those that failed later.
        await asyncio.gather(*tasks, return_exceptions=True)
    if failures:
        raise failures[0]


class Crew:
    """Runs work side by side. What it runs raises nothing that its caller has to know.

    :param limit: how many side by side
    """

    def __init__(self, limit: int) -> None:
        self._places = asyncio.Semaphore(limit)
        self._tasks: set[asyncio.Future[None]] = set()

    async def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin some work. Waits while as much as may be is under way."""
        await self._places.acquire()
        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._places.release())

    async def finish(self) -> None:
        """Wait until all that was begun is done.

        :raises Exception: what some of it raised
        """
        tasks, self._tasks = self._tasks, set()
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            self._tasks |= tasks
            raise

    async def abandon(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


class Assignable:
    """Says what to write instead of an assignment, which Python cannot await."""

    def __setitem__(self, key: Key, value: Any) -> NoReturn:
        raise TypeError("an assignment cannot be awaited: use `await mag.write_at(key, value)`")
