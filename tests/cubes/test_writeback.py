"""The disk may be asked to begin early; what is in the file stays."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from magd.cubes import writeback
from magd.cubes.writeback import start_writeback

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_system_is_asked_for_the_part_that_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[int, ...]]()
    monkeypatch.setattr(writeback, "_sync_file_range", lambda *arguments: asked.append(arguments))
    start_writeback(7, 1 << 40, 3)
    assert asked == [(7, 1 << 40, 3, 2)]


def test_what_was_written_stays_and_an_error_is_left_to_the_sync(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        start_writeback(file.fileno(), 10, 90_000)
    start_writeback(10**6, 0, 1)
    assert path.read_bytes() == b"x" * 100_000


def test_a_system_without_it_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeback, "_sync_file_range", None)
    with open(tmp_path / "file", "wb") as file:
        start_writeback(file.fileno(), 0, 1)
    assert os.path.getsize(tmp_path / "file") == 0
