"""Writing boxes into the cube files of one mag.

1. In a raw mag, a missing cube file is made under a temporary name (its header, and one hole), synced, and
   renamed to its place: a name in a mag means a whole file, also after a power loss. Then blocks are written
   in place.
2. In a compressed mag, a new file is written for each cube file and synced. Only when all of them are there,
   they are renamed to their places, so that a block that turns out to be damaged, or a full disk, leaves
   everything as it was.
3. What is not on the disk yet is noted.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from magd.cubes import compressed, raw
from magd.cubes.exact_io import sync_file
from magd.cubes.layout import cube_file_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magd.cubes.block_copy import BlockCopy
    from magd.cubes.box_copy import BoxCopy
    from magd.cubes.header import Header
    from magd.cubes.known_files import KnownFiles
    from magd.cubes.mag_folder import MagFolder
    from magd.cubes.unsynced import Unsynced
    from magd.geometry import Vec3


class CubeWriter:
    """Writes into cube files. Safe to use from several threads, as far as their boxes allow it (`MagFiles`).

    :param header: of the mag
    :param unsynced: is told what is not on the disk yet
    """

    def __init__(self, folder: MagFolder, header: Header, known: KnownFiles, unsynced: Unsynced) -> None:
        self._folder: Final = folder
        self._header: Final = header
        self._known: Final = known
        self._unsynced: Final = unsynced

    def write_raw(self, index: Vec3, copies: Sequence[BoxCopy]) -> None:
        """Write boxes into one raw cube file.

        :param copies: later ones lie over earlier ones
        :raises DiskFull, DataLoss, NotAllowed: they cannot be written; some may have been
        """
        size_bytes = sum([copy.nbytes for copy in copies])
        self._unsynced.make_room()
        handle = self._known.find(index, writable=True)
        is_new = handle is None
        with handle or self._known.make_raw(index) as handle:
            self._known.check_block_type(handle)
            try:
                for copy in copies:
                    raw.write_blocks(handle.file, copy)
            finally:
                # Also after an error: what was written must be heard of when it cannot be synced.
                self._unsynced.add_file(handle, size_bytes)
                self._unsynced.add_folder(handle.folder, has_new_entry=is_new)

    def write_compressed(self, copies: Iterable[tuple[Vec3, Sequence[BlockCopy]]]) -> None:
        """Write boxes into compressed cube files, all of them or none.

        :param copies: for each cube file; later ones lie over earlier ones
        :raises DiskFull, DataLoss, NotAllowed: they cannot be written
        """
        finished: list[tuple[str, Vec3, os.stat_result]] = []
        try:
            for index, in_file in copies:
                temporary, status = self._rewrite(index, in_file)
                finished.append((temporary, index, status))
            for temporary, index, status in finished:
                self._known.put_in_place(temporary, index, status)
                folder = os.path.dirname(cube_file_path(index))
                self._unsynced.add_folder(folder, has_new_entry=True, size_bytes=status.st_size)
        except BaseException:
            for temporary, _, _ in finished:
                self._folder.remove_temporary(temporary)
            raise

    def _rewrite(self, index: Vec3, copies: Sequence[BlockCopy]) -> tuple[str, os.stat_result]:
        """Write the successor of a cube file under a temporary name, and sync it.

        :return: the temporary, and its status
        """
        with self._known.find(index, writable=True) or nullcontext() as old:
            temporary, fd = self._folder.make_temporary()
            try:
                full = self._folder.full(temporary)
                try:
                    if old is not None:
                        self._known.check_block_type(old)
                        os.fchmod(fd, old.file.status.st_mode & 0o777)
                    compressed.rewrite(old, fd, self._header, copies, target_file=full)
                    sync_file(fd, full)
                    return temporary, os.fstat(fd)
                finally:
                    os.close(fd)
            except BaseException:
                self._folder.remove_temporary(temporary)
                raise
