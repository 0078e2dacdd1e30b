"""Telling a folder from another one that was made later under the same name.

The number of an inode is not enough: a file system gives the number of a folder that was removed to the next one that
is made. The kernel has a better name for a file, the handle that an NFS server would give out (`name_to_handle_at`):
it also has a generation, which no two users of one number share. Renaming changes neither.

Where a file system has no handles, the number of the inode has to do.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_AT_FDCWD: Final = -100
_MAX_HANDLE_BYTES: Final = 128

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Handle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE_BYTES),
    )


def identity_of(path: str) -> str:
    """What tells a file, folder or link from every other one of its file system, also from later ones.

    :param path: a link in the last place is not followed
    :return: text to be compared; empty if there is nothing of this name
    :raises OSError: it cannot be looked at
    """
    try:
        number = os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return _handle_of(path) or f"inode {number}"


def _handle_of(path: str) -> str:
    """The handle as text; empty where there is none."""
    handle = _Handle(handle_bytes=_MAX_HANDLE_BYTES)
    mount = ctypes.c_int()
    try:
        call = _libc.name_to_handle_at
    except AttributeError:
        return ""  # a C library without it
    if call(_AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0) != 0:
        return ""  # not every file system has them, and not every sandbox lets one ask
    return f"handle {handle.handle_type} {bytes(handle.f_handle[: handle.handle_bytes]).hex()}"
