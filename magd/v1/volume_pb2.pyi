from magd.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Bounds(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOUNDS_UNSPECIFIED: _ClassVar[Bounds]
    BOUNDS_EXTEND: _ClassVar[Bounds]
    BOUNDS_REJECT: _ClassVar[Bounds]

class Mask(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASK_UNSPECIFIED: _ClassVar[Mask]
    MASK_ALL: _ClassVar[Mask]
    MASK_NONZERO: _ClassVar[Mask]
BOUNDS_UNSPECIFIED: Bounds
BOUNDS_EXTEND: Bounds
BOUNDS_REJECT: Bounds
MASK_UNSPECIFIED: Mask
MASK_ALL: Mask
MASK_NONZERO: Mask

class SharedMemory(_message.Message):
    __slots__ = ("region", "offset", "size")
    REGION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    region: str
    offset: int
    size: int
    def __init__(self, region: _Optional[str] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class WriteBoxRequest(_message.Message):
    __slots__ = ("name", "box", "data_type", "num_channels", "durability", "bounds", "request_id", "order", "encoding", "crc32c", "if_revision", "mask", "shared_memory", "decoded_size", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    DECODED_SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    box: _types_pb2.Box
    data_type: _types_pb2.DataType
    num_channels: int
    durability: _types_pb2.Durability
    bounds: Bounds
    request_id: str
    order: _types_pb2.Order
    encoding: _types_pb2.Encoding
    crc32c: int
    if_revision: _types_pb2.Revision
    mask: Mask
    shared_memory: SharedMemory
    decoded_size: int
    data: bytes
    def __init__(self, name: _Optional[str] = ..., box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ..., data_type: _Optional[_Union[_types_pb2.DataType, str]] = ..., num_channels: _Optional[int] = ..., durability: _Optional[_Union[_types_pb2.Durability, str]] = ..., bounds: _Optional[_Union[Bounds, str]] = ..., request_id: _Optional[str] = ..., order: _Optional[_Union[_types_pb2.Order, str]] = ..., encoding: _Optional[_Union[_types_pb2.Encoding, str]] = ..., crc32c: _Optional[int] = ..., if_revision: _Optional[_Union[_types_pb2.Revision, _Mapping]] = ..., mask: _Optional[_Union[Mask, str]] = ..., shared_memory: _Optional[_Union[SharedMemory, _Mapping]] = ..., decoded_size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteBoxResponse(_message.Message):
    __slots__ = ("revision", "durability")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    revision: _types_pb2.Revision
    durability: _types_pb2.Durability
    def __init__(self, revision: _Optional[_Union[_types_pb2.Revision, _Mapping]] = ..., durability: _Optional[_Union[_types_pb2.Durability, str]] = ...) -> None: ...

class ReadBoxRequest(_message.Message):
    __slots__ = ("name", "box", "order", "encoding", "shared_memory")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    name: str
    box: _types_pb2.Box
    order: _types_pb2.Order
    encoding: _types_pb2.Encoding
    shared_memory: SharedMemory
    def __init__(self, name: _Optional[str] = ..., box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ..., order: _Optional[_Union[_types_pb2.Order, str]] = ..., encoding: _Optional[_Union[_types_pb2.Encoding, str]] = ..., shared_memory: _Optional[_Union[SharedMemory, _Mapping]] = ...) -> None: ...

class ReadBoxResponse(_message.Message):
    __slots__ = ("box", "data_type", "num_channels", "revision", "order", "encoding", "crc32c", "shared_memory", "decoded_size", "data")
    BOX_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    DECODED_SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    box: _types_pb2.Box
    data_type: _types_pb2.DataType
    num_channels: int
    revision: _types_pb2.Revision
    order: _types_pb2.Order
    encoding: _types_pb2.Encoding
    crc32c: int
    shared_memory: SharedMemory
    decoded_size: int
    data: bytes
    def __init__(self, box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ..., data_type: _Optional[_Union[_types_pb2.DataType, str]] = ..., num_channels: _Optional[int] = ..., revision: _Optional[_Union[_types_pb2.Revision, _Mapping]] = ..., order: _Optional[_Union[_types_pb2.Order, str]] = ..., encoding: _Optional[_Union[_types_pb2.Encoding, str]] = ..., crc32c: _Optional[int] = ..., shared_memory: _Optional[_Union[SharedMemory, _Mapping]] = ..., decoded_size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BoxError(_message.Message):
    __slots__ = ("code", "reason", "message", "metadata", "retry_delay_ms")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    metadata: _containers.ScalarMap[str, str]
    retry_delay_ms: int
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., retry_delay_ms: _Optional[int] = ...) -> None: ...

class WriteBoxBatchRequest(_message.Message):
    __slots__ = ("boxes",)
    BOXES_FIELD_NUMBER: _ClassVar[int]
    boxes: _containers.RepeatedCompositeFieldContainer[WriteBoxRequest]
    def __init__(self, boxes: _Optional[_Iterable[_Union[WriteBoxRequest, _Mapping]]] = ...) -> None: ...

class WriteBoxBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WriteBoxesResponse]
    def __init__(self, results: _Optional[_Iterable[_Union[WriteBoxesResponse, _Mapping]]] = ...) -> None: ...

class ReadBoxBatchRequest(_message.Message):
    __slots__ = ("boxes",)
    BOXES_FIELD_NUMBER: _ClassVar[int]
    boxes: _containers.RepeatedCompositeFieldContainer[ReadBoxRequest]
    def __init__(self, boxes: _Optional[_Iterable[_Union[ReadBoxRequest, _Mapping]]] = ...) -> None: ...

class ReadBoxBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ReadBoxesResponse]
    def __init__(self, results: _Optional[_Iterable[_Union[ReadBoxesResponse, _Mapping]]] = ...) -> None: ...

class WriteBoxesRequest(_message.Message):
    __slots__ = ("index", "box", "more")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    index: int
    box: WriteBoxRequest
    more: _containers.RepeatedCompositeFieldContainer[WriteBoxesRequest]
    def __init__(self, index: _Optional[int] = ..., box: _Optional[_Union[WriteBoxRequest, _Mapping]] = ..., more: _Optional[_Iterable[_Union[WriteBoxesRequest, _Mapping]]] = ...) -> None: ...

class WriteBoxesResponse(_message.Message):
    __slots__ = ("index", "acknowledgement", "error", "more")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    index: int
    acknowledgement: WriteBoxResponse
    error: BoxError
    more: _containers.RepeatedCompositeFieldContainer[WriteBoxesResponse]
    def __init__(self, index: _Optional[int] = ..., acknowledgement: _Optional[_Union[WriteBoxResponse, _Mapping]] = ..., error: _Optional[_Union[BoxError, _Mapping]] = ..., more: _Optional[_Iterable[_Union[WriteBoxesResponse, _Mapping]]] = ...) -> None: ...

class ReadBoxesRequest(_message.Message):
    __slots__ = ("index", "box", "more")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    index: int
    box: ReadBoxRequest
    more: _containers.RepeatedCompositeFieldContainer[ReadBoxesRequest]
    def __init__(self, index: _Optional[int] = ..., box: _Optional[_Union[ReadBoxRequest, _Mapping]] = ..., more: _Optional[_Iterable[_Union[ReadBoxesRequest, _Mapping]]] = ...) -> None: ...

class ReadBoxesResponse(_message.Message):
    __slots__ = ("index", "box", "error", "more")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    index: int
    box: ReadBoxResponse
    error: BoxError
    more: _containers.RepeatedCompositeFieldContainer[ReadBoxesResponse]
    def __init__(self, index: _Optional[int] = ..., box: _Optional[_Union[ReadBoxResponse, _Mapping]] = ..., error: _Optional[_Union[BoxError, _Mapping]] = ..., more: _Optional[_Iterable[_Union[ReadBoxesResponse, _Mapping]]] = ...) -> None: ...

class ShareMemoryRequest(_message.Message):
    __slots__ = ("lease_bytes", "release")
    LEASE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    lease_bytes: int
    release: str
    def __init__(self, lease_bytes: _Optional[int] = ..., release: _Optional[str] = ...) -> None: ...

class ShareMemoryResponse(_message.Message):
    __slots__ = ("region", "path", "size_bytes")
    REGION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    region: str
    path: str
    size_bytes: int
    def __init__(self, region: _Optional[str] = ..., path: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...
