"""The budget: never more than there is, everybody gets a turn, nothing lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from magd.actors.budget import CLIENT, Lease, MemoryBudget
from magd.errors import Busy, InvalidRequest, Reason


async def test_leases_are_given_back_at_the_end_of_their_context() -> None:
    budget = MemoryBudget(10)
    with await budget.lease(7):
        assert budget.used_bytes == 7
    assert budget.used_bytes == 0


async def test_more_than_the_whole_budget_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest) as refused:
        await MemoryBudget(10).lease(11)
    assert refused.value.reason is Reason.BOX_TOO_LARGE
    assert refused.value.metadata["limit"] == "10"


async def test_a_large_request_is_not_starved_by_small_ones_behind_it() -> None:
    budget = MemoryBudget(10)
    first = await budget.lease(6)
    order: list[int] = []

    async def take(size: int) -> None:
        with await budget.lease(size):
            order.append(size)

    large = asyncio.create_task(take(9))
    await asyncio.sleep(0)
    small = asyncio.create_task(take(1))
    await asyncio.sleep(0)
    assert order == []
    first.release()
    await asyncio.gather(large, small)
    assert order == [9, 1]


async def test_waiting_too_long_is_refused_with_a_time_to_wait() -> None:
    budget = MemoryBudget(10, patience=0.01)
    with await budget.lease(6):
        outcomes = await asyncio.gather(budget.lease(8), budget.lease(5), return_exceptions=True)
    assert all(isinstance(outcome, Busy) and outcome.retry_after for outcome in outcomes)
    assert budget.used_bytes == 0
    assert budget.waiting == 0


async def test_a_large_request_that_goes_away_lets_those_behind_it_go_on() -> None:
    budget = MemoryBudget(10)
    with await budget.lease(6):
        large = asyncio.create_task(budget.lease(8))
        await asyncio.sleep(0)
        small = asyncio.create_task(budget.lease(2))
        await asyncio.sleep(0)
        large.cancel()
        (await small).release()
    assert budget.used_bytes == 0


async def test_too_many_waiting_is_refused_at_once() -> None:
    budget = MemoryBudget(10, max_waiting=1)
    held = await budget.lease(10)
    waiting = asyncio.create_task(budget.lease(1))
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await budget.lease(1)
    held.release()
    (await waiting).release()


async def test_a_lease_is_held_until_the_last_holder_lets_go() -> None:
    budget = MemoryBudget(10)
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with await budget.lease(5) as lease:
        lease.keep_until(work)
    assert budget.used_bytes == 5
    work.set_exception(RuntimeError("also a failure ends it"))
    work.exception()
    await asyncio.sleep(0)
    assert budget.used_bytes == 0


async def lease_for(client: str, budget: MemoryBudget, size: int) -> Lease:
    CLIENT.set(client)  # of the task this runs in
    return await budget.lease(size)


def ask(client: str, budget: MemoryBudget, size: int) -> asyncio.Task[Lease]:
    return asyncio.create_task(lease_for(client, budget, size))


async def test_a_small_request_does_not_wait_behind_large_ones() -> None:
    budget = MemoryBudget(1024)
    held = await budget.lease(960)
    large = ask("", budget, 500)
    await asyncio.sleep(0)
    small = [await budget.lease(4) for _ in range(16)]
    assert not large.done()
    too_many = ask("", budget, 4)
    await asyncio.sleep(0)
    assert not too_many.done(), "only so much is kept for small ones"
    small[0].release()
    (await too_many).release()
    held.release()
    (await large).release()
    for lease in small[1:]:
        lease.release()
    assert budget.used_bytes == 0


async def test_a_client_holds_no_more_than_half_but_for_one_large_lease() -> None:
    budget = MemoryBudget(1024, patience=0.01)
    (await ask("greedy", budget, 900)).release()
    first = await ask("greedy", budget, 300)
    with pytest.raises(Busy):
        await ask("greedy", budget, 300)
    other = await ask("modest", budget, 300)
    first.release()
    (await ask("greedy", budget, 300)).release()
    other.release()
    assert budget.used_bytes == 0


async def test_whose_client_holds_less_comes_first() -> None:
    budget = MemoryBudget(1024)
    held = await ask("greedy", budget, 300)
    rest = await ask("other", budget, 500)
    greedy = ask("greedy", budget, 200)
    await asyncio.sleep(0)
    modest = ask("modest", budget, 500)
    await asyncio.sleep(0)
    rest.release()
    assert (await modest).size_bytes == 500
    assert not greedy.done()
    held.release()
    (await greedy).release()


async def test_one_that_waits_for_its_own_share_does_not_hold_up_others() -> None:
    budget = MemoryBudget(1024)
    held = await ask("greedy", budget, 400)
    greedy = ask("greedy", budget, 400)
    await asyncio.sleep(0)
    (await ask("modest", budget, 400)).release()
    assert not greedy.done()
    held.release()
    (await greedy).release()


@pytest.mark.parametrize("seed", range(50))
async def test_under_any_interleaving_nothing_is_lost_and_nothing_exceeded(seed: int) -> None:
    rng = random.Random(seed)
    budget = MemoryBudget(512, patience=5)

    async def client(size: int, steps: int) -> None:
        CLIENT.set(rng.choice(("", "a", "b")))
        with await budget.lease(size):
            assert budget.used_bytes <= budget.total_bytes
            for _ in range(steps):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(client(rng.choice((1, 2, rng.randint(1, 480))), rng.randrange(4))) for _ in range(30)]
    for task in rng.sample(tasks, 10):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert budget.used_bytes == 0
    assert budget.waiting == 0
