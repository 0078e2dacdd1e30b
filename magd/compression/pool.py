"""A pool of worker processes that do jobs on files, and survive the death of any of them.

The machine kills processes (out of memory, an operator, a bug in native code). Callers never see that unless
it is their own job that keeps killing: they hand in a job and get a future.

1. `start` makes one thread for each worker, and each thread its worker process. Nothing is forked, and all
   processes are there when `start` returns, so that a server that is started afterwards shares nothing with
   them.
2. Jobs wait in one queue, in the order they were handed in. Each thread takes the next one when its worker is
   free. A job whose future was cancelled meanwhile is dropped.
   Pacing may make it wait first: see below.
3. The thread looks whether its worker still lives. One that died while it had nothing to do is replaced, and
   that costs the job nothing.
4. The worker does the job. A result, or an error that the job raised, goes into the future: an error is an
   answer, and the job is not tried again.
5. If the worker dies instead, only this thread's job has lost an attempt: the jobs of the other workers and
   those in the queue are untouched. What is left of the worker is killed and waited for, so that no two
   attempts ever run at the same time, and then the job begins again in a new worker. After three attempts,
   its future fails with InternalError. A worker that cannot be started counts as one that died.
6. `stop` takes a job back: one in the queue is dropped, the worker of one that is under way is killed.
7. `close` cancels the jobs in the queue, lets those that are under way finish or kills them, and returns when
   every process has gone. If the daemon dies without it, the kernel ends the workers (see worker.py).

Pacing: the pool takes at most a share of the machine, and makes way for others.

1. With n cores and a share s, n * s rounded up jobs run at the same time, or as many as there are workers.
2. What was added by rounding is given back: after a job that took t seconds, its worker rests for t * (1 - d) / d,
   where d = n * s / jobs at the same time.
3. After `pause` no job begins for so many seconds. Those under way go on: they are short, and have low priority.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from magd.compression.process import WorkerLost, WorkerProcess
from magd.errors import Cancelled, InternalError, InvalidRequest, MagdError, Reason, Unavailable

if TYPE_CHECKING:
    from types import TracebackType

    from magd.compression.jobs import Job

MAX_ATTEMPTS: Final = 3
MOST_WORKERS: Final = 16
"""That are started if nobody says how many."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What the pool is doing now."""

    workers: int  # places for one job each
    running: int  # jobs under way
    queued: int  # jobs that wait for a worker
    replaced: int  # workers that died, since the start


class JobFuture(Future[ResultT]):
    """A job's result to come.

    :ivar attempts: how often the job has begun so far; above 1 if workers died of it or with it
    """

    def __init__(self) -> None:
        super().__init__()
        self.attempts = 0


@dataclass(slots=True, eq=False)
class _Task(Generic[ResultT]):
    job: Job[ResultT]
    future: JobFuture[ResultT]
    is_stopped: bool = False
    worker: WorkerProcess | None = None
    """The one that does the job now."""


class CompressionPool:
    """Runs jobs in worker processes. Every method may be called from any thread.

    :param workers: jobs that run at the same time, at least 1
    :param share: of the cores of the machine that jobs may take, above 0 up to 1
    """

    def __init__(self, workers: int, share: float = 1.0) -> None:
        if workers < 1:
            raise InvalidRequest(
                f"a pool needs at least 1 worker, not {workers}",
                metadata={"field": "workers", "value": workers},
            )
        if not 0 < share <= 1:
            raise InvalidRequest(
                f"the share of the cores must be above 0 and at most 1, not {share:g}",
                metadata={"field": "share", "value": share},
            )
        cores = share * available_cores()
        self._at_once: Final = min(workers, math.ceil(cores))
        self._duty: Final = min(1.0, cores / self._at_once)
        # Daemon threads: a pool that nobody closed must not hold up the end of the program.
        self._threads = [
            threading.Thread(target=self._serve, args=(index,), name=f"compression-{index}", daemon=True)
            for index in range(workers)
        ]
        self._ready: list[Future[None]] = [Future() for _ in range(workers)]
        self._changed = threading.Condition()
        # The rest belongs to whoever holds _changed.
        self._queue: deque[_Task[Any]] = deque()
        self._processes: set[WorkerProcess] = set()
        self._open = False
        self._abandoned = False
        self._running = 0
        self._resting = 0
        self._replaced = 0
        self._paused_until = -math.inf
        self._under_way: dict[JobFuture[Any], _Task[Any]] = {}

    def start(self) -> None:
        """Start the workers, and return when each of them is ready for a job. Once only.

        :raises InternalError: a worker could not be started; then none is left
        """
        with self._changed:
            self._open = True
        try:
            for thread in self._threads:
                thread.start()
            for ready in self._ready:
                ready.result()
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job[ResultT]) -> JobFuture[ResultT]:
        """Queue a job.

        :return: a future with the job's result. `cancel` works until the job begins. Its callbacks run in a
            thread of the pool and must be short. It fails with the MagdError that the job raised;
            InternalError for any other error of the job, and for a job whose workers died in all of three
            attempts; Cancelled if the pool was closed under it
        :raises Unavailable: the pool is not running
        """
        task = _Task(job, JobFuture())
        with self._changed:
            if not self._open:
                raise Unavailable("the compression pool is not running", reason=Reason.SHUTTING_DOWN)
            self._queue.append(task)
            self._changed.notify_all()  # one alone might be resting
        return task.future

    def stop(self, future: JobFuture[Any]) -> None:
        """Take a job back. One that is under way loses its worker, at once; its future fails with Cancelled, and what
        it had written lies at its target. One that has ended stays as it is."""
        if future.cancel():
            return
        with self._changed:
            task = self._under_way.get(future)
            if task is not None:
                task.is_stopped = True
                if task.worker is not None:
                    task.worker.kill()

    def pause(self, seconds: float) -> None:
        """Begin no job for so long from now on. 0 ends a pause."""
        with self._changed:
            self._paused_until = time.monotonic() + seconds
            self._changed.notify_all()

    def close(self, *, finish_running: bool = True) -> None:
        """Cancel the jobs that have not begun, wait for the others, and end every process.

        :param finish_running: False kills the workers of jobs that are under way; their futures fail with
            Cancelled. What they had written lies at their targets

        May be called again, also with another `finish_running`, and while an earlier call still waits.
        """
        with self._changed:
            self._open = False
            dropped = list(self._queue)
            self._queue.clear()
            if not finish_running:
                self._abandoned = True
                for process in self._processes:
                    process.kill()
            self._changed.notify_all()
        for task in dropped:
            task.future.cancel()
            # Tells those who wait for several futures at once.
            task.future.set_running_or_notify_cancel()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    @property
    def statistics(self) -> PoolStatistics:
        with self._changed:
            return PoolStatistics(
                workers=len(self._threads),
                running=self._running,
                queued=sum(not task.future.cancelled() for task in self._queue),
                replaced=self._replaced,
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finish_running=error is None)

    # The rest runs in the threads, each of which has one worker.

    def _serve(self, index: int) -> None:
        worker: WorkerProcess | None
        try:
            worker = self._start_worker()
        except WorkerLost as lost:
            self._ready[index].set_exception(InternalError(str(lost)))
            return
        self._ready[index].set_result(None)
        while (task := self._take()) is not None:
            began = time.monotonic()
            worker = self._perform(task, worker)
            self._rest(time.monotonic() - began)
        if worker is not None:
            self._end_worker(worker)

    def _take(self) -> _Task[Any] | None:
        """Wait for the next job that still has to be done. None when the pool is closed."""
        with self._changed:
            while True:
                while not self._may_begin_or_end():
                    self._changed.wait(self._pause_left())
                if not self._queue:
                    return None
                task = self._queue.popleft()
                if task.future.set_running_or_notify_cancel():
                    self._running += 1
                    self._under_way[task.future] = task
                    return task

    def _may_begin_or_end(self) -> bool:
        if not self._open:
            return True
        is_free = self._running + self._resting < self._at_once
        return bool(self._queue) and is_free and self._pause_left() is None

    def _pause_left(self) -> float | None:
        left = self._paused_until - time.monotonic()
        return left if left > 0 else None

    def rest_after(self, worked_seconds: float) -> float:
        """How long a worker rests after a job that took so long, in seconds."""
        return worked_seconds * (1 - self._duty) / self._duty

    def _rest(self, worked_seconds: float) -> None:
        """Give back what the job took above the share."""
        seconds = self.rest_after(worked_seconds)
        if seconds > 0:
            with self._changed:
                self._resting += 1
                self._changed.wait_for(lambda: not self._open, seconds)
                self._resting -= 1
                self._changed.notify_all()

    def _perform(self, task: _Task[ResultT], worker: WorkerProcess | None) -> WorkerProcess | None:
        """Do one job, in as many attempts as it needs and may have.

        :return: the worker, if there is one afterwards
        """
        if worker is not None and worker.has_ended:
            self._lose_worker(worker)
            worker = None
        while True:
            task.future.attempts += 1
            try:
                if worker is None:
                    worker = self._start_worker()
                self._hand_over(task, worker)
                done = worker.run(task.job)
            except WorkerLost as lost:
                if worker is not None:
                    self._hand_over(task, None)
                    self._lose_worker(worker, on_purpose=task.is_stopped)
                    worker = None
                if self._abandoned or task.is_stopped or task.future.attempts == MAX_ATTEMPTS:
                    self._finish(task, self._why(task, lost))
                    return None
            else:
                self._finish(task, done)
                return worker

    def _hand_over(self, task: _Task[Any], worker: WorkerProcess | None) -> None:
        with self._changed:
            task.worker = worker
            if worker is not None and task.is_stopped:
                # `stop` cannot have seen it.
                worker.kill()

    def _why(self, task: _Task[ResultT], lost: WorkerLost) -> Future[ResultT]:
        error: MagdError
        job = task.job
        if task.is_stopped:
            error = Cancelled(f"{job.file}: the job was stopped", metadata={"file": job.file})
        elif self._abandoned:
            error = Cancelled(f"{job.file}: the compression pool was closed", metadata={"file": job.file})
        else:
            error = InternalError(
                f"{job.file}: given up after {MAX_ATTEMPTS} attempts: {lost}",
                metadata={"file": job.file, "attempts": MAX_ATTEMPTS},
            )
        error.__cause__ = lost
        failed: Future[ResultT] = Future()
        failed.set_exception(error)
        return failed

    def _finish(self, task: _Task[ResultT], done: Future[ResultT]) -> None:
        # Counted first: who sees the result must not see the job running any more.
        with self._changed:
            self._running -= 1
            del self._under_way[task.future]
            self._changed.notify_all()
        error = done.exception()
        if error is None:
            task.future.set_result(done.result())
        else:
            task.future.set_exception(error)

    def _start_worker(self) -> WorkerProcess:
        worker = WorkerProcess()
        with self._changed:
            self._processes.add(worker)
            if self._abandoned:
                # `close` cannot have seen it.
                worker.kill()
        return worker

    def _lose_worker(self, worker: WorkerProcess, *, on_purpose: bool = False) -> None:
        self._end_worker(worker)
        with self._changed:
            if not self._abandoned and not on_purpose:
                self._replaced += 1

    def _end_worker(self, worker: WorkerProcess) -> None:
        with self._changed:
            self._processes.remove(worker)
        worker.end()


def default_workers(share: float) -> int:
    """How many workers keep a share of the cores busy. There is a limit, since each takes memory."""
    return max(1, min(math.ceil(share * available_cores()), MOST_WORKERS))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
