"""What a change of a dataset that takes more than one step on the disk leaves for whoever finds it cut short.

A change of folders and a change of datasource-properties.json cannot be made in one step. So before the first step an
intent is laid down in the dataset's folder, and whoever finds one there later can tell how far the change came
(`settling`).

1. What is recorded. One file, `.magd-intent.json`, in the dataset's folder: the kind of the change, its folders
   (relative to the dataset's), and the identity of the folder that it moves, which tells that folder from any other of
   the same name, also from one made later (`identity`). There is at most one: changes of a dataset run one at a time.
2. When it is durable. `lay_down` writes it to a temporary, syncs that, renames it and syncs the dataset's folder.
3. An intent that cannot be read is never guessed: it stays, the dataset is served, and further changes of this kind are
   refused with its name until somebody removes it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeAlias

from magd import atomic
from magd.catalog.identity import identity_of
from magd.errors import AlreadyExists, NotAllowed, Reason, os_errors_of
from magd.geometry import Mag

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
            raise name_taken(os.path.join(dataset_folder, new))
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
        raise undecided(path, f"it cannot be understood: {error!r}") from error


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


def lay_down(dataset_folder: str, intent: Intent) -> None:
    """Record a change before its first step. It is on the disk then.

    :raises NotAllowed: CHANGED_ON_DISK: there is another intent
    :raises DiskFull, DataLoss: it could not be done
    """
    home = os.path.realpath(dataset_folder)
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
            raise undecided(path, "it has not come to an end") from None
        atomic.fsync_folder(home)


def take_away(dataset_folder: str) -> None:
    """Remove the intent of a change that has come to its end, durably. It may be gone already.

    :raises DiskFull, DataLoss: it could not be done
    """
    home = os.path.realpath(dataset_folder)
    with os_errors_of(intent_path(home)):
        atomic.unlink_if_there(os.path.join(home, TEMPORARY_NAME))
        atomic.unlink_if_there(intent_path(home))
        atomic.fsync_folder(home)


def name_taken(path: str) -> AlreadyExists:
    """The error for a layer whose name somebody else has given to something."""
    return AlreadyExists(f"{path} exists", reason=Reason.LAYER_EXISTS, metadata={"file": path})


def undecided(path: str, why: str) -> NotAllowed:
    """The error for an intent in front of which nobody knows what to do."""
    return NotAllowed(
        f"{path} is the intent of a change that was cut short: {why}. Nothing else is changed in this way until it is "
        "settled: see to the folders that it names, then remove it",
        reason=Reason.CHANGED_ON_DISK,
        metadata={"file": path},
    )


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
