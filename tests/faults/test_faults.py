"""Real daemons to which something happens: no descriptors, no space, no writing, killed workers, stops, other clocks.

Nobody retries here, so that what the daemon says is seen. Whatever happens, what is read is what was acknowledged, an
error says what is the matter, and the daemon goes on without a restart once the cause is gone.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import magd_client
from magd_client import DiskFull, InternalError, MagdError, NotAllowed, Reason, TooSlow, Unavailable
from tests.faults.daemon_with_clock import VARIABLE
from tests.guarantees.writers import NEVER_AGAIN
from tests.support.daemon import MAGD, Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from magd_client import Client, MagHandle
    from tests.conftest import Serve

BLOCK_LEN: Final = 8
FILE_LEN: Final = 2
CUBE_LEN: Final = BLOCK_LEN * FILE_LEN
WAIT_SECONDS: Final = 60.0
DAY: Final = 86_400.0
SMALL_MOUNT_BYTES: Final = 24 << 20


def connect(daemon: Daemon, timeout: float = WAIT_SECONDS) -> Client:
    return magd_client.connect(daemon.grpc, timeout=timeout, retry=NEVER_AGAIN)


def make_mag(client: Client, name: str = "d", *, compressed: bool = False, file_len: int = FILE_LEN) -> MagHandle:
    layer = client.create_dataset(name, voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint8")
    return layer.add_mag("1", block_len=BLOCK_LEN, file_len=file_len, compressed=compressed)


def noise(seed: int, edge: int) -> np.ndarray[Any, Any]:
    return np.asfortranarray(np.random.default_rng(seed).integers(1, 256, (edge, edge, edge), np.uint8))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it does not come to this: {what}"
        time.sleep(0.01)


def outcome_of(call: Callable[[], Any]) -> Any:
    """What a call gives: a result, or an error that is on purpose."""
    try:
        return call()
    except InternalError:
        raise
    except MagdError as error:
        return error


# -- descriptors -------------------------------------------------------------------------------------------------------


@contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """A process can open nothing more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    # Below what it holds: a descriptor that it closes does not become free.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(highest, 16), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_a_daemon_without_descriptors_says_so_reads_no_zeros_and_recovers(
    serve: Serve, tmp_path: Path, compressed: bool
) -> None:
    daemon = serve(tmp_path, "--idle-seconds", "0.2")
    with connect(daemon) as client:
        mag = make_mag(client, compressed=compressed)
        data = noise(1, 3 * CUBE_LEN)
        mag.write(data)
        mag.flush()
        for _ in range(2):
            # Idle, so that it has to be opened, and then open, so that its cube files have to be.
            until(lambda: not client.get_status().mags, "no mag is open")
            with without_descriptors(daemon.pid):
                for call in (lambda: mag.read((0, 0, 0), data.shape), lambda: mag.write(data + 1)):
                    with pytest.raises(MagdError, match=r"descriptors|open files") as refused:
                        call()
                    assert not isinstance(refused.value, InternalError)
            assert (mag.read((0, 0, 0), data.shape)[0] == data).all()
            with without_descriptors(daemon.pid):
                seen = outcome_of(lambda: mag.read((0, 0, 0), data.shape)[0])
                assert isinstance(seen, MagdError) or (seen == data).all()
        data += 1
        mag.write(data)
        assert (mag.read((0, 0, 0), data.shape)[0] == data).all()


# -- file systems ------------------------------------------------------------------------------------------------------


def mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True)


@pytest.fixture
def small_mount(tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory. Skips where mounting is not allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        done = mount("-t", "tmpfs", "-o", f"size={SMALL_MOUNT_BYTES}", "tmpfs", str(folder))
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_a_disk_that_fills_up_loses_nothing_and_takes_writes_again_when_there_is_space(
    small_mount: Path, compressed: bool
) -> None:
    filler = small_mount / "filler"
    # What fits beside it is in the journal; when it is gone, the same fits into the cube files too.
    filler.write_bytes(bytes(SMALL_MOUNT_BYTES * 2 // 3))
    edge = 100
    with Daemon(small_mount, "--flush-seconds", "0.2") as daemon, connect(daemon) as client:
        mag = make_mag(client, compressed=compressed, file_len=4)
        written: list[np.ndarray[Any, Any]] = []

        def write_next() -> None:
            data = noise(len(written), edge)
            mag.write(data, (len(written) * edge, 0, 0))
            written.append(data)

        def check() -> None:
            for number, data in enumerate(written):
                assert (mag.read((number * edge, 0, 0), data.shape)[0] == data).all()

        def fill_up() -> None:
            while len(written) < SMALL_MOUNT_BYTES // edge**3:
                write_next()

        with pytest.raises(DiskFull) as refused:
            fill_up()
        assert refused.value.reason is Reason.DISK_FULL
        assert written
        check()
        assert not mag.read((len(written) * edge, 0, 0), (edge, edge, edge)).any(), "what was refused is there"
        filler.unlink()
        count = len(written)

        def accepts() -> bool:
            try:
                write_next()
            except DiskFull:
                return False
            return True

        until(accepts, "writes are taken again")
        mag.flush()
        assert len(written) == count + 1
        check()
        assert all(status.state == "serving" for status in client.get_status().mags)
    assert daemon.status == 0


def test_a_file_system_that_becomes_read_only_is_still_read_and_written_again_when_it_can_be(
    small_mount: Path,
) -> None:
    with Daemon(small_mount, "--idle-seconds", "0.2") as daemon, connect(daemon) as client:
        mag = make_mag(client)
        data = noise(1, 2 * CUBE_LEN)
        mag.write(data)
        # As long as the journal is open for writing, the kernel does not let it become read-only.
        until(lambda: not client.get_status().mags, "no mag is open")
        until(lambda: mount("-o", "remount,ro", str(small_mount)).returncode == 0, "it is read-only")
        for call in (lambda: mag.write(data + 1), lambda: client.create_dataset("e", voxel_size=(1, 1, 1))):
            with pytest.raises(NotAllowed, match="Read-only file system") as refused:
                call()
            assert refused.value.reason is Reason.READ_ONLY
        assert (mag.read((0, 0, 0), data.shape)[0] == data).all()
        assert mount("-o", "remount,rw", str(small_mount)).returncode == 0
        data += 1
        mag.write(data)
        assert (mag.read((0, 0, 0), data.shape)[0] == data).all()
        client.create_dataset("e", voxel_size=(1, 1, 1))
    assert daemon.status == 0


# -- processes ---------------------------------------------------------------------------------------------------------


def pool_workers(daemon: Daemon) -> list[int]:
    """The processes that compress: children of any thread, but not the helpers of multiprocessing."""
    found = []
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        children = (task / "children").read_text().split()
        found += [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


def test_killed_workers_end_in_a_compression_that_is_right_or_an_error_and_the_next_one_works(
    serve: Serve, tmp_path: Path
) -> None:
    daemon = serve(tmp_path, "--workers", "2")
    with connect(daemon) as client:
        mag = make_mag(client)
        data = noise(1, 5 * CUBE_LEN)
        mag.write(data)
        mag.flush()
        operation = mag.compress()
        for pid in pool_workers(daemon):
            os.kill(pid, signal.SIGKILL)
        outcome_of(lambda: operation.wait(timeout=WAIT_SECONDS))
        assert (mag.read((0, 0, 0), data.shape)[0] == data).all()
        mag.compress().wait(timeout=WAIT_SECONDS)
        assert (mag.read((0, 0, 0), data.shape)[0] == data).all()
        assert mag.get_info().block_type != "raw"
        until(lambda: len(pool_workers(daemon)) == 2, "the workers are replaced")


UPLOADER: Final = f"""
import sys
import grpc
from magd.v1 import types_pb2, volume_pb2, volume_pb2_grpc

def half():
    box = types_pb2.Box(offset=types_pb2.Vec3(), size=types_pb2.Vec3(x={CUBE_LEN}, y={CUBE_LEN}, z={CUBE_LEN}))
    yield volume_pb2.WriteBoxRequest(
        name="datasets/d/layers/l/mags/1", box=box, data_type=types_pb2.DATA_TYPE_UINT8, num_channels=1, data=b"x" * 100
    )
    print("half", flush=True)
    sys.stdin.read()

with grpc.insecure_channel(sys.argv[1]) as channel:
    try:
        volume_pb2_grpc.VolumeServiceStub(channel).WriteBox(half())
    except grpc.RpcError as error:
        print(error.code().name, flush=True)
"""


def test_a_client_that_is_stopped_in_a_box_loses_its_call_and_holds_up_nobody(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(tmp_path, "--stall-seconds", "0.5", "--budget", "1MiB", "--max-box", "128KiB")
    with connect(daemon) as client:
        mag = make_mag(client)
        uploaders = [
            subprocess.Popen(
                [sys.executable, "-c", UPLOADER, daemon.grpc], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        try:
            for uploader in uploaders:
                assert uploader.stdout is not None
                assert uploader.stdout.readline() == "half\n"
                uploader.send_signal(signal.SIGSTOP)
            data = noise(2, 2 * CUBE_LEN)
            mag.write(data)
            assert (mag.read((0, 0, 0), data.shape)[0] == data).all()
            until(lambda: client.get_status().budget_used_bytes == 0, "nothing is held for those that are stopped")
            for uploader in uploaders:
                uploader.send_signal(signal.SIGCONT)
                assert uploader.stdout is not None
                assert uploader.communicate("")[0] == "DEADLINE_EXCEEDED\n"
        finally:
            for uploader in uploaders:
                uploader.kill()
                uploader.communicate()
        assert (mag.read((0, 0, 0), data.shape)[0] == data).all()


def test_a_daemon_that_is_stopped_past_every_timeout_goes_on_and_applies_a_retried_write_once(
    serve: Serve, tmp_path: Path
) -> None:
    daemon = serve(tmp_path, "--stall-seconds", "0.3", "--idle-seconds", "0.3", "--flush-seconds", "0.1")
    with connect(daemon) as client, connect(daemon, timeout=0.5) as hasty:
        mag = make_mag(client)
        first, second = noise(1, CUBE_LEN), noise(2, CUBE_LEN)
        before = mag.write(first, request_id="before")
        hasty_mag = hasty.dataset("d").layer("l").mag("1")
        hasty_mag.get_info()
        daemon.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises((TooSlow, Unavailable)):
                hasty_mag.write(second, request_id="hasty")
        finally:
            daemon.send_signal(signal.SIGCONT)
        assert mag.write(first, request_id="before") == before
        once = mag.write(second, request_id="hasty")
        assert mag.write(second, request_id="hasty") == once
        assert (mag.read((0, 0, 0), second.shape)[0] == second).all()


# -- clocks ------------------------------------------------------------------------------------------------------------


def test_a_wall_clock_that_jumps_breaks_neither_ids_nor_operations_nor_a_restart(serve: Serve, tmp_path: Path) -> None:
    root, clock = tmp_path / "root", tmp_path / "clock"
    root.mkdir()
    clock.write_text("0")
    options: dict[str, Any] = {
        "command": (MAGD[0], "-m", "tests.faults.daemon_with_clock"),
        "environment": {VARIABLE: str(clock)},
    }
    daemon = serve(root, **options)
    with connect(daemon) as client:
        mag = make_mag(client)
        etag = client.dataset("d").get_info().etag
        acknowledgements = {}
        data = noise(0, CUBE_LEN)
        for ahead in (0.0, -DAY, 3650 * DAY, -3650 * DAY, 30.0):
            clock.write_text(str(ahead))
            data = noise(int(abs(ahead)) % 1000, CUBE_LEN)
            acknowledgements[ahead] = mag.write(data, request_id=f"at {ahead}"), data
            for then, (acknowledged, written) in acknowledgements.items():
                assert mag.write(written, request_id=f"at {then}") == acknowledged
            assert (mag.read((0, 0, 0), data.shape)[0] == data).all(), "a retry was applied"
        assert client.dataset("d").get_info().etag != "", etag
        operation = mag.compress()
        clock.write_text(str(-DAY))
        operation.wait(timeout=WAIT_SECONDS)
        assert (mag.read((0, 0, 0), data.shape)[0] == data).all()
        mag.write(data, request_id="last")
    assert daemon.stop() == 0

    # A clock that went back makes nothing older than it is, and so nothing is forgotten.
    clock.write_text(str(-2 * DAY))
    daemon = serve(root, **options)
    with connect(daemon) as client:
        mag = client.dataset("d").layer("l").mag("1")
        assert (mag.read((0, 0, 0), data.shape)[0] == data).all()
        with pytest.raises(MagdError) as refused:
            mag.write(data + 1, request_id="last")
        assert refused.value.reason is Reason.REQUEST_ID_REUSED
        mag.write(data + 1, request_id="new")
        assert (mag.read((0, 0, 0), data.shape)[0] == data + 1).all()
