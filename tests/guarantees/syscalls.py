"""Killing a daemon at the N-th system call of a kind, for each N, through what strace can inject.

1. The daemon has one thread for files, so the calls of one protocol come in the same order each time. Which thread that
   is, a traced write tells.
2. A protocol prepares something of its own. strace is attached to that thread, and the protocol acts: at the entry of
   the chosen call the whole daemon is killed, and the call does not happen.
3. The daemon is started again, and the protocol checks that everything is as before or as after it, and as after it if
   that was acknowledged.
4. When the chosen call does not come any more, the next kind of call has its turn.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

import magd_client
from magd_client import MagdError
from tests.guarantees.attempts import GuaranteeBroken
from tests.guarantees.writers import NEVER_AGAIN
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd_client import Client

CALLS: Final = (
    "write",
    "pwrite64",
    "pwritev2",
    "copy_file_range",
    "ftruncate",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "linkat",
    "symlink",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
)
"""All that changes files. Those that a protocol does not use cost one run without a kill."""

AT_MOST: Final = 500
"""Calls of one kind in one run of a protocol."""


class Change(Protocol):
    """A protocol that changes files."""

    def prepare(self, client: Client, name: str) -> None:
        """Make what it changes, below a dataset of this name that does not exist yet."""

    def act(self, client: Client, name: str) -> None:
        """Change it. Returns when that was acknowledged."""

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """That all is as before or as after.

        :raises GuaranteeBroken: it is not
        """


@cache
def why_not() -> str:
    """Why nothing can be injected here; empty if it can."""
    strace = shutil.which("strace")
    if strace is None:
        return "there is no strace"
    probe = subprocess.run(
        [strace, "-o", os.devnull, "-e", "trace=rmdir", "-e", "inject=rmdir:error=EIO", "rmdir", os.devnull],
        capture_output=True,
        check=False,
        text=True,
    )
    return "" if "Input/output error" in probe.stderr else f"strace cannot inject: {probe.stderr.strip()[-200:]}"


@dataclass(slots=True)
class Injected:
    """What came of one injection."""

    kills: int = 0
    acknowledged: int = 0
    """Protocols that were acknowledged before the kill."""
    errors: int = 0


class SyscallTest:
    """A daemon that is killed at system calls, and started again after each kill.

    :param folder: an empty folder with a short path
    """

    def __init__(self, folder: str) -> None:
        self.figures = Injected()
        self._folder = folder
        self._root = os.path.join(folder, "root")
        os.mkdir(self._root)
        self._names = (f"d{number}" for number in range(10**9))
        self._daemon = self._start()
        try:
            self._thread = self._find_thread()
        except BaseException:
            self._daemon.kill()
            raise

    def sweep(self, change: Change, call: str) -> int:
        """Kill at every call of one kind.

        :return: how many there were
        """
        for number in range(1, AT_MOST):
            if not self.kill_at(change, call, number):
                return number - 1
        raise AssertionError(f"more than {AT_MOST} calls of {call}")

    def kill_at(self, change: Change, call: str, number: int) -> bool:
        """Kill at one call.

        :return: whether there was such a call
        :raises GuaranteeBroken: things are not as they should be afterwards
        """
        name = next(self._names)
        with magd_client.connect(self._daemon.grpc, retry=NEVER_AGAIN) as client:
            change.prepare(client, name)
            acknowledged = True
            with self._strace("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"):
                try:
                    change.act(client, name)
                except MagdError:
                    acknowledged = False
                    if self._daemon.wait() != -signal.SIGKILL:
                        raise
                # It may also have been killed after the acknowledgement, by what it does afterwards.
        killed = self._daemon.status is not None
        if killed:
            self._restart()
            self.figures.acknowledged += acknowledged
        with magd_client.connect(self._daemon.grpc) as client:
            try:
                change.check(client, name, acknowledged=acknowledged)
                _check_sound(client, name)
            except (GuaranteeBroken, MagdError) as error:
                raise GuaranteeBroken(f"killed at {call} number {number} of {change}: {error}") from error
        return killed

    def sweep_errors(self, change: Change, call: str, error: str) -> int:
        """Have every call of one kind fail once.

        :return: how many there were
        """
        for number in range(1, AT_MOST):
            if not self.fail_at(change, call, number, error):
                return number - 1
        raise AssertionError(f"more than {AT_MOST} calls of {call}")

    def fail_at(self, change: Change, call: str, number: int, error: str, *, then_kill: bool = False) -> bool:
        """Have one call fail, and see that the daemon goes on.

        :param error: the name of the error
        :param then_kill: and that what it has acknowledged after the error survives a kill
        :return: whether there was such a call
        :raises GuaranteeBroken: things are not as they should be afterwards
        """
        name = next(self._names)
        log = os.path.join(self._folder, "strace.log")
        with magd_client.connect(self._daemon.grpc, retry=NEVER_AGAIN) as client:
            change.prepare(client, name)
            acknowledged = True
            with self._strace("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}", output=log):
                try:
                    change.act(client, name)
                except MagdError:
                    acknowledged = False
        with open(log, encoding="utf-8") as file:
            failed = "(INJECTED)" in file.read()
        if then_kill and self._daemon.status is None:
            self._restart()
        with magd_client.connect(self._daemon.grpc) as client:
            try:
                if self._daemon.status is not None:
                    raise GuaranteeBroken(f"the daemon has ended\n{self._daemon.log}")
                if not failed and not acknowledged:
                    raise GuaranteeBroken("it failed without an error of the system")
                change.check(client, name, acknowledged=acknowledged)
                _check_sound(client, name)
            except (GuaranteeBroken, MagdError) as broken:
                raise GuaranteeBroken(f"{error} at {call} number {number} of {change}: {broken}") from broken
        self.figures.errors += failed
        return failed

    def close(self) -> None:
        """Leave no process behind."""
        self._daemon.kill()

    @property
    def log(self) -> str:
        """Of the daemon that was started last."""
        return self._daemon.log

    def _start(self) -> Daemon:
        return Daemon(self._root, "--io-threads", "1", "--workers", "1")

    def _restart(self) -> None:
        self._daemon.kill()
        self._daemon = self._start()
        self._thread = self._find_thread()
        self.figures.kills += 1

    def _find_thread(self) -> int:
        """The one that changes files."""
        name = next(self._names)
        log = os.path.join(self._folder, "strace.log")
        with magd_client.connect(self._daemon.grpc) as client:
            layer = client.create_dataset(name, voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint8")
            mag = layer.add_mag("1", block_len=8, file_len=2)
            mag.read((0, 0, 0), (1, 1, 1))
            with self._strace("-f", "-e", "trace=fdatasync", pid=self._daemon.pid, output=log):
                mag.write(np.ones((1, 1, 1), "uint8"), durability="disk")
        with open(log, encoding="utf-8") as file:
            threads = set(re.findall(r"^(\d+) +fdatasync", file.read(), re.MULTILINE))
        assert len(threads) == 1, f"these threads sync: {threads}"
        return int(threads.pop())

    def _strace(self, *options: str, pid: int = 0, output: str = os.devnull) -> _Strace:
        return _Strace([*options, "-o", output, "-p", str(pid or self._thread)])


class _Strace:
    """strace, attached while the context lasts."""

    def __init__(self, options: list[str]) -> None:
        self._options = options

    def __enter__(self) -> None:
        self._process = subprocess.Popen(["strace", *self._options], stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert "attached" in line, line

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # it lets go of the thread, if that is still there
        self._process.communicate()


def _check_sound(client: Client, dataset: str) -> None:
    names = [info.name for info in client.list_datasets()]
    if not any(name.endswith(f"/{dataset}") for name in names):
        return
    damage = [
        f"{finding.file}: {finding.message}"
        for progress in client.check(client.dataset(dataset), deep=True)
        for finding in progress.findings
        if finding.severity == "damage"
    ]
    if damage:
        raise GuaranteeBroken(f"damage: {damage}")


def run(change: Change, *, error: str = "") -> Iterator[str]:
    """Sweep all calls of one protocol, and tell about each kind that it uses. One that is broken somewhere is left
    there, and the next kind has its turn.

    :param error: name of the error with which each call fails once; empty: the daemon is killed
    :raises GuaranteeBroken: in the end, with all that was not as it should be
    """
    broken: list[str] = []
    kills = errors = 0
    for call in CALLS:
        folder = tempfile.mkdtemp(prefix="magd-calls-")
        test = SyscallTest(folder)
        try:
            count = test.sweep_errors(change, call, error) if error else test.sweep(change, call)
            if count:
                yield f"{change}: {error or 'killed'} at each of {count} {call}"
        except GuaranteeBroken as failure:
            broken.append(str(failure))
            yield f"BROKEN {failure}"
        finally:
            test.close()
            shutil.rmtree(folder)
        kills += test.figures.kills
        errors += test.figures.errors
    yield f"{change}: {kills} kills, {errors} errors"
    if broken:
        raise GuaranteeBroken("\n".join(broken))
