from magd.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LayerCategory(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYER_CATEGORY_UNSPECIFIED: _ClassVar[LayerCategory]
    LAYER_CATEGORY_COLOR: _ClassVar[LayerCategory]
    LAYER_CATEGORY_SEGMENTATION: _ClassVar[LayerCategory]
LAYER_CATEGORY_UNSPECIFIED: LayerCategory
LAYER_CATEGORY_COLOR: LayerCategory
LAYER_CATEGORY_SEGMENTATION: LayerCategory

class VoxelSize(_message.Message):
    __slots__ = ("x", "y", "z", "unit")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    z: float
    unit: str
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., z: _Optional[float] = ..., unit: _Optional[str] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "voxel_size", "layers", "default_view_configuration_json", "etag", "unserved_reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VOXEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VIEW_CONFIGURATION_JSON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    UNSERVED_REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    voxel_size: VoxelSize
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    default_view_configuration_json: str
    etag: str
    unserved_reason: str
    def __init__(self, name: _Optional[str] = ..., voxel_size: _Optional[_Union[VoxelSize, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., default_view_configuration_json: _Optional[str] = ..., etag: _Optional[str] = ..., unserved_reason: _Optional[str] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "category", "data_type", "num_channels", "bounding_box", "mags", "largest_segment_id", "default_view_configuration_json", "data_format", "etag", "unserved_reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    BOUNDING_BOX_FIELD_NUMBER: _ClassVar[int]
    MAGS_FIELD_NUMBER: _ClassVar[int]
    LARGEST_SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VIEW_CONFIGURATION_JSON_FIELD_NUMBER: _ClassVar[int]
    DATA_FORMAT_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    UNSERVED_REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    category: LayerCategory
    data_type: _types_pb2.DataType
    num_channels: int
    bounding_box: _types_pb2.BoundingBox
    mags: _containers.RepeatedCompositeFieldContainer[Mag]
    largest_segment_id: int
    default_view_configuration_json: str
    data_format: str
    etag: str
    unserved_reason: str
    def __init__(self, name: _Optional[str] = ..., category: _Optional[_Union[LayerCategory, str]] = ..., data_type: _Optional[_Union[_types_pb2.DataType, str]] = ..., num_channels: _Optional[int] = ..., bounding_box: _Optional[_Union[_types_pb2.BoundingBox, _Mapping]] = ..., mags: _Optional[_Iterable[_Union[Mag, _Mapping]]] = ..., largest_segment_id: _Optional[int] = ..., default_view_configuration_json: _Optional[str] = ..., data_format: _Optional[str] = ..., etag: _Optional[str] = ..., unserved_reason: _Optional[str] = ...) -> None: ...

class Mag(_message.Message):
    __slots__ = ("name", "factor", "block_len", "file_len", "block_type", "data_type", "num_channels", "bounding_box", "revision", "generation", "unserved_reason", "folder")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    BLOCK_LEN_FIELD_NUMBER: _ClassVar[int]
    FILE_LEN_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    BOUNDING_BOX_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    UNSERVED_REASON_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    factor: _types_pb2.Vec3
    block_len: int
    file_len: int
    block_type: _types_pb2.BlockType
    data_type: _types_pb2.DataType
    num_channels: int
    bounding_box: _types_pb2.Box
    revision: _types_pb2.Revision
    generation: int
    unserved_reason: str
    folder: str
    def __init__(self, name: _Optional[str] = ..., factor: _Optional[_Union[_types_pb2.Vec3, _Mapping]] = ..., block_len: _Optional[int] = ..., file_len: _Optional[int] = ..., block_type: _Optional[_Union[_types_pb2.BlockType, str]] = ..., data_type: _Optional[_Union[_types_pb2.DataType, str]] = ..., num_channels: _Optional[int] = ..., bounding_box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ..., revision: _Optional[_Union[_types_pb2.Revision, _Mapping]] = ..., generation: _Optional[int] = ..., unserved_reason: _Optional[str] = ..., folder: _Optional[str] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    next_page_token: str
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetDatasetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class CreateDatasetRequest(_message.Message):
    __slots__ = ("dataset_id", "voxel_size", "exist_ok", "request_id")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    VOXEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    EXIST_OK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    dataset_id: str
    voxel_size: VoxelSize
    exist_ok: bool
    request_id: str
    def __init__(self, dataset_id: _Optional[str] = ..., voxel_size: _Optional[_Union[VoxelSize, _Mapping]] = ..., exist_ok: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class UpdateDatasetRequest(_message.Message):
    __slots__ = ("name", "etag", "default_view_configuration_json", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VIEW_CONFIGURATION_JSON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    default_view_configuration_json: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., default_view_configuration_json: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class UpdateDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class DeleteDatasetRequest(_message.Message):
    __slots__ = ("name", "etag", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteDatasetResponse(_message.Message):
    __slots__ = ("trash_path",)
    TRASH_PATH_FIELD_NUMBER: _ClassVar[int]
    trash_path: str
    def __init__(self, trash_path: _Optional[str] = ...) -> None: ...

class ListLayersRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLayersResponse(_message.Message):
    __slots__ = ("layers", "next_page_token")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    next_page_token: str
    def __init__(self, layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetLayerRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetLayerResponse(_message.Message):
    __slots__ = ("layer",)
    LAYER_FIELD_NUMBER: _ClassVar[int]
    layer: Layer
    def __init__(self, layer: _Optional[_Union[Layer, _Mapping]] = ...) -> None: ...

class CreateLayerRequest(_message.Message):
    __slots__ = ("parent", "layer_id", "category", "data_type", "num_channels", "exist_ok", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    LAYER_ID_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    EXIST_OK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    layer_id: str
    category: LayerCategory
    data_type: _types_pb2.DataType
    num_channels: int
    exist_ok: bool
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., layer_id: _Optional[str] = ..., category: _Optional[_Union[LayerCategory, str]] = ..., data_type: _Optional[_Union[_types_pb2.DataType, str]] = ..., num_channels: _Optional[int] = ..., exist_ok: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateLayerResponse(_message.Message):
    __slots__ = ("layer",)
    LAYER_FIELD_NUMBER: _ClassVar[int]
    layer: Layer
    def __init__(self, layer: _Optional[_Union[Layer, _Mapping]] = ...) -> None: ...

class UpdateLayerRequest(_message.Message):
    __slots__ = ("name", "etag", "bounding_box", "default_view_configuration_json", "largest_segment_id", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    BOUNDING_BOX_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VIEW_CONFIGURATION_JSON_FIELD_NUMBER: _ClassVar[int]
    LARGEST_SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    bounding_box: _types_pb2.BoundingBox
    default_view_configuration_json: str
    largest_segment_id: int
    request_id: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., bounding_box: _Optional[_Union[_types_pb2.BoundingBox, _Mapping]] = ..., default_view_configuration_json: _Optional[str] = ..., largest_segment_id: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class UpdateLayerResponse(_message.Message):
    __slots__ = ("layer",)
    LAYER_FIELD_NUMBER: _ClassVar[int]
    layer: Layer
    def __init__(self, layer: _Optional[_Union[Layer, _Mapping]] = ...) -> None: ...

class RenameLayerRequest(_message.Message):
    __slots__ = ("name", "new_layer_id", "etag", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NEW_LAYER_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    new_layer_id: str
    etag: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., new_layer_id: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class RenameLayerResponse(_message.Message):
    __slots__ = ("layer",)
    LAYER_FIELD_NUMBER: _ClassVar[int]
    layer: Layer
    def __init__(self, layer: _Optional[_Union[Layer, _Mapping]] = ...) -> None: ...

class DeleteLayerRequest(_message.Message):
    __slots__ = ("name", "etag", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteLayerResponse(_message.Message):
    __slots__ = ("trash_path",)
    TRASH_PATH_FIELD_NUMBER: _ClassVar[int]
    trash_path: str
    def __init__(self, trash_path: _Optional[str] = ...) -> None: ...

class ListMagsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMagsResponse(_message.Message):
    __slots__ = ("mags", "next_page_token")
    MAGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    mags: _containers.RepeatedCompositeFieldContainer[Mag]
    next_page_token: str
    def __init__(self, mags: _Optional[_Iterable[_Union[Mag, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetMagRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetMagResponse(_message.Message):
    __slots__ = ("mag",)
    MAG_FIELD_NUMBER: _ClassVar[int]
    mag: Mag
    def __init__(self, mag: _Optional[_Union[Mag, _Mapping]] = ...) -> None: ...

class CreateMagRequest(_message.Message):
    __slots__ = ("parent", "factor", "block_len", "file_len", "block_type", "exist_ok", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    BLOCK_LEN_FIELD_NUMBER: _ClassVar[int]
    FILE_LEN_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXIST_OK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    factor: _types_pb2.Vec3
    block_len: int
    file_len: int
    block_type: _types_pb2.BlockType
    exist_ok: bool
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., factor: _Optional[_Union[_types_pb2.Vec3, _Mapping]] = ..., block_len: _Optional[int] = ..., file_len: _Optional[int] = ..., block_type: _Optional[_Union[_types_pb2.BlockType, str]] = ..., exist_ok: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateMagResponse(_message.Message):
    __slots__ = ("mag",)
    MAG_FIELD_NUMBER: _ClassVar[int]
    mag: Mag
    def __init__(self, mag: _Optional[_Union[Mag, _Mapping]] = ...) -> None: ...

class DeleteMagRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteMagResponse(_message.Message):
    __slots__ = ("trash_path",)
    TRASH_PATH_FIELD_NUMBER: _ClassVar[int]
    trash_path: str
    def __init__(self, trash_path: _Optional[str] = ...) -> None: ...

class ListCubeFilesRequest(_message.Message):
    __slots__ = ("name", "box")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    name: str
    box: _types_pb2.Box
    def __init__(self, name: _Optional[str] = ..., box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ...) -> None: ...

class CubeFile(_message.Message):
    __slots__ = ("box", "size_bytes", "allocated_bytes", "block_type", "pending", "path")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TYPE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    box: _types_pb2.Box
    size_bytes: int
    allocated_bytes: int
    block_type: _types_pb2.BlockType
    pending: bool
    path: str
    def __init__(self, box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ..., size_bytes: _Optional[int] = ..., allocated_bytes: _Optional[int] = ..., block_type: _Optional[_Union[_types_pb2.BlockType, str]] = ..., pending: bool = ..., path: _Optional[str] = ...) -> None: ...

class ListCubeFilesResponse(_message.Message):
    __slots__ = ("cube_files",)
    CUBE_FILES_FIELD_NUMBER: _ClassVar[int]
    cube_files: _containers.RepeatedCompositeFieldContainer[CubeFile]
    def __init__(self, cube_files: _Optional[_Iterable[_Union[CubeFile, _Mapping]]] = ...) -> None: ...
