"""`magd compress` and `magd operations`: long work that goes on when the command has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from magd.cli.connection import connected, server_option
from magd.cli.describe import operation_document
from magd.cli.failures import CommandError
from magd.cli.listing import mag_handle
from magd.cli.names import Target, TargetType, parse, short
from magd.cli.output import (
    Column,
    json_option,
    note,
    print_details,
    print_json,
    print_json_line,
    print_table,
    progress_bar,
)
from magd.cli.units import count, format_seconds, format_size

if TYPE_CHECKING:
    from magd_client import Client, Operation
    from magd_client.convert import Level
    from magd_client.info import OperationInfo


class LevelType(click.ParamType):
    """How hard to compress."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Level:
        if value in ("auto", "fast"):
            return "auto" if value == "auto" else "fast"
        try:
            level = int(value)
        except ValueError:
            level = 0
        if not 3 <= level <= 12:
            self.fail(f"{value!r} is neither auto, fast nor a number from 3 to 12", param, ctx)
        return level


@click.command("compress", short_help="Compress a mag, in place or elsewhere.")
@click.argument("name", type=TargetType(3))
@click.option("--target", metavar="DATASET", help="Write DATASET/layer/mag instead of changing NAME.")
@click.option(
    "--level",
    type=LevelType(),
    default="auto",
    show_default=True,
    metavar="auto|fast|3..12",
    help="auto decides block by block and spends effort only where it pays; a number is a level of LZ4HC.",
)
@click.option("--no-wait", is_flag=True, help="Start it, print its name and return.")
@json_option
@server_option
def compress_command(name: Target, target: str | None, level: Level, no_wait: bool, as_json: bool, server: str) -> None:
    """Compress the mag NAME, in place or into another dataset. Reads and writes go on meanwhile.

    The daemon does the work and goes on with it when this command is interrupted: magd operations lists, follows and
    cancels it.

    \b
    Examples:
      magd compress cortex/color/1
      magd compress cortex/color/1 --target cortex_small --level 9
      magd compress cortex/color/1 --no-wait
    """
    with connected(server) as client:
        operation = mag_handle(client, name).compress(target=target, level=level)
        if no_wait:
            info = operation.get_info()
            print_json(operation_document(info)) if as_json else click.echo(info.name)
            return
        try:
            info = _follow(operation, show=not as_json)
        except KeyboardInterrupt:
            note(f"{operation.name} goes on; follow it with: magd operations {operation.name} --watch")
            raise
        _tell_end(info, as_json)


@click.command("operations", short_help="List, follow or cancel operations.")
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Follow the operation NAME until it ends.")
@click.option("--cancel", is_flag=True, help="Ask the operation NAME to stop.")
@json_option
@server_option
def operations_command(name: str | None, watch: bool, cancel: bool, as_json: bool, server: str) -> None:
    """List operations, or show, follow or cancel one.

    NAME is that of an operation (operations/...), or of a dataset, layer or mag whose operations are listed.

    \b
    Examples:
      magd operations
      magd operations cortex
      magd operations operations/8f3a-1 --watch
      magd operations operations/8f3a-1 --cancel
    """
    is_operation = name is not None and name.startswith("operations/")
    if (watch or cancel) and not is_operation:
        raise click.UsageError("--watch and --cancel need the name of an operation: operations/...")
    if watch and cancel:
        raise click.UsageError("--watch and --cancel cannot be combined")
    with connected(server) as client:
        if name is not None and is_operation:
            operation = client.operation(name)
            if watch:
                _tell_end(_follow(operation, show=not as_json, as_json_lines=as_json), as_json=False, quiet=as_json)
                return
            info = operation.cancel() if cancel else operation.get_info()
            print_json(operation_document(info)) if as_json else print_details(_details(info))
            return
        _list_operations(client, name, as_json)


def compress_and_wait(client: Client, name: Target, *, show: bool) -> OperationInfo:
    """Compress a mag in place and wait until that is done.

    :raises CommandError: it failed or was cancelled
    """
    info = _follow(mag_handle(client, name).compress(), show=show)
    _raise_unless_succeeded(info)
    return info


def _list_operations(client: Client, name: str | None, as_json: bool) -> None:
    try:
        resource = "" if name is None else parse(name).resource
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from error
    operations = list(client.list_operations(resource))
    if as_json:
        print_json([operation_document(info) for info in operations])
        return
    if not operations:
        note("no operations since the daemon started")
        return
    columns = ["NAME", "KIND", "RESOURCE", "STATE", "CUBE FILES"]
    rows = [[info.name, info.kind, short(info.resource), info.state, _files(info)] for info in operations]
    print_table([Column(title) for title in columns], rows)


def _follow(operation: Operation, *, show: bool, as_json_lines: bool = False) -> OperationInfo:
    """Watch an operation until it ends."""
    info = operation.get_info()
    with progress_bar(f"{info.kind} {short(info.resource)}", None, in_bytes=False, show=show) as bar:
        for info in operation.follow():
            if as_json_lines:
                print_json_line(operation_document(info))
            bar.set(info.progress.files_done, info.progress.files_total or None)
    return info


def _tell_end(info: OperationInfo, as_json: bool, *, quiet: bool = False) -> None:
    """Say how an operation ended.

    :raises CommandError: not with success
    """
    _raise_unless_succeeded(info)
    if as_json:
        print_json(operation_document(info))
    elif not quiet:
        click.echo(summary_of(info))


def _raise_unless_succeeded(info: OperationInfo) -> None:
    if info.state != "succeeded":
        if info.problem is not None:
            raise CommandError(f"{info.name} failed: {info.problem.message}", info.problem.reason)
        raise CommandError(f"{info.name} was {info.state}", info.state.upper())


def summary_of(info: OperationInfo) -> str:
    """What an operation that succeeded has done, in a line."""
    result = short(info.result or info.resource)
    progress = info.progress
    if not progress.files_total:
        return f"{result} is compressed; there was nothing to do"
    seconds = _seconds(info)
    took = f" in {format_seconds(seconds)}" if seconds is not None else ""
    sizes = f"{format_size(progress.bytes_in)} became {format_size(progress.bytes_out)}"
    return f"compressed {result}: {count(progress.files_done, 'cube file')}, {sizes}{took}"


def _seconds(info: OperationInfo) -> float | None:
    if info.create_time is None or info.end_time is None:
        return None
    return (info.end_time - info.create_time).total_seconds()


def _files(info: OperationInfo) -> str:
    return f"{info.progress.files_done} of {info.progress.files_total}"


def _details(info: OperationInfo) -> dict[str, str]:
    progress = info.progress
    details = {
        "operation": info.name,
        "kind": info.kind,
        "resource": short(info.resource),
        "state": info.state,
        "cube files": _files(info) + (f", {progress.files_redone} redone" if progress.files_redone else ""),
        "read": format_size(progress.bytes_in),
        "written": format_size(progress.bytes_out),
    }
    if info.result:
        details["result"] = short(info.result)
    if info.problem is not None:
        details["error"] = f"{info.problem.message} [{info.problem.reason}]"
    return details
