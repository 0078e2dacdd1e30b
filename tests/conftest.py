"""What tests of several layers share: real daemons, addresses, a dataset to serve."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.support.daemon import ANY_PORT, Daemon
from tests.support.data import SAMPLE_NAME, SampleMag, make_sample_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Serve(Protocol):
    """Starts a daemon; takes what `Daemon` takes."""

    def __call__(self, root: Path, *options: str, **arguments: Any) -> Daemon: ...


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What a test, or a command that it runs in this process, sets in the environment ends with the test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start daemons. Those that still run when the test ends are stopped; each must have ended with status 0,
    unless the test killed it. Their logs are shown if the test fails.
    """
    daemons: list[Daemon] = []

    def start(root: Path, *options: str, **arguments: Any) -> Daemon:
        daemon = Daemon(root, *options, **arguments)
        daemons.append(daemon)
        return daemon

    yield start
    with contextlib.ExitStack() as stack:
        for daemon in daemons:
            stack.callback(_stop, daemon)


def _stop(daemon: Daemon) -> None:
    try:
        status = daemon.stop()
    finally:
        # pytest shows what is written here only if the test fails.
        sys.stderr.write(f"--- log of the daemon at {daemon.grpc}\n{daemon.log}\n")
    assert daemon.ended_as_it_should, f"the daemon ended with status {status}"


@pytest.fixture
def unix_address() -> Iterator[str]:
    """An address for `--grpc` that is a unix socket. Its folder has a short name: a socket's path has at most
    107 bytes, and the folders of pytest are named after tests.
    """
    folder = tempfile.mkdtemp(prefix="magd-")
    yield f"unix:{folder}/socket"
    shutil.rmtree(folder)


@pytest.fixture(params=["tcp", "unix"])
def any_address(request: pytest.FixtureRequest) -> str:
    """An address for `--grpc`: the test runs over TCP and over a unix socket."""
    if request.param == "tcp":
        return ANY_PORT
    address: str = request.getfixturevalue("unix_address")
    return address


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], SampleMag]]:
    """The folder of the sample dataset, and what is in it. Never write there: copy it below a root of your
    own."""
    root = tmp_path_factory.mktemp("sample")
    expected = make_sample_dataset(root)
    return root / SAMPLE_NAME, expected
