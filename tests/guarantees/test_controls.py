"""The tests of the guarantees notice a program that breaks them. All controls: scripts/crash_test --controls."""

from __future__ import annotations

from pathlib import Path

import pytest

import magd.errors
from tests.guarantees.controls import CONTROLS, Control, make_broken, notice


@pytest.mark.parametrize("what", ["the journal is not replayed", "a read does not look into the overlay"])
def test_a_program_that_breaks_a_promise_is_noticed(what: str) -> None:
    (control,) = (control for control in CONTROLS if control.what == what)
    assert "GuaranteeBroken" in notice(control, seed=2, rounds=1)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.what)
def test_each_control_changes_lines_of_the_program_as_it_is(control: Control, tmp_path: Path) -> None:
    make_broken(control, str(tmp_path))
    for file, _, _ in control.changes:
        sound = (Path(magd.errors.__file__).parent / file).read_text(encoding="utf-8").splitlines()
        broken = (tmp_path / "magd" / file).read_text(encoding="utf-8").splitlines()
        assert sum(before != after for before, after in zip(sound, broken, strict=True)) == 1
