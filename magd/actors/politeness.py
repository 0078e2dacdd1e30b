"""Background work makes way for people who wait.

Processes of the pool have low priority, so the kernel gives them what the daemon leaves. Where requests wait all the
same, no new jobs begin:

1. While operations run, it is looked 20 times a second whether requests wait for memory, or in the mailboxes of mags.
   (Those of a mag that an operation holds do not count: they wait for the operation to go on.)
2. If some have waited for 100 ms without a break, the pool is paused. A pause lasts 200 ms and is made longer with
   each look; it ends when no request waits any more.
3. Where they wait all the time, the work goes on nevertheless, for a quarter of the time: after a second of pauses
   there is none for a third of a second.

Jobs under way are not interrupted: they take a tenth of a second or so.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.compression.pool import CompressionPool

LOOK_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 0.1
PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 1.0
BETWEEN_PAUSES_SECONDS: Final = LONGEST_PAUSE_SECONDS / 3


class Politeness:
    """Decides when the pool pauses.

    :param waiting: how many requests wait now
    """

    def __init__(self, pool: CompressionPool, waiting: Callable[[], int]) -> None:
        self._pool: Final = pool
        self._waiting: Final = waiting
        self._waiting_since: float | None = None
        self._pausing_since: float | None = None
        self._no_pause_until = 0.0

    async def run(self, is_needed: Callable[[], bool]) -> None:
        """Look again and again, as long as it is needed."""
        while is_needed():
            self.look(time.monotonic())
            await asyncio.sleep(LOOK_SECONDS)
        self._pool.pause(0)

    def look(self, now: float) -> None:
        """Look once.

        :param now: the time by a clock that never goes back, in seconds
        """
        if not self._waiting():
            if self._pausing_since is not None:
                self._pool.pause(0)
            self._waiting_since = self._pausing_since = None
            return
        if self._waiting_since is None:
            self._waiting_since = now
        if now - self._waiting_since < PATIENCE_SECONDS or now < self._no_pause_until:
            return
        if self._pausing_since is None:
            self._pausing_since = now
        if now - self._pausing_since >= LONGEST_PAUSE_SECONDS:
            self._pausing_since = None
            self._no_pause_until = now + BETWEEN_PAUSES_SECONDS
            self._pool.pause(0)
        else:
            self._pool.pause(PAUSE_SECONDS)
