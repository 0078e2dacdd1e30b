"""The short form of `scripts/soak`: contents, and that nothing is held any more when nobody is there any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tests.soak.load import Load
from tests.soak.samples import Sample, count_descriptors, problems

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

SECONDS: Final = 4.0
QUIET_SECONDS: Final = 30.0


def work_for(load: Load, seconds: float) -> None:
    load.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not load.has_failed():
        time.sleep(0.1)
    load.end()


def test_mixed_clients_read_what_they_wrote_and_leave_no_descriptors_behind(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(tmp_path, "--idle-seconds", "1", "--flush-seconds", "0.5")
    load = Load(daemon.grpc, tmp_path, seed=1)
    work_for(load, SECONDS)
    deadline = time.monotonic() + QUIET_SECONDS
    first = count_descriptors(daemon.pid)
    work_for(load, SECONDS)
    # Connections and idle mags are closed by and by.
    while (now := count_descriptors(daemon.pid)) > first and time.monotonic() < deadline + QUIET_SECONDS:
        time.sleep(0.1)
    assert now <= first
    assert all(turns > 0 for _, turns in load.turns()), load.turns()


def a_sample(number: int, *, resident: float = 200, descriptors: int = 50) -> Sample:
    return Sample(number * 10.0, int(resident * 2**20), descriptors, 20, 0, 0.01, 0.001)


def test_what_goes_up_and_down_is_no_growth_and_what_only_goes_up_is() -> None:
    steady = [a_sample(number, resident=200 + number % 7, descriptors=50 + number % 5) for number in range(60)]
    assert problems(steady) == []
    leaking = [a_sample(number, resident=200 + number * 2) for number in range(60)]
    assert "memory" in problems(leaking)[0]
    open_files = [a_sample(number, descriptors=50 + number // 5) for number in range(60)]
    assert "descriptors" in problems(open_files)[0]
    assert problems(steady[:4]) == ["too few samples for a verdict"]
