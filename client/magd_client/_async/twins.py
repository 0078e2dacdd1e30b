"""What the async client does otherwise than the sync one, besides gRPC: the twin of `magd_client._sync.twins`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from magd_client.slices import Key

T = TypeVar("T")

sleep = asyncio.sleep


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


class Assignable:
    """Says what to write instead of an assignment, which Python cannot await."""

    def __setitem__(self, key: Key, value: Any) -> NoReturn:
        raise TypeError("an assignment cannot be awaited: use `await mag.write_at(key, value)`")
