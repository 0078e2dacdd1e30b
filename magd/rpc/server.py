"""The gRPC server: every service behind one address, its start and its drain.

Start: the server listens, and health says NOT_SERVING until `set_serving`.

Drain:

1. Health says NOT_SERVING, so that load balancers and clients look elsewhere.
2. New calls are refused with UNAVAILABLE. Streams that wait for something to happen end the same way.
3. Calls under way may finish, for as long as the grace lasts. What is stuck then is cut off.
4. The server stops listening.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from magd.errors import NotAllowed, Reason
from magd.rpc.addresses import HostPort, UnixPath, unix_socket
from magd.rpc.admission import EdgeConfig, server_options
from magd.rpc.datasets import DatasetService
from magd.rpc.health import Health
from magd.rpc.interceptors import Calls
from magd.rpc.maintenance import MaintenanceService
from magd.rpc.metrics import CallMetrics
from magd.rpc.operations import OperationService
from magd.rpc.volume import VolumeService
from magd.rpc.volume_handlers import add_volume_service
from magd.rpc.watch import WatchService
from magd.v1 import (
    dataset_pb2,
    dataset_pb2_grpc,
    maintenance_pb2,
    maintenance_pb2_grpc,
    operation_pb2,
    operation_pb2_grpc,
    volume_pb2,
    watch_pb2,
    watch_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from prometheus_client import CollectorRegistry

    from magd.actors.storage import Storage

SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (dataset_pb2, "DatasetService"),
        (volume_pb2, "VolumeService"),
        (operation_pb2, "OperationService"),
        (watch_pb2, "WatchService"),
        (maintenance_pb2, "MaintenanceService"),
    )
)
"""The full names of magd's services."""

WAITING_STREAMS: Final = frozenset(
    {
        "WatchService/Watch",
        "OperationService/WatchOperation",
        "VolumeService/WriteBoxes",
        "VolumeService/ReadBoxes",
        "VolumeService/ShareMemory",
    }
)
"""Streams that wait for something to happen, or for the client: they would hold up a drain for ever."""

_LAST_WORDS_SECONDS: Final = 1.0
"""What statuses get to reach their clients before connections are closed."""

_log = structlog.get_logger("magd.rpc")


class _ByName:
    """A server to which services are added whose methods are found by their names.

    Generated code also registers each method, and for each registered one grpc.aio keeps a task, all of which it goes
    through for every call of any method.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers: Final = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, object]) -> None:
        """Leave them to the generic handlers."""


class RpcServer:
    """A running server.

    :ivar address: where it listens, with the port that was picked
    """

    def __init__(self, server: grpc.aio.Server, address: HostPort | UnixPath, calls: Calls, health: Health) -> None:
        self.address: Final = address
        self._server = server
        self._calls = calls
        self._health = health

    @property
    def is_serving(self) -> bool:
        """Whether new calls are taken."""
        return self._health.is_serving

    def set_serving(self) -> None:
        """Say that calls are taken from now on."""
        self._health.set_serving()

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new calls, let those under way finish, and stop listening. A second call does nothing."""
        self._health.end()
        self._calls.drain()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._calls.wait_until_none_runs()
        except TimeoutError:
            _log.warning("calls did not finish in time and are cut off", calls=self._calls.running)
        await self._server.stop(_LAST_WORDS_SECONDS)
        # Handlers that were cut off give back what they hold.
        await self._calls.wait_until_none_runs()


@asynccontextmanager
async def rpc_server(
    storage: Storage, address: HostPort | UnixPath, config: EdgeConfig, registry: CollectorRegistry
) -> AsyncIterator[RpcServer]:
    """Serve a storage at an address for as long as the context lasts. Leaving it drains without grace.

    :param registry: gets the metrics of the calls
    :raises NotAllowed: the address is taken
    """
    calls = Calls(config, CallMetrics(registry), end_at_drain=WAITING_STREAMS)
    health = Health(SERVICES)
    server = grpc.aio.server(interceptors=[calls], options=server_options())
    by_name: Any = _ByName(server)
    dataset_pb2_grpc.add_DatasetServiceServicer_to_server(DatasetService(storage), by_name)
    add_volume_service(VolumeService(storage, config), server)
    operation_pb2_grpc.add_OperationServiceServicer_to_server(OperationService(storage), by_name)
    watch_pb2_grpc.add_WatchServiceServicer_to_server(WatchService(storage), by_name)
    maintenance_pb2_grpc.add_MaintenanceServiceServicer_to_server(MaintenanceService(storage, config), by_name)
    health_pb2_grpc.add_HealthServicer_to_server(health, by_name)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((*SERVICES, health_name, reflection.SERVICE_NAME), by_name)

    with ExitStack() as stack:
        bound = _bind(server, address, stack)
        await server.start()
        running = RpcServer(server, bound, calls, health)
        try:
            yield running
        finally:
            await running.drain(0)


def _bind(server: grpc.aio.Server, address: HostPort | UnixPath, stack: ExitStack) -> HostPort | UnixPath:
    try:
        match address:
            case UnixPath():
                stack.enter_context(unix_socket(address, lambda path: server.add_insecure_port(f"unix:{path}")))
                return address
            case HostPort(host):
                return HostPort(host, server.add_insecure_port(str(address)))
    except RuntimeError:
        # What gRPC raises names neither the reason nor, always, the address.
        raise NotAllowed(
            f"cannot listen on {address}", reason=Reason.LOCKED, metadata={"field": "grpc", "value": address}
        ) from None
