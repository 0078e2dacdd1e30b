"""`magd serve`: the settings of a daemon from the command line. What it does with them is in `magd.daemon`."""

from __future__ import annotations

import os
import traceback
from typing import Any

import click

from magd.acknowledgement import Durability
from magd.cli.connection import DURABILITIES
from magd.cli.failures import SERVER_EXTRA, MissingExtra
from magd.cli.units import SIZE

_SERVER_PACKAGES = frozenset(
    {"aiohttp", "grpc_health", "grpc_reflection", "lz4", "prometheus_client", "structlog", "xxhash"}
)
"""What the server extra installs, as it is imported."""


@click.command("serve", short_help="Serve the WKW datasets below a folder.")
@click.argument("root", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--grpc",
    default="127.0.0.1:7733",
    metavar="ADDRESS",
    show_default=True,
    help="HOST:PORT or unix:PATH for clients; port 0 picks a free one.",
)
@click.option(
    "--http",
    default="127.0.0.1:7734",
    metavar="ADDRESS",
    show_default=True,
    help="HOST:PORT for health, readiness and metrics; port 0 picks a free one, none serves no HTTP.",
)
@click.option("--read-only", is_flag=True, help="Change nothing below ROOT, not even by a lock file.")
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow addresses that other machines reach. Nothing is encrypted and nobody has to log in.",
)
@click.option("--budget", type=SIZE, help="Memory for boxes under way, for instance 4GiB.  [default: 1 GiB]")
@click.option("--max-box", type=SIZE, help="Largest box of one write or read.  [default: a quarter of the budget]")
@click.option(
    "--shared-memory",
    type=SIZE,
    help="Memory, out of the budget, that clients on a unix socket may share.  [default: a quarter of the budget]",
)
@click.option("--no-shared-memory", is_flag=True, help="Share no memory with clients.")
@click.option(
    "--shared-memory-dir",
    type=click.Path(exists=True, file_okay=False),
    help="Where the files of shared memory are made.  [default: /dev/shm]",
)
@click.option(
    "--min-durability",
    type=click.Choice(DURABILITIES),
    help="Least durability of every acknowledgement, whatever clients ask for.  [default: none]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes for background work, such as compressing.  [default: one for each core of --max-cpu, at most 16]",
)
@click.option(
    "--max-cpu",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Share of the machine's cores that background work may take, for instance 0.25.  [default: 1]",
)
@click.option("--io-threads", type=click.IntRange(1, 1024), help="Threads for file input and output.  [default: 8]")
@click.option(
    "--idle-seconds", type=click.FloatRange(0.1), help="Close a mag that nobody used for so long.  [default: 60]"
)
@click.option(
    "--flush-seconds",
    type=click.FloatRange(0),
    help="How long writes to a compressed mag may wait to share a rewrite of their cube files.  [default: 5]",
)
@click.option(
    "--disk-reserve",
    type=SIZE,
    help="Disk space that new writes leave free, for what was committed before.  [default: 256 MiB]",
)
@click.option("--max-calls", type=click.IntRange(1), help="Calls under way at once; more are refused.  [default: 1024]")
@click.option(
    "--stall-seconds", type=click.FloatRange(0.01), help="How long a client may neither send nor take.  [default: 30]"
)
@click.option(
    "--min-rate", type=SIZE, help="The slowest a client may send or take a box, per second.  [default: 64 KiB]"
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.pass_context
def serve_command(
    ctx: click.Context,
    root: str,
    grpc: str,
    http: str,
    read_only: bool,
    insecure: bool,
    budget: int | None,
    max_box: int | None,
    shared_memory: int | None,
    no_shared_memory: bool,
    shared_memory_dir: str | None,
    min_durability: str | None,
    workers: int | None,
    max_cpu: float | None,
    io_threads: int | None,
    idle_seconds: float | None,
    flush_seconds: float | None,
    disk_reserve: int | None,
    max_calls: int | None,
    stall_seconds: float | None,
    min_rate: int | None,
    log_format: str,
    log_level: str,
) -> None:
    """Serve the WKW datasets below the folder ROOT.

    When it is ready, it prints one line to stdout: magd ready grpc=ADDRESS http=ADDRESS. The log goes to stderr. End it
    with Ctrl-C or SIGTERM: it takes no new calls, finishes what it has accepted, and exits with status 0.

    \b
    Examples:
      magd serve ./data
      magd serve /data --grpc unix:/run/magd.sock --http none
      magd serve /data --budget 8GiB --max-cpu 0.5 --log-format json
    """
    # gRPC reads this when it is imported. A daemon never forks, and the handlers for forks cost and warn.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    try:
        from magd.actors.types import StorageConfig
        from magd.daemon import DaemonConfig, serve
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in _SERVER_PACKAGES:
            raise MissingExtra("magd serve", error.name, SERVER_EXTRA) from error
        raise
    if budget and max_box and max_box > budget:
        raise click.BadParameter(f"{max_box} bytes are more than the budget, {budget}", param_hint="'--max-box'")
    if no_shared_memory and (shared_memory or shared_memory_dir):
        raise click.BadParameter("it goes with no other option of shared memory", param_hint="'--no-shared-memory'")
    storage = StorageConfig(
        read_only=read_only,
        **_given(
            budget_bytes=budget,
            max_box_bytes=max_box,
            min_durability=None if min_durability is None else Durability[min_durability.upper()],
            pool_workers=workers,
            max_cpu=max_cpu,
            io_threads=io_threads,
            idle_seconds=idle_seconds,
            flush_seconds=flush_seconds,
            disk_reserve_bytes=disk_reserve,
            shared_memory_folder=shared_memory_dir,
        ),
    )
    if shared_memory and shared_memory > storage.budget_bytes // 2:
        raise click.BadParameter(
            f"{shared_memory} bytes are more than half of the budget, {storage.budget_bytes}",
            param_hint="'--shared-memory'",
        )
    config = DaemonConfig(
        root=root,
        grpc=grpc,
        http=None if http == "none" else http,
        insecure=insecure,
        storage=storage,
        shared_memory_bytes=0 if no_shared_memory else shared_memory,
        log_format="json" if log_format == "json" else "text",
        log_level=log_level,  # type: ignore[arg-type]  # one of the choices above
        **_given(max_calls=max_calls, stall_seconds=stall_seconds, min_rate_bytes_per_second=min_rate),
    )
    try:
        status = serve(config)
    except Exception:
        # A bug. One line is for whoever calls a command; whoever runs a daemon has to find out what happened.
        traceback.print_exc()
        raise
    ctx.exit(status)


def _given(**options: Any) -> dict[str, Any]:
    """The options that somebody gave; the defaults of the others are those of the settings."""
    return {name: value for name, value in options.items() if value is not None}
