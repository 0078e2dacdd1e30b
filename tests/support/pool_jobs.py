"""Jobs for tests of the process pool. A module of its own, because the workers import it."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from typing import NoReturn

from magd.errors import Busy, DataLoss, Reason


@dataclass(frozen=True)
class WorkerFacts:
    pid: int
    parent_pid: int
    niceness: int
    modules: frozenset[str]


@dataclass(frozen=True)
class Describe:
    """Tell about the worker."""

    file: str = "a.wkw"

    def run(self) -> WorkerFacts:
        return WorkerFacts(os.getpid(), os.getppid(), os.nice(0), frozenset(sys.modules))


@dataclass(frozen=True)
class Hold:
    """Say that it has begun, and wait for leave to end. The test has the other side of both FIFOs."""

    started: str  # path of a FIFO
    leave: str  # path of a FIFO
    file: str = "held.wkw"

    def run(self) -> int:
        with open(self.started, "w") as started:
            started.write(str(os.getpid()))
        with open(self.leave) as leave:
            leave.read()
        return os.getpid()


@dataclass(frozen=True)
class Die:
    """Kill the worker, each time."""

    file: str

    def run(self) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("survived SIGKILL")


class Stubborn(Exception):
    """Cannot be unpickled: its constructor wants more than its arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@dataclass(frozen=True)
class Fail:
    """Raise an error."""

    kind: str
    file: str = "z0/y0/x0.wkw"

    def run(self) -> NoReturn:
        match self.kind:
            case "data loss":
                raise DataLoss("bad", reason=Reason.IO_ERROR, metadata={"file": self.file, "block": 7})
            case "busy":
                raise Busy("later", retry_after=1.5)
            case "stubborn":
                raise Stubborn("not ", "one of ours")
            case _:
                raise AssertionError(self.kind)


def fail_to_initialize(parent_pid: int) -> NoReturn:
    """An initializer that fails."""
    os._exit(3)
