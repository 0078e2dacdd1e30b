# Generated from _async/operation.py by scripts/unasync: change it there.
"""A handle of an operation: long work that goes on in the daemon when the client has gone."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from magd.errors import Busy, Cancelled, InternalError, TooSlow, Unavailable
from magd.v1 import operation_pb2
from magd_client import answers, methods, names
from magd_client.progress import ProgressLike, show_progress
from magd_client.retry import LONG_TIMEOUT_SECONDS, Deadline
from magd_client.status import error_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from magd_client._sync.connection import Connection
    from magd_client.info import OperationInfo, OperationStatistics, Progress


class Operation:
    """One operation. `client.operation(name)` gives a handle of one that another program started."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection: Final = connection
        self.name: Final = names.operation_name(name)
        """operations/{id}"""

    def __repr__(self) -> str:
        return f"<magd_client.Operation {self.name!r} at {self._connection.address}>"

    def get_info(self, *, timeout: float | None = None) -> OperationInfo:
        """What it is and where it stands.

        :raises NotFound: no operation of this name in this run of the daemon
        """
        request = operation_pb2.GetOperationRequest(name=self.name)
        response = self._connection.call(methods.GET_OPERATION, request, timeout)
        return answers.operation_info(response.operation)

    def get_progress(self, *, timeout: float | None = None) -> Progress:
        """How far it is.

        :raises NotFound: no operation of this name in this run of the daemon
        """
        return (self.get_info(timeout=timeout)).progress

    def get_statistics(self, *, timeout: float | None = None) -> OperationStatistics | None:
        """What it found and did, once it has succeeded; None before, and for work that writes no cube files.

        :raises NotFound: no operation of this name in this run of the daemon
        """
        return (self.get_info(timeout=timeout)).statistics

    def cancel(self, *, timeout: float | None = None) -> OperationInfo:
        """Ask it to stop. Returns at once; `wait` tells when it has stopped. What it was about to change stays
        as it was.

        :raises NotFound: no operation of this name in this run of the daemon
        """
        request = operation_pb2.CancelOperationRequest(name=self.name)
        response = self._connection.call(methods.CANCEL_OPERATION, request, timeout)
        return answers.operation_info(response.operation)

    def follow(self, *, timeout: float | None = None) -> Generator[OperationInfo, None, None]:
        """The operation now, after each change, and a last time when it has ended.

        A lost connection is made again; some changes may then be left out, never the last.

        :param timeout: seconds for all of it; None: until it ends
        :raises NotFound: no operation of this name in this run of the daemon (it may have been restarted)
        :raises TooSlow: it has not ended in time; it goes on
        """
        deadline = None if timeout is None else Deadline(timeout)
        request = operation_pb2.WatchOperationRequest(name=self.name)
        while True:
            seconds = LONG_TIMEOUT_SECONDS if deadline is None else deadline.remaining()
            heard = False
            try:
                stream = self._connection.stream(methods.WATCH_OPERATION, request, seconds)
                with closing(stream) as responses:
                    for response in responses:
                        heard = True
                        info = answers.operation_info(response.operation)
                        yield info
                        if info.ended:
                            return
            except TooSlow:
                # Without a deadline of the caller, it is only this stream's: begin another.
                if deadline is not None:
                    raise TooSlow(
                        f"{self.name} has not ended within {timeout} s; it goes on",
                        metadata={"operation": self.name},
                    ) from None
            except (Unavailable, Busy):
                # A stream that had begun is begun again; one that could not begin was tried long enough.
                if not heard:
                    raise
            else:
                raise InternalError(
                    f"the daemon stopped telling of {self.name} before it ended",
                    metadata={"operation": self.name},
                )

    def wait(self, *, timeout: float | None = None, progress: ProgressLike = None) -> OperationInfo:
        """Wait until it has ended.

        :param timeout: seconds; None: as long as it takes
        :param progress: True shows a bar; a function is called with the bytes of voxels done and in all
        :return: the operation, which has succeeded
        :raises Cancelled: it ended on request
        :raises MagdError: why it failed
        :raises NotFound: no operation of this name in this run of the daemon
        :raises TooSlow: it has not ended in time; it goes on
        """
        with show_progress(progress, self.name, 0, in_bytes=True) as meter:
            last: OperationInfo | None = None
            with closing(self.follow(timeout=timeout)) as infos:
                for info in infos:
                    last = info
                    meter.update(info.progress.bytes_done, info.progress.bytes_total)
        if last is None or not last.ended:
            raise InternalError(f"nothing is known of the end of {self.name}")
        if last.state == "cancelled":
            raise Cancelled(f"{self.name} was cancelled", metadata={"operation": self.name})
        if last.state == "failed":
            problem = last.problem
            if problem is None:
                raise InternalError(f"{self.name} failed without a reason")
            raise error_of(problem.code, problem.reason, problem.message, problem.metadata)
        return last
