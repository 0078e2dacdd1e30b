"""Looking for damage in the files of one mag. Only reads; works beside a daemon and without one.

1. header.wkw.
2. Each cube file, in (z, y, x) order: its header, its agreement with header.wkw, its length, the jump table;
   `deep` also decodes each compressed block. (Raw blocks have nothing that could be checked: WKW has no
   checksums.)
3. What has no place in a mag: links, files in the place of folders, what other tools left behind.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from magd.cubes.compressed import JumpTable, read_run
from magd.cubes.cube_file import OpenCubeFile, is_about_the_file
from magd.cubes.header import HEADER_FILE, Header, no_mag, read_header_from
from magd.cubes.layout import cube_file_path, parse_cube_file_path, parse_folder_name
from magd.cubes.listing import list_cube_files
from magd.cubes.mag_folder import OWN_FOLDER, MagFolder
from magd.errors import DataLoss, NotAllowed, NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

Severity: TypeAlias = Literal["note", "damage"]
"""A note is worth knowing; damage means that data cannot be read, or not be trusted."""

_OTHER_TEMPORARY: Final = ".wkw_tmp"
_LIKE_TEMPORARIES: Final = (".tmp", "_tmp", ".temp", ".part", ".bak", "~")
"""How names end that programs give to files they mean to rename or remove."""
_OTHER_COMPRESSION: Final = ".rechunk-"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a check found.

    :ivar file: relative to the checked folder
    """

    file: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One step of a check: a file that was looked at.

    :ivar file: relative to the folder of the mag
    :ivar is_cube_file: whether it counts as one of the mag's cube files
    :ivar findings: what was found about it; mostly nothing
    """

    file: str
    is_cube_file: bool
    findings: tuple[Finding, ...]

    @property
    def is_damaged(self) -> bool:
        """Whether one of the findings is damage."""
        return any(finding.severity == "damage" for finding in self.findings)


def check_mag(folder: str, *, deep: bool) -> Iterator[CheckedFile]:
    """Check all files of a mag.

    :param folder: of the mag
    :param deep: also decode each compressed block
    :return: each file as it was checked, so that a caller can count; those without findings too
    :raises NotFound: MAG_NOT_FOUND: there is no such folder
    :raises DataLoss: a folder cannot be read, or there are no descriptors left

    A file that changes while it is looked at can give a finding that is not true any more.
    """
    try:
        opened = MagFolder(folder)
    except FileNotFoundError as error:
        raise no_mag(folder) from error
    try:
        checked, header = _check_header(opened)
        yield checked
        cube_len = header.cube_len if header is not None else 1
        for index in list_cube_files(opened, cube_len):
            if (cube_file := _check_cube_file(opened, cube_file_path(index), header, deep)) is not None:
                yield cube_file
        for finding in _out_of_place(opened, "", cube_len):
            yield CheckedFile(finding.file, False, (finding,))
    finally:
        opened.close()


def check_layer_folder(folder: str) -> list[Finding]:
    """What other tools left beside the mags of a layer.

    :param folder: of the layer
    :raises NotFound: LAYER_NOT_FOUND: there is no such folder
    :raises DataLoss: it cannot be read
    """
    try:
        opened = MagFolder(folder)
    except FileNotFoundError as error:
        raise NotFound(f"{folder} does not exist", reason=Reason.LAYER_NOT_FOUND, metadata={"file": folder}) from error
    try:
        return [
            Finding(name, "note", "an interrupted compression of webknossos; it may hold the only copy of a mag")
            for name in sorted(opened.list(""))
            if name.startswith(_OTHER_COMPRESSION)
        ]
    finally:
        opened.close()


def _check_header(folder: MagFolder) -> tuple[CheckedFile, Header | None]:
    try:
        fd = folder.open_file(HEADER_FILE)
        try:
            header = read_header_from(fd, HEADER_FILE)
        finally:
            os.close(fd)
    except FileNotFoundError:
        message = "it does not exist"
    except (DataLoss, NotAllowed) as error:
        if not is_about_the_file(error):
            raise
        message = error.message
    else:
        return CheckedFile(HEADER_FILE, False, ()), header
    return CheckedFile(HEADER_FILE, False, (Finding(HEADER_FILE, "damage", message),)), None


def _check_cube_file(folder: MagFolder, path: str, mag: Header | None, deep: bool) -> CheckedFile | None:
    """Check one cube file; None if it has vanished."""
    findings: list[Finding] = []
    try:
        with OpenCubeFile.of(folder.open_file(path), path, mag) as file:
            header = file.header
            if mag is not None and header.block_type.is_compressed != mag.block_type.is_compressed:
                message = f"it has blocks of type {header.block_type.name}, header.wkw says {mag.block_type.name}"
                findings.append(Finding(path, "note", message))
            if header.block_type.is_compressed:
                table = JumpTable(file)
                end = table.end(header.blocks_per_file - 1)
                if deep:
                    findings += _bad_blocks(file, table)
            else:
                end = header.data_offset + header.blocks_per_file * header.block_bytes
            if file.size_bytes > end:
                findings.append(Finding(path, "note", f"{file.size_bytes - end} bytes follow the last block"))
    except FileNotFoundError:
        return None
    except (DataLoss, NotAllowed) as error:
        if not is_about_the_file(error):
            raise
        findings.append(Finding(path, "damage", error.message))
    return CheckedFile(path, True, tuple(findings))


def _bad_blocks(file: OpenCubeFile, table: JumpTable) -> Iterator[Finding]:
    for index in range(file.header.blocks_per_file):
        try:
            read_run(file, table, index, index + 1)
        except DataLoss as error:
            yield Finding(file.path, "damage", error.message)


def _out_of_place(folder: MagFolder, relative: str, cube_len: int) -> Iterator[Finding]:
    """What list_cube_files passes over, and nobody should have to guess about."""
    depth = len(relative.split("/")) if relative else 0
    try:
        names = sorted(folder.list(relative))
    except FileNotFoundError:
        return
    for name in names:
        path = f"{relative}/{name}" if relative else name
        if name.endswith(_OTHER_TEMPORARY):
            yield Finding(path, "note", "an interrupted write of wkw; it can be removed if no such program is running")
        elif name.endswith(_LIKE_TEMPORARIES) or (name.startswith(".") and path != OWN_FOLDER):
            yield Finding(path, "note", "it looks like a temporary or hidden file of another program")
        elif depth < 2 and parse_folder_name(name, "zy"[depth]) is not None:
            if folder.is_folder(path):
                yield from _out_of_place(folder, path, cube_len)
            else:
                yield Finding(
                    path, "damage", "it is in the place of a folder of cube files, and links are not followed"
                )
        elif depth == 2 and name.endswith(".wkw") and parse_cube_file_path(path, cube_len) is None:
            yield Finding(path, "note", "it is not named like a cube file")
