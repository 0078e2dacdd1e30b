"""The cube files of one mag as those who read and write them find them, and how new ones come to their names.

A file gets a name in the mag when it is whole and on the disk, in one step. The first cube file of which is noticed
that another program changed it stops the mag: no file is given out from then on. Of a mag that is open for reading
only, others may change the files.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from magd.cubes import raw
from magd.cubes.exact_io import sync_file
from magd.cubes.handles import Handles
from magd.cubes.layout import cube_file_path
from magd.errors import DataLoss, NotAllowed, Reason, os_errors_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.cubes.handles import Handle
    from magd.cubes.header import Header
    from magd.cubes.mag_folder import MagFolder
    from magd.cubes.unsynced import Unsynced
    from magd.geometry import Vec3


class KnownFiles:
    """Finds, makes and replaces cube files. Safe to use from several threads.

    :param header: of the mag
    :param unsynced: is told of folders with new names
    """

    def __init__(self, folder: MagFolder, header: Header, unsynced: Unsynced, *, read_only: bool) -> None:
        self._folder: Final = folder
        self._header: Final = header
        self._unsynced: Final = unsynced
        self._read_only: Final = read_only
        self._handles: Final = Handles(folder, header, is_owner=not read_only)
        # Two writes to one raw cube file that does not exist yet must not both make it.
        self._making: Final = threading.Lock()
        self.changed: DataLoss | None = None
        """What was noticed of another program that changed the files."""

    def require_unchanged(self) -> None:
        """Refuse to go on once another program changed the files.

        :raises DataLoss: CHANGED_ON_DISK
        """
        if self.changed is not None:
            raise DataLoss(self.changed.message, reason=self.changed.reason, metadata=self.changed.metadata)

    def find(self, index: Vec3, *, writable: bool = False) -> Handle | None:
        """Look up a cube file. The caller is a user of what it gets, and releases it.

        :param writable: its descriptor has to be one for writing too
        :return: None if it does not exist
        :raises DataLoss, NotAllowed, Busy: as of `Handles.find`; or one was changed before
        """
        self.require_unchanged()
        try:
            return self._handles.find(index, writable=writable)
        except DataLoss as error:
            self._note_change(error)
            raise

    def check_block_type(self, handle: Handle) -> None:
        """Refuse to write a file that is compressed in a raw mag, or raw in a compressed one.

        :raises NotAllowed: MIXED_BLOCK_TYPES
        """
        file = handle.file
        if file.header.block_type.is_compressed != self._header.block_type.is_compressed:
            raise NotAllowed(
                f"{file.path} has blocks of type {file.header.block_type.name}, its mag says "
                f"{self._header.block_type.name}: such a mag can be read, but not written",
                reason=Reason.MIXED_BLOCK_TYPES,
                metadata={"file": file.path},
            )

    def make_raw(self, index: Vec3) -> Handle:
        """Make a raw cube file in which nothing was written, where there is none yet.

        :return: that one, or the one that there is, to be written; the caller releases it
        :raises DiskFull, DataLoss, NotAllowed: it cannot be made
        """
        path = cube_file_path(index)
        with self._making:
            handle = self.find(index, writable=True)
            if handle is not None:
                return handle
            temporary, fd = self._folder.make_temporary()
            try:
                try:
                    raw.write_empty_file(fd, self._header, self._folder.full(temporary))
                    sync_file(fd, self._folder.full(temporary))
                    status = os.fstat(fd)
                finally:
                    os.close(fd)
                self.put_in_place(temporary, index, status)
            except BaseException:
                self._folder.remove_temporary(temporary)
                raise
            handle = self.find(index, writable=True)
        if handle is None:
            full = self._folder.full(path)
            raise DataLoss(f"{full} vanished", reason=Reason.CHANGED_ON_DISK, metadata={"file": full})
        return handle

    def put_in_place(self, temporary: str, index: Vec3, status: os.stat_result) -> None:
        """Give a new cube file its name. Its folder is not noted as one to sync.

        :param status: of the file
        :raises DiskFull, DataLoss, NotAllowed: it cannot be renamed, or the one to be replaced is not the one we know
        """
        path = cube_file_path(index)
        self._folder.make_folders(os.path.dirname(path))
        with self._replacing(index):
            self._folder.rename(temporary, path)
            self._handles.replaced(index, status)

    def link(self, path: str, index: Vec3, *, may_replace: bool) -> bool:
        """Make a whole file a cube file. The name it has, it keeps.

        :param path: relative to the folder of the mag
        :param may_replace: it has all voxels of a cube file that is there, and is on the disk
        :return: False: there is a cube file already, and it must not be replaced
        :raises DiskFull, DataLoss, NotAllowed: as of `put_in_place`; MIXED_BLOCK_TYPES
        :raises MagdError: the file, or the cube file, has vanished
        """
        with self._making, os_errors_of(self._folder.full(path)):
            target = cube_file_path(index)
            parent = os.path.dirname(target)
            handle = self.find(index, writable=True)
            if handle is not None:
                with handle:
                    return self._replace(handle, path, may_replace=may_replace)
            self._folder.make_folders(parent)
            with self._replacing(index):
                self._folder.link(path, target)
                self._unsynced.add_folder(parent, has_new_entry=True)
                self._handles.replaced(index, self._folder.status(target))
        return True

    def _replace(self, old: Handle, path: str, *, may_replace: bool) -> bool:
        """As `link`, where there is a cube file."""
        status = self._folder.status(path)
        if os.path.samestat(status, old.file.status):
            return True  # by an earlier call that came so far
        if not may_replace:
            return False
        self.check_block_type(old)
        mode = self._folder.status(old.relative).st_mode & 0o777
        temporary = self._folder.link_as_temporary(path)
        try:
            if status.st_mode & 0o777 != mode:
                self._folder.change_mode(temporary, mode)
            self.put_in_place(temporary, old.index, status)
        except BaseException:
            self._folder.remove_temporary(temporary)
            raise
        self._unsynced.add_folder(os.path.dirname(old.relative), has_new_entry=True)
        self._unsynced.forget(old)
        return True

    def close(self) -> None:
        """Let go of all descriptors."""
        self._handles.close()

    @contextmanager
    def _replacing(self, index: Vec3) -> Iterator[None]:
        try:
            with self._handles.replacing(index):
                yield
        except DataLoss as error:
            self._note_change(error)
            raise

    def _note_change(self, error: DataLoss) -> None:
        if error.reason is Reason.CHANGED_ON_DISK and not self._read_only and self.changed is None:
            self.changed = error
