"""`magd check --offline`: looking for damage without a daemon, in a root folder or a single dataset.

The files are only read, also while a daemon serves them; where it writes meanwhile, a finding may be out of date the
moment it is made, and the online check is the better one. A repair takes the locks of a daemon, and is refused while
one serves the folder.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from magd.cli.failures import SERVER_EXTRA, CommandError, MissingExtra
from magd.errors import MagdError
from magd_client.info import CheckProgress, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.catalog.names import DatasetName
    from magd.catalog.root import Root


def check_folder(path: str, *, deep: bool, repair: bool = False) -> Iterator[CheckProgress]:
    """Check every dataset in a folder, or the dataset that it is.

    :param deep: also decode every compressed block
    :param repair: first remove what magd left behind
    :return: each file that was looked at, as the online check reports it; paths of files are relative to `path`
    :raises MissingExtra: the server extra is not installed
    :raises CommandError: there is no such folder
    :raises MagdError: it cannot be read; or it is to be repaired, and a daemon serves it
    """
    if not os.path.isdir(path):
        raise CommandError(f"{path}: no such folder", "NOT_FOUND")
    try:
        from magd.catalog.checking import check_root
    except ModuleNotFoundError as error:
        raise MissingExtra("checking offline", error.name, SERVER_EXTRA) from error
    from magd.catalog.names import DatasetName
    from magd.catalog.root import Root
    from magd.properties.file import PROPERTIES_NAME

    folder = os.path.realpath(path)
    prefix = ""
    resource = None
    if os.path.isfile(os.path.join(folder, PROPERTIES_NAME)):
        folder, dataset = os.path.split(folder)
        resource, prefix = DatasetName(dataset), f"{dataset}/"
    root = Root(folder, read_only=not repair)
    progress = CheckProgress((), 0, 0)
    if repair:
        removed = tuple(file.removeprefix(prefix) for file in _remove_leftovers(root, resource))
        yield replace(progress, removed=removed)
    for file in check_root(root, resource, deep=deep):
        progress = replace(
            progress,
            findings=tuple(
                Finding(finding.file.removeprefix(prefix), finding.severity, finding.message)
                for finding in file.findings
            ),
            files_checked=progress.files_checked + file.is_cube_file,
            files_damaged=progress.files_damaged + file.is_damaged,
        )
        yield progress
    # Folders without any file give no step, but a check always has totals.
    yield replace(progress, findings=())


def _remove_leftovers(root: Root, resource: DatasetName | None) -> Iterator[str]:
    """What was removed in all datasets or in one, relative to the root."""
    from magd.catalog import leftovers
    from magd.catalog.locks import lock_folder, lock_root
    from magd.catalog.names import DatasetName

    with lock_root(root.path, read_only=False):
        if resource is None:
            yield from leftovers.remove_from_root(root)
        for name in [resource] if resource is not None else map(DatasetName, root.dataset_names()):
            try:
                with lock_folder(root.dataset_folder(name), shared=False):
                    yield from leftovers.remove_from_dataset(root, name, is_served=False, is_quiet=True)
                    for mag in leftovers.mags_of(root, name):
                        yield from leftovers.remove_from_mag(root, mag)
            except MagdError:
                if resource is not None:
                    raise  # else the check that follows says what is wrong with it
