"""The daemon itself: magd.v1.MaintenanceService."""

# ruff: noqa: ARG002, N802  # names and arguments of the methods are those of the protos

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from magd.actors.types import FlushLevel
from magd.catalog.names import MagName
from magd.rpc import from_proto, to_proto
from magd.rpc.admission import MAX_MESSAGE_BYTES, PART_BYTES
from magd.rpc.enums import DURABILITIES
from magd.rpc.flight import MAX_BOXES_IN_FLIGHT
from magd.rpc.from_proto import invalid
from magd.v1 import maintenance_pb2
from magd.v1.maintenance_pb2_grpc import MaintenanceServiceServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from magd.actors.storage import Storage
    from magd.rpc.admission import EdgeConfig
    from magd.rpc.interceptors import Context

_CAPABILITIES: Final = ("journal", "if_revision", "mask_nonzero", "repair", "lz4", "one_box")
_FLUSH_LEVELS: Final[dict[int, FlushLevel]] = {
    maintenance_pb2.FLUSH_LEVEL_UNSPECIFIED: FlushLevel.FILES,
    maintenance_pb2.FLUSH_LEVEL_APPLIED: FlushLevel.APPLIED,
    maintenance_pb2.FLUSH_LEVEL_DISK: FlushLevel.DISK,
    maintenance_pb2.FLUSH_LEVEL_FILES: FlushLevel.FILES,
}
_VERSION: Final = version("magd")


class MaintenanceService(MaintenanceServiceServicer):
    """magd.v1.MaintenanceService."""

    def __init__(self, storage: Storage, config: EdgeConfig) -> None:
        self._storage = storage
        self._config = config

    async def GetServerInfo(
        self, request: maintenance_pb2.GetServerInfoRequest, context: Context
    ) -> maintenance_pb2.GetServerInfoResponse:
        """What the daemon is."""
        config = self._storage.config
        return maintenance_pb2.GetServerInfoResponse(
            version=_VERSION,
            capabilities=_CAPABILITIES,
            limits=maintenance_pb2.Limits(
                max_box_bytes=config.box_limit_bytes,
                max_message_bytes=MAX_MESSAGE_BYTES,
                part_bytes=PART_BYTES,
                budget_bytes=config.budget_bytes,
                min_durability=DURABILITIES[config.min_durability],
                request_id_window_seconds=int(config.request_id_window_seconds),
                max_boxes_in_flight=MAX_BOXES_IN_FLIGHT,
                min_rate_bytes_per_second=self._config.min_rate_bytes_per_second,
                shared_memory_bytes=self._storage.regions.limit_bytes,
            ),
            read_only=config.read_only,
            boot_id=self._storage.boot_id,
        )

    async def GetStatus(
        self, request: maintenance_pb2.GetStatusRequest, context: Context
    ) -> maintenance_pb2.GetStatusResponse:
        """What the daemon is doing."""
        return to_proto.status(self._storage.status())

    async def Flush(self, request: maintenance_pb2.FlushRequest, context: Context) -> maintenance_pb2.FlushResponse:
        """Bring what was acknowledged before to the disk, into the cube files and the properties, or both."""
        level = _FLUSH_LEVELS.get(request.level)
        if level is None:
            raise invalid("level", request.level, f"{request.level} is not a value of it")
        mags = await self._storage.flush(from_proto.resource_name(request.name), level)
        return maintenance_pb2.FlushResponse(mags=mags)

    async def Check(
        self, request: maintenance_pb2.CheckRequest, context: Context
    ) -> AsyncIterator[maintenance_pb2.CheckResponse]:
        """Look for structural damage, and before that, if asked for, remove what magd left behind."""
        steps = self._storage.check(from_proto.resource_name(request.name), deep=request.deep, repair=request.repair)
        async for step in steps:
            yield maintenance_pb2.CheckResponse(
                findings=[to_proto.finding(finding) for finding in step.findings],
                files_checked=step.files_checked,
                files_damaged=step.files_damaged,
                removed=step.removed,
            )

    async def ReopenMag(
        self, request: maintenance_pb2.ReopenMagRequest, context: Context
    ) -> maintenance_pb2.ReopenMagResponse:
        """Take a mag up again whose files another program changed."""
        status = await self._storage.reopen(MagName.parse(request.name))
        return maintenance_pb2.ReopenMagResponse(mag=to_proto.mag_status(status))
