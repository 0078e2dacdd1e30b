"""The actor: accepted work is done, nobody waits for ever, and nothing is left when it ends."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from magd.actors.actor import Actor, Envelope
from magd.actors.budget import MemoryBudget
from magd.errors import DataLoss, InternalError, MagdError, Reason, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Work:
    """Waits for `gate`, then gives `result` or raises it."""

    result: object
    gate: asyncio.Event | None = None


class Worker(Actor[Work]):
    """Does one thing after the other."""

    def __init__(self, *, mailbox_size: int = 4, idle_seconds: float | None = None, opening: MagdError | None = None):
        super().__init__("worker", mailbox_size=mailbox_size, on_end=lambda: setattr(self, "has_ended", True))
        self.has_ended = False
        self.done: list[object] = []
        self.begun = asyncio.Event()
        self._idle_seconds = idle_seconds
        self._opening = opening

    async def _run(self) -> None:
        if self._opening is not None:
            raise self._opening
        while True:
            try:
                envelope = await self._receive(self._idle_seconds)
            except TimeoutError:
                self.close()
                continue
            if envelope is None:
                return
            await self._do(envelope)

    async def _do(self, envelope: Envelope[Work]) -> None:
        self.begun.set()
        work = envelope.message
        if work.gate is not None:
            await work.gate.wait()
        if isinstance(work.result, MagdError):
            envelope.reject(work.result)
        elif isinstance(work.result, Exception):
            raise work.result
        else:
            self.done.append(work.result)
            envelope.resolve(work.result)


async def test_a_message_gets_its_outcome() -> None:
    async with asyncio.TaskGroup() as group:
        worker = Worker()
        worker.start(group)
        assert await worker.ask(Work("a")) == "a"
        with pytest.raises(DataLoss):
            await worker.ask(Work(DataLoss("gone")))
        assert await worker.ask(Work("b")) == "b"
        worker.close()
    assert worker.has_ended


async def test_closing_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    async with asyncio.TaskGroup() as group:
        worker, gate = Worker(), asyncio.Event()
        worker.start(group)
        accepted = [asyncio.create_task(worker.ask(Work(i, gate))) for i in range(3)]
        await worker.begun.wait()
        worker.close()
        with pytest.raises(Unavailable) as refused:
            await worker.ask(Work("late"))
        assert refused.value.reason is Reason.ACTOR_STOPPED
        gate.set()
        assert await asyncio.gather(*accepted) == [0, 1, 2]


async def test_a_caller_that_waits_for_a_place_hears_of_the_end() -> None:
    async with asyncio.TaskGroup() as group:
        worker, gate = Worker(mailbox_size=1), asyncio.Event()
        worker.start(group)
        first = asyncio.create_task(worker.ask(Work(1, gate)))
        await worker.begun.wait()
        waiting = [asyncio.create_task(worker.ask(Work(i))) for i in range(5)]
        await asyncio.sleep(0)
        worker.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        gate.set()
        assert await first == 1


async def test_a_caller_that_goes_away_does_not_take_its_work_with_it() -> None:
    async with asyncio.TaskGroup() as group:
        worker, gate = Worker(), asyncio.Event()
        worker.start(group)
        call = asyncio.create_task(worker.ask(Work("kept", gate)))
        await worker.begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gate.set()
        worker.close()
    assert worker.done == ["kept"]


async def test_a_lease_is_held_until_the_work_is_done_also_when_the_caller_is_gone() -> None:
    budget = MemoryBudget(100)
    async with asyncio.TaskGroup() as group:
        worker, gate = Worker(), asyncio.Event()
        worker.start(group)
        lease = await budget.lease(60)

        async def call() -> None:
            with lease:
                await worker.ask(Work("x", gate), lease)

        task = asyncio.create_task(call())
        await worker.begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert budget.used_bytes == 60
        gate.set()
        worker.close()
    assert budget.used_bytes == 0


async def test_an_actor_that_cannot_open_says_why_to_everybody() -> None:
    async with asyncio.TaskGroup() as group:
        worker = Worker(opening=DataLoss("header.wkw is damaged", metadata={"file": "header.wkw"}))
        calls = [asyncio.create_task(worker.ask(Work(i))) for i in range(3)]
        await asyncio.sleep(0)
        worker.start(group)
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, DataLoss)
            assert outcome.metadata == {"file": "header.wkw"}


async def test_a_bug_ends_the_actor_not_the_daemon() -> None:
    async with asyncio.TaskGroup() as group:
        worker = Worker()
        worker.start(group)
        with pytest.raises(InternalError):
            await worker.ask(Work(RuntimeError("a bug")))
        with pytest.raises(InternalError):
            await worker.ask(Work("after"))
        await worker.ended()
    assert worker.has_ended


async def test_a_task_cancelled_before_its_first_step_leaves_nobody_waiting() -> None:
    tasks: list[asyncio.Task[None]] = []

    class Group(asyncio.TaskGroup):
        def create_task(self, *args: object, **kwargs: object) -> asyncio.Task[None]:  # type: ignore[override]
            task: asyncio.Task[None] = super().create_task(*args, **kwargs)  # type: ignore[arg-type]
            tasks.append(task)
            return task

    async with Group() as group:
        worker = Worker()
        worker.start(group)
        call = asyncio.create_task(worker.ask(Work("x")))
        tasks[0].cancel()
        with pytest.raises(Unavailable):
            await call


async def test_it_rests_after_a_while_with_nothing_to_do() -> None:
    async with asyncio.TaskGroup() as group:
        worker = Worker(idle_seconds=0.001)
        worker.start(group)
        await worker.ended()
    assert worker.is_closed


@pytest.mark.parametrize("seed", range(200))
async def test_under_any_interleaving_every_call_ends_and_every_place_is_given_back(seed: int) -> None:
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()

    def soon(action: Callable[[], object]) -> None:
        # Some loop iterations later; the order of iterations is what varies, not time.
        for_ = rng.randrange(12)

        def step(left: int) -> None:
            if left:
                loop.call_soon(step, left - 1)
            else:
                action()

        step(for_)

    async with asyncio.TaskGroup() as group:
        worker = Worker(mailbox_size=rng.choice([1, 2, 5]))
        worker.start(group)
        calls = [asyncio.create_task(worker.ask(Work(i))) for i in range(10)]
        for call in calls:
            if rng.random() < 0.4:
                soon(call.cancel)
        soon(worker.close)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, int | Unavailable | asyncio.CancelledError)
    answered = {outcome for outcome in outcomes if isinstance(outcome, int)}
    assert answered <= set(worker.done)
    assert worker.owed == 0
