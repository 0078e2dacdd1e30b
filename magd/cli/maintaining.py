"""`magd flush`, `magd check`, `magd reopen` and `magd status`: looking after a daemon and its files."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from magd.cli.connection import connected, server_option
from magd.cli.describe import finding_document, mag_status_document, status_document
from magd.cli.listing import handle_of, mag_handle
from magd.cli.names import Target, TargetType, parse, short
from magd.cli.output import Column, json_option, note, print_details, print_json, print_json_line, print_table
from magd.cli.units import count, format_seconds, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magd_client.convert import FlushLevel
    from magd_client.info import CheckProgress, MagStatus, ServerStatus


@click.command("flush", short_help="Bring what was acknowledged to the disk.")
@click.argument("name", type=TargetType(), required=False)
@click.option(
    "--level",
    type=click.Choice(["applied", "disk", "files"]),
    default="files",
    show_default=True,
    help="applied: it is in the cube files and the properties. disk: it survives a power loss. files: both.",
)
@json_option
@server_option
def flush_command(name: Target | None, level: FlushLevel, as_json: bool, server: str) -> None:
    """Bring everything that was acknowledged to the disk and into the cube files: of NAME, or of all mags in use.

    \b
    Examples:
      magd flush
      magd flush cortex --level disk

    With --json: {name, level}; the name is null if it was everything.
    """
    with connected(server) as client:
        (client if name is None else handle_of(client, name)).flush(level)
    if as_json:
        print_json({"name": None if name is None else str(name), "level": level})
    else:
        click.echo(f"flushed {'all mags in use' if name is None else name}")


@click.command("check", short_help="Look for structural damage.")
@click.argument("name", required=False)
@click.option("--deep", is_flag=True, help="Also decode every compressed block.")
@click.option("--repair", is_flag=True, help="Remove what magd left behind and has no use for any more.")
@click.option("--offline", is_flag=True, help="NAME is a folder, a root or a dataset; no daemon is needed.")
@json_option
@server_option
@click.pass_context
def check_command(
    ctx: click.Context, name: str | None, deep: bool, repair: bool, offline: bool, as_json: bool, server: str
) -> None:
    """Look for structural damage: in NAME (a dataset, layer or mag), or in everything.

    Headers, jump tables and lengths of cube files are checked, the properties, and the journals. A WKW file has no
    checksums, so voxels that were changed inside a sound block cannot be noticed. The exit status is 1 if there is
    damage.

    With --repair temporaries, retired journal files and the like are removed before that. Data, files of other
    programs, what is in use and what is damaged are never touched.

    \b
    Examples:
      magd check
      magd check cortex/color/1 --deep
      magd check /data --offline --deep
      magd check /data --offline --repair

    With --json: {files_checked, files_damaged, findings [{file, severity, message}], removed [file]}.
    """
    if offline:
        if name is None:
            raise click.UsageError("--offline needs the folder to check")
        from magd.cli.offline import check_folder

        damaged = _report(check_folder(name, deep=deep, repair=repair), as_json)
    else:
        damaged = _check_online(name, deep, repair, as_json, server)
    ctx.exit(1 if damaged else 0)


@click.command("reopen", short_help="Accept files that another program changed.")
@click.argument("name", type=TargetType(3))
@json_option
@server_option
def reopen_command(name: Target, as_json: bool, server: str) -> None:
    """Take up the mag NAME again, which stopped because another program changed its files.

    They are read as they are now, and what was committed and is not in them is brought there. magd status says which
    file it is. A mag that has not stopped is left alone.

    \b
    Example:
      magd reopen cortex/color/1

    With --json: the mag, as in magd status.
    """
    with connected(server) as client:
        status = mag_handle(client, name).reopen()
    if as_json:
        print_json(mag_status_document(status))
    else:
        click.echo(f"{name} is {status.state}" + (f": {status.reason}" if status.reason else ""))


@click.command("status", short_help="Show what the daemon is doing.")
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between two looks."
)
@json_option
@server_option
def status_command(watch: bool, interval: float, as_json: bool, server: str) -> None:
    """Show what the daemon is doing: mags in use, memory, operations.

    \b
    Examples:
      magd status
      magd status --watch --interval 1

    With --json: {version, read_only, uptime_seconds, budget_used_bytes, budget_bytes, budget_waiting,
    operations_running, mags [{name, state, reason, queue, running, revision, unsynced_bytes, operation, writes,
    reads}]}; with --watch, one such object a line.
    """
    with connected(server) as client:
        server_info = client.get_server_info()
        about = {"version": server_info.version, "read_only": server_info.read_only}
        while True:
            status = client.get_status()
            if as_json:
                document = about | status_document(status)
                print_json_line(document) if watch else print_json(document)
            else:
                if watch:
                    click.clear()
                _print_status(status, server, server_info.version, server_info.read_only)
            if not watch:
                return
            time.sleep(interval)


def _check_online(name: str | None, deep: bool, repair: bool, as_json: bool, server: str) -> bool:
    try:
        resource = "" if name is None else parse(name).resource
    except ValueError as error:
        hint = "; for a folder add --offline" if os.path.isdir(name or "") else ""
        raise click.BadParameter(f"{error}{hint}", param_hint="NAME") from error
    with connected(server) as client:
        return _report(client.check(resource, deep=deep, repair=repair), as_json)


def _report(progress: Iterable[CheckProgress], as_json: bool) -> bool:
    """Print findings as they come and the totals in the end.

    :return: whether there is damage
    """
    findings = []
    removed: list[str] = []
    files_checked = files_damaged = 0
    damaged = False
    for step in progress:
        files_checked, files_damaged = step.files_checked, step.files_damaged
        removed += step.removed
        if not as_json:
            for file in step.removed:
                click.echo(f"removed: {file}")
        for finding in step.findings:
            damaged = damaged or finding.severity == "damage"
            findings.append(finding)
            if not as_json:
                click.echo(f"{finding.severity}: {finding.file}: {finding.message}")
    if as_json:
        documents = [finding_document(finding) for finding in findings]
        document = {"files_checked": files_checked, "files_damaged": files_damaged, "findings": documents}
        print_json({**document, "removed": removed})
    else:
        verdict = f"{files_damaged:,} damaged" if files_damaged else "damage found" if damaged else "no damage"
        click.echo(f"checked {count(files_checked, 'cube file')}: {verdict}")
    return damaged


def _print_status(status: ServerStatus, server: str, version: str, read_only: bool) -> None:
    waiting = f", {count(status.budget_waiting, 'call')} waiting" if status.budget_waiting else ""
    print_details(
        {
            "daemon": f"magd {version} at {server}" + (", read-only" if read_only else ""),
            "up": format_seconds(status.uptime_seconds),
            "memory": f"{format_size(status.budget_used_bytes)} of {format_size(status.budget_bytes)}{waiting}",
            "operations": f"{status.operations_running} running",
        }
    )
    if not status.mags:
        note("no mag is in use")
        return
    columns = [
        Column("MAG"),
        Column("STATE"),
        Column("WAITING", True),
        Column("RUNNING", True),
        Column("WRITES", True),
        Column("READS", True),
        Column("UNSYNCED", True),
        Column("OPERATION"),
    ]
    print_table(columns, [_status_row(mag) for mag in status.mags])
    for mag in status.mags:
        for warning in mag.warnings:
            note(f"{short(mag.name)}: {warning}")


def _status_row(mag: MagStatus) -> list[str]:
    return [
        short(mag.name),
        f"{mag.state}: {mag.reason}" if mag.reason else mag.state,
        f"{mag.queue:,}",
        f"{mag.running:,}",
        f"{mag.writes:,}",
        f"{mag.reads:,}",
        format_size(mag.unsynced_bytes),
        mag.operation,
    ]
