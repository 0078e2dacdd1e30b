"""Opening the files of a mag: from its name and the properties to its folder, header and head.

1. Find layer and mag in the properties; refuse what magd does not serve.
2. Finish or undo an exchange of folders that a crash cut short, and remove the folders a compression left behind: the
   daemon holds the lock of the dataset, so whoever made them is gone. A read-only daemon leaves them.
3. Open the cube files and check that header.wkw and properties agree on the voxels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from magd.catalog.folders import recover_exchange, remove_tree
from magd.catalog.names import MagName
from magd.catalog.root import Root
from magd.cubes.mag_files import MagFiles
from magd.errors import NotAllowed, NotFound, Reason
from magd.geometry import Box
from magd.journal import head as heads
from magd.journal.head import Head
from magd.properties.file import Snapshot
from magd.properties.model import LayerProperties, MagProperties


@dataclass(frozen=True, slots=True)
class OpenedMag:
    """A mag whose files are open."""

    folder: str
    """Absolute."""
    files: MagFiles
    head: Head


def open_mag(root: Root, name: MagName, snapshot: Snapshot) -> OpenedMag:
    """Open the files of a mag.

    :raises NotFound: no such layer or mag
    :raises NotAllowed: the layer or mag is not served
    :raises DataLoss: header.wkw or the head is damaged
    """
    layer, mag = find_served(snapshot, name)
    if not root.read_only:
        layer_folder = root.layer_folder(name.dataset_name, layer)
        recover_exchange(layer_folder)
        for entry in os.listdir(layer_folder):
            if entry.startswith(_work_prefix(name)):
                remove_tree(os.path.join(layer_folder, entry))
    folder = root.mag_folder(name.dataset_name, layer, mag)
    files = MagFiles.open(folder, read_only=root.read_only)
    try:
        if files.header.voxels != layer.voxels:
            raise NotAllowed(
                f"{name}: header.wkw says {files.header.voxels}, the properties of the layer say {layer.voxels}",
                reason=Reason.UNSUPPORTED_DATA_FORMAT,
                metadata={"file": os.path.join(folder, "header.wkw"), "value": files.header.voxels},
            )
        return OpenedMag(folder, files, heads.load(folder))
    except BaseException:
        files.close()
        raise


def work_folder(mag_folder: str, name: MagName, epoch: int, number: str) -> str:
    """Where new files for a mag are made: beside its folder, named by epoch and attempt."""
    return os.path.join(os.path.dirname(mag_folder), f"{_work_prefix(name)}{epoch}-{number}")


def _work_prefix(name: MagName) -> str:
    return f".{name.mag.name}.magd-work-"


def find_served(snapshot: Snapshot, name: MagName) -> tuple[LayerProperties, MagProperties]:
    """The properties of a mag and its layer.

    :raises NotFound: no such layer or mag
    :raises NotAllowed: UNSUPPORTED_DATA_FORMAT: the layer or the mag is not served
    """
    layer = snapshot.properties.layer(name.layer)
    if layer is None:
        raise NotFound(f"{name.layer_name} does not exist", reason=Reason.LAYER_NOT_FOUND)
    if layer.unserved_reason:
        raise unserved(str(name.layer_name), layer.unserved_reason, layer.data_format)
    mag = layer.mag(name.mag)
    if mag is None:
        raise NotFound(f"{name} does not exist", reason=Reason.MAG_NOT_FOUND)
    if mag.unserved_reason:
        raise unserved(str(name), mag.unserved_reason, layer.data_format)
    return layer, mag


def layer_box(snapshot: Snapshot, name: MagName) -> Box:
    """The bounding box of a mag's layer, in voxels of the mag, enlarged outward; empty if there is no data.

    :raises NotFound: no such layer
    """
    layer = snapshot.properties.layer(name.layer)
    if layer is None:
        raise NotFound(f"{name.layer_name} does not exist", reason=Reason.LAYER_NOT_FOUND)
    return layer.bounding_box.in_mag(name.mag)


def unserved(resource: str, why: str, data_format: str) -> NotAllowed:
    """The error of a layer or mag that magd leaves alone."""
    return NotAllowed(
        f"{resource} is not served: {why}", reason=Reason.UNSUPPORTED_DATA_FORMAT, metadata={"value": data_format}
    )
