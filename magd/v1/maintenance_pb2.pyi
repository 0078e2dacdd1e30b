from magd.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MagState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MAG_STATE_UNSPECIFIED: _ClassVar[MagState]
    MAG_STATE_SERVING: _ClassVar[MagState]
    MAG_STATE_READ_ONLY: _ClassVar[MagState]
    MAG_STATE_FAILED: _ClassVar[MagState]

class FlushLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLUSH_LEVEL_UNSPECIFIED: _ClassVar[FlushLevel]
    FLUSH_LEVEL_DISK: _ClassVar[FlushLevel]
    FLUSH_LEVEL_FILES: _ClassVar[FlushLevel]
    FLUSH_LEVEL_APPLIED: _ClassVar[FlushLevel]

class FindingSeverity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINDING_SEVERITY_UNSPECIFIED: _ClassVar[FindingSeverity]
    FINDING_SEVERITY_NOTE: _ClassVar[FindingSeverity]
    FINDING_SEVERITY_DAMAGE: _ClassVar[FindingSeverity]
MAG_STATE_UNSPECIFIED: MagState
MAG_STATE_SERVING: MagState
MAG_STATE_READ_ONLY: MagState
MAG_STATE_FAILED: MagState
FLUSH_LEVEL_UNSPECIFIED: FlushLevel
FLUSH_LEVEL_DISK: FlushLevel
FLUSH_LEVEL_FILES: FlushLevel
FLUSH_LEVEL_APPLIED: FlushLevel
FINDING_SEVERITY_UNSPECIFIED: FindingSeverity
FINDING_SEVERITY_NOTE: FindingSeverity
FINDING_SEVERITY_DAMAGE: FindingSeverity

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "capabilities", "limits", "read_only", "boot_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    version: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    read_only: bool
    boot_id: str
    def __init__(self, version: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., read_only: bool = ..., boot_id: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_box_bytes", "max_message_bytes", "part_bytes", "budget_bytes", "min_durability", "request_id_window_seconds", "max_boxes_in_flight", "min_rate_bytes_per_second", "shared_memory_bytes")
    MAX_BOX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    MIN_DURABILITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_WINDOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_BOXES_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MIN_RATE_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_box_bytes: int
    max_message_bytes: int
    part_bytes: int
    budget_bytes: int
    min_durability: _types_pb2.Durability
    request_id_window_seconds: int
    max_boxes_in_flight: int
    min_rate_bytes_per_second: int
    shared_memory_bytes: int
    def __init__(self, max_box_bytes: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., part_bytes: _Optional[int] = ..., budget_bytes: _Optional[int] = ..., min_durability: _Optional[_Union[_types_pb2.Durability, str]] = ..., request_id_window_seconds: _Optional[int] = ..., max_boxes_in_flight: _Optional[int] = ..., min_rate_bytes_per_second: _Optional[int] = ..., shared_memory_bytes: _Optional[int] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("mags", "budget_used_bytes", "budget_bytes", "budget_waiting", "operations_running", "uptime_seconds", "resident_bytes")
    MAGS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_WAITING_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    mags: _containers.RepeatedCompositeFieldContainer[MagStatus]
    budget_used_bytes: int
    budget_bytes: int
    budget_waiting: int
    operations_running: int
    uptime_seconds: float
    resident_bytes: int
    def __init__(self, mags: _Optional[_Iterable[_Union[MagStatus, _Mapping]]] = ..., budget_used_bytes: _Optional[int] = ..., budget_bytes: _Optional[int] = ..., budget_waiting: _Optional[int] = ..., operations_running: _Optional[int] = ..., uptime_seconds: _Optional[float] = ..., resident_bytes: _Optional[int] = ...) -> None: ...

class MagStatus(_message.Message):
    __slots__ = ("name", "state", "reason", "queue", "running", "revision", "unsynced_bytes", "operation", "writes", "reads", "warnings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    UNSYNCED_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: MagState
    reason: str
    queue: int
    running: int
    revision: _types_pb2.Revision
    unsynced_bytes: int
    operation: str
    writes: int
    reads: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[MagState, str]] = ..., reason: _Optional[str] = ..., queue: _Optional[int] = ..., running: _Optional[int] = ..., revision: _Optional[_Union[_types_pb2.Revision, _Mapping]] = ..., unsynced_bytes: _Optional[int] = ..., operation: _Optional[str] = ..., writes: _Optional[int] = ..., reads: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class FlushRequest(_message.Message):
    __slots__ = ("name", "level")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    level: FlushLevel
    def __init__(self, name: _Optional[str] = ..., level: _Optional[_Union[FlushLevel, str]] = ...) -> None: ...

class FlushResponse(_message.Message):
    __slots__ = ("mags",)
    MAGS_FIELD_NUMBER: _ClassVar[int]
    mags: int
    def __init__(self, mags: _Optional[int] = ...) -> None: ...

class CheckRequest(_message.Message):
    __slots__ = ("name", "deep", "repair")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEEP_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    name: str
    deep: bool
    repair: bool
    def __init__(self, name: _Optional[str] = ..., deep: bool = ..., repair: bool = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("file", "severity", "message")
    FILE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    file: str
    severity: FindingSeverity
    message: str
    def __init__(self, file: _Optional[str] = ..., severity: _Optional[_Union[FindingSeverity, str]] = ..., message: _Optional[str] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("findings", "files_checked", "files_damaged", "removed")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    FILES_CHECKED_FIELD_NUMBER: _ClassVar[int]
    FILES_DAMAGED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    files_checked: int
    files_damaged: int
    removed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., files_checked: _Optional[int] = ..., files_damaged: _Optional[int] = ..., removed: _Optional[_Iterable[str]] = ...) -> None: ...

class ReopenMagRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ReopenMagResponse(_message.Message):
    __slots__ = ("mag",)
    MAG_FIELD_NUMBER: _ClassVar[int]
    mag: MagStatus
    def __init__(self, mag: _Optional[_Union[MagStatus, _Mapping]] = ...) -> None: ...
