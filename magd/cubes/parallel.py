"""Sharing work on blocks between the cores: decoding, encoding and copying large pieces let go of Python's lock.

1. The calling thread works through the items itself.
2. If there is enough to do, helpers take items too: whoever is free takes the next one.
3. When no item is left, the caller waits for those that are being worked on, not for helpers that never came: they may
   be busy for others.
4. The first error ends it: no further item is begun, and the error is the caller's.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")

WORTH_BYTES: Final = 4 << 20
"""Below so much, a helper costs more than it helps: on a busy machine it may have to be waited for."""
MOST_HELPERS: Final = 3
"""Threads of this process that help, beside the callers."""


def for_each(work: Callable[[T], object], items: Sequence[T], *, worth: int) -> None:
    """Do some work on each item, in no order.

    :param worth: bytes of blocks that are worked on, all items together
    :raises Exception: what `work` raised first
    """
    helpers = min(_helpers(), len(items) - 1) if worth >= WORTH_BYTES else 0
    if helpers < 1:
        for item in items:
            work(item)
        return
    waiting = deque(items)
    errors: list[BaseException] = []

    def take() -> None:
        while not errors:
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                work(item)
            except BaseException as error:  # noqa: BLE001  # whatever it is, the thread that asked for the work tells it
                errors.append(error)

    started = [_executor().submit(take) for _ in range(helpers)]
    take()
    for helper in started:
        if not helper.cancel():
            helper.result()
    if errors:
        raise errors[0]


def map_all(work: Callable[[T], R], items: Sequence[T], *, worth: int) -> list[R]:
    """The results of some work on each item, in the order of the items.

    :param worth: bytes of blocks that are worked on, all items together
    :raises Exception: what `work` raised first
    """
    results: dict[int, R] = {}

    def note(numbered: tuple[int, T]) -> None:
        number, item = numbered
        results[number] = work(item)

    for_each(note, list(enumerate(items)), worth=worth)
    return [results[number] for number in range(len(items))]


def _helpers() -> int:
    return min(MOST_HELPERS, len(os.sched_getaffinity(0)) - 1)


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST_HELPERS, thread_name_prefix="magd-blocks")
