"""The pool with real processes that are really killed."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from magd.compression import process
from magd.compression.pool import CompressionPool
from magd.errors import Busy, Cancelled, DataLoss, InternalError, InvalidRequest, Reason, Unavailable
from tests.support.pool_jobs import Describe, Die, Fail, Hold, fail_to_initialize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[2]


class Gate:
    """The test's side of a Hold job."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self._started = str(folder / f"{name}.started")
        self._leave = str(folder / f"{name}.leave")
        os.mkfifo(self._started)
        os.mkfifo(self._leave)
        self.job = Hold(self._started, self._leave)

    def wait_until_started(self) -> int:
        """:return: the pid of the worker"""
        with open(self._started) as started:
            return int(started.read())

    def give_leave(self) -> None:
        with open(self._leave, "w"):
            pass


@contextmanager
def watched(*pids: int) -> Iterator[list[int]]:
    """Descriptors of living processes."""
    descriptors = [os.pidfd_open(pid) for pid in pids]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.fixture
def workers() -> Callable[[], set[int]]:
    """Tells the pids of the worker processes that came to be in this test."""
    before = set(multiprocessing.active_children())
    return lambda: {process.pid or 0 for process in set(multiprocessing.active_children()) - before}


def wait_until_ended(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(30_000), "the process still lives"


def test_jobs_run_in_other_processes_that_are_nice_and_know_their_parent() -> None:
    with CompressionPool(2) as pool:
        facts = [future.result() for future in [pool.submit(Describe()) for _ in range(6)]]
        assert os.getpid() not in {fact.pid for fact in facts}
        assert {fact.parent_pid for fact in facts} == {os.getpid()}
        assert {fact.niceness for fact in facts} == {min(19, os.nice(0) + 10)}
        assert (pool.statistics.workers, pool.statistics.running, pool.statistics.queued) == (2, 0, 0)
        assert pool.statistics.replaced == 0


def test_every_worker_exists_when_start_returns(workers: Callable[[], set[int]]) -> None:
    with CompressionPool(3):
        assert len(workers()) == 3
    assert not workers()


def test_the_workers_outlive_the_thread_that_started_the_pool(workers: Callable[[], set[int]]) -> None:
    pool = CompressionPool(1)
    thread = threading.Thread(target=pool.start)
    thread.start()
    thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        os.sched_yield()  # Python joins a little before the kernel has ended the thread
    try:
        assert workers() == {pool.submit(Describe()).result().pid}
        assert pool.statistics.replaced == 0
    finally:
        pool.close()


def test_jobs_may_be_submitted_from_many_threads() -> None:
    pids: list[int] = []

    def submit_twenty() -> None:
        pids.extend(pool.submit(Describe()).result().pid for _ in range(20))

    with CompressionPool(2) as pool:
        threads = [threading.Thread(target=submit_twenty) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(pids) == 80
    assert len(set(pids)) <= 2


def test_a_killed_worker_is_replaced_and_only_its_own_job_is_done_again(tmp_path: Path) -> None:
    victim, bystander = Gate(tmp_path, "victim"), Gate(tmp_path, "bystander")
    with CompressionPool(2) as pool:
        redone, other = pool.submit(victim.job), pool.submit(bystander.job)
        victim_pid, bystander_pid = victim.wait_until_started(), bystander.wait_until_started()
        queued = pool.submit(Describe())
        assert (pool.statistics.running, pool.statistics.queued) == (2, 1)

        os.kill(victim_pid, signal.SIGKILL)
        second_pid = victim.wait_until_started()
        assert second_pid != victim_pid
        victim.give_leave()
        bystander.give_leave()

        assert redone.result() == second_pid
        assert other.result() == bystander_pid
        assert queued.result().pid in {second_pid, bystander_pid}
        assert (redone.attempts, other.attempts, queued.attempts) == (2, 1, 1)
        assert pool.statistics.replaced == 1


def test_a_worker_that_is_killed_while_idle_costs_the_next_job_nothing() -> None:
    with CompressionPool(1) as pool:
        first = pool.submit(Describe()).result().pid
        with watched(first) as descriptors:
            os.kill(first, signal.SIGKILL)
            wait_until_ended(descriptors)
        second = pool.submit(Describe())
        assert second.result().pid != first
        assert second.attempts == 1
        assert pool.statistics.replaced == 1


def test_a_job_that_always_kills_its_worker_fails_after_three_attempts_while_others_finish() -> None:
    with CompressionPool(2) as pool:
        deadly = pool.submit(Die("z1/y2/x3.wkw"))
        others = [pool.submit(Describe()) for _ in range(10)]
        with pytest.raises(InternalError, match=r"z1/y2/x3\.wkw: given up after 3 attempts") as caught:
            deadly.result()
        assert caught.value.metadata == {"file": "z1/y2/x3.wkw", "attempts": "3"}
        assert deadly.attempts == 3
        for other in others:
            other.result()
            assert other.attempts == 1
        assert pool.statistics.replaced == 3
        assert pool.submit(Describe()).result().pid > 0


def test_errors_of_a_job_cross_the_process_border_as_they_were_raised() -> None:
    with CompressionPool(1) as pool:
        with pytest.raises(DataLoss, match=r"^bad$") as lost:
            pool.submit(Fail("data loss")).result()
        assert lost.value.reason is Reason.IO_ERROR
        assert lost.value.metadata == {"file": "z0/y0/x0.wkw", "block": "7"}
        with pytest.raises(Busy) as busy:
            pool.submit(Fail("busy")).result()
        assert busy.value.retry_after == 1.5
        assert pool.statistics.replaced == 0


def test_a_foreign_error_becomes_an_internal_error_that_names_the_file_and_is_no_death() -> None:
    with CompressionPool(1) as pool:
        failing = pool.submit(Fail("stubborn"))
        with pytest.raises(InternalError, match=r"z0/y0/x0\.wkw: Stubborn: not one of ours") as caught:
            failing.result()
        assert caught.value.metadata["file"] == "z0/y0/x0.wkw"
        assert "pool_jobs.py" in caught.value.metadata["traceback"]
        assert failing.attempts == 1
        assert pool.statistics.replaced == 0


def test_a_job_that_waits_can_be_cancelled_and_one_under_way_cannot(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with CompressionPool(1) as pool:
        running = pool.submit(gate.job)
        gate.wait_until_started()
        waiting, later = pool.submit(Describe()), pool.submit(Describe())
        assert not running.cancel()
        assert waiting.cancel()
        assert pool.statistics.queued == 1
        gate.give_leave()
        later.result()
        running.result()
        assert waiting.cancelled()
        assert waiting.attempts == 0


def test_close_cancels_what_waits_and_finishes_what_runs(tmp_path: Path, workers: Callable[[], set[int]]) -> None:
    gate = Gate(tmp_path)
    pool = CompressionPool(2)
    pool.start()
    running = pool.submit(gate.job)
    pid = gate.wait_until_started()
    other = Gate(tmp_path, "other")
    second = pool.submit(other.job)
    other.wait_until_started()
    waiting = pool.submit(Describe())
    closing = threading.Thread(target=pool.close)
    closing.start()
    assert not wait([waiting], timeout=60).not_done
    assert not running.done()
    gate.give_leave()
    other.give_leave()
    closing.join()
    assert running.result() == pid
    assert second.done()
    with pytest.raises(CancelledError):
        waiting.result()
    assert not workers()
    pool.close()


def test_close_can_kill_what_runs(tmp_path: Path, workers: Callable[[], set[int]]) -> None:
    gate = Gate(tmp_path)
    pool = CompressionPool(2)
    pool.start()
    running = pool.submit(gate.job)
    with watched(gate.wait_until_started()) as descriptors:
        pool.close(finish_running=False)
        wait_until_ended(descriptors)
    with pytest.raises(Cancelled, match=r"held\.wkw"):
        running.result()
    assert running.attempts == 1
    assert pool.statistics.replaced == 0
    assert not workers()


def test_a_close_that_waits_can_be_hurried(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    pool = CompressionPool(1)
    pool.start()
    running = pool.submit(gate.job)
    gate.wait_until_started()
    waiting = pool.submit(Describe())
    patient = threading.Thread(target=pool.close)
    patient.start()
    assert not wait([waiting], timeout=60).not_done
    pool.close(finish_running=False)
    patient.join()
    assert isinstance(running.exception(), Cancelled)


def test_a_pool_that_does_not_run_refuses_jobs() -> None:
    pool = CompressionPool(1)
    with pytest.raises(Unavailable):
        pool.submit(Describe())
    pool.start()
    pool.close()
    with pytest.raises(Unavailable):
        pool.submit(Describe())


def test_a_pool_without_workers_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        CompressionPool(0)
    assert caught.value.metadata == {"field": "workers", "value": "0"}


def test_a_pool_whose_workers_cannot_be_started_says_so_and_leaves_none(
    monkeypatch: pytest.MonkeyPatch, workers: Callable[[], set[int]]
) -> None:
    monkeypatch.setattr(process, "initialize", fail_to_initialize)
    with pytest.raises(InternalError, match="could not be started"):
        CompressionPool(2).start()
    assert not workers()


def test_a_worker_ignores_the_interrupt_key(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with CompressionPool(1) as pool:
        running = pool.submit(gate.job)
        pid = gate.wait_until_started()
        os.kill(pid, signal.SIGINT)
        gate.give_leave()
        assert running.result() == pid
        assert running.attempts == 1


def run_program(program: str, folder: Path) -> subprocess.Popen[str]:
    """Start a program that is like the daemon: it has a main module of its own, and makes a pool."""
    path = folder / "program.py"
    path.write_text(program)
    return subprocess.Popen(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_workers_import_neither_grpc_nor_the_daemon(tmp_path: Path) -> None:
    program = """
def main():
    import aiohttp, grpc, magd.errors
    from magd.compression.pool import CompressionPool
    from tests.support.pool_jobs import Describe
    with CompressionPool(1) as pool:
        print(*pool.submit(Describe()).result().modules)

if __name__ == "__main__":
    main()
"""
    with run_program(program, tmp_path) as running:
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    modules = set(output.split())
    assert "magd.compression.worker" in modules
    foreign = {"grpc", "google", "aiohttp", "structlog", "prometheus_client"}
    layers = {"magd.cli", "magd.daemon", "magd.rpc", "magd.web", "magd.actors", "magd.journal", "magd.v1"}
    assert not modules & (foreign | layers)


def test_workers_die_with_a_daemon_that_was_killed(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    program = f"""
from magd.compression.pool import CompressionPool
from tests.support.pool_jobs import Describe, Hold

if __name__ == "__main__":
    pool = CompressionPool(2)
    pool.start()
    busy = pool.submit(Hold({gate.job.started!r}, {gate.job.leave!r}))
    print(pool.submit(Describe()).result().pid, flush=True)
    busy.result()
"""
    with run_program(program, tmp_path) as running:
        busy = gate.wait_until_started()
        assert running.stdout is not None
        idle = int(running.stdout.readline())
        assert busy != idle
        with watched(busy, idle) as descriptors:
            running.kill()
            wait_until_ended(descriptors)


def test_a_worker_whose_daemon_died_before_it_was_ready_ends_itself() -> None:
    nobody = 1 << 22  # above the largest pid there can be
    program = f"from magd.compression.worker import initialize; initialize({nobody}); print('lives on')"
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_a_job_that_is_stopped_ends_at_once_whatever_it_does(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with CompressionPool(1) as pool:
        running = pool.submit(gate.job)
        pid = gate.wait_until_started()
        waiting, after = pool.submit(Describe()), pool.submit(Describe())
        with watched(pid) as descriptors:
            pool.stop(waiting)
            pool.stop(running)
            with pytest.raises(Cancelled, match=r"held\.wkw.*stopped"):
                running.result(timeout=30)
            assert select.select(descriptors, [], [], 30)[0]
        assert waiting.cancelled()
        assert after.result(timeout=30).pid != pid
        pool.stop(after)
        pool.stop(running)
        assert running.attempts == 1
        assert pool.statistics.replaced == 0
        assert pool.submit(Describe()).result(timeout=30).pid == after.result().pid


def test_no_job_begins_in_a_pause(tmp_path: Path) -> None:
    with CompressionPool(2) as pool:
        pool.pause(3600)
        futures = [pool.submit(Describe()) for _ in range(3)]
        _, waiting = wait(futures, timeout=0.2)
        assert waiting == set(futures)
        pool.pause(0)
        for future in futures:
            future.result(timeout=30)


def test_a_pause_ends_by_itself_and_does_not_outlast_the_pool() -> None:
    with CompressionPool(1) as pool:
        pool.pause(0.05)
        pool.submit(Describe()).result(timeout=30)
        pool.pause(3600)
        pool.submit(Describe())


def test_a_share_of_the_cores_bounds_the_jobs_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magd.compression.pool.available_cores", lambda: 4)
    gate = Gate(tmp_path)
    with CompressionPool(2, share=0.25) as pool:
        held = pool.submit(gate.job)
        gate.wait_until_started()
        other = pool.submit(Describe())
        _, waiting = wait([other], timeout=0.2)
        assert waiting
        gate.give_leave()
        held.result(timeout=30)
        other.result(timeout=30)


def test_what_was_rounded_up_to_a_whole_worker_is_given_back_in_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magd.compression.pool.available_cores", lambda: 1)
    rests = list[float]()
    monkeypatch.setattr(CompressionPool, "_rest", lambda pool, worked: rests.append(pool.rest_after(worked)))
    with CompressionPool(1, share=0.2) as pool:
        pool.submit(Describe()).result()
        assert pool.rest_after(2.0) == pytest.approx(8.0)
    with CompressionPool(1) as pool:
        assert pool.rest_after(2.0) == 0
    assert len(rests) == 1


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InvalidRequest, match="share"):
        CompressionPool(1, share=share)
