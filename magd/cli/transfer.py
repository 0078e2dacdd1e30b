"""Copying many pieces with a bounded number under way: what import and export have in common.

1. As many threads as there are jobs take pieces from one iterator, each the next one.
2. A piece is read and written by the same thread, so that there are never more pieces in memory than jobs.
3. The first failure stops the others at their next piece, and is raised when all have stopped. So does Ctrl-C.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from magd.geometry import Box

PIECE_BYTES: Final = 32 << 20
"""Of one piece, at most, unless a single plane is larger."""


def copy_pieces(pieces: Iterable[Box], copy: Callable[[Box], int], jobs: int, advance: Callable[[int], None]) -> int:
    """Copy pieces in several threads.

    :param copy: copies one piece and returns its bytes; called in threads
    :param advance: told the bytes of each piece that is done; called in one thread at a time
    :return: the bytes of all
    """
    waiting = iter(pieces)
    lock = threading.Lock()
    stopped = threading.Event()
    copied = 0

    def work() -> None:
        nonlocal copied
        try:
            while not stopped.is_set():
                with lock:
                    piece = next(waiting, None)
                if piece is None:
                    return
                size_bytes = copy(piece)
                with lock:
                    copied += size_bytes
                    advance(size_bytes)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(jobs, thread_name_prefix="magd-copy") as threads:
        try:
            for job in as_completed([threads.submit(work) for _ in range(jobs)]):
                job.result()
        except BaseException:
            stopped.set()
            raise
    return copied
