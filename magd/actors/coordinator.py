"""Changes that concern folders and properties together: create, rename, delete, and a new mag from a compression.

1. They run one at a time for each dataset, as tasks of the daemon: a client that goes away does not stop one half way.
2. The same request id again gives the same outcome.
3. What is created gets its folder first and its entry in the properties second; what is deleted loses its entry first.
   So a crash in between leaves a dataset that opens, and at most a folder that the properties do not name.
4. Before a mag, layer or dataset is renamed or deleted its actors are drained and closed, and requests wait. It is
   refused while an operation runs on it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Final, TypeVar, cast

import structlog

from magd.actors.dataset import DatasetActor
from magd.actors.opening import header_of, unserved
from magd.actors.outcomes import Outcomes
from magd.catalog import folders
from magd.catalog.names import DatasetName, LayerName, MagName, check_new_name
from magd.cubes.header import BlockType, Header
from magd.errors import AlreadyExists, Conflict, InternalError, InvalidRequest, MagdError, NotFound, Reason
from magd.properties.edits import (
    AddLayer,
    AddMag,
    ExtendBoundingBox,
    RemoveLayer,
    RemoveMag,
    RenameLayer,
    etag_mismatch,
    layer_etag,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from magd.actors.operations import Operations
    from magd.actors.registry import Registry
    from magd.actors.threads import Threads
    from magd.catalog.root import Root
    from magd.geometry import BoundingBox, Mag
    from magd.properties.file import Snapshot
    from magd.properties.model import LayerCategory, LayerProperties, MagProperties, VoxelSize
    from magd.voxels import VoxelFormat

T = TypeVar("T")

log = structlog.get_logger(__name__)

NO_CONDITION: Final = ""
"""The etag of a change that is made whatever the current one is."""


class Coordinator:
    """Creates, renames and deletes.

    :param group: runs its tasks
    """

    def __init__(
        self,
        root: Root,
        threads: Threads,
        registry: Registry,
        operations: Operations,
        group: asyncio.TaskGroup,
        *,
        request_id_window_seconds: float,
    ) -> None:
        self._root = root
        self._threads = threads
        self._registry = registry
        self._operations = operations
        self._group = group
        self._outcomes = Outcomes(request_id_window_seconds)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def once(self, request_id: str, dataset: str, fingerprint: object, work: Callable[[], Awaitable[T]]) -> T:
        """Do something to a dataset once for this request id, after what was begun before, to its end.

        :param fingerprint: what the request asks for; another one with the same id is refused
        """
        outcome = self._outcomes.join(request_id, fingerprint)
        if outcome is None:
            outcome = asyncio.get_running_loop().create_future()
            self._outcomes.begin(request_id, fingerprint, outcome)
            self._group.create_task(self._in_turn(dataset, work, outcome))
        return cast("T", await asyncio.shield(outcome))

    async def _in_turn(self, dataset: str, work: Callable[[], Awaitable[T]], outcome: asyncio.Future[T]) -> None:
        try:
            async with self._locks[dataset]:
                outcome.set_result(await work())
        except MagdError as error:
            outcome.set_exception(error)
        except Exception as error:  # the border of the task: a bug must not end the daemon
            log.exception("change failed", dataset=dataset)
            outcome.set_exception(InternalError(f"{dataset}: {error!r}", metadata={"dataset": dataset}))
        finally:
            if not outcome.done():
                outcome.cancel()
            elif not outcome.cancelled():
                outcome.exception()  # the caller may be gone; nobody has to be told then

    # -- datasets ------------------------------------------------------------------------------------------------

    async def create_dataset(self, dataset: str, voxel_size: VoxelSize, *, exist_ok: bool) -> None:
        """Make an empty dataset, or accept one that is there with the same voxel size.

        :raises AlreadyExists: it is there
        """
        check_new_name("dataset_id", dataset)
        try:
            await self._threads.run(folders.create_dataset_folder, self._root, dataset, voxel_size)
        except AlreadyExists:
            if not exist_ok:
                raise
            snapshot = await self._registry.with_dataset(DatasetName(dataset), DatasetActor.current)
            _same("voxel_size", voxel_size, snapshot.properties.voxel_size)

    async def delete_dataset(self, name: DatasetName, etag: str) -> str:
        """Move a dataset to the trash.

        :return: the folder in the trash, relative to the root
        """
        snapshot = await self._registry.with_dataset(name, DatasetActor.current)
        _check_etag(etag, snapshot.etag, str(name))
        self._refuse_if_busy(str(name))
        async with self._registry.holding(str(name), dataset=name):
            folder = await self._threads.run(self._root.dataset_folder, name)
            return await self._threads.run(folders.trash, self._root, folder)

    # -- layers --------------------------------------------------------------------------------------------------

    async def create_layer(
        self,
        dataset: DatasetName,
        layer: str,
        category: LayerCategory,
        voxels: VoxelFormat,
        *,
        exist_ok: bool,
    ) -> None:
        """Add a layer without mags, or accept one that is there with the same parameters.

        :raises AlreadyExists: it is there
        """
        check_new_name("layer_id", layer)
        snapshot = await self._registry.with_dataset(dataset, DatasetActor.current)
        known = snapshot.properties.layer(layer)
        if known is not None:
            if not exist_ok:
                raise AlreadyExists(f"{dataset}/layers/{layer} exists", reason=Reason.LAYER_EXISTS)
            _same("category", category, known.category)
            _same("data_type", voxels.dtype.name, known.voxels and known.voxels.dtype.name)
            _same("num_channels", voxels.num_channels, known.voxels and known.voxels.num_channels)
            return
        dataset_folder = await self._threads.run(self._root.dataset_folder, dataset)
        await self._threads.run(folders.create_layer_folder, dataset_folder, layer)
        edit = AddLayer(layer, category, voxels)
        await self._registry.with_dataset(dataset, lambda actor: actor.change([edit]))

    async def rename_layer(self, name: LayerName, new_name: str, etag: str) -> None:
        """Rename a layer and its folder.

        :raises AlreadyExists: a layer of the new name is there
        """
        check_new_name("new_layer_id", new_name)
        snapshot = await self._registry.with_dataset(name.dataset_name, DatasetActor.current)
        layer = _require_layer(snapshot, name, etag)
        if snapshot.properties.layer(new_name) is not None:
            raise AlreadyExists(f"{name.dataset_name}/layers/{new_name} exists", reason=Reason.LAYER_EXISTS)
        self._refuse_if_busy(str(name))
        async with self._registry.holding(str(name)):
            dataset_folder = await self._threads.run(self._root.dataset_folder, name.dataset_name)
            await self._threads.run(folders.rename_layer_folder, dataset_folder, layer.name, new_name)
            edit = RenameLayer(layer.name, new_name)
            try:
                await self._registry.with_dataset(name.dataset_name, lambda actor: actor.change([edit]))
            except MagdError:
                # The folder must have the name that the properties have, whichever that is after an error.
                after = await self._registry.with_dataset(name.dataset_name, DatasetActor.current)
                if after.properties.layer(new_name) is None:
                    await self._threads.run(folders.rename_layer_folder, dataset_folder, new_name, layer.name)
                raise

    async def delete_layer(self, name: LayerName, etag: str) -> str:
        """Remove a layer from the properties and move its folder to the trash.

        :return: the folder in the trash, relative to the root; empty if the layer had none
        """
        snapshot = await self._registry.with_dataset(name.dataset_name, DatasetActor.current)
        layer = _require_layer(snapshot, name, etag)
        self._refuse_if_busy(str(name))
        async with self._registry.holding(str(name)):
            edit = RemoveLayer(layer.name)
            await self._registry.with_dataset(name.dataset_name, lambda actor: actor.change([edit]))
            return await self._threads.run(self._trash_layer, name, layer)

    def _trash_layer(self, name: LayerName, layer: LayerProperties) -> str:
        try:
            folder = self._root.layer_folder(name.dataset_name, layer)
        except NotFound:
            return ""
        return folders.trash(self._root, folder)

    # -- mags ----------------------------------------------------------------------------------------------------

    async def create_mag(
        self,
        layer_name: LayerName,
        mag: Mag,
        *,
        block_len: int,
        file_len: int,
        block_type: BlockType,
        exist_ok: bool,
    ) -> None:
        """Add an empty mag, or accept one that is there with the same parameters.

        :raises AlreadyExists: it is there, in the properties or as a folder with data that they do not name
        """
        _check_power_of_two("block_len", block_len)
        _check_power_of_two("file_len", file_len)
        snapshot = await self._registry.with_dataset(layer_name.dataset_name, DatasetActor.current)
        layer = _require_served(snapshot, layer_name)
        assert layer.voxels is not None, "a served layer has a voxel format"
        known = layer.mag(mag)
        name = MagName(layer_name.dataset, layer_name.layer, mag)
        if known is not None:
            if not exist_ok:
                raise AlreadyExists(f"{name} exists", reason=Reason.MAG_EXISTS)
            header = await self._threads.run(self._read_header, layer_name, layer, known)
            _same("block_len", block_len, header.block_len)
            _same("file_len", file_len, header.file_len)
            _same("block_type", block_type.is_compressed, header.block_type.is_compressed)
            return
        header = Header(layer.voxels, block_len, file_len, block_type)
        await self._threads.run(self._make_mag_folder, layer_name, layer, mag, header)
        await self._add_mag(name, header)

    def _make_mag_folder(self, layer_name: LayerName, layer: LayerProperties, mag: Mag, header: Header) -> None:
        layer_folder = folders.create_layer_folder(self._root.dataset_folder(layer_name.dataset_name), layer.name)
        folders.create_mag_folder(layer_folder, mag, header)

    def _read_header(self, layer_name: LayerName, layer: LayerProperties, mag: MagProperties) -> Header:
        return header_of(self._root.mag_folder(layer_name.dataset_name, layer, mag))

    async def _add_mag(self, name: MagName, header: Header) -> None:
        edit = AddMag(name.layer, name.mag, f"./{name.layer}/{name.mag.name}", header.cube_len)
        await self._registry.with_dataset(name.dataset_name, lambda actor: actor.change([edit]))

    async def delete_mag(self, name: MagName) -> str:
        """Remove a mag from the properties and move its folder to the trash.

        :return: the folder in the trash, relative to the root; empty if the mag had none
        """
        snapshot = await self._registry.with_dataset(name.dataset_name, DatasetActor.current)
        layer = _require_layer(snapshot, name.layer_name, NO_CONDITION)
        mag = layer.mag(name.mag)
        if mag is None:
            raise NotFound(f"{name} does not exist", reason=Reason.MAG_NOT_FOUND)
        self._refuse_if_busy(str(name))
        async with self._registry.holding(str(name)):
            edit = RemoveMag(layer.name, mag.mag)
            await self._registry.with_dataset(name.dataset_name, lambda actor: actor.change([edit]))
            return await self._threads.run(self._trash_mag, name, layer, mag)

    def _trash_mag(self, name: MagName, layer: LayerProperties, mag: MagProperties) -> str:
        try:
            folder = self._root.owned_mag_folder(name.dataset_name, layer, mag)
        except NotFound:
            return ""
        return folders.trash(self._root, folder)

    # -- mags made by a compression --------------------------------------------------------------------------------

    async def prepare_target(self, source: MagName, target: str) -> MagName:
        """Make sure that another dataset has the layer of a mag, and not yet the mag.

        :return: the name of the mag to be
        :raises AlreadyExists: the target has that mag, or a layer of that name with other voxels
        """
        snapshot = await self._registry.with_dataset(source.dataset_name, DatasetActor.current)
        layer = _require_served(snapshot, source.layer_name)
        assert layer.voxels is not None, "a served layer has a voxel format"
        assert layer.category is not None, "a served layer has a category"
        name = MagName(target, source.layer, source.mag)
        try:
            known = await self._registry.with_dataset(name.dataset_name, DatasetActor.current)
        except NotFound:
            known = None
        there = known.properties.layer(source.layer) if known is not None else None
        if there is not None and there.mag(source.mag) is not None:
            raise AlreadyExists(f"{name} exists", reason=Reason.MAG_EXISTS)
        await self.create_dataset(target, snapshot.properties.voxel_size, exist_ok=True)
        await self.create_layer(name.dataset_name, layer.name, layer.category, layer.voxels, exist_ok=True)
        return name

    async def adopt(self, work_folder: str, name: MagName, header: Header, bounding_box: BoundingBox) -> str:
        """Make a finished work folder, which lies beside it, the folder of a new mag.

        :param bounding_box: of the layer the data is from
        :return: the name of the mag
        """
        await self._threads.run(folders.adopt_mag_folder, work_folder, name.mag)
        await self._add_mag(name, header)
        edit = ExtendBoundingBox(name.layer, bounding_box)
        await self._registry.with_dataset(name.dataset_name, lambda actor: actor.change([edit]))
        return str(name)

    def _refuse_if_busy(self, resource: str) -> None:
        running = self._operations.running(resource)
        if running is not None:
            raise Conflict(
                f"{running.name} runs on {running.resource}; cancel it or wait",
                reason=Reason.OPERATION_IN_PROGRESS,
                metadata={"operation": running.name},
            )


def _require_layer(snapshot: Snapshot, name: LayerName, etag: str) -> LayerProperties:
    layer = snapshot.properties.layer(name.layer)
    if layer is None:
        raise NotFound(f"{name} does not exist", reason=Reason.LAYER_NOT_FOUND)
    _check_etag(etag, layer_etag(snapshot.tree, name.layer), str(name))
    return layer


def _require_served(snapshot: Snapshot, name: LayerName) -> LayerProperties:
    layer = _require_layer(snapshot, name, NO_CONDITION)
    if layer.unserved_reason:
        raise unserved(str(name), layer.unserved_reason, layer.data_format)
    return layer


def _check_etag(given: str, current: str, what: str) -> None:
    if given and given != current:
        raise etag_mismatch(what, given, current)


def _same(field: str, given: object, there: object) -> None:
    if given != there:
        raise AlreadyExists(
            f"it exists with {field} {there}, not {given}",
            reason=Reason.EXISTS_WITH_OTHER_PARAMETERS,
            metadata={"field": field, "value": given, "expected": there},
        )


def _check_power_of_two(field: str, value: int) -> None:
    if not 1 <= value <= 128 or value & (value - 1):
        raise InvalidRequest(
            f"{field} {value} is not a power of two up to 128", metadata={"field": field, "value": value}
        )
