"""Events: in order, none left out silently, and a late watcher is told so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from magd.acknowledgement import Revision
from magd.actors.events import Events, is_within
from magd.actors.types import CommitEvent, Event, ExchangeEvent
from magd.catalog.names import MagName
from magd.errors import OutOfBounds, Reason
from magd.geometry import ORIGIN, Box, Mag, Vec3

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAG = MagName("brain", "color", Mag.of(1))
OTHER = MagName("brain", "color", Mag.of(2))
BOX = Box(ORIGIN, Vec3.full(1))


def commit(counter: int, *, name: MagName = MAG, epoch: int = 1) -> CommitEvent:
    return CommitEvent(name, BOX, Revision(epoch, counter))


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(count)]


async def test_a_watcher_sees_what_happens_from_now_on_in_order() -> None:
    events = Events(10)
    events.publish(commit(1))
    watch = events.watch(str(MAG))
    for counter in (2, 3):
        events.publish(commit(counter))
    assert await take(watch, 2) == [commit(2), commit(3)]


async def test_a_watcher_sees_its_resource_and_what_is_below_only() -> None:
    events = Events(10)
    layer, mag = events.watch("datasets/brain/layers/color"), events.watch(str(OTHER))
    events.publish(commit(1))
    events.publish(ExchangeEvent(OTHER, 1))
    assert await take(layer, 2) == [commit(1), ExchangeEvent(OTHER, 1)]
    assert await take(mag, 1) == [ExchangeEvent(OTHER, 1)]


async def test_a_waiting_watcher_is_woken() -> None:
    events = Events(10)
    waiting = asyncio.create_task(take(events.watch(""), 1))
    await asyncio.sleep(0)
    events.publish(commit(1))
    assert await waiting == [commit(1)]


async def test_one_that_falls_behind_is_told_so() -> None:
    events = Events(3)
    watch = events.watch("")
    for counter in range(1, 6):
        events.publish(commit(counter))
    with pytest.raises(OutOfBounds) as lost:
        await anext(watch)
    assert lost.value.reason is Reason.EVENTS_LOST


async def test_a_watch_after_a_revision_begins_right_behind_it() -> None:
    events = Events(10)
    for counter in (1, 2, 3):
        events.publish(commit(counter))
        events.publish(commit(counter, name=OTHER))
    current = Revision(1, 3)
    assert await take(events.watch_after(str(MAG), Revision(1, 1), current), 2) == [commit(2), commit(3)]
    assert await take(events.watch_after(str(MAG), Revision(1, 0), current), 1) == [commit(1)]
    now = events.watch_after(str(MAG), current, current)
    events.publish(commit(4))
    assert await take(now, 1) == [commit(4)]


@pytest.mark.parametrize("after", [Revision(1, 0), Revision(0, 7), Revision(2, 9)])
async def test_a_watch_after_a_revision_that_may_miss_something_is_refused(after: Revision) -> None:
    events = Events(2)
    for counter in (1, 2, 3):
        events.publish(commit(counter))
    with pytest.raises(OutOfBounds) as lost:
        events.watch_after(str(MAG), after, Revision(1, 3))
    assert lost.value.reason is Reason.EVENTS_LOST


async def test_closing_ends_every_watch() -> None:
    events = Events(10)
    watch = events.watch("")
    events.publish(commit(1))
    events.close()
    assert [event async for event in watch] == [commit(1)]


def test_names_are_within_whole_parts_only() -> None:
    assert is_within("datasets/brain/layers/a", "datasets/brain")
    assert not is_within("datasets/brain2", "datasets/brain")
    assert is_within("datasets/brain", "")
