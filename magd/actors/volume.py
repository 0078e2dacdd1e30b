"""The voxels of all mags below one root: boxes that come and go, large and small."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from magd.acknowledgement import Durability
from magd.actors.arrival import Arrival
from magd.actors.dataset import DatasetActor
from magd.actors.mag import MagActor
from magd.actors.opening import layer_box
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
from magd.actors.types import Bounds, CubeFileInfo, Mask, Slab
from magd.errors import MagdError, Reason, Unavailable
from magd.journal.journal_file import SIDE_BYTES
from magd.journal.part_staging import PartStaging, can_become_cube_files
from magd.journal.space import require_space
from magd.journal.staging import Staging

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from magd.acknowledgement import Acknowledgement
    from magd.actors.budget import Lease
    from magd.actors.messages import MagFacts
    from magd.actors.registry import Registry
    from magd.actors.threads import Threads
    from magd.actors.types import Place, ReadResult, StorageConfig, WriteCommand
    from magd.catalog.names import MagName
    from magd.catalog.root import Root
    from magd.cubes.header import Header
    from magd.geometry import Box, Vec3
    from magd.voxels import VoxelFormat

CUBE_FILES_AT_ONCE: Final = 500
SMALL_BYTES: Final = 512 << 10
"""What a look at every byte may take on the event loop: less time than the way to a thread and back."""


class Volume:
    """Reads and writes boxes.

    :param arrival_threads: for the data of large boxes that arrive
    """

    def __init__(
        self, root: Root, config: StorageConfig, threads: Threads, arrival_threads: Threads, registry: Registry
    ) -> None:
        self._root: Final = root
        self._config: Final = config
        self._threads: Final = threads
        self._arrival_threads: Final = arrival_threads
        self._registry: Final = registry

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
        check_writable(self._root)
        check_box(box)
        facts = await self._facts(name)
        check_voxels(facts.header.voxels, voxels)
        check_size(voxels, box, self._config.box_limit_bytes)
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
            level = max(durability, self._config.min_durability)
            facts = await self._facts(name)
            await self._registry.with_mag(name, MagActor.expect_write)
            has_record = level > Durability.NONE and mask is Mask.ALL
            staging = await self._arrival_threads.run(
                _begin_staging,
                facts.folder if has_record else None,
                facts.header,
                box,
                self._config.disk_reserve_bytes,
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
        check_size(facts.header.voxels, box, self._config.box_limit_bytes)
        return box, facts, read_cost(facts.header, box)

    async def read(self, name: MagName, box: Box, lease: Lease) -> ReadResult:
        """Read one box. The lease is held until the read is done, also when the call is cancelled."""
        return await self._registry.with_mag(name, lambda actor: actor.read(box, lease))

    async def read_slabs(
        self,
        name: MagName,
        box: Box,
        lease: Lease,
        place: Place | None = None,
    ) -> AsyncGenerator[Slab, None]:
        """Read one box slab by slab, in the order of their bytes, while it is read. Leaving early ends the reading; the
        lease is held until then.

        :param place: where the box is to go, until the lease is given back; None: into new arrays
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
            await actor.read_slabs(box, lease, give, place)

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

    async def _facts(self, name: MagName) -> MagFacts:
        actor = self._registry.mag_if_ready(name)
        facts = actor.facts_if_open() if actor is not None else None
        return facts if facts is not None else await self._registry.with_mag(name, MagActor.describe)

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
