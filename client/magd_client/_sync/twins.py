"""What the sync client does otherwise than the async one, besides gRPC: the twin of `magd_client._async.twins`."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from magd.acknowledgement import Acknowledgement
    from magd_client.slices import Key

T = TypeVar("T")

sleep = time.sleep
Lock = threading.Lock


def for_each(items: Iterable[T], work: Callable[[T], None], *, limit: int) -> None:
    """Do the work for each item, several side by side, in the order of the items.

    After a failure no further item is begun; those under way are finished, then the first failure is raised.

    :param limit: how many side by side
    """
    waiting = iter(items)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def worker() -> None:
        while not failures:
            with lock:
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            try:
                work(item)
            except BaseException as error:
                failures.append(error)
                raise

    # A pool of its own: it lives as long as one large box, and never across a fork.
    with ThreadPoolExecutor(limit, thread_name_prefix="magd-client") as pool:
        running = [pool.submit(worker) for _ in range(limit)]
        try:
            for future in running:
                future.exception()
        except BaseException as error:
            # Interrupted (Ctrl-C): no further item is begun, those under way end as the pool is left.
            failures.append(error)
            raise
    if failures:
        raise failures[0]


class Crew:
    """Runs work side by side. What it runs raises nothing that its caller has to know.

    :param limit: how many side by side
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places = threading.Semaphore(limit)
        # Threads of its own: they live as long as what they work for, and never across a fork.
        self._pool: ThreadPoolExecutor | None = None
        self._running: set[Future[None]] = set()

    def start(self, work: Callable[[], None]) -> None:
        """Begin some work. Waits while as much as may be is under way."""
        self._places.acquire()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._limit, thread_name_prefix="magd-client")
        future = self._pool.submit(work)
        self._running = {running for running in self._running if not running.done() or running.exception()} | {future}
        future.add_done_callback(lambda _: self._places.release())

    def finish(self) -> None:
        """Wait until all that was begun is done.

        :raises Exception: what some of it raised
        """
        running, self._running = self._running, set()
        wait(running)
        for future in running:
            future.result()

    def abandon(self) -> None:
        """Wait for what is under way: a thread cannot be given up."""
        self._running = set()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


class Assignable:
    """Assignment to slices."""

    @abstractmethod
    def write_at(self, key: Key, value: Any) -> Acknowledgement | None:
        """Write a value to a selection."""

    def __setitem__(self, key: Key, value: Any) -> None:
        """Write a value to a selection, as `write_at` does."""
        self.write_at(key, value)
