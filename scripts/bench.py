"""What `scripts/bench` does, once magd is installed."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from magd import malloc
from scripts.benchmarks.measure import Results, Settings
from scripts.benchmarks.report import Report, this_machine, this_revision

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS: Final = {
    "transfers": "transfers",
    "small": "small_boxes",
    "engine": "engine",
    "shared": "shared_memory",
    "downsample": "downsampling",
    "compressed": "compressed",
    "compression": "compression",
    "matrix": "matrix",
}
"""With the module of `scripts.benchmarks` that measures it."""
DEFAULT: Final = ("transfers", "small", "engine", "shared", "downsample")
FILE_LEN: Final = 32
DOCS: Final = Path(__file__).parents[1] / "docs"
PAGES: Final = (DOCS / "performance.md", DOCS / "performance-matrix.md")


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured.

    :return: the exit status: 0, also where a goal is not reached
    """
    given = _parse(arguments)
    if given.show is not None:
        report = Report.from_json((given.show / "results.json").read_text())
    else:
        report = _measure(given)
        out = given.out or Path("bench-results", "-".join(given.groups) or "default")
        report.write(out)
        print(f"written to {out}\n", flush=True)
    print(report.page())
    if given.write_docs:
        for page in PAGES:
            report.write_docs(page)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="How fast magd is, beside what people use today. Without a name: all but the compressed mags.",
    )
    parser.add_argument(
        "groups",
        nargs="*",
        metavar="GROUP",
        help=f"what to measure: {', '.join(GROUPS)}; `compressed` measures `compression` too (default: "
        f"{' '.join(DEFAULT)})",
    )
    parser.add_argument("--quick", action="store_true", help="small boxes, one round: whether everything runs")
    parser.add_argument("--full", action="store_true", help="the matrix too, which takes much longer")
    parser.add_argument("--rounds", type=int, help="of everything, of which medians are taken (default: 5)")
    parser.add_argument("--size", type=int, metavar="VOXELS", help="edge of large boxes (default: 512)")
    parser.add_argument("--seconds", type=float, help="for repeated calls in each round, about (default: 1)")
    parser.add_argument(
        "--file-len", type=int, default=FILE_LEN, help="of mags, in blocks of 32^3 (default: %(default)s)"
    )
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: where temporary files go)")
    parser.add_argument("--out", type=Path, help="folder for the results (default: bench-results/GROUPS)")
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="measure nothing: show the results in this folder")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance*.md")
    given = parser.parse_args(arguments)
    if unknown := [group for group in given.groups if group not in GROUPS]:
        parser.error(f"no such group: {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    edge = given.size
    if edge is not None and (edge < 128 or edge & (edge - 1)):
        parser.error(f"--size {edge} is not a power of two from 128 on")
    return given


def _measure(given: argparse.Namespace) -> Report:
    groups = list(given.groups or DEFAULT)
    if "compressed" in groups and "compression" not in groups:
        groups.append("compression")
    if given.full and "matrix" not in groups:
        groups.append("matrix")
    # As the daemon does, and as clients are told to.
    malloc.pin_thresholds()
    results, machine = Results(), this_machine()
    date, began = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), time.monotonic()
    for group in groups:
        start = time.monotonic()
        print(f"{group} ...", end="", flush=True)
        with (
            tempfile.TemporaryDirectory(prefix="magd-", dir=given.folder) as folder,
            tempfile.TemporaryDirectory(prefix="magd-") as sockets,
        ):
            module: Any = importlib.import_module(f"scripts.benchmarks.{GROUPS[group]}")
            module.run(_settings(given, Path(folder), Path(sockets)), results)
        print(f" {time.monotonic() - start:.0f} s", flush=True)
    return Report(
        command=_command(given),
        date=date,
        machine=machine,
        revision=this_revision(),
        seconds=time.monotonic() - began,
        goals=tuple(results.goals),
        rows=tuple(results.rows()),
    )


def _command(given: argparse.Namespace) -> str:
    """What has to be called for the same again; not where it was done, which belongs to this machine."""
    switches = [f"--{name}" for name in ("quick", "full") if getattr(given, name)]
    options = {"rounds": given.rounds, "size": given.size, "seconds": given.seconds}
    if given.file_len != FILE_LEN:
        options["file-len"] = given.file_len
    values = [f"--{name} {value:g}" for name, value in options.items() if value is not None]
    return " ".join(["scripts/bench", *given.groups, *switches, *values])


def _settings(given: argparse.Namespace, folder: Path, sockets: Path) -> Settings:
    quick: bool = given.quick
    return Settings(
        folder=folder,
        sockets=sockets,
        edge=given.size or (128 if quick else 512),
        file_len=given.file_len,
        rounds=given.rounds or (1 if quick else 5),
        seconds=given.seconds or (0.1 if quick else 1.0),
        is_quick=quick,
    )


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    sys.exit(main(sys.argv[1:]))
