"""A daemon whose wall clock can be moved: `python -m tests.faults.daemon_with_clock serve ...`.

The file named by the variable MAGD_TEST_CLOCK has the seconds that the clock is ahead. Only the wall clock moves, as
when an operator or NTP sets it; the monotonic one goes on.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from magd.cli.main import main

VARIABLE: Final = "MAGD_TEST_CLOCK"


def move_the_clock() -> None:
    """Replace the functions that tell the wall clock."""
    path = Path(os.environ[VARIABLE])
    true_time, true_time_ns = time.time, time.time_ns

    def ahead() -> float:
        return float(path.read_text() or 0)

    time.time = lambda: true_time() + ahead()
    time.time_ns = lambda: true_time_ns() + int(ahead() * 1e9)


if __name__ == "__main__":
    move_the_clock()
    main()
