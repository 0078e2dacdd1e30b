"""Changes to folders that happen as a whole or not at all, and last: exchange, rename without replacing,
synced writes.

Linux can exchange two names in one step and rename without replacing (`renameat2`); Python does not offer it,
so it is called through ctypes. Not every file system takes the flags: `exchange` then says so and changes
nothing, and its caller has a way around it.

These raise OSError as it comes from the system. It imports nothing of magd.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2

# What a kernel, a file system or a sandbox without the flags answers.
_NOT_SUPPORTED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})

_libc: Final = ctypes.CDLL(None, use_errno=True)


def exchange(a: str, b: str) -> bool:
    """Swap what two names of one file system stand for, in one step.

    :return: False if this file system cannot do it; nothing has changed then
    :raises OSError: it can, but this exchange failed; nothing has changed
    """
    return _renameat2(a, b, _RENAME_EXCHANGE)


def rename_no_replace(source: str, target: str) -> None:
    """Rename a file or folder to a name that nothing has.

    Where the file system lacks the flag the target is looked at first, so that somebody who makes it in that
    very moment is not noticed.

    :raises FileExistsError: the target exists; nothing has changed
    :raises OSError: the rename failed; nothing has changed
    """
    if _renameat2(source, target, _RENAME_NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    os.rename(source, target)


def fsync_folder(path: str) -> None:
    """Make the names in a folder last: what was created in it, renamed, removed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new_file(path: str, content: bytes, *, like: os.stat_result | None = None) -> os.stat_result:
    """Make a file that does not exist yet, write it whole and sync it. Its name lasts after `fsync_folder`.

    :param like: give it the mode, and as far as it is allowed the owner, of this file
    :return: the state of the new file
    :raises OSError: it exists, or could not be written whole; a file it has made is removed again
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            if like is not None:
                _dress(descriptor, like)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        os.unlink(path)
        raise


def unlink_if_there(path: str) -> None:
    """Remove a file; that there is none is fine."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _dress(descriptor: int, like: os.stat_result) -> None:
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
        try:
            os.fchown(descriptor, like.st_uid, like.st_gid)
        except PermissionError:
            pass  # only root may give files away; the mode is what keeps others in or out
    # After the owner, since a change of owner clears mode bits.
    os.fchmod(descriptor, like.st_mode & 0o7777)


def _renameat2(source: str, target: str, flags: int) -> bool:
    try:
        call = _libc.renameat2
    except AttributeError:
        return False  # a C library without it
    ctypes.set_errno(0)
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_SUPPORTED:
        return False
    raise OSError(code, os.strerror(code), source, None, target)
