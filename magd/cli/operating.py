"""`magd operations`, and what all commands have in common that start long work: it goes on when they have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from magd.cli.connection import connected, server_option
from magd.cli.describe import operation_document
from magd.cli.failures import CommandError
from magd.cli.names import parse, short
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
    from magd_client.info import OperationInfo, OperationStatistics


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
                _tell_end(follow(operation, show=not as_json, as_json_lines=as_json), as_json=False, quiet=as_json)
                return
            info = operation.cancel() if cancel else operation.get_info()
            print_json(operation_document(info)) if as_json else print_details(_details(info))
            return
        _list_operations(client, name, as_json)


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


def run_operation(operation: Operation, *, wait: bool, as_json: bool) -> None:
    """Follow an operation that a command has started to its end, or only tell its name.

    :raises CommandError: it did not succeed
    """
    if not wait:
        info = operation.get_info()
        print_json(operation_document(info)) if as_json else click.echo(info.name)
        return
    try:
        info = follow(operation, show=not as_json)
    except KeyboardInterrupt:
        note(f"{operation.name} goes on; follow it with: magd operations {operation.name} --watch")
        raise
    _tell_end(info, as_json)


def follow(operation: Operation, *, show: bool, as_json_lines: bool = False) -> OperationInfo:
    """Watch an operation until it ends."""
    info = operation.get_info()
    with progress_bar(f"{info.kind} {short(info.resource)}", None, show=show) as bar:
        for info in operation.follow():
            if as_json_lines:
                print_json_line(operation_document(info))
            bar.set(info.progress.bytes_done, info.progress.bytes_total or None)
    return info


def _tell_end(info: OperationInfo, as_json: bool, *, quiet: bool = False) -> None:
    """Say how an operation ended.

    :raises CommandError: not with success
    """
    raise_unless_succeeded(info)
    if as_json:
        print_json(operation_document(info))
    elif not quiet:
        click.echo(summary_of(info))
        if info.statistics is not None and info.statistics.blocks:
            click.echo(describe_blocks(info.statistics))


def raise_unless_succeeded(info: OperationInfo) -> None:
    """:raises CommandError: it failed or was cancelled"""
    if info.state != "succeeded":
        if info.problem is not None:
            raise CommandError(f"{info.name} failed: {info.problem.message}", info.problem.reason)
        raise CommandError(f"{info.name} was {info.state}", info.state.upper())


_DONE: Final = {
    "compress": "compressed",
    "decompress": "decompressed",
    "rechunk": "rechunked",
    "downsample": "downsampled",
}


def summary_of(info: OperationInfo) -> str:
    """What an operation that succeeded has done, in a line."""
    result = short(info.result or info.resource)
    done = _DONE.get(info.kind, info.kind)
    progress, statistics = info.progress, info.statistics
    if not progress.files_total:
        if statistics is not None and statistics.note:
            return f"{result}: {statistics.note}"
        return f"{result} is {done}; there was nothing to do"
    seconds = _seconds(info)
    took = f" in {format_seconds(seconds)}" if seconds is not None else ""
    if statistics is None:
        return f"{done} {result}: {count(progress.files_done, 'cube file')}{took}"
    sizes = f"{format_size(statistics.raw_bytes)} of voxels take {format_size(statistics.stored_bytes)}"
    remark = f"; {statistics.note}" if statistics.note else ""
    return f"{done} {result}: {count(progress.files_done, 'cube file')}, {sizes}{took}{remark}"


def describe_blocks(statistics: OperationStatistics) -> str:
    """What became of the blocks, how fast, and how long others had to wait, in a line."""
    total = statistics.blocks
    ways = {
        "zero": statistics.zero_blocks,
        "stored as they are": statistics.stored_blocks,
        "compressed fast": statistics.fast_blocks,
        "compressed with effort": statistics.high_blocks,
    }
    shares = ", ".join(f"{blocks / total:.1%} {way}" for way, blocks in ways.items() if blocks)
    again = f", {count(statistics.respliced_blocks, 'block')} again" if statistics.respliced_blocks else ""
    speed = f"{format_size(statistics.bytes_per_second)}/s" if statistics.bytes_per_second else "at once"
    hold = format_seconds(statistics.longest_hold_seconds)
    return f"{count(total, 'block')}: {shares}{again}; {speed}; others waited at most {hold}"


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
        "voxels": f"{format_size(progress.bytes_done)} of {format_size(progress.bytes_total)}",
        "cube files": _files(info) + (f", {progress.files_redone} redone" if progress.files_redone else ""),
        "read": format_size(progress.bytes_in),
        "written": format_size(progress.bytes_out),
    }
    if info.result:
        details["result"] = short(info.result)
    if info.statistics is not None and info.statistics.blocks:
        details["blocks"] = describe_blocks(info.statistics)
    if info.statistics is not None and info.statistics.note:
        details["note"] = info.statistics.note
    if info.problem is not None:
        details["error"] = f"{info.problem.message} [{info.problem.reason}]"
    return details
