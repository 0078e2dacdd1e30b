"""Edits of datasource-properties.json: operations on the tree, not new states of it.

Other programs edit the same file. An edit says what shall change and can be applied to whatever the file says
at the moment of the save, so edits of others survive, and keys that are unknown here stay as they are. An
edit that leaves the tree equal is no change, and nothing is written for it.

What is added has the keys, the order and the form that the `webknossos` package 4.3 writes.
"""

from __future__ import annotations

import copy
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from magd.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, Reason
from magd.geometry import BoundingBox, Mag
from magd.properties.forms import (
    MAX_SEGMENT_ID,
    JsonObject,
    bounding_box_problem,
    element_class,
    shown,
    write_bounding_box,
    write_segment_id,
)
from magd.properties.model import SERVED_DATA_FORMAT, LayerCategory, mag_list_key
from magd.properties.tree import bounding_box_of, check_name_is_free, layer_etag, layer_of, mags_of, path_holders

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magd.voxels import VoxelFormat

_AXIS_ORDER: Final = {"c": 0, "x": 1, "y": 2, "z": 3}


class Edit(Protocol):
    """One change of the properties."""

    def apply(self, tree: JsonObject) -> None:
        """Change the tree in place.

        :param tree: one that `parse_properties` takes
        :raises MagdError: the tree does not allow it; the tree may be half changed then and must be thrown
            away
        """


def apply_edits(tree: JsonObject, edits: Iterable[Edit]) -> JsonObject:
    """The tree with all edits applied, in order; the given one is not changed.

    :raises MagdError: one of them is not possible
    """
    edited = copy.deepcopy(tree)
    for edit in edits:
        edit.apply(edited)
    return edited


@dataclass(frozen=True, slots=True)
class ExpectLayerEtag:
    """Changes nothing; stops the save if the layer is not as the caller knew it. Goes before other edits."""

    layer: str
    etag: str

    def apply(self, tree: JsonObject) -> None:
        """:raises Conflict: ETAG_MISMATCH"""
        current = layer_etag(tree, self.layer)
        if current != self.etag:
            raise etag_mismatch(f"layer {shown(self.layer)}", self.etag, current)


@dataclass(frozen=True, slots=True)
class ExtendBoundingBox:
    """Enlarge the bounding box of a layer so that it contains another one. Such edits commute, and never
    shrink it.
    """

    layer: str
    bounding_box: BoundingBox

    def __post_init__(self) -> None:
        _check_bounding_box(self.bounding_box)

    def apply(self, tree: JsonObject) -> None:
        """:raises NotFound: LAYER_NOT_FOUND"""
        layer = layer_of(tree, self.layer)
        current = bounding_box_of(layer)
        if not current.contains(self.bounding_box):
            write_bounding_box(layer["boundingBox"], current.union(self.bounding_box))


@dataclass(frozen=True, slots=True)
class SetBoundingBox:
    """Replace the bounding box of a layer. The only edit that can shrink it."""

    layer: str
    bounding_box: BoundingBox

    def __post_init__(self) -> None:
        _check_bounding_box(self.bounding_box)

    def apply(self, tree: JsonObject) -> None:
        """:raises NotFound: LAYER_NOT_FOUND"""
        layer = layer_of(tree, self.layer)
        if bounding_box_of(layer) != self.bounding_box:
            write_bounding_box(layer["boundingBox"], self.bounding_box)


@dataclass(frozen=True, slots=True)
class SetDefaultViewConfiguration:
    """Replace the default view configuration of a layer, or of the dataset; None removes it."""

    layer: str | None
    configuration: JsonObject | None

    def apply(self, tree: JsonObject) -> None:
        """:raises NotFound: LAYER_NOT_FOUND"""
        target = tree if self.layer is None else layer_of(tree, self.layer)
        if self.configuration is None:
            target.pop("defaultViewConfiguration", None)
        else:
            target["defaultViewConfiguration"] = copy.deepcopy(self.configuration)


@dataclass(frozen=True, slots=True)
class SetLargestSegmentId:
    """Replace the largest segment id of a segmentation."""

    layer: str
    segment_id: int

    def __post_init__(self) -> None:
        if not 0 <= self.segment_id <= MAX_SEGMENT_ID:
            raise InvalidRequest(
                f"segment id {self.segment_id} is not between 0 and 2^64 - 1",
                metadata={"field": "largest_segment_id", "value": self.segment_id},
            )

    def apply(self, tree: JsonObject) -> None:
        """:raises NotFound: LAYER_NOT_FOUND
        :raises InvalidRequest: the layer is no segmentation
        """
        layer = layer_of(tree, self.layer)
        if layer.get("category") != LayerCategory.SEGMENTATION.value:
            raise InvalidRequest(
                f"layer {shown(self.layer)} is no segmentation and has no segment ids",
                metadata={"field": "largest_segment_id", "value": self.segment_id},
            )
        layer["largestSegmentId"] = write_segment_id(self.segment_id)


@dataclass(frozen=True, slots=True)
class AddLayer:
    """Add a layer without mags and without data."""

    layer: str
    category: LayerCategory
    voxels: VoxelFormat

    def apply(self, tree: JsonObject) -> None:
        """:raises AlreadyExists: LAYER_EXISTS"""
        check_name_is_free(tree, self.layer)
        bounding_box: JsonObject = {}
        write_bounding_box(bounding_box, BoundingBox.empty())
        tree["dataLayers"].append(
            {
                "name": self.layer,
                "category": self.category.value,
                "boundingBox": bounding_box,
                "dataFormat": SERVED_DATA_FORMAT,
                "mags": [],
                "numChannels": self.voxels.num_channels,
                "elementClass": element_class(self.voxels),
            }
        )


@dataclass(frozen=True, slots=True)
class AddMag:
    """List a mag. Its folder is there already."""

    layer: str
    mag: Mag
    path: str
    """Of the folder, relative to the dataset's: "./color/1"."""
    cube_length: int
    """Edge of a cube file in voxels of the mag."""

    def apply(self, tree: JsonObject) -> None:
        """:raises NotFound: LAYER_NOT_FOUND
        :raises AlreadyExists: MAG_EXISTS
        :raises InvalidRequest: the layer lists its mags in the historic form, which has no paths, and the
            folder is not where such a mag is looked for
        """
        layer = layer_of(tree, self.layer)
        key = mag_list_key(layer)
        if any(mag == self.mag for mag, _ in mags_of(layer)):
            raise AlreadyExists(
                f"layer {shown(self.layer)} has a mag {self.mag}",
                reason=Reason.MAG_EXISTS,
                metadata={"layer": self.layer[:80], "mag": self.mag},
            )
        if key == "mags":
            layer[key].append(
                {
                    "mag": list(self.mag.factor),
                    "path": self.path,
                    "cubeLength": self.cube_length,
                    "axisOrder": dict(_AXIS_ORDER),
                }
            )
            return
        if posixpath.normpath(self.path) not in (
            f"{self.layer}/{self.mag.name}",
            f"{self.layer}/{self.mag.long_name}",
        ):
            raise InvalidRequest(
                f"layer {shown(self.layer)} lists its mags as wkwResolutions, so {self.mag} cannot lie at "
                f"{shown(self.path)}",
                metadata={"field": "path", "value": self.path[:80]},
            )
        layer[key].append({"resolution": list(self.mag.factor), "cubeLength": self.cube_length})


@dataclass(frozen=True, slots=True)
class RemoveMag:
    """No longer list a mag."""

    layer: str
    mag: Mag

    def apply(self, tree: JsonObject) -> None:
        """:raises NotFound: LAYER_NOT_FOUND, MAG_NOT_FOUND"""
        layer = layer_of(tree, self.layer)
        gone = [entry for mag, entry in mags_of(layer) if mag == self.mag]
        if not gone:
            raise _no_mag(self.layer, self.mag)
        key = mag_list_key(layer)
        layer[key] = [entry for entry in layer[key] if not any(entry is one for one in gone)]


@dataclass(frozen=True, slots=True)
class SetCubeLength:
    """Say how long the cube files of a mag are."""

    layer: str
    mag: Mag
    cube_length: int
    """Edge of a cube file in voxels of the mag."""

    def apply(self, tree: JsonObject) -> None:
        """:raises NotFound: LAYER_NOT_FOUND, MAG_NOT_FOUND"""
        entries = [entry for mag, entry in mags_of(layer_of(tree, self.layer)) if mag == self.mag]
        if not entries:
            raise _no_mag(self.layer, self.mag)
        for entry in entries:
            entry["cubeLength"] = self.cube_length


@dataclass(frozen=True, slots=True)
class RemoveLayer:
    """No longer list a layer."""

    layer: str

    def apply(self, tree: JsonObject) -> None:
        """:raises NotFound: LAYER_NOT_FOUND"""
        gone = layer_of(tree, self.layer)
        tree["dataLayers"] = [layer for layer in tree["dataLayers"] if layer is not gone]


@dataclass(frozen=True, slots=True)
class RenameLayer:
    """Give a layer another name and follow its folder: paths into it, whoever lists them, change too."""

    old: str
    new: str

    def apply(self, tree: JsonObject) -> None:
        """:raises NotFound: LAYER_NOT_FOUND
        :raises AlreadyExists: LAYER_EXISTS
        """
        layer = layer_of(tree, self.old)
        if self.old == self.new:
            return
        check_name_is_free(tree, self.new)
        layer["name"] = self.new
        # Other layers may refer to mags in this layer's folder, and its attachments (meshes) lie in it.
        for holder in path_holders(tree):
            holder["path"] = self._followed(holder["path"])

    def _followed(self, path: str) -> str:
        plain = posixpath.normpath(path)
        first, slash, rest = plain.partition("/")
        if first != self.old or not slash:
            return path
        return f"./{self.new}/{rest}" if path.startswith("./") else f"{self.new}/{rest}"


def etag_mismatch(what: str, expected: str, current: str) -> Conflict:
    """The error for a change that was meant for another state."""
    return Conflict(
        f"{what} was changed by somebody else: its etag is {current}, not {expected[:80]}; read it again",
        reason=Reason.ETAG_MISMATCH,
        metadata={"value": expected[:80], "current": current},
    )


def _no_mag(layer: str, mag: Mag) -> NotFound:
    return NotFound(
        f"layer {shown(layer)} has no mag {mag}",
        reason=Reason.MAG_NOT_FOUND,
        metadata={"layer": layer[:80], "mag": mag},
    )


def _check_bounding_box(box: BoundingBox) -> None:
    problem = bounding_box_problem(box)
    if problem:
        raise InvalidRequest(
            f"bounding box {box}: {problem}",
            reason=Reason.INVALID_BOX,
            metadata={"field": "bounding_box", "value": box},
        )
