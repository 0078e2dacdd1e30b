from magd.v1 import dataset_pb2 as _dataset_pb2
from magd.v1 import operation_pb2 as _operation_pb2
from magd.v1 import types_pb2 as _types_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("name", "after_revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_revision: _types_pb2.Revision
    def __init__(self, name: _Optional[str] = ..., after_revision: _Optional[_Union[_types_pb2.Revision, _Mapping]] = ...) -> None: ...

class CommitEvent(_message.Message):
    __slots__ = ("name", "box", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    box: _types_pb2.Box
    revision: _types_pb2.Revision
    def __init__(self, name: _Optional[str] = ..., box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ..., revision: _Optional[_Union[_types_pb2.Revision, _Mapping]] = ...) -> None: ...

class ExchangeEvent(_message.Message):
    __slots__ = ("name", "generation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class PropertiesEvent(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.Dataset
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.Dataset, _Mapping]] = ...) -> None: ...

class OperationEvent(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: _operation_pb2.Operation
    def __init__(self, operation: _Optional[_Union[_operation_pb2.Operation, _Mapping]] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("started", "commit", "exchange", "properties", "operation")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    started: WatchStarted
    commit: CommitEvent
    exchange: ExchangeEvent
    properties: PropertiesEvent
    operation: OperationEvent
    def __init__(self, started: _Optional[_Union[WatchStarted, _Mapping]] = ..., commit: _Optional[_Union[CommitEvent, _Mapping]] = ..., exchange: _Optional[_Union[ExchangeEvent, _Mapping]] = ..., properties: _Optional[_Union[PropertiesEvent, _Mapping]] = ..., operation: _Optional[_Union[OperationEvent, _Mapping]] = ...) -> None: ...

class WatchStarted(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
