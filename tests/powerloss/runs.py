"""Recording a workload, and checking it after power losses at many moments.

    python -m tests.powerloss.runs --workloads raw compressed --states 100 --seed 1

To be run in namespaces of its own (`tests.powerloss.mounts.isolated`).

1. A daemon is started on a recorded disk. The workload acts, and is answered; the kernel writes back files meanwhile at
   random moments, as it may. The daemon is killed, and another one started, which recovers: the power may be lost then
   as well. The file system keeps the order of data and metadata (`data=ordered`), or not (`data=writeback`).
2. States are drawn from the log. For each, the image of the disk is made and mounted, which replays the journal of the
   file system, and magd is started on it in this process. The workload checks what was promised, first through magd,
   then in the files.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import magd_client
from magd_client import MagdError
from tests.guarantees.attempts import GuaranteeBroken
from tests.powerloss.boxes import Boxes
from tests.powerloss.disk_log import read_log
from tests.powerloss.large_boxes import LARGE
from tests.powerloss.local_server import LocalServer
from tests.powerloss.mounts import memory_folder, mounted, run, start_machine_anew, take_boot_id
from tests.powerloss.recording import RecordedDisk, Writeback
from tests.powerloss.states import Images, draw
from tests.powerloss.steps import Steps
from tests.powerloss.workload import Checked
from tests.support.daemon import MAGD, Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from magd_client import Client
    from tests.powerloss.states import PowerLoss
    from tests.powerloss.workload import Workload

WORKLOADS: Final[Mapping[str, Callable[[int], Workload]]] = {
    "raw": lambda seed: Boxes("raw", seed, 30),
    "compressed": lambda seed: Boxes("compressed", seed, 30),
    "compress": lambda seed: Boxes("compress", seed, 20),
    "large": lambda seed: Boxes("raw", seed, 8, LARGE),
    "properties": lambda seed: Steps("properties", seed),
    "create": lambda seed: Steps("create", seed),
    "delete": lambda seed: Steps("delete", seed),
}
STATES_PER_RECORDING: Final = 84
_ORDERS: Final = ("data=ordered", "data=writeback")
_FOLDER_OF_ROOT: Final = "root"
"""Beside the folder `lost+found` of the file system."""


@dataclass(slots=True)
class Outcome:
    """What came of the states of some recordings."""

    recordings: int = 0
    events: int = 0
    states: int = 0
    seconds_recording: float = 0.0
    seconds_checking: float = 0.0
    checked: Checked = field(default_factory=Checked)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        checked, each = self.checked, self.seconds_checking / max(1, self.states)
        return (
            f"{self.states} states of {self.recordings} recordings ({self.events} writes and flushes of the disk), "
            f"{each:.3f} s each; {checked.acknowledged} acknowledged changes checked, unanswered {checked.whole} whole "
            f"/ {checked.absent} absent, {checked.old_ids} old ids; {len(self.broken)} states broken"
        )

    def add(self, other: Outcome) -> None:
        """Sum up."""
        self.recordings += other.recordings
        self.events += other.events
        self.states += other.states
        self.seconds_recording += other.seconds_recording
        self.seconds_checking += other.seconds_checking
        self.checked.add(other.checked)
        self.broken += other.broken


def record_and_check(
    workload: Workload,
    seed: int,
    states: int,
    *,
    command: Sequence[str] = MAGD,
    environment: Mapping[str, str] | None = None,
    stop_at_first: bool = False,
    keep: bool = True,
) -> Outcome:
    """Record a workload once, and check it in many states.

    :param command: runs magd while it is recorded; another one for a program that is known to be broken
    :param stop_at_first: when one state is broken, the others are not looked at
    :param keep: leave the disk of the first broken state behind
    """
    outcome = Outcome(recordings=1)
    with tempfile.TemporaryDirectory(prefix="magd-power-", dir=memory_folder()) as folder:
        began = time.monotonic()
        disk = RecordedDisk(folder, options=random.Random(seed).choice(_ORDERS))
        first = _record(workload, disk, seed, command, environment)
        events = read_log(folder)
        outcome.events = len(events)
        outcome.seconds_recording = time.monotonic() - began

        began = time.monotonic()
        start_machine_anew()
        images = Images(disk.first_image, events, folder)
        image, at = os.path.join(folder, "state"), os.path.join(folder, "mounted")
        os.mkdir(at)
        with LocalServer(folder) as server:
            for state in draw(events, first, workload.acknowledged(), states, seed):
                images.make(state, image)
                problem = _check(workload, server, image, at, state, outcome.checked)
                outcome.states += 1
                if problem:
                    kept = "" if outcome.broken or not keep else f"; such a disk: {_keep(images, state)}"
                    outcome.broken.append(f"{problem}\n  seed {seed}, {state}{kept}")
                    if stop_at_first:
                        break
        outcome.seconds_checking = time.monotonic() - began
    return outcome


def _record(
    workload: Workload, disk: RecordedDisk, seed: int, command: Sequence[str], environment: Mapping[str, str] | None
) -> int:
    """:return: the position from which on the power may be lost"""
    with disk:
        root = os.path.join(disk.root, _FOLDER_OF_ROOT)
        os.mkdir(root)
        with _daemon(root, disk.folder, command, environment) as daemon:
            with magd_client.connect(daemon.grpc) as client:
                workload.prepare(client)
            run("sync", "--file-system", root)
            first = disk.position()
            with Writeback(root, random.Random(seed)):
                workload.act(daemon.grpc, disk.position)
        with _daemon(root, disk.folder, command, environment) as daemon, magd_client.connect(daemon.grpc) as client:
            _recover(client)
    return first


@contextmanager
def _daemon(root: str, folder: str, command: Sequence[str], environment: Mapping[str, str] | None) -> Iterator[Daemon]:
    """A daemon that is killed in the end."""
    daemon = Daemon(root, "--workers", "1", grpc=f"unix:{folder}/socket", command=command, environment=environment)
    try:
        yield daemon
    except MagdError as error:
        raise AssertionError(f"the daemon failed on a sound disk\n{daemon.log}") from error
    finally:
        daemon.kill()


def _recover(client: Client) -> None:
    """Bring what is in the journals into the files."""
    for dataset in client.list_datasets():
        for layer in client.dataset(dataset.name.rpartition("/")[2]).list_layers():
            for mag in layer.mags:
                handle = (
                    client.dataset(dataset.name.rpartition("/")[2]).layer(layer.name.rpartition("/")[2]).mag(mag.mag)
                )
                handle.read((0, 0, 0), (1, 1, 1))
                handle.flush()


def _check(workload: Workload, server: LocalServer, image: str, at: str, state: PowerLoss, checked: Checked) -> str:
    """:return: what is wrong; empty if nothing is"""
    try:
        with mounted(image, at):
            root = os.path.join(at, _FOLDER_OF_ROOT)
            with server.serving(root) as client:
                checked.add(workload.check(client, state.cut))
            workload.check_files(root)
    except (GuaranteeBroken, MagdError, OSError) as error:
        return (
            "".join(traceback.format_exception(error))
            if isinstance(error, OSError)
            else f"{type(error).__name__}: {error}"
        )
    return ""


def _keep(images: Images, state: PowerLoss) -> str:
    """:return: a file with the disk as the power loss left it"""
    descriptor, path = tempfile.mkstemp(prefix="magd-power-loss-", suffix=".ext4")
    os.close(descriptor)
    images.make(state, path)
    return path


def run_states(names: Sequence[str], states: int, seed: int) -> dict[str, Outcome]:
    """Check so many states in all, shared among workloads."""
    outcomes = {name: Outcome() for name in names}
    for number, name in enumerate(names):
        left = states // len(names) + (number < states % len(names))
        while left:
            some = min(left, STATES_PER_RECORDING)
            outcome = record_and_check(WORKLOADS[name](seed), seed, some)
            outcomes[name].add(outcome)
            left -= some
            for problem in outcome.broken:
                sys.stdout.write(f"BROKEN {name}: {problem}\n")
            seed += 1
        sys.stdout.write(f"{name}: {outcomes[name]}\n")
        sys.stdout.flush()
    return outcomes


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for.

    :return: the exit status: 1 if a promise was broken
    """
    parser = argparse.ArgumentParser(prog="python -m tests.powerloss.runs")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--states", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    take_boot_id()
    outcomes = run_states(given.workloads, given.states, given.seed)
    total = Outcome()
    for outcome in outcomes.values():
        total.add(outcome)
    sys.stdout.write(f"in all: {total}\n")
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
