"""Finding datasets, layers and mags below a root, and never outside of it."""

from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from magd.catalog.names import DatasetName
from magd.catalog.root import Root
from magd.errors import InvalidRequest, NotAllowed, NotFound, Reason
from magd.properties.file import PROPERTIES_NAME
from magd.properties.model import LayerProperties, MagProperties, parse_properties

if TYPE_CHECKING:
    from pathlib import Path

A = DatasetName("a")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def make_dataset(folder: Path, name: str) -> Path:
    dataset = folder / name
    dataset.mkdir()
    (dataset / PROPERTIES_NAME).write_text("{}")
    return dataset


def layer(*mags: dict[str, Any], name: str = "color") -> LayerProperties:
    tree = {
        "scale": [1, 1, 1],
        "dataLayers": [
            {
                "name": name,
                "category": "color",
                "boundingBox": {"topLeft": [0, 0, 0], "width": 1, "height": 1, "depth": 1},
                "elementClass": "uint8",
                "dataFormat": "wkw",
                "mags": list(mags),
            }
        ],
    }
    return parse_properties(json.loads(json.dumps(tree)), file="f").layers[0]


def mag_folder(root: Root, **mag: Any) -> str:
    properties = layer(mag)
    return root.mag_folder(A, properties, properties.mags[0])


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        Root(str(tmp_path / "none"))


def test_datasets_are_listed_sorted_and_paged(folder: Path) -> None:
    for name in ("b", "a", "B", "ä", "c d"):
        make_dataset(folder, name)
    root = Root(str(folder))
    assert list(root.dataset_names()) == ["B", "a", "b", "c d", "ä"]
    assert list(root.dataset_names(after="a")) == ["b", "c d", "ä"]
    assert list(root.dataset_names(after="aa")) == ["b", "c d", "ä"]
    assert list(root.dataset_names(after="ä")) == []
    assert list(itertools.islice(root.dataset_names(), 2)) == ["B", "a"]


def test_only_folders_with_properties_are_datasets_and_new_ones_appear(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "file").write_text("x")
    make_dataset(folder, ".hidden")
    os.mkdir(os.fsencode(folder) + b"/\xff")
    (folder / "pretends").mkdir()
    (folder / "pretends" / PROPERTIES_NAME).mkdir()
    root = Root(str(folder))
    assert list(root.dataset_names()) == []
    make_dataset(folder, "copied")
    assert list(root.dataset_names()) == ["copied"]
    assert root.properties_path(DatasetName("copied")) == str(folder / "copied" / PROPERTIES_NAME)


def test_a_root_reached_by_a_link_is_resolved(folder: Path) -> None:
    make_dataset(folder, "a")
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert Root(str(link)).dataset_folder(A) == str(folder / "a")


@pytest.mark.parametrize("name", ["none", "empty", "file"])
def test_what_is_no_dataset_is_not_found(folder: Path, name: str) -> None:
    (folder / "empty").mkdir()
    (folder / "file").write_text("x")
    with pytest.raises(NotFound) as caught:
        Root(str(folder)).dataset_folder(DatasetName(name))
    assert caught.value.reason is Reason.DATASET_NOT_FOUND


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\0", ".hidden", "x" * 300, "\udcff"])
def test_a_name_that_is_a_trick_is_refused(folder: Path, name: str) -> None:
    make_dataset(folder, ".hidden")
    with pytest.raises(InvalidRequest) as caught:
        Root(str(folder)).dataset_folder(DatasetName(name))
    assert caught.value.reason is Reason.INVALID_NAME


def test_a_linked_dataset_is_served_only_from_below_the_root(folder: Path) -> None:
    outside = make_dataset(folder.parent, "outside")
    (folder / "deep").mkdir()
    inside = make_dataset(folder / "deep", "inside")
    (folder / "good").symlink_to(inside)
    (folder / "bad").symlink_to(outside)
    (folder / "all").symlink_to(folder)
    (folder / "loop").symlink_to(folder / "loop")
    root = Root(str(folder))
    assert root.dataset_folder(DatasetName("good")) == str(folder / "good")
    for name in ("bad", "all"):
        with pytest.raises(NotAllowed) as caught:
            root.dataset_folder(DatasetName(name))
        assert caught.value.reason is Reason.OUTSIDE_ROOT
        assert caught.value.metadata["file"] == str(folder / name)
    with pytest.raises(NotFound):
        root.dataset_folder(DatasetName("loop"))
    # The one that is refused is listed, so that asking for it tells why.
    assert list(root.dataset_names()) == ["bad", "good"]


def test_the_short_name_of_a_mag_wins_over_the_long_one(folder: Path) -> None:
    dataset = make_dataset(folder, "a")
    root = Root(str(folder))
    (dataset / "color" / "2-2-2").mkdir(parents=True)
    assert mag_folder(root, mag=2) == str(dataset / "color" / "2-2-2")
    (dataset / "color" / "2").mkdir()
    assert mag_folder(root, mag=2) == str(dataset / "color" / "2")


def test_the_path_of_the_properties_wins_over_both_names(folder: Path) -> None:
    dataset = make_dataset(folder, "a")
    root = Root(str(folder))
    for name in ("color/1", "color/1-1-1", "other/place"):
        (dataset / name).mkdir(parents=True)
    for path in ("./other/place", "other/place/", "./color/../other/place", "../a/other/place"):
        assert mag_folder(root, mag=1, path=path) == str(dataset / "other" / "place")
    with pytest.raises(NotFound) as caught:
        mag_folder(root, mag=1, path="./color/none")
    assert caught.value.reason is Reason.MAG_NOT_FOUND


def test_a_mag_without_a_folder_is_not_found_by_either_name(folder: Path) -> None:
    dataset = make_dataset(folder, "a")
    (dataset / "color").mkdir()
    (dataset / "color" / "2").write_text("a file")
    with pytest.raises(NotFound) as caught:
        mag_folder(Root(str(folder)), mag=2)
    assert caught.value.reason is Reason.MAG_NOT_FOUND
    assert "color/2 and" in caught.value.message
    assert "color/2-2-2" in caught.value.message


@pytest.mark.parametrize("path", ["../../outside", "../..", "..", "../../root", "./color/../../../outside"])
def test_a_mag_path_that_leaves_the_root_is_refused(folder: Path, path: str) -> None:
    make_dataset(folder, "a")
    (folder / "a" / "color").mkdir()
    (folder.parent / "outside").mkdir()
    with pytest.raises(NotAllowed) as caught:
        mag_folder(Root(str(folder)), mag=1, path=path)
    assert caught.value.reason is Reason.OUTSIDE_ROOT


@pytest.mark.parametrize("where", ["layer", "mag"])
def test_links_are_followed_below_the_root_and_refused_out_of_it(folder: Path, where: str) -> None:
    dataset = make_dataset(folder, "a")
    (folder.parent / "outside" / "1").mkdir(parents=True)
    (make_dataset(folder, "b") / "color" / "1").mkdir(parents=True)
    root = Root(str(folder))
    color = dataset / "color"
    for target in (folder.parent / "outside", folder / "b" / "color"):
        if where == "layer":
            color.symlink_to(target)
        else:
            color.mkdir()
            (color / "1").symlink_to(target / "1")
        if "outside" in str(target):
            with pytest.raises(NotAllowed) as caught:
                mag_folder(root, mag=1)
            assert caught.value.reason is Reason.OUTSIDE_ROOT
            if where == "layer":
                with pytest.raises(NotAllowed):
                    root.layer_folder(A, layer())
                color.unlink()
            else:
                (color / "1").unlink()
                color.rmdir()
    assert os.path.samefile(mag_folder(root, mag=1), folder / "b" / "color" / "1")
    assert os.path.samefile(root.layer_folder(A, layer()), color)


def test_a_mag_in_another_dataset_is_served_but_not_owned(folder: Path) -> None:
    dataset = make_dataset(folder, "a")
    (make_dataset(folder, "b") / "color" / "1").mkdir(parents=True)
    (dataset / "color" / "2").mkdir(parents=True)
    (dataset / "color" / "4").symlink_to(folder / "b" / "color" / "1")
    root = Root(str(folder))
    properties = layer({"mag": 1, "path": "../b/color/1"}, {"mag": 2}, {"mag": 4})
    elsewhere, own, link = properties.mags
    assert root.mag_folder(A, properties, elsewhere) == str(folder / "b" / "color" / "1")
    with pytest.raises(NotFound):
        root.owned_mag_folder(A, properties, elsewhere)
    assert root.owned_mag_folder(A, properties, own) == str(dataset / "color" / "2")
    # The link itself is its own; what it leads to is not touched by moving it.
    assert root.owned_mag_folder(A, properties, link) == str(dataset / "color" / "4")


def test_a_mag_that_is_not_served_has_no_folder(folder: Path) -> None:
    make_dataset(folder, "a")
    properties = layer({"mag": 1, "path": "s3://bucket/1"})
    mag: MagProperties = properties.mags[0]
    with pytest.raises(NotAllowed) as caught:
        Root(str(folder)).mag_folder(A, properties, mag)
    assert caught.value.reason is Reason.UNSUPPORTED_DATA_FORMAT


def test_a_layer_without_a_folder_is_not_found(folder: Path) -> None:
    make_dataset(folder, "a")
    with pytest.raises(NotFound) as caught:
        Root(str(folder)).layer_folder(A, layer())
    assert caught.value.reason is Reason.LAYER_NOT_FOUND
    with pytest.raises(InvalidRequest):
        Root(str(folder)).layer_folder(A, layer(name=".."))
