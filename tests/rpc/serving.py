"""A real server and a channel to it, and what a failed call says."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from prometheus_client import CollectorRegistry

from magd.rpc.addresses import HostPort, UnixPath
from magd.rpc.admission import EdgeConfig
from magd.rpc.errors import STATUS_KEY
from magd.rpc.server import RpcServer, rpc_server
from magd.v1 import (
    dataset_pb2_grpc,
    maintenance_pb2_grpc,
    operation_pb2_grpc,
    volume_pb2_grpc,
    watch_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from magd.actors.storage import Storage

ANYWHERE = HostPort("127.0.0.1", 0)


@dataclass(frozen=True)
class Served:
    """A running server, and a channel to it."""

    rpc: RpcServer
    channel: grpc.aio.Channel
    registry: CollectorRegistry


@asynccontextmanager
async def served(
    storage: Storage, *, address: HostPort | UnixPath = ANYWHERE, config: EdgeConfig | None = None
) -> AsyncIterator[Served]:
    """Serve a storage for as long as the context lasts."""
    registry = CollectorRegistry()
    async with rpc_server(storage, address, config or EdgeConfig(), registry) as rpc:
        rpc.set_serving()
        async with grpc.aio.insecure_channel(str(rpc.address)) as channel:
            yield Served(rpc, channel, registry)


# The generated classes of stubs are the same for both kinds of channels; only their types differ.


def dataset_stub(channel: Any) -> dataset_pb2_grpc.DatasetServiceAsyncStub:
    return dataset_pb2_grpc.DatasetServiceStub(channel)  # type: ignore[return-value]


def volume_stub(channel: Any) -> volume_pb2_grpc.VolumeServiceAsyncStub:
    return volume_pb2_grpc.VolumeServiceStub(channel)  # type: ignore[return-value]


def operation_stub(channel: Any) -> operation_pb2_grpc.OperationServiceAsyncStub:
    return operation_pb2_grpc.OperationServiceStub(channel)  # type: ignore[return-value]


def watch_stub(channel: Any) -> watch_pb2_grpc.WatchServiceAsyncStub:
    return watch_pb2_grpc.WatchServiceStub(channel)  # type: ignore[return-value]


def maintenance_stub(channel: Any) -> maintenance_pb2_grpc.MaintenanceServiceAsyncStub:
    return maintenance_pb2_grpc.MaintenanceServiceStub(channel)  # type: ignore[return-value]


@dataclass(frozen=True)
class Failure:
    """What a failed call says."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    retry_seconds: float | None = None


def failure_from(error: grpc.aio.AioRpcError) -> Failure:
    """Decode the details of a failed call, as a client does."""
    reason, metadata, fields, retry_seconds = "", {}, (), None
    trailers = dict(error.trailing_metadata() or ())
    if STATUS_KEY in trailers:
        status = Status.FromString(trailers[STATUS_KEY])
        assert status.code == error.code().value[0]
        assert status.message == error.details()
        for detail in status.details:
            info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
            if detail.Unpack(info):
                assert info.domain == "magd"
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad):
                fields = tuple(violation.field for violation in bad.field_violations)
            elif detail.Unpack(retry):
                retry_seconds = retry.retry_delay.ToMilliseconds() / 1000
    return Failure(error.code(), error.details() or "", reason, metadata, fields, retry_seconds)


async def failure_of(call: Awaitable[Any]) -> Failure:
    """The failure of a call that must fail."""
    try:
        result = await call
    except grpc.aio.AioRpcError as error:
        return failure_from(error)
    raise AssertionError(f"the call did not fail but returned {result!r}")
