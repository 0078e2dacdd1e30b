"""What runs inside a worker process.

A worker is a fresh interpreter that imports the jobs and what these need, and neither gRPC nor the daemon. It
must not outlive the daemon, however that ends: a daemon that was started again would compress next to its
predecessor's workers. Nor may it die of the Ctrl-C that asks the daemon to drain.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Final, TypeVar

from magd.errors import InternalError, MagdError

if TYPE_CHECKING:
    from magd.compression.jobs import Job

# Interactive reads and writes go before compression.
_NICE: Final = 10
# From linux/prctl.h.
_PR_SET_PDEATHSIG: Final = 1

ResultT = TypeVar("ResultT")


def initialize(parent_pid: int) -> None:
    """Prepare this process. Runs once, before the first job.

    :param parent_pid: of the daemon
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent_pid)
    os.nice(_NICE)


def perform(job: Job[ResultT]) -> ResultT:
    """Do one job.

    :raises MagdError: what the job raised; anything else it raised becomes an InternalError, because an
        exception that cannot be rebuilt in the daemon would look there like a dead worker
    """
    try:
        return job.run()
    except MagdError:
        raise
    except Exception as error:
        raise InternalError(
            f"{job.file}: {type(error).__name__}: {error}",
            metadata={"file": job.file, "traceback": traceback.format_exc()},
        ) from error


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have ended before the kernel was told; then this process has another parent by now.
    if os.getppid() != parent_pid:
        os._exit(1)
