"""The narrow interface through which everything above reaches the cube files of a mag.

Reading a box: each cube file under it is looked up (handles.py), and the blocks under the box are copied. Only a
cube file that does not exist (and a hole in a raw one) reads as zeros; whatever else goes wrong is an error that
names the file. Each file is read by its own header, also in a mag that mixes raw and compressed files.

Writing a box:

1. Every cube file under it is opened and its header is checked, before anything is changed. A file that is
   compressed in a raw mag, or raw in a compressed one, refuses the write: the WEBKNOSSOS server decodes all
   files by `header.wkw`.
2. The cube files are written (cube_writer.py): raw ones in place, of compressed ones their successors.
3. What is not on the disk yet is noted for `sync`.

Writing many boxes (`write_many`), cube file after cube file:

1. All parts of the boxes in a cube file are laid into it in their order: a compressed one is rewritten once, however
   many there are.
2. A cube file that cannot be written does not keep the others from it. A box is in the files when all of its cube
   files are written.
3. A box that is not in the files will be applied again, or laid over what is read. So a later one that overlaps it
   counts as not in the files either, also where its own cube files were written: else older voxels would come to lie
   over newer ones.
4. What lies below a box that covers all of a cube file is not written there.

Files that another program changed: the first that is noticed stops the mag. All reads and writes fail from then on,
since what is in memory or in the journal may belong to other files than those that are there now. To accept the
files as they are is to open the mag anew.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from magd.box_index import BoxIndex
from magd.cubes import compressed, raw
from magd.cubes.block_copy import BlockCopy, Rows, part_of, rows_of
from magd.cubes.box_copy import BoxCopy
from magd.cubes.creation import make_mag_folder
from magd.cubes.cube_writer import CubeWriter
from magd.cubes.header import HEADER_FILE, Header, no_mag, read_header_from
from magd.cubes.known_files import KnownFiles
from magd.cubes.layout import box_of_cube_file, split_by_cube_file
from magd.cubes.listing import CubeFile, list_cube_files, look_at
from magd.cubes.mag_folder import MagFolder
from magd.cubes.unsynced import Unsynced
from magd.errors import DataLoss, InvalidRequest, MagdError, NotAllowed, Reason
from magd.geometry import Box, Vec3
from magd.memory_order import in_fortran_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from magd.voxels import VoxelArray


@dataclass(frozen=True, slots=True)
class WrittenBoxes:
    """What became of boxes that were written together.

    :ivar in_files: for each, whether it is wholly in the cube files, and may be forgotten
    :ivar error: why the first one that is not could not be written; None if all are
    """

    in_files: tuple[bool, ...]
    error: MagdError | None


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
        self._known: Final = KnownFiles(folder, header, self._unsynced, read_only=read_only)
        self._writer: Final = CubeWriter(folder, header, self._known, self._unsynced)

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
    def changed(self) -> DataLoss | None:
        """What was noticed of another program that changed the files; no read and no write succeeds then."""
        return self._known.changed

    def require_unchanged(self) -> None:
        """Refuse to go on once another program changed the files.

        :raises DataLoss: CHANGED_ON_DISK
        """
        self._known.require_unchanged()

    @property
    def unsynced_bytes(self) -> int:
        """Bytes of boxes in raw cube files, and of new compressed ones, that were not brought to the disk by `sync`."""
        return self._unsynced.size_bytes

    def read(self, box: Box, out: VoxelArray | None = None) -> VoxelArray:
        """Read a box.

        :param box: in voxels of the mag
        :param out: where to, of the shape, order and dtype of what is returned; None: into a new array. When this
            raises, some of it may be set
        :return: shape (c, x, y, z), Fortran order; zeros where nothing was written
        :raises InvalidRequest: INVALID_BOX
        :raises DataLoss: a cube file under the box is damaged or cannot be read; CHANGED_ON_DISK: another program
            changed one, of this box or any
        :raises NotAllowed: OUTSIDE_ROOT: there is a symbolic link on the way to a cube file
        :raises Busy: there are no descriptors left
        """
        _check_box(box)
        # Not zeroed: each part is filled, from its cube file or because there is none.
        data = self.header.voxels.empty(box.size) if out is None else out
        rows = rows_of(data)
        for index, part in split_by_cube_file(box, self.header.cube_len):
            handle = self._known.find(index)
            if handle is None:
                part_of(rows, box, part, self.header.voxels.bytes_per_voxel)[...] = 0
                continue
            with handle:
                copy = self._box_copy(part, box, rows)
                if handle.file.header.block_type.is_compressed:
                    compressed.read_blocks(handle, copy)
                else:
                    raw.read_blocks(handle.file, copy)
        return data

    def check_write(self, box: Box) -> None:
        """Look at every cube file under a box without changing anything.

        :param box: in voxels of the mag
        :raises NotAllowed, DataLoss: `write` would be refused, as far as headers and lengths tell
        """
        self._require_writable()
        for index, _ in split_by_cube_file(box, self.header.cube_len):
            handle = self._known.find(index, writable=True)
            if handle is not None:
                with handle:
                    self._known.check_block_type(handle)

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
        rows = rows_of(in_fortran_order(data))
        parts = tuple(split_by_cube_file(box, self.header.cube_len))
        if len(parts) == 1:
            self._require_writable()  # the cube file is looked at before it is written
        else:
            self.check_write(box)
        if self.header.block_type.is_compressed:
            self._writer.write_compressed((index, [self._block_copy(part, box, rows)]) for index, part in parts)
        else:
            for index, part in parts:
                self._writer.write_raw(index, [self._box_copy(part, box, rows)])

    def write_many(self, writes: Sequence[tuple[Box, VoxelArray]], *, later: Sequence[Box] = ()) -> WrittenBoxes:
        """Write boxes that may overlap: later ones lie over earlier ones.

        :param writes: as of `write`
        :param later: boxes that will be written after these: a cube file that one of them covers is left out
        :return: which of them are wholly in the files, and why the others are not
        :raises InvalidRequest, NotAllowed: one cannot be written at all, or the mag is open for reading only; nothing
            was changed

        Each cube file is written once; the others are written where one fails. Of a box that is not in the files,
        any part may be: it is to be written again, together with all that are not, in the same order.
        """
        self._require_writable()
        by_cube_file: dict[Vec3, list[tuple[int, Box]]] = {}
        for number, (box, data) in enumerate(writes):
            _check_box(box)
            self._check_data(box, data)
            for index, part in split_by_cube_file(box, self.header.cube_len):
                by_cube_file.setdefault(index, []).append((number, part))
        rows = [rows_of(in_fortran_order(data)) for _, data in writes]
        failed: set[int] = set()
        first_error: MagdError | None = None
        for index in sorted(by_cube_file, key=lambda index: (index.z, index.y, index.x)):
            parts = by_cube_file[index]
            whole = box_of_cube_file(index, self.header.cube_len)
            if any(box.contains(whole) for box in later):
                continue
            first = max((at for at, (_, part) in enumerate(parts) if part == whole), default=0)
            pieces = [(part, writes[number][0], rows[number]) for number, part in parts[first:]]
            try:
                if self.header.block_type.is_compressed:
                    self._writer.write_compressed([(index, [self._block_copy(*piece) for piece in pieces])])
                else:
                    self._writer.write_raw(index, [self._box_copy(*piece) for piece in pieces])
            except MagdError as error:
                first_error = first_error or error
                failed.update(number for number, _ in parts)
        return WrittenBoxes(_all_in_files([box for box, _ in writes], failed), first_error)

    def has_cube_files(self, box: Box) -> bool:
        """Whether any cube file under a box exists.

        :param box: in voxels of the mag
        :raises DataLoss, NotAllowed, Busy: as of `read`
        """
        for index, _ in split_by_cube_file(box, self.header.cube_len):
            handle = self._known.find(index)
            if handle is not None:
                handle.release()
                return True
        return False

    def link(self, box: Box, paths: Sequence[str], *, synced: bool) -> bool:
        """Make files the cube files under a box, in a raw mag. The names they have, they keep. Cube files that are
        there are replaced.

        :param box: in voxels of the mag
        :param paths: relative to the folder of the mag, of whole cube files that hold the box and nothing else, in
            (z, y, x) order
        :param synced: they are on the disk. If not, no cube file is replaced, and they count as written just now
        :return: False: there is a cube file already that has other voxels too. Some of the others may be cube files now
        :raises DiskFull, DataLoss, NotAllowed: as of `write`; some may be cube files now
        """
        length = self.header.cube_len
        for (index, part), path in zip(split_by_cube_file(box, length), paths, strict=True):
            whole = part == box_of_cube_file(index, length)
            self._unsynced.make_room()
            if not self._known.link(path, index, may_replace=whole and synced):
                return False
            if not synced:
                with self._known.make_raw(index) as handle:  # which is there
                    self._unsynced.add_file(handle, self.header.voxels.nbytes(part))
        return True

    def add_unsynced(self) -> None:
        """Count with blocks that a process which died wrote and did not sync: the next `sync` is one of the whole file
        system."""
        self._unsynced.add_anything()

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
            if (found := look_at(self._folder, index, cube_len)) is not None:
                yield found

    def close(self) -> None:
        """Let go of all descriptors, without a sync. No other call may be under way."""
        self._unsynced.close()
        self._known.close()
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _box_copy(self, part: Box, box: Box, rows: Rows) -> BoxCopy:
        voxel = self.header.voxels.bytes_per_voxel
        return BoxCopy(self.header, part, part_of(rows, box, part, voxel))

    def _block_copy(self, part: Box, box: Box, rows: Rows) -> BlockCopy:
        voxel = self.header.voxels.bytes_per_voxel
        cube_len, offset = self.header.cube_len, part.offset
        in_cube_file = Box(Vec3(offset.x % cube_len, offset.y % cube_len, offset.z % cube_len), part.size)
        return BlockCopy(self.header, in_cube_file, part_of(rows, box, part, voxel))

    def _require_writable(self) -> None:
        if self.read_only:
            raise NotAllowed(f"{self.folder} is open for reading only", metadata={"file": self.folder})

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


def _all_in_files(boxes: Sequence[Box], failed: set[int]) -> tuple[bool, ...]:
    """For each box, whether all of its cube files were written, and those of all earlier ones that it overlaps.

    :param failed: which have a cube file that was not
    """
    in_files: list[bool] = []
    left: BoxIndex[int] = BoxIndex()
    for number, box in enumerate(boxes):
        in_files.append(number not in failed and not left.touching(box))
        if not in_files[-1]:
            left.add(number, box)
    return tuple(in_files)
