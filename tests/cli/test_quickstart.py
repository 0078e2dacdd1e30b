"""The quickstart, without the environment that it makes for itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scripts.quickstart
from scripts.quickstart import Different

REPOSITORY = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.quickstart", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "client")))},
        capture_output=True,
        text=True,
    )


def test_it_goes_the_whole_way_and_leaves_a_compressed_dataset(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.returncode == 0, result.stderr
    for text in (
        "imported brain/mri/1: 128 x 96 x 24 voxels of int16",
        "4 processes wrote 100 boxes at once",
        "20 were sent twice",
        "are as the order of the revisions explains",
        "compressed brain/mri/1",
        "no damage",
        "ended with status 0",
        "read again from the files with the wkw package: the same",
    ):
        assert text in result.stdout
    assert (tmp_path / ".quickstart" / "data" / "brain" / "mri" / "1" / "header.wkw").exists()


def test_a_file_that_cannot_be_imported_ends_it_with_the_line_of_the_command(tmp_path: Path) -> None:
    result = run(tmp_path, "none.npy")
    assert result.returncode == 1
    assert result.stderr.splitlines() == ["magd: error: none.npy: no such file or folder [NOT_FOUND]"]


def test_a_single_voxel_that_differs_is_a_difference() -> None:
    expected = np.zeros((1, 4, 4, 4), np.uint8)
    found = expected.copy()
    scripts.quickstart._compare(found, expected, "written")
    found[0, 3, 3, 3] = 1
    with pytest.raises(Different, match="1 voxel of 64"):
        scripts.quickstart._compare(found, expected, "written")
