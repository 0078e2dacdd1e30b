"""The server as a whole: addresses, health, reflection."""

# ruff: noqa: ASYNC240  # looking at small folders blocks nobody here

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from magd.errors import InvalidRequest, NotAllowed
from magd.rpc.addresses import HostPort, UnixPath, check_free, parse_address
from magd.rpc.admission import EdgeConfig
from magd.rpc.health import Health
from magd.rpc.server import SERVICES, RpcServer, rpc_server
from magd.v1.maintenance_pb2 import GetStatusRequest
from magd.voxels import VoxelFormat
from tests.rpc.fake_storage import FakeStorage
from tests.rpc.serving import failure_of, maintenance_stub, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def rpc() -> AsyncIterator[RpcServer]:
    """A server that does not take calls yet."""
    storage = FakeStorage(VoxelFormat.of("uint8", 1))
    address = HostPort("127.0.0.1", 0)
    async with rpc_server(storage.as_storage(), address, EdgeConfig(), CollectorRegistry()) as server:
        yield server


def fake() -> Any:
    return FakeStorage(VoxelFormat.of("uint8", 1)).as_storage()


# -- health ----------------------------------------------------------------------------------------------------


async def test_health_is_not_serving_until_the_server_is_ready_and_from_the_moment_of_a_drain(
    rpc: RpcServer,
) -> None:
    async with grpc.aio.insecure_channel(str(rpc.address)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        async def health() -> set[Any]:
            requests = [health_pb2.HealthCheckRequest(service=name) for name in ("", *SERVICES)]
            return {(await stub.Check(request)).status for request in requests}

        assert await health() == {NOT_SERVING}
        rpc.set_serving()
        assert await health() == {SERVING}
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        drain = asyncio.ensure_future(rpc.drain(30))
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        await drain


async def test_the_health_of_an_unknown_service_is_not_found(rpc: RpcServer) -> None:
    async with grpc.aio.insecure_channel(str(rpc.address)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="nothing")
        assert (await failure_of(stub.Check(request))).code is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(request)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_a_health_watcher_that_leaves_does_not_take_the_others_along() -> None:
    health = Health(["a"])
    watches = [health.Watch(health_pb2.HealthCheckRequest(service="a"), None) for _ in range(2)]  # type: ignore[arg-type]
    for watch in watches:
        assert (await anext(watch)).status == NOT_SERVING
    waiting = [asyncio.ensure_future(_next(watch)) for watch in watches]
    await asyncio.sleep(0)
    waiting[0].cancel()
    health.set_serving()
    assert (await waiting[1]).status == SERVING


async def _next(watch: AsyncIterator[Any]) -> Any:
    return await anext(watch)


# -- reflection ------------------------------------------------------------------------------------------------


async def test_reflection_names_every_service(rpc: RpcServer) -> None:
    async with grpc.aio.insecure_channel(str(rpc.address)) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        responses = [response async for response in stub.ServerReflectionInfo(iter([request]))]
        names = {service.name for service in responses[0].list_services_response.service}
        assert names > {*SERVICES, "grpc.health.v1.Health"}


# -- addresses -------------------------------------------------------------------------------------------------


def test_addresses_are_read() -> None:
    assert parse_address("127.0.0.1:7733", field="grpc") == HostPort("127.0.0.1", 7733)
    assert parse_address("[::1]:0", field="grpc") == HostPort("::1", 0)
    assert parse_address("unix:/run/magd.sock", field="grpc") == UnixPath("/run/magd.sock")
    assert str(HostPort("::1", 5)) == "[::1]:5"
    assert str(UnixPath("/a")) == "unix:/a"


@pytest.mark.parametrize("text", ["", "localhost", ":1", "a:", "a:x", "a:-1", "a:65536", "unix:", "unix:a\0b"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_address(text, field="grpc")
    assert caught.value.metadata["field"] == "grpc"


def test_only_loopback_is_local() -> None:
    local = {host: HostPort(host, 1).is_local for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")}
    assert all(local.values()), local
    others = {host: HostPort(host, 1).is_local for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")}
    assert not any(others.values()), others


async def test_a_second_server_on_the_same_port_is_refused_by_name(rpc: RpcServer) -> None:
    assert isinstance(rpc.address, HostPort)
    with pytest.raises(NotAllowed, match=f"127.0.0.1:{rpc.address.port}"):
        async with served(fake(), address=rpc.address):
            pytest.fail("two servers share a port")
    with pytest.raises(NotAllowed, match=f"127.0.0.1:{rpc.address.port}: another server listens there"):
        check_free(rpc.address, field="grpc")


def test_why_an_address_cannot_be_used_is_said() -> None:
    check_free(HostPort("127.0.0.1", 0), field="grpc")
    with pytest.raises(InvalidRequest, match="no such address"):
        check_free(HostPort("203.0.113.7", 0), field="grpc")
    with pytest.raises(InvalidRequest, match="not known"):
        check_free(HostPort("no.such.host.invalid", 1), field="grpc")


async def test_a_unix_socket_admits_only_this_user_and_goes_with_its_server(unix_address: str) -> None:
    address = UnixPath(unix_address.removeprefix("unix:"))
    folder = Path(address.path).parent
    async with served(fake(), address=address) as server:
        assert str(server.rpc.address) == unix_address
        assert stat.S_IMODE(os.stat(address.path).st_mode) == 0o600
        assert [entry.name for entry in folder.iterdir()] == ["socket"]
        await maintenance_stub(server.channel).GetStatus(GetStatusRequest())
    assert list(folder.iterdir()) == []


async def test_a_stale_socket_is_replaced(unix_address: str) -> None:
    address = UnixPath(unix_address.removeprefix("unix:"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(address.path)
    check_free(address, field="grpc")
    async with served(fake(), address=address) as server:
        await maintenance_stub(server.channel).GetStatus(GetStatusRequest())


async def test_a_socket_on_which_a_server_listens_is_left_alone(unix_address: str) -> None:
    address = UnixPath(unix_address.removeprefix("unix:"))
    async with served(fake(), address=address) as server:
        with pytest.raises(NotAllowed, match="another server listens there"):
            async with served(fake(), address=address):
                pytest.fail("the socket was taken away")
        await maintenance_stub(server.channel).GetStatus(GetStatusRequest())


async def test_a_file_that_is_no_socket_is_left_alone(unix_address: str) -> None:
    path = Path(unix_address.removeprefix("unix:"))
    path.write_text("precious")
    with pytest.raises(NotAllowed, match="no socket"):
        async with served(fake(), address=UnixPath(str(path))):
            pytest.fail("the file was replaced")
    assert path.read_text() == "precious"


async def test_a_server_that_stops_leaves_the_socket_of_its_successor(unix_address: str) -> None:
    path = Path(unix_address.removeprefix("unix:"))
    async with served(fake(), address=UnixPath(str(path))):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.is_socket()


async def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="longer than"):
        async with served(fake(), address=UnixPath(str(tmp_path / ("x" * 100)))):
            pytest.fail("the path was cut")
