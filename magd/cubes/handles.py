"""The cube files of one mag that are open, found by their index, and whether they are still those that we know.

One process writes a mag, so what it knows of a cube file stays true: header, length, jump table. A look-up makes
sure of that:

1. Where the file is open, one `stat` by name tells whether the name still leads to the same file (device and inode),
   of the same length, and, where it is compressed, with the same time of modification. Raw files are changed in place
   by us too: where only the time is new, the header is read again.
2. Else it is opened, and its header is checked.
3. A file that we had open or wrote, and that is now another one, or gone, was changed behind our back. If it is not
   sound, the error says what is damaged; else it says that the file was changed. It is never read: what we hold in
   memory may not fit to it.
4. A file that we replace ourselves is noted in the same step: whoever looks it up finds the old one or the new one.

What files were is remembered longer than they are open, but not for ever: `MAX_KNOWN`.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from magd.cubes.compressed import JumpTable
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.descriptors import POOL, Pool, Shared
from magd.cubes.layout import cube_file_path
from magd.errors import DataLoss, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.cubes.header import Header
    from magd.cubes.mag_folder import MagFolder
    from magd.geometry import Vec3

MAX_KNOWN: Final = 1 << 14
"""Cube files of a mag that are remembered; of those that were looked up longest ago no change is noticed."""
MAX_TABLE_BLOCKS: Final = 1 << 18
"""Of a cube file with more blocks, the jump table is read where it is needed and not kept: it takes 8 bytes a block."""
_LOCKS: Final = 16


class Identity(NamedTuple):
    """What tells one file from another."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    """When a compressed file was written. 0 for raw ones, which change in place."""
    header: Header


class Handle(Shared):
    """A cube file that is open. Its users share the descriptor."""

    def __init__(self, file: OpenCubeFile, index: Vec3, handles: Handles, pool: Pool, *, is_writable: bool) -> None:
        super().__init__(pool)
        self.file: Final = file
        self.index: Final = index
        self.relative: Final = cube_file_path(index)
        self.folder: Final = os.path.dirname(self.relative)
        self.header_bytes: Final = file.header.to_bytes()
        self.is_writable: Final = is_writable
        self.identity: Final = identity_of(file.header, file.status)
        self.mtime_ns = file.status.st_mtime_ns
        """Of a raw file: when its header was read."""
        self._handles: Final = handles
        self._table: JumpTable | None = None

    def table(self, first: int, last: int) -> JumpTable:
        """The jump table of a compressed file, at least for the blocks from `first` up to, without, `last`.

        :raises DataLoss: it cannot be right there, or cannot be read
        """
        if self.file.header.blocks_per_file > MAX_TABLE_BLOCKS:
            return JumpTable(self.file, first, last)
        if self._table is None:
            self._table = JumpTable(self.file, strict=False)
        self._table.check(first, last)
        return self._table

    @property
    def held_bytes(self) -> int:
        """The jump table."""
        return self._table.nbytes if self._table is not None else 0

    def close(self) -> None:
        """Close the descriptor."""
        self.file.close()

    def forget(self) -> None:
        """Have the next look-up open the file again."""
        self._handles.forget(self)


class Handles:
    """The open cube files of one mag. Safe to use from several threads.

    :param header: of the mag
    :param is_owner: nobody else may change the files. Else a file that was changed is opened again like a new one
    """

    def __init__(self, folder: MagFolder, header: Header, *, is_owner: bool, pool: Pool = POOL) -> None:
        self._folder: Final = folder
        self._header: Final = header
        self._is_owner: Final = is_owner
        self._pool: Final = pool
        self._open: Final[dict[Vec3, Handle]] = {}  # guarded by the lock of the pool
        self._known: Final[dict[Vec3, Identity]] = {}  # the one that was opened longest ago first; the same lock
        # Opening a cube file and replacing it exclude each other; which lock, its index tells.
        self._locks: Final = [threading.Lock() for _ in range(_LOCKS)]

    def find(self, index: Vec3, *, writable: bool = False) -> Handle | None:
        """Look up a cube file. The caller is a user of what it gets, and releases it.

        :param writable: its descriptor has to be one for writing too
        :return: None if it does not exist
        :raises DataLoss: CHANGED_ON_DISK: it was changed behind our back; else it is damaged, or cannot be opened
        :raises NotAllowed: OUTSIDE_ROOT: there is a symbolic link on the way to it
        :raises Busy: there are no descriptors left
        """
        handle = self._find_open(index, writable=writable)
        if handle is not None:
            return handle
        with self._lock_of(index):
            return self._find_open(index, writable=writable) or self._open_anew(index, writable=writable)

    @contextmanager
    def replacing(self, index: Vec3) -> Iterator[None]:
        """Keep others from opening a cube file while it gets its name. `find` was asked for it before.

        :raises DataLoss: CHANGED_ON_DISK: the file that is to be replaced is not the one we know
        """
        with self._lock_of(index):
            with self._pool.lock:
                known = self._known.get(index)
            path = cube_file_path(index)
            status = self._folder.look(path)
            if known is not None and not _is_same(known, status):
                raise self._changed(path, "it was replaced or removed")
            if known is None and status is not None:
                raise self._changed(path, "it came to be while it was being made")
            yield

    def replaced(self, index: Vec3, status: os.stat_result) -> None:
        """A cube file has its name now, in `replacing`.

        :param status: of the new file
        """
        with self._pool.lock:
            old = self._open.get(index)
            self._note(index, identity_of(self._header.of_cube_file(), status))
        if old is not None:
            self._pool.drop(old)

    def forget(self, handle: Handle) -> None:
        """Find it no more. For the pool, which holds its lock."""
        if self._open.get(handle.index) is handle:
            del self._open[handle.index]

    def close(self) -> None:
        """Close all that nobody uses; those in use when they are released."""
        with self._pool.lock:
            handles = list(self._open.values())
        for handle in handles:
            self._pool.drop(handle)

    def _lock_of(self, index: Vec3) -> threading.Lock:
        return self._locks[(index.x + 3 * index.y + 7 * index.z) % _LOCKS]

    def _find_open(self, index: Vec3, *, writable: bool) -> Handle | None:
        with self._pool.lock:
            handle = self._open.get(index)
            if handle is None or (writable and not handle.is_writable):
                return None
            self._pool.take(handle)
        try:
            status = self._folder.look(handle.relative)
            if status is not None and _is_same(handle.identity, status) and self._has_its_header(handle, status):
                return handle
        except BaseException:
            handle.release()
            raise
        handle.release()
        return None

    @staticmethod
    def _has_its_header(handle: Handle, status: os.stat_result) -> bool:
        if handle.mtime_ns == status.st_mtime_ns:
            return True
        if not handle.file.starts_with(handle.header_bytes):
            return False
        handle.mtime_ns = status.st_mtime_ns
        return True

    def _open_anew(self, index: Vec3, *, writable: bool) -> Handle | None:
        path = cube_file_path(index)
        with self._pool.lock:
            known = self._known.get(index) if self._is_owner else None
        try:
            fd = self._folder.open_file(path, os.O_RDWR if writable else os.O_RDONLY)
        except FileNotFoundError:
            if known is not None:
                raise self._changed(path, "it was removed") from None
            return None
        file = OpenCubeFile.of(fd, self._folder.full(path), self._header)
        handle = Handle(file, index, self, self._pool, is_writable=writable)
        try:
            if known is not None and known != handle.identity:
                # Damage is told as damage: it concerns this file, and not the whole mag.
                if file.header.block_type.is_compressed:
                    handle.table(0, file.header.blocks_per_file)
                raise self._changed(path, "it was replaced or written")
        except BaseException:
            handle.release()
            raise
        with self._pool.lock:
            old = self._open.get(index)
        if old is not None:
            self._pool.drop(old)
        with self._pool.lock:
            handle.is_kept = True
            self._open[index] = handle
            self._note(index, handle.identity)
        return handle

    def _note(self, index: Vec3, identity: Identity) -> None:
        self._known.pop(index, None)
        self._known[index] = identity
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def _changed(self, path: str, how: str) -> DataLoss:
        full = self._folder.full(path)
        return DataLoss(
            f"{full} was changed by another program: {how}",
            reason=Reason.CHANGED_ON_DISK,
            metadata={"file": full},
        )


def identity_of(header: Header, status: os.stat_result) -> Identity:
    """What tells a cube file from others.

    :param header: its own
    """
    mtime_ns = status.st_mtime_ns if header.block_type.is_compressed else 0
    return Identity(status.st_dev, status.st_ino, status.st_size, mtime_ns, header)


def _is_same(identity: Identity, status: os.stat_result | None) -> bool:
    """As far as the status tells."""
    return (
        status is not None
        and identity.inode == status.st_ino
        and identity.device == status.st_dev
        and identity.size_bytes == status.st_size
        and identity.mtime_ns in (0, status.st_mtime_ns)
    )
