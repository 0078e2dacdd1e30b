"""Changes that concern folders and properties together: create, rename, delete, and a new mag from a compression.

Each is made in a turn of its dataset, under an intent (`magd.actors.changes`). Before a mag, layer or dataset is
renamed or deleted its actors are drained and closed, and requests wait. It is refused while an operation runs on it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from magd.actors.dataset import DatasetActor
from magd.actors.opening import header_of, unserved
from magd.catalog import folders, intents, leftovers
from magd.catalog.names import DatasetName, LayerName, MagName, check_new_name
from magd.cubes.header import BlockType, Header
from magd.errors import AlreadyExists, InvalidRequest, NotFound, Reason
from magd.properties.edits import (
    AddLayer,
    AddMag,
    ExtendBoundingBox,
    RemoveLayer,
    RemoveMag,
    RenameLayer,
    etag_mismatch,
)
from magd.properties.tree import layer_etag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from magd.actors.changes import Changes
    from magd.actors.operations import Operations
    from magd.actors.registry import Registry
    from magd.actors.threads import Threads
    from magd.catalog.intents import Intent
    from magd.catalog.names import ResourceName
    from magd.catalog.root import Root
    from magd.geometry import BoundingBox, Mag
    from magd.properties.edits import Edit
    from magd.properties.file import Snapshot
    from magd.properties.model import LayerCategory, LayerProperties, MagProperties, VoxelSize
    from magd.voxels import VoxelFormat

NO_CONDITION: Final = ""
"""The etag of a change that is made whatever the current one is."""


class Coordinator:
    """Creates, renames and deletes. All its methods are for turns of the dataset that they change.

    :ivar changes: gives the turns
    """

    def __init__(
        self, root: Root, threads: Threads, registry: Registry, operations: Operations, changes: Changes
    ) -> None:
        self.changes: Final = changes
        self._root = root
        self._threads = threads
        self._registry = registry
        self._operations = operations

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
        self.changes.refuse_if_busy(str(name))
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
        await self.changes.settle_what_is_left(dataset)
        edit = AddLayer(layer, category, voxels)
        intent = await self._threads.run(self._intend_layer, dataset, layer)
        if intent is None:
            await self.changes.save(dataset, [edit])
            return
        async with self.changes.carry_out(dataset, intent):
            await self.changes.save(dataset, [edit])

    def _intend_layer(self, dataset: DatasetName, layer: str) -> Intent | None:
        dataset_folder = self._root.dataset_folder(dataset)
        folder = os.path.join(dataset_folder, layer)
        if os.path.lexists(folder):
            folders.create_layer_folder(dataset_folder, layer)  # it is taken, if it can be
            return None
        hidden = folders.make_layer_folder(dataset_folder)
        return intents.creation(dataset_folder, layer=layer, mag=None, hidden=hidden, folder=folder)

    async def rename_layer(self, name: LayerName, new_name: str, etag: str) -> None:
        """Rename a layer and its folder.

        :raises AlreadyExists: a layer of the new name is there
        """
        check_new_name("new_layer_id", new_name)
        snapshot = await self._registry.with_dataset(name.dataset_name, DatasetActor.current)
        layer = _require_layer(snapshot, name, etag)
        if snapshot.properties.layer(new_name) is not None:
            raise AlreadyExists(f"{name.dataset_name}/layers/{new_name} exists", reason=Reason.LAYER_EXISTS)
        self.changes.refuse_if_busy(str(name))
        await self.changes.settle_what_is_left(name.dataset_name)
        dataset_folder = await self._threads.run(self._root.dataset_folder, name.dataset_name)
        edit = RenameLayer(layer.name, new_name)
        # The new name too: between the properties and the folder nobody may open a mag under it.
        async with (
            self._registry.holding(str(name)),
            self._registry.holding(str(LayerName(name.dataset, new_name))),
        ):
            intent = await self._threads.run(intents.renaming, dataset_folder, old=layer.name, new=new_name)
            if intent is None:
                await self.changes.save(name.dataset_name, [edit])
                return
            async with self.changes.carry_out(name.dataset_name, intent):
                await self.changes.save(name.dataset_name, [edit])

    async def delete_layer(self, name: LayerName, etag: str) -> str:
        """Remove a layer from the properties and move its folder to the trash.

        :return: the folder in the trash, relative to the root; empty if the layer had none
        """
        snapshot = await self._registry.with_dataset(name.dataset_name, DatasetActor.current)
        layer = _require_layer(snapshot, name, etag)
        self.changes.refuse_if_busy(str(name))
        return await self._remove(name, layer, None)

    async def _remove(self, name: LayerName | MagName, layer: LayerProperties, mag: MagProperties | None) -> str:
        dataset = DatasetName(name.dataset)
        await self.changes.settle_what_is_left(dataset)
        edit = RemoveLayer(layer.name) if mag is None else RemoveMag(layer.name, mag.mag)
        async with self._registry.holding(str(name)):
            intent = await self._threads.run(self._intend_removal, dataset, layer, mag)
            if intent is None:
                await self.changes.save(dataset, [edit])
                return ""
            async with self.changes.carry_out(dataset, intent):
                await self.changes.save(dataset, [edit])
            return os.path.join(name.dataset, intent.trash)

    def _intend_removal(
        self, dataset: DatasetName, layer: LayerProperties, mag: MagProperties | None
    ) -> intents.Removal | None:
        try:
            if mag is None:
                folder = self._root.layer_folder(dataset, layer)
            else:
                folder = self._root.owned_mag_folder(dataset, layer, mag)
        except NotFound:
            return None
        home = self._root.dataset_folder(dataset)
        trash = folders.trash_place(home, os.path.basename(folder))
        which = None if mag is None else mag.mag
        return intents.removal(home, layer=layer.name, mag=which, folder=folder, trash=trash)

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
        await self.changes.settle_what_is_left(layer_name.dataset_name)
        header = Header(layer.voxels, block_len, file_len, block_type)
        made = await self._threads.run(self._make_mag_folder, layer_name, mag, header)
        await self._add_mag(made, name, header, [])

    def _make_mag_folder(self, layer_name: LayerName, mag: Mag, header: Header) -> str:
        dataset_folder = self._root.dataset_folder(layer_name.dataset_name)
        return folders.make_mag_folder(folders.create_layer_folder(dataset_folder, layer_name.layer), mag, header)

    def _read_header(self, layer_name: LayerName, layer: LayerProperties, mag: MagProperties) -> Header:
        return header_of(self._root.mag_folder(layer_name.dataset_name, layer, mag))

    async def _add_mag(self, made: str, name: MagName, header: Header, more: Sequence[Edit]) -> None:
        """Make a finished folder with a hidden name, which lies in the layer's folder, a mag."""
        edit = AddMag(name.layer, name.mag, f"./{name.layer}/{name.mag.name}", header.cube_len)
        dataset_folder = await self._threads.run(self._root.dataset_folder, name.dataset_name)
        layer_folder = os.path.dirname(made)
        intent = await self._threads.run(
            intents.creation,
            dataset_folder,
            layer=name.layer,
            mag=name.mag,
            hidden=made,
            folder=os.path.join(layer_folder, name.mag.name),
        )
        async with self.changes.carry_out(name.dataset_name, intent):
            await self.changes.save(name.dataset_name, [edit, *more])

    async def delete_mag(self, name: MagName) -> str:
        """Remove a mag from the properties and move its folder to the trash.

        :return: the folder in the trash, relative to the root; empty if the mag had none
        """
        snapshot = await self._registry.with_dataset(name.dataset_name, DatasetActor.current)
        layer = _require_layer(snapshot, name.layer_name, NO_CONDITION)
        mag = layer.mag(name.mag)
        if mag is None:
            raise NotFound(f"{name} does not exist", reason=Reason.MAG_NOT_FOUND)
        self.changes.refuse_if_busy(str(name))
        return await self._remove(name, layer, mag)

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
        await self.changes.settle_what_is_left(name.dataset_name)
        await self._threads.run(folders.check_mag_is_free, os.path.dirname(work_folder), name.mag)
        await self._add_mag(work_folder, name, header, [ExtendBoundingBox(name.layer, bounding_box)])
        return str(name)

    async def exchange(
        self,
        name: MagName,
        folder: str,
        work_folder: str,
        cube_length: int,
        edit: Edit,
        swap: Callable[[], Awaitable[None]],
    ) -> None:
        """Put other files, with another cube length, in place of a mag's, and say so in the properties. For whoever
        holds the mag.

        :param folder: of the mag
        :param work_folder: the new files, in a hidden folder beside it, complete with their journal and on the disk;
            afterwards it has the old ones
        :param cube_length: of the new files, different from the one before
        :param edit: sets it
        :param swap: exchanges the two folders
        """
        await self.changes.settle_what_is_left(name.dataset_name)
        intent = await self._threads.run(
            intents.exchange,
            await self._threads.run(self._root.dataset_folder, name.dataset_name),
            layer=name.layer,
            mag=name.mag,
            folder=folder,
            hidden=work_folder,
            cube_length=cube_length,
        )
        async with self.changes.carry_out(name.dataset_name, intent):
            await self.changes.save(name.dataset_name, [edit])
            await swap()

    # -- leftovers -------------------------------------------------------------------------------------------------

    async def remove_leftovers(self, resource: ResourceName) -> list[str]:
        """Remove what magd left behind in a dataset, or in a part of it that is given. Mags in use are passed over.

        :return: what was removed, relative to the root
        """
        dataset = DatasetName(resource.dataset)
        before = await self._threads.run(leftovers.in_dataset, self._root, dataset)
        await self._registry.with_dataset(dataset, DatasetActor.current)  # this removes some, if it was closed
        removed = await self._threads.run(leftovers.gone, self._root, before)
        if resource == dataset:
            # Operations make folders outside of the turns of the dataset they make them in.
            is_quiet = self._operations.running() is None
            removed += await self._threads.run(
                leftovers.remove_from_dataset, self._root, dataset, is_served=True, is_quiet=is_quiet
            )
        for mag in await self._threads.run(leftovers.mags_of, self._root, resource):
            if not self._registry.open_mags(str(mag)):
                async with self._registry.holding(str(mag)):
                    removed += await self._threads.run(leftovers.remove_from_mag, self._root, mag)
        return removed


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
