"""Building coarser mags of a layer while reads and writes go on, and bringing them up to date.

Building:

1. From now on the actor of the finest mag collects the blocks that writes touch.
2. For each mag, finest first: what is committed in its source is brought into the cube files; a work folder beside its
   place gets, from the pool, every cube file.
3. The pool may read a block of the source in the middle of a write. Such a block is among the touched ones, and what
   lies over it is made again, in rounds; if writers touch the same blocks again and again, a last time while the source
   is held.
4. The names of the new files are synced, and the coordinator makes the work folder a mag.
5. When all mags are there, what was written to their sources meanwhile is brought up to date in them, as below; so is
   the border of the layer, if its bounding box has grown.

A crash leaves whole mags only, and a work folder that the next start removes; so does a cancel or an error.

Bringing up to date, for some boxes of the finest mag:

1. For each coarser mag, finest first: the voxels that the boxes touch in its source are taken, enlarged outward.
2. They are cut into tiles. A tile is read from the source, made coarser, and written, each by the actor of its mag like
   the reads and writes of clients. A tile is seen whole or not at all.
3. These are the boxes for the mags that are made from this one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from magd.acknowledgement import Durability
from magd.actors.conversion import LISTED_AT_ONCE, ROUNDS, sync_folders
from magd.actors.copies import Copies
from magd.actors.dataset import DatasetActor
from magd.actors.mag import MagActor
from magd.actors.opening import layer_box, work_folder
from magd.actors.operations import Operation
from magd.actors.requests import read_cost, write_cost
from magd.actors.types import Bounds, FlushLevel, Mask, OperationProgress, OperationStatistics, WriteCommand
from magd.catalog.folders import remove_tree
from magd.catalog.names import LayerName, MagName
from magd.compression.changed_blocks import ChangedBlocks
from magd.cubes.encode import default_level
from magd.cubes.mag_files import MagFiles
from magd.downsampling.boxes import downsample_box, tile_size
from magd.downsampling.files import Downsampling, coarser_boxes
from magd.errors import NotFound, Reason
from magd.geometry import BoundingBox, Box, Mag, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from magd.actors.budget import MemoryBudget
    from magd.actors.coordinator import Coordinator
    from magd.actors.messages import MagFacts
    from magd.actors.registry import Registry
    from magd.actors.threads import Threads
    from magd.catalog.root import Root
    from magd.compression.pool import CompressionPool
    from magd.downsampling.kernels import Method
    from magd.voxels import VoxelArray


@dataclass(frozen=True, slots=True)
class Step:
    """One mag, and the finer one it is made from."""

    source: Mag
    target: Mag

    @property
    def factor(self) -> Vec3:
        """Voxels of the source in one of the target along each axis."""
        return self.target.factor // self.source.factor


@dataclass(frozen=True, slots=True)
class Parts:
    """What downsampling works with."""

    root: Root
    pool: CompressionPool
    threads: Threads
    registry: Registry
    coordinator: Coordinator
    budget: MemoryBudget


class DownsampleRun:
    """One downsampling of one layer.

    :param steps: each source is that of the first step or the target of an earlier one
    """

    def __init__(
        self, parts: Parts, layer: LayerName, steps: Sequence[Step], method: Method, operation: Operation
    ) -> None:
        self._parts: Final = parts
        self._layer: Final = layer
        self._steps: Final = steps
        self._method: Final = method
        self._operation: Final = operation
        self._began: Final = time.monotonic()
        self._done = OperationProgress()
        self._built: Final[set[Mag]] = set()
        self._stale: Final[dict[Mag, list[Box]]] = {}

    async def build(self) -> str:
        """Build mags that do not exist.

        :return: the name of the layer
        :raises Cancelled: on request; mags that are finished stay
        """
        finest = self._steps[0].source
        before = await self._bounds(finest)
        await self._parts.registry.with_mag(self._name(finest), self._build_all)
        for step in self._steps:
            if step.source in self._stale:
                await self.update(step.source, self._stale[step.source])
        if await self._bounds(finest) != before:
            # What lies beyond the border counts now for the coarser voxels that reach over it.
            await self.update(finest, _faces(before))
        self._finish("built")
        return str(self._layer)

    async def bring_up_to_date(self, boxes: Iterable[Box]) -> str:
        """Make what lies over some boxes again.

        :param boxes: in voxels of the first step's source
        :return: the name of the layer
        :raises Cancelled: on request; what is done stays
        """
        await self.update(self._steps[0].source, boxes)
        self._finish("brought up to date")
        return str(self._layer)

    # -- building --------------------------------------------------------------------------------------------------

    async def _build_all(self, finest: MagActor) -> None:
        tracked = _Tracked(finest, self._operation)
        async with tracked:
            for step in self._steps:
                if step.target in self._built:
                    continue  # by an attempt before, with an actor that failed
                if step.source == finest.mag_name.mag:
                    await self._build(step, tracked)
                else:
                    other = partial(self._build_from_other, step)
                    await self._parts.registry.with_mag(self._name(step.source), other)
        self._note_stale(finest, tracked)

    async def _build_from_other(self, step: Step, actor: MagActor) -> None:
        tracked = _Tracked(actor, self._operation)
        async with tracked:
            await self._build(step, tracked)
        self._note_stale(actor, tracked)

    def _note_stale(self, actor: MagActor, tracked: _Tracked) -> None:
        self._stale.setdefault(actor.mag_name.mag, []).extend(tracked.everything.boxes())

    async def _build(self, step: Step, source: _Tracked) -> None:
        facts, target = source.facts, self._name(step.target)
        known = await self._parts.registry.with_dataset(self._layer.dataset_name, DatasetActor.current)
        layer = known.properties.layer(self._layer.layer)
        if layer is None:
            raise NotFound(f"{self._layer} does not exist any more", reason=Reason.LAYER_NOT_FOUND)
        folder = await self._parts.threads.run(self._parts.root.layer_folder, self._layer.dataset_name, layer)
        work = work_folder(folder, target, facts.revision.epoch, self._operation.number)
        header = replace(facts.header, data_offset=0)
        bounds = layer.bounding_box.in_mag(step.source)
        way = Downsampling(
            facts.folder,
            facts.header,
            work,
            header,
            default_level(header.block_type),
            step.factor,
            self._method,
            bounds,
        )
        stage = _Stage(self._operation, self._done)
        try:
            await source.actor.apply_all()
            files = await self._parts.threads.run(MagFiles.create, work, header)
            await self._parts.threads.run(files.close)
            copies = Copies(way, stage, self._parts.pool)
            await copies.make(way.cubes_over(await _cubes(source.actor)))
            await self._mend_torn(way, copies, source)
            self._operation.check_cancelled()
            await self._parts.threads.run(sync_folders, work)
            await self._parts.coordinator.changes.once(
                "",
                self._layer.dataset,
                (),
                lambda: self._parts.coordinator.adopt(work, target, header, BoundingBox.empty()),
            )
            self._built.add(step.target)
        finally:
            self._done = stage.whole
            await self._parts.threads.run(remove_tree, work)

    @staticmethod
    async def _mend_torn(way: Downsampling, copies: Copies, source: _Tracked) -> None:
        """Make again what lies over blocks that were written while they were read."""

        def over(blocks: ChangedBlocks) -> ChangedBlocks:
            found = ChangedBlocks(way.header)
            for box in way.target_boxes(box.intersection(way.bounds) for box in blocks.boxes()):
                found.add(box)
            return found

        await source.actor.apply_all()
        torn = over(source.take())
        for _ in range(ROUNDS):
            if not len(torn):
                return
            await copies.splice(torn)
            await source.actor.apply_all()
            # Only what was read in this round can be torn; what else was written is old, but whole.
            torn = torn.intersection(over(source.take()))

        async def finish() -> None:
            await source.actor.apply_all()
            source.take()
            await copies.splice(torn, can_cancel=False)

        await source.actor.hold(finish)

    # -- bringing up to date ---------------------------------------------------------------------------------------

    async def update(self, source: Mag, boxes: Iterable[Box]) -> None:
        """Make what lies over some boxes of a mag again, in all mags that are made from it.

        :param boxes: in voxels of the mag
        """
        changed = {source: list(boxes)}
        for step in self._steps:
            if step.source not in changed:
                continue
            finer, coarser = self._name(step.source), self._name(step.target)
            header = (await self._parts.registry.with_mag(finer, MagActor.describe)).header
            bounds, limit = await self._bounds(step.source), await self._bounds(step.target)
            there = [box.intersection(limit) for box in coarser_boxes(changed[step.source], step.factor)]
            changed[step.target] = there = [box for box in there if not box.is_empty]
            tiles = [tile for box in there for tile in box.split(tile_size(box.size, step.factor, header.voxels))]
            self._say(bytes_total=self._done.bytes_total + sum(map(header.voxels.nbytes, tiles)))
            for tile in tiles:
                self._operation.check_cancelled()
                await self._update_tile(step, tile, bounds)
                done = header.voxels.nbytes(tile)
                self._say(bytes_done=self._done.bytes_done + done, bytes_out=self._done.bytes_out + done)
            await self._parts.registry.with_mag(coarser, lambda actor: actor.flush(FlushLevel.DISK))

    async def _update_tile(self, step: Step, tile: Box, bounds: Box) -> None:
        registry, budget = self._parts.registry, self._parts.budget
        finer, coarser = self._name(step.source), self._name(step.target)
        box = Box(tile.offset * step.factor, tile.size * step.factor).intersection(bounds)
        source = await registry.with_mag(finer, MagActor.describe)
        target = await registry.with_mag(coarser, MagActor.describe)
        # One lease for both: nobody waits for memory while holding some.
        cost = read_cost(source.header, box) + write_cost(target.header, tile, Mask.ALL)
        with await budget.lease(cost) as lease:
            read = await registry.with_mag(finer, lambda actor: actor.read(box, lease))

            def part(inside: Box) -> VoxelArray:
                x, y, z = inside.offset - box.offset
                return read.data[:, x : x + inside.size.x, y : y + inside.size.y, z : z + inside.size.z]

            voxels = source.header.voxels
            data = await self._parts.threads.run(downsample_box, tile, step.factor, self._method, bounds, voxels, part)
            command = WriteCommand("", tile, data, Durability.PROCESS, Bounds.EXTEND)
            await registry.with_mag(coarser, lambda actor: actor.write(command, 0, lease))

    # --------------------------------------------------------------------------------------------------------------

    def _name(self, mag: Mag) -> MagName:
        return MagName(self._layer.dataset, self._layer.layer, mag)

    async def _bounds(self, mag: Mag) -> Box:
        snapshot = await self._parts.registry.with_dataset(self._layer.dataset_name, DatasetActor.current)
        return layer_box(snapshot, self._name(mag))

    def _say(self, **changes: int) -> None:
        self._done = replace(self._done, **changes)
        self._operation.progress(self._done)

    def _finish(self, what: str) -> None:
        mags = ", ".join(step.target.name for step in self._steps)
        self._operation.update(
            statistics=OperationStatistics(
                raw_bytes=self._done.bytes_done,
                stored_bytes=self._done.bytes_out,
                seconds=time.monotonic() - self._began,
                note=f"{what}: {mags}; {self._method.value}",
            )
        )


class _Tracked:
    """A mag whose written blocks are collected: since it was entered, and since they were taken last."""

    def __init__(self, actor: MagActor, operation: Operation) -> None:
        self.actor: Final = actor
        self._operation: Final = operation
        self.facts: MagFacts
        self.everything: ChangedBlocks

    async def __aenter__(self) -> None:
        self.facts = await self.actor.describe()
        self.everything = ChangedBlocks(self.facts.header)
        self.actor.operation = self._operation.name
        self.actor.tracker.begin(self.facts.header)

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.actor.apply_all()
            self.take()
        finally:
            self.actor.tracker.end()
            self.actor.operation = ""

    def take(self) -> ChangedBlocks:
        """The blocks written since the last call."""
        taken = self.actor.tracker.take()
        self.everything.update(taken)
        return taken


class _Stage(Operation):
    """One mag's part of an operation: its progress counts on from that of the mags before."""

    def __init__(self, operation: Operation, before: OperationProgress) -> None:
        super().__init__(operation.info, lambda _: None)
        self.cancel_requested = operation.cancel_requested
        self.whole = before
        self._operation: Final = operation
        self._before: Final = before

    def progress(self, progress: OperationProgress) -> None:
        """See Operation."""
        sums = {name: getattr(self._before, name) + getattr(progress, name) for name in OperationProgress.__slots__}
        self.whole = OperationProgress(**sums)
        self._operation.progress(self.whole)


async def _cubes(actor: MagActor) -> list[Vec3]:
    """The cube files of a mag."""
    found: list[Vec3] = []
    while True:
        after = found[-1] if found else None
        some = await actor.list_cube_files(None, after, LISTED_AT_ONCE)
        found.extend(listed.file.index for listed in some)
        if len(some) < LISTED_AT_ONCE:
            return found


def _faces(bounds: Box) -> Iterator[Box]:
    """The outermost voxels of a box, face by face."""
    if bounds.is_empty:
        return
    for axis in range(3):
        first_end, last_start = [*bounds.end], [*bounds.offset]
        first_end[axis] = [*bounds.offset][axis] + 1
        last_start[axis] = [*bounds.end][axis] - 1
        yield Box.between(bounds.offset, Vec3(*first_end))
        yield Box.between(Vec3(*last_start), bounds.end)
