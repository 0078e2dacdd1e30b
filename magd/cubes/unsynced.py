"""What was written to a mag and is not known to be on the disk yet.

Linux tells a failed write-back once: to the descriptors that were open at that time. So one descriptor of
each written file, the first, stays open until it was synced; it was open before everything later that was
written to the file, and so hears of any failure. It is one that others use too; as long as it is noted here, it
is in use, and is not closed when descriptors are scarce. A sync that failed cannot be repeated (the kernel forgets
the pages that it could not write), so the failure is remembered, and told by every later sync.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd.cubes.exact_io import sync_file
from magd.errors import DataLoss, MagdError, Reason

if TYPE_CHECKING:
    from magd.cubes.handles import Handle
    from magd.cubes.mag_folder import MagFolder

MAX_OPEN: Final = 64
"""Descriptors kept open; the writer that would need one more syncs all of them."""


@dataclass(slots=True)
class _Written:
    handle: Handle
    size_bytes: int


class Unsynced:
    """Files and folders of one mag to sync. Safe to use from several threads."""

    def __init__(self, folder: MagFolder) -> None:
        self._folder: Final = folder
        self._syncing: Final = threading.Lock()
        self._changing: Final = threading.Lock()
        # The rest belongs to whoever holds _changing.
        self._files: dict[tuple[int, int], _Written] = {}
        self._folders: set[str] = set()
        self._seen_folders: set[str] = set()
        self._folder_bytes = 0
        self._syncing_bytes = 0
        self._is_anything = False
        self._failure: MagdError | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes written, to files or to files with new names, since they were synced."""
        with self._changing:
            return (
                sum(written.size_bytes for written in self._files.values()) + self._folder_bytes + self._syncing_bytes
            )

    def add_file(self, handle: Handle, size_bytes: int) -> None:
        """Note bytes written to a file. The descriptor they were written with has one user more until it is synced."""
        key = handle.identity[:2]
        with self._changing:
            written = self._files.get(key)
            if written is None:
                handle.share()
                written = self._files[key] = _Written(handle, 0)
            written.size_bytes += size_bytes

    def forget(self, handle: Handle) -> None:
        """Forget what was written to a file: another one, that is on the disk, has its name now. The folder was noted
        before."""
        with self._changing:
            written = self._files.pop(handle.identity[:2], None)
        if written is not None:
            written.handle.release()

    def add_folder(self, relative: str, *, has_new_entry: bool, size_bytes: int = 0) -> None:
        """Note a folder in which a file was written.

        :param has_new_entry: whether the file has got its name only now
        :param size_bytes: of a file that is synced, but has got its name only now

        Where it is the first time, the folder and its parents count as unsynced in any case: who made them
        may have died before he synced them.
        """
        if relative in self._seen_folders and not has_new_entry and not size_bytes:
            return
        with self._changing:
            if relative not in self._seen_folders:
                self._seen_folders.add(relative)
                parts = relative.split("/")
                self._folders.update("/".join(parts[:depth]) for depth in range(len(parts) + 1))
            elif has_new_entry:
                self._folders.add(relative)
            self._folder_bytes += size_bytes

    def add_anything(self) -> None:
        """Note that any file may have been written, by a process that died."""
        with self._changing:
            self._is_anything = True

    def make_room(self) -> None:
        """Sync if too many descriptors are open.

        :raises DataLoss: this sync, or an earlier one, failed
        """
        if len(self._files) >= MAX_OPEN:
            self.sync()

    def sync(self) -> None:
        """Bring everything noted before this call to the disk.

        :raises DataLoss: that failed, now or earlier: what was written since the last good sync may be lost
        """
        with self._syncing:
            with self._changing:
                files, self._files = self._files, {}
                folders, self._folders = self._folders, set()
                is_anything, self._is_anything = self._is_anything, False
                size_bytes = sum(written.size_bytes for written in files.values()) + self._folder_bytes
                self._folder_bytes, self._syncing_bytes = 0, size_bytes
            # Each is synced, also after one has failed: the others are lost less likely.
            failures = [error for written in files.values() if (error := _sync_file(written.handle)) is not None]
            failures += [error for name in sorted(folders) if (error := self._sync_folder(name)) is not None]
            if is_anything and (failed := self._sync_everything()) is not None:
                failures.append(failed)
            with self._changing:
                self._syncing_bytes = 0
                if self._failure is None and failures:
                    self._failure = failures[0]
                failure = self._failure
        if failure is not None:
            raise DataLoss(
                f"{failure.message}; what was written since the last sync may be lost",
                reason=Reason.IO_ERROR,
                metadata=failure.metadata,
            ) from failure

    def close(self) -> None:
        """Let go of the descriptors, without a sync."""
        with self._syncing, self._changing:
            for written in self._files.values():
                written.handle.release()
            self._files = {}

    def _sync_everything(self) -> MagdError | None:
        try:
            self._folder.sync_file_system()
        except MagdError as error:
            return error
        return None

    def _sync_folder(self, relative: str) -> MagdError | None:
        try:
            self._folder.sync_folder(relative)
        except MagdError as error:
            return error
        return None


def _sync_file(handle: Handle) -> MagdError | None:
    try:
        sync_file(handle.file.fd, handle.file.path)
    except MagdError as error:
        return error
    finally:
        handle.release()
    return None
