"""A fork at the very moment at which another thread opens or closes a region: the child has nothing of it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from magd.v1.volume_pb2 import ShareMemoryResponse
from magd_client import fork, regions
from magd_client.regions import Region

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


@pytest.fixture
def leased(tmp_path: Path) -> ShareMemoryResponse:
    """As a daemon leases."""
    path = tmp_path / "region"
    path.write_bytes(bytes(SIZE))
    return ShareMemoryResponse(region="region", path=str(path), size_bytes=SIZE)


def has_open(path: str) -> bool:
    """Whether this process has a file open."""
    return path in [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]


def fork_and_look(path: str, forked: Callable[[], None] = lambda: None) -> bool:
    """Whether a child of this process has a file open."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(3 if has_open(path) else 4)
        finally:
            os._exit(1)
    forked()
    exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert exit_code in (3, 4)
    return exit_code == 3


def fork_at(moment: Moment, work: Callable[[], None], path: str) -> bool:
    """Fork while another thread is in the middle of its work. Whether the child has a file open."""
    thread = threading.Thread(target=work)
    thread.start()
    assert moment.has_come.wait(60)
    try:
        return fork_and_look(path, moment.forked.set)
    finally:
        thread.join()


def test_a_child_does_not_have_a_region_that_is_being_opened(
    leased: ShareMemoryResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment, opened = Moment(), list[Region]()
    really = os.open

    def open_and_stay(path: str, flags: int) -> int:
        fd = really(path, flags)
        moment.stay()  # nobody else knows this descriptor yet
        return fd

    monkeypatch.setattr(os, "open", open_and_stay)
    assert not fork_at(moment, lambda: opened.append(Region.of(leased)), leased.path)
    assert not moment.was_divided
    assert has_open(leased.path), "the parent has it"
    assert opened[0].write(memoryview(b"12345678"), 0)
    opened[0].close()
    assert not has_open(leased.path)


def test_a_child_does_not_have_a_region_that_is_being_closed(
    leased: ShareMemoryResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment, region = Moment(), Region.of(leased)
    really = os.close

    def stay_and_close(fd: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            moment.stay()  # it counts as closed by now
        really(fd)

    monkeypatch.setattr(os, "close", stay_and_close)
    assert not fork_at(moment, region.close, leased.path)
    assert not moment.was_divided
    assert not has_open(leased.path)


def test_a_child_does_not_have_a_region_that_is_being_written(leased: ShareMemoryResponse) -> None:
    region = Region.of(leased)
    with region._lock:  # as a thread of gRPC holds it, which is not there in the child
        assert not fork_and_look(leased.path)
    assert has_open(leased.path)
    region.close()


def test_a_region_that_nobody_closed_is_closed_in_a_child(leased: ShareMemoryResponse) -> None:
    Region.of(leased)
    assert has_open(leased.path)
    assert not fork_and_look(leased.path)
    for region in list(regions._open):
        region.close()
    assert not has_open(leased.path)


def test_what_is_not_a_region_is_closed_at_once(leased: ShareMemoryResponse) -> None:
    leased.size_bytes = SIZE + 1
    with pytest.raises(OSError, match="is not a file of 4097 bytes"):
        Region.of(leased)
    assert not has_open(leased.path)


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
