"""A process that serves one file, the image of a disk, and logs every write and flush that reaches it.

    python -m tests.powerloss.fuse_disk FOLDER MOUNTPOINT

`FOLDER/image` is the disk as it is, the log goes to the same folder, and the image appears as `MOUNTPOINT/disk`. It
prints a line when it serves, and goes on until it is killed. Requests are taken one at a time, and what the
kernel writes is never kept back by it: the order of the log is that in which a disk with one queue would have seen
them.

It leaves the mount namespace of the others as soon as it serves. Else, when all of them are killed, it may be the last
process there: it would then have to unmount a file system whose disk it is itself, and wait for its own answers.

It needs the package mfusepy and libfuse (`fuse3` in Debian). The first is imported here only, since its import fails
without the second.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from typing import Any, Final

import mfusepy

from tests.powerloss.disk_log import DiskLogWriter

DISK: Final = "disk"
READY: Final = "serving"
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS: Final = 0x00020000


class FuseDisk(mfusepy.Operations):  # type: ignore[misc]  # the package ships no type information
    """The operations of a file system with one file."""

    use_ns = True

    def __init__(self, folder: str) -> None:
        self._log = DiskLogWriter(folder)
        self._image = os.open(os.path.join(folder, "image"), os.O_RDWR | os.O_CLOEXEC)
        self._size = os.fstat(self._image).st_size

    def init(self, path: str) -> None:
        """It is mounted."""
        if _LIBC.unshare(_CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "cannot leave the mount namespace")
        sys.stdout.write(f"{READY}\n")
        sys.stdout.flush()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """What `stat` says."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path == f"/{DISK}":
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._size}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> list[str]:
        """What is in the folder."""
        return [".", "..", DISK]

    def open(self, path: str, flags: int) -> int:
        """One handle for all."""
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """What the disk holds."""
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Take a write."""
        done = os.pwrite(self._image, data, offset)
        self._log.write(offset, data[:done])
        return done

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """Take a flush: this is what the loop device makes of one."""
        self._log.flush()
        return 0

    def statfs(self, path: str) -> dict[str, Any]:
        """What `df` says."""
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": self._size // 4096}


if __name__ == "__main__":
    # Without `direct_io` the kernel would keep a second copy of the disk; with it, each write comes as it was sent.
    mfusepy.FUSE(FuseDisk(sys.argv[1]), sys.argv[2], foreground=True, nothreads=True, direct_io=True)
