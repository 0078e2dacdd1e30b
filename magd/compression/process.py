"""One worker process.

It sits in a ProcessPoolExecutor of its own, with one place. An executor breaks as a whole when a process of
it dies, and then cannot say whose job the process had; with one process in each, a death concerns exactly the
one job that the process was doing.

The kernel ends a worker when the *thread* that started it ends (PR_SET_PDEATHSIG means the parent thread, not
the parent process): whoever makes a WorkerProcess must make it in a thread that lives as long as the worker.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, TypeVar

from magd.compression.worker import initialize, perform

if TYPE_CHECKING:
    from magd.compression.jobs import Job

ResultT = TypeVar("ResultT")


class WorkerLost(Exception):
    """The process died, or could not be started. Stays inside this package."""


class WorkerProcess:
    """A process that does one job at a time. All but `kill` is for the thread that made it."""

    def __init__(self) -> None:
        """Start the process, and return when it is ready.

        :raises WorkerLost: it could not be started, or died before it was ready
        """
        # Never fork: a forked child inherits the daemon's sockets and locks.
        self._executor = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=initialize,
            initargs=(os.getpid(),),
        )
        try:
            # A descriptor names this very process; its number could be another's after it has died.
            self._descriptor = os.pidfd_open(self._executor.submit(os.getpid).result())
        except (OSError, RuntimeError) as error:
            # RuntimeError: BrokenProcessPool is one, and so is "can't start new thread".
            self._executor.shutdown()
            raise WorkerLost(f"a worker process could not be started: {error}") from error

    def run(self, job: Job[ResultT]) -> Future[ResultT]:
        """Do a job, and wait until it is over.

        :return: a future that is done, with the job's result or error
        :raises WorkerLost: the process died before the job was over
        """
        try:
            future = self._executor.submit(perform, job)
        except RuntimeError as broken:
            raise WorkerLost(f"the worker process died: {broken}") from broken
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            raise WorkerLost(f"the worker process died: {error}") from error
        return future

    @property
    def has_ended(self) -> bool:
        """Whether the process is dead."""
        # A descriptor of a process is readable when the process has ended.
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """End the process at once, whatever it does. `run` then raises WorkerLost. Not after `end`."""
        try:
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended

    def end(self) -> None:
        """End the process and wait until it is gone. It must not have a job."""
        self.kill()
        self._executor.shutdown()
        os.close(self._descriptor)
