"""Forking a process that talks to a daemon.

gRPC survives a fork only while none of its calls is under way in another thread: then its own handlers tear the
library down and build it up again around the fork. With a call under way they are skipped (it says so on
stderr), and a child that uses gRPC hangs or crashes now and then. So

1. every bounded call of the sync client holds the gate;
2. before a fork, new calls wait at the gate, and those under way get some seconds to end;
3. conversations, which last, are ended: their owners begin new ones;
4. last, the fork waits for the undivided steps of other threads, which are short: what was opened is noted by then;
5. after it, the parent opens the gate; the child gets a new gate and a new epoch.

Each connection remembers the epoch of its channel, and makes a new one in another epoch. The parent's channel
is kept, unused, for ever: destroying it in the child would touch threads that do not exist there.

Limits:

- Streams without an end (a watch, waiting for an operation) do not hold the gate, or a fork would have to wait for
  them; gRPC writes its line then, and the child may be unlucky.
- `GRPC_ENABLE_FORK_SUPPORT` should stay unset. With 0 every child hangs, so that this is refused. With 1 gRPC has
  handlers of its own, which hang when other threads are in calls.
- The async client is refused in a child of a process that used it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

_WAIT_SECONDS: Final = 5.0
_VARIABLE: Final = "GRPC_ENABLE_FORK_SUPPORT"


class _Gate:
    """Counts calls under way, and holds new ones back while the process forks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._forking = False
        self._mine = threading.local()

    def enter(self) -> None:
        with self._changed:
            while self._forking:
                self._changed.wait()
            self._under_way += 1
        self._mine.count = self._count_of_this_thread() + 1

    def leave(self) -> None:
        self._mine.count -= 1
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Hold new calls back, wait for those under way; the lock stays taken over the fork."""
        self._changed.acquire()
        self._forking = True
        deadline = time.monotonic() + _WAIT_SECONDS
        # A thread that forks within a call of its own (in a progress callback) cannot wait for itself.
        while self._under_way > self._count_of_this_thread():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._changed.wait(left)

    def open(self) -> None:
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def _count_of_this_thread(self) -> int:
        return int(getattr(self._mine, "count", 0))


_gate = _Gate()
_lock = threading.Lock()
_step = threading.RLock()
"""Held by undivided steps, and over a fork. A thread that forks within a step of its own does not wait for itself."""
_epoch = 0
_used: Final[set[int]] = set()
"""Epochs in which a sync channel was opened."""
_used_asynchronously: Final[set[int]] = set()
"""Epochs in which an async channel was opened."""
_abandoned: Final[list[object]] = []
_lasting: Final[weakref.WeakSet[Ending]] = weakref.WeakSet()
"""What is ended before the process forks."""


@contextmanager
def call() -> Iterator[None]:
    """Around every bounded call: it ends before the process forks."""
    gate = _gate
    gate.enter()
    try:
        yield
    finally:
        gate.leave()


@contextmanager
def undivided() -> Iterator[None]:
    """Around a short step that a forked child must find done or not begun: to open a file and note its descriptor.

    Nothing in it may wait for a call.
    """
    with _step:
        yield


class Ending(Protocol):
    """What has an end."""

    def end(self) -> None:
        """End it, and wait until it has."""


def end_before(lasting: Ending) -> None:
    """Have something end before the process forks, if it is still there then."""
    _lasting.add(lasting)


def epoch() -> int:
    """How many forks lie between this process and the one that first imported this module."""
    return _epoch


def lock() -> threading.Lock:
    """For opening and closing channels. A child has its own: a thread may have held the parent's."""
    return _lock


def note_use() -> None:
    """Say that this process opens a sync channel now.

    :raises RuntimeError: a parent process used gRPC, and the environment keeps gRPC from surviving that
    """
    if _support_is_off() and any(at != _epoch for at in _used):
        raise RuntimeError(
            f"{_VARIABLE} is 0: gRPC hangs in a forked child. Unset it, or start the process with 'spawn'"
        )
    _used.add(_epoch)


def note_async_use() -> None:
    """Say that this process uses an async channel now.

    :raises RuntimeError: a parent process did
    """
    if any(at != _epoch for at in _used_asynchronously):
        raise RuntimeError(
            "the async client was used before this process was forked, and gRPC's thread for it does not "
            "exist here: start the process with 'spawn', or use the sync client"
        )
    _used_asynchronously.add(_epoch)


def abandon(channel: object) -> None:
    """Keep a channel of a parent process alive, so that it is never destroyed here."""
    _abandoned.append(channel)


def _support_is_off() -> bool:
    return os.environ.get(_VARIABLE, "").lower() in ("0", "false", "no")


def _close_gate() -> None:
    _gate.close()
    for lasting in list(_lasting):
        lasting.end()
    _lasting.clear()


def _open_gate() -> None:
    _gate.open()


def _hold_steps() -> None:
    _step.acquire()


def _release_steps() -> None:
    _step.release()


def _begin_child() -> None:
    global _gate, _lock, _step, _epoch  # noqa: PLW0603  # the child is a new process
    _gate = _Gate()
    _lock = threading.Lock()
    _step = threading.RLock()
    _epoch += 1


# What is to be done before a fork is done in reverse order: steps go on until all calls have ended.
os.register_at_fork(before=_hold_steps, after_in_parent=_release_steps)
os.register_at_fork(before=_close_gate, after_in_parent=_open_gate, after_in_child=_begin_child)
