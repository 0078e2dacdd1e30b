# Generated from _async/watch.py by scripts/unasync: change it there.
"""Being told of changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from magd_client import answers, methods

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from magd.v1 import watch_pb2
    from magd_client._sync.connection import Connection
    from magd_client.info import Event


class Watch:
    """Events on a resource and below it, as an iterator within a context manager:

        with client.watch(mag) as events:
            for event in events:
                print(event)

    Once the context is entered, no later event is left out. If the client falls behind, or the connection is
    lost, the iteration ends with an error (OutOfBounds with the reason EVENTS_LOST, Unavailable): read again,
    then watch again.
    """

    def __init__(self, connection: Connection, request: watch_pb2.WatchRequest, timeout: float | None) -> None:
        self._connection = connection
        self._request = request
        self._timeout = timeout
        self._responses: Generator[watch_pb2.WatchResponse, None, None] | None = None

    def __enter__(self) -> Self:
        self._responses = self._connection.retry(self._begin, timeout=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._responses is not None:
            self._responses.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next event.

        :raises OutOfBounds: events were lost, because this client was too slow
        :raises TooSlow: the timeout of the watch is over
        :raises Unavailable: the connection was lost
        """
        if self._responses is None:
            raise RuntimeError("enter the watch first: `with client.watch(...) as events`")
        while True:
            event = answers.event(next(self._responses))
            # What this client does not know is newer than it.
            if event is not None:
                return event

    def _begin(self, _seconds: float) -> Generator[watch_pb2.WatchResponse, None, None]:
        # gRPC has no deadline for the first message alone. A daemon that has gone is found by the keepalive.
        responses = self._connection.transport.stream(methods.WATCH, self._request, self._timeout)
        try:
            next(responses)
        except BaseException:
            responses.close()
            raise
        return responses
