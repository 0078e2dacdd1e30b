"""Disk space that new writes leave free.

What was committed needs space until it is in the cube files: a checkpoint begins a new journal file, a compressed cube
file is written anew before it replaces the old one, the properties are saved by a copy. So a write is refused while
there is still space for that, and not when there is none at all. Before that, files go that are kept only to save time.
"""

from __future__ import annotations

import os
from typing import Final

from magd.errors import DiskFull, from_os_error
from magd.journal.spares import spares

SMALLEST_SHARE: Final = 64
"""The reserve is at most one part in so many of the file system."""


def require_space(folder: str, size_bytes: int, reserve_bytes: int) -> None:
    """Refuse what would eat into the reserve.

    :param folder: on the file system in question
    :param size_bytes: what is to be written
    :param reserve_bytes: what is to stay free; less on a small file system
    :raises DiskFull: there is not so much space
    """
    free, reserve = _free_and_reserve(folder, reserve_bytes)
    if free - size_bytes < reserve and spares.drop():
        free, reserve = _free_and_reserve(folder, reserve_bytes)
    if free - size_bytes < reserve:
        raise DiskFull(
            f"{folder} has {free} bytes of free space: too few for {size_bytes} bytes more, since {reserve} are kept "
            "for what was committed before",
            metadata={"file": folder, "value": size_bytes, "limit": max(0, free - reserve)},
        )


def _free_and_reserve(folder: str, reserve_bytes: int) -> tuple[int, int]:
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise from_os_error(error, folder) from error
    return status.f_bavail * status.f_frsize, min(reserve_bytes, status.f_blocks * status.f_frsize // SMALLEST_SHARE)
