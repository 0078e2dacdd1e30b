"""What `scripts/fuzz` does, once magd is installed."""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fuzzing.cases import Case
from tests.fuzzing.fuzzer import fuzz
from tests.fuzzing.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

_STUCK_SECONDS: Final = 120.0
"""A target that comes to no end for so long after its time is stuck in something that takes no processor time."""


def main(arguments: Sequence[str]) -> int:
    """Fuzz what was asked for.

    :return: the exit status: 1 if something was found
    """
    given = _parse(arguments)
    if given.case is not None:
        return _run_case(given.targets, given.case)
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    given.findings.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}; cases that fail go to {given.findings}", flush=True)
    problems = 0
    for name in given.targets or list(TARGETS):
        # It says where every thread is, and ends the process.
        faulthandler.dump_traceback_later(given.seconds + _STUCK_SECONDS, exit=True)
        report = fuzz(TARGETS[name](), seed, seconds=given.seconds, findings=given.findings)
        print(report, flush=True)
        for problem in report.problems:
            problems += 1
            print(problem, flush=True)
    faulthandler.cancel_dump_traceback_later()
    return 1 if problems else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Feeds damaged files and made-up requests to magd, and looks whether it stands them.",
        epilog="A case that brought the whole process down is in the folder as TARGET-running.json.",
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="draws the cases; printed")
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz-findings"), help="folder for cases that fail (default: %(default)s)"
    )
    parser.add_argument("--case", type=Path, metavar="FILE", help="run only this case, of the one target named")
    given = parser.parse_args(arguments)
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    if given.case is not None and len(given.targets) != 1:
        parser.error("--case needs the target it is for")
    return given


def _run_case(targets: Sequence[str], path: Path) -> int:
    with TARGETS[targets[0]]() as target:
        target.begin_with()
        target.run(Case.from_json(path.read_text()))
    print("it stands this case")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
