"""Large boxes through shared memory, with a real daemon on a unix socket."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import magd_client
from magd.actors.region_files import PREFIX
from magd.framing import WriteFrame
from magd.v1.types_pb2 import DATA_TYPE_UINT8
from magd.v1.volume_pb2 import SharedMemory, ShareMemoryRequest, ShareMemoryResponse, WriteBoxRequest
from magd_client import aio, methods, transfer
from magd_client._sync.sharing import MOST_TROUBLES
from magd_client.regions import Region, RegionFiles
from magd_client.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from magd.voxels import VoxelArray
    from tests.conftest import Serve
    from tests.support.daemon import Daemon

EDGE = 192
"""A cube of so many voxels is above the size from which shared memory is used."""
RANDOM = np.random.default_rng(3)
DATA = np.asfortranarray(RANDOM.integers(0, 256, (EDGE, EDGE, EDGE), dtype=np.uint8))


class Used:
    """The regions that clients of this process have opened."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @property
    def count(self) -> int:
        return len(self.names)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Used:
    """Counts uses of regions."""
    used = Used()
    open_region = RegionFiles.open

    def note(files: RegionFiles, leased: ShareMemoryResponse) -> Region:
        used.names.append(leased.region)
        return open_region(files, leased)

    monkeypatch.setattr(RegionFiles, "open", note)
    return used


class Where:
    """Where daemons make their regions.

    :param folder: None: they are sealed
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @property
    def options(self) -> tuple[str, ...]:
        return () if self.folder is None else ("--shared-memory-dir", str(self.folder))

    def regions(self, daemon: Daemon) -> set[str]:
        """The names of a daemon's regions."""
        if self.folder is not None:
            return {name for _, _, names in os.walk(self.folder) for name in names}
        return sealed_files(daemon.pid)


def sealed_files(pid: int) -> set[str]:
    """The names of the sealed files that a process has open."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
            if match := re.fullmatch(r"/memfd:magd-([0-9a-f]+) \(deleted\)", link):
                found.add(match[1])
    return found


@pytest.fixture
def shared_dir(tmp_path: Path) -> Path:
    """A folder for regions."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture(params=["sealed", "in a folder"])
def where(request: pytest.FixtureRequest, shared_dir: Path) -> Where:
    return Where(None if request.param == "sealed" else shared_dir)


@pytest.fixture
def daemon(serve: Serve, tmp_path: Path, where: Where, unix_address: str) -> Daemon:
    """A daemon that shares memory."""
    return start(serve, tmp_path, where, unix_address)


def start(serve: Serve, tmp_path: Path, where: Where, address: str, *options: str) -> Daemon:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    return serve(root, *where.options, *options, grpc=address)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[magd_client.Client]:
    with magd_client.connect(daemon.grpc) as client:
        yield client


@pytest.fixture
def mag(client: magd_client.Client) -> magd_client.MagHandle:
    return make_mag(client)


def make_mag(client: magd_client.Client, name: str = "color") -> magd_client.MagHandle:
    dataset = client.create_dataset("cortex", voxel_size=(1, 1, 1), exist_ok=True)
    return dataset.add_layer(name, dtype="uint8").add_mag(1, block_len=32, file_len=4)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_large_box_goes_through_a_region_and_comes_back_the_same(
    mag: magd_client.MagHandle, daemon: Daemon, used: Used, where: Where
) -> None:
    mag.write(DATA, offset=(5, 6, 7), durability="process")
    got = mag.read((5, 6, 7), DATA.shape)
    assert (got[0] == DATA).all()
    assert used.count == 2
    assert len(set(used.names)) == 1, "the region is kept for the same client"
    with magd_client.connect(daemon.grpc, shared_memory=False) as plain:
        assert (plain.dataset("cortex").layer("color").mag(1).read((5, 6, 7), DATA.shape) == got).all()
        assert used.count == 2
    got[...] = 0  # the caller's own
    assert (mag.read((5, 6, 7), DATA.shape)[0] == DATA).all()
    assert len(where.regions(daemon)) == 1
    if where.folder is None:
        return
    (folder,) = where.folder.iterdir()
    assert folder.name.startswith(PREFIX)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_small_boxes_go_through_the_socket(mag: magd_client.MagHandle, used: Used) -> None:
    mag.write(DATA[:32, :32, :32])
    assert (mag.read((0, 0, 0), (32, 32, 32))[0] == DATA[:32, :32, :32]).all()
    assert used.count == 0


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes of any size go through shared memory, in pieces of a few bytes."""
    monkeypatch.setattr("magd_client._sync.connection.SHARED_BYTES", 1)
    monkeypatch.setattr(transfer, "PIECE_BYTES", 1000)


@pytest.mark.usefixtures("small_pieces")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(0, 10**9),
    dtype=st.sampled_from(["uint8", "uint16", "float32", "int64"]),
    channels=st.integers(1, 3),
    box=st.tuples(*[st.tuples(st.integers(0, 40), st.integers(1, 24)) for _ in range(3)]),
    order=st.sampled_from(["F", "C"]),
    compressed=st.booleans(),
)
def test_boxes_of_any_kind_are_the_same_with_and_without_shared_memory(
    daemon: Daemon,
    client: magd_client.Client,
    used: Used,
    number: int,
    dtype: str,
    channels: int,
    box: tuple[tuple[int, int], ...],
    order: str,
    compressed: bool,
) -> None:
    offset, size = [start for start, _ in box], [length for _, length in box]
    random = np.random.default_rng(number)
    data: VoxelArray = random.integers(0, 100, (channels, *size)).astype(dtype)
    data = np.asarray(data, order=order)  # type: ignore[call-overload]
    name = f"{number}-{len(used.names)}-{random.integers(1 << 60)}"
    dataset = client.create_dataset("cortex", voxel_size=(1, 1, 1), exist_ok=True)
    layer = dataset.add_layer(name, dtype=dtype, num_channels=channels)
    shared = layer.add_mag(1, block_len=8, file_len=2, compressed=compressed)
    before = used.count
    shared.write(data, offset=offset, durability="process")
    assert (shared.read(offset, size) == data).all()
    with magd_client.connect(daemon.grpc, shared_memory=False) as plain:
        mag = plain.dataset("cortex").layer(name).mag(1)
        assert used.count == before + 2
        assert (mag.read(offset, size) == data).all()
        mag.write(data[:, ::-1], offset=offset, durability="none")
    assert (shared.read(offset, size) == data[:, ::-1]).all()
    layer.delete()


async def test_the_async_client_shares_memory_too(daemon: Daemon, mag: magd_client.MagHandle, used: Used) -> None:
    async with aio.connect(daemon.grpc) as client:
        here = client.dataset("cortex").layer("color").mag(1)
        writes = [here.write(DATA, offset=(0, 0, EDGE * i), durability="process") for i in range(3)]
        await asyncio.gather(*writes)
        boxes = await asyncio.gather(*(here.read((0, 0, EDGE * i), DATA.shape) for i in range(3)))
        assert all((box[0] == DATA).all() for box in boxes)
        assert used.count == 6
        lease = asyncio.create_task(here.read((0, 0, 0), DATA.shape))
        await asyncio.sleep(0)
        lease.cancel()
        await asyncio.wait([lease])
        assert ((await here.read((0, 0, 0), DATA.shape))[0] == DATA).all()
    assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA).all()


def test_threads_share_one_connection(mag: magd_client.MagHandle, used: Used) -> None:
    def work(number: int) -> bool:
        mine = np.asfortranarray(DATA + np.uint8(number))
        mag.write(mine, offset=(0, EDGE * number, 0), durability="process")
        return bool((mag.read((0, EDGE * number, 0), DATA.shape)[0] == mine).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))
    assert used.count == 16


def test_a_box_larger_than_a_clients_share_goes_there_as_far_as_there_is_room(
    serve: Serve, tmp_path: Path, where: Where, unix_address: str, used: Used
) -> None:
    daemon = start(serve, tmp_path, where, unix_address, "--shared-memory", "8MiB")
    with magd_client.connect(daemon.grpc) as client:
        assert client.get_server_info().limits.shared_memory_bytes == 8 << 20
        mag = make_mag(client)
        mag.write(DATA)
        assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA).all()
        assert used.count == 2
        c_order = np.ascontiguousarray(DATA[::-1])
        mag.write(c_order)
        assert (mag.read((0, 0, 0), DATA.shape)[0] == c_order).all()


def test_two_clients_never_get_the_same_region(daemon: Daemon, mag: magd_client.MagHandle, used: Used) -> None:
    with magd_client.connect(daemon.grpc) as other:
        for _ in range(3):
            mag.write(DATA)
            assert (other.dataset("cortex").layer("color").mag(1).read((0, 0, 0), DATA.shape)[0] == DATA).all()
    assert len(set(used.names[0::2])) == len(set(used.names[1::2])) == 1
    assert not set(used.names[0::2]) & set(used.names[1::2])


@pytest.mark.parametrize("how", ["--no-shared-memory", "tcp"])
def test_without_shared_memory_everything_goes_through_the_socket(
    serve: Serve, tmp_path: Path, shared_dir: Path, unix_address: str, used: Used, how: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    daemon = (
        serve(root, "--shared-memory-dir", str(shared_dir))
        if how == "tcp"
        else serve(root, "--no-shared-memory", grpc=unix_address)
    )
    with magd_client.connect(daemon.grpc) as client:
        assert client.get_server_info().limits.shared_memory_bytes == 0
        mag = make_mag(client)
        mag.write(DATA)
        assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA).all()
        conversation = mag._connection.transport.converse(methods.SHARE_MEMORY)
        with pytest.raises(magd_client.Unimplemented, match="unix socket"):
            conversation.ask(ShareMemoryRequest(lease_bytes=1), 10)
        request = WriteBoxRequest(name=mag.name, shared_memory=SharedMemory(region="r", size=8))
        with pytest.raises(magd_client.Unimplemented, match="shared_memory"):
            upload(mag, request)
    assert used.count == 0
    assert list(shared_dir.iterdir()) == []


def upload(mag: magd_client.MagHandle, request: WriteBoxRequest) -> None:
    frame = WriteFrame(request, b"")
    mag._connection.transport.upload(methods.WRITE_BOX, frame, iter(()), 10, lambda _: None)


def test_a_region_that_is_not_leased_is_refused_by_name(mag: magd_client.MagHandle) -> None:
    mag.write(DATA)  # finds out what the mag is
    target = mag._target
    assert target is not None
    request = WriteBoxRequest(name=mag.name, data_type=DATA_TYPE_UINT8, num_channels=1, request_id="")
    request.box.size.x = request.box.size.y = request.box.size.z = 2
    for shared in (SharedMemory(region="0" * 32, size=8), SharedMemory(region="../../etc/passwd", size=8)):
        request.shared_memory.CopyFrom(shared)
        with pytest.raises(magd_client.InvalidRequest, match="not leased") as refused:
            upload(mag, request)
        assert refused.value.metadata["field"] == "shared_memory"


def test_when_the_client_closes_its_regions_and_their_memory_are_given_back(
    daemon: Daemon, mag: magd_client.MagHandle, where: Where
) -> None:
    with magd_client.connect(daemon.grpc) as other:
        other.dataset("cortex").layer("color").mag(1).write(DATA)
        assert len(where.regions(daemon)) == 1
    eventually(lambda: not where.regions(daemon))
    mag.flush()
    with magd_client.connect(daemon.grpc) as plain:
        eventually(lambda: plain.get_status().budget_used_bytes == 0)


CHILD = """
    import sys, numpy as np, magd_client
    mag = magd_client.connect(sys.argv[1]).dataset("cortex").layer("color").mag(1)
    data = np.zeros((192, 192, 192), np.uint8, order="F")
    print("go", flush=True)
    while True:
        mag.write(data, durability="process")
        mag.read((0, 0, 0), data.shape)
"""


def test_when_a_client_is_killed_its_regions_and_their_memory_are_given_back(
    daemon: Daemon, mag: magd_client.MagHandle, where: Where
) -> None:
    for pause in (0.0, 0.2, 0.33):
        command = [sys.executable, "-c", textwrap.dedent(CHILD), daemon.grpc]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            eventually(lambda: len(where.regions(daemon)) > 0)
            time.sleep(pause)  # so that it is at another place of its work
            child.kill()
        eventually(lambda: not where.regions(daemon))
        mag.flush()
        with magd_client.connect(daemon.grpc) as client:
            eventually(lambda: client.get_status().budget_used_bytes == 0)


def test_after_the_daemon_was_killed_the_client_goes_on_and_nothing_is_left(
    serve: Serve, tmp_path: Path, where: Where, unix_address: str, used: Used
) -> None:
    daemon = start(serve, tmp_path, where, unix_address)
    with magd_client.connect(daemon.grpc, retry=RetryPolicy(max_seconds=0.2)) as client:
        mag = make_mag(client)
        mag.write(DATA, durability="process")
        before = where.regions(daemon)
        assert len(before) == 1
        daemon.kill()
        # Nobody was there to remove a folder; sealed files end with the process.
        left = [] if where.folder is None else list(where.folder.iterdir())
        assert len(left) == (where.folder is not None)
        again = start(serve, tmp_path, where, unix_address)
        assert not [folder for folder in left if folder.exists()], "the next daemon removes it"
        for _ in range(3):
            mag.write(DATA, offset=(EDGE, 0, 0), durability="process")
            assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA).all()
        assert len(set(used.names)) == 2, "memory is shared again"
        assert not where.regions(again) & before
        assert not sealed_files(os.getpid()) & before, "nor does the client hold the memory of the first daemon"
        assert again.stop() == 0
    assert where.folder is None or list(where.folder.iterdir()) == []
    assert not sealed_files(os.getpid())


def test_a_daemon_leaves_the_regions_of_another_one_alone(
    serve: Serve, tmp_path: Path, shared_dir: Path, unix_address: str, used: Used
) -> None:
    daemon = start(serve, tmp_path, Where(shared_dir), unix_address)
    with magd_client.connect(daemon.grpc) as client:
        _write_beside_another_daemon(make_mag(client), serve, tmp_path, shared_dir, daemon, used)


def _write_beside_another_daemon(
    mag: magd_client.MagHandle, serve: Serve, tmp_path: Path, shared_dir: Path, daemon: Daemon, used: Used
) -> None:
    mag.write(DATA)
    other_root = tmp_path / "other"
    other_root.mkdir()
    address = f"{daemon.grpc}-2"
    serve(other_root, "--shared-memory-dir", str(shared_dir), grpc=address)
    assert len(list(shared_dir.iterdir())) == 2
    assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA).all()
    assert len(set(used.names)) == 1


def test_a_file_that_cannot_be_opened_means_plain_grpc_and_soon_no_further_tries(
    mag: magd_client.MagHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def refuse(*_: object) -> Region:
        nonlocal tries
        tries += 1
        raise PermissionError(13, "of another user")

    monkeypatch.setattr(RegionFiles, "open", refuse)
    for _ in range(MOST_TROUBLES + 2):
        mag.write(DATA)
        assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA).all()
    assert tries == MOST_TROUBLES


def test_a_file_that_was_cut_short_or_fails_means_plain_grpc(
    serve: Serve, tmp_path: Path, shared_dir: Path, unix_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start(serve, tmp_path, Where(shared_dir), unix_address)
    open_region = RegionFiles.open

    def cut(files: RegionFiles, leased: ShareMemoryResponse) -> Region:
        region = open_region(files, leased)
        os.truncate(leased.path, 10)
        return region

    pwrite = os.pwrite

    def cut_and_write(fd: int, data: memoryview, offset: int) -> int:
        written = pwrite(fd, data, offset)
        os.ftruncate(fd, 0)
        return written

    with magd_client.connect(daemon.grpc) as client:
        mag = make_mag(client)
        mag.write(DATA)
        monkeypatch.setattr(os, "pwrite", cut_and_write)
        mag.write(DATA[::-1])
        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(RegionFiles, "open", cut)
        assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA[::-1]).all()


def test_a_path_that_leads_to_another_file_means_plain_grpc(
    daemon: Daemon, mag: magd_client.MagHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the same path may in another container."""
    precious = tmp_path / "precious"
    precious.write_bytes(bytes(DATA.nbytes + (2 << 20)))
    open_region = RegionFiles.open

    def mislead(files: RegionFiles, leased: ShareMemoryResponse) -> Region:
        leased.path = f"/proc/{os.getpid()}/fd/{other.fileno()}"
        return open_region(files, leased)

    with open(precious, "r+b") as other:
        monkeypatch.setattr(RegionFiles, "open", mislead)
        mag.write(DATA)
        assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA).all()
    assert not any(precious.read_bytes())


def test_regions_are_used_again_and_again_in_turn(mag: magd_client.MagHandle, used: Used) -> None:
    larger = np.asfortranarray(np.concatenate([DATA, DATA[::-1]], axis=2))
    for number in range(3):
        for data in (larger, DATA):
            shifted = data + np.uint8(number)
            mag.write(shifted)
            assert (mag.read((0, 0, 0), data.shape)[0] == shifted).all()
    assert used.count == 12
    assert len(set(used.names)) <= 2


def test_a_region_that_the_daemon_has_taken_back_means_plain_grpc(
    mag: magd_client.MagHandle, monkeypatch: pytest.MonkeyPatch, used: Used
) -> None:
    mag.write(DATA)
    write = Region.write

    def end_first(region: Region, data: memoryview, offset: int) -> bool:
        mag._connection.sharing().close()
        return write(region, data, offset)

    monkeypatch.setattr(Region, "write", end_first)
    mag.write(DATA[::-1])
    monkeypatch.setattr(Region, "write", write)
    assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA[::-1]).all()
    assert used.count == 3


def test_a_client_that_changes_the_region_while_it_writes_harms_nobody_else(
    serve: Serve, tmp_path: Path, where: Where, unix_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start(serve, tmp_path, where, unix_address)
    write = Region.write
    stop = threading.Event()
    leaked: dict[str, int] = {}

    def write_and_leak(region: Region, data: memoryview, offset: int) -> bool:
        if region.name not in leaked:
            leaked[region.name] = os.dup(region.file._fd)  # type: ignore[attr-defined]
        return write(region, data, offset) and write(region, memoryview(bytes(4096)), offset)

    def scribble() -> None:
        value = 0
        while not stop.is_set():
            value = (value + 1) % 256
            for fd in list(leaked.values()):
                for offset in range(0, DATA.nbytes, 1 << 19):
                    os.pwrite(fd, bytes([value]) * 4096, offset)

    monkeypatch.setattr(Region, "write", write_and_leak)
    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        with (
            magd_client.connect(daemon.grpc) as client,
            magd_client.connect(daemon.grpc, shared_memory=False) as plain,
        ):
            mag, other = make_mag(client), make_mag(plain, "other")
            other.write(DATA, durability="process")
            for _ in range(10):
                mag.write(DATA, durability="process")
            seen = plain.dataset("cortex").layer("color").mag(1).read((0, 0, 0), DATA.shape)
            daemon.kill()
            assert (seen[0] != DATA).any(), "what was written was changed"
    finally:
        stop.set()
        thread.join()
        for fd in leaked.values():
            os.close(fd)
    again = start(serve, tmp_path, where, unix_address)
    with magd_client.connect(again.grpc, shared_memory=False) as client:
        layers = client.dataset("cortex")
        assert (layers.layer("other").mag(1).read((0, 0, 0), DATA.shape)[0] == DATA).all()
        # Whatever was written, it is what was read before, and the record of it is sound.
        assert (layers.layer("color").mag(1).read((0, 0, 0), DATA.shape) == seen).all()


def regions_of(mag: magd_client.MagHandle) -> set[str]:
    """The regions whose files a client keeps."""
    return set(mag._connection.sharing()._files._kept)


def work_in_child(mag: magd_client.MagHandle, number: int) -> None:
    mine = np.asfortranarray(DATA + np.uint8(number))
    for _ in range(2):
        mag.write(mine, offset=(EDGE * number, 0, 0), durability="process")
        assert (mag.read((EDGE * number, 0, 0), DATA.shape)[0] == mine).all()
    open_files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert not [path for path in open_files if PREFIX in path], "no region is left open"
    assert sealed_files(os.getpid()) <= regions_of(mag), "nor one of the parent"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_children_have_regions_of_their_own(mag: magd_client.MagHandle, used: Used) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def go_on() -> None:
        try:
            while not stop.is_set():
                work_in_parent()
        except BaseException as error:
            failures.append(error)
            raise

    def work_in_parent() -> None:
        mag.write(DATA, durability="process")
        assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA).all()

    work_in_parent()
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(3):
            children = [context.Process(target=work_in_child, args=(mag, number)) for number in (1, 2)]
            for child in children:
                child.start()
            for child in children:
                child.join(60)
            assert [child.exitcode for child in children] == [0, 0]
    finally:
        stop.set()
        thread.join()
    assert not failures
    work_in_parent()
    assert used.count > 2


def test_a_pickled_handle_shares_memory(mag: magd_client.MagHandle, used: Used) -> None:
    there: magd_client.MagHandle = pickle.loads(pickle.dumps(mag))
    there.write(DATA)
    assert used.count == 1
    assert (mag.read((0, 0, 0), DATA.shape)[0] == DATA).all()


def test_a_retry_with_the_same_id_may_go_the_other_way(daemon: Daemon, mag: magd_client.MagHandle, used: Used) -> None:
    request_id = "8a3c2f4e-1111-4222-8333-444455556666"
    first = mag.write(DATA, request_id=request_id)
    with magd_client.connect(daemon.grpc, shared_memory=False) as plain:
        again = plain.dataset("cortex").layer("color").mag(1)
        assert again.write(DATA, request_id=request_id) == first
    assert mag.write(DATA, request_id=request_id) == first
    assert used.count == 2


def test_calls_leave_no_descriptors_and_threads(mag: magd_client.MagHandle) -> None:
    mag.write(DATA)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        mag.write(DATA)
        mag.read((0, 0, 0), DATA.shape)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_daemon_that_drains_lets_a_shared_write_finish(daemon: Daemon, mag: magd_client.MagHandle) -> None:
    mag.write(DATA)
    begun = threading.Event()

    def progress(done: int, _: int) -> None:
        if done and not begun.is_set():
            daemon.send_signal(signal.SIGTERM)
            begun.set()

    mag.write(DATA[::-1], progress=progress)
    assert begun.is_set()
    assert daemon.wait() == 0
