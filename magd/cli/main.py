"""The entry point of the command line: `magd`, also `python -m magd.cli.main`.

This module stays light: it imports click and nothing else of weight. The processes that compress are spawned and import
the main module of the daemon again, and `magd --help` should not wait for gRPC. Each command is imported when it is
asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Final

import click

from magd.cli.failures import OneLineGroup

COMMANDS: Final = {
    "serve": "magd.cli.serve",
    "ls": "magd.cli.listing",
    "info": "magd.cli.listing",
    "create": "magd.cli.changing",
    "rename": "magd.cli.changing",
    "rm": "magd.cli.changing",
    "import": "magd.cli.importing.command",
    "export": "magd.cli.exporting.command",
    "compress": "magd.cli.converting",
    "decompress": "magd.cli.converting",
    "rechunk": "magd.cli.converting",
    "downsample": "magd.cli.downsampling",
    "operations": "magd.cli.operating",
    "flush": "magd.cli.maintaining",
    "check": "magd.cli.maintaining",
    "reopen": "magd.cli.maintaining",
    "status": "magd.cli.maintaining",
    "demo": "magd.cli.demo",
}
"""The module of each command, in the order of the help. The function is the command's name with `_command` behind."""


class LazyGroup(OneLineGroup):
    """A group whose commands are imported when they are looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  the signature is click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  the signature is click's
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(module), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"magd {importlib.metadata.version('magd')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Names are written dataset, dataset/layer or dataset/layer/mag, for instance cortex/color/1.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print it.")
@click.option("--traceback", is_flag=True, help="On an error, show where in magd it arose.")
@click.pass_context
def cli(ctx: click.Context, traceback: bool) -> None:
    """A storage daemon that owns WKW datasets, so that many tools can write one volume at once.

    \b
    First steps, in two terminals:
      magd serve ./data
      magd demo
      magd import scan.nii.gz brain/mri
      magd ls brain

    Commands other than serve talk to a running daemon: at --server, else MAGD_SERVER, else 127.0.0.1:7733.
    """
    ctx.ensure_object(dict)["traceback"] = traceback
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line on sys.argv and end the process with its status."""
    cli.main(prog_name="magd")


if __name__ == "__main__":
    main()
