"""The narrow interface through which everything above reaches the cube files of a mag.

Reading a box: each cube file under it is opened, its header is checked, and the blocks under the box are
copied. Only a cube file that does not exist (and a hole in a raw one) reads as zeros; whatever else goes
wrong is an error that names the file. Each file is read by its own header, also in a mag that mixes raw and
compressed files.

Writing a box:

1. Every cube file under it is opened and its header is checked, before anything is changed. A file that is
   compressed in a raw mag, or raw in a compressed one, refuses the write: the WEBKNOSSOS server decodes all
   files by `header.wkw`.
2. In a raw mag, a missing cube file is made under a temporary name (its header, and one hole), synced, and
   renamed to its place: a name in a mag means a whole file, also after a power loss. Then blocks are written
   in place.
3. In a compressed mag, a new file is written for each cube file and synced. Only when all of them are there,
   they are renamed to their places, so that a block that turns out to be damaged, or a full disk, leaves
   everything as it was.
4. What is not on the disk yet is noted for `sync`.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from magd.cubes import compressed, raw
from magd.cubes.block_copy import BlockCopy, Rows, part_of, rows_of
from magd.cubes.creation import make_mag_folder
from magd.cubes.cube_file import OpenCubeFile, is_about_the_file
from magd.cubes.encode import BlockEncoder, default_level
from magd.cubes.exact_io import sync_file
from magd.cubes.header import HEADER_FILE, BlockType, Header, no_mag, read_header_from
from magd.cubes.layout import box_of_cube_file, cube_file_path, split_by_cube_file
from magd.cubes.listing import list_cube_files
from magd.cubes.mag_folder import MagFolder
from magd.cubes.unsynced import Unsynced
from magd.errors import DataLoss, InvalidRequest, NotAllowed, Reason
from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from magd.voxels import VoxelArray


@dataclass(frozen=True, slots=True)
class CubeFile:
    """A cube file, at the moment it was listed.

    :ivar box: what it covers, in voxels of the mag
    :ivar path: relative to the folder of the mag
    :ivar size_bytes: its length
    :ivar allocated_bytes: what it takes on disk
    :ivar block_type: of its own header; None if that is damaged
    """

    index: Vec3
    box: Box
    path: str
    size_bytes: int
    allocated_bytes: int
    block_type: BlockType | None


class MagFiles:
    """The cube files of one mag. Make one with `create` or `open`.

    Any number of threads may read. Writes, and reads beside a write, may run at the same time if their boxes,
    enlarged to the grid of `write_grain`, do not intersect; a read needs no enlarging. To see to that is the
    caller's part, and so is that only one object in one process writes a mag.
    """

    def __init__(self, folder: MagFolder, header: Header, *, read_only: bool) -> None:
        self.header: Final = header
        self.read_only: Final = read_only
        self._folder: Final = folder
        self._unsynced: Final = Unsynced(folder)
        # Two writes to one raw cube file that does not exist yet must not both make it.
        self._making: Final = threading.Lock()

    @classmethod
    def create(cls, folder: str, header: Header) -> MagFiles:
        """Make a mag's folder and its header.wkw, durably, and open it.

        :param folder: does not exist or is empty; its parent exists
        :param header: what the cube files will be like; its data_offset is ignored
        :raises AlreadyExists: MAG_EXISTS: there is something in the folder
        :raises InvalidRequest: the header has a length that no mag may have
        :raises NotFound: the parent does not exist
        :raises DiskFull, DataLoss, NotAllowed: it cannot be made
        """
        if problem := header.problem():
            raise InvalidRequest(problem, metadata={"field": "header", "value": problem})
        of_mag = replace(header, data_offset=0)
        return cls(make_mag_folder(folder, of_mag), of_mag, read_only=False)

    @classmethod
    def open(cls, folder: str, *, read_only: bool = False) -> MagFiles:
        """Open a mag that exists.

        :param read_only: leave no trace; else temporaries of a process that died are removed
        :raises NotFound: MAG_NOT_FOUND: there is no such folder, or no header.wkw in it
        :raises DataLoss: header.wkw is damaged or cannot be read
        """
        try:
            opened = MagFolder(folder)
        except FileNotFoundError as error:
            raise no_mag(folder) from error
        try:
            fd = opened.open_file(HEADER_FILE)
            try:
                header = read_header_from(fd, opened.full(HEADER_FILE))
            finally:
                os.close(fd)
            if not read_only:
                opened.remove_leftovers()
        except FileNotFoundError as error:
            opened.close()
            raise no_mag(opened.full(HEADER_FILE)) from error
        except BaseException:
            opened.close()
            raise
        return cls(opened, header, read_only=read_only)

    @property
    def folder(self) -> str:
        """The folder of the mag, as it was given."""
        return self._folder.path

    @property
    def write_grain(self) -> int:
        """The grid of concurrent writes, in voxels of the mag: a block if raw, a cube file if compressed."""
        return self.header.cube_len if self.header.block_type.is_compressed else self.header.block_len

    @property
    def unsynced_bytes(self) -> int:
        """Bytes written since they were last brought to the disk by `sync`."""
        return self._unsynced.size_bytes

    def read(self, box: Box) -> VoxelArray:
        """Read a box.

        :param box: in voxels of the mag
        :return: shape (c, x, y, z), Fortran order; zeros where nothing was written
        :raises InvalidRequest: INVALID_BOX
        :raises DataLoss: a cube file under the box is damaged or cannot be read
        :raises NotAllowed: OUTSIDE_ROOT: there is a symbolic link on the way to a cube file
        """
        _check_box(box)
        data = self.header.voxels.zeros(box.size)
        rows = rows_of(data)
        for index, part in split_by_cube_file(box, self.header.cube_len):
            file = self._open_cube_file(index, os.O_RDONLY)
            if file is None:
                continue
            with file:
                copy = self._block_copy(index, part, box, rows)
                if file.header.block_type.is_compressed:
                    compressed.read_blocks(file, copy)
                else:
                    raw.read_blocks(file, copy)
        return data

    def check_write(self, box: Box) -> None:
        """Look at every cube file under a box without changing anything.

        :param box: in voxels of the mag
        :raises NotAllowed, DataLoss: `write` would be refused, as far as headers and lengths tell
        """
        if self.read_only:
            raise NotAllowed(f"{self.folder} is open for reading only", metadata={"file": self.folder})
        for index, _ in split_by_cube_file(box, self.header.cube_len):
            file = self._open_cube_file(index, os.O_RDWR)
            if file is not None:
                with file:
                    self._check_block_type(file)

    def write(self, box: Box, data: VoxelArray) -> None:
        """Write a box.

        :param box: in voxels of the mag
        :param data: shape (c, x, y, z), channels and dtype of the mag; in Fortran order it is not copied
        :raises InvalidRequest: INVALID_BOX, or the data is not what the box and the mag call for
        :raises NotAllowed: READ_ONLY; MIXED_BLOCK_TYPES; OUTSIDE_ROOT: there is a symbolic link on the way to
            a cube file
        :raises DataLoss: a cube file under the box is damaged, or cannot be read or written
        :raises DiskFull: there is no space

        Nothing was changed by a call that raises, but for two cases: DiskFull and DataLoss with the reason
        IO_ERROR can leave a part of the box written.
        """
        _check_box(box)
        self._check_data(box, data)
        rows = rows_of(np.asfortranarray(data))
        parts = list(split_by_cube_file(box, self.header.cube_len))
        self.check_write(box)
        copies = ((index, self._block_copy(index, part, box, rows)) for index, part in parts)
        if self.header.block_type.is_compressed:
            self._write_compressed(copies)
        else:
            self._write_raw(copies)

    def sync(self) -> None:
        """Bring what was written before this call to the disk: blocks, and the names of new files and folders.

        :raises DataLoss: that failed, now or in an earlier call. It stays an error for this object: what was
            written since the last good sync may be lost, and has to be written again through a new one
        """
        self._unsynced.sync()

    def cube_files(self, box: Box | None = None, *, after: Vec3 | None = None) -> Iterator[CubeFile]:
        """The cube files that exist, in (z, y, x) order.

        :param box: only those that touch it; in voxels of the mag
        :param after: only those that come after the one with this index
        :raises DataLoss: a folder cannot be read, or there are no descriptors left. A damaged cube file is
            listed, with `block_type` None

        Folders are read as the iteration comes to them: memory is bounded by the entries of one folder. What
        is not a cube file or a folder of such is passed over, and so is what vanishes meanwhile.
        """
        cube_len = self.header.cube_len
        within = None if box is None else Box.between(box.offset // cube_len, box.end.ceildiv(cube_len))
        for index in list_cube_files(self._folder, cube_len, within=within, after=after):
            path = cube_file_path(index)
            try:
                status = self._folder.status(path)
                block_type = self._block_type_of(path)
            except FileNotFoundError:
                continue
            yield CubeFile(
                index=index,
                box=box_of_cube_file(index, cube_len),
                path=path,
                size_bytes=status.st_size,
                allocated_bytes=status.st_blocks * 512,
                block_type=block_type,
            )

    def close(self) -> None:
        """Let go of all descriptors, without a sync. No other call may be under way."""
        self._unsynced.close()
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_cube_file(self, index: Vec3, flags: int) -> OpenCubeFile | None:
        """Open a cube file and check its header. None if it does not exist."""
        path = cube_file_path(index)
        try:
            fd = self._folder.open_file(path, flags)
        except FileNotFoundError:
            return None
        return OpenCubeFile.of(fd, self._folder.full(path), self.header)

    def _block_type_of(self, path: str) -> BlockType | None:
        """The block type of a cube file's own header; None if it is damaged."""
        try:
            with OpenCubeFile.of(self._folder.open_file(path), self._folder.full(path)) as file:
                return file.header.block_type
        except (DataLoss, NotAllowed) as error:
            if not is_about_the_file(error):
                raise
            return None

    def _check_block_type(self, file: OpenCubeFile) -> None:
        if file.header.block_type.is_compressed != self.header.block_type.is_compressed:
            raise NotAllowed(
                f"{file.path} has blocks of type {file.header.block_type.name}, its mag says "
                f"{self.header.block_type.name}: such a mag can be read, but not written",
                reason=Reason.MIXED_BLOCK_TYPES,
                metadata={"file": file.path},
            )

    def _block_copy(self, index: Vec3, part: Box, box: Box, rows: Rows) -> BlockCopy:
        in_file = Box(part.offset - index * self.header.cube_len, part.size)
        return BlockCopy(self.header, in_file, part_of(rows, box, part, self.header.voxels.bytes_per_voxel))

    def _write_raw(self, copies: Iterator[tuple[Vec3, BlockCopy]]) -> None:
        for index, copy in copies:
            self._unsynced.make_room()
            file = self._open_cube_file(index, os.O_RDWR)
            is_new = file is None
            if file is None:
                file = self._make_raw_file(index)
            try:
                self._check_block_type(file)
            except BaseException:
                file.close()
                raise
            try:
                raw.write_blocks(file, copy)
            finally:
                # Also after an error: what was written must be heard of when it cannot be synced.
                self._unsynced.add_file(file, len(copy) * self.header.block_bytes)
                self._unsynced.add_folder(os.path.dirname(cube_file_path(index)), has_new_entry=is_new)

    def _make_raw_file(self, index: Vec3) -> OpenCubeFile:
        path = cube_file_path(index)
        with self._making:
            file = self._open_cube_file(index, os.O_RDWR)
            if file is not None:
                return file
            temporary, fd = self._folder.make_temporary()
            try:
                try:
                    raw.write_empty_file(fd, self.header, self._folder.full(temporary))
                    sync_file(fd, self._folder.full(temporary))
                finally:
                    os.close(fd)
                self._folder.make_folders(os.path.dirname(path))
                self._folder.rename(temporary, path)
            except BaseException:
                self._folder.remove_temporary(temporary)
                raise
            file = self._open_cube_file(index, os.O_RDWR)
        if file is None:
            full = self._folder.full(path)
            raise DataLoss(f"{full} vanished", reason=Reason.CHANGED_ON_DISK, metadata={"file": full})
        return file

    def _write_compressed(self, copies: Iterator[tuple[Vec3, BlockCopy]]) -> None:
        encoder = BlockEncoder(default_level(self.header.block_type), self.header.block_bytes)
        finished: list[tuple[str, Vec3, int]] = []
        try:
            for index, copy in copies:
                finished.append(self._rewrite(index, copy, encoder))
            for temporary, index, size_bytes in finished:
                path = cube_file_path(index)
                self._folder.make_folders(os.path.dirname(path))
                self._folder.rename(temporary, path)
                self._unsynced.add_folder(os.path.dirname(path), has_new_entry=True, size_bytes=size_bytes)
        except BaseException:
            for temporary, _, _ in finished:
                self._folder.remove_temporary(temporary)
            raise

    def _rewrite(self, index: Vec3, copy: BlockCopy, encoder: BlockEncoder) -> tuple[str, Vec3, int]:
        """Write the successor of a cube file under a temporary name, and sync it.

        :return: the temporary, the index of the cube file, and the length of the temporary in bytes
        """
        old = self._open_cube_file(index, os.O_RDONLY)
        try:
            temporary, fd = self._folder.make_temporary()
            try:
                full = self._folder.full(temporary)
                try:
                    if old is not None:
                        self._check_block_type(old)
                        os.fchmod(fd, old.status.st_mode & 0o777)
                    size_bytes = compressed.rewrite(old, fd, self.header, copy, encoder, target_file=full)
                    sync_file(fd, full)
                finally:
                    os.close(fd)
            except BaseException:
                self._folder.remove_temporary(temporary)
                raise
        finally:
            if old is not None:
                old.close()
        return temporary, index, size_bytes

    def _check_data(self, box: Box, data: VoxelArray) -> None:
        voxels = self.header.voxels
        if data.dtype != voxels.dtype:
            raise InvalidRequest(
                f"the data has dtype {data.dtype.name}, the mag has {voxels.dtype.name}",
                reason=Reason.DATA_TYPE_MISMATCH,
                metadata={"field": "dtype", "value": data.dtype.name},
            )
        expected = (voxels.num_channels, *box.size)
        if data.shape != expected:
            raise InvalidRequest(
                f"the data has shape {data.shape}, the box calls for {expected}",
                reason=Reason.DATA_LENGTH_MISMATCH,
                metadata={"field": "data", "value": data.shape},
            )


def _check_box(box: Box) -> None:
    if problem := box.problem():
        raise InvalidRequest(problem, reason=Reason.INVALID_BOX, metadata={"field": "box", "value": box})
