"""What becomes of samples: medians, comparisons within a round, goals, and the tables in a page of the docs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from scripts.benchmarks.measure import Goal, Results, Sample, Work
from scripts.benchmarks.report import Report, plot

if TYPE_CHECKING:
    from pathlib import Path

WORK = Work("transfers", "read", "magd", "64^3", "uint8", 1 << 20, 32, 16, transport="tcp")
OTHER = replace(WORK, by="wkw", transport="")


def sample(seconds: float, boxes: int = 1) -> Sample:
    return Sample(seconds, boxes, here_cpu=0.5, there_cpu=0.25, here_peak=7, there_peak=9)


def results() -> Results:
    made = Results()
    for ours, theirs in ((1.0, 2.0), (10.0, 10.0), (2.0, 6.0)):
        made.add(WORK, sample(ours))
        made.add(OTHER, sample(theirs * 4, boxes=4))
    return made


def report(*goals: Goal) -> Report:
    return Report("scripts/bench", "2026-01-02 03:04 UTC", "2 cores", "abc", 60, goals, tuple(results().rows()))


def test_a_comparison_is_the_median_of_the_quotients_within_a_round() -> None:
    assert results().times_as_fast(WORK, OTHER) == 2.0
    assert results().times_as_fast(OTHER, WORK) == 0.5


def test_a_row_has_medians_for_one_box_and_the_highest_peak() -> None:
    made = results()
    made.add(WORK, replace(sample(2.0), there_peak=11))
    ours, theirs = made.rows()
    assert (ours.rounds, ours.seconds, ours.there_peak_bytes) == (4, 2.0, 11)
    assert (ours.here_cpu_ms_per_mib, ours.there_cpu_ms_per_mib) == (500, 250)
    assert (theirs.seconds, theirs.here_cpu_ms_per_mib) == (6.0, 125)
    assert ours.megabytes_per_second == pytest.approx(0.524288)


def test_what_warmed_up_is_forgotten_in_its_group_only() -> None:
    made = results()
    made.add(replace(WORK, group="small"), sample(1.0))
    made.forget("transfers", by="wkw")
    assert [row.work.by for row in made.rows()] == ["magd", "magd"]
    made.forget("transfers")
    assert [row.work.group for row in made.rows()] == ["small"]


@pytest.mark.parametrize(
    ("reached", "is_at_most", "expected"),
    [(2.0, False, True), (1.9, False, False), (2.0, True, True), (2.1, True, False), (None, True, False)],
)
def test_a_goal_is_reached_from_its_figure_on(reached: float | None, is_at_most: bool, expected: bool) -> None:
    assert Goal("daemon", "small", "a", "b", 2.0, reached, is_at_most=is_at_most).is_reached is expected


def test_results_come_back_from_json() -> None:
    made = report(Goal("daemon", "transfers", "read", "wkw", 0.8, 0.9), Goal("engine", "engine", "x", "wkw", 1, None))
    assert Report.from_json(made.to_json()) == made


def test_the_page_shows_what_is_not_reached_and_what_was_not_measured() -> None:
    page = report(
        Goal("daemon", "transfers", "read", "wkw", 0.8, 0.7), Goal("daemon", "shared", "write", "wkw", 0.8, None)
    ).page()
    assert "| at least 0.8 times | 0.70 times   | **no** |" in page
    assert "| not measured |        |" in page
    assert "## Group transfers" in page


def test_a_page_of_the_docs_gets_the_tables_that_were_measured_and_keeps_the_others(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "# Title\n<!-- results: {} -->\nold\n<!-- end of results -->\ntext\n"
    page.write_text(text.format("daemon") + text.format("compressed") + text.format("transfers rows"))
    made = report(Goal("daemon", "transfers", "read", "wkw", 0.8, 0.9))
    made.write_docs(page)
    once = page.read_text()
    first, second, third = once.split("# Title\n")[1:]
    assert made.goal_table("daemon") in first
    assert made.measured() in first
    assert "old" not in first
    assert second == text.format("compressed").partition("\n")[2]
    assert made.row_table("transfers") in third
    made.write_docs(page)
    assert page.read_text() == once


def test_a_plot_has_a_bar_for_each_row_and_the_longest_is_the_fastest() -> None:
    drawn = plot("transfers & more", results().rows())
    assert drawn.count("<rect x=") == 2
    assert "transfers &amp; more" in drawn
    assert 'width="420.0"' in drawn
