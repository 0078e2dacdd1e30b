"""Sources that are WKW folders on this disk: a dataset, a layer of one, or a mag.

Offsets are kept: a volume that begins at 1000 in its dataset begins there in the new one too, unless --offset says
otherwise. What a dataset says about its layers (bounding box, category, voxel size, largest segment id) is taken from
its datasource-properties.json; a mag without one is taken as far as its cube files go. The files are read, never
changed, and should not be written by others meanwhile.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magd.catalog.names import DatasetName
from magd.catalog.root import Root
from magd.cli.failures import SERVER_EXTRA, CommandError, MissingExtra
from magd.cli.importing.source import Source, SourceInfo, VoxelSizeInUnit
from magd.cubes.header import HEADER_FILE
from magd.geometry import Box, Mag
from magd.properties.file import PROPERTIES_NAME, PropertiesFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.cubes.mag_files import MagFiles
    from magd.properties.model import DatasetProperties, LayerProperties, VoxelSize
    from magd.voxels import VoxelArray


@dataclass(frozen=True, slots=True)
class WkwPlace:
    """What a path leads to."""

    path: str
    dataset_folder: str | None
    """None for a mag that lies in no dataset."""
    layer: str | None = None
    mag: Mag | None = None


@dataclass(frozen=True, slots=True)
class WkwSource:
    """One mag, and how it is called where it comes from."""

    source: Source
    layer: str | None
    mag: Mag | None


def find_wkw(path: str) -> WkwPlace | None:
    """What kind of WKW folder a folder is, or None."""
    folder = os.path.abspath(path)
    if os.path.isfile(os.path.join(folder, PROPERTIES_NAME)):
        return WkwPlace(path, folder)
    parent, name = os.path.split(folder)
    if os.path.isfile(os.path.join(folder, HEADER_FILE)):
        try:
            mag = Mag.of(name)
        except ValueError:
            return WkwPlace(path, None)
        above, layer = os.path.split(parent)
        if os.path.isfile(os.path.join(above, PROPERTIES_NAME)):
            return WkwPlace(path, above, layer, mag)
        return WkwPlace(path, None, None, mag)
    if os.path.isfile(os.path.join(parent, PROPERTIES_NAME)):
        return WkwPlace(path, parent, name)
    return None


def open_wkw(place: WkwPlace) -> tuple[list[WkwSource], list[str]]:
    """Open every mag at a place that can be read and holds data.

    :return: the mags, and in words what was left out
    :raises CommandError: there is none
    :raises MissingExtra: the server extra is not installed
    :raises MagdError: a file is damaged, or the properties cannot be used
    """
    try:
        import magd.cubes.mag_files  # noqa: F401  needs lz4, which only the server extra has
    except ModuleNotFoundError as error:
        raise MissingExtra("importing WKW", error.name, SERVER_EXTRA) from error
    if place.dataset_folder is None:
        return [WkwSource(_open_bare_mag(place.path), None, place.mag)], []
    properties = PropertiesFile(os.path.join(place.dataset_folder, PROPERTIES_NAME)).load().properties
    opened: list[WkwSource] = []
    left_out: list[str] = []
    try:
        for layer in _layers(properties, place):
            problem = layer.unserved_reason or ("it holds no data" if layer.bounding_box.is_empty else None)
            if problem is not None:
                left_out.append(f"layer {layer.name} is left out: {problem}")
                continue
            for entry in layer.mags:
                if place.mag is not None and entry.mag != place.mag:
                    continue
                if entry.unserved_reason is not None:
                    left_out.append(f"mag {layer.name}/{entry.mag} is left out: {entry.unserved_reason}")
                    continue
                folder = _mag_folder(place.dataset_folder, layer, entry.mag)
                source = _WkwMagSource(folder, layer, entry.mag, properties.voxel_size)
                opened.append(WkwSource(source, layer.name, entry.mag))
    except BaseException:
        for one in opened:
            one.source.close()
        raise
    if not opened:
        raise CommandError("; ".join([f"{place.path}: nothing to import", *left_out]), "NOT_FOUND")
    return opened, left_out


def _layers(properties: DatasetProperties, place: WkwPlace) -> Iterator[LayerProperties]:
    if place.layer is None:
        yield from properties.layers
        return
    layer = properties.layer(place.layer)
    if layer is None:
        raise CommandError(f"{place.path}: the properties of the dataset have no such layer", "LAYER_NOT_FOUND")
    yield layer


def _mag_folder(dataset_folder: str, layer: LayerProperties, mag: Mag) -> str:
    root, dataset = os.path.split(dataset_folder)
    entry = layer.mag(mag)
    assert entry is not None
    return Root(root).mag_folder(DatasetName(dataset), layer, entry)


class _MagSource(Source):
    """A mag whose files are open."""

    def __init__(self, files: MagFiles, info: SourceInfo) -> None:
        self._files = files
        self.info = info

    def read(self, box: Box) -> VoxelArray:
        return self._files.read(Box(box.offset + self.info.offset, box.size))

    def close(self) -> None:
        self._files.close()


class _WkwMagSource(_MagSource):
    """A mag that its dataset describes."""

    def __init__(self, folder: str, layer: LayerProperties, mag: Mag, voxel_size: VoxelSize) -> None:
        files = _open(folder)
        box = layer.bounding_box.in_mag(mag)
        # The dataset states the size of a mag-1 voxel, a source that of its own.
        x, y, z = mag.factor
        factor = (voxel_size.x * x, voxel_size.y * y, voxel_size.z * z)
        super().__init__(
            files,
            SourceInfo(
                label=f"{folder}: WKW, {box.size.x} x {box.size.y} x {box.size.z} {files.header.voxels}",
                size=box.size,
                offset=box.offset,
                voxels=files.header.voxels,
                voxel_size=VoxelSizeInUnit(factor, voxel_size.unit),
                category=layer.category.value if layer.category else None,
                largest_segment_id=layer.largest_segment_id,
            ),
        )


def _open_bare_mag(folder: str) -> Source:
    """A mag that no dataset describes."""
    files = _open(folder)
    box = None
    for cube_file in files.cube_files():
        box = cube_file.box if box is None else box.union(cube_file.box)
    if box is None:
        files.close()
        raise CommandError(f"{folder}: there are no cube files", "NOT_FOUND")
    label = f"{folder}: WKW without a dataset, {box.size.x} x {box.size.y} x {box.size.z} {files.header.voxels}"
    note = "no datasource-properties.json describes this mag: it is imported as far as its cube files go"
    return _MagSource(
        files,
        SourceInfo(label=label, size=box.size, offset=box.offset, voxels=files.header.voxels, notes=(note,)),
    )


def _open(folder: str) -> MagFiles:
    from magd.cubes.mag_files import MagFiles

    return MagFiles.open(folder, read_only=True)
