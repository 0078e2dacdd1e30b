"""Datasets to serve: the real one, and one of the same shape that every clone can make.

The sample is built with plain `wkw` and `json`, so that it does not depend on what is tested.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
import wkw

SAMPLE_NAME: Final = "sample"
BLOCK_LEN: Final = 32
FILE_LEN: Final = 16

_OFFSET: Final = (2679, 4224, 1719)
_SIZE: Final = (256, 256, 150)
_MAGS: Final = {"1": (1, 1, 1), "2-2-1": (2, 2, 1), "4-4-2": (4, 4, 2)}


@dataclass(frozen=True)
class SampleMag:
    """What one mag of the sample holds. Everything outside of `data` is zero."""

    offset: tuple[int, int, int]  # first voxel of data, in voxels of this mag
    data: npt.NDArray[Any]  # (c, x, y, z), Fortran order: the bounding box, enlarged outward to this mag

    @property
    def size(self) -> tuple[int, int, int]:
        _, x, y, z = self.data.shape
        return x, y, z


def find_real_dataset() -> Path | None:
    """The folder of the real dataset, below MAGD_TEST_DATA (default: ../shared/data); None where there is none.

    Never write there: copy it.
    """
    repository = Path(__file__).parents[2]
    data = Path(os.environ.get("MAGD_TEST_DATA", repository.parent / "shared" / "data"))
    dataset = data / "l4_sample_dev"
    return dataset if (dataset / "datasource-properties.json").is_file() else None


def real_dataset() -> Path:
    """The folder of the real dataset, as `find_real_dataset`. Skips the test where there is none."""
    dataset = find_real_dataset()
    if dataset is None:
        pytest.skip("no real data: no l4_sample_dev/datasource-properties.json (set MAGD_TEST_DATA)")
    return dataset


def make_sample_dataset(root: Path) -> dict[tuple[str, str], SampleMag]:
    """Make a dataset `sample` below a root folder: compressed, with properties in the historic form.

    Two layers, `color` (uint8, noise that does not compress) and `segmentation` (uint32, segments that do),
    in mags 1, 2-2-1 and 4-4-2 each, with a bounding box far from the origin and on no border of a block. The
    mags are not downsampled from each other: each has voxels of its own, so that a mag taken for another is
    noticed.

    :return: what is in it, by layer and mag
    """
    dataset = root / SAMPLE_NAME
    dataset.mkdir(parents=True)
    random = np.random.default_rng(20240607)
    expected: dict[tuple[str, str], SampleMag] = {}
    for layer, make in (("color", _noise), ("segmentation", _segments)):
        for mag, factor in _MAGS.items():
            start = tuple(o // f for o, f in zip(_OFFSET, factor, strict=True))
            end = tuple(-(-(o + s) // f) for o, s, f in zip(_OFFSET, _SIZE, factor, strict=True))
            data = make(random, tuple(e - s for s, e in zip(start, end, strict=True)))
            _write_compressed(dataset / layer / mag, start, data)
            expected[layer, mag] = SampleMag((start[0], start[1], start[2]), data[np.newaxis])
    (dataset / "datasource-properties.json").write_text(json.dumps(_properties(expected), indent=4))
    return expected


def _noise(random: np.random.Generator, size: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.asfortranarray(random.integers(1, 256, size, dtype=np.uint8))


def _segments(random: np.random.Generator, size: tuple[int, ...]) -> npt.NDArray[Any]:
    """Boxes of one id each, as large as small cells."""
    cells = random.integers(1, 5_238_529, tuple(-(-extent // 12) for extent in size), dtype=np.uint32)
    grown = cells.repeat(12, 0).repeat(12, 1).repeat(12, 2)
    return np.asfortranarray(grown[: size[0], : size[1], : size[2]])


def _write_compressed(folder: Path, offset: tuple[int, ...], data: npt.NDArray[Any]) -> None:
    """`wkw` writes whole cube files only when it compresses, so it writes raw ones first."""
    raw = folder.with_name(f"{folder.name}.raw")
    header = wkw.Header(data.dtype, block_len=BLOCK_LEN, file_len=FILE_LEN)
    with wkw.Dataset.create(str(raw), header) as source:
        source.write(offset, data)
        source.compress(str(folder), compress_files=True).close()
    shutil.rmtree(raw)


def _properties(expected: dict[tuple[str, str], SampleMag]) -> dict[str, Any]:
    """As WEBKNOSSOS wrote them before it had `mags`."""
    resolutions = [{"cubeLength": BLOCK_LEN * FILE_LEN, "resolution": list(factor)} for factor in _MAGS.values()]
    width, height, depth = _SIZE
    common = {
        "boundingBox": {"topLeft": list(_OFFSET), "width": width, "height": height, "depth": depth},
        "dataFormat": "wkw",
        "numChannels": 1,
        "wkwResolutions": resolutions,
    }
    color = {
        "name": "color",
        "category": "color",
        "elementClass": "uint8",
        "defaultViewConfiguration": {"color": [255, 219, 219], "intensityRange": [70.0, 180.0]},
        **common,
    }
    segmentation = {
        "name": "segmentation",
        "category": "segmentation",
        "elementClass": "uint32",
        "largestSegmentId": max(int(mag.data.max()) for (layer, _), mag in expected.items() if layer == "segmentation"),
        **common,
    }
    return {
        "id": {"name": SAMPLE_NAME, "team": ""},
        "scale": {"factor": [11.239999771118164, 11.239999771118164, 28.0], "unit": "nanometer"},
        "dataLayers": [color, segmentation],
    }
