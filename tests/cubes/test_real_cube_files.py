"""Cube files from a microscope, compressed by somebody else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.cubes.check import check_mag
from magd.cubes.convert import Conversion, make_file
from magd.cubes.mag_files import MagFiles
from magd.geometry import Box, Vec3
from tests.cubes.oracle import wkw_read
from tests.support.data import real_dataset

if TYPE_CHECKING:
    from pathlib import Path

MAGS = [(layer, mag) for layer in ("color", "segmentation") for mag in ("1", "2-2-1", "4-4-2")]


def data_box(mag: str) -> Box:
    """A little more than the bounding box of the layers, in voxels of the mag: on no border of a block."""
    factor = Vec3.of([int(part) for part in mag.split("-")] * (1 if "-" in mag else 3))
    return Box.between(Vec3(2669, 4214, 1709) // factor, Vec3(2945, 4490, 1879).ceildiv(factor))


@pytest.mark.parametrize(("layer", "mag"), MAGS)
def test_every_mag_is_read_as_wkw_reads_it(layer: str, mag: str) -> None:
    folder = real_dataset() / layer / mag
    box = data_box(mag)
    with MagFiles.open(str(folder), read_only=True) as files:
        data = files.read(box)
        cube_files = list(files.cube_files())
    np.testing.assert_array_equal(data, wkw_read(folder, box))
    assert data.any() == bool(cube_files)
    assert [checked for checked in check_mag(str(folder), deep=True) if checked.findings] == []


def test_a_copy_can_be_changed_and_compressed_again(tmp_path: Path) -> None:
    folder = shutil.copytree(real_dataset() / "segmentation/1", tmp_path / "1")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    box = data_box("1")
    expected = wkw_read(folder, box)
    part = Box(box.offset + Vec3(70, 81, 92), Vec3(30, 40, 50))
    expected[:, 70:100, 81:121, 92:142] += 1
    with MagFiles.open(str(folder)) as files:
        files.write(part, files.read(part) + np.uint32(1))
        (cube_file,) = files.cube_files()
    np.testing.assert_array_equal(wkw_read(folder, box), expected)
    with MagFiles.open(str(folder)) as files:
        header = files.header
    MagFiles.create(str(tmp_path / "target"), header).close()
    conversion = Conversion(str(folder), header, str(tmp_path / "target"), header, "auto")
    made = make_file(conversion, cube_file.index)
    assert made.size_bytes < 1.03 * (folder / cube_file.path).stat().st_size
    np.testing.assert_array_equal(wkw_read(tmp_path / "target", box), expected)
