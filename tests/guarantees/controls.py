"""Daemons that break a promise on purpose. A test that does not notice proves nothing about one that keeps it.

Each control is a copy of the program in which one precaution was taken away: one line, or a few that are one thing.
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

Noticed = Literal["raw", "compressed", "compress", "large", "none", "history", "power loss"]


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
    """Which test must notice: kills of one kind ("none" are those with writes that ask for no durability), a recorded
    history, or power losses (`tests.powerloss.broken`)."""
    also: tuple[tuple[str, str, str], ...] = ()
    """What else has to change: file, line, and what is there instead."""

    @property
    def changes(self) -> tuple[tuple[str, str, str], ...]:
        """Everything that changes: file, line, and what is there instead."""
        return ((self.file, self.line, self.instead), *self.also)


CONTROLS: Final = (
    Control(
        "a write is acknowledged before it is in the journal",
        "actors/commit.py",
        "number = journal.append(record, command.staging)",
        "number = journal.last_number + 1; __import__('threading').Timer(0.5, journal.append, (record,)).start()",
        "compressed",
    ),
    Control(
        "of small writes that are appended together only the first gets a record",
        "actors/commit.py",
        "number = journal.append(record, command.staging)",
        "number = journal.last_number if results else journal.append(record, command.staging)",
        "compressed",
    ),
    Control(
        "the side file of a large box is without what arrived first",
        "journal/staging.py",
        "write_all(self._fds[0], [data], self.size_bytes)",
        "self.size_bytes and write_all(self._fds[0], [data], self.size_bytes)",
        "raw",
    ),
    Control(
        "the files that become cube files are without what arrived first",
        "journal/part_staging.py",
        "raw.write_blocks(file, copy_of(common, box, rows, self._header))",
        "self._written_z > box.offset.z and raw.write_blocks(file, copy_of(common, box, rows, self._header))",
        "large",
    ),
    Control(
        "an actor goes on in the epoch of the one before",
        "actors/journal_keeper.py",
        "self._appended = Revision(self.revision.epoch + 1, 0)",
        "self._appended = Revision(max(1, self.revision.epoch), self.revision.counter)",
        "none",
        also=(
            (
                "journal/journal.py",
                "if recovery.head is not None and head.revision.epoch <= recovery.head.revision.epoch:",
                "if recovery.head is not None and head.revision.epoch < recovery.head.revision.epoch:",
            ),
        ),
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
        "await asyncio.wait([placed.before])",
        "pass",
        "history",
    ),
    Control(
        "a write without a task becomes visible before those that came before it",
        "actors/commit.py",
        "elif placed.before is None or placed.before.done():",
        "elif True:",
        "history",
    ),
    Control(
        "a condition on a revision is not looked at",
        "actors/writing.py",
        "self.history.require_unchanged(write.command.if_revision, write.command.box, self._name, revision)",
        "pass",
        "history",
    ),
    Control(
        "the mask of a write is not looked at",
        "actors/writing.py",
        "if write.command.mask is Mask.NONZERO:",
        "if False:",
        "history",
    ),
    Control(
        "the journal is not replayed",
        "actors/journal_keeper.py",
        "self.boxes.lay([Entry(write.box, write, None) for write in self._recovery.writes])",
        "pass",
        "compressed",
    ),
    Control(
        "outcomes are not taken up from the journal",
        "actors/journal_keeper.py",
        "remember_outcomes(self._outcomes, self._recovery.head)",
        "pass",
        "compressed",
    ),
    Control(
        "a checkpoint forgets records before they are in the cube files",
        "actors/journal_keeper.py",
        "old = await self._threads.run(lambda: journal.rotate(make_head()))",
        "old = await self._threads.run(lambda: journal.rotate(make_head())); "
        "await self._threads.run(journal.retire, old)",
        "compressed",
    ),
    Control(
        "an extension of the bounding box is not saved before the acknowledgement",
        "actors/commit.py",
        "await self.keeper.extensions.save(extension, is_recorded=placed.number is not None)",
        "extensions = self.keeper.extensions; extensions.unsaved = extensions.unsaved.union(extension)",
        "compressed",
    ),
    Control(
        "a compression does not look at what was written meanwhile",
        "actors/tracking.py",
        "self._changed.add(entry.box)",
        "pass",
        "compress",
    ),
)


def make_broken(control: Control, folder: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Make the copy.

    :param folder: exists; the copy goes into it
    :return: the command that runs it, and the variables it needs
    :raises ValueError: a line is not there once: the program has changed, and so must the control
    """
    program = Path(magd.errors.__file__).parent
    client = Path(magd_client.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    for source in (program, client):
        shutil.copytree(source, os.path.join(folder, source.name), ignore=ignored)
    for name, line, instead in control.changes:
        file = Path(folder, program.name, name)
        text = file.read_text(encoding="utf-8")
        count = text.count(f" {line}\n")
        if count != 1:
            raise ValueError(f"{name} has the line {count} times: {line}")
        file.write_text(text.replace(f" {line}\n", f" {instead}\n"), encoding="utf-8")
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
    durabilities = MIXES["none" if kind == "none" else "mixed"]
    test = KillTest(folder, setting_of(kind, durabilities, 1.0), seed, command=command, environment=environment)
    try:
        for _ in range(3):
            test.run_round()
    finally:
        test.kill()
