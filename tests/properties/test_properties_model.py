"""What is read out of datasource-properties.json, in every form it was ever written in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magd.errors import NotAllowed, Reason
from magd.geometry import BoundingBox, Mag, Vec3
from magd.properties.forms import element_class, read_segment_id, read_voxels, write_segment_id
from magd.properties.model import LayerCategory, VoxelSize, parse_properties
from magd.voxels import VOXEL_DTYPES, VoxelFormat


def a_layer(**changes: Any) -> dict[str, Any]:
    layer = {
        "name": "color",
        "category": "color",
        "boundingBox": {"topLeft": [1, 2, 3], "width": 4, "height": 5, "depth": 6},
        "elementClass": "uint8",
        "dataFormat": "wkw",
        "numChannels": 1,
        "mags": [{"mag": [1, 1, 1], "path": "./color/1", "cubeLength": 1024}],
    }
    layer.update(changes)
    return {key: value for key, value in layer.items() if value is not None}


def a_tree(*layers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    tree = {"id": {}, "scale": [1, 1, 1], "dataLayers": list(layers), **changes}
    return {key: value for key, value in tree.items() if value is not None}


def parse_layer(**changes: Any) -> Any:
    return parse_properties(a_tree(a_layer(**changes)), file="f").layers[0]


# The shape of the real data: wkwResolutions, no version, odd bounding box, three mags, two dtypes.
def historic_tree() -> dict[str, Any]:
    layers = []
    for name, category, kind in (("color", "color", "uint8"), ("segmentation", "segmentation", "uint32")):
        layers.append(
            {
                "name": name,
                "category": category,
                "boundingBox": {"topLeft": [2679, 4224, 1719], "width": 256, "height": 256, "depth": 150},
                "elementClass": kind,
                "dataFormat": "wkw",
                "numChannels": 1,
                "wkwResolutions": [
                    {"cubeLength": 512, "resolution": [4, 4, 2]},
                    {"cubeLength": 512, "resolution": 1},
                    {"cubeLength": 512, "resolution": [2, 2, 1]},
                ],
            }
        )
    layers[1]["largestSegmentId"] = 5238529
    return {
        "id": {"name": "old", "team": ""},
        "scale": {"factor": [11.239999771118164, 11.239999771118164, 28.0], "unit": "nanometer"},
        "dataLayers": layers,
    }


def check_historic(tree: Any) -> None:
    properties = parse_properties(tree, file="f")
    assert properties.voxel_size == VoxelSize(11.239999771118164, 11.239999771118164, 28.0, "nanometer")
    color, segmentation = properties.layers
    for layer in (color, segmentation):
        assert layer.unserved_reason is None
        assert layer.bounding_box == BoundingBox(Vec3(2679, 4224, 1719), Vec3(256, 256, 150))
        assert [str(mag.mag) for mag in layer.mags] == ["1", "2-2-1", "4-4-2"]
        assert all(mag.path is None and mag.cube_length == 512 for mag in layer.mags)
    assert color.category is LayerCategory.COLOR
    assert color.voxels == VoxelFormat.of("uint8", 1)
    assert segmentation.category is LayerCategory.SEGMENTATION
    assert segmentation.voxels == VoxelFormat.of("uint32", 1)
    assert segmentation.largest_segment_id == 5238529


def test_the_historic_form_with_wkw_resolutions_is_read() -> None:
    check_historic(historic_tree())


def test_the_properties_of_the_real_data_are_read() -> None:
    default = Path(__file__).parents[3] / "shared" / "data"
    file = Path(os.environ.get("MAGD_TEST_DATA", default)) / "l4_sample_dev" / "datasource-properties.json"
    if not file.exists():
        pytest.skip(f"no real data at {file}; set MAGD_TEST_DATA")
    check_historic(json.loads(file.read_text()))


@pytest.mark.parametrize("written", [2, 2.0, [2, 2, 2], "2", "2-2-2"])
def test_a_mag_is_read_in_each_form(written: object) -> None:
    (mag,) = parse_layer(mags=[{"mag": written}]).mags
    assert mag.mag == Mag.of(2)
    assert (mag.path, mag.cube_length, mag.unserved_reason) == (None, None, None)


def test_mags_come_finest_first() -> None:
    layer = parse_layer(mags=[{"mag": mag} for mag in ("4-4-2", 1, [2, 2, 1], 2)])
    assert [str(mag.mag) for mag in layer.mags] == ["1", "2-2-1", "2", "4-4-2"]
    assert layer.mag(Mag.of("2-2-1")) is layer.mags[1]
    assert layer.mag(Mag.of(8)) is None


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ([1, 2.5, 3], VoxelSize(1.0, 2.5, 3.0, "nanometer")),
        ({"factor": [1, 2, 3], "unit": "micrometer"}, VoxelSize(1.0, 2.0, 3.0, "micrometer")),
        ({"factor": [1, 2, 3], "unit": "µm"}, VoxelSize(1.0, 2.0, 3.0, "µm")),
        ({"factor": [1, 2, 3]}, VoxelSize(1.0, 2.0, 3.0, "nanometer")),
    ],
)
def test_a_scale_is_read_in_each_form(scale: object, expected: VoxelSize) -> None:
    assert parse_properties(a_tree(scale=scale), file="f").voxel_size == expected


@pytest.mark.parametrize(
    "box",
    [
        {"topLeft": [-1, -1, -1], "width": -1, "height": -1, "depth": -1},
        {"topLeft": [-1, -1, -1], "width": 0, "height": 0, "depth": 0},
        {"topLeft": [5, 5, 5], "width": 0, "height": 9, "depth": 9},
        {"topLeft": [5, 5, 5], "width": 9, "height": -2, "depth": 9},
    ],
)
def test_a_bounding_box_without_extent_means_no_data(box: object) -> None:
    layer = parse_layer(boundingBox=box)
    assert layer.bounding_box == BoundingBox.empty()
    assert layer.unserved_reason is None


@pytest.mark.parametrize(
    ("written", "channels", "dtype", "expected_channels"),
    [
        ("uint8", 1, "uint8", 1),
        ("uint8", None, "uint8", 1),
        ("uint24", 3, "uint8", 3),
        ("uint24", None, "uint8", 3),
        ("uint48", 3, "uint16", 3),
        ("uint48", None, "uint16", 3),
        ("uint8", 3, "uint8", 3),
        ("uint16", 2, "uint8", 2),
        ("uint16", None, "uint16", 1),
        ("float", 1, "float32", 1),
        ("float", 2, "float32", 2),
        ("float32", None, "float32", 1),
        ("double", 1, "float64", 1),
        ("double", 2, "float32", 2),
        ("float96", 3, "float32", 3),
        ("uint64", 1, "uint64", 1),
        ("int64", 2, "int32", 2),
        ("int8", 1, "int8", 1),
    ],
)
def test_an_element_class_counts_the_bits_of_all_channels(
    written: str, channels: int | None, dtype: str, expected_channels: int
) -> None:
    layer = parse_layer(elementClass=written, numChannels=channels)
    assert layer.voxels == VoxelFormat.of(dtype, expected_channels)
    assert layer.unserved_reason is None


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(VOXEL_DTYPES), st.integers(1, 255))
def test_each_format_that_is_written_is_read_again(dtype: str, channels: int) -> None:
    if channels * np.dtype(dtype).itemsize > 255:
        return
    voxels = VoxelFormat.of(dtype, channels)
    assert read_voxels(element_class(voxels), channels) == voxels


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**64 - 1) | st.integers(2**53 - 3, 2**53 + 3))
def test_each_segment_id_that_is_written_is_read_again(segment_id: int) -> None:
    written = json.loads(json.dumps(write_segment_id(segment_id)))
    assert read_segment_id(written) == segment_id
    assert isinstance(written, dict) == (segment_id > 2**53 - 1)


@pytest.mark.parametrize("written", [-1, 2**64, "7", None, True, 1.5, {"customJsonEncoding": "bigint", "value": "x"}])
def test_what_is_no_segment_id_is_not_known(written: object) -> None:
    layer = parse_layer(category="segmentation", largestSegmentId=written)
    assert layer.largest_segment_id is None
    assert layer.unserved_reason is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataFormat": "zarr3"}, "its data format is 'zarr3'"),
        ({"dataFormat": None}, "dataFormat is missing"),
        ({"category": "mask"}, "category"),
        ({"category": None}, "category is missing"),
        ({"boundingBox": None}, "boundingBox is missing"),
        ({"boundingBox": {"topLeft": [0, 0, 0], "width": 1, "height": 1}}, "boundingBox: depth is missing"),
        ({"boundingBox": {"topLeft": [-5, 0, 0], "width": 9, "height": 1, "depth": 1}}, "negative"),
        ({"boundingBox": {"topLeft": [1, 0, 0], "width": 2**31 - 1, "height": 1, "depth": 1}}, "beyond"),
        ({"elementClass": "complex64"}, "elementClass 'complex64' is not known"),
        ({"elementClass": "uint24", "numChannels": 2}, "does not go with 2 channels"),
        ({"numChannels": 0}, "numChannels 0 is below 1"),
        ({"elementClass": 8}, "elementClass 8 is not known"),
        ({"mags": None}, "mags is missing"),
        ({"mags": {}}, "mags is not a list"),
        ({"mags": [{"mag": 3}]}, "mags/0: 3 is not a mag"),
        ({"mags": [{"mag": 1}, {"path": "x"}]}, "mags/1: expected an object with 'mag'"),
        ({"mags": [{"mag": 1}, {"mag": "1-1-1"}]}, "mags/1: mag 1 is listed twice"),
        ({"mags": [{"mag": 1, "path": 7}]}, "mags/0: path 7 is not text"),
        ({"name": "../up"}, "its name cannot be that of a folder"),
        ({"name": ".hidden"}, "its name cannot be that of a folder"),
    ],
)
def test_a_layer_that_cannot_be_served_says_why_and_the_others_work(changes: dict[str, Any], reason: str) -> None:
    tree = a_tree(a_layer(**changes), a_layer(name="other"))
    layer, other = parse_properties(tree, file="f").layers
    assert layer.unserved_reason is not None
    assert reason in layer.unserved_reason
    assert other.unserved_reason is None
    assert other.voxels is not None


def test_a_layer_in_a_foreign_format_names_only_its_format() -> None:
    layer = parse_layer(dataFormat="n5", mags=[{"mag": 3}], elementClass="strange")
    assert layer.unserved_reason == "its data format is 'n5'; magd serves 'wkw' only"
    assert layer.data_format == "n5"


def test_of_two_layers_with_one_name_the_first_is_served() -> None:
    first, second = parse_properties(a_tree(a_layer(), a_layer()), file="f").layers
    assert first.unserved_reason is None
    assert second.unserved_reason == "an earlier layer has the same name"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("s3://bucket/color/1", "it lies elsewhere"),
        ("https://host/color/1", "it lies elsewhere"),
        ("/data/color/1", "its path is absolute"),
        ("", "it is empty"),
        ("color/\0", "NUL"),
        ("color/\ud800", "not valid Unicode"),
        ("x" * 5000, "5000 bytes"),
    ],
)
def test_a_mag_that_lies_elsewhere_is_listed_with_a_reason(path: str, reason: str) -> None:
    layer = parse_layer(mags=[{"mag": 1, "path": path}, {"mag": 2, "path": "./color/2"}])
    assert layer.unserved_reason is None
    elsewhere, here = layer.mags
    assert elsewhere.path == path
    assert reason in elsewhere.unserved_reason
    assert len(elsewhere.unserved_reason) < 250
    assert here.unserved_reason is None


@pytest.mark.parametrize(
    ("tree", "pointer"),
    [
        ([], None),
        ("text", None),
        (a_tree(version=2), "/version"),
        (a_tree(scale=None), "/scale"),
        (a_tree(scale=[1, 2]), "/scale"),
        (a_tree(scale=[1, 2, 0]), "/scale"),
        (a_tree(scale=[1, 2, float("inf")]), "/scale"),
        (a_tree(scale={"factor": [1, 2, 3], "unit": 7}), "/scale"),
        (a_tree(dataLayers=None), "/dataLayers"),
        (a_tree(dataLayers={}), "/dataLayers"),
        (a_tree(dataLayers=["color"]), "/dataLayers/0"),
        (a_tree(a_layer(), a_layer(name=None)), "/dataLayers/1/name"),
        (a_tree(a_layer(name="")), "/dataLayers/0/name"),
        (a_tree(a_layer(name=5)), "/dataLayers/0/name"),
        (a_tree(a_layer(name="\ud800")), "/dataLayers/0/name"),
        (a_tree(a_layer(name="x" * 10_000)), "/dataLayers/0/name"),
    ],
)
def test_a_file_without_the_bones_is_refused_by_the_place_that_is_wrong(tree: object, pointer: str | None) -> None:
    with pytest.raises(NotAllowed) as caught:
        parse_properties(tree, file="some/file")
    assert caught.value.reason is Reason.INVALID_PROPERTIES
    assert caught.value.metadata["file"] == "some/file"
    assert caught.value.metadata.get("pointer") == pointer
    assert len(caught.value.message) < 400


def test_default_view_configurations_are_kept_as_they_are() -> None:
    configuration = {"intensityRange": [70.0, 180.0], "color": [255, 219, 219]}
    tree = a_tree(a_layer(defaultViewConfiguration=configuration), defaultViewConfiguration={"zoom": 2})
    properties = parse_properties(tree, file="f")
    assert properties.default_view_configuration == {"zoom": 2}
    assert properties.layers[0].default_view_configuration == configuration


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from([*a_layer(), "wkwResolutions", "largestSegmentId", "defaultViewConfiguration", "attachments"]),
        _json,
    )
)
def test_no_content_of_a_layer_makes_more_trouble_than_a_reason(changes: dict[str, Any]) -> None:
    tree = a_tree({**a_layer(), **changes, "name": "strange"}, a_layer(name="other"))
    strange, other = parse_properties(tree, file="f").layers
    assert strange.name == "strange"
    assert other.unserved_reason is None
