"""Checking everything below a root: which datasets, layers and mags there are, and what is damaged in them. Only reads.

1. Links in the root that lead nowhere; what was left there by magd.
2. Each dataset under the name: its datasource-properties.json; an intent, and what else magd left in it; folders in it
   that look like layers, but no properties list them.
3. Each of its layers that is served: what other tools left beside its mags; folders that look like mags, but no
   properties list them.
4. Each mag: its folder, the agreement of header.wkw with the properties, every cube file (see magd.cubes.check), and
   its journal: a record that is missing or damaged although it was declared to be on the disk is damage, a torn end
   is what a crash leaves. Without a daemon also: what waits in the journal, and what magd left in the mag.

It works beside a running daemon and without one. It takes no locks, so a file that is changed while it is looked at
can give a finding that is not true any more. What is found in a mag's journal counts if it is found twice in the same
files; where the files of a mag were exchanged meanwhile (its generation changed), what was found in it is dropped and
the mag is checked again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from magd.catalog import intents, leftovers
from magd.catalog.names import DatasetName, LayerName, MagName, ResourceName
from magd.catalog.unlisted import unlisted_layers, unlisted_mags
from magd.cubes.check import CheckedFile, Finding, check_layer_folder, check_mag
from magd.cubes.cube_file import is_about_the_file
from magd.cubes.header import HEADER_FILE, read_header
from magd.errors import MagdError, NotFound, Reason, os_errors_of
from magd.journal.places import journal_folder
from magd.journal.records import FileFormat
from magd.journal.recovery import recover
from magd.properties.file import PROPERTIES_NAME, PropertiesFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from magd.catalog.leftovers import Leftover
    from magd.catalog.root import Root
    from magd.properties.model import DatasetProperties, LayerProperties, MagProperties

_ATTEMPTS: Final = 3
"""How often a mag is checked while its files are exchanged again and again; the last result stands."""


def check_root(
    root: Root, resource: ResourceName | None, *, deep: bool, is_served: bool = False
) -> Iterator[CheckedFile]:
    """Check a resource and all below it.

    :param resource: None: everything
    :param deep: also decode each compressed block
    :param is_served: whether a daemon has the root, so that there is always something under way
    :return: each file as it was checked, those without findings too; paths are relative to the root
    :raises NotFound: there is no such dataset, layer or mag
    """
    check = _Check(root, resource, deep, is_served)
    if resource is None:
        yield from check.root_folder()
        for dataset in root.dataset_names():
            yield from check.dataset(DatasetName(dataset))
    else:
        yield from check.dataset(DatasetName(resource.dataset))


@dataclass(frozen=True, slots=True)
class _Check:
    """One check; its methods go from the root down to the mags."""

    _root: Root
    _resource: ResourceName | None
    _deep: bool
    _is_served: bool

    def root_folder(self) -> Iterator[CheckedFile]:
        with os_errors_of(self._root.path), os.scandir(self._root.path) as entries:
            links = sorted(entry.name for entry in entries if entry.is_symlink())
        for name in links:
            if not os.path.exists(os.path.join(self._root.path, name)):
                yield _note(name, "it is a link that leads nowhere")
        yield from self._left(leftovers.in_root(self._root))

    def dataset(self, name: DatasetName) -> Iterator[CheckedFile]:
        path = os.path.join(name.dataset, PROPERTIES_NAME)
        try:
            properties = PropertiesFile(self._root.properties_path(name), root=self._root.path).load().properties
        except MagdError as error:
            if isinstance(error, NotFound) and self._resource is not None:
                raise
            yield _damage(path, error.message)
            return
        yield CheckedFile(path, False, ())
        wanted_layer = self._resource.layer if isinstance(self._resource, LayerName | MagName) else None
        if wanted_layer is None:
            yield from self._dataset_folder(name, properties)
        elif properties.layer(wanted_layer) is None:
            layer_name = LayerName(name.dataset, wanted_layer)
            raise NotFound(f"{layer_name} does not exist", reason=Reason.LAYER_NOT_FOUND)
        for layer in properties.layers:
            if wanted_layer in (None, layer.name):
                yield from self._layer(name, layer, properties)

    def _dataset_folder(self, name: DatasetName, properties: DatasetProperties) -> Iterator[CheckedFile]:
        home = self._root.dataset_folder(name)
        path = os.path.join(name.dataset, intents.INTENT_NAME)
        try:
            intent = intents.read(home)
            if intent is not None:
                state = "is under way, or was cut short and is settled with the next change"
                if not self._is_served:
                    state = "was cut short; it is settled when a daemon opens the dataset"
                yield _note(path, f"{intents.describe(intent)} {state}")
        except MagdError as error:
            if not is_about_the_file(error):
                raise
            yield _damage(path, error.message)
        try:
            yield from self._left(leftovers.in_dataset(self._root, name))
            for layer in unlisted_layers(self._root, name, properties):
                message = "it looks like a layer, but the properties do not list it"
                yield _note(os.path.join(name.dataset, layer), message)
        except MagdError as error:
            if not is_about_the_file(error):
                raise
            yield _damage(name.dataset, error.message)

    def _layer(
        self, dataset: DatasetName, layer: LayerProperties, properties: DatasetProperties
    ) -> Iterator[CheckedFile]:
        if layer.unserved_reason:
            message = f"the layer is not served: {layer.unserved_reason}"
            yield _note(os.path.join(dataset.dataset, layer.name), message)
            return
        mags = layer.mags
        if isinstance(self._resource, MagName):
            mag = layer.mag(self._resource.mag)
            if mag is None:
                raise NotFound(f"{self._resource} does not exist", reason=Reason.MAG_NOT_FOUND)
            mags = (mag,)
        else:
            yield from self._beside_mags(dataset, layer, properties)
        for mag in mags:
            yield from self._mag(dataset, layer, mag)

    def _beside_mags(
        self, dataset: DatasetName, layer: LayerProperties, properties: DatasetProperties
    ) -> Iterator[CheckedFile]:
        place = os.path.join(dataset.dataset, layer.name)
        try:
            folder = self._root.layer_folder(dataset, layer)
            findings = check_layer_folder(folder)
            unlisted = unlisted_mags(self._root, dataset, properties, folder)
        except NotFound:
            if os.path.islink(os.path.join(self._root.dataset_folder(dataset), layer.name)):
                yield _damage(place, "it is a link that leads nowhere")
            return  # a layer without mags needs no folder; mags that are missing are found below
        except MagdError as error:
            yield _damage(place, error.message)
            return
        for finding in findings:
            yield self._below(folder, CheckedFile(finding.file, False, (finding,)))
        for name in unlisted:
            yield _note(os.path.join(place, name), "it looks like a mag, but the properties do not list it")

    def _mag(self, dataset: DatasetName, layer: LayerProperties, mag: MagProperties) -> Iterator[CheckedFile]:
        place = os.path.join(dataset.dataset, layer.name, mag.mag.name)
        if mag.unserved_reason:
            yield _note(place, f"the mag is not served: {mag.unserved_reason}")
            return
        try:
            folder = self._root.mag_folder(dataset, layer, mag)
        except MagdError as error:
            yield _damage(place, error.message)
            return
        for attempt in range(1, _ATTEMPTS + 1):
            before = _generation(folder)
            # Files without findings are told at once; findings when it is sure that they are about one generation.
            found: list[CheckedFile] = []
            try:
                for checked in self._files_of(folder, layer, mag):
                    if checked.findings:
                        found.append(checked)
                    elif attempt == 1:
                        yield self._below(folder, checked)
            except MagdError as error:
                found.append(_damage("", error.message))
            if _generation(folder) == before or attempt == _ATTEMPTS:
                for checked in found:
                    yield self._below(folder, checked)
                return

    def _files_of(self, folder: str, layer: LayerProperties, mag: MagProperties) -> Iterator[CheckedFile]:
        """Everything in a mag's folder; paths are relative to it."""
        yield from _agreement(folder, layer, mag)
        yield from check_mag(folder, deep=self._deep)
        if not os.path.lexists(journal_folder(folder)):
            return
        try:
            header = read_header(os.path.join(folder, HEADER_FILE))
        except MagdError:
            return  # what is wrong with it was found above; without it nothing can be said of a journal
        format = FileFormat(header.voxels, header.block_len, header.file_len, header.block_type)  # noqa: A001  # its name in a HEAD
        damage = _damage_of_journal(folder, format)
        if damage is not None:
            yield damage
        elif not self._is_served:
            yield from _waiting(folder, format)

    def _left(self, found: Iterable[Leftover]) -> Iterator[CheckedFile]:
        when = "" if self._is_served else "; it is removed when a daemon opens the dataset, or by a repair"
        for leftover in found:
            yield _note(os.path.relpath(leftover.path, self._root.path), f"{leftover.what}{when}")

    def _below(self, folder: str, checked: CheckedFile) -> CheckedFile:
        """The same with paths relative to the root instead of to a folder below it."""
        prefix = os.path.relpath(folder, self._root.path)
        findings = tuple(
            replace(finding, file=os.path.normpath(os.path.join(prefix, finding.file))) for finding in checked.findings
        )
        file = os.path.normpath(os.path.join(prefix, checked.file))
        return CheckedFile(file, checked.is_cube_file, findings)


def _agreement(folder: str, layer: LayerProperties, mag: MagProperties) -> Iterator[CheckedFile]:
    """Whether header.wkw says what the properties say."""
    try:
        header = read_header(os.path.join(folder, HEADER_FILE))
    except MagdError:
        return  # check_mag says what is wrong with it
    if header.voxels != layer.voxels:
        yield _damage(HEADER_FILE, f"says {header.voxels}, the properties of the layer say {layer.voxels}")
    if mag.cube_length not in (None, header.cube_len):
        message = f"says cube files of {header.cube_len} voxels, the properties of the mag say {mag.cube_length}"
        yield _damage(HEADER_FILE, message)


def _damage_of_journal(folder: str, format: FileFormat) -> CheckedFile | None:  # noqa: A002  # its name in a HEAD
    """What is wrong with the journal of a mag, if it is found twice in the same files: its actor may be at work."""
    place = journal_folder(folder)
    last: tuple[list[str], str] | None = None
    for _ in range(_ATTEMPTS):
        with os_errors_of(place):
            names = sorted(os.listdir(place))
        try:
            recover(folder, format)
        except FileNotFoundError:
            last = None  # one was removed in the moment between listing and reading it
        except MagdError as error:
            if not is_about_the_file(error):
                raise
            if (names, error.message) == last:
                file = os.path.relpath(error.metadata.get("file", place), folder)
                return _damage(file, error.message)
            last = (names, error.message)
        else:
            return None
    return None


def _waiting(folder: str, format: FileFormat) -> Iterator[CheckedFile]:  # noqa: A002  # its name in a HEAD
    """What a mag that nobody serves has in its journal, and what was left in it."""
    recovery = recover(folder, format)
    if recovery.writes or (recovery.head is not None and not recovery.head.unsaved_box.is_empty):
        count = len(recovery.writes)
        message = f"{count} committed writes may not be in the cube files yet; they are when a daemon has been started"
        yield _note(os.path.relpath(journal_folder(folder), folder), message)
    for leftover in leftovers.in_mag(folder):
        message = f"{leftover.what}; it is removed when a daemon opens the mag, or by a repair"
        yield _note(os.path.relpath(leftover.path, folder), message)


def _generation(folder: str) -> int:
    """Changes when the files of a mag are exchanged: another folder is in its place."""
    try:
        return os.stat(folder).st_ino
    except OSError:
        return -1


def _damage(file: str, message: str) -> CheckedFile:
    return CheckedFile(file, False, (Finding(file, "damage", message),))


def _note(file: str, message: str) -> CheckedFile:
    return CheckedFile(file, False, (Finding(file, "note", message),))
