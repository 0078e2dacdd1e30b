"""What callers see of datasets, layers and mags, put together from properties, headers and actors. Blocking.

A resource that magd cannot serve is shown with the reason, never left out: a list that hides what is broken would be
taken for all there is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from magd.actors.opening import header_of
from magd.actors.types import DatasetInfo, LayerInfo, MagInfo
from magd.catalog.names import DatasetName, LayerName, MagName
from magd.errors import MagdError
from magd.properties.tree import layer_etag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magd.actors.messages import MagFacts
    from magd.catalog.root import Root
    from magd.geometry import Box
    from magd.properties.file import Snapshot
    from magd.properties.model import LayerProperties, MagProperties


class Views:
    """Makes infos of the datasets below one root."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def dataset(
        self,
        name: DatasetName,
        snapshot: Snapshot,
        facts: Mapping[MagName, MagFacts],
        *,
        with_layers: bool = True,
    ) -> DatasetInfo:
        """One dataset.

        :param facts: of the mags in use; the others are described by their header.wkw
        """
        properties = snapshot.properties
        layers = (self.layer(name, snapshot, layer, facts) for layer in properties.layers) if with_layers else ()
        return DatasetInfo(
            name=name,
            voxel_size=properties.voxel_size,
            layers=tuple(layers),
            default_view_configuration=properties.default_view_configuration,
            etag=snapshot.etag,
            unserved_reason=None,
        )

    def unserved_dataset(self, name: DatasetName, error: MagdError) -> DatasetInfo:
        """A dataset that cannot be read."""
        return DatasetInfo(
            name=name,
            voxel_size=None,
            layers=(),
            default_view_configuration=None,
            etag="",
            unserved_reason=error.message,
        )

    def layer(
        self,
        dataset: DatasetName,
        snapshot: Snapshot,
        layer: LayerProperties,
        facts: Mapping[MagName, MagFacts],
    ) -> LayerInfo:
        """One layer with its mags."""
        name = LayerName(dataset.dataset, layer.name)
        return LayerInfo(
            name=name,
            category=layer.category,
            voxels=layer.voxels,
            bounding_box=layer.bounding_box,
            data_format=layer.data_format,
            mags=tuple(self.mag(name, layer, mag, facts) for mag in layer.mags),
            largest_segment_id=layer.largest_segment_id,
            default_view_configuration=layer.default_view_configuration,
            etag=layer_etag(snapshot.tree, layer.name),
            unserved_reason=layer.unserved_reason,
        )

    def mag(
        self,
        layer_name: LayerName,
        layer: LayerProperties,
        mag: MagProperties,
        facts: Mapping[MagName, MagFacts],
    ) -> MagInfo:
        """One mag."""
        name = MagName(layer_name.dataset, layer_name.layer, mag.mag)
        bounding_box = layer.bounding_box.in_mag(mag.mag)
        dataset_folder = self._root.dataset_folder(layer_name.dataset_name)
        known = facts.get(name)
        try:
            if known is not None:
                folder, header = known.folder, known.header
            else:
                reason = layer.unserved_reason or mag.unserved_reason
                if reason:
                    return _unserved_mag(name, mag, bounding_box, reason)
                folder = self._root.mag_folder(layer_name.dataset_name, layer, mag)
                header = header_of(folder)
        except MagdError as error:
            return _unserved_mag(name, mag, bounding_box, error.message)
        return MagInfo(
            name=name,
            folder=os.path.relpath(folder, dataset_folder),
            voxels=header.voxels,
            block_len=header.block_len,
            file_len=header.file_len,
            block_type=header.block_type,
            bounding_box=bounding_box,
            revision=known.revision if known else None,
            generation=known.generation if known else None,
            unserved_reason=None,
        )


def _unserved_mag(name: MagName, mag: MagProperties, bounding_box: Box, reason: str) -> MagInfo:
    return MagInfo(
        name=name,
        folder=mag.path or "",
        voxels=None,
        block_len=0,
        file_len=0,
        block_type=None,
        bounding_box=bounding_box,
        revision=None,
        generation=None,
        unserved_reason=reason,
    )
