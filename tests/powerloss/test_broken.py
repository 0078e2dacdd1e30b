"""The programs that keep a promise only while the power lasts can be made of the program as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import magd.errors
from tests.guarantees.controls import Control, make_broken
from tests.powerloss.broken import BROKEN


@pytest.mark.parametrize(
    "control", [control for some in BROKEN.values() for control in some], ids=lambda control: control.what
)
def test_each_broken_program_has_one_line_changed(control: Control, tmp_path: Path) -> None:
    make_broken(control, str(tmp_path))
    sound = (Path(magd.errors.__file__).parent / control.file).read_text(encoding="utf-8").splitlines()
    broken = (tmp_path / "magd" / control.file).read_text(encoding="utf-8").splitlines()
    assert sum(before != after for before, after in zip(sound, broken, strict=True)) == 1
