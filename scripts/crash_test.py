"""What `scripts/crash_test` does, once magd is installed: the long forms of the tests of the guarantees."""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import fields
from typing import TYPE_CHECKING

from tests.guarantees.kills import MIXES, Figures, kill_rounds, setting_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for.

    :return: the exit status: 1 if a promise was broken
    """
    given = _parse(arguments)
    return _kill_at_random(given)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/crash_test",
        description="Kills daemons under load, starts them again, and checks every promise that was made before.",
        epilog="Without --raw, --compressed or --compress, each round draws one of the three.",
    )
    parser.add_argument("--rounds", type=int, default=20, help="kills (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="load before a kill, at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="draws what is written and when to kill; printed when a round fails")
    parser.add_argument("--durability", choices=sorted(MIXES), default="mixed", help="(default: %(default)s)")
    parser.add_argument("--rounds-per-root", type=int, default=20, help="then it begins with an empty folder")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--raw", dest="kind", action="store_const", const="raw", help="a raw mag")
    kinds.add_argument("--compressed", dest="kind", action="store_const", const="compressed", help="a compressed mag")
    kinds.add_argument("--compress", dest="kind", action="store_const", const="compress", help="while it is compressed")
    return parser.parse_args(arguments)


def _kill_at_random(given: argparse.Namespace) -> int:
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    draw = random.Random(seed)
    total, done, failures, started = Figures(), 0, 0, time.monotonic()
    while done < given.rounds:
        rounds = min(given.rounds_per_root, given.rounds - done)
        kind = given.kind or draw.choice(["raw", "compressed", "compress"])
        figures, failure = kill_rounds(
            setting_of(kind, MIXES[given.durability], given.seconds), draw.getrandbits(32), rounds
        )
        done += rounds
        for field in fields(figures):
            setattr(total, field.name, getattr(total, field.name) + getattr(figures, field.name))
        print(f"[{time.monotonic() - started:6.0f} s] {kind}: {figures}", flush=True)
        if failure:
            failures += 1
            print(f"BROKEN, with --{kind} --durability {given.durability}, seed {seed}:\n{failure}", flush=True)
    print(f"in all: {total}; {failures} failures", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
