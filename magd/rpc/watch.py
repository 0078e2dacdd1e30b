"""Being told of changes: magd.v1.WatchService."""

# ruff: noqa: ARG002, N802  # names and arguments of the methods are those of the protos

from __future__ import annotations

from typing import TYPE_CHECKING

from magd.rpc import from_proto, to_proto
from magd.v1 import watch_pb2
from magd.v1.watch_pb2_grpc import WatchServiceServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from magd.actors.storage import Storage
    from magd.rpc.interceptors import Context


class WatchService(WatchServiceServicer):
    """magd.v1.WatchService."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def Watch(self, request: watch_pb2.WatchRequest, context: Context) -> AsyncIterator[watch_pb2.WatchResponse]:
        """Events on a resource and below it."""
        after = from_proto.revision(request.after_revision) if request.HasField("after_revision") else None
        events = await self._storage.watch(from_proto.resource_name(request.name), after)
        yield watch_pb2.WatchResponse(started=watch_pb2.WatchStarted())
        async for event in events:
            yield to_proto.event(event)
