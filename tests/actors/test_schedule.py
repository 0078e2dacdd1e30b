"""The schedule: overlapping work in order, disjoint work side by side, nobody starves."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.actors.schedule import Claim, Schedule
from magd.geometry import Box, Vec3


def box(offset: int, size: int) -> Box:
    return Box(Vec3(offset, 0, 0), Vec3(size, 1, 1))


claims = st.one_of(
    st.builds(lambda o, s: Claim.reading(box(o, s)), st.integers(0, 12), st.integers(1, 6)),
    st.builds(lambda o, s: Claim.writing(box(o, s)), st.integers(0, 12), st.integers(1, 6)),
    st.just(Claim()),
    st.just(Claim.whole_mag()),
)


def test_two_reads_of_one_box_do_not_conflict() -> None:
    assert not Claim.reading(box(0, 4)).conflicts_with(Claim.reading(box(0, 4)))


def test_a_read_and_a_write_conflict_only_if_they_share_a_voxel() -> None:
    write = Claim.writing(box(0, 2))
    assert Claim.reading(box(1, 2)).conflicts_with(write)
    assert not Claim.reading(box(2, 2)).conflicts_with(write)


def test_two_writes_conflict_only_if_they_share_a_voxel() -> None:
    write = Claim.writing(box(0, 2))
    assert write.conflicts_with(Claim.writing(box(1, 1)))
    assert not write.conflicts_with(Claim.writing(box(2, 1)))


def test_the_whole_mag_conflicts_with_everything_even_work_without_voxels() -> None:
    assert Claim.whole_mag().conflicts_with(Claim())
    assert Claim().conflicts_with(Claim.whole_mag())
    assert not Claim().conflicts_with(Claim.writing(box(0, 1)))


@given(a=claims, b=claims)
def test_conflicting_is_mutual(a: Claim, b: Claim) -> None:
    assert a.conflicts_with(b) == b.conflicts_with(a)


@settings(max_examples=200, deadline=None)
@given(
    entering=st.lists(claims, min_size=1, max_size=12),
    steps=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    cancelled=st.sets(st.integers(0, 11), max_size=3),
)
def test_no_two_conflicting_pieces_run_together_and_all_run_in_order(
    entering: list[Claim], steps: list[int], cancelled: set[int]
) -> None:
    running: dict[int, Claim] = {}
    started: list[int] = []
    schedule = Schedule()

    async def work(number: int, claim: Claim, turn_steps: int) -> None:
        turn = schedule.enter(claim)
        async with turn:
            assert not any(claim.conflicts_with(other) for other in running.values())
            running[number] = claim
            started.append(number)
            for _ in range(turn_steps):
                await asyncio.sleep(0)
            del running[number]

    async def main() -> None:
        tasks = [asyncio.create_task(work(i, claim, steps[i])) for i, claim in enumerate(entering)]
        await asyncio.sleep(0)
        for i in cancelled & set(range(len(tasks))):
            if i not in started:
                tasks[i].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for i, task in enumerate(tasks):
            assert task.cancelled() or task.exception() is None, i

    asyncio.run(main())
    assert not len(schedule)
    for later in range(len(entering)):
        for earlier in range(later):
            if earlier in started and later in started and entering[earlier].conflicts_with(entering[later]):
                assert started.index(earlier) < started.index(later)
    missing = set(range(len(entering))) - set(started)
    assert missing <= cancelled


async def test_disjoint_writes_run_side_by_side() -> None:
    schedule, both = Schedule(), asyncio.Barrier(2)

    async def work(claim: Claim) -> None:
        async with schedule.enter(claim):
            await both.wait()

    async with asyncio.timeout(5):
        await asyncio.gather(work(Claim.writing(box(0, 4))), work(Claim.writing(box(4, 4))))


async def test_work_that_leaves_without_having_started_makes_room() -> None:
    schedule = Schedule()
    first = schedule.enter(Claim.whole_mag())
    second = schedule.enter(Claim.whole_mag())
    second.leave()
    second.leave()
    first.leave()
    async with asyncio.timeout(5), schedule.enter(Claim.whole_mag()):
        pass
    assert len(schedule) == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_a_piece_that_fails_leaves_too(fails: bool) -> None:
    schedule = Schedule()
    try:
        async with schedule.enter(Claim.whole_mag()):
            if fails:
                raise RuntimeError("broken")
    except RuntimeError:
        assert fails
    assert len(schedule) == 0
