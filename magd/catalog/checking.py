"""Checking everything below a root: which datasets, layers and mags there are, and what is damaged in them. Only reads.

1. Each dataset under the name: its datasource-properties.json.
2. Each of its layers that is served: what other tools left beside its mags.
3. Each mag: its folder, the agreement of header.wkw with the properties, and every cube file (see magd.cubes.check).

It works beside a running daemon and without one. It takes no locks, so a file that is changed while it is looked at can
give a finding that is not true any more; where the files of a mag were exchanged meanwhile (its generation changed),
what was found in it is dropped and the mag is checked again.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from magd.catalog.names import DatasetName, LayerName, MagName, ResourceName
from magd.cubes.check import CheckedFile, Finding, check_layer_folder, check_mag
from magd.cubes.mag_files import MagFiles
from magd.errors import MagdError, NotFound, Reason
from magd.properties.file import PROPERTIES_NAME, PropertiesFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.catalog.root import Root
    from magd.properties.model import LayerProperties, MagProperties

_ATTEMPTS: Final = 3
"""How often a mag is checked while its files are exchanged again and again; the last result stands."""


def check_root(root: Root, resource: ResourceName | None, *, deep: bool) -> Iterator[CheckedFile]:
    """Check a resource and all below it.

    :param resource: None: everything
    :param deep: also decode each compressed block
    :return: each file as it was checked, those without findings too; paths are relative to the root
    :raises NotFound: there is no such dataset, layer or mag
    """
    if resource is None:
        for dataset in root.dataset_names():
            yield from _check_dataset(root, DatasetName(dataset), None, deep)
    else:
        yield from _check_dataset(root, DatasetName(resource.dataset), resource, deep)


def _check_dataset(root: Root, name: DatasetName, resource: ResourceName | None, deep: bool) -> Iterator[CheckedFile]:
    path = os.path.join(name.dataset, PROPERTIES_NAME)
    try:
        properties = PropertiesFile(root.properties_path(name), root=root.path).load().properties
    except MagdError as error:
        if isinstance(error, NotFound) and resource is not None:
            raise
        yield _damage(path, error.message)
        return
    yield CheckedFile(path, False, ())
    wanted_layer = resource.layer if isinstance(resource, LayerName | MagName) else None
    if wanted_layer is not None and properties.layer(wanted_layer) is None:
        layer_name = LayerName(name.dataset, wanted_layer)
        raise NotFound(f"{layer_name} does not exist", reason=Reason.LAYER_NOT_FOUND)
    for layer in properties.layers:
        if wanted_layer in (None, layer.name):
            yield from _check_layer(root, name, layer, resource, deep)


def _check_layer(
    root: Root, dataset: DatasetName, layer: LayerProperties, resource: ResourceName | None, deep: bool
) -> Iterator[CheckedFile]:
    if layer.unserved_reason:
        message = f"the layer is not served: {layer.unserved_reason}"
        yield _note(os.path.join(dataset.dataset, layer.name), message)
        return
    mags = layer.mags
    if isinstance(resource, MagName):
        mag = layer.mag(resource.mag)
        if mag is None:
            raise NotFound(f"{resource} does not exist", reason=Reason.MAG_NOT_FOUND)
        mags = (mag,)
    else:
        yield from _check_beside_mags(root, dataset, layer)
    for mag in mags:
        yield from _check_mag(root, dataset, layer, mag, deep)


def _check_beside_mags(root: Root, dataset: DatasetName, layer: LayerProperties) -> Iterator[CheckedFile]:
    try:
        folder = root.layer_folder(dataset, layer)
        findings = check_layer_folder(folder)
    except NotFound:
        return  # a layer without mags needs no folder; mags that are missing are found below
    except MagdError as error:
        yield _damage(os.path.join(dataset.dataset, layer.name), error.message)
        return
    for finding in findings:
        yield _below(root, folder, CheckedFile(finding.file, False, (finding,)))


def _check_mag(
    root: Root, dataset: DatasetName, layer: LayerProperties, mag: MagProperties, deep: bool
) -> Iterator[CheckedFile]:
    place = os.path.join(dataset.dataset, layer.name, mag.mag.name)
    if mag.unserved_reason:
        yield _note(place, f"the mag is not served: {mag.unserved_reason}")
        return
    try:
        folder = root.mag_folder(dataset, layer, mag)
    except MagdError as error:
        yield _damage(place, error.message)
        return
    if (checked := _check_agreement(folder, layer)) is not None:
        yield _below(root, folder, checked)
    for attempt in range(1, _ATTEMPTS + 1):
        before = _generation(folder)
        # Files without findings are told at once; the findings when it is sure that they are about one generation.
        found: list[CheckedFile] = []
        try:
            for checked in check_mag(folder, deep=deep):
                if checked.findings:
                    found.append(checked)
                elif attempt == 1:
                    yield _below(root, folder, checked)
        except MagdError as error:
            found.append(_damage("", error.message))
        if _generation(folder) == before or attempt == _ATTEMPTS:
            for checked in found:
                yield _below(root, folder, checked)
            return


def _check_agreement(folder: str, layer: LayerProperties) -> CheckedFile | None:
    try:
        with MagFiles.open(folder, read_only=True) as files:
            voxels = files.header.voxels
    except MagdError:
        return None  # check_mag says what is wrong with header.wkw
    if voxels == layer.voxels:
        return None
    message = f"says {voxels}, the properties of the layer say {layer.voxels}"
    return _damage("header.wkw", message)


def _generation(folder: str) -> int:
    """Changes when the files of a mag are exchanged: another folder is in its place."""
    try:
        return os.stat(folder).st_ino
    except OSError:
        return -1


def _below(root: Root, folder: str, checked: CheckedFile) -> CheckedFile:
    """The same with paths relative to the root instead of to a folder below it."""
    prefix = os.path.relpath(folder, root.path)
    findings = tuple(
        replace(finding, file=os.path.normpath(os.path.join(prefix, finding.file))) for finding in checked.findings
    )
    file = os.path.normpath(os.path.join(prefix, checked.file))
    return CheckedFile(file, checked.is_cube_file, findings)


def _damage(file: str, message: str) -> CheckedFile:
    return CheckedFile(file, False, (Finding(file, "damage", message),))


def _note(file: str, message: str) -> CheckedFile:
    return CheckedFile(file, False, (Finding(file, "note", message),))
