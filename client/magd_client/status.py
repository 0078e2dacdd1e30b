"""From gRPC's failures to magd's errors: the inverse of the table with which the daemon makes them.

The class of an error follows from its gRPC code; a reason has a class of its own only where one code means two
things to a caller (a full disk is RESOURCE_EXHAUSTED like a full queue, but waiting does not help). So a reason
that is newer than this client still gives the right class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from magd.errors import (
    AlreadyExists,
    Busy,
    Cancelled,
    Conflict,
    DataLoss,
    DiskFull,
    InternalError,
    InvalidRequest,
    MagdError,
    NotAllowed,
    NotFound,
    OutOfBounds,
    Reason,
    TooSlow,
    Unavailable,
    Unimplemented,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magd.v1 import volume_pb2

DOMAIN: Final = "magd"
"""The domain of ErrorInfo in errors that the daemon made."""

CLASS_BY_CODE: Final[Mapping[grpc.StatusCode, type[MagdError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: OutOfBounds,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Busy,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TooSlow,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
}

CLASS_BY_REASON: Final[Mapping[Reason, type[MagdError]]] = {Reason.DISK_FULL: DiskFull}

_CODE_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}


def error_of(
    code: int,
    reason: str,
    message: str,
    metadata: Mapping[str, str],
    retry_after: float | None = None,
) -> MagdError:
    """Make the error of the parts in which the daemon sends it.

    :param code: a google.rpc.Code
    :param reason: an ErrorReason without its prefix; one this client does not know becomes UNSPECIFIED
    :param retry_after: seconds to wait before the same call
    """
    try:
        known = Reason(reason)
    except ValueError:
        known = Reason.UNSPECIFIED
        metadata = {**metadata, "reason": reason}
    by_code = CLASS_BY_CODE.get(_CODE_BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN), InternalError)
    kind = CLASS_BY_REASON.get(known, by_code)
    return kind(message, reason=known, metadata=metadata, retry_after=retry_after)


def error_of_box(error: volume_pb2.BoxError) -> MagdError:
    """Make the error of one box of a batch."""
    retry_after = error.retry_delay_ms / 1000 if error.retry_delay_ms else None
    return error_of(error.code, error.reason, error.message, dict(error.metadata), retry_after)


def error_of_call(failure: grpc.RpcError, address: object) -> MagdError:
    """Make the error of a failed call, sync or async.

    :param failure: what gRPC raised
    :param address: of the daemon, for errors that did not come from it
    """
    try:
        status = rpc_status.from_call(failure)
    except ValueError:
        # Code or message of the details differ from those of the call: not made by a magd.
        status = None
    if status is not None:
        found = _error_of_details(status)
        if found is not None:
            return found
    return _error_of_transport(failure.code(), failure.details() or "", address)


def is_unreachable(error: MagdError) -> bool:
    """Whether the error says that no daemon was reached, rather than what a daemon said."""
    return isinstance(error, Unavailable) and error.reason is Reason.UNSPECIFIED


def _error_of_details(status: status_pb2.Status) -> MagdError | None:
    info: error_details_pb2.ErrorInfo | None = None
    retry_after: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    if info is None or info.domain != DOMAIN:
        return None
    return error_of(status.code, info.reason, status.message, dict(info.metadata), retry_after)


def _error_of_transport(code: grpc.StatusCode, details: str, address: object) -> MagdError:
    """An error that gRPC made by itself, without the debug text it comes with."""
    # gRPC nests its texts: "failed to connect to all addresses; last error: UNKNOWN: ...: Connection refused".
    cause = details.rpartition(": ")[2] or code.name
    metadata = {"address": str(address)}
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"cannot reach magd at {address}: {cause}", reason=Reason.UNSPECIFIED, metadata=metadata)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TooSlow(f"magd at {address} did not answer in time", metadata=metadata)
    kind = CLASS_BY_CODE.get(code, InternalError)
    return kind(f"magd at {address}: {details or code.name}", reason=Reason.UNSPECIFIED, metadata=metadata)
