"""A pool of worker processes that do jobs on files, and survive the death of any of them.

The machine kills processes (out of memory, an operator, a bug in native code). Callers never see that unless
it is their own job that keeps killing: they hand in a job and get a future.

1. `start` makes one thread for each worker, and each thread its worker process. Nothing is forked, and all
   processes are there when `start` returns, so that a server that is started afterwards shares nothing with
   them.
2. Jobs wait in one queue, in the order they were handed in. Each thread takes the next one when its worker is
   free. A job whose future was cancelled meanwhile is dropped.
3. The thread looks whether its worker still lives. One that died while it had nothing to do is replaced, and
   that costs the job nothing.
4. The worker does the job. A result, or an error that the job raised, goes into the future: an error is an
   answer, and the job is not tried again.
5. If the worker dies instead, only this thread's job has lost an attempt: the jobs of the other workers and
   those in the queue are untouched. What is left of the worker is killed and waited for, so that no two
   attempts ever run at the same time, and then the job begins again in a new worker. After three attempts,
   its future fails with InternalError. A worker that cannot be started counts as one that died.
6. `close` cancels the jobs in the queue, lets those that are under way finish or kills them, and returns when
   every process has gone. If the daemon dies without it, the kernel ends the workers (see worker.py).
"""

from __future__ import annotations

import threading
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


@dataclass(frozen=True, slots=True)
class _Task(Generic[ResultT]):
    job: Job[ResultT]
    future: JobFuture[ResultT]


class CompressionPool:
    """Runs jobs in worker processes. Every method may be called from any thread.

    :param workers: jobs that run at the same time, at least 1
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise InvalidRequest(
                f"a pool needs at least 1 worker, not {workers}",
                metadata={"field": "workers", "value": workers},
            )
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
        self._replaced = 0

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
            self._changed.notify()
        return task.future

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
            worker = self._perform(task, worker)
        if worker is not None:
            self._end_worker(worker)

    def _take(self) -> _Task[Any] | None:
        """Wait for the next job that still has to be done. None when the pool is closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or not self._open)
                if not self._queue:
                    return None
                task = self._queue.popleft()
                if task.future.set_running_or_notify_cancel():
                    self._running += 1
                    return task

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
                done = worker.run(task.job)
            except WorkerLost as lost:
                if worker is not None:
                    self._lose_worker(worker)
                    worker = None
                if self._abandoned or task.future.attempts == MAX_ATTEMPTS:
                    self._finish(task, self._why(task.job, lost))
                    return None
            else:
                self._finish(task, done)
                return worker

    def _why(self, job: Job[ResultT], lost: WorkerLost) -> Future[ResultT]:
        error: MagdError
        if self._abandoned:
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

    def _lose_worker(self, worker: WorkerProcess) -> None:
        self._end_worker(worker)
        with self._changed:
            if not self._abandoned:
                self._replaced += 1

    def _end_worker(self, worker: WorkerProcess) -> None:
        with self._changed:
            self._processes.remove(worker)
        worker.end()
