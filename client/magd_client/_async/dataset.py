"""A handle of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from magd.v1 import dataset_pb2
from magd_client import answers, convert, methods, names
from magd_client._async.connection import Connection, all_pages, new_request_id
from magd_client._async.layer import Layer
from magd_client.unchanged import UNCHANGED, Unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from magd_client.convert import FlushLevel
    from magd_client.info import Category, DatasetInfo, LayerInfo


class Dataset:
    """One dataset below the daemon's root. A handle: making it does no I/O, and the dataset need not exist."""

    def __init__(self, connection: Connection, dataset: str) -> None:
        self._connection: Final = connection
        self.name: Final = names.dataset_name(dataset)
        """The full resource name."""

    def __repr__(self) -> str:
        return f"<magd_client.Dataset {self.name!r} at {self._connection.address}>"

    def layer(self, layer: str) -> Layer:
        """A handle of one of its layers.

        :raises InvalidRequest: it cannot be the name of a layer
        """
        return Layer(self._connection, self.name, layer)

    async def get_info(self, *, timeout: float | None = None) -> DatasetInfo:
        """What it is, with its layers.

        :raises NotFound: there is no such dataset
        """
        request = dataset_pb2.GetDatasetRequest(name=self.name)
        response = await self._connection.call(methods.GET_DATASET, request, timeout)
        return answers.dataset_info(response.dataset)

    async def list_layers(self, *, timeout: float | None = None) -> list[LayerInfo]:
        """Its layers in the order of its properties, also those that magd does not serve.

        :param timeout: seconds for each page
        :raises NotFound: there is no such dataset
        """

        async def page(token: str) -> tuple[list[LayerInfo], str]:
            request = dataset_pb2.ListLayersRequest(parent=self.name, page_token=token)
            response = await self._connection.call(methods.LIST_LAYERS, request, timeout)
            return [answers.layer_info(layer) for layer in response.layers], response.next_page_token

        return await all_pages(page)

    async def add_layer(
        self,
        layer: str,
        *,
        category: Category = "color",
        dtype: npt.DTypeLike = "uint8",
        num_channels: int = 1,
        exist_ok: bool = False,
        timeout: float | None = None,
    ) -> Layer:
        """Create a layer without mags.

        :param category: "color" or "segmentation"
        :param dtype: of one channel: an integer of 8 to 64 bits, float32 or float64
        :param num_channels: of a voxel; all of them together take at most 255 bytes
        :param exist_ok: returns the layer if it exists with the same parameters
        :raises AlreadyExists: it exists; with `exist_ok`: with other parameters
        :raises InvalidRequest: a parameter is not possible
        """
        handle = self.layer(layer)
        voxels = convert.voxel_format_of(dtype, num_channels)
        request = dataset_pb2.CreateLayerRequest(
            parent=self.name,
            layer_id=layer,
            category=convert.category_to_proto(category),
            data_type=convert.data_type_to_proto(voxels.dtype.name),
            num_channels=voxels.num_channels,
            exist_ok=exist_ok,
            request_id=new_request_id(),
        )
        await self._connection.call(methods.CREATE_LAYER, request, timeout)
        return handle

    async def update(
        self,
        *,
        default_view_configuration: Mapping[str, Any] | Unchanged | None = UNCHANGED,
        etag: str = "",
        timeout: float | None = None,
    ) -> DatasetInfo:
        """Change properties. What is left out stays.

        :param default_view_configuration: None removes it
        :param etag: refuses the change if the dataset has another; empty: no condition
        :raises Conflict: the dataset has another etag
        """
        request = dataset_pb2.UpdateDatasetRequest(name=self.name, etag=etag, request_id=new_request_id())
        if not isinstance(default_view_configuration, Unchanged):
            request.default_view_configuration_json = convert.json_object_to_text(default_view_configuration)
        response = await self._connection.call(methods.UPDATE_DATASET, request, timeout)
        return answers.dataset_info(response.dataset)

    async def delete(self, *, etag: str = "", timeout: float | None = None) -> str:
        """Move it to the trash folder of the root.

        :param etag: refuses if the dataset has another; empty: no condition
        :return: where it went, relative to the root
        :raises NotFound: there is no such dataset
        :raises Conflict: the dataset has another etag, or an operation runs on it
        """
        request = dataset_pb2.DeleteDatasetRequest(name=self.name, etag=etag, request_id=new_request_id())
        response = await self._connection.call(methods.DELETE_DATASET, request, timeout)
        return response.trash_path

    async def flush(self, level: FlushLevel = "files", *, timeout: float | None = None) -> None:
        """Bring everything that was acknowledged before to the disk: see `MagHandle.flush`."""
        await self._connection.flush(self.name, level, timeout)
