"""The head of a mag: durable, whole, and never invented."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from magd.errors import DataLoss
from magd.journal import head as heads
from magd.journal.head import Head

if TYPE_CHECKING:
    from pathlib import Path


def test_a_mag_without_a_head_was_never_written_and_looking_leaves_no_trace(tmp_path: Path) -> None:
    assert heads.load(str(tmp_path)) == Head()
    assert list(tmp_path.iterdir()) == []


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    head = Head().started(3).exchanged()
    heads.save(str(tmp_path), head)
    assert heads.load(str(tmp_path)) == head
    heads.save(str(tmp_path), head.started(4))
    assert heads.load(str(tmp_path)).epoch == 4


def test_the_incarnation_is_drawn_once_and_differs_between_mags() -> None:
    first, second = Head().started(1), Head().started(1)
    assert first.incarnation != second.incarnation
    assert first.started(2).incarnation == first.exchanged().incarnation == first.incarnation


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 2}',
        '{"format": 1, "epoch": "1"}',
        '{"format": 1, "other": 1}',
        "\xff",
    ],
)
def test_a_damaged_head_is_an_error_that_names_the_file_not_a_new_mag(tmp_path: Path, text: str) -> None:
    folder = tmp_path / heads.FOLDER
    folder.mkdir()
    (folder / "head.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataLoss) as damaged:
        heads.load(str(tmp_path))
    assert damaged.value.metadata["file"] == str(folder / "head.json")


def test_a_save_that_fails_keeps_the_old_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads.save(str(tmp_path), Head().started(1))

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        heads.save(str(tmp_path), Head().started(2))
    assert heads.load(str(tmp_path)).epoch == 1
    assert os.listdir(tmp_path / heads.FOLDER) == ["head.json"]
