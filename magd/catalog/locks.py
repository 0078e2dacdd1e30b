"""Locks on folders, so that only one magd serves a dataset. Nothing is left behind on disk.

A lock is `flock` on the folder itself; the kernel drops it when the process ends, however it ends.

Roots can nest, so a root is locked together with everything around it:

1. Lock the root folder: exclusively, or shared for a read-only daemon.
2. Lock every folder around it, up to `/`, shared. One that cannot be opened, or whose file system has no
   locks, is passed over: a daemon with that folder as its root would have failed in step 1.
3. If a lock is held by somebody else in a way that does not go with it, release all and refuse.

What that means for two daemons, whoever comes first (E exclusive, S shared; E goes with nothing, S goes with
S):

| first            | second           | folder that decides | locks on it | |
|------------------|------------------|---------------------|-------------|---|
| /a writes        | /a writes        | /a                  | E, E        | refused |
| /a writes        | /a reads         | /a                  | E, S        | refused |
| /a reads         | /a reads         | /a                  | S, S        | both serve |
| /a writes        | /a/b writes      | /a                  | E, S        | refused |
| /a writes        | /a/b reads       | /a                  | E, S        | refused |
| /a reads         | /a/b reads       | /a                  | S, S        | both serve |
| /a reads         | /a/b writes      | /a                  | S, S        | both serve, see below |
| /a/b             | /a/c             | /a                  | S, S        | both serve |

A reader of /a and a writer of /a/b cannot be told from two siblings by one lock per folder. They serve
different datasets: those of /a are folders directly in it. Where a link makes them meet, the lock of the
dataset decides.

Each dataset and each mag is locked as well while it is in use: exclusively, or shared by a read-only daemon.
This also keeps one daemon from serving a folder under two names, since a second descriptor is a second
holder.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final, Self

from magd.errors import NotAllowed, Reason, from_os_error

if TYPE_CHECKING:
    from types import TracebackType

_NO_LOCKS: Final = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""What file systems answer that cannot lock a folder."""


class FolderLock:
    """Locks on folders that are held until `close`. A context manager."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def take(self, folder: str, *, shared: bool) -> None:
        """Lock one more folder, or fail at once.

        :raises BlockingIOError: somebody holds it in a way that does not go with this
        :raises OSError: it cannot be opened, or not be locked
        """
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptors.append(descriptor)

    def holds(self, folder: str) -> bool:
        """Whether what has this name now is a folder that it has locked: others may have moved that away."""
        try:
            now = os.stat(folder)
        except OSError:
            return False
        return any(os.path.samestat(now, os.fstat(descriptor)) for descriptor in self._descriptors)

    def close(self) -> None:
        """Release them. A second call does nothing."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def lock_root(path: str, *, read_only: bool) -> FolderLock:
    """Lock a root folder against other daemons on it, below it and around it.

    :raises NotAllowed: LOCKED: another daemon holds it, or the file system has no locks on folders
    :raises DataLoss: the folder cannot be opened
    """
    root = os.path.realpath(path)
    lock = FolderLock()
    try:
        _take(
            lock,
            root,
            shared=read_only,
            if_held=f"another magd serves {root}, or a folder in it; stop that one, or choose another root",
        )
        folder = root
        while folder != (folder := os.path.dirname(folder)):
            _take_around(lock, folder, root)
    except BaseException:
        lock.close()
        raise
    return lock


def lock_folder(folder: str, *, shared: bool) -> FolderLock:
    """Lock the folder of a dataset or a mag for as long as it is in use.

    :param shared: for reading only
    :raises NotAllowed: LOCKED: another daemon holds it, or this one under another name, or the file system
        has no locks on folders
    :raises DataLoss: the folder cannot be opened
    """
    lock = FolderLock()
    if_held = f"{folder} is in use by another magd, or by this one under another name"
    _take(lock, folder, shared=shared, if_held=if_held)
    return lock


def _take(lock: FolderLock, folder: str, *, shared: bool, if_held: str) -> None:
    try:
        lock.take(folder, shared=shared)
    except BlockingIOError:
        raise _locked(folder, if_held) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _locked(
                folder,
                f"the file system of {folder} cannot lock folders ({os.strerror(error.errno)}), so nothing "
                "would keep two daemons apart; it is not supported",
            ) from None
        raise from_os_error(error, folder) from error


def _take_around(lock: FolderLock, folder: str, root: str) -> None:
    try:
        lock.take(folder, shared=True)
    except BlockingIOError:
        raise _locked(
            folder,
            f"another magd serves {folder}, which contains {root}; stop it, or choose a root outside of it",
        ) from None
    except OSError:
        pass  # step 2: no daemon can have it as its root either


def _locked(folder: str, why: str) -> NotAllowed:
    return NotAllowed(why, reason=Reason.LOCKED, metadata={"file": folder})
