"""What `scripts/crash_test` does, once magd is installed: the long forms of the tests of the guarantees."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from dataclasses import fields
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.guarantees.attempts import GuaranteeBroken
from tests.guarantees.changes import CHANGES
from tests.guarantees.controls import CONTROLS, notice
from tests.guarantees.histories import Traffic, record_and_check
from tests.guarantees.kills import MIXES, Figures, kill_rounds, setting_of
from tests.guarantees.syscalls import run, why_not
from tests.powerloss import mounts
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for.

    :return: the exit status: 1 if a promise was broken
    """
    given = _parse(arguments)
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    if given.power_loss:
        return _lose_power(given, seed)
    if given.controls:
        return _run_controls(seed)
    if given.every_syscall is not None:
        return _inject_into_every_syscall(given.every_syscall or list(CHANGES), given.error)
    if given.histories:
        return _record_histories(given.histories, seed)
    return _kill_at_random(given, seed)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/crash_test",
        description="Kills daemons under load, starts them again, and checks every promise that was made before.",
        epilog="Without --raw, --compressed, --compress or --large, each root has one of the four.",
    )
    parser.add_argument("--rounds", type=int, default=20, help="each with a kill or two (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="load before a kill, at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="draws what is written and when to kill; printed when a round fails")
    parser.add_argument("--durability", choices=sorted(MIXES), default="mixed", help="(default: %(default)s)")
    parser.add_argument("--rounds-per-root", type=int, default=20, help="then it begins with an empty folder")
    parser.add_argument(
        "--histories", type=int, metavar="N", help="no kills: record and check N histories of 8 clients"
    )
    parser.add_argument(
        "--every-syscall",
        nargs="*",
        choices=list(CHANGES),
        help="kill at every system call that changes files, of these protocols or of all; needs strace",
    )
    parser.add_argument(
        "--error",
        choices=["EIO", "ENOSPC"],
        default="",
        help="with --every-syscall: each call fails so, instead of a kill",
    )
    parser.add_argument(
        "--controls", action="store_true", help="run programs that are broken on purpose: each must be noticed"
    )
    parser.add_argument(
        "--power-loss",
        action="store_true",
        help="no kills: record a disk, and look at it after power losses at many moments; with --controls, that "
        "programs which keep their promises only while the power lasts are noticed",
    )
    parser.add_argument("--states", type=int, default=300, help="with --power-loss, in all (default: %(default)s)")
    parser.add_argument(
        "--peers", action="store_true", help="with --power-loss: what other libraries keep, in so many states of each"
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--raw", dest="kind", action="store_const", const="raw", help="a raw mag")
    kinds.add_argument("--compressed", dest="kind", action="store_const", const="compressed", help="a compressed mag")
    kinds.add_argument("--compress", dest="kind", action="store_const", const="compress", help="while it is converted")
    kinds.add_argument(
        "--large",
        dest="kind",
        action="store_const",
        const="large",
        help="many large boxes; best with few rounds a root",
    )
    return parser.parse_args(arguments)


def _kill_at_random(given: argparse.Namespace, seed: int) -> int:
    total, done, failures, started = Figures(), 0, 0, time.monotonic()
    while done < given.rounds:
        rounds = min(given.rounds_per_root, given.rounds - done)
        kind = given.kind or random.Random(seed).choice(["raw", "compressed", "compress", "large"])
        figures, failure = kill_rounds(setting_of(kind, MIXES[given.durability], given.seconds), seed, rounds)
        done += rounds
        for field in fields(figures):
            setattr(total, field.name, getattr(total, field.name) + getattr(figures, field.name))
        print(f"[{time.monotonic() - started:6.0f} s] {kind}: {figures}", flush=True)
        if failure:
            failures += 1
            again = (
                f"--{kind} --durability {given.durability} --seconds {given.seconds} --seed {seed} --rounds {rounds}"
            )
            print(f"BROKEN; the same again: {again}\n{failure}", flush=True)
        seed += 1
    print(f"in all: {total}; {failures} failures", flush=True)
    return 1 if failures else 0


def _inject_into_every_syscall(names: Sequence[str], error: str) -> int:
    if why_not():
        print(f"skipped: {why_not()}")
        return 0
    failures = 0
    for name in names:
        try:
            for line in run(CHANGES[name], error=error):
                print(line, flush=True)
        except GuaranteeBroken:
            failures += 1
    print(f"{failures} of {len(names)} protocols are broken")
    return 1 if failures else 0


def _lose_power(given: argparse.Namespace, seed: int) -> int:
    if mounts.why_not():
        print(f"skipped: {mounts.why_not()}")
        return 0
    what = "peers" if given.peers else "broken" if given.controls else "runs"
    options = ["--seed", str(seed)] if given.controls else ["--seed", str(seed), "--states", str(given.states)]
    command = mounts.isolated(sys.executable, "-m", f"tests.powerloss.{what}", *options)
    return subprocess.run(command, check=False).returncode


def _record_histories(count: int, seed: int) -> int:
    operations = searched = masked = conditional = 0
    with TemporaryDirectory(prefix="magd-histories-") as root, Daemon(root) as daemon:
        for number in range(count):
            checked = record_and_check(
                daemon.grpc, f"history-{number}", Traffic(), seed + number, compressed=number % 2 == 1
            )
            operations += checked.operations
            searched += checked.searched
            masked += checked.masked
            conditional += checked.conditional
            print(
                f"{number + 1} histories, {operations} operations ({masked} writes with a mask, {conditional} with a "
                f"condition that held), {searched} in searches",
                flush=True,
            )
    return 0


def _run_controls(seed: int) -> int:
    missed = 0
    for control in CONTROLS:
        noticed = notice(control, seed, rounds=10)
        missed += not noticed
        print(f"{'noticed' if noticed else 'MISSED '}: {control.what}\n    {noticed.splitlines()[:3]}", flush=True)
    print(f"{len(CONTROLS) - missed} of {len(CONTROLS)} broken programs were noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
