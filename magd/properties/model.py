"""What datasource-properties.json says, as frozen values.

The JSON tree itself is kept beside them (see `magd.properties.file`), with keys that are unknown here; these
values are for reading only. What is written goes through `magd.properties.edits`.

Three kinds of trouble are told apart. A file without the bones (an object with `scale` and `dataLayers`,
layers with names) is refused as a whole. A layer that cannot be understood, or is in a format that magd does
not serve, is listed with a reason in words, and so is a mag that lies elsewhere; the rest of the dataset
works.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from magd.errors import NotAllowed, Reason
from magd.geometry import BoundingBox, Mag
from magd.properties.forms import (
    JsonObject,
    name_problem,
    read_bounding_box,
    read_mag,
    read_scale,
    read_segment_id,
    read_voxels,
    shown,
    text_problem,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.voxels import VoxelFormat

_Value = TypeVar("_Value")

SERVED_DATA_FORMAT: Final = "wkw"
"""The one data format whose layers are served."""

_MAX_PATH_BYTES: Final = 4096
_REMOTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class LayerCategory(StrEnum):
    """What the values of a layer mean."""

    COLOR = "color"
    SEGMENTATION = "segmentation"


@dataclass(frozen=True, slots=True)
class VoxelSize:
    """The size of a mag-1 voxel."""

    x: float
    y: float
    z: float
    unit: str
    """As the file spells it: "nanometer", "nm"."""


@dataclass(frozen=True, slots=True)
class MagProperties:
    """One mag of a layer, as the file lists it."""

    mag: Mag
    path: str | None
    """Of its folder, relative to the dataset's folder, as it is written; None: by its name in the layer's
    folder.
    """
    cube_length: int | None
    """Edge of a cube file in voxels of the mag. The mag's header is what counts."""
    unserved_reason: str | None
    """Why it is not served, in words; None if nothing here speaks against it."""


@dataclass(frozen=True, slots=True)
class LayerProperties:
    """One layer, as the file lists it."""

    name: str
    category: LayerCategory | None
    """None only if the layer is not served."""
    voxels: VoxelFormat | None
    """None only if the layer is not served."""
    bounding_box: BoundingBox
    data_format: str
    mags: tuple[MagProperties, ...]
    """Finest first."""
    largest_segment_id: int | None
    default_view_configuration: JsonObject | None
    unserved_reason: str | None
    """Why it is not served, in words; None if it is."""

    def mag(self, mag: Mag) -> MagProperties | None:
        """The entry of a mag, or None."""
        return next((entry for entry in self.mags if entry.mag == mag), None)


@dataclass(frozen=True, slots=True)
class DatasetProperties:
    """A dataset, as its file describes it."""

    voxel_size: VoxelSize
    layers: tuple[LayerProperties, ...]
    """In the order of the file."""
    default_view_configuration: JsonObject | None

    def layer(self, name: str) -> LayerProperties | None:
        """The first layer of this name, or None."""
        return next((layer for layer in self.layers if layer.name == name), None)


def parse_properties(tree: object, *, file: str) -> DatasetProperties:
    """Understand the content of a datasource-properties.json.

    :param tree: as `json` reads it; it is not changed, but parts of it are shared with the result
    :param file: named by errors
    :raises NotAllowed: INVALID_PROPERTIES, naming the JSON pointer: this is not the description of a dataset
    """

    def broken(pointer: str, why: str) -> NotAllowed:
        return invalid_properties(file, f"{pointer or 'the file'}: {why}", pointer=pointer)

    if not isinstance(tree, dict):
        raise broken("", f"expected an object, found {shown(tree)}")
    version = tree.get("version", 1)
    if version != 1:
        raise broken("/version", f"{shown(version)} is not a version that magd knows")
    for key in ("scale", "dataLayers"):
        if key not in tree:
            raise broken(f"/{key}", "it is missing")
    try:
        voxel_size = VoxelSize(*read_scale(tree["scale"]))
    except ValueError as error:
        raise broken("/scale", str(error)) from None
    if not isinstance(tree["dataLayers"], list):
        raise broken("/dataLayers", f"expected a list, found {shown(tree['dataLayers'])}")

    layers: list[LayerProperties] = []
    names: set[str] = set()
    for index, node in enumerate(tree["dataLayers"]):
        pointer = f"/dataLayers/{index}"
        if not isinstance(node, dict):
            raise broken(pointer, f"expected an object, found {shown(node)}")
        name = node.get("name")
        # A layer whose name cannot even be said has no place in any listing.
        if not isinstance(name, str) or not name or text_problem(name, limit=_MAX_PATH_BYTES):
            raise broken(f"{pointer}/name", f"{shown(name)} is not a name")
        layers.append(_LayerReader(node, is_first_of_name=name not in names).read(name))
        names.add(name)
    return DatasetProperties(voxel_size, tuple(layers), _object_or_none(tree.get("defaultViewConfiguration")))


def invalid_properties(file: str, why: str, *, pointer: str = "") -> NotAllowed:
    """The error for a file that is there but cannot be used."""
    metadata = {"file": file, "pointer": pointer} if pointer else {"file": file}
    return NotAllowed(
        f"{file} is not a usable datasource-properties.json: {why}",
        reason=Reason.INVALID_PROPERTIES,
        metadata=metadata,
    )


def mag_list_key(layer: JsonObject) -> str:
    """The key under which this layer lists its mags: `mags`, or the historic `wkwResolutions`."""
    return "wkwResolutions" if "mags" not in layer and "wkwResolutions" in layer else "mags"


def mag_of_entry(entry: object, list_key: str) -> Mag:
    """The mag of one entry of a mag list.

    :raises ValueError: it has none
    """
    key = "mag" if list_key == "mags" else "resolution"
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"expected an object with {key!r}, found {shown(entry)}")
    return read_mag(entry[key])


class _LayerReader:
    """Reads one layer, and collects what speaks against serving it instead of stopping there."""

    def __init__(self, node: JsonObject, *, is_first_of_name: bool) -> None:
        self._node = node
        self._problems: list[str] = [] if is_first_of_name else ["an earlier layer has the same name"]

    def read(self, name: str) -> LayerProperties:
        problem = name_problem(name)
        if problem:
            self._problems.append(f"its name cannot be that of a folder: {problem}")
        list_key = mag_list_key(self._node)
        data_format = self._data_format(list_key)
        # The rest of a layer in a foreign format is read as far as it goes, but its reason is the format.
        served = not self._problems
        category = self._try("category", LayerCategory)
        voxels = self._try("elementClass", lambda value: read_voxels(value, self._node.get("numChannels")))
        bounding_box = self._try("boundingBox", read_bounding_box)
        mags = self._mags(list_key)
        reasons = self._problems if served else self._problems[:1]
        return LayerProperties(
            name=name,
            category=category,
            voxels=voxels,
            bounding_box=bounding_box or BoundingBox.empty(),
            data_format=data_format,
            mags=mags,
            largest_segment_id=read_segment_id(self._node.get("largestSegmentId")),
            default_view_configuration=_object_or_none(self._node.get("defaultViewConfiguration")),
            unserved_reason="; ".join(reasons) or None,
        )

    def _data_format(self, list_key: str) -> str:
        value = self._node.get("dataFormat")
        if value is None and list_key == "wkwResolutions":
            return SERVED_DATA_FORMAT
        if not isinstance(value, str):
            self._problems.append("dataFormat is missing" if value is None else "dataFormat is not text")
            return ""
        if value != SERVED_DATA_FORMAT:
            self._problems.append(f"its data format is {shown(value)}; magd serves {SERVED_DATA_FORMAT!r} only")
        return value

    def _try(self, key: str, read: Callable[[Any], _Value]) -> _Value | None:
        if key not in self._node:
            self._problems.append(f"{key} is missing")
            return None
        try:
            return read(self._node[key])
        except (ValueError, TypeError) as error:
            self._problems.append(f"{key}: {error}")
            return None

    def _mags(self, list_key: str) -> tuple[MagProperties, ...]:
        entries = self._node.get(list_key)
        if not isinstance(entries, list):
            self._problems.append(f"{list_key} is missing" if entries is None else f"{list_key} is not a list")
            return ()
        mags: dict[Mag, MagProperties] = {}
        for index, entry in enumerate(entries):
            try:
                mag = mag_of_entry(entry, list_key)
                found = _read_mag_entry(mag, entry)
            except ValueError as error:
                self._problems.append(f"{list_key}/{index}: {error}")
                continue
            if mags.setdefault(mag, found) is not found:
                self._problems.append(f"{list_key}/{index}: mag {mag} is listed twice")
        return tuple(sorted(mags.values(), key=lambda found: found.mag.sort_key))


def _read_mag_entry(mag: Mag, entry: JsonObject) -> MagProperties:
    cube_length = entry.get("cubeLength")
    path = entry.get("path")
    if path is not None and not isinstance(path, str):
        raise ValueError(f"path {shown(path)} is not text")
    return MagProperties(
        mag=mag,
        path=path,
        cube_length=None if cube_length is None else whole_number(cube_length),
        unserved_reason=None if path is None else _path_problem(path),
    )


def _path_problem(path: str) -> str | None:
    if _REMOTE.match(path):
        return f"it lies elsewhere: {shown(path)}"
    if path.startswith("/"):
        return f"its path is absolute: {shown(path)}"
    problem = "it is empty" if not path else text_problem(path, limit=_MAX_PATH_BYTES)
    return f"its path {shown(path)} cannot be used: {problem}" if problem else None


def _object_or_none(value: object) -> JsonObject | None:
    return value if isinstance(value, dict) else None
