"""A fork at the very moment at which another thread opens or closes a region: the child has nothing of it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from magd.shared_files import make_sealed, path_of_sealed
from magd.v1.volume_pb2 import ShareMemoryResponse
from magd_client import fork, regions
from magd_client.regions import RegionFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from magd_client.regions import Region

SIZE = 4096
WAIT_SECONDS = 0.5
"""For what must not happen."""

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Moment:
    """What a thread does in the middle of a step, while the process forks: it goes on when that is done.

    The fork is to wait for the step, so that it is not done, however long the thread stays. That ends it here.
    """

    def __init__(self) -> None:
        self.has_come = threading.Event()
        self.forked = threading.Event()
        self.was_divided = False

    def stay(self) -> None:
        self.has_come.set()
        self.was_divided = self.forked.wait(WAIT_SECONDS)


@pytest.fixture(params=["sealed", "in a folder"])
def leased(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ShareMemoryResponse]:
    """As a daemon leases."""
    if request.param == "sealed":
        fd = make_sealed("region", SIZE)
        yield ShareMemoryResponse(region="region", path=path_of_sealed(fd), size_bytes=SIZE)
        os.close(fd)
        return
    path = tmp_path / "region"
    path.write_bytes(bytes(SIZE))
    yield ShareMemoryResponse(region="region", path=str(path), size_bytes=SIZE)


@pytest.fixture
def files() -> Iterator[RegionFiles]:
    """Those of one connection."""
    files = RegionFiles()
    yield files
    files.close()


def is_open(leased: ShareMemoryResponse) -> bool:
    """Whether this process has a region open or mapped, beside what makes it."""
    path = leased.path
    is_sealed = path.startswith("/proc/")
    name = f"/memfd:magd-{leased.region} (deleted)" if is_sealed else path
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_there(fd)]
    with open("/proc/self/maps") as maps:
        return links.count(name) > is_sealed or any(line.rstrip().endswith(name) for line in maps)


def _is_there(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def fork_and_look(leased: ShareMemoryResponse, forked: Callable[[], None] = lambda: None) -> bool:
    """Whether a child of this process has a region open."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(3 if is_open(leased) else 4)
        finally:
            os._exit(1)
    forked()
    exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert exit_code in (3, 4)
    return exit_code == 3


def fork_at(moment: Moment, work: Callable[[], None], leased: ShareMemoryResponse) -> bool:
    """Fork while another thread is in the middle of its work. Whether the child has a region open."""
    thread = threading.Thread(target=work)
    thread.start()
    assert moment.has_come.wait(60)
    try:
        return fork_and_look(leased, moment.forked.set)
    finally:
        thread.join()


def test_a_child_does_not_have_a_region_that_is_being_opened(
    leased: ShareMemoryResponse, files: RegionFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = Moment()
    opened: list[Region] = []
    really = os.open

    def open_and_stay(path: str, flags: int) -> int:
        fd = really(path, flags)
        moment.stay()  # nobody else knows this descriptor yet
        return fd

    monkeypatch.setattr(os, "open", open_and_stay)
    assert not fork_at(moment, lambda: opened.append(files.open(leased)), leased)
    assert not moment.was_divided
    assert is_open(leased), "the parent has it"
    assert opened[0].write(memoryview(b"12345678"), 0)
    files.give_back(opened[0], keep=False)
    assert not is_open(leased)


def test_a_child_does_not_have_a_region_that_is_being_closed(
    leased: ShareMemoryResponse, files: RegionFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment, region = Moment(), files.open(leased)
    really = os.close

    def stay_and_close(fd: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            moment.stay()  # it counts as closed by now
        really(fd)

    monkeypatch.setattr(os, "close", stay_and_close)
    assert not fork_at(moment, lambda: files.give_back(region, keep=False), leased)
    assert not moment.was_divided
    assert not is_open(leased)


def test_a_child_does_not_have_a_region_that_is_being_written(leased: ShareMemoryResponse, files: RegionFiles) -> None:
    region = files.open(leased)
    with region._lock:  # as a thread of gRPC holds it, which is not there in the child
        assert not fork_and_look(leased)
    assert is_open(leased)
    files.give_back(region, keep=False)


def test_a_child_lives_with_memory_that_another_thread_was_copying(
    leased: ShareMemoryResponse, files: RegionFiles
) -> None:
    region = files.open(leased)
    assert region.write(memoryview(b"before"), 0)
    memory = region.file.view(0, SIZE)  # as it is held while it is copied
    child = os.fork()
    if child == 0:
        os._exit(0 if memory is None or bytes(memory[:6]) == b"before" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    del memory
    assert region.write(memoryview(b"behind"), 0)
    files.give_back(region, keep=False)
    assert not is_open(leased)


def test_a_region_that_nobody_closed_is_closed_in_a_child(leased: ShareMemoryResponse, files: RegionFiles) -> None:
    files.open(leased)
    assert is_open(leased)
    assert not fork_and_look(leased)
    for file in list(regions._open):
        regions._close(file)
    assert not is_open(leased)


def test_a_region_that_was_given_back_is_closed_in_a_child_and_only_once(
    leased: ShareMemoryResponse, files: RegionFiles
) -> None:
    files.give_back(files.open(leased), keep=True)
    child = os.fork()
    if child == 0:
        before = os.open("/dev/null", os.O_RDONLY)  # gets a number that was closed
        files.close()
        os.fstat(before)
        os._exit(3 if is_open(leased) else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4


def test_what_is_not_a_region_is_closed_at_once(leased: ShareMemoryResponse, files: RegionFiles) -> None:
    leased.size_bytes = SIZE + 1
    with pytest.raises(OSError, match="is not a file of 4097 bytes"):
        files.open(leased)
    assert not is_open(leased)


def test_a_thread_may_fork_within_a_step_of_its_own() -> None:
    with fork.undivided():
        child = os.fork()
        if child == 0:
            with fork.undivided():
                os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with fork.undivided():
        pass


def test_a_fork_waits_for_calls_before_it_holds_steps_back() -> None:
    inside, stepped = threading.Event(), threading.Event()

    def call() -> None:
        with fork.call():
            inside.set()
            is_forking.wait()
            with fork.undivided():  # while the fork waits for this call
                stepped.set()

    is_forking = threading.Event()
    thread = threading.Thread(target=call)
    thread.start()
    inside.wait()
    timer = threading.Timer(0.1, is_forking.set)
    timer.start()
    child = os.fork()
    if child == 0:
        os._exit(0 if stepped.is_set() else 1)
    thread.join()
    timer.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
