"""What is shown of a run: a page as text or Markdown, JSON, plots, and the tables in the docs.

The JSON holds everything; the rest is made from it, also later. Plots are SVG, one for each group.

In the pages of the docs tables stand between `<!-- results: NAME -->` and `<!-- end of results -->`. NAME is a table of
goals, or `GROUP rows`. What a run did not measure stays as it is there.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

from scripts.benchmarks.measure import MEBIBYTE, Goal, Row, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

_TABLES: Final = {
    "daemon": "Through the daemon",
    "engine": "Cube files in one process",
    "compressed": "Compressed mags",
}
_ROWS: Final = " rows"
_MARKED: Final = re.compile(r"(<!-- results: ([\w ]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
_BAR: Final = 16
"""Height of a bar of a plot and the space around it, in pixels."""
_LABEL: Final = 560
_WIDTH: Final = 420


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    command: str
    date: str
    machine: str
    revision: str
    seconds: float
    goals: tuple[Goal, ...]
    rows: tuple[Row, ...]

    @property
    def groups(self) -> list[str]:
        """Of all rows, in order."""
        return list(dict.fromkeys(row.work.group for row in self.rows))

    def to_json(self) -> str:
        """Everything, with what is computed from it."""
        given = asdict(self)
        for row, stored in zip(self.rows, given["rows"], strict=True):
            stored["megabytes_per_second"] = row.megabytes_per_second
        for goal, stored in zip(self.goals, given["goals"], strict=True):
            stored["is_reached"] = goal.is_reached
        return json.dumps(given, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The other way."""
        given: dict[str, Any] = json.loads(text)
        for row in given["rows"]:
            del row["megabytes_per_second"]
            row["work"] = Work(**row["work"])
        for goal in given["goals"]:
            del goal["is_reached"]
        rows = tuple(Row(**row) for row in given.pop("rows"))
        goals = tuple(Goal(**goal) for goal in given.pop("goals"))
        return cls(rows=rows, goals=goals, **given)

    def page(self) -> str:
        """All tables as Markdown, which is made to be read in a terminal too."""
        parts = [f"# Benchmarks\n\n{self.measured()}"]
        parts += [f"## {title}\n\n{table}" for name, title in _TABLES.items() if (table := self.goal_table(name))]
        parts += [f"## Group {group}\n\n{self.row_table(group)}" for group in self.groups]
        return "\n\n".join(parts) + "\n"

    def measured(self) -> str:
        """When, where and how."""
        return (
            f"Measured {self.date} by `{self.command}` in {self.seconds / 60:.1f} minutes, "
            f"at revision {self.revision}, on {self.machine}."
        )

    def goal_table(self, name: str) -> str:
        """The goals of a table; empty if there are none."""
        lines = [
            (goal.work, goal.against, _reach(goal), _reached(goal), _verdict(goal), goal.remark)
            for goal in self.goals
            if goal.table == name
        ]
        return _table(("work", "against", "reach", "reached", "", ""), lines) if lines else ""

    def row_table(self, group: str) -> str:
        """The rows of a group; empty if there are none."""
        lines = [_line(row) for row in self.rows if row.work.group == group]
        return _table(_COLUMNS, lines) if lines else ""

    def write(self, folder: Path) -> None:
        """Write the page, the JSON and the plots to a folder, which is made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.md").write_text(self.page())
        (folder / "results.json").write_text(self.to_json())
        for group in self.groups:
            (folder / f"{group}.svg").write_text(plot(group, [row for row in self.rows if row.work.group == group]))

    def write_docs(self, page: Path) -> None:
        """Replace the tables of a page that this run has."""

        def of(found: re.Match[str]) -> str:
            name = found[2]
            table = self.row_table(name.removesuffix(_ROWS)) if name.endswith(_ROWS) else self.goal_table(name)
            return f"{found[1]}\n{self.measured()}\n\n{table}\n\n{found[3]}" if table else found[0]

        page.write_text(_MARKED.sub(of, page.read_text()))


def this_machine() -> str:
    """Cores, memory and software, as text."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return (
        f"{len(os.sched_getaffinity(0))} cores ({models[0] if models else platform.machine()}), {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, load before the run {load:.1f}"
    )


def this_revision() -> str:
    """Of the source, as git names it."""
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return found.stdout.strip() or "unknown"


def plot(group: str, rows: Sequence[Row]) -> str:
    """Bars of the throughput of some rows, as SVG."""
    shown = [row for row in rows if row.work.size_bytes]
    most = max((row.megabytes_per_second for row in shown), default=1.0)
    height = (len(shown) + 2) * _BAR
    size = f'width="{_LABEL + _WIDTH + 90}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="4" y="{_BAR - 4}" font-weight="bold">{escape(group)}: MB/s of voxels</text>',
    ]
    for number, row in enumerate(shown, 1):
        speed, y = row.megabytes_per_second, number * _BAR
        width = _WIDTH * speed / most
        color = "#2b6cb0" if row.work.by == "magd" else "#a0aec0"
        lines += [
            f'<text x="{_LABEL - 6}" y="{y + 12}" text-anchor="end">{escape(_label(row.work))}</text>',
            f'<rect x="{_LABEL}" y="{y + 2}" width="{width:.1f}" height="{_BAR - 4}" fill="{color}"/>',
            f'<text x="{_LABEL + width + 4:.1f}" y="{y + 12}">{_figure(speed)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


_COLUMNS: Final = (
    "work", "box", "dtype", "by", "via", "durability", "clients", "block_len", "file_len", "MB/s", "ms each",
    "CPU ms/MiB here", "there", "peak MiB here", "there", "",
)  # fmt: skip


def _line(row: Row) -> tuple[str, ...]:
    work = row.work
    kind = f"{work.dtype} {work.order}{' lz4' if work.is_compressed else ''}" if work.dtype else ""
    data = "" if work.data == "synthetic" else work.data
    return (
        work.name, work.box, kind, work.by, work.transport or "in process", _durability(work) or "-",
        str(work.clients), str(work.block_len or ""), str(work.file_len or ""),
        _figure(row.megabytes_per_second) if work.size_bytes else "", _figure(row.seconds * 1000),
        _figure(row.here_cpu_ms_per_mib), _figure(row.there_cpu_ms_per_mib) if row.there_peak_bytes else "",
        f"{row.here_peak_bytes / MEBIBYTE:.0f}",
        f"{row.there_peak_bytes / MEBIBYTE:.0f}" if row.there_peak_bytes else "",
        "; ".join(filter(None, (row.note, data))),
    )  # fmt: skip


def _label(work: Work) -> str:
    parts = (
        work.by, work.name, work.box, work.dtype, work.order, "lz4" if work.is_compressed else "", work.transport,
        _durability(work), f"{work.clients} clients" if work.clients > 1 else "", f"files {work.file_len}",
    )  # fmt: skip
    return " ".join(filter(None, parts))


def _durability(work: Work) -> str:
    return (work.durability or "").upper()


def _reach(goal: Goal) -> str:
    return f"at {'most' if goal.is_at_most else 'least'} {goal.reach:g} {goal.unit}"


def _reached(goal: Goal) -> str:
    return "not measured" if goal.reached is None else f"{_figure(goal.reached)} {goal.unit}"


def _verdict(goal: Goal) -> str:
    return "" if goal.reached is None else "yes" if goal.is_reached else "**no**"


def _figure(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown, in columns of one width."""
    widths = [max(len(line[i]) for line in (columns, *lines)) for i in range(len(columns))]
    shown = [columns, ["-" * width for width in widths], *lines]
    return "\n".join(
        f"| {' | '.join(text.ljust(width) for text, width in zip(line, widths, strict=True))} |" for line in shown
    )
