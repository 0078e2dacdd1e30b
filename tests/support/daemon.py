"""A real `magd serve` process, for tests and for scripts.

1. Start the process; its log (stderr) goes to a file, so that it never waits for a reader.
2. Read its stdout until the line `magd ready grpc=ADDRESS http=ADDRESS`. A process that ends before, or takes
   too long, is an error that shows the log.
3. `stop` asks it to drain and says how it ended; `kill` is a crash.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

MAGD: Final = (sys.executable, "-m", "magd.cli.main")
ANY_PORT: Final = "127.0.0.1:0"

_READY: Final = re.compile(r"magd ready grpc=(\S+) http=(\S+)\n")


class DaemonError(Exception):
    """The daemon did not do what was asked. The text has its log.

    :ivar status: its exit status, if it has ended
    :ivar log: what it had written to stderr
    """

    def __init__(self, message: str, status: int | None, log: str) -> None:
        super().__init__(f"{message}\n--- log of the daemon\n{log}")
        self.status = status
        self.log = log


class Daemon:
    """A `magd serve` process that was ready. Leaving it as a context manager stops it and checks its exit
    status.

    :ivar grpc: the address for clients, HOST:PORT or unix:PATH
    :ivar http: HOST:PORT
    :ivar pid: of the process
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *options: str,
        grpc: str = ANY_PORT,
        http: str = ANY_PORT,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = MAGD,
        timeout_seconds: float = 60.0,
    ) -> None:
        """Start a daemon and wait until it is ready.

        :param root: the folder to serve
        :param options: of `magd serve`, beyond root and addresses
        :param environment: variables to set, beyond those of this process
        :param command: what `serve` is appended to
        :param timeout_seconds: for becoming ready, and for stopping
        :raises DaemonError: it ended, or was not ready in time
        """
        self._timeout_seconds = timeout_seconds
        self._killed = False
        self._log_file = tempfile.TemporaryFile("w+b")  # noqa: SIM115  closed by wait()
        self._log = ""
        self._process = subprocess.Popen(
            [*command, "serve", os.fspath(root), "--grpc", grpc, "--http", http, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            env={**os.environ, **(environment or {})},
        )
        self.pid: Final = self._process.pid
        try:
            self.grpc, self.http = self._wait_until_ready()
        except BaseException:
            self._process.kill()
            self.wait()
            raise

    @property
    def log(self) -> str:
        """What it has written to stderr so far."""
        if not self._log_file.closed:
            # pread: the process writes at the position that this file object shares with it.
            descriptor = self._log_file.fileno()
            self._log = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")
        return self._log

    @property
    def status(self) -> int | None:
        """The exit status; minus the signal if one ended it; None while it runs."""
        return self._process.poll()

    @property
    def ended_as_it_should(self) -> bool:
        """Whether it has ended with status 0, or was killed by `kill`."""
        return self.status == (-signal.SIGKILL if self._killed else 0)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, for instance SIGSTOP."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to drain (SIGTERM). Does not wait."""
        self._process.terminate()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL), and wait until it has ended."""
        self._killed = self.status is None or self._killed
        self._process.kill()
        self.wait()

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Wait until it has ended.

        :return: its exit status; minus the signal if one ended it
        :raises DaemonError: it still runs after the timeout
        """
        try:
            status = self._process.wait(timeout_seconds or self._timeout_seconds)
        except subprocess.TimeoutExpired:
            raise DaemonError("the daemon still runs", None, self.log) from None
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log = self.log
        self._log_file.close()
        return status

    def stop(self) -> int:
        """Have it drain, and wait for its end. One that does not end in time is killed.

        :return: its exit status
        :raises DaemonError: it did not end in time
        """
        if self.status is None:
            self.terminate()
        try:
            return self.wait()
        except DaemonError:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = self.stop()
        if error is None and not self.ended_as_it_should:
            raise DaemonError(f"the daemon ended with status {status}", status, self.log)

    def _wait_until_ready(self) -> tuple[str, str]:
        """:return: the addresses for gRPC and HTTP"""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + self._timeout_seconds
        seen = b""
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while True:
                if not selector.select(deadline - time.monotonic()):
                    raise DaemonError("the daemon was not ready in time", None, self.log)
                part = os.read(descriptor, 4096)
                if not part:
                    status = self.wait()
                    raise DaemonError(f"the daemon ended with status {status}", status, self.log)
                seen += part
                if ready := _READY.search(seen.decode(errors="replace")):
                    return ready[1], ready[2]
