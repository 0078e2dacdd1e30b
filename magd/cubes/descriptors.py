"""Descriptors that stay open for whoever needs the same file next: a bounded number in the whole process.

1. A `Shared` descriptor is open while somebody uses it. Several threads may: all positions are explicit.
2. When the last user has released it, it is idle and stays open. There is room for so many idle ones, and for so much
   memory that they hold; the one that was idle longest is closed first.
3. One that is in use is never closed by others. What was written and is not synced counts as a use: closing it would
   lose the news that the write failed.
4. An open that fails because there are no descriptors left closes all idle ones and tries once more.
"""

from __future__ import annotations

import errno
import os
import threading
from abc import ABC, abstractmethod
from typing import Final, Self, TypeVar

T = TypeVar("T")

MAX_IDLE: Final = 256
"""Idle descriptors in this process. A process may usually open 1024 files."""
MAX_IDLE_BYTES: Final = 32 << 20
"""What idle ones hold in memory."""

_NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Shared(ABC):
    """A descriptor with users. Whoever makes it is the first one. Leaving it as a context manager is one user less.

    :param pool: where it is kept while it is idle
    """

    def __init__(self, pool: Pool) -> None:
        self._pool: Final = pool
        # Both belong to whoever holds the lock of the pool.
        self.users = 1
        self.is_kept = False

    @abstractmethod
    def close(self) -> None:
        """Close the descriptor. Called once, by the pool."""

    @abstractmethod
    def forget(self) -> None:
        """Make sure that nobody finds it any more. Called by the pool, which holds its lock."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """Memory that is free again when it is closed."""

    def share(self) -> None:
        """One user more. Only for a user."""
        with self._pool.lock:
            self.users += 1

    def release(self) -> None:
        """One user less."""
        self._pool.release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.release(self)


class Pool:
    """Keeps idle descriptors. Safe to use from several threads.

    :ivar lock: guards users, and the tables in which descriptors are found. Nothing blocks while it is held
    """

    def __init__(self, most: int = MAX_IDLE, most_bytes: int = MAX_IDLE_BYTES) -> None:
        self.lock: Final = threading.Lock()
        self._most: Final = most
        self._most_bytes: Final = most_bytes
        self._idle: Final[dict[Shared, int]] = {}  # the one that was idle longest first
        self._idle_bytes = 0

    def take(self, shared: Shared) -> None:
        """One user more, for somebody who has found it and holds the lock."""
        shared.users += 1
        if (held := self._idle.pop(shared, None)) is not None:
            self._idle_bytes -= held

    def release(self, shared: Shared) -> None:
        """One user less. Without users it stays open if it is to be kept and there is room."""
        closing: list[Shared] = []
        with self.lock:
            shared.users -= 1
            if shared.users:
                return
            if shared.is_kept:
                self._idle[shared] = held = shared.held_bytes
                self._idle_bytes += held
                while len(self._idle) > self._most or self._idle_bytes > self._most_bytes:
                    closing.append(self._evict())
            else:
                closing.append(shared)
        for each in closing:
            each.close()

    def drop(self, shared: Shared) -> None:
        """Keep it no longer: it is closed when the last user has released it, or now."""
        with self.lock:
            shared.is_kept = False
            shared.forget()
            held = self._idle.pop(shared, None)
            if held is not None:
                self._idle_bytes -= held
        if held is not None:
            shared.close()

    def close_idle(self) -> int:
        """Close all that nobody uses, and say how many that were."""
        with self.lock:
            closing = [self._evict() for _ in range(len(self._idle))]
        for each in closing:
            each.close()
        return len(closing)

    def _evict(self) -> Shared:
        oldest = next(iter(self._idle))
        self._idle_bytes -= self._idle.pop(oldest)
        oldest.is_kept = False
        oldest.forget()
        return oldest


POOL: Final = Pool()
"""That of this process: descriptors are scarce in the process, not in a mag."""


def open_at(name: str, flags: int, parent: int | None = None, pool: Pool = POOL) -> int:
    """`os.open`; where there are no descriptors left, idle ones are closed first.

    :param parent: descriptor of a folder
    :raises OSError: as of `os.open`
    """
    try:
        return os.open(name, flags, 0o666, dir_fd=parent)
    except OSError as error:
        if error.errno not in _NONE_LEFT or not pool.close_idle():
            raise
    return os.open(name, flags, 0o666, dir_fd=parent)
