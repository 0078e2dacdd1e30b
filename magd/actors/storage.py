"""Everything that can be done with the datasets below one root, behind one door.

The edges (gRPC, HTTP) call this and nothing else of the actors. Each method raises errors of `magd.errors` and
changes nothing when it does. Datasets, layers and mags are in `hierarchy`, their voxels in `volume`; here are
operations and the daemon.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from magd.actors.budget import MemoryBudget
from magd.actors.changes import Changes
from magd.actors.checking import CheckStep, check, remove_leftovers
from magd.actors.converter import Compress, Converter, Decompress, Plan, Rechunk
from magd.actors.coordinator import Coordinator
from magd.actors.downsample import Parts
from magd.actors.downsampler import Downsampler, DownsampleRequest
from magd.actors.events import Events
from magd.actors.hierarchy import Hierarchy
from magd.actors.mag import MagActor
from magd.actors.notices import Notices
from magd.actors.operations import Operations
from magd.actors.politeness import Politeness
from magd.actors.regions import Regions
from magd.actors.registry import Registry
from magd.actors.requests import check_writable
from magd.actors.startup import recover_unopened
from magd.actors.threads import Threads
from magd.actors.types import (
    Event,
    FlushLevel,
    MagStatus,
    OperationInfo,
    PropertiesEvent,
    Status,
    StorageConfig,
)
from magd.actors.views import Views
from magd.actors.volume import Volume
from magd.catalog.folders import sweep
from magd.catalog.names import DatasetName, MagName, parse_resource
from magd.errors import InvalidRequest, Reason, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from magd.acknowledgement import Revision
    from magd.catalog.root import Root
    from magd.compression.pool import CompressionPool
    from magd.cubes.encode import CompressionLevel
    from magd.properties.file import Snapshot

ARRIVAL_THREADS: Final = 4
"""For the data of large boxes that arrive. They are apart, so that a disk that is slow to take it holds up no reads."""


class Storage:
    """The datasets below one root. An async context manager: leaving it drains every actor.

    :param pool: compresses; started and closed by the caller
    """

    def __init__(self, root: Root, config: StorageConfig, pool: CompressionPool) -> None:
        self.config: Final = replace(config, read_only=root.read_only)
        self.boot_id: Final = uuid.uuid4().hex[:12]
        self.budget: Final = MemoryBudget(config.budget_bytes, on_pressure=self._hurry)
        self._root = root
        self._pool = pool
        self._threads = Threads(config.io_threads)
        self._arrival_threads = Threads(ARRIVAL_THREADS)
        self.regions: Final = Regions(
            self.budget,
            self._arrival_threads,
            limit_bytes=config.shared_memory_bytes,
            parent=config.shared_memory_folder,
        )
        self._events = Events(config.events_kept)
        self._views = Views(root)
        self._group = asyncio.TaskGroup()
        self._notices = Notices()
        self._registry = Registry(
            root,
            self._threads,
            self._events,
            config,
            self._group,
            self._notices,
            on_properties=self._properties_changed,
        )
        self._operations = Operations(self.boot_id, self._events, self._group, on_start=self._make_way)
        self._politeness = Politeness(pool, self._count_waiting)
        self._making_way: asyncio.Task[None] | None = None
        changes = Changes(
            root,
            self._threads,
            self._registry,
            self._operations,
            self._group,
            request_id_window_seconds=config.request_id_window_seconds,
        )
        self._coordinator = Coordinator(root, self._threads, self._registry, self._operations, changes)
        self.volume: Final = Volume(root, self.config, self._threads, self._arrival_threads, self._registry)
        self.hierarchy: Final = Hierarchy(root, self._threads, self._registry, self._coordinator, self._views)
        self._converter = Converter(root, pool, self._threads, self._registry, self._operations, self._coordinator)
        self._downsampler = Downsampler(
            Parts(root, pool, self._threads, self._registry, self._coordinator, self.budget), self._operations
        )
        self._started_at = time.monotonic()

    async def __aenter__(self) -> Self:
        if not self.config.read_only:
            await self._threads.run(sweep, self._root.path)
        await self.regions.open()
        await self._group.__aenter__()
        if not self.config.read_only:
            self._group.create_task(recover_unopened(self._root, self._threads, self._registry), name="recovery")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.drain()
        finally:
            await self._group.__aexit__(kind, error, traceback)
            await self.regions.close()
            self._threads.close()
            self._arrival_threads.close()

    async def drain(self) -> None:
        """Refuse new work, cancel operations, finish what was accepted, end every actor."""
        self._registry.refuse_new()
        self._events.close()
        await self._operations.drain()
        await self._registry.drain()

    @property
    def is_draining(self) -> bool:
        """Whether new work is refused."""
        return self._registry.is_draining

    # -- operations ----------------------------------------------------------------------------------------------

    async def compress(
        self, name: MagName, *, target: str | None, level: CompressionLevel, request_id: str, min_gain: float = 0.0
    ) -> OperationInfo:
        """Compress a mag, in place or into another dataset. In place, one that is compressed already is done at once.

        :param min_gain: leave the mag as it is if a sample promises to save less than this share of its data
        :raises AlreadyExists: the target has that mag
        :raises Conflict: OPERATION_IN_PROGRESS
        """
        return await self._convert(name, target, Compress(level, min_gain), request_id)

    async def decompress(self, name: MagName, *, target: str | None, request_id: str) -> OperationInfo:
        """Store a mag raw, in place or into another dataset. In place, one that is raw already is done at once.

        :raises AlreadyExists: the target has that mag
        :raises Conflict: OPERATION_IN_PROGRESS
        """
        return await self._convert(name, target, Decompress(), request_id)

    async def rechunk(
        self, name: MagName, *, target: str | None, block_len: int, file_len: int, request_id: str
    ) -> OperationInfo:
        """Store a mag in cube files of other lengths, in place or into another dataset. In place, one that has these
        lengths already is done at once.

        :param block_len, file_len: 0: as it is
        :raises InvalidRequest: a length is not a power of two up to 128
        :raises AlreadyExists: the target has that mag
        :raises Conflict: OPERATION_IN_PROGRESS
        """
        return await self._convert(name, target, Rechunk(block_len, file_len), request_id)

    async def _convert(self, name: MagName, target: str | None, plan: Plan, request_id: str) -> OperationInfo:
        self._check_writable()
        return await self._coordinator.changes.once(
            request_id,
            target or name.dataset,
            (plan.kind, name, target, plan),
            lambda: self._converter.start(name, target, plan),
        )

    async def downsample(self, request: DownsampleRequest, *, request_id: str) -> OperationInfo:
        """Build coarser mags of a layer, or bring them up to date.

        :raises NotFound: no such layer; no source; with `update`: a mag is missing
        :raises AlreadyExists: without `update`: one of the mags exists
        :raises OutOfBounds: EVENTS_LOST: `changed_since` lies too far back
        :raises Conflict: OPERATION_IN_PROGRESS
        """
        self._check_writable()
        return await self._coordinator.changes.once(
            request_id, request.layer.dataset, ("downsample", request), lambda: self._downsampler.start(request)
        )

    def get_operation(self, name: str) -> OperationInfo:
        """One operation.

        :raises NotFound: OPERATION_NOT_FOUND
        """
        return self._operations.get(name)

    def list_operations(self, *, resource: str, limit: int, after: str | None) -> list[OperationInfo]:
        """Operations on a resource and below it, newest first, behind the one named `after`."""
        return self._operations.list(resource=resource, limit=limit, after=after)

    def watch_operation(self, name: str) -> AsyncIterator[OperationInfo]:
        """The operation now, after changes, and a last time when it has ended."""
        return self._operations.watch(name)

    def cancel_operation(self, name: str) -> OperationInfo:
        """Ask an operation to stop; it may still be stopping when this returns."""
        return self._operations.cancel(name)

    # -- the daemon ----------------------------------------------------------------------------------------------

    async def watch(self, name: str, after: Revision | None) -> AsyncIterator[Event]:
        """Events on a resource and below it ("" for all). The watch has begun when this returns.

        :param after: for a mag: begin after this revision
        :raises OutOfBounds: EVENTS_LOST: what came after that revision is not kept any more
        """
        resource = parse_resource(name) if name else None
        if after is None:
            return self._events.watch(name)
        if not isinstance(resource, MagName):
            raise InvalidRequest(
                f"after_revision goes with a mag, not with {name!r}",
                metadata={"field": "after_revision", "value": f"{after.epoch}.{after.counter}"},
            )
        facts = await self._registry.with_mag(resource, MagActor.describe)
        return self._events.watch_after(name, after, facts.revision)

    async def reopen(self, name: MagName) -> MagStatus:
        """Take a mag up again that stopped because another program changed its files: they are opened as they are now,
        and what was committed and is not in them is brought there. A mag that has not stopped is left alone.

        :raises NotFound, NotAllowed, DataLoss: it cannot be opened
        """
        return await self._registry.reopen(name)

    async def flush(self, name: str, level: FlushLevel = FlushLevel.FILES) -> int:
        """Bring everything acknowledged on a resource and below it ("" for all) further.

        :return: mags flushed: those in use; the others have nothing to flush
        """
        if name:
            parse_resource(name)
        actors = self._registry.open_mags(name)
        for actor in actors:
            try:
                await actor.flush(level)
            except Unavailable as error:
                if error.reason is not Reason.ACTOR_STOPPED:
                    raise
                await actor.ended()  # it flushes everything at its end
        return len(actors)

    async def check(self, name: str, *, deep: bool, repair: bool = False) -> AsyncIterator[CheckStep]:
        """Look for damage on a resource and below it ("" for all).

        :param deep: also decode every compressed block
        :param repair: first remove what magd itself left behind
        :raises NotAllowed: READ_ONLY: there is nothing to repair for a read-only daemon
        """
        resource = parse_resource(name) if name else None
        if repair:
            self._check_writable()
            async for step in remove_leftovers(self._root, self._threads, self._coordinator, resource):
                yield step
        async for step in check(self._root, self._threads, resource, deep=deep):
            yield step

    def status(self) -> Status:
        """What the storage is doing."""
        pool = self._pool.statistics
        in_use = [actor.status() for actor in self._registry.open_mags()]
        at_rest = self._notices.others(mag.name for mag in in_use)
        return Status(
            mags=(*in_use, *(MagStatus.at_rest(name, self._notices.of(name)) for name in at_rest)),
            budget_used_bytes=self.budget.used_bytes,
            budget_bytes=self.budget.total_bytes,
            budget_waiting=self.budget.waiting,
            operations_running=self._operations.running_count,
            uptime_seconds=time.monotonic() - self._started_at,
            pool_workers=pool.workers,
            pool_workers_replaced=pool.replaced,
        )

    # ------------------------------------------------------------------------------------------------------------

    def _make_way(self) -> None:
        """Have background work make way for requests, as long as there is any."""
        if self._making_way is None or self._making_way.done():
            work = self._politeness.run(lambda: self._operations.running_count > 0)
            self._making_way = self._group.create_task(work, name="politeness")

    def _count_waiting(self) -> int:
        of_mags = sum(actor.queued for actor in self._registry.open_mags() if not actor.is_held)
        return self.budget.waiting + of_mags

    def _hurry(self) -> None:
        self.regions.drop_idle()
        for actor in self._registry.open_mags():
            actor.hurry()

    def _properties_changed(self, name: DatasetName, snapshot: Snapshot) -> None:
        self._events.publish(PropertiesEvent(self._views.dataset(name, snapshot, {}, with_layers=False)))

    def _check_writable(self) -> None:
        check_writable(self._root)
