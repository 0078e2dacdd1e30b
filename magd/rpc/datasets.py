"""Datasets, layers and mags: magd.v1.DatasetService."""

# ruff: noqa: ARG002, N802  # names and arguments of the methods are those of the protos

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from magd.actors.types import UNCHANGED
from magd.catalog.names import DatasetName, LayerName, MagName
from magd.rpc import from_proto, to_proto
from magd.rpc.from_proto import invalid
from magd.v1 import dataset_pb2
from magd.v1.dataset_pb2_grpc import DatasetServiceServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from magd.actors.storage import Storage
    from magd.actors.types import LayerInfo, MagInfo
    from magd.rpc.interceptors import Context

DEFAULT_BLOCK_LEN: Final = 32
DEFAULT_FILE_LEN: Final = 32

InfoT = TypeVar("InfoT", "LayerInfo", "MagInfo")


class DatasetService(DatasetServiceServicer):
    """magd.v1.DatasetService."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def ListDatasets(
        self, request: dataset_pb2.ListDatasetsRequest, context: Context
    ) -> dataset_pb2.ListDatasetsResponse:
        """One page of the datasets."""
        limit = from_proto.page_size(request.page_size)
        after = from_proto.page_start("datasets", request.page_token)
        # One more than asked for tells whether there is a next page.
        infos = await self._storage.hierarchy.list_datasets(limit=limit + 1, after=after)
        page = infos[:limit]
        return dataset_pb2.ListDatasetsResponse(
            datasets=[to_proto.dataset(info) for info in page],
            next_page_token=from_proto.page_token("datasets", page[-1].name.dataset) if infos[limit:] else "",
        )

    async def GetDataset(
        self, request: dataset_pb2.GetDatasetRequest, context: Context
    ) -> dataset_pb2.GetDatasetResponse:
        """One dataset."""
        info = await self._storage.hierarchy.get_dataset(DatasetName.parse(request.name))
        return dataset_pb2.GetDatasetResponse(dataset=to_proto.dataset(info))

    async def CreateDataset(
        self, request: dataset_pb2.CreateDatasetRequest, context: Context
    ) -> dataset_pb2.CreateDatasetResponse:
        """Create a dataset."""
        info = await self._storage.hierarchy.create_dataset(
            request.dataset_id,
            from_proto.voxel_size(request.voxel_size),
            exist_ok=request.exist_ok,
            request_id=from_proto.request_id(request.request_id),
        )
        return dataset_pb2.CreateDatasetResponse(dataset=to_proto.dataset(info))

    async def UpdateDataset(
        self, request: dataset_pb2.UpdateDatasetRequest, context: Context
    ) -> dataset_pb2.UpdateDatasetResponse:
        """Change properties of a dataset."""
        info = await self._storage.hierarchy.update_dataset(
            DatasetName.parse(request.name),
            etag=request.etag,
            default_view_configuration=from_proto.json_object(request, "default_view_configuration_json"),
            request_id=from_proto.request_id(request.request_id),
        )
        return dataset_pb2.UpdateDatasetResponse(dataset=to_proto.dataset(info))

    async def DeleteDataset(
        self, request: dataset_pb2.DeleteDatasetRequest, context: Context
    ) -> dataset_pb2.DeleteDatasetResponse:
        """Move a dataset to the trash."""
        trash_path = await self._storage.hierarchy.delete_dataset(
            DatasetName.parse(request.name),
            etag=request.etag,
            request_id=from_proto.request_id(request.request_id),
        )
        return dataset_pb2.DeleteDatasetResponse(trash_path=trash_path)

    async def ListLayers(
        self, request: dataset_pb2.ListLayersRequest, context: Context
    ) -> dataset_pb2.ListLayersResponse:
        """One page of the layers of a dataset."""
        info = await self._storage.hierarchy.get_dataset(DatasetName.parse(request.parent, field="parent"))
        page, token = _page(request.parent, info.layers, request.page_size, request.page_token)
        return dataset_pb2.ListLayersResponse(layers=[to_proto.layer(each) for each in page], next_page_token=token)

    async def GetLayer(self, request: dataset_pb2.GetLayerRequest, context: Context) -> dataset_pb2.GetLayerResponse:
        """One layer."""
        info = await self._storage.hierarchy.get_layer(LayerName.parse(request.name))
        return dataset_pb2.GetLayerResponse(layer=to_proto.layer(info))

    async def CreateLayer(
        self, request: dataset_pb2.CreateLayerRequest, context: Context
    ) -> dataset_pb2.CreateLayerResponse:
        """Create a layer without mags."""
        num_channels = request.num_channels or 1
        info = await self._storage.hierarchy.create_layer(
            DatasetName.parse(request.parent, field="parent"),
            request.layer_id,
            from_proto.category(request.category),
            from_proto.voxel_format(request.data_type, num_channels),
            exist_ok=request.exist_ok,
            request_id=from_proto.request_id(request.request_id),
        )
        return dataset_pb2.CreateLayerResponse(layer=to_proto.layer(info))

    async def UpdateLayer(
        self, request: dataset_pb2.UpdateLayerRequest, context: Context
    ) -> dataset_pb2.UpdateLayerResponse:
        """Change properties of a layer."""
        has_box, has_segment_id = request.HasField("bounding_box"), request.HasField("largest_segment_id")
        info = await self._storage.hierarchy.update_layer(
            LayerName.parse(request.name),
            etag=request.etag,
            bounding_box=(from_proto.bounding_box(request.bounding_box, "bounding_box") if has_box else UNCHANGED),
            default_view_configuration=from_proto.json_object(request, "default_view_configuration_json"),
            largest_segment_id=request.largest_segment_id if has_segment_id else UNCHANGED,
            request_id=from_proto.request_id(request.request_id),
        )
        return dataset_pb2.UpdateLayerResponse(layer=to_proto.layer(info))

    async def RenameLayer(
        self, request: dataset_pb2.RenameLayerRequest, context: Context
    ) -> dataset_pb2.RenameLayerResponse:
        """Rename a layer."""
        info = await self._storage.hierarchy.rename_layer(
            LayerName.parse(request.name),
            request.new_layer_id,
            etag=request.etag,
            request_id=from_proto.request_id(request.request_id),
        )
        return dataset_pb2.RenameLayerResponse(layer=to_proto.layer(info))

    async def DeleteLayer(
        self, request: dataset_pb2.DeleteLayerRequest, context: Context
    ) -> dataset_pb2.DeleteLayerResponse:
        """Move a layer to the trash."""
        trash_path = await self._storage.hierarchy.delete_layer(
            LayerName.parse(request.name),
            etag=request.etag,
            request_id=from_proto.request_id(request.request_id),
        )
        return dataset_pb2.DeleteLayerResponse(trash_path=trash_path)

    async def ListMags(self, request: dataset_pb2.ListMagsRequest, context: Context) -> dataset_pb2.ListMagsResponse:
        """One page of the mags of a layer."""
        info = await self._storage.hierarchy.get_layer(LayerName.parse(request.parent, field="parent"))
        page, token = _page(request.parent, info.mags, request.page_size, request.page_token)
        return dataset_pb2.ListMagsResponse(mags=[to_proto.mag(each) for each in page], next_page_token=token)

    async def GetMag(self, request: dataset_pb2.GetMagRequest, context: Context) -> dataset_pb2.GetMagResponse:
        """One mag."""
        info = await self._storage.hierarchy.get_mag(MagName.parse(request.name))
        return dataset_pb2.GetMagResponse(mag=to_proto.mag(info))

    async def CreateMag(self, request: dataset_pb2.CreateMagRequest, context: Context) -> dataset_pb2.CreateMagResponse:
        """Create an empty mag."""
        info = await self._storage.hierarchy.create_mag(
            LayerName.parse(request.parent, field="parent"),
            from_proto.mag(request.factor),
            block_len=request.block_len or DEFAULT_BLOCK_LEN,
            file_len=request.file_len or DEFAULT_FILE_LEN,
            block_type=from_proto.block_type(request.block_type),
            exist_ok=request.exist_ok,
            request_id=from_proto.request_id(request.request_id),
        )
        return dataset_pb2.CreateMagResponse(mag=to_proto.mag(info))

    async def DeleteMag(self, request: dataset_pb2.DeleteMagRequest, context: Context) -> dataset_pb2.DeleteMagResponse:
        """Move a mag to the trash."""
        trash_path = await self._storage.hierarchy.delete_mag(
            MagName.parse(request.name), request_id=from_proto.request_id(request.request_id)
        )
        return dataset_pb2.DeleteMagResponse(trash_path=trash_path)

    async def ListCubeFiles(
        self, request: dataset_pb2.ListCubeFilesRequest, context: Context
    ) -> AsyncIterator[dataset_pb2.ListCubeFilesResponse]:
        """The cube files of a mag."""
        name, box = MagName.parse(request.name), from_proto.optional_box(request)
        async for infos in self._storage.volume.cube_files(name, box):
            yield dataset_pb2.ListCubeFilesResponse(cube_files=[to_proto.cube_file(info) for info in infos])


def _page(listing: str, infos: Sequence[InfoT], size: int, token: str) -> tuple[Sequence[InfoT], str]:
    """One page of a list that is there as a whole, and the token of the next page."""
    limit = from_proto.page_size(size)
    last = from_proto.page_start(listing, token)
    start = 0
    if last is not None:
        names = [str(info.name) for info in infos]
        if last not in names:
            raise invalid("page_token", token, f"{last}, where the page before ended, is gone; list again")
        start = names.index(last) + 1
    page = infos[start : start + limit]
    more = start + limit < len(infos)
    return page, from_proto.page_token(listing, str(page[-1].name)) if more else ""
