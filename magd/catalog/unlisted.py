"""Folders that look like layers or mags, but no properties list them.

Another tool may be about to list them, or was cut short; somebody may have copied them there. They are told, and left.
A mag is told by its name and by a header.wkw, a layer by a mag in it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from magd.cubes.header import HEADER_FILE
from magd.errors import MagdError, os_errors_of
from magd.geometry import Mag

if TYPE_CHECKING:
    from magd.catalog.names import DatasetName
    from magd.catalog.root import Root
    from magd.properties.model import DatasetProperties


def unlisted_layers(root: Root, name: DatasetName, properties: DatasetProperties) -> list[str]:
    """The names of folders in a dataset that look like layers.

    :raises DataLoss: a folder cannot be read
    """
    home = root.dataset_folder(name)
    listed = _mag_folders(root, name, properties)
    return [
        folder
        for folder in _folders_in(home)
        if properties.layer(folder) is None and _mags_in(os.path.join(home, folder), listed)
    ]


def unlisted_mags(root: Root, name: DatasetName, properties: DatasetProperties, folder: str) -> list[str]:
    """The names of folders in the folder of a layer that look like mags.

    :raises DataLoss: a folder cannot be read
    """
    return _mags_in(folder, _mag_folders(root, name, properties))


def _mag_folders(root: Root, name: DatasetName, properties: DatasetProperties) -> set[str]:
    """Where the mags that are listed lie, whichever layer lists them; links resolved."""
    found: set[str] = set()
    for layer in properties.layers:
        for mag in layer.mags:
            try:
                found.add(os.path.realpath(root.mag_folder(name, layer, mag)))
            except MagdError:
                continue  # not served, or missing: the check of the mag says so
    return found


def _mags_in(folder: str, listed: set[str]) -> list[str]:
    return [
        name
        for name in _folders_in(folder)
        if _is_mag_name(name)
        and os.path.realpath(os.path.join(folder, name)) not in listed
        and os.path.lexists(os.path.join(folder, name, HEADER_FILE))
    ]


def _folders_in(folder: str) -> list[str]:
    with os_errors_of(folder), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _is_mag_name(name: str) -> bool:
    try:
        Mag.of(name)
    except (MagdError, ValueError):
        return False
    return True
