"""Events for watchers: kept for a while, sent to everybody who asks, never left out silently.

1. Every event gets the next number and goes into one ring buffer.
2. A watcher remembers the number it has seen. It may lie behind by what the ring holds, and no more: then it is told
   that events were lost, and has to read again.
3. Publishing never waits for a watcher.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from magd.actors.types import CommitEvent, Event, ExchangeEvent, OperationEvent, PropertiesEvent
from magd.errors import OutOfBounds, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from magd.acknowledgement import Revision


def resource_of(event: Event) -> str:
    """The full name of the resource that an event is about."""
    match event:
        case CommitEvent(name=name) | ExchangeEvent(name=name):
            return str(name)
        case PropertiesEvent(dataset=dataset):
            return str(dataset.name)
        case OperationEvent(operation=operation):
            return operation.resource


def is_within(resource: str, name: str) -> bool:
    """Whether a resource is the one named, or below it. The empty name is above everything."""
    return not name or resource == name or resource.startswith(name + "/")


class Events:
    """The ring of recent events.

    :param kept: events that a watcher may lie behind
    """

    def __init__(self, kept: int) -> None:
        self._ring: deque[Event] = deque(maxlen=kept)
        self._published = 0
        self._more = asyncio.Event()
        self._closed = False

    def publish(self, event: Event) -> None:
        """Append an event and wake the watchers."""
        self._ring.append(event)
        self._published += 1
        self._wake()

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._wake()

    def watch(self, name: str) -> AsyncIterator[Event]:
        """Events on a resource and below it, from now on."""
        return self._follow(name, self._published)

    def watch_after(self, name: str, after: Revision, current: Revision) -> AsyncIterator[Event]:
        """Events on a mag that came after a revision of it.

        :param current: the mag's revision now
        :raises OutOfBounds: EVENTS_LOST: the ring no longer holds what came after that revision
        """
        if after == current:
            return self._follow(name, self._published)
        number = self._published - len(self._ring)
        for event in self._ring:
            number += 1
            if isinstance(event, CommitEvent) and str(event.name) == name:
                if event.revision == after:
                    return self._follow(name, number)
                if event.revision == after.next():
                    return self._follow(name, number - 1)
        raise self._lost(f"what came after revision {after.epoch}.{after.counter} is not kept any more")

    async def _follow(self, name: str, seen: int) -> AsyncIterator[Event]:
        while True:
            while seen < self._published:
                oldest = self._published - len(self._ring)
                if seen < oldest:
                    raise self._lost(f"the watcher fell {oldest - seen} events behind what is kept")
                event = self._ring[seen - oldest]
                seen += 1
                if is_within(resource_of(event), name) or _concerns(event, name):
                    yield event
            if self._closed:
                return
            await self._more.wait()

    def _lost(self, text: str) -> OutOfBounds:
        oldest = self._published - len(self._ring)
        return OutOfBounds(text, reason=Reason.EVENTS_LOST, metadata={"oldest": oldest})

    def _wake(self) -> None:
        # Each waiter holds on to the event it waits for; the next wait gets a new one.
        self._more.set()
        self._more = asyncio.Event()


def _concerns(event: Event, name: str) -> bool:
    """Properties are kept per dataset: who watches a layer or a mag of it wants to know of their changes too."""
    return isinstance(event, PropertiesEvent) and is_within(name, str(event.dataset.name))
