"""Names to actors. Actors are reached through the registry and made by nothing else.

1. An actor is made on demand. Between the last look (is it held? is there one?) and putting it in its place nothing is
   awaited, so a mag never has two. One that is closing is waited for: its files are still open.
2. A request that meets an actor in the moment it rests was not accepted, and asks again.
3. The coordinator may hold a resource: its actors are drained and closed, and requests wait outside meanwhile.
4. Draining closes the mags first, then the datasets they save their bounding boxes in. From its beginning on no actor
   is made, nor for a request that has waited for one to end: nobody would close it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from magd.actors.dataset import DatasetActor
from magd.actors.events import Events, is_within
from magd.actors.mag import MagActor
from magd.catalog.names import DatasetName, MagName
from magd.errors import Reason, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from magd.actors.notices import Notices
    from magd.actors.threads import Threads
    from magd.actors.types import MagStatus, StorageConfig
    from magd.catalog.root import Root
    from magd.properties.file import Snapshot

T = TypeVar("T")
N = TypeVar("N", DatasetName, MagName)
A = TypeVar("A", DatasetActor, MagActor)

_ATTEMPTS: Final = 5
"""How often a request asks again when it meets an actor that just closed."""


class Registry:
    """The actors of one root.

    :param group: runs their tasks
    :param on_properties: called when a dataset's properties have changed
    """

    def __init__(
        self,
        root: Root,
        threads: Threads,
        events: Events,
        config: StorageConfig,
        group: asyncio.TaskGroup,
        notices: Notices,
        *,
        on_properties: Callable[[DatasetName, Snapshot], None],
    ) -> None:
        self._root = root
        self._threads = threads
        self._events = events
        self._config = config
        self._group = group
        self._notices = notices
        self._on_properties = on_properties
        self._datasets: dict[DatasetName, DatasetActor] = {}
        self._mags: dict[MagName, MagActor] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._draining = False

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused."""
        return self._draining

    def open_mags(self, within: str = "") -> list[MagActor]:
        """The mags in use on a resource and below it."""
        return [self._mags[name] for name in sorted(self._mags, key=str) if is_within(str(name), within)]

    async def with_dataset(self, name: DatasetName, call: Callable[[DatasetActor], Awaitable[T]]) -> T:
        """Ask the properties actor of a dataset.

        :raises NotFound: DATASET_NOT_FOUND
        :raises NotAllowed: LOCKED: another magd has it
        """
        return await self._ask(lambda: self._dataset(name), call)

    async def with_mag(self, name: MagName, call: Callable[[MagActor], Awaitable[T]]) -> T:
        """Ask the actor of a mag. Waits while the coordinator holds it."""
        return await self._ask(lambda: self._mag(name), call)

    def mag_if_ready(self, name: MagName) -> MagActor | None:
        """The actor of a mag, if it takes requests now; otherwise `with_mag` says what there is to wait for."""
        if self._draining or (self._held and self._gate(str(name))):
            return None
        actor = self._mags.get(name)
        return None if actor is None or actor.is_closed else actor

    async def reopen(self, name: MagName) -> MagStatus:
        """Take a mag up again that stopped because another program changed its files. Others are left alone.

        :return: how it is doing then
        :raises NotFound, NotAllowed, DataLoss: it cannot be opened
        """
        actor = self._mags.get(name)
        if actor is not None and actor.is_stopped:
            actor.close()
            await actor.ended()

        async def status(actor: MagActor) -> MagStatus:
            await actor.describe()
            return actor.status()

        return await self.with_mag(name, status)

    @asynccontextmanager
    async def holding(self, resource: str, *, dataset: DatasetName | None = None) -> AsyncIterator[None]:
        """Keep requests out of a resource and what is below it, with no actor of it left.

        :param dataset: also close the properties actor of this dataset
        """
        gate = self._held[resource] = asyncio.Event()
        try:
            await _close_all(self.open_mags(resource))
            if dataset in self._datasets:
                await _close_all([self._datasets[dataset]])
            yield
        finally:
            del self._held[resource]
            gate.set()

    def refuse_new(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True

    async def drain(self) -> None:
        """Finish accepted requests, end every actor."""
        await _close_all(list(self._mags.values()))
        await _close_all(list(self._datasets.values()))

    # -- making actors -------------------------------------------------------------------------------------------

    async def _ask(self, find: Callable[[], Awaitable[A]], call: Callable[[A], Awaitable[T]]) -> T:
        for attempt in range(_ATTEMPTS):
            self._require_serving()
            actor = await find()
            try:
                return await call(actor)
            except Unavailable as error:
                if error.reason is not Reason.ACTOR_STOPPED or not actor.is_closed or attempt == _ATTEMPTS - 1:
                    raise
                await actor.ended()
        raise AssertionError("the last attempt returns or raises")

    async def _dataset(self, name: DatasetName) -> DatasetActor:
        while True:
            if gate := self._gate(str(name)):
                await gate.wait()
                continue
            actor = self._datasets.get(name)
            if actor is None:
                return self._start_dataset(name)
            if not actor.is_closed:
                return actor
            await actor.ended()

    async def _mag(self, name: MagName) -> MagActor:
        while True:
            if self._held and (gate := self._gate(str(name))):
                await gate.wait()
                continue
            actor = self._mags.get(name)
            if actor is None:
                dataset = self._datasets.get(name.dataset_name) or self._start_dataset(name.dataset_name)
                if not dataset.is_closed:
                    return self._start_mag(name, dataset)
                await dataset.ended()
            elif actor.is_closed:
                await actor.ended()
            else:
                return actor

    def _require_serving(self) -> None:
        if self._draining:
            raise Unavailable("the daemon is shutting down", reason=Reason.SHUTTING_DOWN)

    def _start_dataset(self, name: DatasetName) -> DatasetActor:
        self._require_serving()  # also of who has waited: nobody would end the actor
        actor = self._datasets[name] = DatasetActor(
            name,
            self._root,
            self._threads,
            mailbox_size=self._config.mailbox_size,
            on_change=lambda snapshot: self._on_properties(name, snapshot),
            on_end=partial(self._forget, self._datasets, name),
        )
        actor.start(self._group)
        return actor

    def _start_mag(self, name: MagName, dataset: DatasetActor) -> MagActor:
        self._require_serving()
        actor = self._mags[name] = MagActor(
            name,
            self._root,
            dataset,
            self._threads,
            self._events,
            self._config,
            self._notices,
            on_end=partial(self._forget, self._mags, name),
        )
        actor.start(self._group)
        return actor

    @staticmethod
    def _forget(actors: dict[N, A], name: N) -> None:
        del actors[name]

    def _gate(self, name: str) -> asyncio.Event | None:
        return next((gate for resource, gate in self._held.items() if is_within(name, resource)), None)


async def _close_all(actors: Sequence[DatasetActor] | Sequence[MagActor]) -> None:
    for actor in actors:
        actor.close()
    for actor in actors:
        await actor.ended()
