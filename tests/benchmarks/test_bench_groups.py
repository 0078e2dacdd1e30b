"""Every group of `scripts/bench` runs and says what it is to say. Nothing here looks at how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.bench import GROUPS

REPOSITORY = Path(__file__).parents[2]
WITHOUT_GOALS = {"downsample", "matrix"}
LONG = {"compressed", "downsample", "matrix"}
ALL = "MAGD_TEST_ALL_BENCHMARKS"
# `compression` is measured with `compressed`.
ALONE = [
    pytest.param(group, marks=pytest.mark.skipif(group in LONG and not os.environ.get(ALL), reason=f"{ALL} is not set"))
    for group in GROUPS
    if group != "compression"
]


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "scripts.bench", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", ALONE)
def test_the_quickest_form_of_a_group_gives_rows_and_goals(group: str, tmp_path: Path) -> None:
    out = tmp_path / "results"
    page = bench(group, "--quick", "--seconds", "0.02", "--folder", str(tmp_path), "--out", str(out))

    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    measured = {"compressed", "compression"} if group == "compressed" else {group}
    assert {row["work"]["group"] for row in results["rows"]} == measured
    assert {"magd"} < {row["work"]["by"] for row in results["rows"] if row["work"]["group"] == group}
    for row in results["rows"]:
        work = row["work"]
        assert row["seconds"] > 0
        assert row["here_peak_bytes"] > 0
        assert (work["block_len"], work["file_len"]) > (0, 0) or "call" in work["name"]
        assert work["durability"] is not None or work["by"] != "magd" or not work["transport"] or "read" in work["name"]
        assert row["there_peak_bytes"] > 0 or not work["transport"]
    assert {goal["group"] for goal in results["goals"]} == measured - WITHOUT_GOALS
    assert all(goal["reached"] is not None for goal in results["goals"] if not goal["remark"])
    for name in measured:
        assert (out / f"{name}.svg").read_text().count("<rect") > 1
    assert (out / "results.md").read_text() in page
    assert bench("--show", str(out)).strip() == (out / "results.md").read_text().strip()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_group_that_there_is_not_is_refused_with_the_names_of_all() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench", "disks"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no such group: disks" in done.stderr
    assert all(group in done.stderr for group in GROUPS)
