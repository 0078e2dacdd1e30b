"""`magd compress`, `magd decompress` and `magd rechunk`: the same voxels, stored in another way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from magd.cli.connection import connected, server_option
from magd.cli.listing import mag_handle
from magd.cli.names import Target, TargetType
from magd.cli.operating import follow, raise_unless_succeeded, run_operation
from magd.cli.output import json_option
from magd.cli.units import POWER_OF_TWO

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd_client import Client
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


def target_option(command: Callable[..., None]) -> Callable[..., None]:
    """--target, for commands that change a mag or write another one."""
    option = click.option("--target", metavar="DATASET", help="Write DATASET/layer/mag instead of changing NAME.")
    return option(command)


def no_wait_option(command: Callable[..., None]) -> Callable[..., None]:
    """--no-wait, for commands that start an operation."""
    return click.option("--no-wait", is_flag=True, help="Start it, print its name and return.")(command)


@click.command("compress", short_help="Compress a mag, in place or elsewhere.")
@click.argument("name", type=TargetType(3))
@target_option
@click.option(
    "--level",
    type=LevelType(),
    default="auto",
    show_default=True,
    metavar="auto|fast|3..12",
    help="auto decides block by block and spends effort only where it pays; a number is a level of LZ4HC.",
)
@click.option(
    "--min-gain",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    metavar="SHARE",
    help="Leave the mag as it is if a sample promises to save less than this share of its data, for instance 0.05.",
)
@no_wait_option
@json_option
@server_option
def compress_command(
    name: Target, target: str | None, level: Level, min_gain: float, no_wait: bool, as_json: bool, server: str
) -> None:
    """Compress the mag NAME, in place or into another dataset. Reads and writes go on meanwhile.

    The daemon does the work and goes on with it when this command is interrupted: magd operations lists, follows and
    cancels it.

    \b
    Examples:
      magd compress cortex/color/1
      magd compress cortex/color/1 --min-gain 0.05
      magd compress cortex/color/1 --target cortex_small --level 9
      magd compress cortex/color/1 --no-wait
    """
    with connected(server) as client:
        operation = mag_handle(client, name).compress(target=target, level=level, min_gain=min_gain)
        run_operation(operation, wait=not no_wait, as_json=as_json)


@click.command("decompress", short_help="Store a mag raw, in place or elsewhere.")
@click.argument("name", type=TargetType(3))
@target_option
@no_wait_option
@json_option
@server_option
def decompress_command(name: Target, target: str | None, no_wait: bool, as_json: bool, server: str) -> None:
    """Store the mag NAME raw, in place or into another dataset. Reads and writes go on meanwhile.

    \b
    Examples:
      magd decompress cortex/color/1
      magd decompress cortex/color/1 --target cortex_raw
    """
    with connected(server) as client:
        operation = mag_handle(client, name).decompress(target=target)
        run_operation(operation, wait=not no_wait, as_json=as_json)


@click.command("rechunk", short_help="Store a mag in cube files of other lengths.")
@click.argument("name", type=TargetType(3))
@click.option("--block-len", type=POWER_OF_TWO, help="Edge of a block in voxels.  [default: as it is]")
@click.option("--file-len", type=POWER_OF_TWO, help="Edge of a cube file in blocks.  [default: as it is]")
@target_option
@no_wait_option
@json_option
@server_option
def rechunk_command(
    name: Target,
    block_len: int | None,
    file_len: int | None,
    target: str | None,
    no_wait: bool,
    as_json: bool,
    server: str,
) -> None:
    """Store the mag NAME in cube files of other lengths, in place or into another dataset. Reads and writes go on
    meanwhile; a compressed mag stays compressed, a raw one raw.

    \b
    Examples:
      magd rechunk cortex/color/1 --file-len 16
      magd rechunk cortex/color/1 --block-len 64 --file-len 8 --target cortex_64
    """
    if block_len is None and file_len is None:
        raise click.UsageError("give --block-len, --file-len, or both")
    with connected(server) as client:
        operation = mag_handle(client, name).rechunk(block_len=block_len, file_len=file_len, target=target)
        run_operation(operation, wait=not no_wait, as_json=as_json)


def compress_and_wait(client: Client, name: Target, *, show: bool) -> OperationInfo:
    """Compress a mag in place and wait until that is done.

    :raises CommandError: it failed or was cancelled
    """
    info = follow(mag_handle(client, name).compress(), show=show)
    raise_unless_succeeded(info)
    return info
