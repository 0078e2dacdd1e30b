"""The disk space that new writes leave free."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from magd.errors import DiskFull, NotFound
from magd.journal.space import require_space

if TYPE_CHECKING:
    from pathlib import Path


class Disk:
    """What statvfs says of a file system of 6400 bytes."""

    f_frsize = 10
    f_blocks = 640

    def __init__(self, free_bytes: int) -> None:
        self.f_bavail = free_bytes // self.f_frsize


@pytest.mark.parametrize(
    ("size", "reserve", "fits"),
    [(400, 50, True), (450, 50, True), (451, 50, False), (400, 10**9, True), (401, 10**9, False), (500, 0, True)],
)
def test_a_write_leaves_the_reserve_or_is_refused(
    monkeypatch: pytest.MonkeyPatch, size: int, reserve: int, fits: bool
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: Disk(500))
    if fits:
        require_space("/data", size, reserve)
        return
    with pytest.raises(DiskFull, match="/data has 500 bytes of free space") as refused:
        require_space("/data", size, reserve)
    assert refused.value.metadata["value"] == str(size)


def test_a_folder_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises((NotFound, OSError), match="missing"):
        require_space(str(tmp_path / "missing"), 1, 1)
