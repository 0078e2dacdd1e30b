"""What commands print: tables, details, JSON and progress.

Tables and details are drawn for people at a terminal and are plain aligned text otherwise, so that `magd ls | grep`
works. `--json` prints one JSON document, or one document a line where a command goes on. Progress goes to stderr, and
only if that is a terminal: stdout holds nothing but results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def json_option(command: Function) -> Function:
    """Give a command the option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs; the keys are stable.")(
        command
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False
    """Numbers are aligned to the right."""


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells below the titles of their columns."""
    if sys.stdout.isatty():
        _print_rich_table(columns, rows)
        return
    widths = [max(len(cell) for cell in cells) for cells in zip([c.title for c in columns], *rows, strict=True)]
    for cells in ([column.title for column in columns], *rows):
        line = "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(cells, widths, columns, strict=True)
        )
        click.echo(line.rstrip())


def print_details(details: Mapping[str, str]) -> None:
    """Print names and values, one pair a line."""
    width = max(len(name) for name in details)
    for name, value in details.items():
        label = click.style(name.ljust(width), dim=True) if sys.stdout.isatty() else name.ljust(width)
        click.echo(f"{label}  {value}".rstrip())


def print_json(document: object) -> None:
    """Print one JSON document over several lines."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: object) -> None:
    """Print one JSON document on one line, at once: somebody may be waiting for it."""
    click.echo(json.dumps(document, ensure_ascii=False))
    sys.stdout.flush()


def note(text: str) -> None:
    """Tell the user something that is not a result, on stderr."""
    click.echo(f"magd: {text}", err=True)


class ProgressBar:
    """How far something is; shows nothing where nobody looks."""

    def __init__(self, update: Callable[[float, float | None], None] | None) -> None:
        self._update = update
        self._done = 0.0

    def advance(self, amount: float) -> None:
        """So much more is done."""
        self.set(self._done + amount)

    def set(self, done: float, total: float | None = None) -> None:
        """So much is done of the total, which may have changed."""
        self._done = done
        if self._update is not None:
            self._update(done, total)


@contextmanager
def progress_bar(title: str, total: float | None, *, in_bytes: bool = True, show: bool = True) -> Iterator[ProgressBar]:
    """Show progress on stderr while the block runs.

    :param total: what will be done in all; None if that is not known yet
    :param in_bytes: whether the amounts are bytes; otherwise they count things
    :param show: False keeps silent, as does a stderr that is no terminal
    """
    if not (show and sys.stderr.isatty()):
        yield ProgressBar(None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amounts: list[ProgressColumn] = (
        [DownloadColumn(binary_units=True), TransferSpeedColumn()] if in_bytes else [MofNCompleteColumn()]
    )
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *amounts,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(title, total=total)
        yield ProgressBar(lambda done, new_total: progress.update(task, completed=done, total=new_total))


def _print_rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for cells in rows:
        # Cells are data: a name with brackets is no markup.
        table.add_row(*(_plain(cell) for cell in cells))
    Console().print(table)


def _plain(cell: str) -> Any:
    from rich.text import Text

    return Text(cell)
