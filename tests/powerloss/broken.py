"""Daemons that keep a promise only while the power lasts. The states after a power loss must show it.

Each is a copy of the program in which one line was changed, as in `tests.guarantees.controls`. It runs while it is
recorded; the states are opened with the program as it is.

    python -m tests.powerloss.broken --seed 1

To be run in namespaces of its own (`tests.powerloss.mounts.isolated`).
"""

from __future__ import annotations

import argparse
import sys
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from tests.guarantees.controls import Control, make_broken
from tests.powerloss.mounts import take_boot_id
from tests.powerloss.runs import WORKLOADS, record_and_check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BROKEN: Final[Mapping[str, tuple[Control, ...]]] = {
    "raw": (
        Control(
            "nothing is ever synced",
            "daemon.py",
            "_set_up_log(config)",
            "_set_up_log(config); import os; os.fsync = os.fdatasync = lambda descriptor: None",
            "power loss",
        ),
        Control(
            "a write is applied to the cube files before its record is synced",
            "actors/commit.py",
            "await self.keeper.sync(placed.number)",
            "self._show(command, write, acknowledgement, placed.number); await asyncio.sleep(0.2); "
            "await self.keeper.sync(placed.number)",
            "power loss",
        ),
        Control(
            "journal files are removed before the cube files are synced",
            "actors/journal_keeper.py",
            "await self._threads.run(self.boxes.files.sync)",
            "pass",
            "power loss",
        ),
        Control(
            "a flush that does not wait for the disk forgets what was promised to be on it",
            "actors/journal_keeper.py",
            "must_sync = to_disk or promised or self._is_promised",
            "must_sync = to_disk",
            "power loss",
        ),
    ),
    "large": (
        Control(
            "it is not noted that the files of a large box are cube files by now, and take newer voxels",
            "journal/journal.py",
            "os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))",
            "pass",
            "power loss",
        ),
    ),
    "delete": (
        Control(
            "the names in folders are never synced",
            "atomic.py",
            "descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)",
            "return",
            "power loss",
        ),
    ),
}
"""By the workload that must notice them."""


def notice(workload: str, control: Control, seed: int, *, states: int, recordings: int) -> str:
    """Record a broken program, a few times at most, until a state shows it.

    :param states: of each recording, at most
    :return: what was noticed; empty if every state was as it should be
    """
    with TemporaryDirectory(prefix="magd-copy-") as copy:
        command, environment = make_broken(control, copy)
        tried = 0
        for attempt in range(recordings):
            outcome = record_and_check(
                WORKLOADS[workload](seed + attempt),
                seed + attempt,
                states,
                command=command,
                environment=environment,
                stop_at_first=True,
                keep=False,
            )
            tried += outcome.states
            if outcome.broken:
                return f"state {tried}: {outcome.broken[0]}"
    return ""


def main(arguments: Sequence[str]) -> int:
    """Try the broken programs.

    :return: the exit status: 1 if one was not noticed
    """
    parser = argparse.ArgumentParser(prog="python -m tests.powerloss.broken")
    parser.add_argument("--only", nargs="+", help="what is wrong with those that are tried (default: all)")
    parser.add_argument("--states", type=int, default=60, help="of each of at most four recordings")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    take_boot_id()
    missed = 0
    for workload, control in [(workload, control) for workload, some in BROKEN.items() for control in some]:
        if given.only and control.what not in given.only:
            continue
        noticed = notice(workload, control, given.seed, states=given.states, recordings=4)
        missed += not noticed
        sys.stdout.write(f"{'noticed' if noticed else 'MISSED '}: {control.what}\n    {noticed.splitlines()[:1]}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
