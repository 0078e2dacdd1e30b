from google.protobuf import timestamp_pb2 as _timestamp_pb2
from magd.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OperationKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_KIND_UNSPECIFIED: _ClassVar[OperationKind]
    OPERATION_KIND_COMPRESS: _ClassVar[OperationKind]
    OPERATION_KIND_DECOMPRESS: _ClassVar[OperationKind]
    OPERATION_KIND_RECHUNK: _ClassVar[OperationKind]
    OPERATION_KIND_DOWNSAMPLE: _ClassVar[OperationKind]

class OperationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_STATE_UNSPECIFIED: _ClassVar[OperationState]
    OPERATION_STATE_PENDING: _ClassVar[OperationState]
    OPERATION_STATE_RUNNING: _ClassVar[OperationState]
    OPERATION_STATE_SUCCEEDED: _ClassVar[OperationState]
    OPERATION_STATE_FAILED: _ClassVar[OperationState]
    OPERATION_STATE_CANCELLED: _ClassVar[OperationState]

class DownsamplingMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOWNSAMPLING_METHOD_UNSPECIFIED: _ClassVar[DownsamplingMethod]
    DOWNSAMPLING_METHOD_MEDIAN: _ClassVar[DownsamplingMethod]
    DOWNSAMPLING_METHOD_MEAN: _ClassVar[DownsamplingMethod]
    DOWNSAMPLING_METHOD_MODE: _ClassVar[DownsamplingMethod]
    DOWNSAMPLING_METHOD_NEAREST: _ClassVar[DownsamplingMethod]

class SamplingMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLING_MODE_UNSPECIFIED: _ClassVar[SamplingMode]
    SAMPLING_MODE_ANISOTROPIC: _ClassVar[SamplingMode]
    SAMPLING_MODE_ISOTROPIC: _ClassVar[SamplingMode]
    SAMPLING_MODE_CONSTANT_Z: _ClassVar[SamplingMode]
OPERATION_KIND_UNSPECIFIED: OperationKind
OPERATION_KIND_COMPRESS: OperationKind
OPERATION_KIND_DECOMPRESS: OperationKind
OPERATION_KIND_RECHUNK: OperationKind
OPERATION_KIND_DOWNSAMPLE: OperationKind
OPERATION_STATE_UNSPECIFIED: OperationState
OPERATION_STATE_PENDING: OperationState
OPERATION_STATE_RUNNING: OperationState
OPERATION_STATE_SUCCEEDED: OperationState
OPERATION_STATE_FAILED: OperationState
OPERATION_STATE_CANCELLED: OperationState
DOWNSAMPLING_METHOD_UNSPECIFIED: DownsamplingMethod
DOWNSAMPLING_METHOD_MEDIAN: DownsamplingMethod
DOWNSAMPLING_METHOD_MEAN: DownsamplingMethod
DOWNSAMPLING_METHOD_MODE: DownsamplingMethod
DOWNSAMPLING_METHOD_NEAREST: DownsamplingMethod
SAMPLING_MODE_UNSPECIFIED: SamplingMode
SAMPLING_MODE_ANISOTROPIC: SamplingMode
SAMPLING_MODE_ISOTROPIC: SamplingMode
SAMPLING_MODE_CONSTANT_Z: SamplingMode

class OperationProgress(_message.Message):
    __slots__ = ("files_total", "files_done", "bytes_in", "bytes_out", "files_redone", "bytes_total", "bytes_done")
    FILES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FILES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    FILES_REDONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    files_total: int
    files_done: int
    bytes_in: int
    bytes_out: int
    files_redone: int
    bytes_total: int
    bytes_done: int
    def __init__(self, files_total: _Optional[int] = ..., files_done: _Optional[int] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., files_redone: _Optional[int] = ..., bytes_total: _Optional[int] = ..., bytes_done: _Optional[int] = ...) -> None: ...

class OperationStatistics(_message.Message):
    __slots__ = ("zero_blocks", "stored_blocks", "fast_blocks", "high_blocks", "respliced_blocks", "raw_bytes", "stored_bytes", "seconds", "longest_hold_seconds", "note")
    ZERO_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    STORED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FAST_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    HIGH_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    RESPLICED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    RAW_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    LONGEST_HOLD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    zero_blocks: int
    stored_blocks: int
    fast_blocks: int
    high_blocks: int
    respliced_blocks: int
    raw_bytes: int
    stored_bytes: int
    seconds: float
    longest_hold_seconds: float
    note: str
    def __init__(self, zero_blocks: _Optional[int] = ..., stored_blocks: _Optional[int] = ..., fast_blocks: _Optional[int] = ..., high_blocks: _Optional[int] = ..., respliced_blocks: _Optional[int] = ..., raw_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., seconds: _Optional[float] = ..., longest_hold_seconds: _Optional[float] = ..., note: _Optional[str] = ...) -> None: ...

class OperationError(_message.Message):
    __slots__ = ("code", "reason", "message", "metadata")
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
    code: int
    reason: str
    message: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("name", "kind", "resource", "state", "progress", "result", "error", "create_time", "end_time", "statistics")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: OperationKind
    resource: str
    state: OperationState
    progress: OperationProgress
    result: str
    error: OperationError
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    statistics: OperationStatistics
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[OperationKind, str]] = ..., resource: _Optional[str] = ..., state: _Optional[_Union[OperationState, str]] = ..., progress: _Optional[_Union[OperationProgress, _Mapping]] = ..., result: _Optional[str] = ..., error: _Optional[_Union[OperationError, _Mapping]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., statistics: _Optional[_Union[OperationStatistics, _Mapping]] = ...) -> None: ...

class CompressionLevel(_message.Message):
    __slots__ = ("auto", "fast", "high")
    AUTO_FIELD_NUMBER: _ClassVar[int]
    FAST_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    auto: bool
    fast: bool
    high: int
    def __init__(self, auto: bool = ..., fast: bool = ..., high: _Optional[int] = ...) -> None: ...

class CompressMagRequest(_message.Message):
    __slots__ = ("name", "target_dataset_id", "level", "min_gain", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MIN_GAIN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    target_dataset_id: str
    level: CompressionLevel
    min_gain: float
    request_id: str
    def __init__(self, name: _Optional[str] = ..., target_dataset_id: _Optional[str] = ..., level: _Optional[_Union[CompressionLevel, _Mapping]] = ..., min_gain: _Optional[float] = ..., request_id: _Optional[str] = ...) -> None: ...

class CompressMagResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class DecompressMagRequest(_message.Message):
    __slots__ = ("name", "target_dataset_id", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    target_dataset_id: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., target_dataset_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DecompressMagResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class RechunkMagRequest(_message.Message):
    __slots__ = ("name", "target_dataset_id", "block_len", "file_len", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    BLOCK_LEN_FIELD_NUMBER: _ClassVar[int]
    FILE_LEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    target_dataset_id: str
    block_len: int
    file_len: int
    request_id: str
    def __init__(self, name: _Optional[str] = ..., target_dataset_id: _Optional[str] = ..., block_len: _Optional[int] = ..., file_len: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class RechunkMagResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class DownsampleLayerRequest(_message.Message):
    __slots__ = ("name", "source_mag", "target_mags", "sampling_mode", "coarsest_mag", "method", "update", "region", "changed_since", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_MAG_FIELD_NUMBER: _ClassVar[int]
    TARGET_MAGS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_MODE_FIELD_NUMBER: _ClassVar[int]
    COARSEST_MAG_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    CHANGED_SINCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    source_mag: str
    target_mags: _containers.RepeatedScalarFieldContainer[str]
    sampling_mode: SamplingMode
    coarsest_mag: str
    method: DownsamplingMethod
    update: bool
    region: _types_pb2.BoundingBox
    changed_since: _types_pb2.Revision
    request_id: str
    def __init__(self, name: _Optional[str] = ..., source_mag: _Optional[str] = ..., target_mags: _Optional[_Iterable[str]] = ..., sampling_mode: _Optional[_Union[SamplingMode, str]] = ..., coarsest_mag: _Optional[str] = ..., method: _Optional[_Union[DownsamplingMethod, str]] = ..., update: bool = ..., region: _Optional[_Union[_types_pb2.BoundingBox, _Mapping]] = ..., changed_since: _Optional[_Union[_types_pb2.Revision, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class DownsampleLayerResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class GetOperationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetOperationResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class ListOperationsRequest(_message.Message):
    __slots__ = ("resource", "page_size", "page_token")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    resource: str
    page_size: int
    page_token: str
    def __init__(self, resource: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListOperationsResponse(_message.Message):
    __slots__ = ("operations", "next_page_token")
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    next_page_token: str
    def __init__(self, operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchOperationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchOperationResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class CancelOperationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CancelOperationResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...
