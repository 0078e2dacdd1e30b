"""Everything that can be done with the datasets below one root, behind one door.

The edges (gRPC, HTTP) call this and nothing else of the actors. Each method raises errors of `magd.errors` and
changes nothing when it does. Datasets, layers and mags are in `hierarchy`; here are voxels, operations and the daemon.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from magd.acknowledgement import Durability
from magd.actors.arrival import Arrival
from magd.actors.budget import Lease, MemoryBudget
from magd.actors.changes import Changes
from magd.actors.checking import CheckStep, check, remove_leftovers
from magd.actors.converter import Compress, Converter, Decompress, Plan, Rechunk
from magd.actors.coordinator import Coordinator
from magd.actors.dataset import DatasetActor
from magd.actors.downsample import Parts
from magd.actors.downsampler import Downsampler, DownsampleRequest
from magd.actors.events import Events
from magd.actors.hierarchy import Hierarchy
from magd.actors.mag import MagActor
from magd.actors.notices import Notices
from magd.actors.opening import layer_box
from magd.actors.operations import Operations
from magd.actors.politeness import Politeness
from magd.actors.regions import Regions
from magd.actors.registry import Registry
from magd.actors.requests import (
    check_box,
    check_size,
    check_voxels,
    check_writable,
    fingerprint_of,
    outside,
    read_cost,
    write_cost,
)
from magd.actors.startup import recover_unopened
from magd.actors.threads import Threads
from magd.actors.types import (
    Bounds,
    CubeFileInfo,
    Event,
    FlushLevel,
    MagStatus,
    Mask,
    OperationInfo,
    PropertiesEvent,
    ReadResult,
    Slab,
    Status,
    StorageConfig,
    WriteCommand,
)
from magd.actors.views import Views
from magd.catalog.folders import sweep
from magd.catalog.names import DatasetName, MagName, parse_resource
from magd.errors import InvalidRequest, MagdError, Reason, Unavailable
from magd.journal.journal_file import SIDE_BYTES
from magd.journal.part_staging import PartStaging, can_become_cube_files
from magd.journal.space import require_space
from magd.journal.staging import Staging

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from types import TracebackType

    from magd.acknowledgement import Acknowledgement, Revision
    from magd.actors.messages import MagFacts
    from magd.catalog.root import Root
    from magd.compression.pool import CompressionPool
    from magd.cubes.encode import CompressionLevel
    from magd.cubes.header import Header
    from magd.geometry import Box, Vec3
    from magd.properties.file import Snapshot
    from magd.voxels import VoxelFormat

CUBE_FILES_AT_ONCE: Final = 500
ARRIVAL_THREADS: Final = 4
"""For the data of large boxes that arrive. They are apart, so that a disk that is slow to take it holds up no reads."""
SMALL_BYTES: Final = 512 << 10
"""What a look at every byte may take on the event loop: less time than the way to a thread and back."""


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

    # -- voxels --------------------------------------------------------------------------------------------------

    async def cube_files(self, name: MagName, box: Box | None) -> AsyncIterator[list[CubeFileInfo]]:
        """The cube files of a mag, or those that touch a box, some hundred at a time, in (z, y, x) order."""
        if box is not None:
            check_box(box)
        after: Vec3 | None = None
        while True:
            page = partial(MagActor.list_cube_files, box=box, after=after, limit=CUBE_FILES_AT_ONCE)
            some = await self._registry.with_mag(name, page)
            if some:
                yield [
                    CubeFileInfo(
                        listed.file.box,
                        listed.file.path,
                        listed.file.size_bytes,
                        listed.file.allocated_bytes,
                        listed.file.block_type,
                        listed.pending,
                    )
                    for listed in some
                ]
            if len(some) < CUBE_FILES_AT_ONCE:
                return
            after = some[-1].file.index

    async def check_write(
        self, name: MagName, box: Box, voxels: VoxelFormat, bounds: Bounds, mask: Mask = Mask.ALL
    ) -> int:
        """Everything that can be said about a write before its data is there.

        :return: the bytes of memory to lease for it
        :raises NotFound, NotAllowed, InvalidRequest, OutOfBounds: it would be refused
        """
        self._check_writable()
        check_box(box)
        facts = await self._facts(name)
        check_voxels(facts.header.voxels, voxels)
        check_size(voxels, box, self.config.box_limit_bytes)
        if bounds is Bounds.REJECT:
            limit = layer_box(await self._registry.with_dataset(name.dataset_name, DatasetActor.known), name)
            if not limit.contains(box):
                raise outside(box, limit, name)
        return write_cost(facts.header, box, mask)

    async def arrival(
        self, name: MagName, box: Box, voxels: VoxelFormat, durability: Durability, mask: Mask, lease: Lease
    ) -> Arrival:
        """Prepare for the data of a box that is to be written and was checked.

        :param lease: as large as the check said
        """
        staging = None
        if voxels.nbytes(box) > SIDE_BYTES:
            level = max(durability, self.config.min_durability)
            facts = await self._facts(name)
            await self._registry.with_mag(name, MagActor.expect_write)
            has_record = level > Durability.NONE and mask is Mask.ALL
            staging = await self._arrival_threads.run(
                _begin_staging,
                facts.folder if has_record else None,
                facts.header,
                box,
                self.config.disk_reserve_bytes,
                sync=level >= Durability.DISK,
            )
        return Arrival(voxels, box.size, staging, self._arrival_threads, lease)

    async def write(self, name: MagName, command: WriteCommand, lease: Lease) -> Acknowledgement:
        """Commit one box. Cancelling the call does not cancel the write; the lease is held until the write is done."""
        fingerprint = await self._fingerprint(command)
        return await self._registry.with_mag(name, lambda actor: actor.write(command, fingerprint, lease))

    async def begin_write(self, name: MagName, command: WriteCommand, lease: Lease) -> asyncio.Future[Acknowledgement]:
        """Hand one box to its mag, and return without its outcome. Writes of overlapping boxes that are handed over one
        after the other take effect in this order. The lease is held until the write is done.

        :return: the outcome, which is not to be cancelled; Unavailable with ACTOR_STOPPED: ask again
        """
        fingerprint = await self._fingerprint(command)
        return await self._registry.with_mag(name, lambda actor: actor.begin_write(command, fingerprint, lease))

    async def check_read(self, name: MagName, box: Box | None) -> tuple[Box, MagFacts, int]:
        """Everything that can be said about a read before it is done.

        :param box: None: the layer's bounding box, enlarged outward to the mag; empty if the layer holds no data
        :return: the box to read, the mag, and the bytes of memory to lease
        """
        if box is not None:
            check_box(box)
        facts = await self._facts(name)
        if box is None:
            box = layer_box(await self._registry.with_dataset(name.dataset_name, DatasetActor.current), name)
        check_size(facts.header.voxels, box, self.config.box_limit_bytes)
        return box, facts, read_cost(facts.header, box)

    async def read(self, name: MagName, box: Box, lease: Lease) -> ReadResult:
        """Read one box. The lease is held until the read is done, also when the call is cancelled."""
        return await self._registry.with_mag(name, lambda actor: actor.read(box, lease))

    async def read_slabs(self, name: MagName, box: Box, lease: Lease) -> AsyncGenerator[Slab, None]:
        """Read one box slab by slab, in the order of their bytes, while it is read. Leaving early ends the reading; the
        lease is held until then.

        :raises MagdError: also after some slabs: the box cannot be read then
        """
        given: asyncio.Queue[Slab | None] = asyncio.Queue()
        has_begun = False

        def give(slab: Slab) -> None:
            nonlocal has_begun
            has_begun = True
            given.put_nowait(slab)

        async def ask(actor: MagActor) -> None:
            if has_begun:  # by an actor that failed; what another one would read is of another moment
                raise Unavailable(f"{name} was closed while it was read", reason=Reason.ACTOR_STOPPED)
            await actor.read_slabs(box, lease, give)

        reading = asyncio.create_task(self._registry.with_mag(name, ask), name=f"read:{name}")
        reading.add_done_callback(lambda _: given.put_nowait(None))
        try:
            while (slab := await given.get()) is not None:
                yield slab
                del slab  # it was sent, and the next one may take long
            await reading
        finally:
            reading.cancel()
            reading.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def begin_read(self, name: MagName, box: Box, lease: Lease) -> asyncio.Future[ReadResult]:
        """Ask for one box, and return without it: as `begin_write`."""
        return await self._registry.with_mag(name, lambda actor: actor.begin_read(box, lease))

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

    async def _facts(self, name: MagName) -> MagFacts:
        actor = self._registry.mag_if_ready(name)
        facts = actor.facts_if_open() if actor is not None else None
        return facts if facts is not None else await self._registry.with_mag(name, MagActor.describe)

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

    async def _fingerprint(self, command: WriteCommand) -> int:
        if not command.request_id:
            return 0
        if command.data.nbytes <= SMALL_BYTES:
            return fingerprint_of(command)
        return await self._threads.run(fingerprint_of, command)


def _begin_staging(folder: str | None, header: Header, box: Box, reserve_bytes: int, *, sync: bool) -> Staging:
    """Prepare for data that arrives; without a file if there is no space for it. It is not refused for that: it may be
    that of a write that was committed before.

    :param folder: of the mag; None: there will be no record
    :param header: of the mag
    """
    if folder is None:
        return Staging(None, sync=sync)
    size_bytes = header.voxels.nbytes(box)
    try:
        require_space(folder, size_bytes, reserve_bytes)
    except MagdError:
        return Staging(None, sync=sync)
    if can_become_cube_files(folder, header, box, sync=sync):
        return PartStaging(folder, box, header, sync=sync)
    return Staging(folder, sync=sync, expected_bytes=size_bytes)
