"""Starting a conversion: what is refused, what is done already, where the new files are made."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from magd.acknowledgement import Revision
from magd.actors.carrying import begin_journal
from magd.actors.conversion import ConversionRun, Target
from magd.actors.dataset import DatasetActor
from magd.actors.mag import MagActor
from magd.actors.opening import find_served, format_of, work_folder
from magd.cubes.convert import block_type_of
from magd.cubes.encode import CompressionLevel, check_level, default_level
from magd.cubes.header import MAX_LEN, BlockType
from magd.errors import Conflict, InvalidRequest, NotFound, Reason
from magd.geometry import BoundingBox
from magd.journal.places import boot_id
from magd.journal.records import Head
from magd.properties.edits import SetCubeLength

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from magd.actors.carrying import Carried
    from magd.actors.coordinator import Coordinator
    from magd.actors.operations import Operation, Operations
    from magd.actors.registry import Registry
    from magd.actors.threads import Threads
    from magd.actors.types import OperationInfo
    from magd.catalog.names import MagName
    from magd.catalog.root import Root
    from magd.compression.pool import CompressionPool
    from magd.cubes.header import Header


@dataclass(frozen=True, slots=True)
class Compress:
    """Store a mag compressed."""

    level: CompressionLevel
    min_gain: float
    kind = "compress"

    def check(self) -> None:
        """:raises InvalidRequest: a field has a value that can never be right"""
        check_level(self.level)
        if not 0 <= self.min_gain < 1:
            raise _invalid("min_gain", self.min_gain, "is not from 0 up to, without, 1")

    def header(self, before: Header) -> Header:
        """What the cube files shall be like."""
        if before.block_type.is_compressed:
            return before
        return replace(before, block_type=block_type_of(self.level))


@dataclass(frozen=True, slots=True)
class Decompress:
    """Store a mag raw."""

    level = None
    min_gain = 0.0
    kind = "decompress"

    def check(self) -> None:
        """See Compress."""

    def header(self, before: Header) -> Header:
        """See Compress."""
        return replace(before, block_type=BlockType.RAW)


@dataclass(frozen=True, slots=True)
class Rechunk:
    """Store a mag in cube files of other lengths."""

    block_len: int
    file_len: int
    """0: as it is."""
    level = None
    """As for writes into the mag."""
    min_gain = 0.0
    kind = "rechunk"

    def check(self) -> None:
        """See Compress."""
        for field, length in (("block_len", self.block_len), ("file_len", self.file_len)):
            if length and (not 1 <= length <= MAX_LEN or length & (length - 1)):
                raise _invalid(field, length, f"is not a power of two up to {MAX_LEN}")

    def header(self, before: Header) -> Header:
        """See Compress."""
        return replace(before, block_len=self.block_len or before.block_len, file_len=self.file_len or before.file_len)


Plan = Compress | Decompress | Rechunk


class Converter:
    """Converts mags, in place or into other datasets."""

    def __init__(
        self,
        root: Root,
        pool: CompressionPool,
        threads: Threads,
        registry: Registry,
        operations: Operations,
        coordinator: Coordinator,
    ) -> None:
        self._root = root
        self._pool = pool
        self._threads = threads
        self._registry = registry
        self._operations = operations
        self._coordinator = coordinator

    async def start(self, name: MagName, target_dataset: str | None, plan: Plan) -> OperationInfo:
        """Begin, in a turn of the coordinator. In place, a mag that is stored so already is done at once.

        :raises InvalidRequest: the plan is none
        :raises AlreadyExists: the target has that mag
        :raises Conflict: OPERATION_IN_PROGRESS
        """
        plan.check()
        facts = await self._registry.with_mag(name, MagActor.describe)
        running = self._operations.running(str(name))
        if running is not None:
            raise Conflict(
                f"{running.name} runs on {name}",
                reason=Reason.OPERATION_IN_PROGRESS,
                metadata={"operation": running.name},
            )
        target: MagName | None = None
        if target_dataset is not None and target_dataset != name.dataset:
            target = await self._coordinator.prepare_target(name, target_dataset)
        elif plan.header(facts.header) == facts.header:
            return self._operations.done(plan.kind, str(name), str(name))

        async def work(actor: MagActor, operation: Operation) -> str:
            before = (await actor.describe()).header
            there = await (
                self._in_place(actor, operation, plan) if target is None else self._into(target, actor, operation, plan)
            )
            run = ConversionRun(
                actor,
                operation,
                self._pool,
                self._threads,
                there,
                level=plan.level or default_level(before.block_type),
                min_gain=plan.min_gain,
            )
            return await run.run()

        return self._operations.start(
            plan.kind,
            str(name),
            lambda operation: self._registry.with_mag(name, lambda actor: work(actor, operation)),
        )

    async def _in_place(self, actor: MagActor, operation: Operation, plan: Plan) -> Target:
        facts, name = await actor.describe(), actor.mag_name
        work = work_folder(os.path.dirname(facts.folder), name, facts.revision.epoch, operation.number)
        header = replace(plan.header(facts.header), data_offset=0)
        if header.cube_len == facts.header.cube_len:
            return Target(header, work)
        edit = SetCubeLength(name.layer, name.mag, header.cube_len)

        async def exchange(swap: Callable[[], Awaitable[None]]) -> None:
            await self._coordinator.exchange(name, facts.folder, work, header.cube_len, edit, swap)

        in_turn = partial(self._coordinator.changes.once, "", name.dataset, ())
        return Target(header, work, exchange=exchange, in_turn=in_turn)

    async def _into(self, target: MagName, actor: MagActor, operation: Operation, plan: Plan) -> Target:
        facts = await actor.describe()
        known = await self._registry.with_dataset(target.dataset_name, DatasetActor.current)
        target_layer = known.properties.layer(target.layer)
        if target_layer is None:
            raise NotFound(f"{target.layer_name} does not exist any more", reason=Reason.LAYER_NOT_FOUND)
        layer_folder = await self._threads.run(self._root.layer_folder, target.dataset_name, target_layer)
        work = work_folder(layer_folder, target, facts.revision.epoch, operation.number)
        header = replace(plan.header(facts.header), data_offset=0)

        async def publish(folder: str, carried: list[Carried]) -> str:
            if carried:
                await self._threads.run(begin_journal, folder, _first_head(header, operation), carried)
            # The box as it is now: writes may have extended it since the operation began.
            source = await self._registry.with_dataset(actor.mag_name.dataset_name, DatasetActor.current)
            layer, _ = find_served(source, actor.mag_name)
            made = await self._coordinator.changes.once(
                "",
                target.dataset,
                (),
                lambda: self._coordinator.adopt(folder, target, header, layer.bounding_box),
            )
            if carried:
                await self._registry.with_mag(target, lambda actor: actor.flush())
            return made

        return Target(header, work, publish=publish)


def _first_head(header: Header, operation: Operation) -> Head:
    """Of the journal of a new mag."""
    return Head(
        incarnation=operation.name,
        generation=0,
        revision=Revision(1, 0),
        format=format_of(header),
        unsaved_box=BoundingBox.empty(),
        outcomes=(),
        boot_id=boot_id(),
        closed=True,
    )


def _invalid(field: str, value: object, why: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {value} {why}", metadata={"field": field, "value": value})
