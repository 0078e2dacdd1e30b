"""Everything that can go wrong, grouped by what a caller can do about it.

MagdError
├── NotFound            (also LookupError)      the name is wrong
├── AlreadyExists       (also FileExistsError)
├── InvalidRequest      (also ValueError)       fix the arguments; names field and value
├── OutOfBounds         (also IndexError)       the box leaves the bounding box or the view
├── Conflict                                    read again, then decide
├── NotAllowed          (also PermissionError)  this resource does not take this call
├── Busy                                        wait `retry_after`, then the same call
├── Unavailable         (also ConnectionError)  retry; the request id makes it safe
├── TooSlow             (also TimeoutError)     the deadline or the minimum rate was missed
├── Cancelled                                   ended on request
├── DiskFull            (also OSError)
├── DataLoss            (also OSError)          names the file; run `magd check`
├── Unimplemented       (also NotImplementedError)
└── InternalError                               a bug; carries the request id

`reason` says precisely what happened and is for programs: `Reason` is append-only and has the values of `ErrorReason`
in protos/magd/v1/errors.proto. `metadata` has the field, the value, the file. Server and client share this tree: what
a storage layer raises is what the Python client raises at the other end. It imports nothing of magd.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Reason(StrEnum):
    """Why, for programs. Append-only."""

    UNSPECIFIED = "UNSPECIFIED"
    INVALID_FIELD = "INVALID_FIELD"
    INVALID_NAME = "INVALID_NAME"
    INVALID_BOX = "INVALID_BOX"
    BOX_TOO_LARGE = "BOX_TOO_LARGE"
    DATA_TYPE_MISMATCH = "DATA_TYPE_MISMATCH"
    CHANNELS_MISMATCH = "CHANNELS_MISMATCH"
    DATA_LENGTH_MISMATCH = "DATA_LENGTH_MISMATCH"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    OUTSIDE_BOUNDING_BOX = "OUTSIDE_BOUNDING_BOX"
    EVENTS_LOST = "EVENTS_LOST"
    DATASET_NOT_FOUND = "DATASET_NOT_FOUND"
    LAYER_NOT_FOUND = "LAYER_NOT_FOUND"
    MAG_NOT_FOUND = "MAG_NOT_FOUND"
    OPERATION_NOT_FOUND = "OPERATION_NOT_FOUND"
    DATASET_EXISTS = "DATASET_EXISTS"
    LAYER_EXISTS = "LAYER_EXISTS"
    MAG_EXISTS = "MAG_EXISTS"
    EXISTS_WITH_OTHER_PARAMETERS = "EXISTS_WITH_OTHER_PARAMETERS"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    REVISION_MISMATCH = "REVISION_MISMATCH"
    OPERATION_IN_PROGRESS = "OPERATION_IN_PROGRESS"
    READ_ONLY = "READ_ONLY"
    UNSUPPORTED_DATA_FORMAT = "UNSUPPORTED_DATA_FORMAT"
    MIXED_BLOCK_TYPES = "MIXED_BLOCK_TYPES"
    INVALID_PROPERTIES = "INVALID_PROPERTIES"
    LOCKED = "LOCKED"
    OUTSIDE_ROOT = "OUTSIDE_ROOT"
    CHANGED_ON_DISK = "CHANGED_ON_DISK"
    BUSY = "BUSY"
    DISK_FULL = "DISK_FULL"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    ACTOR_STOPPED = "ACTOR_STOPPED"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    TOO_SLOW = "TOO_SLOW"
    CANCELLED = "CANCELLED"
    CORRUPT_CUBE_FILE = "CORRUPT_CUBE_FILE"
    IO_ERROR = "IO_ERROR"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    INTERNAL = "INTERNAL"


class MagdError(Exception):
    """The base of all errors of magd.

    :ivar reason: what happened, for programs
    :ivar message: what happened, for people
    :ivar metadata: field, value, file, whatever helps to find the cause; all text
    :ivar retry_after: seconds to wait before the same call may work, where that is known
    """

    default_reason: ClassVar[Reason] = Reason.UNSPECIFIED

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        metadata: Mapping[str, object] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message: Final = message
        self.reason: Final = reason or self.default_reason
        self.metadata: Final = {key: str(value) for key, value in (metadata or {}).items()}
        self.retry_after: Final = retry_after

    def __str__(self) -> str:
        # OSError, one of the bases, would print its own fields.
        return self.message

    def let_go(self) -> None:
        """Let go of the frames it came through, and of its causes: they hold what was worked on, mostly in a cycle with
        the error itself. For who keeps an error, or passes it on to somebody else."""
        self.__traceback__ = self.__context__ = self.__cause__ = None

    def __reduce__(self) -> tuple[object, ...]:
        # Errors travel from pool workers to the daemon; keyword arguments need help to be pickled.
        return (_rebuild, (type(self), self.message, self.reason, self.metadata, self.retry_after))


class NotFound(MagdError, LookupError):
    """A dataset, layer, mag or operation of this name does not exist."""


class AlreadyExists(MagdError, FileExistsError):
    """A dataset, layer or mag of this name exists."""


class InvalidRequest(MagdError, ValueError):
    """The arguments are wrong in themselves. `metadata` names field and value."""

    default_reason = Reason.INVALID_FIELD


class OutOfBounds(MagdError, IndexError):
    """The box leaves the bounding box or the view."""

    default_reason = Reason.OUTSIDE_BOUNDING_BOX


class Conflict(MagdError):
    """Somebody else was faster. Read again, then decide."""


class NotAllowed(MagdError, PermissionError):
    """The resource is in a state, or of a format, that does not take this call."""

    default_reason = Reason.READ_ONLY


class Busy(MagdError):
    """No memory or no place in a queue. Wait `retry_after` seconds, then the same call again."""

    default_reason = Reason.BUSY


class Unavailable(MagdError, ConnectionError):
    """The daemon cannot be reached, or not now. Retry; the request id makes it safe."""

    default_reason = Reason.SHUTTING_DOWN


class TooSlow(MagdError, TimeoutError):
    """The deadline passed, or the client was slower than the minimum rate."""

    default_reason = Reason.TOO_SLOW


class Cancelled(MagdError):
    """An operation ended because somebody asked for it."""

    default_reason = Reason.CANCELLED


class DiskFull(MagdError, OSError):
    """No space is left on the device. Nothing that was acknowledged is lost."""

    default_reason = Reason.DISK_FULL


class DataLoss(MagdError, OSError):
    """A file is damaged, or cannot be read or written. `metadata["file"]` names it; run `magd check`."""

    default_reason = Reason.CORRUPT_CUBE_FILE


class Unimplemented(MagdError, NotImplementedError):
    """Part of the interface that this version does not do yet."""

    default_reason = Reason.NOT_IMPLEMENTED


class InternalError(MagdError):
    """A bug of the daemon. `metadata["request_id"]` finds it in the log."""

    default_reason = Reason.INTERNAL


def _rebuild(
    kind: type[MagdError],
    message: str,
    reason: Reason,
    metadata: dict[str, str],
    retry_after: float | None,
) -> MagdError:
    return kind(message, reason=reason, metadata=metadata, retry_after=retry_after)


def from_os_error(error: OSError, file: str) -> MagdError:
    """Turn a failed system call on a file into the error its caller can act on. ENOENT is the caller's to judge."""
    text = f"{file}: {os.strerror(error.errno)}" if error.errno else f"{file}: {error}"
    metadata = {"file": file, "errno": errno.errorcode.get(error.errno or 0, "unknown")}
    if error.errno in _NO_SPACE:
        return DiskFull(text, metadata=metadata)
    if error.errno in _NO_DESCRIPTORS:
        # The file is as it was: it is the daemon that has too much open at the moment.
        return Busy(f"{text}: the daemon has no file descriptors left", metadata=metadata, retry_after=1.0)
    if error.errno == errno.EROFS:
        return NotAllowed(text, reason=Reason.READ_ONLY, metadata=metadata)
    return DataLoss(text, reason=Reason.IO_ERROR, metadata=metadata)


@contextmanager
def os_errors_of(file: str) -> Iterator[None]:
    """Turn errors of the system inside the context by `from_os_error`; errors of magd pass as they are."""
    try:
        yield
    except MagdError:
        raise  # some of them are an OSError as well
    except OSError as error:
        raise from_os_error(error, file) from error


_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
