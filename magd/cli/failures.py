"""How a command fails: one line on stderr, an exit status, no traceback.

    magd: error: MESSAGE [REASON]

Status 1 means that the command failed, 2 that it was called wrongly, 130 that it was interrupted. The reason is for
scripts that look at stderr: a `Reason` of magd.errors where the daemon gave one.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from magd.errors import MagdError

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED: Final = 1
CALLED_WRONGLY: Final = 2
INTERRUPTED: Final = 130
"""What a shell reports of a program that SIGINT ended."""

SERVER_EXTRA: Final = 'pip install "magd[server]"'
IMPORT_EXTRA: Final = 'pip install "magd[import]"'


class CommandError(Exception):
    """A command cannot do what it was asked for; the message is what the user sees."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason: Final = reason


class MissingExtra(CommandError):
    """A package that is not part of the base install is missing."""

    def __init__(self, what: str, package: str | None, install: str) -> None:
        missing = f" ({package} is missing)" if package else ""
        super().__init__(f"{what} needs more than the base install{missing}: {install}", "MISSING_EXTRA")


class OneLineGroup(click.Group):
    """A group whose `main` reports every failure of its commands in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002  the signature is click's
        **extra: Any,
    ) -> NoReturn:
        """Run and end the process. `standalone_mode` changes nothing: there is no other way to be called."""
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            status = super().main(arguments, prog_name, complete_var, standalone_mode=False, **extra)
        # The last frame of the program: whatever arrives here can only be told to the user.
        except BaseException as error:
            if isinstance(error, SystemExit):
                raise
            if "--traceback" in arguments[:1]:
                traceback.print_exception(error)
            status = report(error)
        # click hands back the status of Context.exit, and otherwise what the command returned, which is nothing.
        sys.exit(status if isinstance(status, int) else 0)


def report(error: BaseException) -> int:
    """Print one line for an error on stderr and return the exit status it asks for."""
    click.echo(f"magd: error: {line_of(error)}", err=True)
    if isinstance(error, click.UsageError):
        return CALLED_WRONGLY
    return INTERRUPTED if isinstance(error, click.Abort | KeyboardInterrupt) else FAILED


def line_of(error: BaseException) -> str:
    """What a user should read of an error, on one line, with its reason in brackets at the end if it has one."""
    match error:
        case click.UsageError():
            where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
            text, reason = error.format_message().rstrip(".") + where, None
        case click.ClickException():
            text, reason = error.format_message(), None
        case click.Abort() | KeyboardInterrupt():
            text, reason = "interrupted", None
        case MagdError():
            text, reason = error.message, error.reason.value
        case CommandError():
            text, reason = str(error), error.reason
        case OSError() if error.strerror:
            text, reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror, "IO_ERROR"
        case _:
            text, reason = f"unexpected {type(error).__name__}: {error} (magd --traceback ... shows where)", "INTERNAL"
    line = " ".join(text.split())
    return f"{line} [{reason}]" if reason else line
