"""The webknossos package and a real daemon on the same datasets, one after the other and both ways."""

from __future__ import annotations

import importlib
import json
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

import magd_client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of image readers that are not installed
    webknossos: Any = importlib.import_module("webknossos")

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
RANDOM = np.random.default_rng(11)
OFFSET = (13, 70, 5)


def volume(dtype: str, channels: int, size: tuple[int, int, int] = (50, 40, 30)) -> Any:
    return RANDOM.integers(0, 100, (channels, *size)).astype(dtype)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("dtype", "channels"), [*[(dtype, 1) for dtype in DTYPES], ("uint8", 3), ("uint16", 2)])
def test_what_magd_makes_opens_in_webknossos_and_reads_equal(
    serve: Serve, tmp_path: Path, dtype: str, channels: int, compressed: bool
) -> None:
    data = volume(dtype, channels)
    # webknossos has no double and no 64-bit colour; as segments it takes integers only.
    category: Literal["color", "segmentation"] = "segmentation"
    if channels > 1 or dtype.startswith("float"):
        category = "color"
    daemon = serve(tmp_path)
    with magd_client.connect(daemon.grpc) as client:
        dataset = client.create_dataset("made", voxel_size=(11.24, 11.24, 28.0))
        layer = dataset.add_layer("layer", category=category, dtype=dtype, num_channels=channels)
        mag = layer.add_mag("2-2-1", block_len=8, file_len=4, compressed=compressed)
        mag.write(data, offset=OFFSET)
    daemon.stop()
    entry = json.loads((tmp_path / "made/datasource-properties.json").read_text())["dataLayers"][0]["mags"][0]
    assert entry == {
        "mag": [2, 2, 1],
        "path": "./layer/2-2-1",
        "cubeLength": 32,
        "axisOrder": {"c": 0, "x": 1, "y": 2, "z": 3},
    }
    opened = webknossos.Dataset.open(tmp_path / "made").get_layer("layer")
    assert (opened.dtype, opened.num_channels) == (np.dtype(dtype), channels)
    view = opened.get_mag("2-2-1")
    assert view.info.chunk_shape.to_tuple() == (8, 8, 8)
    box = opened.bounding_box
    assert box.topleft.to_tuple() == (26, 140, 5)
    assert box.size.to_tuple() == (100, 80, 30)
    assert np.array_equal(view.read(), data)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint32", 1), ("float32", 1)])
def test_what_webknossos_makes_is_served_written_and_opens_again(
    serve: Serve, tmp_path: Path, dtype: str, channels: int, compressed: bool
) -> None:
    data = volume(dtype, channels)
    theirs = webknossos.Dataset(tmp_path / "theirs", voxel_size=(11, 11, 28))
    category = "segmentation" if dtype == "uint32" else "color"
    options: dict[str, Any] = {"largest_segment_id": 99} if category == "segmentation" else {}
    layer = theirs.add_layer("layer", category, dtype=dtype, num_channels=channels, data_format="wkw", **options)
    view = layer.add_mag(1, chunk_shape=32, shard_shape=64, compress=compressed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # webknossos warns of unaligned raw writes
        view.write(data, absolute_offset=OFFSET, allow_resize=True, allow_unaligned=True)

    daemon = serve(tmp_path)
    with magd_client.connect(daemon.grpc) as client:
        mag = client.dataset("theirs").layer("layer").mag(1)
        info = mag.get_info()
        assert (info.block_len, info.file_len, info.compressed) == (32, 2, compressed)
        assert np.array_equal(mag.read(), data)
        patch = volume(dtype, channels, (20, 20, 20))
        mag.write(patch, offset=(50, 100, 20))
    daemon.stop()

    opened = webknossos.Dataset.open(tmp_path / "theirs").get_layer("layer")
    assert opened.bounding_box.bottomright.to_tuple() == (70, 120, 40)
    whole = opened.get_mag(1).read()
    assert np.array_equal(whole[:, 37:57, 30:50, 15:35], patch)
    assert np.array_equal(whole[:, :37, :30, :15], data[:, :37, :30, :15])


def test_layers_that_magd_does_not_serve_stay_as_they_are(serve: Serve, tmp_path: Path) -> None:
    theirs = webknossos.Dataset(tmp_path / "theirs", voxel_size=(11, 11, 28))
    zarr = theirs.add_layer("zarr", "color", dtype="uint8", data_format="zarr3")
    zarr.add_mag(1, chunk_shape=32, shard_shape=64).write(
        volume("uint8", 1, (32, 32, 32)), absolute_offset=(0, 0, 0), allow_resize=True
    )
    theirs.add_layer("wkw", "color", dtype="uint8", data_format="wkw").add_mag(1, chunk_shape=32, shard_shape=64)
    properties = tmp_path / "theirs/datasource-properties.json"
    before = json.loads(properties.read_text())["dataLayers"][0]
    with magd_client.connect(serve(tmp_path).grpc) as client:
        dataset = client.dataset("theirs")
        infos = {info.id: info for info in dataset.list_layers()}
        assert "zarr3" in infos["zarr"].unserved_reason
        assert not infos["wkw"].unserved_reason
        with pytest.raises(magd_client.NotAllowed) as refused:
            dataset.layer("zarr").mag(1).read()
        assert refused.value.reason == "UNSUPPORTED_DATA_FORMAT"
        dataset.layer("wkw").mag(1).write(np.ones((5, 5, 5), np.uint8), offset=(1, 2, 3))
    assert json.loads(properties.read_text())["dataLayers"][0] == before
    assert webknossos.Dataset.open(tmp_path / "theirs").get_layer("zarr").get_mag(1).read().any()


def test_an_extension_outlasts_a_dataset_that_webknossos_opened_before(serve: Serve, tmp_path: Path) -> None:
    """It saves what it read when it opened the dataset, as often as something of it is set."""
    daemon = serve(tmp_path)
    properties = tmp_path / "shared/datasource-properties.json"
    with magd_client.connect(daemon.grpc) as client:
        layer = client.create_dataset("shared", voxel_size=(11, 11, 28)).add_layer(
            "layer", category="color", dtype="uint8"
        )
        mag = layer.add_mag(1, block_len=32, file_len=2)
        opened = webknossos.Dataset.open(tmp_path / "shared")
        mag.write(volume("uint8", 1), offset=OFFSET)
        for zoom in (2.0, 3.0):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns that the file is not what it has read
                opened.default_view_configuration = webknossos.DatasetViewConfiguration(zoom=zoom)
            assert not json.loads(properties.read_text())["dataLayers"][0]["boundingBox"]["width"], (
                "it saved the old box"
            )
            assert layer.get_info().bounding_box.size.x == 50
            saved = json.loads(properties.read_text())
            assert (saved["dataLayers"][0]["boundingBox"]["width"], saved["defaultViewConfiguration"]["zoom"]) == (
                50,
                zoom,
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened.default_view_configuration = webknossos.DatasetViewConfiguration(zoom=4.0)
    daemon.stop()  # it looks at the file before it ends
    assert webknossos.Dataset.open(tmp_path / "shared").get_layer("layer").bounding_box.size.to_tuple() == (50, 40, 30)
