"""What other libraries keep of what they have acknowledged, in states drawn in the same way.

    python -m tests.powerloss.peers --states 100 --seed 1

To be run in namespaces of its own (`tests.powerloss.mounts.isolated`). Each library writes the same 64 boxes, none
over another, one after the other. An acknowledgement is what the library itself offers: its call, or its future, has
returned. In each state the same library opens the dataset and reads the boxes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.powerloss.disk_log import read_log
from tests.powerloss.mounts import memory_folder, mounted, run, start_machine_anew, take_boot_id
from tests.powerloss.peer_process import BOXES, PEERS
from tests.powerloss.recording import RecordedDisk, Writeback
from tests.powerloss.states import Images, draw

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT: Final = "root"


class PeerDied(Exception):
    """The process of a library has ended by itself."""


class PeerProcess:
    """A process with a library, that is started again when it has died."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start()

    def ask(self, *command: object) -> Any:
        """Have it do one thing.

        :return: its answer
        :raises PeerDied: it crashed instead
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{' '.join(str(word) for word in command)}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self.end()
            status = self._process.returncode
            self._start()
            raise PeerDied(f"{self._name} ended with status {status}")
        return json.loads(line)

    def end(self) -> None:
        """End it as a power loss would, and wait."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("end\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it is gone
        self._process.wait()
        self._process.stdout.close()

    def restart(self) -> None:
        """End it, and start another one."""
        self.end()
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.powerloss.peer_process", self._name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


@dataclass(slots=True)
class PeerOutcome:
    """What came of one library."""

    states: int = 0
    bad: int = 0
    """States in which something acknowledged was not there whole."""
    boxes: Counter[str] = field(default_factory=Counter)
    """Acknowledged boxes, over all states, by what became of them."""
    torn_under_way: int = 0
    """States in which the box under way was there in part."""
    closed: int = 0
    """States in which the dataset could not be opened, or killed the process that read it."""

    def add(self, acknowledged: Counter[str], under_way: str) -> None:
        """One state more."""
        self.states += 1
        self.closed += acknowledged["closed"]
        self.bad += acknowledged.total() > acknowledged["whole"]
        self.boxes += acknowledged
        self.torn_under_way += under_way == "torn"

    def row(self, name: str) -> str:
        """Of the table."""
        total = sum(self.boxes[kind] for kind in ("whole", "lost", "torn", "unreadable"))
        return (
            f"| {name} | {self.states} | {self.bad} | {total} | {self.boxes['lost']} | {self.boxes['torn']} "
            f"| {self.boxes['unreadable']} | {self.torn_under_way} | {self.closed} |"
        )


HEAD: Final = (
    "| library | states | of them with something acknowledged lost or torn | acknowledged boxes read | lost | torn "
    "| unreadable | states with the box under way torn | datasets that do not open |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def try_peer(name: str, states: int, seed: int) -> PeerOutcome:
    """Record one library, and look at some states."""
    outcome = PeerOutcome()
    with tempfile.TemporaryDirectory(prefix="magd-power-", dir=memory_folder()) as folder:
        disk = RecordedDisk(folder)
        first, ended = _record(name, disk, seed)
        start_machine_anew()
        events = read_log(folder)
        images = Images(disk.first_image, events, folder)
        image, at = os.path.join(folder, "state"), os.path.join(folder, "mounted")
        os.mkdir(at)
        peer = PeerProcess(name)
        try:
            for state in draw(events, first, ended, states, seed):
                images.make(state, image)
                acknowledged = sum(position <= state.cut for position in ended)
                # A library may close a file some time after its last call; its process does so with its end.
                with mounted(image, at, let_go=peer.restart):
                    whole = _look(peer, at, acknowledged)
                    with_next = _look(peer, at, min(acknowledged + 1, BOXES))
                outcome.add(whole, next(iter(with_next - whole), ""))
        finally:
            peer.end()
    return outcome


def _record(name: str, disk: RecordedDisk, seed: int) -> tuple[int, list[int]]:
    """:return: the position from which on the power may be lost, and those right after each acknowledgement"""
    with disk:
        root = os.path.join(disk.root, _ROOT)
        os.mkdir(root)
        peer = PeerProcess(name)
        try:
            peer.ask("create", root)
            run("sync", "--file-system", root)
            first, ended = disk.position(), []
            with Writeback(root, random.Random(seed)):
                for number in range(BOXES):
                    peer.ask("write", number)
                    ended.append(disk.position())
        finally:
            peer.end()
    return first, ended


def _look(peer: PeerProcess, at: str, count: int) -> Counter[str]:
    try:
        answer = peer.ask("check", os.path.join(at, _ROOT), count)
    except PeerDied:
        answer = {"closed": 1}
    return Counter({kind: number for kind, number in answer.items() if isinstance(number, int)})


def main(arguments: Sequence[str]) -> int:
    """Try every library, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.powerloss.peers")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--states", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    take_boot_id()
    sys.stdout.write(f"{HEAD}\n")
    for name in given.peers:
        sys.stdout.write(f"{try_peer(name, given.states, given.seed).row(name)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
