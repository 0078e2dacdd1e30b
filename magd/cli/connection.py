"""Reaching the daemon: the option --server, and what to say when nobody answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from magd.cli.failures import CommandError

if TYPE_CHECKING:
    from magd_client import Client

Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_ADDRESS: Final = "127.0.0.1:7733"
FIRST_ANSWER_SECONDS: Final = 10.0
"""How long a daemon may take for its first answer: somebody is waiting at the terminal."""

DURABILITIES: Final = ("none", "process", "disk")


def server_option(command: Function) -> Function:
    """Give a command the option --server."""
    return click.option(
        "--server",
        envvar="MAGD_SERVER",
        default=DEFAULT_ADDRESS,
        metavar="ADDRESS",
        show_default=True,
        show_envvar=True,
        help="HOST:PORT or unix:PATH of the daemon.",
    )(command)


@contextmanager
def connected(server: str) -> Iterator[Client]:
    """A client of the daemon at an address, which has answered once.

    :raises CommandError: no daemon answers there; the message says how to start one
    """
    import magd_client
    from magd.errors import TooSlow, Unavailable
    from magd_client.status import is_unreachable

    # Where nobody listens, somebody at a terminal wants to know it now. A daemon that was reached may restart.
    retry = magd_client.RetryPolicy(connect_seconds=0)
    with magd_client.connect(server, name="magd command line", retry=retry) as client:
        try:
            client.get_server_info(timeout=FIRST_ANSWER_SECONDS)
        except (Unavailable, TooSlow) as error:
            if isinstance(error, Unavailable) and not is_unreachable(error):
                raise
            raise CommandError(f"no daemon answers at {server}; {_how_to_start(server)}", "UNAVAILABLE") from error
        yield client


def _how_to_start(server: str) -> str:
    if server == DEFAULT_ADDRESS:
        return "start one with: magd serve ROOT"
    if server.startswith("unix:") and not os.path.exists(server.removeprefix("unix:")):
        return f"there is no such socket; start one with: magd serve ROOT --grpc {server}"
    return f"start one with: magd serve ROOT --grpc {server}; or name another with --server or MAGD_SERVER"
