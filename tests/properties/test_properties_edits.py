"""Edits of the properties: what they change, what they leave, and that they go with edits of others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magd.errors import AlreadyExists, Conflict, InvalidRequest, NotAllowed, NotFound, Reason
from magd.geometry import BoundingBox, Mag, Vec3
from magd.properties.edits import (
    AddLayer,
    AddMag,
    Edit,
    ExpectLayerEtag,
    ExtendBoundingBox,
    RemoveLayer,
    RemoveMag,
    RenameLayer,
    SetBoundingBox,
    SetDefaultViewConfiguration,
    SetLargestSegmentId,
    apply_edits,
)
from magd.properties.memory import BoundingBoxMemory
from magd.properties.model import LayerCategory, VoxelSize, parse_properties
from magd.properties.tree import layer_etag, new_dataset_tree
from magd.voxels import VoxelFormat

UINT8 = VoxelFormat.of("uint8", 1)
LEGACY_EMPTY = {"topLeft": [-1, -1, -1], "width": -1, "height": -1, "depth": -1}


def box(x: int, y: int, z: int, width: int, height: int, depth: int) -> BoundingBox:
    return BoundingBox(Vec3(x, y, z), Vec3(width, height, depth))


def tree_with_layers(*names: str) -> dict[str, Any]:
    tree = new_dataset_tree("d", VoxelSize(1.0, 1.0, 2.0, "nanometer"))
    return apply_edits(tree, [AddLayer(name, LayerCategory.SEGMENTATION, UINT8) for name in names])


def box_of(tree: dict[str, Any], layer: str = "a") -> BoundingBox:
    found = parse_properties(tree, file="f").layer(layer)
    assert found is not None
    return found.bounding_box


boxes = st.builds(box, *[st.integers(0, 50)] * 3, *[st.integers(1, 20)] * 3) | st.just(BoundingBox.empty())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(boxes, max_size=6), st.randoms(use_true_random=False))
def test_extensions_give_the_same_box_in_any_order_and_never_shrink_it(added: list[BoundingBox], random: Any) -> None:
    tree = tree_with_layers("a")
    expected = BoundingBox.empty()
    for one in added:
        before = box_of(tree)
        tree = apply_edits(tree, [ExtendBoundingBox("a", one)])
        expected = expected.union(one)
        assert box_of(tree).contains(before)
        assert box_of(tree).contains(one)
    assert box_of(tree) == expected
    shuffled = list(added)
    random.shuffle(shuffled)
    assert apply_edits(tree_with_layers("a"), [ExtendBoundingBox("a", one) for one in shuffled]) == tree


def test_an_extension_of_a_legacy_empty_box_is_the_extension_alone() -> None:
    tree = tree_with_layers("a")
    tree["dataLayers"][0]["boundingBox"] = dict(LEGACY_EMPTY)
    assert box_of(apply_edits(tree, [ExtendBoundingBox("a", box(7, 8, 9, 1, 2, 3))])) == box(7, 8, 9, 1, 2, 3)


@pytest.mark.parametrize(
    "edit",
    [
        ExtendBoundingBox("a", BoundingBox.empty()),
        ExtendBoundingBox("b", box(1, 1, 1, 1, 1, 1)),
        SetBoundingBox("a", BoundingBox.empty()),
        SetBoundingBox("b", box(0, 0, 0, 9, 9, 9)),
        RenameLayer("a", "a"),
        SetDefaultViewConfiguration("a", None),
    ],
)
def test_an_edit_without_effect_leaves_even_the_spelling_of_the_file(edit: Edit) -> None:
    tree = tree_with_layers("a", "b")
    tree["dataLayers"][0]["boundingBox"] = {**LEGACY_EMPTY, "note": "kept"}
    tree["dataLayers"][1]["boundingBox"] = {"topLeft": [0.0, 0.0, 0.0], "width": 9.0, "height": 9, "depth": 9}
    assert repr(apply_edits(tree, [edit])) == repr(tree)


def test_setting_a_box_can_shrink_it_and_keeps_other_keys() -> None:
    tree = apply_edits(tree_with_layers("a"), [ExtendBoundingBox("a", box(0, 0, 0, 9, 9, 9))])
    tree["dataLayers"][0]["boundingBox"]["axisOrder"] = {"x": 1}
    tree = apply_edits(tree, [SetBoundingBox("a", box(1, 1, 1, 2, 3, 4))])
    assert tree["dataLayers"][0]["boundingBox"] == {
        "topLeft": [1, 1, 1],
        "width": 2,
        "height": 3,
        "depth": 4,
        "axisOrder": {"x": 1},
    }


@pytest.mark.parametrize("edit", [ExtendBoundingBox, SetBoundingBox])
@pytest.mark.parametrize("bad", [box(-1, 0, 0, 5, 5, 5), box(2**31 - 2, 0, 0, 5, 5, 5)])
def test_a_box_that_no_layer_can_have_is_refused(edit: Any, bad: BoundingBox) -> None:
    with pytest.raises(InvalidRequest) as caught:
        edit("a", bad)
    assert caught.value.reason is Reason.INVALID_BOX


def test_an_edit_of_a_box_that_others_broke_is_refused() -> None:
    tree = tree_with_layers("a")
    tree["dataLayers"][0]["boundingBox"] = "gone"
    with pytest.raises(NotAllowed) as caught:
        apply_edits(tree, [ExtendBoundingBox("a", box(0, 0, 0, 1, 1, 1))])
    assert caught.value.reason is Reason.INVALID_PROPERTIES


@pytest.mark.parametrize(
    "edit",
    [
        ExtendBoundingBox("none", box(0, 0, 0, 1, 1, 1)),
        SetBoundingBox("none", box(0, 0, 0, 1, 1, 1)),
        SetDefaultViewConfiguration("none", {}),
        SetLargestSegmentId("none", 1),
        AddMag("none", Mag.of(1), "./none/1", 1024),
        RemoveMag("none", Mag.of(1)),
        RemoveLayer("none"),
        RenameLayer("none", "b"),
        ExpectLayerEtag("none", "x"),
    ],
)
def test_an_edit_of_a_layer_that_is_not_there_is_refused(edit: Edit) -> None:
    with pytest.raises(NotFound) as caught:
        apply_edits(tree_with_layers("a"), [edit])
    assert caught.value.reason is Reason.LAYER_NOT_FOUND


def test_edits_are_applied_to_a_copy() -> None:
    tree = tree_with_layers("a")
    before = copy.deepcopy(tree)
    apply_edits(tree, [RenameLayer("a", "b"), AddMag("b", Mag.of(1), "./b/1", 32), RemoveLayer("b")])
    assert tree == before


def test_a_view_configuration_is_set_and_removed_for_layer_and_dataset() -> None:
    tree = tree_with_layers("a")
    configuration = {"color": [1, 2, 3]}
    edited = apply_edits(
        tree,
        [SetDefaultViewConfiguration("a", configuration), SetDefaultViewConfiguration(None, {"zoom": 1})],
    )
    assert edited["dataLayers"][0]["defaultViewConfiguration"] == configuration
    assert edited["dataLayers"][0]["defaultViewConfiguration"] is not configuration
    assert edited["defaultViewConfiguration"] == {"zoom": 1}
    removals = [SetDefaultViewConfiguration("a", None), SetDefaultViewConfiguration(None, None)]
    assert apply_edits(edited, removals) == tree


@pytest.mark.parametrize(
    ("segment_id", "written"),
    [
        (0, 0),
        (2**53 - 1, 2**53 - 1),
        (2**53, {"customJsonEncoding": "bigint", "value": "9007199254740992"}),
        (2**64 - 1, {"customJsonEncoding": "bigint", "value": "18446744073709551615"}),
    ],
)
def test_a_large_segment_id_is_written_as_text(segment_id: int, written: object) -> None:
    tree = apply_edits(tree_with_layers("a"), [SetLargestSegmentId("a", segment_id)])
    assert tree["dataLayers"][0]["largestSegmentId"] == written
    assert parse_properties(tree, file="f").layers[0].largest_segment_id == segment_id


@pytest.mark.parametrize("segment_id", [-1, 2**64])
def test_a_segment_id_beyond_64_bits_is_refused(segment_id: int) -> None:
    with pytest.raises(InvalidRequest):
        SetLargestSegmentId("a", segment_id)


def test_a_color_layer_gets_no_segment_id() -> None:
    tree = apply_edits(tree_with_layers(), [AddLayer("a", LayerCategory.COLOR, UINT8)])
    with pytest.raises(InvalidRequest) as caught:
        apply_edits(tree, [SetLargestSegmentId("a", 5)])
    assert caught.value.metadata["field"] == "largest_segment_id"


def test_a_layer_that_is_there_is_not_added_again() -> None:
    with pytest.raises(AlreadyExists) as caught:
        apply_edits(tree_with_layers("a"), [AddLayer("a", LayerCategory.COLOR, UINT8)])
    assert caught.value.reason is Reason.LAYER_EXISTS


def test_mags_are_added_and_removed() -> None:
    tree = tree_with_layers("a")
    added = apply_edits(tree, [AddMag("a", Mag.of(2), "./a/2", 512), AddMag("a", Mag.of("2-2-1"), "./a/2-2-1", 512)])
    with pytest.raises(AlreadyExists) as exists:
        apply_edits(added, [AddMag("a", Mag.of((2, 2, 2)), "./a/2", 512)])
    assert exists.value.reason is Reason.MAG_EXISTS
    assert apply_edits(added, [RemoveMag("a", Mag.of("2-2-1")), RemoveMag("a", Mag.of(2))]) == tree
    with pytest.raises(NotFound) as missing:
        apply_edits(added, [RemoveMag("a", Mag.of(4))])
    assert missing.value.reason is Reason.MAG_NOT_FOUND


def test_a_layer_in_the_historic_form_stays_in_it() -> None:
    tree = tree_with_layers("a")
    layer = tree["dataLayers"][0]
    del layer["mags"]
    layer["wkwResolutions"] = [{"resolution": 1, "cubeLength": 512}]
    edited = apply_edits(tree, [AddMag("a", Mag.of("2-2-1"), "./a/2-2-1", 256)])
    assert "mags" not in edited["dataLayers"][0]
    assert edited["dataLayers"][0]["wkwResolutions"] == [
        {"resolution": 1, "cubeLength": 512},
        {"resolution": [2, 2, 1], "cubeLength": 256},
    ]
    with pytest.raises(AlreadyExists):
        apply_edits(edited, [AddMag("a", Mag.of(1), "./a/1", 512)])
    with pytest.raises(InvalidRequest):
        apply_edits(edited, [AddMag("a", Mag.of(4), "./elsewhere/4", 512)])
    removed = apply_edits(edited, [RemoveMag("a", Mag.of(1)), RemoveMag("a", Mag.of("2-2-1"))])
    assert removed["dataLayers"][0]["wkwResolutions"] == []
    # Empty, it is still the historic form.
    again = apply_edits(removed, [AddMag("a", Mag.of(1), "./a/1", 64)])
    assert again["dataLayers"][0]["wkwResolutions"] == [{"resolution": [1, 1, 1], "cubeLength": 64}]


def test_renaming_a_layer_follows_every_path_into_its_folder_and_no_other() -> None:
    tree = tree_with_layers("old", "older")
    layer, other = tree["dataLayers"]
    layer["mags"] = [
        {"mag": 1, "path": "./old/1"},
        {"mag": 2, "path": "old/deep/2"},
        {"mag": 4, "path": "./older/4"},
        {"mag": 8, "path": "s3://old/8"},
        {"mag": 16, "path": "./old/../older/16"},
    ]
    layer["attachments"] = {"meshes": [{"name": "m", "path": "./old/meshes/m.hdf5"}]}
    other["mags"] = [{"mag": 1, "path": "./old/1"}, {"mag": 2, "path": "./older/2"}, {"mag": 4}]
    layer, other = apply_edits(tree, [RenameLayer("old", "new")])["dataLayers"]
    assert layer["name"] == "new"
    assert [mag["path"] for mag in layer["mags"]] == [
        "./new/1",
        "new/deep/2",
        "./older/4",
        "s3://old/8",
        "./old/../older/16",
    ]
    assert layer["attachments"] == {"meshes": [{"name": "m", "path": "./new/meshes/m.hdf5"}]}
    assert [mag.get("path") for mag in other["mags"]] == ["./new/1", "./older/2", None]


def test_a_layer_is_not_renamed_to_one_that_is_there() -> None:
    with pytest.raises(AlreadyExists) as caught:
        apply_edits(tree_with_layers("a", "b"), [RenameLayer("a", "b")])
    assert caught.value.reason is Reason.LAYER_EXISTS


def test_the_etag_of_a_layer_changes_with_the_layer_alone() -> None:
    tree = tree_with_layers("a", "b")
    etag = layer_etag(tree, "a")
    assert apply_edits(tree, [ExpectLayerEtag("a", etag)]) == tree
    others = apply_edits(tree, [RemoveLayer("b"), SetDefaultViewConfiguration(None, {"zoom": 1})])
    others["dataLayers"][0] = dict(reversed(others["dataLayers"][0].items()))
    assert layer_etag(others, "a") == etag
    changed = apply_edits(tree, [ExtendBoundingBox("a", box(0, 0, 0, 1, 1, 1))])
    assert layer_etag(changed, "a") != etag
    with pytest.raises(Conflict) as caught:
        apply_edits(changed, [ExpectLayerEtag("a", etag)])
    assert caught.value.reason is Reason.ETAG_MISMATCH
    assert caught.value.metadata == {"value": etag, "current": layer_etag(changed, "a")}


def test_extensions_that_others_wrote_over_come_back() -> None:
    memory = BoundingBoxMemory()
    stale = tree_with_layers("a", "b")
    edits = [ExtendBoundingBox("a", box(0, 0, 0, 4, 4, 4)), ExtendBoundingBox("b", box(9, 9, 9, 1, 1, 1))]
    memory.note(edits)
    memory.note([ExtendBoundingBox("a", box(8, 0, 0, 1, 1, 1))])
    assert memory.missing(parse_properties(apply_edits(stale, edits), file="f"))
    theirs = apply_edits(stale, [SetBoundingBox("a", box(20, 0, 0, 5, 5, 5)), RemoveLayer("b")])
    merged = apply_edits(theirs, memory.missing(parse_properties(theirs, file="f")))
    assert box_of(merged) == box(0, 0, 0, 25, 5, 5)
    assert memory.missing(parse_properties(merged, file="f")) == []
    # Who has written over an extension once may do so again: programs write back what they read at their start.
    assert memory.missing(parse_properties(stale, file="f"))


def test_the_extensions_of_a_layer_that_others_removed_are_not_those_of_one_with_its_name() -> None:
    memory = BoundingBoxMemory()
    assert memory.is_empty
    memory.note([ExtendBoundingBox("a", box(0, 0, 0, 4, 4, 4)), ExtendBoundingBox("b", box(0, 0, 0, 4, 4, 4))])
    memory.forget_gone(parse_properties(tree_with_layers("b", "c"), file="f"))
    assert memory.missing(parse_properties(tree_with_layers("a"), file="f")) == []
    assert memory.missing(parse_properties(tree_with_layers("b"), file="f"))
    assert not memory.is_empty


def test_an_extension_is_forgotten_when_the_box_is_set_or_the_layer_goes() -> None:
    for edit in (SetBoundingBox("a", box(0, 0, 0, 1, 1, 1)), RemoveLayer("a")):
        memory = BoundingBoxMemory()
        memory.note([ExtendBoundingBox("a", box(0, 0, 0, 4, 4, 4)), edit])
        assert memory.missing(parse_properties(tree_with_layers("a"), file="f")) == []


def test_a_remembered_extension_follows_a_renamed_layer_and_spares_broken_ones() -> None:
    memory = BoundingBoxMemory()
    memory.note([ExtendBoundingBox("a", box(0, 0, 0, 4, 4, 4)), RenameLayer("a", "c")])
    memory.note([ExtendBoundingBox("b", box(0, 0, 0, 4, 4, 4))])
    tree = tree_with_layers("b", "c")
    tree["dataLayers"][0]["boundingBox"] = "gone"
    merged = apply_edits(tree, [memory.edit()])
    assert merged["dataLayers"][0]["boundingBox"] == "gone"
    assert box_of(merged, "c") == box(0, 0, 0, 4, 4, 4)
