"""When a failed attempt is made again, and when it is given up.

Only two failures are worth another attempt: the daemon cannot be reached or is not ready (Unavailable), and it
is full and says how long to wait (Busy with `retry_after`). Every other error is the answer. Repeating is safe
because each mutating request carries an id that the daemon applies at most once.

1. Wait a random time between 0 and a bound that doubles with each attempt ("full jitter": clients that failed
   together do not come back together), on top of what the daemon asked for.
2. Give up, with the error of the last attempt, when that wait would pass the deadline of the whole call.
3. While no daemon was ever reached, the deadline is only `connect_seconds` away: a wrong address should not cost
   the whole timeout of a call, a restart of a daemon in use may.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd.errors import Busy, MagdError, Unavailable
from magd_client.status import is_unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_TIMEOUT_SECONDS: Final = 60.0
"""For one call, all its attempts together, before what its voxels add."""
BULK_BYTES_PER_SECOND: Final = 4 << 20
"""The rate at which the default deadline of a box grows with its size."""
LONG_TIMEOUT_SECONDS: Final = 3600.0
"""For flushes, whose work is not known before, and for streams whose pace the caller sets."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait between attempts."""

    first_seconds: float = 0.05
    """Bound of the first wait."""
    max_seconds: float = 5.0
    """The bound stops to double here."""
    connect_seconds: float = 5.0
    """How long to try when no daemon was ever reached."""


def bulk_timeout(base_seconds: float, nbytes: int) -> float:
    """The default deadline of a call that carries voxels, in seconds."""
    return base_seconds + nbytes / BULK_BYTES_PER_SECOND


def is_transient(error: MagdError) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, Unavailable) or (isinstance(error, Busy) and error.retry_after is not None)


class Deadline:
    """A moment that several calls share.

    :param seconds: from now
    """

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds until it, at least 0."""
        return max(0.0, self._at - time.monotonic())


class Attempts:
    """The attempts of one call: what time is left, and how long to wait for the next.

    :param timeout: seconds for all attempts together
    """

    def __init__(
        self,
        policy: RetryPolicy,
        timeout: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._jitter = jitter
        self._start = clock()
        self._timeout = timeout
        self._failed = 0

    def remaining(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self._start + self._timeout - self._clock())

    def pause_after(self, error: MagdError, *, reached: bool) -> float | None:
        """Seconds to wait before the next attempt, or None if `error` is final.

        :param reached: whether a daemon ever answered on this connection
        """
        if not is_transient(error):
            return None
        # The exponent is bounded so that a long outage does not overflow a float.
        bound = min(self._policy.max_seconds, self._policy.first_seconds * 2.0 ** min(self._failed, 30))
        self._failed += 1
        pause = (error.retry_after or 0.0) + self._jitter(0.0, bound)
        window = self._timeout
        if is_unreachable(error) and not reached:
            window = min(window, self._policy.connect_seconds)
        if self._clock() + pause >= self._start + window:
            return None
        return pause
