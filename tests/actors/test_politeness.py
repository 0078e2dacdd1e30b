"""When background work makes way for requests that wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from magd.actors.politeness import LONGEST_PAUSE_SECONDS, LOOK_SECONDS, Politeness

if TYPE_CHECKING:
    from magd.compression.pool import CompressionPool


class FakePool:
    """A pool with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.paused_until = 0.0
        self.waiting = 0
        self.calls = 0
        self.politeness = Politeness(cast("CompressionPool", self), lambda: self.waiting)

    def pause(self, seconds: float) -> None:
        self.calls += 1
        self.paused_until = self.now + seconds

    def pass_time(self, seconds: float) -> float:
        """Look as often as it is due.

        :return: the share of the time in which the pool was paused
        """
        looks = round(seconds / LOOK_SECONDS)
        paused = 0
        for _ in range(looks):
            self.now += LOOK_SECONDS
            self.politeness.look(self.now)
            paused += self.paused_until > self.now
        return paused / looks


def test_nothing_is_paused_while_nobody_waits_or_only_for_a_moment() -> None:
    pool = FakePool()
    assert pool.pass_time(10) == 0
    for _ in range(20):
        pool.waiting = 1
        assert pool.pass_time(LOOK_SECONDS) == 0
        pool.waiting = 0
        assert pool.pass_time(LOOK_SECONDS) == 0
    assert pool.calls == 0


def test_who_waits_longer_gets_the_machine_until_he_is_served() -> None:
    pool = FakePool()
    pool.waiting = 3
    pool.pass_time(0.15)
    assert pool.pass_time(0.5) == 1
    pool.waiting = 0
    assert pool.pass_time(LOOK_SECONDS) == 0
    assert pool.paused_until <= pool.now


def test_where_somebody_waits_all_the_time_a_quarter_is_left_for_the_work() -> None:
    pool = FakePool()
    pool.waiting = 1
    assert 0.6 < pool.pass_time(60) < 0.8


def test_after_the_longest_pause_the_work_goes_on_although_somebody_waits() -> None:
    pool = FakePool()
    pool.waiting = 1
    pool.pass_time(LONGEST_PAUSE_SECONDS + 0.3)
    assert pool.paused_until <= pool.now


async def test_it_looks_only_as_long_as_it_is_needed_and_leaves_no_pause_behind() -> None:
    pool = FakePool()
    needed = [True, True, True, False]
    async with asyncio.timeout(10):
        await pool.politeness.run(lambda: needed.pop(0))
    assert needed == []
    assert pool.paused_until == pool.now
