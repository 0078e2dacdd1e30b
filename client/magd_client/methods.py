"""Every call of the interface: its path, and how its messages become bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from google.protobuf.message import Message

from magd.framing import ReadBatchFrame, ReadFrame, WriteBatchFrame, WriteFrame
from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, volume_pb2, watch_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

Request = TypeVar("Request")
Response = TypeVar("Response")
_RequestMessage = TypeVar("_RequestMessage", bound=Message)
_ResponseMessage = TypeVar("_ResponseMessage", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """One call."""

    path: str
    serialize: Callable[[Request], bytes]
    deserialize: Callable[[bytes], Response]


def _method(
    path: str, request: type[_RequestMessage], response: type[_ResponseMessage]
) -> Method[_RequestMessage, _ResponseMessage]:
    return Method(f"/magd.v1.{path}", request.SerializeToString, response.FromString)


LIST_DATASETS: Final = _method(
    "DatasetService/ListDatasets", dataset_pb2.ListDatasetsRequest, dataset_pb2.ListDatasetsResponse
)
GET_DATASET: Final = _method("DatasetService/GetDataset", dataset_pb2.GetDatasetRequest, dataset_pb2.GetDatasetResponse)
CREATE_DATASET: Final = _method(
    "DatasetService/CreateDataset", dataset_pb2.CreateDatasetRequest, dataset_pb2.CreateDatasetResponse
)
UPDATE_DATASET: Final = _method(
    "DatasetService/UpdateDataset", dataset_pb2.UpdateDatasetRequest, dataset_pb2.UpdateDatasetResponse
)
DELETE_DATASET: Final = _method(
    "DatasetService/DeleteDataset", dataset_pb2.DeleteDatasetRequest, dataset_pb2.DeleteDatasetResponse
)
LIST_LAYERS: Final = _method("DatasetService/ListLayers", dataset_pb2.ListLayersRequest, dataset_pb2.ListLayersResponse)
GET_LAYER: Final = _method("DatasetService/GetLayer", dataset_pb2.GetLayerRequest, dataset_pb2.GetLayerResponse)
CREATE_LAYER: Final = _method(
    "DatasetService/CreateLayer", dataset_pb2.CreateLayerRequest, dataset_pb2.CreateLayerResponse
)
UPDATE_LAYER: Final = _method(
    "DatasetService/UpdateLayer", dataset_pb2.UpdateLayerRequest, dataset_pb2.UpdateLayerResponse
)
RENAME_LAYER: Final = _method(
    "DatasetService/RenameLayer", dataset_pb2.RenameLayerRequest, dataset_pb2.RenameLayerResponse
)
DELETE_LAYER: Final = _method(
    "DatasetService/DeleteLayer", dataset_pb2.DeleteLayerRequest, dataset_pb2.DeleteLayerResponse
)
LIST_MAGS: Final = _method("DatasetService/ListMags", dataset_pb2.ListMagsRequest, dataset_pb2.ListMagsResponse)
GET_MAG: Final = _method("DatasetService/GetMag", dataset_pb2.GetMagRequest, dataset_pb2.GetMagResponse)
CREATE_MAG: Final = _method("DatasetService/CreateMag", dataset_pb2.CreateMagRequest, dataset_pb2.CreateMagResponse)
DELETE_MAG: Final = _method("DatasetService/DeleteMag", dataset_pb2.DeleteMagRequest, dataset_pb2.DeleteMagResponse)
LIST_CUBE_FILES: Final = _method(
    "DatasetService/ListCubeFiles", dataset_pb2.ListCubeFilesRequest, dataset_pb2.ListCubeFilesResponse
)
COMPRESS_MAG: Final = _method(
    "OperationService/CompressMag", operation_pb2.CompressMagRequest, operation_pb2.CompressMagResponse
)
DECOMPRESS_MAG: Final = _method(
    "OperationService/DecompressMag", operation_pb2.DecompressMagRequest, operation_pb2.DecompressMagResponse
)
RECHUNK_MAG: Final = _method(
    "OperationService/RechunkMag", operation_pb2.RechunkMagRequest, operation_pb2.RechunkMagResponse
)
DOWNSAMPLE_LAYER: Final = _method(
    "OperationService/DownsampleLayer", operation_pb2.DownsampleLayerRequest, operation_pb2.DownsampleLayerResponse
)
GET_OPERATION: Final = _method(
    "OperationService/GetOperation", operation_pb2.GetOperationRequest, operation_pb2.GetOperationResponse
)
LIST_OPERATIONS: Final = _method(
    "OperationService/ListOperations", operation_pb2.ListOperationsRequest, operation_pb2.ListOperationsResponse
)
WATCH_OPERATION: Final = _method(
    "OperationService/WatchOperation", operation_pb2.WatchOperationRequest, operation_pb2.WatchOperationResponse
)
CANCEL_OPERATION: Final = _method(
    "OperationService/CancelOperation", operation_pb2.CancelOperationRequest, operation_pb2.CancelOperationResponse
)
WATCH: Final = _method("WatchService/Watch", watch_pb2.WatchRequest, watch_pb2.WatchResponse)
GET_SERVER_INFO: Final = _method(
    "MaintenanceService/GetServerInfo", maintenance_pb2.GetServerInfoRequest, maintenance_pb2.GetServerInfoResponse
)
GET_STATUS: Final = _method(
    "MaintenanceService/GetStatus", maintenance_pb2.GetStatusRequest, maintenance_pb2.GetStatusResponse
)
FLUSH: Final = _method("MaintenanceService/Flush", maintenance_pb2.FlushRequest, maintenance_pb2.FlushResponse)
CHECK: Final = _method("MaintenanceService/Check", maintenance_pb2.CheckRequest, maintenance_pb2.CheckResponse)
REOPEN_MAG: Final = _method(
    "MaintenanceService/ReopenMag", maintenance_pb2.ReopenMagRequest, maintenance_pb2.ReopenMagResponse
)
WRITE_BOX: Final = Method("/magd.v1.VolumeService/WriteBox", WriteFrame.encode, volume_pb2.WriteBoxResponse.FromString)
READ_BOX: Final = Method(
    "/magd.v1.VolumeService/ReadBox", volume_pb2.ReadBoxRequest.SerializeToString, ReadFrame.decode
)
SHARE_MEMORY: Final = _method(
    "VolumeService/ShareMemory", volume_pb2.ShareMemoryRequest, volume_pb2.ShareMemoryResponse
)
WRITE_BOX_BATCH: Final = Method(
    "/magd.v1.VolumeService/WriteBoxBatch", WriteBatchFrame.encode, volume_pb2.WriteBoxBatchResponse.FromString
)
READ_BOX_BATCH: Final = Method(
    "/magd.v1.VolumeService/ReadBoxBatch", volume_pb2.ReadBoxBatchRequest.SerializeToString, ReadBatchFrame.decode
)
