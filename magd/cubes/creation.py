"""Making the folder of a mag.

1. Make the folder, if it does not exist. If it does, it must be empty but for what an earlier attempt left.
2. Write header.wkw under a temporary name, sync it, and rename it: a folder with a header.wkw is a whole mag.
3. Sync the folder and its parent.
"""

from __future__ import annotations

import os

from magd.cubes.exact_io import sync_file, write_all
from magd.cubes.header import HEADER_FILE, Header
from magd.cubes.mag_folder import OWN_FOLDER, TEMPORARIES, MagFolder
from magd.errors import AlreadyExists, NotFound, Reason, from_os_error


def make_mag_folder(path: str, header: Header) -> MagFolder:
    """Make a mag without cube files, durably.

    :raises AlreadyExists: MAG_EXISTS: there is something in the folder
    :raises NotFound: the parent of the folder does not exist
    :raises DiskFull, DataLoss, NotAllowed: it cannot be made
    """
    parent = os.path.dirname(os.path.abspath(path))
    try:
        os.mkdir(path)
    except FileExistsError as error:
        if not os.path.isdir(path):
            raise _exists(path, "and is no folder") from error
    except FileNotFoundError as error:
        raise NotFound(f"{parent} does not exist", metadata={"file": parent}) from error
    except OSError as error:
        raise from_os_error(error, path) from error
    folder = MagFolder(path)
    try:
        _check_is_empty(folder)
        _write_header(folder, header)
        _sync_folder(parent)
    except BaseException:
        folder.close()
        raise
    return folder


def _check_is_empty(folder: MagFolder) -> None:
    names = set(folder.list(""))
    if names == {OWN_FOLDER}:
        names = set(folder.list(OWN_FOLDER)) - {os.path.basename(TEMPORARIES)}
    if names:
        raise _exists(folder.path, "and is not empty")


def _exists(path: str, how: str) -> AlreadyExists:
    return AlreadyExists(f"{path} exists {how}", reason=Reason.MAG_EXISTS, metadata={"file": path})


def _write_header(folder: MagFolder, header: Header) -> None:
    temporary, fd = folder.make_temporary()
    full = folder.full(temporary)
    try:
        try:
            write_all(fd, header.to_bytes(), 0, full)
            sync_file(fd, full)
        finally:
            os.close(fd)
        folder.rename(temporary, HEADER_FILE)
    except BaseException:
        folder.remove_temporary(temporary)
        raise
    folder.sync_folder("")


def _sync_folder(path: str) -> None:
    folder = MagFolder(path)
    try:
        folder.sync_folder("")
    finally:
        folder.close()
