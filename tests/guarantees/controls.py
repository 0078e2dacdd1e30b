"""Daemons that break a promise on purpose. A test that does not notice proves nothing about one that keeps it.

Each control is a copy of the program in which one line was changed.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

import magd.errors
import magd_client
from magd_client import MagdError
from tests.guarantees.histories import Traffic, record_and_check
from tests.guarantees.kills import MIXES, KillTest, setting_of
from tests.support.daemon import Daemon, DaemonError

Noticed = Literal["compressed", "compress", "history", "power loss"]


@dataclass(frozen=True, slots=True)
class Control:
    """One way to break magd."""

    what: str
    file: str
    """Relative to the folder of the package magd."""
    line: str
    """Of the file, which has it once, without the spaces before it."""
    instead: str
    by: Noticed
    """Which test must notice: kills of one kind, a recorded history, or power losses (`tests.powerloss.broken`)."""


CONTROLS: Final = (
    Control(
        "a write is acknowledged before it is in the journal",
        "actors/commit.py",
        "number = await self._threads.run(journal.append, record)",
        "number = asyncio.get_running_loop().call_later(0.5, journal.append, record) and journal.last_number + 1",
        "compressed",
    ),
    Control(
        "a read does not look into the overlay",
        "journal/overlay.py",
        "entry.paint(data, box)",
        "pass",
        "history",
    ),
    Control(
        "overlapping reads and writes run side by side",
        "actors/schedule.py",
        "return self.box.intersects(other.box)",
        "return False",
        "history",
    ),
    Control(
        "writes become visible in any order",
        "actors/commit.py",
        "await asyncio.wait([before])",
        "pass",
        "history",
    ),
    Control(
        "the journal is not replayed",
        "actors/mag.py",
        "point.lay(opened.unapplied)",
        "point.lay(())",
        "compressed",
    ),
    Control(
        "outcomes are not taken up from the journal",
        "actors/mag.py",
        "point.remember()",
        "pass",
        "compressed",
    ),
    Control(
        "a checkpoint forgets records before they are in the cube files",
        "actors/commit.py",
        "old = await self._threads.run(journal.rotate, self._head(self._appended))",
        "old = await self._threads.run(journal.rotate, self._head(self._appended)); "
        "await self._threads.run(journal.retire, old)",
        "compressed",
    ),
    Control(
        "an extension of the bounding box is not saved before the acknowledgement",
        "actors/commit.py",
        "await self._save_extension(extension, durability)",
        "self._unsaved = self._unsaved.union(extension)",
        "compressed",
    ),
    Control(
        "a compression does not look at what was written meanwhile",
        "actors/mag.py",
        "self._touched.update(cube for cube, _ in split_by_cube_file(entry.box, cube_len))",
        "pass",
        "compress",
    ),
)


def make_broken(control: Control, folder: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Make the copy.

    :param folder: exists; the copy goes into it
    :return: the command that runs it, and the variables it needs
    :raises ValueError: the line is not there once: the program has changed, and so must the control
    """
    program = Path(magd.errors.__file__).parent
    client = Path(magd_client.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    for source in (program, client):
        shutil.copytree(source, os.path.join(folder, source.name), ignore=ignored)
    file = Path(folder, program.name, control.file)
    text = file.read_text(encoding="utf-8")
    count = text.count(f" {control.line}\n")
    if count != 1:
        raise ValueError(f"{control.file} has the line {count} times: {control.line}")
    file.write_text(text.replace(f" {control.line}\n", f" {control.instead}\n"), encoding="utf-8")
    # -P: the folder the test runs in has the sound program.
    return (sys.executable, "-P", "-m", "magd.cli.main"), {"PYTHONPATH": folder}


def notice(control: Control, seed: int, *, rounds: int) -> str:
    """Run the test that must notice, a few times at most.

    :return: what it noticed; empty if it was satisfied each time
    """
    with TemporaryDirectory(prefix="magd-copy-") as copy:
        command, environment = make_broken(control, copy)
        for attempt in range(rounds):
            with TemporaryDirectory(prefix="magd-kills-") as folder:
                try:
                    if control.by == "history":
                        _record(folder, seed + attempt, command, environment)
                    else:
                        _kill(folder, control.by, seed + attempt, command, environment)
                except (AssertionError, MagdError, DaemonError) as error:
                    return f"{type(error).__name__} after {attempt + 1}: {error}"
    return ""


def _record(folder: str, seed: int, command: tuple[str, ...], environment: dict[str, str]) -> None:
    daemon = Daemon(folder, command=command, environment=environment)
    try:
        record_and_check(daemon.grpc, "watched", Traffic(), seed, compressed=seed % 2 == 0)
    finally:
        daemon.kill()


def _kill(folder: str, kind: str, seed: int, command: tuple[str, ...], environment: dict[str, str]) -> None:
    test = KillTest(folder, setting_of(kind, MIXES["mixed"], 1.0), seed, command=command, environment=environment)
    try:
        for _ in range(2):
            test.run_round()
    finally:
        test.kill()
