"""What magd itself left behind when it was cut short, and removing it.

All of it goes by itself when a daemon opens the dataset and its mags. A check names it, and a repair removes it for
those who do not want to wait. Nothing here is data that anybody was promised:

1. In a dataset's folder, and in those of its layers: folders of layers and mags that were being made or compressed, or
   that an exchange left over (`folders`); temporaries of the properties (`PropertiesFile.recover` knows what to do
   with them) and of an intent (`intents`). While an intent lies in the dataset, the folders are not left over: it may
   name them.
2. In a mag's folder: cube files that were being made, and files of the journal that do not count any more: retired
   ones, ones that were never completed, side files that no record names, and a whole journal that was written for
   other cube files and has nothing to apply (`magd.journal.recovery`).

A repair is for the holder of the dataset's lock. Mags that are in use are passed over, and so are folders of layers and
mags that may be in the making.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd import atomic
from magd.catalog import intents
from magd.catalog.folders import recover_exchange, sweep
from magd.catalog.locks import FolderLock
from magd.catalog.names import DatasetName, MagName
from magd.cubes.header import HEADER_FILE, read_header
from magd.cubes.mag_folder import TEMPORARIES, MagFolder
from magd.errors import MagdError, NotAllowed, NotFound, os_errors_of
from magd.journal.places import journal_folder
from magd.journal.records import FileFormat
from magd.journal.recovery import recover
from magd.properties.file import PROPERTIES_NAME, PropertiesFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from magd.catalog.names import ResourceName
    from magd.catalog.root import Root
    from magd.properties.model import DatasetProperties

_CUBE_FILE: Final = re.compile(r"cube-[0-9a-f]+\.tmp")


@dataclass(frozen=True, slots=True)
class Leftover:
    """One file or folder."""

    path: str
    """Absolute."""
    what: str
    """For people."""


def in_root(root: Root) -> list[Leftover]:
    """What is left of datasets that were being made.

    :raises MagdError: the root cannot be read
    """
    return [*_being_made(root.path)]


def in_dataset(root: Root, name: DatasetName) -> list[Leftover]:
    """What is left in the folder of a dataset and in those of its layers.

    :raises MagdError: they cannot be read
    """
    home = root.dataset_folder(name)
    found = [*_of_the_dataset(home)]
    for layer in PropertiesFile(root.properties_path(name), root=root.path).load().properties.layers:
        try:
            folder = root.layer_folder(name, layer)
        except MagdError:
            continue  # the check of the layer says what is wrong
        if not os.path.islink(folder):
            found += _being_made(folder)
    return found


def in_mag(folder: str) -> list[Leftover]:
    """What is left in the folder of a mag.

    :raises MagdError: it cannot be read, or is damaged
    """
    found: list[Leftover] = []
    opened = MagFolder(folder)
    try:
        found += [
            Leftover(os.path.join(folder, TEMPORARIES, name), "a cube file that was being made")
            for name in sorted(opened.list(TEMPORARIES))
            if _CUBE_FILE.fullmatch(name)
        ]
    except FileNotFoundError:
        pass  # a mag that was never written has none
    finally:
        opened.close()
    if os.path.isdir(journal_folder(folder)):
        header = read_header(os.path.join(folder, HEADER_FILE))
        format = FileFormat(header.voxels, header.block_len, header.file_len, header.block_type)  # noqa: A001  # its name in a HEAD
        found += [
            Leftover(path, "a file of the journal that does not count any more")
            for path in recover(folder, format).leftovers
        ]
    return found


def remove_from_root(root: Root) -> list[str]:
    """Remove what is left of datasets that were being made. For the holder of the root's lock.

    :return: what was removed, relative to the root
    """
    before = in_root(root)
    sweep(root.path)
    return gone(root, before)


def remove_from_dataset(root: Root, name: DatasetName, *, is_served: bool, is_quiet: bool) -> list[str]:
    """Remove what is left in the folder of a dataset and in those of its layers.

    :param is_served: whether somebody may be saving its properties at this moment
    :param is_quiet: whether it is certain that no layer or mag is being made in it
    :return: what was removed, relative to the root
    :raises MagdError: the dataset cannot be read, or something could not be removed
    """
    before = in_dataset(root, name)
    properties = PropertiesFile(root.properties_path(name), root=root.path)
    if not is_served:
        properties.recover()
    home = root.dataset_folder(name)
    if not os.path.lexists(intents.intent_path(home)):
        with os_errors_of(home):
            atomic.unlink_if_there(os.path.join(home, intents.TEMPORARY_NAME))
        if is_quiet:
            _sweep(root, name, properties.load().properties)
    return gone(root, before)


def remove_from_mag(root: Root, name: MagName) -> list[str]:
    """Remove what is left in the folder of a mag, if it is not in use and not damaged.

    :return: what was removed, relative to the root
    :raises MagdError: something could not be removed
    """
    try:
        properties = PropertiesFile(root.properties_path(name.dataset_name), root=root.path).load().properties
        layer = properties.layer(name.layer)
        mag = None if layer is None else layer.mag(name.mag)
        if layer is None or mag is None or layer.unserved_reason:
            return []
        folder = root.mag_folder(name.dataset_name, layer, mag)
    except MagdError:
        return []  # the check says what is wrong with it
    with FolderLock() as lock:
        try:
            lock.take(folder, shared=False)
        except OSError:
            return []  # it is in use, and whoever uses it tidies up
        try:
            found = in_mag(folder)
        except MagdError:
            return []  # it is damaged: nothing in it is touched
        with os_errors_of(folder):
            for leftover in found:
                atomic.unlink_if_there(leftover.path)
            for parent in dict.fromkeys(os.path.dirname(leftover.path) for leftover in found):
                atomic.fsync_folder(parent)
    return gone(root, found)


def mags_of(root: Root, resource: ResourceName) -> list[MagName]:
    """The mags of a dataset or layer, or the mag itself, that properties list.

    :raises MagdError: the properties cannot be read
    """
    name = DatasetName(resource.dataset)
    found = [
        MagName(name.dataset, layer.name, mag.mag)
        for layer in PropertiesFile(root.properties_path(name), root=root.path).load().properties.layers
        for mag in layer.mags
    ]
    return [mag for mag in found if resource in (name, mag.layer_name, mag)]


def gone(root: Root, found: Iterable[Leftover]) -> list[str]:
    """What of it is not there any more, relative to the root."""
    return [os.path.relpath(leftover.path, root.path) for leftover in found if not os.path.lexists(leftover.path)]


def _of_the_dataset(home: str) -> Iterator[Leftover]:
    has_intent = os.path.lexists(intents.intent_path(home))
    with os_errors_of(home):
        names = sorted(os.listdir(home))
    for name in names:
        path = os.path.join(home, name)
        if name.startswith(f".{PROPERTIES_NAME}.magd-"):
            yield Leftover(path, "properties that were being saved")
        elif name == intents.TEMPORARY_NAME and not has_intent:
            yield Leftover(path, "an intent that was being laid down")
    yield from _being_made(home)


def _being_made(folder: str) -> Iterator[Leftover]:
    with os_errors_of(folder), os.scandir(folder) as entries:
        hidden = sorted(entry.name for entry in entries if entry.name.startswith(".") and not entry.is_file())
    for name in hidden:
        if ".magd-new-" in name:
            yield Leftover(os.path.join(folder, name), "a layer or mag that is being made, or was when magd ended")
        elif name.endswith(".magd-old"):
            yield Leftover(os.path.join(folder, name), "the files of a mag that was being exchanged")


def _sweep(root: Root, name: DatasetName, properties: DatasetProperties) -> None:
    sweep(root.dataset_folder(name))
    for layer in properties.layers:
        try:
            sweep(root.layer_folder(name, layer))
            for mag in layer.mags:
                for place in root.mag_places(name, layer, mag):
                    recover_exchange(live=place)
        except (NotFound, NotAllowed):
            continue  # there is no folder, or it is not served: nothing of ours is in it
