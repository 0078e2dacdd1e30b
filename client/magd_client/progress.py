"""Telling a user how far a long call is: a bar on the terminal, or a function of theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

ProgressLike: TypeAlias = bool | Callable[[int, int], None] | None
"""True shows a bar; a function is called with (done, total); None and False show nothing."""


class Meter:
    """Adds up what is done, from any thread, and passes it on."""

    def __init__(self, total: int, show: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._show = show
        self._done = 0
        self._lock = threading.Lock()

    def advance(self, amount: int) -> None:
        """Say that so much more is done; less, if an attempt failed and is made again."""
        if self._show is None:
            return
        with self._lock:
            self._done += amount
            self._show(self._done, self._total)

    def update(self, done: int, total: int) -> None:
        """Say how much is done, of a total that may change."""
        if self._show is None:
            return
        with self._lock:
            self._done, self._total = done, total
            self._show(done, total)


@contextmanager
def show_progress(progress: ProgressLike, label: str, total: int, *, in_bytes: bool) -> Iterator[Meter]:
    """Show progress while a call runs.

    :param progress: as the user gave it
    :param label: what runs, for the bar
    :param total: bytes, or cube files
    """
    if progress is None or progress is False:
        yield Meter(total, None)
        return
    if progress is not True:
        yield Meter(total, progress)
        return
    amount: tuple[ProgressColumn, ...] = (
        (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    )
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    with RichProgress(*columns) as bar:
        task = bar.add_task(label, total=total)
        yield Meter(total, lambda done, of: bar.update(task, completed=done, total=of))
