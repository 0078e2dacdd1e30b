"""grpc.health.v1: whether the daemon, and each of its services, takes calls.

The servicer that comes with grpcio-health-checking forgets the other watchers of a service when one of them
leaves, and its watches hold up a stop; this one does neither.
"""

# ruff: noqa: ARG002, N802  # names and arguments of the methods are those of the protos

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from magd.rpc.interceptors import Context

_Status: Final[Any] = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """The health of the daemon ("") and of each service; all of them change together.

    The base answers methods that later versions of the proto add (List) with UNIMPLEMENTED.

    :param services: full names of the services
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._known = frozenset(("", *services))
        self._is_serving = False
        self._has_ended = False
        self._changed = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether calls are taken now."""
        return self._is_serving

    def set_serving(self) -> None:
        """From now on calls are taken."""
        self._is_serving = True
        self._wake()

    def end(self) -> None:
        """No call will be taken any more. Watchers are told, and their streams end."""
        self._is_serving = False
        self._has_ended = True
        self._wake()

    async def Check(self, request: Any, context: Context) -> Any:
        """The health now."""
        if request.service not in self._known:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Status(status=self._status())

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """The health now and after each change."""
        if request.service not in self._known:
            yield _Status(status=_Status.SERVICE_UNKNOWN)
        last = None
        while True:
            changed = self._changed
            if request.service in self._known and self._status() != last:
                last = self._status()
                yield _Status(status=last)
            if self._has_ended:
                return
            await changed.wait()

    def _status(self) -> Any:
        return _Status.SERVING if self._is_serving else _Status.NOT_SERVING

    def _wake(self) -> None:
        # Each watcher holds on to the event it waits for; the next wait gets a new one.
        self._changed.set()
        self._changed = asyncio.Event()
