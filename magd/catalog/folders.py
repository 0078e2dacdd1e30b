"""Making, moving and exchanging the folders of datasets, layers and mags.

Everything is made under a hidden name and renamed into place, and everything that is deleted is renamed into
a trash folder on the same file system, so that a crash leaves a folder where it was or where it shall be.
What each function leaves when it is cut short stands with it; where the properties have to change too, an intent
brings both together (`intents`). Names of ours that a crash can leave begin with a dot and contain `.magd-` or
begin with `.magd-`; only such are ever removed for good.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from magd import atomic
from magd.catalog.locks import FolderLock
from magd.catalog.root import Root, is_below
from magd.cubes.header import HEADER_FILE
from magd.errors import AlreadyExists, InternalError, NotAllowed, Reason, os_errors_of
from magd.properties.file import PROPERTIES_NAME, PropertiesFile
from magd.properties.tree import new_dataset_tree

if TYPE_CHECKING:
    from magd.cubes.header import Header
    from magd.geometry import Mag
    from magd.properties.model import VoxelSize

TRASH: Final = os.path.join(".magd", "trash")
"""Where deleted folders go, below the root or the dataset."""

_MAX_NAME_BYTES: Final = 255
_TEMPORARY: Final = re.compile(r"\.(.+\.)?magd-.+", re.DOTALL)


def create_dataset_folder(root: Root, dataset: str, voxel_size: VoxelSize) -> str:
    """Make a dataset without layers, durably.

    1. Make a folder under a hidden name in the root.
    2. Write datasource-properties.json into it and sync both.
    3. Rename it to its name, which nothing may have, and sync the root.

    A crash before step 3 leaves the hidden folder, which `sweep` removes.

    :return: the folder
    :raises AlreadyExists: DATASET_EXISTS: there is a dataset or anything else of this name
    """
    folder = os.path.join(root.path, dataset)
    temporary = os.path.join(root.path, f".magd-new-{secrets.token_hex(8)}")
    with os_errors_of(folder):
        os.mkdir(temporary)
        try:
            tree = new_dataset_tree(dataset, voxel_size)
            PropertiesFile(os.path.join(temporary, PROPERTIES_NAME)).create(tree)
            _rename(temporary, folder, Reason.DATASET_EXISTS)
        except BaseException:
            remove_tree(temporary)
            raise
        atomic.fsync_folder(root.path)
    return folder


def create_layer_folder(dataset_folder: str, layer: str) -> str:
    """Make the folder of a layer, durably, or take the one that is there.

    A crash leaves no folder or an empty one.

    :return: the folder
    :raises AlreadyExists: LAYER_EXISTS: there is something of this name that is no folder
    :raises NotAllowed: OUTSIDE_ROOT: there is a link of this name that leads out of the dataset, whose new
        mags would end up in somebody else's
    """
    folder = os.path.join(dataset_folder, layer)
    with os_errors_of(folder):
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise AlreadyExists(
                    f"{folder} exists and is no folder", reason=Reason.LAYER_EXISTS, metadata={"file": folder}
                ) from None
            if not is_below(os.path.realpath(folder), os.path.realpath(dataset_folder)):
                raise NotAllowed(
                    f"{folder} is a link out of the dataset; new mags are not made there",
                    reason=Reason.OUTSIDE_ROOT,
                    metadata={"file": folder},
                ) from None
        atomic.fsync_folder(dataset_folder)
    return folder


def make_layer_folder(dataset_folder: str) -> str:
    """Make an empty folder for a layer under a hidden name, durably.

    A crash leaves it or not; `sweep` removes it.

    :return: the folder, for `place`
    """
    hidden = os.path.join(dataset_folder, f".magd-new-{secrets.token_hex(8)}")
    with os_errors_of(hidden):
        os.mkdir(hidden)
        try:
            atomic.fsync_folder(dataset_folder)
        except BaseException:
            remove_tree(hidden)
            raise
    return hidden


def make_mag_folder(layer_folder: str, mag: Mag, header: Header) -> str:
    """Make the folder of a mag with its header.wkw under a hidden name, durably.

    A crash leaves a part of it; `sweep` removes it.

    :return: the folder, for `place`
    :raises AlreadyExists: MAG_EXISTS: there is something of the mag's short or long name
    """
    hidden = os.path.join(layer_folder, f".{mag.name}.magd-new-{secrets.token_hex(8)}")
    check_mag_is_free(layer_folder, mag)
    with os_errors_of(hidden):
        os.mkdir(hidden)
        try:
            atomic.write_new_file(os.path.join(hidden, HEADER_FILE), header.to_bytes())
            atomic.fsync_folder(hidden)
        except BaseException:
            remove_tree(hidden)
            raise
    return hidden


def check_mag_is_free(layer_folder: str, mag: Mag) -> None:
    """Refuse a mag if there is something in its place, whoever made it.

    :raises AlreadyExists: MAG_EXISTS
    """
    for name in dict.fromkeys((mag.name, mag.long_name)):
        folder = os.path.join(layer_folder, name)
        if os.path.lexists(folder):
            raise AlreadyExists(
                f"{folder} exists, though no properties name it", reason=Reason.MAG_EXISTS, metadata={"file": folder}
            )


def place(made: str, folder: str, if_exists: Reason) -> None:
    """Give a finished folder, made under a hidden name, the name it is for, durably.

    A crash leaves it under one of the two names.

    :param made: complete, and on the disk
    :param folder: its name; nothing may have it
    :param if_exists: the reason of the error if something has
    :raises AlreadyExists: something has
    """
    with os_errors_of(folder):
        _rename(made, folder, if_exists)
        for parent in dict.fromkeys((os.path.dirname(folder), os.path.dirname(made))):
            atomic.fsync_folder(parent)


def trash(root: Root, folder: str) -> str:
    """Move the folder of a dataset into the trash of the root, durably. For its parts see `trash_place`.

    A crash leaves it in one of the two places, and perhaps an empty trash folder. A link is moved itself, not
    what it leads to.

    :param folder: directly in the root
    :return: where it is now, relative to the root: `.magd/trash/<name>-<time, UTC>-<random>`
    """
    target = trash_place(root.path, os.path.basename(folder))
    with os_errors_of(folder):
        move_to_trash(folder, target, root.path)
    return os.path.relpath(target, root.path)


def trash_place(home: str, name: str) -> str:
    """A free place in the trash for something of this name.

    :param home: the folder with the trash: the root for datasets, a dataset for what is in it
    :return: `<home>/.magd/trash/<name>-<time, UTC>-<random>`
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    suffix = f"-{stamp}-{secrets.token_hex(4)}"
    short_name = name.encode()[: _MAX_NAME_BYTES - len(suffix)].decode(errors="ignore")
    return os.path.join(home, TRASH, short_name + suffix)


def move_to_trash(folder: str, target: str, home: str) -> None:
    """Move a folder to a place in the trash, durably.

    :param target: from `trash_place`
    :param home: the folder with the trash
    :raises OSError: it cannot be moved
    """
    bin_folder = os.path.dirname(target)
    os.makedirs(bin_folder, exist_ok=True)
    os.rename(folder, target)
    # The new name first: a power loss in between may show the folder twice, but never nowhere.
    for touched in dict.fromkeys((bin_folder, os.path.dirname(bin_folder), home, os.path.dirname(folder))):
        atomic.fsync_folder(touched)


def exchange_mag_folders(live: str, new: str) -> None:
    """Put the folder `new` in place of the mag's folder `live`, durably. The old one has the name of `new`
    afterwards.

    1. Sync the folders around them, so that both names last. What is in `new` has been synced by the caller.
    2. Exchange the two names in one step; then go to step 6.
    3. Where the file system cannot: rename `live` to `.<mag>.magd-old` beside it.
    4. Rename `new` to `live`.
    5. Rename `.<mag>.magd-old` to `new`.
    6. Sync the folders around them.

    A crash before step 3 or after step 5 leaves both folders, before or after the exchange. After step 3 the
    mag has no folder for readers until `recover_exchange` renames the old one back; after step 4 it has the
    new one.

    :raises MagdError: the exchange failed; the mag may have no folder until `recover_exchange`
    """
    old = _name_during_exchange(live)
    around = sorted({os.path.dirname(live), os.path.dirname(new)})
    with os_errors_of(live):
        for folder in around:
            atomic.fsync_folder(folder)
        if not atomic.exchange(live, new):
            os.rename(live, old)
            os.rename(new, live)
            os.rename(old, new)
        for folder in around:
            atomic.fsync_folder(folder)


def recover_exchange(*, live: str) -> None:
    """Finish what a crash cut short in `exchange_mag_folders`. To be called before a mag is opened.

    If only the old folder is there, it becomes the mag's again. If the new one is in place already, the old
    one is removed. Any crash in here leaves one of the states it starts from. Where the old folder is locked
    nothing was cut short: a mag that several datasets list is being exchanged at this moment.

    :param live: where the mag's folder may be
    """
    old = _name_during_exchange(live)
    with os_errors_of(live), FolderLock() as lock:
        try:
            lock.take(old, shared=False)
        except (FileNotFoundError, BlockingIOError):
            return
        if os.path.lexists(live):
            remove_tree(old)
        else:
            os.rename(old, live)
            atomic.fsync_folder(os.path.dirname(live))


def sweep(folder: str) -> None:
    """Remove what a crash left of datasets and mags that were being made in a folder: a root, or a layer.

    To be called by whoever holds the lock of the root or the dataset. A link is passed over: what it leads to
    may belong to a dataset that is in use.
    """
    if os.path.islink(folder):
        return
    with os_errors_of(folder), os.scandir(folder) as entries:
        for entry in entries:
            is_ours = _TEMPORARY.fullmatch(entry.name) and "magd-new-" in entry.name
            if is_ours and not entry.is_file(follow_symlinks=False):
                remove_tree(entry.path)


def remove_tree(folder: str) -> None:
    """Remove a temporary folder of magd with all in it, or a link in its place; that there is none is fine.

    :raises InternalError: the name is none that magd gives to temporaries; nothing is touched
    """
    if not _TEMPORARY.fullmatch(os.path.basename(folder)):
        raise InternalError(f"{folder} is no temporary folder of magd and is not removed")
    with os_errors_of(folder):
        try:
            if os.path.islink(folder):
                os.unlink(folder)
            else:
                shutil.rmtree(folder)
        except FileNotFoundError:
            pass


def _rename(source: str, target: str, if_exists: Reason) -> None:
    try:
        atomic.rename_no_replace(source, target)
    except FileExistsError:
        raise AlreadyExists(f"{target} exists", reason=if_exists, metadata={"file": target}) from None


def _name_during_exchange(live: str) -> str:
    parent, name = os.path.split(live)
    return os.path.join(parent, f".{name}.magd-old")
