"""Changes of a dataset that take more than one step on the disk, and come to an end whatever happens in between.

A change of folders and a change of datasource-properties.json cannot be made in one step. So before the first step an
intent is laid down in the dataset's folder, and whoever finds one there later can tell how far the change came. What
decides is the properties, since they are replaced in one step: a change is done when they say so, and not before.

1. What is recorded. One file, `.magd-intent.json`, in the dataset's folder: the kind of the change, its folders
   (relative to the dataset's), and the identity of the folder that it moves, which tells that folder from any other of
   the same name, also from one made later (`identity`). There is at most one: changes of a dataset run one at a time.
2. When it is durable. `begin` writes it to a temporary, syncs that, renames it and syncs the dataset's folder; only
   then it takes the steps that come before the properties. The caller saves the properties, durably. `settle` takes
   the steps that come after them, syncs, and removes the intent last.
3. The kinds, and what `settle` does if the properties say "after" / "before":
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
4. The same code finishes a change when all goes well, mends one that ended with an error, and recovers after a crash.
   It looks at where things are and moves only what has the recorded identity; so it can be cut short itself, and be
   repeated any number of times. What another tool put under one of the names is left alone and told about.
5. An intent that cannot be read, or in front of properties from which nothing can be told, is never guessed: it stays,
   the dataset is served, and further changes of this kind are refused with its name until somebody removes it.

A reader needs to know nothing of it: between two steps the properties lead to the right folders. (Where a file system
cannot exchange two names, a renaming and an exchange have a moment without a folder. To read is an error then.)
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from magd import atomic
from magd.catalog.folders import exchange_mag_folders, move_to_trash, place, recover_exchange, remove_tree
from magd.catalog.identity import identity_of
from magd.errors import AlreadyExists, NotAllowed, Reason, os_errors_of
from magd.geometry import Mag
from magd.properties.model import mag_list_key, mag_of_entry

if TYPE_CHECKING:
    from magd.properties.file import Snapshot

INTENT_NAME: Final = ".magd-intent.json"
"""The file with an intent, in the folder of a dataset."""

TEMPORARY_NAME: Final = f"{INTENT_NAME}.new"
"""What it is called until it is complete."""

_VERSION: Final = 1
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intent:
    layer: str
    mag: str
    """As a folder is called; empty: the layer itself."""
    folder: str
    """Where the layer or mag lies, relative to the dataset's folder."""
    identity: str
    """Of what is moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation(_Intent):
    """A layer or mag gets its folder and its entry. `identity` is that of the new folder."""

    hidden: str
    """Where the folder was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal(_Intent):
    """A layer or mag loses its entry and goes to the trash. `identity` is that of its folder."""

    trash: str
    """Where it goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renaming(_Intent):
    """A layer and its folder get another name. `folder` and `identity` are those of the old one."""

    new: str
    """The new name, of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(_Intent):
    """A mag gets other files, with another cube length. `identity` is that of the new folder."""

    hidden: str
    """Where the new folder was made, and the old one is afterwards."""
    cube_length: int
    """Of the new files: edge of a cube file in voxels of the mag, different from the one before."""


Intent: TypeAlias = Creation | Removal | Renaming | Exchange

_KINDS: Final[dict[str, type[Intent]]] = {
    "create": Creation,
    "remove": Removal,
    "rename": Renaming,
    "exchange": Exchange,
}


def creation(dataset_folder: str, *, layer: str, mag: Mag | None, hidden: str, folder: str) -> Creation:
    """The intent to make a finished folder, which has a hidden name, a layer or mag.

    :param hidden: absolute, complete, and on the disk
    :param folder: absolute; what its name shall be
    """
    home = os.path.realpath(dataset_folder)
    with os_errors_of(hidden):
        return Creation(
            layer=layer,
            mag="" if mag is None else mag.name,
            folder=_below(home, folder),
            hidden=_below(home, hidden),
            identity=identity_of(hidden),
        )


def removal(dataset_folder: str, *, layer: str, mag: Mag | None, folder: str, trash: str) -> Removal:
    """The intent to remove a layer or mag.

    :param folder: absolute; a link is moved itself
    :param trash: absolute; see `folders.trash_place`
    :raises NotAllowed: the folder lies on another file system, and cannot be moved
    """
    home = os.path.realpath(dataset_folder)
    with os_errors_of(folder):
        if os.lstat(folder).st_dev != os.stat(home).st_dev:
            raise NotAllowed(
                f"{folder} lies on another file system than its dataset and cannot be moved to the trash",
                reason=Reason.OUTSIDE_ROOT,
                metadata={"file": folder},
            )
        return Removal(
            layer=layer,
            mag="" if mag is None else mag.name,
            folder=_below(home, folder),
            trash=_below(home, trash),
            identity=identity_of(folder),
        )


def renaming(dataset_folder: str, *, old: str, new: str) -> Renaming | None:
    """The intent to rename a layer. None: it has no folder, so that the properties are all there is to change.

    :raises AlreadyExists: LAYER_EXISTS: there is something of the new name
    """
    with os_errors_of(dataset_folder):
        identity = identity_of(os.path.join(dataset_folder, old))
        if not identity:
            return None
        if os.path.lexists(os.path.join(dataset_folder, new)):
            raise _exists(os.path.join(dataset_folder, new))
    return Renaming(layer=old, mag="", folder=old, identity=identity, new=new)


def exchange(dataset_folder: str, *, layer: str, mag: Mag, folder: str, hidden: str, cube_length: int) -> Exchange:
    """The intent to put other files in place of a mag's.

    :param folder: of the mag, absolute
    :param hidden: the new folder, beside it; complete with its journal, and on the disk
    :param cube_length: of the new files; not that of the old ones: then nothing in the properties changes, and no
        intent is needed
    """
    home = os.path.realpath(dataset_folder)
    with os_errors_of(hidden):
        return Exchange(
            layer=layer,
            mag=mag.name,
            folder=_below(home, folder),
            hidden=_below(home, hidden),
            identity=identity_of(hidden),
            cube_length=cube_length,
        )


def read(dataset_folder: str) -> Intent | None:
    """The intent that lies in a dataset's folder, or None.

    :raises NotAllowed: CHANGED_ON_DISK: there is one that cannot be understood
    :raises DataLoss: it cannot be read
    """
    path = intent_path(dataset_folder)
    with os_errors_of(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            data = os.read(descriptor, _MAX_BYTES)
        finally:
            os.close(descriptor)
    try:
        return _decode(data)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _undecided(path, f"it cannot be understood: {error!r}") from error


def describe(intent: Intent) -> str:
    """What a change is about, for people."""
    what = f"mag {intent.mag} of layer {intent.layer}" if intent.mag else f"layer {intent.layer}"
    match intent:
        case Creation():
            return f"the creation of {what}"
        case Removal():
            return f"the deletion of {what}"
        case Renaming(new=new):
            return f"the renaming of {what} to {new}"
        case Exchange():
            return f"the exchange of the files of {what}"


def intent_path(dataset_folder: str) -> str:
    """Where the intent of a dataset lies, if there is one."""
    return os.path.join(os.path.realpath(dataset_folder), INTENT_NAME)


def begin(dataset_folder: str, intent: Intent) -> None:
    """Lay an intent down, and take the steps that come before the properties are saved. Whatever happens from here on,
    `settle` comes after it.

    :raises AlreadyExists: MAG_EXISTS, LAYER_EXISTS: the name it needs is taken
    :raises NotAllowed: CHANGED_ON_DISK: there is another intent
    :raises DiskFull, DataLoss: it could not be done
    """
    home = os.path.realpath(dataset_folder)
    _lay_down(home, intent)
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
        atomic.unlink_if_there(os.path.join(home, TEMPORARY_NAME))
        atomic.unlink_if_there(intent_path(home))
        atomic.fsync_folder(home)
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
            raise _exists(new) from None
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
            raise _undecided(
                intent_path(home), f"the mags of layer {layer} in the properties cannot be understood: {error}"
            ) from error
    return False


def _cube_length(now: Snapshot, intent: Exchange, home: str) -> int | None:
    if not _is_listed(now, intent.layer, intent.mag, home):
        return None
    layer = now.properties.layer(intent.layer)
    mag = None if layer is None else layer.mag(Mag.of(intent.mag))
    return None if mag is None else mag.cube_length


# -- the file ----------------------------------------------------------------------------------------------------------


def _lay_down(home: str, intent: Intent) -> None:
    path, temporary = intent_path(home), os.path.join(home, TEMPORARY_NAME)
    kind = next(kind for kind, of_kind in _KINDS.items() if isinstance(intent, of_kind))
    data = json.dumps({"version": _VERSION, "kind": kind, **asdict(intent)}, indent=4) + "\n"
    with os_errors_of(path):
        atomic.unlink_if_there(temporary)
        atomic.write_new_file(temporary, data.encode())
        try:
            atomic.rename_no_replace(temporary, path)
        except FileExistsError:
            os.unlink(temporary)
            raise _undecided(path, "it has not come to an end") from None
        atomic.fsync_folder(home)


def _decode(data: bytes) -> Intent:
    found: dict[str, Any] = dict(json.loads(data))
    version, kind = found.pop("version"), _KINDS[found.pop("kind")]
    if version != _VERSION:
        raise ValueError(f"version {version!r} is unknown")
    if set(found) != {field.name for field in fields(kind)}:
        raise ValueError(f"its fields are {sorted(found)}")
    for name, value in found.items():
        if not isinstance(value, int if name == "cube_length" else str):
            raise TypeError(f"{name} is {value!r}")
        if name in ("folder", "hidden", "trash", "new") and not _is_inside(str(value)):
            raise ValueError(f"{name} leads out of the dataset: {value!r}")
    if found["mag"]:
        Mag.of(found["mag"])
    if not found["identity"]:
        raise ValueError("it has no identity")
    return kind(**found)


def _is_inside(path: str) -> bool:
    return os.path.normpath(path) == path and not path.startswith(("/", "..")) and path != "."


def _below(home: str, path: str) -> str:
    """A path relative to the dataset's folder, with links resolved but in its last part."""
    parent, name = os.path.split(path)
    relative = os.path.relpath(os.path.join(os.path.realpath(parent), name), home)
    if not _is_inside(relative):
        raise NotAllowed(
            f"{path} does not lie in its dataset {home}", reason=Reason.OUTSIDE_ROOT, metadata={"file": path}
        )
    return relative


def _is_link_to(path: str, text: str) -> bool:
    return os.path.islink(path) and os.readlink(path) == text


def _exists(path: str) -> AlreadyExists:
    return AlreadyExists(f"{path} exists", reason=Reason.LAYER_EXISTS, metadata={"file": path})


def _undecided(path: str, why: str) -> NotAllowed:
    return NotAllowed(
        f"{path} is the intent of a change that was cut short: {why}. Nothing else is changed in this way until it is "
        "settled: see to the folders that it names, then remove it",
        reason=Reason.CHANGED_ON_DISK,
        metadata={"file": path},
    )
