"""Changes of a dataset that take more than one step on the disk come to an end, whatever happens in between.

What decides is the properties, since they are replaced in one step: a change is done when they say so, and not before.

1. `begin` lays the intent down; only then it takes the steps that come before the properties. The caller saves the
   properties, durably. `settle` takes the steps that come after them, syncs, and removes the intent last.
2. The kinds, and what `settle` does if the properties say "after" / "before":
   - Creation of a layer or mag. Its folder, made under a hidden name, is renamed to its name before the properties
     list it. After: nothing is left to do. Before: a mag goes back to its hidden name and is removed; a layer is
     removed if it is empty, and stays otherwise.
   - Removal of a layer or mag. After the properties do not list it any more, its folder moves to the place in the
     trash that the intent names. After: that. Before: nothing.
   - Renaming of a layer. Before the properties change, the new name becomes a link to the old one, so that the paths
     in the properties lead to the folder at any moment, for other programs too. After: folder and link change places,
     and the link is removed. Before: the link is removed.
   - Exchange of a mag's folder for one with another cube length. The properties get the new length, then the folders
     change places. After: they do, if they have not. Before: they do, if they have.
3. The same code finishes a change when all goes well, mends one that ended with an error, and recovers after a crash.
   It looks at where things are and moves only what has the recorded identity; so it can be cut short itself, and be
   repeated any number of times. What another tool put under one of the names is left alone and told about.
4. In front of properties from which nothing can be told nothing is guessed: the intent stays, as one that cannot be
   read does.

A reader needs to know nothing of it: between two steps the properties lead to the right folders. (Where a file system
cannot exchange two names, a renaming and an exchange have a moment without a folder. To read is an error then.)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from magd import atomic
from magd.catalog.folders import exchange_mag_folders, move_to_trash, place, recover_exchange, remove_tree
from magd.catalog.identity import identity_of
from magd.catalog.intents import (
    Creation,
    Exchange,
    Intent,
    Removal,
    Renaming,
    intent_path,
    lay_down,
    name_taken,
    take_away,
    undecided,
)
from magd.errors import Reason, os_errors_of
from magd.geometry import Mag
from magd.properties.model import mag_list_key, mag_of_entry

if TYPE_CHECKING:
    from magd.properties.file import Snapshot


def begin(dataset_folder: str, intent: Intent) -> None:
    """Lay an intent down, and take the steps that come before the properties are saved. Whatever happens from here on,
    `settle` comes after it.

    :raises AlreadyExists: MAG_EXISTS, LAYER_EXISTS: the name it needs is taken
    :raises NotAllowed: CHANGED_ON_DISK: there is another intent
    :raises DiskFull, DataLoss: it could not be done
    """
    home = os.path.realpath(dataset_folder)
    lay_down(home, intent)
    match intent:
        case Creation():
            if_exists = Reason.MAG_EXISTS if intent.mag else Reason.LAYER_EXISTS
            place(os.path.join(home, intent.hidden), os.path.join(home, intent.folder), if_exists)
        case Renaming():
            _link(home, intent)
        case Removal() | Exchange():
            pass


def settle(dataset_folder: str, intent: Intent, now: Snapshot) -> list[str]:
    """Bring the folders in line with the properties, and remove the intent.

    :param now: what the properties say; this is on the disk
    :return: what should be in the log: things that are not as they were left
    :raises NotAllowed: CHANGED_ON_DISK: the properties leave open whether the change was made
    :raises DiskFull, DataLoss, NotAllowed: it could not be done; the intent is there still, for the next attempt
    """
    home = os.path.realpath(dataset_folder)
    with os_errors_of(intent_path(home)):
        notes = _bring_in_line(home, intent, now)
    take_away(home)
    return notes


# -- the kinds ---------------------------------------------------------------------------------------------------------


def _bring_in_line(home: str, intent: Intent, now: Snapshot) -> list[str]:
    match intent:
        case Creation():
            return _settle_creation(home, intent, now)
        case Removal():
            return _settle_removal(home, intent, now)
        case Renaming():
            return _settle_renaming(home, intent, now)
        case Exchange():
            return _settle_exchange(home, intent, now)


def _settle_creation(home: str, intent: Creation, now: Snapshot) -> list[str]:
    if _is_listed(now, intent.layer, intent.mag, home):
        return []
    folder, hidden = os.path.join(home, intent.folder), os.path.join(home, intent.hidden)
    if identity_of(folder) == intent.identity:
        if not intent.mag:
            try:
                os.rmdir(folder)
            except OSError:
                # Somebody has put something into it. It is an ordinary folder, which a layer of its name can take.
                return [f"{folder} stays: it is not empty any more"]
            atomic.fsync_folder(os.path.dirname(folder))
            return []
        atomic.rename_no_replace(folder, hidden)
        atomic.fsync_folder(os.path.dirname(folder))
    if identity_of(hidden) == intent.identity:
        remove_tree(hidden)
    return []


def _settle_removal(home: str, intent: Removal, now: Snapshot) -> list[str]:
    if _is_listed(now, intent.layer, intent.mag, home):
        return []
    folder, trash = os.path.join(home, intent.folder), os.path.join(home, intent.trash)
    there = identity_of(folder)
    if there == intent.identity:
        move_to_trash(folder, trash, home)
    elif there:
        return [f"{folder} stays: it is another one than that which was deleted"]
    return []


def _link(home: str, intent: Renaming) -> None:
    new = os.path.join(home, intent.new)
    with os_errors_of(new):
        try:
            os.symlink(intent.folder, new)
        except FileExistsError:
            raise name_taken(new) from None
        atomic.fsync_folder(home)


def _settle_renaming(home: str, intent: Renaming, now: Snapshot) -> list[str]:
    old, new = os.path.join(home, intent.folder), os.path.join(home, intent.new)
    if _is_listed(now, intent.layer, "", home):
        if _is_link_to(new, intent.folder) and not _is_listed(now, intent.new, "", home):
            os.unlink(new)
            atomic.fsync_folder(home)
        return []
    if not _is_listed(now, intent.new, "", home):
        if _is_link_to(new, intent.folder):
            os.unlink(new)
            atomic.fsync_folder(home)
        return [f"the properties list neither layer {intent.layer} nor {intent.new}; the folder stays as {old}"]
    if identity_of(old) == intent.identity:
        if _is_link_to(new, intent.folder) and not atomic.exchange(old, new):
            os.unlink(new)
        if identity_of(old) == intent.identity:
            try:
                atomic.rename_no_replace(old, new)
            except FileExistsError:
                return [f"{old} stays: something else has the name {new}"]
        atomic.fsync_folder(home)
    if identity_of(new) != intent.identity:
        return [f"neither {old} nor {new} is the folder of the layer that was renamed"]
    if _is_link_to(old, intent.folder):  # to itself, since the exchange
        os.unlink(old)
        atomic.fsync_folder(home)
    return []


def _settle_exchange(home: str, intent: Exchange, now: Snapshot) -> list[str]:
    folder, hidden = os.path.join(home, intent.folder), os.path.join(home, intent.hidden)
    recover_exchange(live=folder)
    is_after = _cube_length(now, intent, home) == intent.cube_length
    is_live = identity_of(folder) == intent.identity
    if is_after != is_live:
        if identity_of(hidden if is_after else folder) != intent.identity or not identity_of(hidden):
            return [f"{folder} stays: {hidden} is not the folder that it was to be exchanged with"]
        exchange_mag_folders(folder, hidden)
    return []


# -- what the properties say -------------------------------------------------------------------------------------------


def _is_listed(now: Snapshot, layer: str, mag: str, home: str) -> bool:
    for node in now.tree["dataLayers"]:
        if node["name"] != layer:
            continue
        if not mag:
            return True
        key = mag_list_key(node)
        try:
            if any(mag_of_entry(entry, key) == Mag.of(mag) for entry in node.get(key, [])):
                return True
        except (ValueError, TypeError) as error:
            raise undecided(
                intent_path(home), f"the mags of layer {layer} in the properties cannot be understood: {error}"
            ) from error
    return False


def _cube_length(now: Snapshot, intent: Exchange, home: str) -> int | None:
    if not _is_listed(now, intent.layer, intent.mag, home):
        return None
    layer = now.properties.layer(intent.layer)
    mag = None if layer is None else layer.mag(Mag.of(intent.mag))
    return None if mag is None else mag.cube_length


def _is_link_to(path: str, text: str) -> bool:
    return os.path.islink(path) and os.readlink(path) == text
