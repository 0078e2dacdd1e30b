"""The short form of `scripts/fuzz`: the corpus, and some seconds of new cases for each target."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Self

import pytest

from tests.fuzzing.cases import Case, corpus_of, mutate_bytes
from tests.fuzzing.fuzzer import Broken, fuzz
from tests.fuzzing.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

SECONDS = 4.0
SEED = 20261123


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_was_found_once_or_is_drawn_now_breaks(name: str, tmp_path: Path) -> None:
    report = fuzz(TARGETS[name](), SEED, seconds=SECONDS, findings=tmp_path)
    assert report.cases > len(corpus_of(name)), "not even the corpus was run"
    assert not report.problems, "\n\n".join(report.problems)


class Fragile:
    """A target that must not meet the byte 0xff."""

    name: str = "fragile"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def rest(self) -> None:
        return

    def begin_with(self) -> Sequence[Case]:
        return [Case("bytes", (b"abcdefgh", b"more"))]

    def mutate(self, case: Case, random: random.Random) -> Case:
        return case.with_piece(0, mutate_bytes(case.pieces[0], random)) if case.pieces else case

    def run(self, case: Case) -> None:
        if any(0xFF in piece for piece in case.pieces):
            raise Broken("0xff")


def test_the_fuzzer_finds_what_breaks_a_target_and_makes_it_small(tmp_path: Path) -> None:
    report = fuzz(Fragile(), SEED, cases=5000, findings=tmp_path)
    (finding,) = report.findings
    assert finding.case.pieces == (b"\xff",)
    (path,) = tmp_path.glob("*.json")
    assert Case.from_json(path.read_text()) == finding.case
    assert "Broken: 0xff" in report.problems[0]


def test_the_same_seed_draws_the_same_cases() -> None:
    target = Fragile()
    drawn = [[target.mutate(target.begin_with()[0], random.Random(seed)) for seed in (1, 1, 2)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == drawn[0][1] != drawn[0][2]
