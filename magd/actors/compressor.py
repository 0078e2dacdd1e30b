"""Starting a compression: what is refused, what is done already, where the new files are made."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from magd.actors.compress import Compression
from magd.actors.dataset import DatasetActor
from magd.actors.mag import MagActor
from magd.actors.opening import find_served, work_folder
from magd.cubes.encode import CompressionLevel, check_level
from magd.cubes.header import BlockType
from magd.errors import Conflict, NotFound, Reason

if TYPE_CHECKING:
    from magd.actors.coordinator import Coordinator
    from magd.actors.operations import Operation, Operations
    from magd.actors.registry import Registry
    from magd.actors.threads import Threads
    from magd.actors.types import OperationInfo
    from magd.catalog.names import MagName
    from magd.catalog.root import Root
    from magd.compression.pool import CompressionPool

KIND = "compress"


class Compressor:
    """Compresses mags, in place or into other datasets."""

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

    async def start(self, name: MagName, target_dataset: str | None, level: CompressionLevel) -> OperationInfo:
        """Begin, in a turn of the coordinator. A mag that is compressed already is done at once.

        :raises AlreadyExists: the target has that mag
        :raises Conflict: OPERATION_IN_PROGRESS
        """
        check_level(level)
        facts = await self._registry.with_mag(name, MagActor.describe)
        running = self._operations.running(str(name))
        if running is not None:
            raise Conflict(
                f"{running.name} runs on {name}",
                reason=Reason.OPERATION_IN_PROGRESS,
                metadata={"operation": running.name},
            )
        if target_dataset is None or target_dataset == name.dataset:
            if facts.header.block_type.is_compressed:
                return self._operations.done(KIND, str(name), str(name))
            return self._operations.start(
                KIND,
                str(name),
                lambda operation: self._registry.with_mag(name, lambda actor: self._in_place(actor, operation, level)),
            )
        target = await self._coordinator.prepare_target(name, target_dataset)
        return self._operations.start(
            KIND,
            str(name),
            lambda operation: self._registry.with_mag(name, lambda actor: self._into(target, actor, operation, level)),
        )

    async def _in_place(self, actor: MagActor, operation: Operation, level: CompressionLevel) -> str:
        facts = await actor.describe()
        layer_folder = os.path.dirname(facts.folder)
        work = work_folder(layer_folder, actor.mag_name, facts.revision.epoch, operation.number)
        return await Compression(actor, operation, self._pool, self._threads, level, work, publish=None).run()

    async def _into(self, target: MagName, actor: MagActor, operation: Operation, level: CompressionLevel) -> str:
        facts = await actor.describe()
        known = await self._registry.with_dataset(target.dataset_name, DatasetActor.current)
        target_layer = known.properties.layer(target.layer)
        if target_layer is None:
            raise NotFound(f"{target.layer_name} does not exist any more", reason=Reason.LAYER_NOT_FOUND)
        layer_folder = await self._threads.run(self._root.layer_folder, target.dataset_name, target_layer)
        work = work_folder(layer_folder, target, facts.revision.epoch, operation.number)
        header = replace(facts.header, block_type=BlockType.LZ4HC)

        async def publish(folder: str) -> str:
            # The box as it is now: writes may have extended it since the operation began.
            source = await self._registry.with_dataset(actor.mag_name.dataset_name, DatasetActor.current)
            layer, _ = find_served(source, actor.mag_name)
            return await self._coordinator.once(
                "",
                target.dataset,
                (),
                lambda: self._coordinator.adopt(folder, target, header, layer.bounding_box),
            )

        return await Compression(actor, operation, self._pool, self._threads, level, work, publish).run()
