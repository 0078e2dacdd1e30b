"""Shared work: who asks is covered by a run that began after the question, and no more runs than needed are made."""

from __future__ import annotations

import asyncio

import pytest

from magd.actors.sharing import Shared
from magd.errors import DiskFull


class Work:
    """Counts its runs; each waits until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> None:
        self.begun += 1
        await self.gate.wait()
        self.ended += 1
        if self.error is not None:
            raise self.error


async def steps() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_who_wait_share_the_next_run() -> None:
    work = Work()
    shared = Shared(work)
    first = asyncio.create_task(shared())
    await steps()
    later = [asyncio.create_task(shared()) for _ in range(10)]
    await steps()
    assert work.begun == 1
    work.gate.set()
    await asyncio.gather(first, *later)
    assert work.begun == 2


async def test_a_run_that_began_before_the_question_does_not_answer_it() -> None:
    work = Work()
    shared = Shared(work)
    shared.start()
    await steps()
    question = asyncio.create_task(shared())
    await steps()
    assert not question.done()
    work.gate.set()
    await question
    assert work.ended == 2


async def test_an_error_goes_to_all_who_wait_and_the_next_run_is_a_new_attempt() -> None:
    work = Work()
    work.gate.set()
    work.error = DiskFull("full")
    shared = Shared(work)
    outcomes = await asyncio.gather(shared(), shared(), return_exceptions=True)
    assert all(isinstance(outcome, DiskFull) for outcome in outcomes)
    work.error = None
    await shared()
    assert work.begun == 2


async def test_a_caller_that_goes_away_does_not_end_the_run_for_the_others() -> None:
    work = Work()
    shared = Shared(work)
    gone, stays = asyncio.create_task(shared()), asyncio.create_task(shared())
    await steps()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    work.gate.set()
    await stays
    assert work.ended == 1


async def test_starting_it_while_it_runs_makes_no_second_run() -> None:
    work = Work()
    shared = Shared(work)
    for _ in range(5):
        shared.start()
        await steps()
    work.gate.set()
    await shared.ended()
    assert work.ended == 1
