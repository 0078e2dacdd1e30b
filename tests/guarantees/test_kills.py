"""What was promised before a SIGKILL holds after it. The long form is scripts/crash_test."""

from __future__ import annotations

import shutil
import tempfile
from glob import glob
from typing import TYPE_CHECKING

import pytest

from tests.guarantees.kills import MIXES, KillTest, setting_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A folder whose path is short enough for a socket in it."""
    folder = tempfile.mkdtemp(prefix="magd-kills-")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("kind", "durability", "rounds"),
    [("raw", "mixed", 2), ("compressed", "mixed", 2), ("compress", "mixed", 3), ("compressed", "none", 1)],
)
def test_what_was_acknowledged_is_there_after_a_kill_and_the_rest_is_whole_or_absent(
    short_folder: str, kind: str, durability: str, rounds: int
) -> None:
    test = KillTest(short_folder, setting_of(kind, MIXES[durability], seconds=0.8), seed=rounds)
    try:
        for _ in range(rounds):
            test.run_round()
        test.finish()
    finally:
        test.kill()
    assert test.figures.kills == rounds + test.figures.in_recoveries
    assert test.figures.unanswered == test.figures.recorded + test.figures.absent or durability == "none"


def test_nothing_is_left_of_large_boxes_that_were_arriving(short_folder: str) -> None:
    """Boxes of 10 MiB and more, whose side files and parts are written while they arrive."""
    test = KillTest(short_folder, setting_of("large", MIXES["mixed"], seconds=1.0), seed=7)
    try:
        for _ in range(2):
            test.run_round()
        test.finish()
    finally:
        test.kill()
    # The daemon may keep some for the next large box while it runs, but not longer.
    left = glob(f"{short_folder}/**/*.staged", recursive=True, include_hidden=True)
    assert left == [], "the start after a kill removes what was arriving"
