"""When an attempt is made again."""

from __future__ import annotations

import pytest

from magd.errors import (
    Busy,
    Conflict,
    DataLoss,
    DiskFull,
    InternalError,
    MagdError,
    NotFound,
    Reason,
    TooSlow,
    Unavailable,
)
from magd_client.retry import Attempts, Deadline, RetryPolicy, bulk_timeout

DRAINING = Unavailable("the daemon drains")
UNREACHABLE = Unavailable("cannot reach", reason=Reason.UNSPECIFIED)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def largest(lower: float, upper: float) -> float:
    """The jitter at its worst."""
    return upper


def make(timeout: float, clock: Clock) -> Attempts:
    policy = RetryPolicy(first_seconds=0.1, max_seconds=1.0, connect_seconds=2.0)
    return Attempts(policy, timeout, clock=clock, jitter=largest)


def test_the_bound_of_the_wait_doubles_up_to_its_limit() -> None:
    attempts = make(1000.0, Clock())
    pauses = [attempts.pause_after(DRAINING, reached=True) for _ in range(6)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_wait_is_anything_up_to_its_bound() -> None:
    policy = RetryPolicy(first_seconds=1.0, max_seconds=1.0)
    pauses = {Attempts(policy, 100.0).pause_after(DRAINING, reached=True) for _ in range(20)}
    assert len(pauses) > 1
    assert all(pause is not None and 0 <= pause <= 1 for pause in pauses)


def test_an_outage_of_any_length_overflows_nothing() -> None:
    attempts = make(1e9, Clock())
    for _ in range(2000):
        assert attempts.pause_after(DRAINING, reached=True) is not None


def test_the_daemons_own_advice_comes_first() -> None:
    attempts = make(1000.0, Clock())
    assert attempts.pause_after(Busy("full", retry_after=3.0), reached=True) == pytest.approx(3.1)


@pytest.mark.parametrize(
    "error",
    [
        Busy("full"),
        DiskFull("full"),
        NotFound("nothing"),
        Conflict("etag"),
        DataLoss("damaged"),
        InternalError("bug"),
        TooSlow("deadline"),
    ],
)
def test_other_errors_are_final(error: MagdError) -> None:
    assert make(1000.0, Clock()).pause_after(error, reached=True) is None


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    clock = Clock()
    attempts = make(10.0, clock)
    clock.now += 9.5
    assert attempts.remaining() == pytest.approx(0.5)
    assert attempts.pause_after(DRAINING, reached=True) == pytest.approx(0.1)
    assert attempts.pause_after(Busy("full", retry_after=1.0), reached=True) is None
    clock.now += 1.0
    assert attempts.remaining() == 0.0


def test_an_address_where_nobody_ever_answered_is_given_up_sooner() -> None:
    clock = Clock()
    attempts = make(60.0, clock)
    clock.now += 3.0
    assert attempts.pause_after(UNREACHABLE, reached=True) is not None
    assert attempts.pause_after(DRAINING, reached=False) is not None
    assert attempts.pause_after(UNREACHABLE, reached=False) is None


def test_large_boxes_have_more_time() -> None:
    assert bulk_timeout(60.0, 0) == 60.0
    assert bulk_timeout(60.0, 4 << 30) == 60.0 + 1024


def test_a_deadline_that_has_passed_leaves_no_time() -> None:
    assert Deadline(-1.0).remaining() == 0.0
    assert 99.0 < Deadline(100.0).remaining() <= 100.0
