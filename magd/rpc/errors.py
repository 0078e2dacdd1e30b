"""From an error of magd to what travels: a gRPC code, a google.rpc.Status with details, an error of one box.

One table says which code an error class becomes and what a caller is told about retrying. The Python client
holds the inverse of it. A status carries

- `ErrorInfo`: reason, domain "magd", and the error's metadata;
- `BadRequest`, if the metadata names a field: the field, and what is wrong with it;
- `RetryInfo`, if the same call may work after a while.

A status travels in the trailers of a call, whose size gRPC limits: a longer one would turn every error into
another one. Texts are shortened until it fits. File names of any bytes may be part of an error; what is not
UTF-8 is escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from magd import errors
from magd.framing import ReadBatchFrame, ReadBoxesFrame
from magd.v1 import operation_pb2, volume_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from google.protobuf.message import Message

    from magd.actors.types import OperationFailure

DOMAIN: Final = "magd"
STATUS_KEY: Final = "grpc-status-details-bin"
MAX_TRAILER_BYTES: Final = 3584
"""Of message and details together, as they travel; below the 4 KiB that every client takes."""

_LONGEST_TEXT: Final = 1024
_MAX_METADATA: Final = 12


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller gets for a class of errors."""

    code: grpc.StatusCode
    retry_seconds: float | None = None
    """Wait so long before the same call, unless the error says how long; None: no advice."""


ANSWERS: Final[Mapping[type[errors.MagdError], Answer]] = {
    errors.NotFound: Answer(grpc.StatusCode.NOT_FOUND),
    errors.AlreadyExists: Answer(grpc.StatusCode.ALREADY_EXISTS),
    errors.InvalidRequest: Answer(grpc.StatusCode.INVALID_ARGUMENT),
    errors.OutOfBounds: Answer(grpc.StatusCode.OUT_OF_RANGE),
    errors.Conflict: Answer(grpc.StatusCode.ABORTED),
    errors.NotAllowed: Answer(grpc.StatusCode.FAILED_PRECONDITION),
    errors.Busy: Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=1.0),
    errors.Unavailable: Answer(grpc.StatusCode.UNAVAILABLE),
    errors.TooSlow: Answer(grpc.StatusCode.DEADLINE_EXCEEDED),
    errors.Cancelled: Answer(grpc.StatusCode.CANCELLED),
    errors.DiskFull: Answer(grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.DataLoss: Answer(grpc.StatusCode.DATA_LOSS),
    errors.Unimplemented: Answer(grpc.StatusCode.UNIMPLEMENTED),
    errors.InternalError: Answer(grpc.StatusCode.INTERNAL),
}
"""Every class of errors that callers can get."""


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_KINDS: Final = {kind.__name__: kind for kind in ANSWERS}


def answer_of(kind: type[errors.MagdError]) -> Answer:
    """The answer for an error class, or for the nearest class above it. What no answer fits is a bug."""
    for base in kind.__mro__:
        if base in ANSWERS:
            return ANSWERS[base]
    return ANSWERS[errors.InternalError]


def status_of(error: errors.MagdError) -> Status:
    """The status with details of an error, short enough for the trailers of a call."""
    limit = _LONGEST_TEXT
    status = _status(error, limit)
    while trailer_bytes(status) > MAX_TRAILER_BYTES:
        limit //= 2
        status = _status(error, limit)
    return status


def trailer_bytes(status: Status) -> int:
    """What a status takes as it travels: the message percent-encoded, the details in base64."""
    details = -(-int(status.ByteSize()) // 3) * 4
    return len(quote(status.message)) + details


def operation_error(failure: OperationFailure) -> operation_pb2.OperationError:
    """Why an operation failed."""
    kind = _KINDS.get(failure.kind, errors.InternalError)
    return operation_pb2.OperationError(
        code=_number(answer_of(kind).code),
        reason=failure.reason,
        message=clean(failure.message),
        metadata={clean(key): clean(value) for key, value in failure.metadata.items()},
    )


def box_error(error: errors.MagdError) -> volume_pb2.BoxError:
    """The outcome of one box of many that failed."""
    return volume_pb2.BoxError(
        code=_number(answer_of(type(error)).code),
        reason=error.reason,
        message=clean(error.message),
        metadata={clean(key): clean(value) for key, value in error.metadata.items()},
        retry_delay_ms=round((_retry_seconds(error) or 0) * 1000),
    )


def box_errors(message: object) -> Iterator[volume_pb2.BoxError]:
    """The outcomes of boxes that failed, in a message of a response. In one that has no outcomes of boxes: none."""
    match message:
        case ReadBatchFrame():
            yield from _failed_reads(message.results)
        case ReadBoxesFrame():
            yield from _failed_reads((message, *message.more))
        case volume_pb2.WriteBoxBatchResponse():
            yield from _failed_writes(message.results)
        case volume_pb2.WriteBoxesResponse():
            yield from _failed_writes((message, *message.more))


def _failed_reads(frames: Iterable[ReadBoxesFrame]) -> Iterator[volume_pb2.BoxError]:
    return (frame.outcome for frame in frames if isinstance(frame.outcome, volume_pb2.BoxError))


def _failed_writes(results: Iterable[volume_pb2.WriteBoxesResponse]) -> Iterator[volume_pb2.BoxError]:
    return (result.error for result in results if result.HasField("error"))


def code_of_box(error: volume_pb2.BoxError) -> grpc.StatusCode:
    """The gRPC code of the outcome of a box that failed."""
    return _CODES[error.code]


def clean(text: str) -> str:
    """The text with what cannot be UTF-8 escaped: names of files on Linux are bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _status(error: errors.MagdError, limit: int) -> Status:
    message = _shortened(error.message, limit)
    metadata = {
        _shortened(key, limit): _shortened(value, limit) for key, value in list(error.metadata.items())[:_MAX_METADATA]
    }
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, errors.InvalidRequest) and "field" in metadata:
        violation = BadRequest.FieldViolation(field=metadata["field"], description=message)
        details.append(BadRequest(field_violations=[violation]))
    retry_seconds = _retry_seconds(error)
    if retry_seconds is not None:
        delay = Duration()
        delay.FromMilliseconds(round(retry_seconds * 1000))
        details.append(RetryInfo(retry_delay=delay))
    status = Status(code=_number(answer_of(type(error)).code), message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _retry_seconds(error: errors.MagdError) -> float | None:
    return answer_of(type(error)).retry_seconds if error.retry_after is None else error.retry_after


def _number(code: grpc.StatusCode) -> int:
    return int(code.value[0])  # grpc gives each code as (number, text)


def _shortened(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8. The middle goes: names begin with what they are and end with which."""
    data = clean(text).encode()
    if len(data) <= limit:
        return data.decode()
    half = max(limit - 3, 0) // 2
    return f"{data[:half].decode(errors='ignore')}...{data[-half:].decode(errors='ignore')}"
