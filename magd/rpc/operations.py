"""Long work: magd.v1.OperationService."""

# ruff: noqa: ARG002, N802  # names and arguments of the methods are those of the protos

from __future__ import annotations

from typing import TYPE_CHECKING

from magd.catalog.names import MagName
from magd.rpc import from_proto, to_proto
from magd.v1 import operation_pb2
from magd.v1.operation_pb2_grpc import OperationServiceServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from magd.actors.storage import Storage
    from magd.rpc.interceptors import Context


class OperationService(OperationServiceServicer):
    """magd.v1.OperationService."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def CompressMag(
        self, request: operation_pb2.CompressMagRequest, context: Context
    ) -> operation_pb2.CompressMagResponse:
        """Start to compress a mag."""
        info = await self._storage.compress(
            MagName.parse(request.name),
            target=request.target_dataset_id or None,
            level=from_proto.compression_level(request),
            request_id=from_proto.request_id(request.request_id),
            min_gain=request.min_gain,
        )
        return operation_pb2.CompressMagResponse(operation=to_proto.operation(info))

    async def DecompressMag(
        self, request: operation_pb2.DecompressMagRequest, context: Context
    ) -> operation_pb2.DecompressMagResponse:
        """Start to store a mag raw."""
        info = await self._storage.decompress(
            MagName.parse(request.name),
            target=request.target_dataset_id or None,
            request_id=from_proto.request_id(request.request_id),
        )
        return operation_pb2.DecompressMagResponse(operation=to_proto.operation(info))

    async def RechunkMag(
        self, request: operation_pb2.RechunkMagRequest, context: Context
    ) -> operation_pb2.RechunkMagResponse:
        """Start to store a mag in cube files of other lengths."""
        info = await self._storage.rechunk(
            MagName.parse(request.name),
            target=request.target_dataset_id or None,
            block_len=request.block_len,
            file_len=request.file_len,
            request_id=from_proto.request_id(request.request_id),
        )
        return operation_pb2.RechunkMagResponse(operation=to_proto.operation(info))

    async def DownsampleLayer(
        self, request: operation_pb2.DownsampleLayerRequest, context: Context
    ) -> operation_pb2.DownsampleLayerResponse:
        """Start to build coarser mags, or to bring them up to date."""
        info = await self._storage.downsample(
            from_proto.downsampling(request), request_id=from_proto.request_id(request.request_id)
        )
        return operation_pb2.DownsampleLayerResponse(operation=to_proto.operation(info))

    async def GetOperation(
        self, request: operation_pb2.GetOperationRequest, context: Context
    ) -> operation_pb2.GetOperationResponse:
        """One operation."""
        info = self._storage.get_operation(from_proto.operation_name(request.name))
        return operation_pb2.GetOperationResponse(operation=to_proto.operation(info))

    async def ListOperations(
        self, request: operation_pb2.ListOperationsRequest, context: Context
    ) -> operation_pb2.ListOperationsResponse:
        """One page of the operations."""
        resource = from_proto.resource_name(request.resource, "resource")
        listing = f"operations {request.resource}"
        limit = from_proto.page_size(request.page_size)
        after = from_proto.page_start(listing, request.page_token)
        # One more than asked for tells whether there is a next page.
        infos = self._storage.list_operations(resource=resource, limit=limit + 1, after=after)
        page = infos[:limit]
        return operation_pb2.ListOperationsResponse(
            operations=[to_proto.operation(info) for info in page],
            next_page_token=from_proto.page_token(listing, page[-1].name) if infos[limit:] else "",
        )

    async def WatchOperation(
        self, request: operation_pb2.WatchOperationRequest, context: Context
    ) -> AsyncIterator[operation_pb2.WatchOperationResponse]:
        """Follow an operation to its end."""
        async for info in self._storage.watch_operation(from_proto.operation_name(request.name)):
            yield operation_pb2.WatchOperationResponse(operation=to_proto.operation(info))

    async def CancelOperation(
        self, request: operation_pb2.CancelOperationRequest, context: Context
    ) -> operation_pb2.CancelOperationResponse:
        """Ask an operation to stop."""
        info = self._storage.cancel_operation(from_proto.operation_name(request.name))
        return operation_pb2.CancelOperationResponse(operation=to_proto.operation(info))
