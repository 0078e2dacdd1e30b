"""Datasets that others made, served by a real daemon: the real one, and one of its shape that every clone makes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import wkw

import magd_client
from tests.support.data import SAMPLE_NAME, real_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve
    from tests.support.data import SampleMag

LAYERS = ("color", "segmentation")
MAGS = ("1", "2-2-1", "4-4-2")


def test_every_mag_of_the_sample_reads_as_it_was_made(
    serve: Serve, tmp_path: Path, sample: tuple[Path, dict[tuple[str, str], SampleMag]], any_address: str
) -> None:
    folder, expected = sample
    shutil.copytree(folder, tmp_path / SAMPLE_NAME)
    with magd_client.connect(serve(tmp_path, grpc=any_address).grpc) as client:
        dataset = client.dataset(SAMPLE_NAME)
        assert [info.id for info in dataset.list_layers()] == list(LAYERS)
        for (layer, name), made in expected.items():
            mag = dataset.layer(layer).mag(name)
            info = mag.get_info()
            assert tuple(info.bounding_box.offset) == made.offset
            assert tuple(info.bounding_box.size) == made.size
            data = mag.read()
            assert data.dtype == made.data.dtype
            assert np.array_equal(data, made.data)
            around = mag.read(offset=tuple(v - 3 for v in made.offset), size=tuple(v + 6 for v in made.size))
            assert np.array_equal(around[:, 3:-3, 3:-3, 3:-3], made.data)
            assert around.astype(np.float64).sum() == made.data.astype(np.float64).sum()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mag_name", MAGS)
def test_the_real_dataset_reads_as_wkw_reads_it_and_takes_writes(
    serve: Serve, tmp_path: Path, layer: str, mag_name: str
) -> None:
    folder = tmp_path / "l4"
    shutil.copytree(real_dataset(), folder)
    with magd_client.connect(serve(tmp_path).grpc) as client:
        mag = client.dataset("l4").layer(layer).mag(mag_name)
        box = mag.get_info().bounding_box
        with wkw.Dataset.open(str(folder / layer / mag_name)) as oracle:
            expected = oracle.read(tuple(box.offset), tuple(box.size))
        data = mag.read()
        assert data.dtype == expected.dtype
        assert np.array_equal(data, expected)

        offset = tuple(v + 5 for v in box.offset)
        patch = np.full((17, 9, 11), 7, dtype=data.dtype)
        mag.write(patch, offset=offset)
        expected[0, 5:22, 5:14, 5:16] = 7
        assert np.array_equal(mag.read(), expected)
        mag.flush()
        with wkw.Dataset.open(str(folder / layer / mag_name)) as oracle:
            assert np.array_equal(oracle.read(tuple(box.offset), tuple(box.size)), expected)
        assert mag.get_info().bounding_box == box


def test_a_dataset_that_is_copied_in_while_the_daemon_runs_is_served(
    serve: Serve, tmp_path: Path, sample: tuple[Path, dict[tuple[str, str], SampleMag]]
) -> None:
    folder, expected = sample
    with magd_client.connect(serve(tmp_path).grpc) as client:
        assert list(client.list_datasets()) == []
        shutil.copytree(folder, tmp_path / "copied")
        assert [info.id for info in client.list_datasets()] == ["copied"]
        mag = client.dataset("copied").layer("segmentation").mag("4-4-2")
        assert np.array_equal(mag.read(), expected["segmentation", "4-4-2"].data)


def test_read_only_serves_it_and_leaves_no_trace(
    serve: Serve, tmp_path: Path, sample: tuple[Path, dict[tuple[str, str], SampleMag]]
) -> None:
    folder, expected = sample
    shutil.copytree(folder, tmp_path / SAMPLE_NAME)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    daemon = serve(tmp_path, "--read-only")
    with magd_client.connect(daemon.grpc) as client:
        mag = client.dataset(SAMPLE_NAME).layer("color").mag("2-2-1")
        assert np.array_equal(mag.read(), expected["color", "2-2-1"].data)
        with pytest.raises(magd_client.NotAllowed):
            mag.write(np.zeros((1, 1, 1), np.uint8), offset=(0, 0, 0))
        with pytest.raises(magd_client.NotAllowed):
            mag.compress()
    daemon.stop()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
