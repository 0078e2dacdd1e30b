"""What magd writes opens with the webknossos package, and what that package writes is understood."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magd.catalog import folders
from magd.catalog.names import DatasetName
from magd.catalog.root import Root
from magd.cubes.header import BlockType, Header
from magd.errors import Reason
from magd.geometry import BoundingBox, Mag, Vec3
from magd.properties.edits import (
    AddLayer,
    AddMag,
    Edit,
    ExtendBoundingBox,
    RemoveMag,
    RenameLayer,
    SetDefaultViewConfiguration,
    SetLargestSegmentId,
)
from magd.properties.file import PropertiesFile
from magd.properties.model import LayerCategory, VoxelSize
from magd.voxels import VOXEL_DTYPES, VoxelFormat

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of image readers that are not installed
    webknossos: Any = importlib.import_module("webknossos")

NAME = DatasetName("cortex")
SIZE = VoxelSize(11.24, 11.24, 28.0, "nanometer")
BOX = BoundingBox(Vec3(10, 20, 30), Vec3(100, 50, 25))
FORMATS = [
    ("uint8", 1),
    ("uint8", 3),
    ("uint16", 1),
    ("uint32", 1),
    ("int8", 1),
    ("int16", 1),
    ("float32", 1),
]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "root").mkdir()
    return Root(str(tmp_path / "root"))


def make_with_webknossos(root: Root) -> Any:
    dataset = webknossos.Dataset(f"{root.path}/cortex", voxel_size=(11.24, 11.24, 28.0), name="cortex")
    for dtype, channels in FORMATS:
        layer = dataset.add_layer(
            f"{dtype}_{channels}",
            "color",
            data_format="wkw",
            dtype=dtype,
            num_channels=channels,
            bounding_box=webknossos.BoundingBox((10, 20, 30), (100, 50, 25)),
        )
        layer.add_mag("1", chunk_shape=32, shard_shape=128, compress=False)
        layer.add_mag("2-2-1", chunk_shape=32, shard_shape=128, compress=False)
    segmentation = dataset.add_layer("seg", "segmentation", data_format="wkw", dtype="uint64", largest_segment_id=2**60)
    segmentation.default_view_configuration = webknossos.LayerViewConfiguration(alpha=50)
    return dataset


def make_mag(layer_folder: str, mag: Mag, header: Header) -> None:
    made = folders.make_mag_folder(layer_folder, mag, header)
    folders.place(made, str(Path(layer_folder, mag.name)), Reason.MAG_EXISTS)


def make_with_magd(root: Root) -> PropertiesFile:
    folders.create_dataset_folder(root, NAME.dataset, SIZE)
    file = PropertiesFile(root.properties_path(NAME))
    for dtype, channels in FORMATS:
        name, voxels = f"{dtype}_{channels}", VoxelFormat.of(dtype, channels)
        layer_folder = folders.create_layer_folder(root.dataset_folder(NAME), name)
        file.save([AddLayer(name, LayerCategory.COLOR, voxels), ExtendBoundingBox(name, BOX)])
        for mag in (Mag.of(1), Mag.of("2-2-1")):
            make_mag(layer_folder, mag, Header(voxels, 32, 4, BlockType.RAW))
            file.save([AddMag(name, mag, f"./{name}/{mag}", 128)])
    file.save(
        [
            AddLayer("seg", LayerCategory.SEGMENTATION, VoxelFormat.of("uint64", 1)),
            SetLargestSegmentId("seg", 2**60),
            SetDefaultViewConfiguration("seg", {"alpha": 50}),
        ]
    )
    folders.create_layer_folder(root.dataset_folder(NAME), "seg")
    return file


def test_both_write_the_same_properties_for_the_same_dataset(tmp_path: Path) -> None:
    trees = []
    for name, make in (("one", make_with_magd), ("two", make_with_webknossos)):
        (tmp_path / name).mkdir()
        root = Root(str(tmp_path / name))
        make(root)
        trees.append(json.loads(Path(root.properties_path(NAME)).read_text()))
    ours, theirs = trees
    # The package sometimes states the order of the axes of a box again; readers take its absence.
    for layer in theirs["dataLayers"]:
        layer["boundingBox"].pop("axisOrder", None)
    assert ours == theirs
    assert list(ours) == list(theirs)
    assert [list(mag) for layer in ours["dataLayers"] for mag in layer["mags"]] == [
        list(mag) for layer in theirs["dataLayers"] for mag in layer["mags"]
    ]


def test_the_package_opens_what_magd_makes(root: Root) -> None:
    make_with_magd(root).save([RenameLayer("int8_1", "renamed")])
    Path(root.dataset_folder(NAME), "int8_1").rename(Path(root.dataset_folder(NAME), "renamed"))
    dataset = webknossos.Dataset.open(root.dataset_folder(NAME))
    assert tuple(dataset.voxel_size) == (11.24, 11.24, 28.0)
    for dtype, channels in FORMATS:
        layer = dataset.get_layer("renamed" if dtype == "int8" else f"{dtype}_{channels}")
        assert (layer.dtype, layer.num_channels) == (np.dtype(dtype), channels)
        assert (tuple(layer.bounding_box.topleft), tuple(layer.bounding_box.size)) == (
            (10, 20, 30),
            (100, 50, 25),
        )
        assert sorted(str(mag) for mag in layer.mags) == ["1", "2-2-1"]
        mag = layer.get_mag("2-2-1")
        assert mag.info.shard_shape.to_tuple() == (128, 128, 128)
        assert not mag.read().any()
    segmentation = dataset.get_segmentation_layer("seg")
    assert segmentation.largest_segment_id == 2**60


@pytest.mark.parametrize("dtype", VOXEL_DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_package_understands_the_voxels_of_every_layer(root: Root, dtype: str, channels: int) -> None:
    folders.create_dataset_folder(root, NAME.dataset, SIZE)
    voxels = VoxelFormat.of(dtype, channels)
    PropertiesFile(root.properties_path(NAME)).save([AddLayer("layer", LayerCategory.COLOR, voxels)])
    folders.create_layer_folder(root.dataset_folder(NAME), "layer")
    layer = webknossos.Dataset.open(root.dataset_folder(NAME)).get_layer("layer")
    assert (layer.dtype, layer.num_channels) == (np.dtype(dtype), channels)


def test_the_package_opens_a_dataset_of_the_historic_form_after_an_edit(root: Root) -> None:
    folders.create_dataset_folder(root, NAME.dataset, SIZE)
    layer_folder = folders.create_layer_folder(root.dataset_folder(NAME), "color")
    voxels = VoxelFormat.of("uint8", 1)
    for mag in (Mag.of(1), Mag.of("2-2-1"), Mag.of("4-4-2")):
        make_mag(layer_folder, mag, Header(voxels, 32, 4, BlockType.RAW))
    Path(layer_folder, "4-4-2").rename(Path(layer_folder, "4"))
    tree = {
        "id": {"name": "cortex", "team": ""},
        "scale": [11.24, 11.24, 28],
        "dataLayers": [
            {
                "name": "color",
                "category": "color",
                "boundingBox": {"topLeft": [0, 0, 0], "width": 64, "height": 64, "depth": 64},
                "elementClass": "uint8",
                "dataFormat": "wkw",
                "wkwResolutions": [
                    {"resolution": 1, "cubeLength": 128},
                    {"resolution": [4, 4, 4], "cubeLength": 128},
                ],
            }
        ],
    }
    Path(root.properties_path(NAME)).write_text(json.dumps(tree))
    edits: list[Edit] = [
        AddMag("color", Mag.of("2-2-1"), "./color/2-2-1", 128),
        RemoveMag("color", Mag.of(4)),
        ExtendBoundingBox("color", BOX),
    ]
    PropertiesFile(root.properties_path(NAME)).save(edits)
    layer = webknossos.Dataset.open(root.dataset_folder(NAME)).get_layer("color")
    assert sorted(str(mag) for mag in layer.mags) == ["1", "2-2-1"]
    assert tuple(layer.bounding_box.bottomright) == (110, 70, 64)


def test_magd_understands_what_the_package_makes(root: Root) -> None:
    make_with_webknossos(root)
    properties = PropertiesFile(root.properties_path(NAME)).load().properties
    assert properties.voxel_size == SIZE
    for dtype, channels in FORMATS:
        layer = properties.layer(f"{dtype}_{channels}")
        assert layer is not None
        assert layer.unserved_reason is None
        assert layer.voxels == VoxelFormat.of(dtype, channels)
        assert layer.bounding_box == BOX
        assert [(str(mag.mag), mag.cube_length) for mag in layer.mags] == [("1", 128), ("2-2-1", 128)]
        for mag in layer.mags:
            header_file = Path(root.mag_folder(NAME, layer, mag), "header.wkw")
            assert Header.parse(header_file.read_bytes(), file="f").voxels == layer.voxels
    segmentation = properties.layer("seg")
    assert segmentation is not None
    assert segmentation.bounding_box.is_empty
    assert segmentation.largest_segment_id == 2**60
    assert segmentation.default_view_configuration == {"alpha": 50}


def test_a_layer_in_the_default_format_of_the_package_is_listed_and_left_as_it_is(root: Root) -> None:
    make_with_webknossos(root).add_layer("zarr", "color", dtype="uint8").add_mag("1")
    file = PropertiesFile(root.properties_path(NAME))
    before = file.load().tree["dataLayers"][-1]
    layer = file.save([ExtendBoundingBox("uint8_1", BoundingBox(Vec3(0, 0, 0), Vec3(1, 1, 1)))]).properties.layers[-1]
    assert layer.data_format == "zarr3"
    assert layer.unserved_reason == "its data format is 'zarr3'; magd serves 'wkw' only"
    assert file.load().tree["dataLayers"][-1] == before


def test_edits_of_a_package_that_holds_the_dataset_open_are_merged(root: Root) -> None:
    theirs = make_with_webknossos(root)
    file = PropertiesFile(root.properties_path(NAME))
    snapshot = file.save([SetDefaultViewConfiguration("uint8_1", {"alpha": 7})])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it will overwrite newer properties
        theirs.get_layer("uint16_1").bounding_box = webknossos.BoundingBox((0, 0, 0), (500, 500, 500))
    assert file.changed(snapshot)
    after = file.save([ExtendBoundingBox("uint8_1", BoundingBox(Vec3(0, 0, 0), Vec3(200, 1, 1)))]).properties
    boxes = {layer.name: layer.bounding_box for layer in after.layers}
    assert boxes["uint16_1"] == BoundingBox(Vec3(0, 0, 0), Vec3(500, 500, 500))
    assert boxes["uint8_1"] == BOX.union(BoundingBox(Vec3(0, 0, 0), Vec3(200, 1, 1)))
