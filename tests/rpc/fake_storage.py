"""One mag in memory, as the volume service sees it, that fails and waits on demand.

The real storage is behind the services in `test_rpc_services`; this one is for what it cannot be made to do
at the right moment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.actors.arrival import Arrival
from magd.actors.budget import Lease, MemoryBudget
from magd.actors.regions import Regions
from magd.actors.threads import Threads
from magd.actors.types import Bounds, Event, Mask, Place, ReadResult, Slab, Status, StorageConfig, WriteCommand
from magd.cubes.header import BlockType, Header
from magd.errors import NotFound, Reason
from magd.geometry import ORIGIN, Box, Vec3

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from magd.actors.storage import Storage
    from magd.catalog.names import MagName
    from magd.voxels import VoxelFormat

NAME = "datasets/brain/layers/color/mags/1"
EDGE = 512
"""Of the mag, in voxels. Its memory is only touched where it is written."""


@dataclass(frozen=True)
class Facts:
    """What a reader wants to know of a mag."""

    header: Header
    revision: Revision


class FakeStorage:
    """:ivar fail: raised by the next check, if set
    :ivar fail_write: raised by the work of a write, if set
    :ivar gate: reads and writes wait for it
    """

    def __init__(self, voxels: VoxelFormat, *, budget_bytes: int = 64 << 20, patience: float = 30.0) -> None:
        self.config = StorageConfig(budget_bytes=budget_bytes)
        self.budget = MemoryBudget(budget_bytes, patience=patience)
        self.regions = Regions(self.budget, Threads(1), limit_bytes=0)
        self.boot_id = "boot"
        self.volume = self
        self.voxels = voxels
        self.data = voxels.zeros(Vec3.full(EDGE if voxels.bytes_per_voxel == 1 else 64))
        self.bounding_box = Box(ORIGIN, ORIGIN)
        self.revision = Revision(1, 0)
        self.committed: list[WriteCommand] = []
        self.checked = 0
        self.fail: Exception | None = None
        self.fail_write: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached_gate = asyncio.Event()
        self.work: list[asyncio.Task[Acknowledgement]] = []

    def as_storage(self) -> Storage:
        """Itself, for what takes a real one."""
        return cast("Storage", self)

    async def check_write(self, name: MagName, box: Box, voxels: VoxelFormat, bounds: Bounds, mask: Mask) -> int:
        self._check(name)
        return voxels.nbytes(box)

    async def arrival(
        self, name: MagName, box: Box, voxels: VoxelFormat, durability: Durability, mask: Mask, lease: Lease
    ) -> Arrival:
        return Arrival(voxels, box.size, None, Threads(1), lease)

    async def write(self, name: MagName, command: WriteCommand, lease: Lease) -> Acknowledgement:
        return await asyncio.shield(await self.begin_write(name, command, lease))

    async def begin_write(self, name: MagName, command: WriteCommand, lease: Lease) -> asyncio.Future[Acknowledgement]:
        task = asyncio.get_running_loop().create_task(self._write(command))
        self.work.append(task)
        lease.keep_until(task)
        return task

    async def _write(self, command: WriteCommand) -> Acknowledgement:
        await self._pass_gate()
        if self.fail_write is not None:
            raise self.fail_write
        offset, end = command.box.offset, command.box.end
        self.data[:, offset.x : end.x, offset.y : end.y, offset.z : end.z] = command.data
        self.bounding_box = self.bounding_box.union(command.box)
        self.committed.append(command)
        self.revision = self.revision.next()
        return Acknowledgement(self.revision, command.durability)

    async def check_read(self, name: MagName, box: Box | None) -> tuple[Box, Facts, int]:
        self._check(name)
        box = self.bounding_box if box is None else box
        facts = Facts(Header(self.voxels, 32, 32, BlockType.RAW), self.revision)
        return box, facts, self.voxels.nbytes(box)

    async def read(self, name: MagName, box: Box, lease: Lease) -> ReadResult:
        await self._pass_gate()
        offset, end = box.offset, box.end
        data = self.data[:, offset.x : end.x, offset.y : end.y, offset.z : end.z].copy(order="F")
        return ReadResult(box, data, self.revision)

    async def begin_read(self, name: MagName, box: Box, lease: Lease) -> asyncio.Future[ReadResult]:
        task = asyncio.get_running_loop().create_task(self.read(name, box, lease))
        lease.keep_until(task)
        return task

    async def read_slabs(
        self, name: MagName, box: Box, lease: Lease, place: Place | None = None
    ) -> AsyncIterator[Slab]:
        result = await self.read(name, box, lease)
        for start in range(0, box.size.z, 64):
            yield Slab(result.data[..., start : start + 64], result.revision)

    def status(self) -> Status:
        return Status(
            mags=(),
            budget_used_bytes=self.budget.used_bytes,
            budget_bytes=self.budget.total_bytes,
            budget_waiting=self.budget.waiting,
            operations_running=0,
            uptime_seconds=1.0,
        )

    async def watch(self, name: str, after: Revision | None) -> AsyncIterator[Event]:
        self._raise_if_asked()
        return self._no_events()

    async def _no_events(self) -> AsyncIterator[Event]:
        no_events: tuple[Event, ...] = ()
        await asyncio.get_running_loop().create_future()
        for event in no_events:
            yield event

    async def _pass_gate(self) -> None:
        self.reached_gate.set()
        await self.gate.wait()

    def _check(self, name: MagName) -> None:
        self.checked += 1
        self._raise_if_asked()
        if str(name) != NAME:
            raise NotFound(f"{name} does not exist", reason=Reason.MAG_NOT_FOUND)

    def _raise_if_asked(self) -> None:
        if self.fail is not None:
            raise self.fail
