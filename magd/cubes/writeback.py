"""Having the disk begin with what was written, before somebody waits for it.

The kernel leaves new data in memory for seconds. Who writes a large file and syncs it at the end waits while the disk
writes all of it, and the disk was idle before. So whoever makes large files says after each piece that it may go to the
disk now; the sync at the end then waits for the last pieces only.

This is advice: it promises nothing about what is on the disk, and tells of no error. The sync does both.
"""

from __future__ import annotations

import ctypes
from typing import Final

# From linux/fs.h.
_SYNC_FILE_RANGE_WRITE: Final = 2


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Have the disk begin with this part of a file, where the system can be asked for it."""
    if _sync_file_range is not None:
        # Without a flag that waits, it leaves errors to the sync.
        _sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE)


def _find() -> ctypes._NamedFuncPointer | None:
    function: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range: Final = _find()
