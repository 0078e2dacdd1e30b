"""`magd check --offline`: looking for damage without a daemon, in a root folder or a single dataset.

The files are only read, also while a daemon serves them; where it writes meanwhile, a finding may be out of date the
moment it is made, and the online check is the better one.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from magd.cli.failures import SERVER_EXTRA, CommandError, MissingExtra
from magd_client.info import CheckProgress, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_folder(path: str, *, deep: bool) -> Iterator[CheckProgress]:
    """Check every dataset in a folder, or the dataset that it is.

    :param deep: also decode every compressed block
    :return: each file that was looked at, as the online check reports it; paths of files are relative to `path`
    :raises MissingExtra: the server extra is not installed
    :raises CommandError: there is no such folder
    :raises MagdError: it cannot be read
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
    progress = CheckProgress((), 0, 0)
    for file in check_root(Root(folder, read_only=True), resource, deep=deep):
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
