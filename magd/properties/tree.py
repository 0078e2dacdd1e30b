"""Finding one's way in the tree of datasource-properties.json, which other programs write too.

What is asked for is looked for in the tree as it is. What cannot be understood is an error. Nothing is changed here.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from magd.errors import AlreadyExists, NotAllowed, NotFound, Reason
from magd.properties.forms import JsonObject, read_bounding_box, shown
from magd.properties.model import VoxelSize, mag_list_key, mag_of_entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from magd.geometry import BoundingBox, Mag


def new_dataset_tree(name: str, voxel_size: VoxelSize) -> JsonObject:
    """The properties of a dataset without layers."""
    return {
        "id": {"name": name, "team": ""},
        "scale": {"factor": [voxel_size.x, voxel_size.y, voxel_size.z], "unit": voxel_size.unit},
        "dataLayers": [],
        "version": 1,
    }


def layer_of(tree: JsonObject, name: str) -> JsonObject:
    """A layer.

    :raises NotFound: LAYER_NOT_FOUND
    """
    for layer in tree["dataLayers"]:
        if layer["name"] == name:
            found: JsonObject = layer
            return found
    raise NotFound(
        f"there is no layer {shown(name)} in this dataset",
        reason=Reason.LAYER_NOT_FOUND,
        metadata={"layer": name[:80]},
    )


def layer_etag(tree: JsonObject, layer: str) -> str:
    """The etag of one layer: it changes with anything the file says about the layer, not with the order of
    keys.

    :raises NotFound: LAYER_NOT_FOUND
    """
    text = json.dumps(layer_of(tree, layer), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def bounding_box_of(layer: JsonObject) -> BoundingBox:
    """The bounding box of a layer.

    :raises NotAllowed: INVALID_PROPERTIES
    """
    try:
        return read_bounding_box(layer.get("boundingBox"))
    except ValueError as error:
        raise _unusable(layer, f"boundingBox: {error}") from None


def mags_of(layer: JsonObject) -> Sequence[tuple[Mag, Any]]:
    """The entries of the list of mags of a layer, each with its mag.

    :raises NotAllowed: INVALID_PROPERTIES
    """
    key = mag_list_key(layer)
    entries = layer.get(key)
    if not isinstance(entries, list):
        raise _unusable(layer, f"{key} is not a list")
    try:
        return [(mag_of_entry(entry, key), entry) for entry in entries]
    except ValueError as error:
        raise _unusable(layer, f"{key}: {error}") from None


def check_name_is_free(tree: JsonObject, name: str) -> None:
    """Check that there is no layer of a name.

    :raises AlreadyExists: LAYER_EXISTS
    """
    if any(layer["name"] == name for layer in tree["dataLayers"]):
        raise AlreadyExists(
            f"there is a layer {shown(name)} in this dataset",
            reason=Reason.LAYER_EXISTS,
            metadata={"layer": name[:80]},
        )


def path_holders(tree: JsonObject) -> Iterator[JsonObject]:
    """Every object below `mags` and `attachments` of a layer that has a path."""
    for layer in tree["dataLayers"]:
        waiting = [layer.get("mags"), layer.get("attachments")]
        while waiting:
            node = waiting.pop()
            if isinstance(node, dict):
                if isinstance(node.get("path"), str):
                    yield node
                waiting.extend(node.values())
            elif isinstance(node, list):
                waiting.extend(node)


def _unusable(layer: JsonObject, why: str) -> NotAllowed:
    return NotAllowed(
        f"the properties of layer {shown(layer['name'])} cannot be changed: {why}",
        reason=Reason.INVALID_PROPERTIES,
        metadata={"layer": layer["name"][:80]},
    )
