"""Datasets, layers and mags: what there is below the root, and its changes.

Each mutating method takes a request id: called again with the same id and the same arguments it gives the same outcome;
an empty id stands for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from magd.actors.dataset import DatasetActor
from magd.actors.requests import check_writable
from magd.actors.types import (
    UNCHANGED,
    DatasetInfo,
    LayerInfo,
    MagInfo,
    Unchanged,
)
from magd.catalog.names import DatasetName, LayerName, MagName
from magd.errors import InvalidRequest, MagdError, NotFound, Reason
from magd.properties.edits import (
    Edit,
    SetBoundingBox,
    SetDefaultViewConfiguration,
    SetLargestSegmentId,
)
from magd.properties.file import PropertiesFile

if TYPE_CHECKING:
    from magd.actors.coordinator import Coordinator
    from magd.actors.messages import MagFacts
    from magd.actors.registry import Registry
    from magd.actors.threads import Threads
    from magd.actors.views import Views
    from magd.catalog.root import Root
    from magd.cubes.header import BlockType
    from magd.geometry import BoundingBox, Mag
    from magd.properties.forms import JsonObject
    from magd.properties.model import LayerCategory, VoxelSize
    from magd.voxels import VoxelFormat


class Hierarchy:
    """What is below one root."""

    def __init__(
        self, root: Root, threads: Threads, registry: Registry, coordinator: Coordinator, views: Views
    ) -> None:
        self._root = root
        self._threads = threads
        self._registry = registry
        self._coordinator = coordinator
        self._views = views

    # -- datasets ------------------------------------------------------------------------------------------------

    async def list_datasets(self, *, limit: int, after: str | None) -> list[DatasetInfo]:
        """Datasets by name, behind the one named `after`, without their layers."""
        return await self._threads.run(self._list_datasets, limit, after)

    def _list_datasets(self, limit: int, after: str | None) -> list[DatasetInfo]:
        found: list[DatasetInfo] = []
        for dataset in self._root.dataset_names(after=after):
            name = DatasetName(dataset)
            try:
                snapshot = PropertiesFile(self._root.properties_path(name), root=self._root.path).load()
                found.append(self._views.dataset(name, snapshot, {}, with_layers=False))
            except NotFound:
                continue  # it went away since its name was listed
            except MagdError as error:
                found.append(self._views.unserved_dataset(name, error))
            if len(found) == limit:
                break
        return found

    async def get_dataset(self, name: DatasetName) -> DatasetInfo:
        """One dataset with its layers."""
        snapshot = await self._registry.with_dataset(name, DatasetActor.current)
        return await self._threads.run(self._views.dataset, name, snapshot, self._facts(str(name)))

    async def create_dataset(self, name: str, voxel_size: VoxelSize, *, exist_ok: bool, request_id: str) -> DatasetInfo:
        """Create an empty dataset, or return one with the same voxel size.

        :raises AlreadyExists: it exists
        """
        self._check_writable()
        await self._coordinator.changes.once(
            request_id,
            name,
            ("create_dataset", name, voxel_size, exist_ok),
            lambda: self._coordinator.create_dataset(name, voxel_size, exist_ok=exist_ok),
        )
        return await self.get_dataset(DatasetName(name))

    async def update_dataset(
        self,
        name: DatasetName,
        *,
        etag: str,
        default_view_configuration: JsonObject | Unchanged | None = UNCHANGED,
        request_id: str,
    ) -> DatasetInfo:
        """Change properties of a dataset.

        :raises Conflict: ETAG_MISMATCH
        """
        edits: list[Edit] = []
        if not isinstance(default_view_configuration, Unchanged):
            edits.append(SetDefaultViewConfiguration(None, default_view_configuration))
        await self._change(name, None, edits, etag, request_id)
        return await self.get_dataset(name)

    async def delete_dataset(self, name: DatasetName, *, etag: str, request_id: str) -> str:
        """Move a dataset to the trash.

        :return: the folder in the trash, relative to the root
        """
        self._check_writable()
        return await self._coordinator.changes.once(
            request_id,
            name.dataset,
            ("delete_dataset", name, etag),
            lambda: self._coordinator.delete_dataset(name, etag),
        )

    # -- layers --------------------------------------------------------------------------------------------------

    async def get_layer(self, name: LayerName) -> LayerInfo:
        """One layer with its mags.

        :raises NotFound: LAYER_NOT_FOUND
        """
        info = await self.get_dataset(name.dataset_name)
        for layer in info.layers:
            if layer.name == name:
                return layer
        raise NotFound(f"{name} does not exist", reason=Reason.LAYER_NOT_FOUND)

    async def create_layer(
        self,
        dataset: DatasetName,
        layer: str,
        category: LayerCategory,
        voxels: VoxelFormat,
        *,
        exist_ok: bool,
        request_id: str,
    ) -> LayerInfo:
        """Add a layer without mags, or return one with the same parameters.

        :raises AlreadyExists: it exists
        """
        self._check_writable()
        await self._coordinator.changes.once(
            request_id,
            dataset.dataset,
            ("create_layer", dataset, layer, category, voxels, exist_ok),
            lambda: self._coordinator.create_layer(dataset, layer, category, voxels, exist_ok=exist_ok),
        )
        return await self.get_layer(LayerName(dataset.dataset, layer))

    async def update_layer(
        self,
        name: LayerName,
        *,
        etag: str,
        bounding_box: BoundingBox | Unchanged = UNCHANGED,
        default_view_configuration: JsonObject | Unchanged | None = UNCHANGED,
        largest_segment_id: int | Unchanged = UNCHANGED,
        request_id: str,
    ) -> LayerInfo:
        """Change properties of a layer. Only here can its bounding box shrink, and only with an etag.

        :raises Conflict: ETAG_MISMATCH
        """
        edits: list[Edit] = []
        if not isinstance(bounding_box, Unchanged):
            if not etag:
                raise InvalidRequest(
                    "a bounding box is only set with the etag of the layer it was decided on",
                    metadata={"field": "etag", "value": ""},
                )
            edits.append(SetBoundingBox(name.layer, bounding_box))
            self._check_writable()
            await self._settle(name)
        if not isinstance(default_view_configuration, Unchanged):
            edits.append(SetDefaultViewConfiguration(name.layer, default_view_configuration))
        if not isinstance(largest_segment_id, Unchanged):
            edits.append(SetLargestSegmentId(name.layer, largest_segment_id))
        await self._change(name.dataset_name, name.layer, edits, etag, request_id)
        return await self.get_layer(name)

    async def _settle(self, name: LayerName) -> None:
        """Have the journals of a layer's mags forget what extended its bounding box up to now.

        After a crash, extensions in a journal are saved again: with a box that was set in between, that would undo
        it. What extends the box from here on changes the etag that the new box is conditional on.
        """
        snapshot = await self._registry.with_dataset(name.dataset_name, DatasetActor.current)
        layer = snapshot.properties.layer(name.layer)
        for mag in layer.mags if layer is not None and not layer.unserved_reason else ():
            if not mag.unserved_reason:
                await self._registry.with_mag(MagName(name.dataset, name.layer, mag.mag), lambda actor: actor.flush())

    async def rename_layer(self, name: LayerName, new_name: str, *, etag: str, request_id: str) -> LayerInfo:
        """Rename a layer and its folder.

        :raises AlreadyExists: a layer of the new name exists
        """
        self._check_writable()
        await self._coordinator.changes.once(
            request_id,
            name.dataset,
            ("rename_layer", name, new_name, etag),
            lambda: self._coordinator.rename_layer(name, new_name, etag),
        )
        return await self.get_layer(LayerName(name.dataset, new_name))

    async def delete_layer(self, name: LayerName, *, etag: str, request_id: str) -> str:
        """Remove a layer from the properties and move its folder to the trash.

        :return: the folder in the trash, relative to the root; empty if the layer had none
        """
        self._check_writable()
        return await self._coordinator.changes.once(
            request_id,
            name.dataset,
            ("delete_layer", name, etag),
            lambda: self._coordinator.delete_layer(name, etag),
        )

    # -- mags ----------------------------------------------------------------------------------------------------

    async def get_mag(self, name: MagName) -> MagInfo:
        """One mag.

        :raises NotFound: MAG_NOT_FOUND, LAYER_NOT_FOUND
        """
        layer = await self.get_layer(name.layer_name)
        for mag in layer.mags:
            if mag.name == name:
                return mag
        raise NotFound(f"{name} does not exist", reason=Reason.MAG_NOT_FOUND)

    async def create_mag(
        self,
        layer: LayerName,
        mag: Mag,
        *,
        block_len: int,
        file_len: int,
        block_type: BlockType,
        exist_ok: bool,
        request_id: str,
    ) -> MagInfo:
        """Add an empty mag, or return one with the same parameters.

        :raises AlreadyExists: it exists
        """
        self._check_writable()
        await self._coordinator.changes.once(
            request_id,
            layer.dataset,
            ("create_mag", layer, mag, block_len, file_len, block_type, exist_ok),
            lambda: self._coordinator.create_mag(
                layer, mag, block_len=block_len, file_len=file_len, block_type=block_type, exist_ok=exist_ok
            ),
        )
        return await self.get_mag(MagName(layer.dataset, layer.layer, mag))

    async def delete_mag(self, name: MagName, *, request_id: str) -> str:
        """Remove a mag from the properties and move its folder to the trash.

        :return: the folder in the trash, relative to the root; empty if the mag had none
        """
        self._check_writable()
        return await self._coordinator.changes.once(
            request_id, name.dataset, ("delete_mag", name), lambda: self._coordinator.delete_mag(name)
        )

    async def _change(
        self, dataset: DatasetName, layer: str | None, edits: list[Edit], etag: str, request_id: str
    ) -> None:
        self._check_writable()
        await self._coordinator.changes.once(
            request_id,
            dataset.dataset,
            ("change", dataset, layer, repr(edits), etag),
            lambda: self._registry.with_dataset(dataset, lambda actor: actor.change(edits, etag=etag, layer=layer)),
        )

    def _facts(self, within: str) -> dict[MagName, MagFacts]:
        return {
            actor.mag_name: facts
            for actor in self._registry.open_mags(within)
            if (facts := actor.facts_if_open()) is not None
        }

    def _check_writable(self) -> None:
        check_writable(self._root)
