"""Work that all who ask for it share, such as a sync of a disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Shared:
    """Runs one at a time. Who asks while one runs waits for the next, which begins after the question."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._next: asyncio.Task[None] | None = None
        self._running = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self) -> None:
        """Return when a run that began after this call has ended. Cancelling the call does not cancel the run.

        :raises MagdError: what that run raised
        """
        await asyncio.shield(self._coming())

    def start(self) -> None:
        """Have it run soon, without waiting for it, unless it runs already."""
        if not self._tasks:
            self._coming()

    async def ended(self) -> None:
        """Wait until nothing of it runs or is about to."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _coming(self) -> asyncio.Task[None]:
        if self._next is None:
            self._next = asyncio.create_task(self._run())
            self._tasks.add(self._next)
            self._next.add_done_callback(self._heard)
        return self._next

    async def _run(self) -> None:
        async with self._running:
            self._next = None
            await self._work()

    def _heard(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may await a run that was only started; it is not worth a warning then
