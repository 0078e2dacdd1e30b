"""The daemon as a whole: it starts, says so, serves, and stops without losing anything."""

# ruff: noqa: ASYNC240, SIM117  # looking at small folders blocks nobody; contexts are read from outside in

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from magd.actors.types import StorageConfig
from magd.daemon import CANNOT_START, DaemonConfig, Ready, run
from magd.errors import InvalidRequest, MagdError, NotAllowed, Reason
from magd.v1.dataset_pb2 import (
    LAYER_CATEGORY_COLOR,
    CreateDatasetRequest,
    CreateLayerRequest,
    CreateMagRequest,
    GetDatasetRequest,
    VoxelSize,
)
from magd.v1.maintenance_pb2 import GetStatusRequest
from magd.v1.types_pb2 import DATA_TYPE_UINT8, Vec3
from magd.v1.volume_pb2 import ReadBoxRequest, WriteBoxRequest
from magd.v1.watch_pb2 import WatchRequest
from tests.rpc.serving import dataset_stub, failure_of, maintenance_stub, volume_stub, watch_stub
from tests.rpc.test_write_box import box_message, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAG = "datasets/brain/layers/color/mags/1"
SERVE = """
import json, sys
from magd.daemon import DaemonConfig, serve
if __name__ == "__main__":  # the workers import this file
    sys.exit(serve(DaemonConfig(**json.loads(sys.argv[1]))))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def config_for(root: Path, **settings: Any) -> DaemonConfig:
    config = DaemonConfig(
        str(root),
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        storage=StorageConfig(budget_bytes=64 << 20, io_threads=2, pool_workers=1),
        grace_seconds=10,
    )
    return replace(config, **settings)


class Running:
    """A daemon in this process."""

    def __init__(self, config: DaemonConfig) -> None:
        loop = asyncio.get_running_loop()
        self.shutdown: asyncio.Future[None] = loop.create_future()
        self._ready: asyncio.Future[Ready] = loop.create_future()
        self.task = loop.create_task(run(config, shutdown=self.shutdown, on_ready=self._ready.set_result))

    async def ready(self) -> Ready:
        either: set[asyncio.Future[Any]] = {self._ready, self.task}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            await self.task
        return await self._ready

    async def stop(self) -> None:
        if not self.shutdown.done():
            self.shutdown.set_result(None)
        await self.task


@asynccontextmanager
async def running(config: DaemonConfig) -> AsyncIterator[tuple[Running, Ready]]:
    daemon = Running(config)
    ready = await daemon.ready()
    try:
        yield daemon, ready
    finally:
        await daemon.stop()


async def make_mag(channel: grpc.aio.Channel) -> None:
    stub = dataset_stub(channel)
    await stub.CreateDataset(CreateDatasetRequest(dataset_id="brain", voxel_size=VoxelSize(x=1, y=1, z=1)))
    await stub.CreateLayer(
        CreateLayerRequest(
            parent="datasets/brain",
            layer_id="color",
            category=LAYER_CATEGORY_COLOR,
            data_type=DATA_TYPE_UINT8,
        )
    )
    await stub.CreateMag(
        CreateMagRequest(parent="datasets/brain/layers/color", factor=Vec3(x=1, y=1, z=1), block_len=8, file_len=2)
    )


def header(size: tuple[int, int, int], data: bytes = b"") -> WriteBoxRequest:
    return WriteBoxRequest(
        name=MAG,
        box=box_message((0, 0, 0), size),
        data_type=DATA_TYPE_UINT8,
        num_channels=1,
        data=data,
    )


async def start_error(config: DaemonConfig) -> MagdError:
    """Why a daemon could not start."""
    with pytest.raises((MagdError, ExceptionGroup)) as caught:
        await Running(config).ready()
    error: BaseException = caught.value
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, MagdError)
    return error


# -- in this process -------------------------------------------------------------------------------------------


async def test_a_daemon_serves_both_ports_and_keeps_what_was_written_over_a_restart(root: Path) -> None:
    config = config_for(root)
    async with running(config) as (_, ready):
        assert str(ready) == f"magd ready grpc={ready.grpc} http={ready.http}"
        async with grpc.aio.insecure_channel(ready.grpc) as channel:
            await make_mag(channel)
            await volume_stub(channel).WriteBox(iter([header((2, 2, 2), b"abcdefgh")]))
            await failure_of(dataset_stub(channel).GetDataset(GetDatasetRequest(name="datasets/none")))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{ready.http}/readyz?verbose") as response:
                assert (response.status, await response.text()) == (200, "[+]grpc ok\n[+]storage ok\nready\n")
            async with session.get(f"http://{ready.http}/metrics") as response:
                metrics = await response.text()
        calls = 'magd_rpc_calls_total{code="%s",method="%s"} 1.0'
        assert calls % ("OK", "VolumeService/WriteBox") in metrics
        assert calls % ("NOT_FOUND", "DatasetService/GetDataset") in metrics
        assert 'magd_mags{state="serving"} 1.0' in metrics

    async with running(config) as (_, ready), grpc.aio.insecure_channel(ready.grpc) as channel:
        responses = [each async for each in volume_stub(channel).ReadBox(ReadBoxRequest(name=MAG))]
        assert responses[0].data == b"abcdefgh"


async def test_a_daemon_without_http_serves_grpc_over_a_unix_socket(root: Path, unix_address: str) -> None:
    async with running(config_for(root, grpc=unix_address, http=None)) as (_, ready):
        assert str(ready) == f"magd ready grpc={unix_address}"
        async with grpc.aio.insecure_channel(ready.grpc) as channel:
            await maintenance_stub(channel).GetStatus(GetStatusRequest())


async def test_a_stop_lets_an_upload_finish_and_ends_watches(root: Path) -> None:
    async with running(config_for(root)) as (daemon, ready):
        async with grpc.aio.insecure_channel(ready.grpc) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            await make_mag(channel)
            watch = aiter(watch_stub(channel).Watch(WatchRequest()))
            await anext(watch)
            upload = volume_stub(channel).WriteBox()
            await upload.write(header((64, 64, 64)))
            await upload.initial_metadata()

            daemon.shutdown.set_result(None)
            request = health_pb2.HealthCheckRequest()
            assert (await failure_of(anext(watch))).reason == Reason.SHUTTING_DOWN
            not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
            assert (await health.Check(request)).status == not_serving
            failure = await failure_of(maintenance_stub(channel).GetStatus(GetStatusRequest()))
            assert failure.reason == Reason.SHUTTING_DOWN
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{ready.http}/readyz") as response,
            ):
                assert response.status == 503
                assert "[-]grpc not serving" in await response.text()

            assert not daemon.task.done()
            await upload.write(WriteBoxRequest(data=b"x" * 64**3))
            await upload.done_writing()
            assert (await upload).revision.counter == 1
            await daemon.task
    files = sorted(root.glob("brain/color/1/z*/y*/x*.wkw"))
    assert len(files) == 4**3


async def test_a_call_that_does_not_end_is_cut_off_when_the_grace_is_over(root: Path) -> None:
    async with running(config_for(root, grace_seconds=0.1)) as (daemon, ready):
        async with grpc.aio.insecure_channel(ready.grpc) as channel:
            await make_mag(channel)
            upload = volume_stub(channel).WriteBox()
            await upload.write(header((64, 64, 64)))
            await upload.initial_metadata()
            await daemon.stop()
            assert (await upload.code()) is not grpc.StatusCode.OK
    assert not list(root.glob("brain/color/1/z*"))


async def test_a_second_daemon_on_the_same_root_is_refused(root: Path) -> None:
    async with running(config_for(root)):
        error = await start_error(config_for(root))
    assert isinstance(error, NotAllowed)
    assert error.reason is Reason.LOCKED
    assert str(root) in str(error)


@pytest.mark.parametrize("field", ["grpc", "http"])
async def test_a_second_daemon_on_the_same_port_is_refused(field: str, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    async with running(config_for(root)) as (_, ready):
        address = getattr(ready, field)
        error = await start_error(config_for(other, **{field: address}))
    assert isinstance(error, NotAllowed)
    assert str(error) == f"cannot listen on {address}: another server listens there"


@pytest.mark.parametrize("field", ["grpc", "http"])
async def test_addresses_that_others_can_reach_need_insecure(field: str, root: Path) -> None:
    error = await start_error(config_for(root, **{field: "0.0.0.0:0"}))
    assert isinstance(error, NotAllowed)
    assert "--insecure" in str(error)
    assert "nothing is encrypted" in str(error)
    async with running(config_for(root, **{field: "0.0.0.0:0"}, insecure=True)) as (_, ready):
        assert getattr(ready, field).startswith("0.0.0.0:")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"root": "/does/not/exist"}, "root"),
        ({"grpc": "nonsense"}, "grpc"),
        ({"http": "unix:/tmp/x"}, "http"),
        ({"stall_seconds": 0}, "stall_seconds"),
        ({"min_rate_bytes_per_second": 0}, "min_rate_bytes_per_second"),
        ({"storage": StorageConfig(pool_workers=-1)}, "workers"),
    ],
)
async def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], field: str, root: Path) -> None:
    error = await start_error(replace(config_for(root), **settings))
    assert isinstance(error, InvalidRequest)
    assert error.metadata["field"] == field


async def test_a_failed_start_leaves_the_root_free(root: Path) -> None:
    await start_error(config_for(root, storage=StorageConfig(pool_workers=-1)))
    async with running(config_for(root)):
        pass


async def test_read_only_leaves_no_trace(root: Path) -> None:
    async with running(config_for(root)) as (_, ready), grpc.aio.insecure_channel(ready.grpc) as channel:
        await make_mag(channel)
        await volume_stub(channel).WriteBox(iter([header((2, 2, 2), b"abcdefgh")]))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    storage = StorageConfig(read_only=True, pool_workers=1)
    async with running(config_for(root, storage=storage)) as (_, ready):
        async with grpc.aio.insecure_channel(ready.grpc) as channel:
            responses = [each async for each in volume_stub(channel).ReadBox(ReadBoxRequest(name=MAG))]
            assert responses[0].data == b"abcdefgh"
            failure = await failure_of(volume_stub(channel).WriteBox(iter([header((2, 2, 2))])))
            assert failure.reason == Reason.READ_ONLY
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


# -- as a process ----------------------------------------------------------------------------------------------


def start(script: Path, **settings: Any) -> subprocess.Popen[str]:
    wanted = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", **settings}
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps(wanted)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "serve_it.py"
    path.write_text(SERVE)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_daemon_with_status_0(number: signal.Signals, script: Path, root: Path) -> None:
    with start(script, root=str(root), log_format="json") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("magd ready grpc=127.0.0.1:")
        process.send_signal(number)
        rest, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert rest == ""
    events = [json.loads(entry) for entry in log.splitlines()]
    assert [entry["event"] for entry in events] == ["ready", "stopping", "stopped"]
    assert events[0]["logger"] == "magd"
    assert events[0]["level"] == "info"


async def test_a_second_signal_ends_the_daemon_at_once(script: Path, root: Path) -> None:
    with start(script, root=str(root)) as process:
        assert process.stdout is not None
        ready = (await asyncio.to_thread(process.stdout.readline)).split()
        async with grpc.aio.insecure_channel(ready[2].removeprefix("grpc=")) as channel:
            await make_mag(channel)
            # An upload that does not end keeps the daemon from stopping.
            upload = volume_stub(channel).WriteBox()
            await upload.write(header((64, 64, 64)))
            await upload.initial_metadata()
            process.terminate()
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            while (await watch.read()) is not grpc.aio.EOF:
                pass
            process.terminate()
            await asyncio.to_thread(process.communicate)
    assert process.returncode == -signal.SIGTERM


def test_what_keeps_a_daemon_from_starting_is_one_line(script: Path, root: Path) -> None:
    for settings, text in (
        ({"root": str(root / "missing")}, "is not a folder"),
        ({"root": str(root), "grpc": "1.2.3.4:1"}, "--insecure"),
        ({"root": str(root), "grpc": "127.0.0.1:notaport"}, "expected HOST:PORT"),
    ):
        with start(script, **settings) as process:
            output, errors = process.communicate(timeout=30)
        assert process.returncode == CANNOT_START
        assert output == ""
        assert errors.startswith("magd: ")
        assert errors.count("\n") == 1
        assert text in errors


def test_a_killed_daemon_leaves_no_process_behind(script: Path, root: Path) -> None:
    with start(script, root=str(root)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = _children(process.pid)
        assert children
        process.kill()
        process.communicate(timeout=30)
    asyncio.run(until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children)))


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found
