"""Opening datasets and mags: what a crash left there is set right, then the files are opened and checked.

A dataset, once its folder is locked:

1. Clean up after a save of the properties that was cut short.
2. Settle a change of folders and properties that was cut short (`magd.catalog.settling`). If that cannot be done, the
   dataset is served as it is, and step 3 waits for another time.
3. Remove the folders in which mags were being made or compressed: whoever made them held the lock, and is gone.

A mag:

1. Find layer and mag in the properties; refuse what magd does not serve.
2. Finish or undo an exchange of folders that was cut short; nothing may be written into files that are about to go.
3. Lock its folder: a link or a path in the properties may name one folder twice, and a folder has one actor.
4. Open the cube files and check that header.wkw and properties agree on the voxels.
5. Read its journal: what was committed and is perhaps not in the cube files.

A read-only daemon sets nothing right, and leaves no trace.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from magd.catalog import intents, settling
from magd.catalog.folders import exchange_mag_folders, recover_exchange, sweep
from magd.catalog.locks import FolderLock, lock_folder
from magd.cubes.header import HEADER_FILE, read_header
from magd.cubes.mag_files import MagFiles
from magd.errors import MagdError, NotAllowed, NotFound, Reason
from magd.journal.records import FileFormat
from magd.journal.recovery import recover
from magd.properties.file import PropertiesFile

if TYPE_CHECKING:
    from magd.catalog.names import DatasetName, MagName
    from magd.catalog.root import Root
    from magd.cubes.header import Header
    from magd.geometry import Box
    from magd.journal.recovery import Recovery
    from magd.properties.file import Snapshot
    from magd.properties.model import DatasetProperties, LayerProperties, MagProperties


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OpenedMag:
    """A mag whose files are open."""

    folder: str
    """Absolute."""
    files: MagFiles
    recovery: Recovery
    """What its journal says."""
    lock: FolderLock

    def close(self) -> None:
        """Close the files and release the lock."""
        self.files.close()
        self.lock.close()


def open_mag(root: Root, name: MagName, snapshot: Snapshot) -> OpenedMag:
    """Open the files of a mag.

    :raises NotFound: no such layer or mag
    :raises NotAllowed: the layer or mag is not served
    :raises DataLoss: header.wkw or the journal is damaged
    """
    layer, mag = find_served(snapshot, name)
    if not root.read_only:
        _settle_exchange(root, name)
        for place in root.mag_places(name.dataset_name, layer, mag):
            recover_exchange(live=place)
    folder = root.mag_folder(name.dataset_name, layer, mag)
    lock = lock_folder(folder, shared=root.read_only)
    try:
        files = MagFiles.open(folder, read_only=root.read_only)
        try:
            _check_voxels(name, files, layer)
            recovery = recover(folder, format_of(files.header))
            return OpenedMag(folder, files, recovery, lock)
        except BaseException:
            files.close()
            raise
    except BaseException:
        lock.close()
        raise


def exchange_files(opened: OpenedMag, new_folder: str) -> OpenedMag:
    """Put other files in place of a mag's. The old ones are in `new_folder` afterwards.

    :param new_folder: where the new files are with their journal, complete and on the disk
    :raises MagdError: which files are live is for whoever opens the mag next to find out
    """
    lock = lock_folder(new_folder, shared=False)
    try:
        exchange_mag_folders(opened.folder, new_folder)
        files = MagFiles.open(opened.folder)
        recovery = recover(opened.folder, format_of(files.header))
    except BaseException:
        lock.close()
        raise
    opened.close()
    return OpenedMag(opened.folder, files, recovery, lock)


def header_of(folder: str) -> Header:
    """What the header.wkw in a mag's folder says.

    :raises NotFound: MAG_NOT_FOUND: there is none
    :raises DataLoss: it is damaged
    """
    return read_header(os.path.join(folder, HEADER_FILE))


def format_of(header: Header) -> FileFormat:
    """What a journal says about the cube files it belongs to."""
    return FileFormat(header.voxels, header.block_len, header.file_len, header.block_type)


def _check_voxels(name: MagName, files: MagFiles, layer: LayerProperties) -> None:
    if files.header.voxels != layer.voxels:
        raise NotAllowed(
            f"{name}: header.wkw says {files.header.voxels}, the properties of the layer say {layer.voxels}",
            reason=Reason.UNSUPPORTED_DATA_FORMAT,
            metadata={"file": os.path.join(files.folder, HEADER_FILE), "value": files.header.voxels},
        )


def tidy_dataset(root: Root, name: DatasetName, properties: DatasetProperties) -> None:
    """Set right what a crash left of changes of folders. For the holder of the dataset's lock."""
    try:
        settle(root, name)
    except MagdError as error:
        log.warning("change not settled", dataset=str(name), error=error.message)
        return
    sweep(root.dataset_folder(name))
    for layer in properties.layers:
        try:
            folder = root.layer_folder(name, layer)
        except MagdError:
            continue  # there is no folder, or it is not served; asking for the layer says so
        sweep(folder)


def settle(root: Root, name: DatasetName) -> None:
    """Finish or undo a change of a dataset that was cut short. For the holder of its lock; what the change is about is
    not in use.

    :raises NotAllowed: CHANGED_ON_DISK: it cannot be told what the change was, or whether it was made
    :raises MagdError: it could not be finished or undone
    """
    folder = root.dataset_folder(name)
    intent = intents.read(folder)
    if intent is not None:
        now = PropertiesFile(root.properties_path(name), root=root.path).save([])  # what decides must last
        for note in settling.settle(folder, intent, now):
            log.warning("found while settling a change", dataset=str(name), note=note)
        log.info("change settled", dataset=str(name), layer=intent.layer, mag=intent.mag)


def _settle_exchange(root: Root, name: MagName) -> None:
    """See that the folder that is about to be opened is the one that stays.

    :raises MagdError: that could not be done
    """
    try:
        intent = intents.read(root.dataset_folder(name.dataset_name))
    except NotAllowed:
        return  # nothing will be done about one that cannot be understood
    if isinstance(intent, intents.Exchange) and (intent.layer, intent.mag) == (name.layer, name.mag.name):
        settle(root, name.dataset_name)


def work_folder(layer_folder: str, name: MagName, epoch: int, number: str) -> str:
    """Where new files for a mag are made: beside its folder, named by epoch and attempt."""
    return os.path.join(layer_folder, f".{name.mag.name}.magd-new-{epoch}-{number}")


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
        f"{resource} is not served: {why}",
        reason=Reason.UNSUPPORTED_DATA_FORMAT,
        metadata={"value": data_format},
    )
