"""The blocks of a mag's cube files in the layout of another mag: same voxels, perhaps other lengths.

Blocks come in Morton order of the target's cube file, a run of about half a MiB at a time, so that memory is bounded
whatever the lengths are:

1. Where block and file lengths are equal, a block of the target is one of the source: it is read as it is. What is a
   hole in a raw file is not read, it is blocks of zeros.
2. Else a run of blocks is cut into pieces that are boxes: 2^n blocks from a multiple of 2^n on. Each is read as a box,
   over as many cube files of the source as it takes, and cut into blocks.

The source may be written meanwhile. A block that is read in the middle of a write is torn, and it is for the caller to
have it read again.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from magd.cubes import compressed, raw
from magd.cubes.block_copy import BlockCopy, rows_of
from magd.cubes.compressed import JumpTable
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.layout import block_coordinates, cube_file_path
from magd.cubes.mag_files import MagFiles
from magd.cubes.mag_folder import MagFolder
from magd.errors import DataLoss, Reason, from_os_error
from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import numpy.typing as npt

    from magd.cubes.header import Header

RUN_BYTES: Final = 1 << 19
"""About what is in memory at once where lengths are equal."""
BOX_BYTES: Final = 4 << 20
"""The same where they are not: a larger box crosses fewer blocks of the source twice."""


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks that follow each other."""

    count: int
    data: npt.NDArray[np.uint8] | None
    """Shape (count, bytes of a block), C order; None: all of them are zero."""


class BlockSource:
    """Reads the blocks of one cube file of a target from the cube files of a source. A context manager.

    :param folder: of the source
    :param source: what its cube files are like
    :param target: what those of the target are like; voxels are the same
    :param cube: which cube file of the target
    """

    def __init__(self, folder: str, source: Header, target: Header, cube: Vec3) -> None:
        self._folder: Final = folder
        self._source: Final = source
        self._target: Final = target
        self._cube: Final = cube
        self._open: Final = ExitStack()
        self._file: OpenCubeFile | None = None
        self._files: MagFiles | None = None

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            if self._target.has_layout_of(self._source):
                self._file = opening.enter_context(self._open_file())
            else:
                self._files = opening.enter_context(MagFiles.open(self._folder, read_only=True))
            self._open.push(opening.pop_all())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def runs(self, first: int, last: int) -> Iterator[Run]:
        """The blocks from `first` up to, without, `last`. What a run holds is overwritten by the next one.

        :raises DataLoss: a cube file of the source is damaged, cannot be read, or has vanished
        """
        if self._files is not None:
            return self._from_boxes(self._files, first, last)
        assert self._file is not None, "the context was entered"
        if self._file.header.block_type.is_compressed:
            return self._from_compressed(self._file, first, last)
        return self._from_raw(self._file, first, last)

    def _open_file(self) -> OpenCubeFile:
        path = cube_file_path(self._cube)
        try:
            with closing(MagFolder(self._folder)) as folder:
                return OpenCubeFile.of(folder.open_file(path), folder.full(path), self._source)
        except FileNotFoundError as error:
            full = f"{self._folder}/{path}"
            raise DataLoss(f"{full} vanished", reason=Reason.CHANGED_ON_DISK, metadata={"file": full}) from error

    def _from_raw(self, file: OpenCubeFile, first: int, last: int) -> Iterator[Run]:
        per_run = max(1, RUN_BYTES // file.header.block_bytes)
        block_len, block_bytes = file.header.block_len, file.header.block_bytes
        row_bytes = block_len * file.header.voxels.bytes_per_voxel
        buffer = np.empty((min(per_run, last - first), block_len, block_len, row_bytes), dtype=np.uint8)
        done = first
        for start, end in written_blocks(file, first, last):
            if start > done:
                yield Run(start - done, None)
            for index in range(start, end, per_run):
                blocks = buffer[: min(per_run, end - index)]
                raw.read_run(file, index, blocks)
                yield Run(len(blocks), blocks.reshape(len(blocks), block_bytes))
            done = end
        if last > done:
            yield Run(last - done, None)

    @staticmethod
    def _from_compressed(file: OpenCubeFile, first: int, last: int) -> Iterator[Run]:
        per_run = max(1, RUN_BYTES // file.header.block_bytes)
        table = JumpTable(file, first, last)
        for index in range(first, last, per_run):
            blocks = compressed.read_run(file, table, index, min(index + per_run, last))
            yield Run(len(blocks), np.frombuffer(b"".join(blocks), dtype=np.uint8).reshape(len(blocks), -1))

    def _from_boxes(self, files: MagFiles, first: int, last: int) -> Iterator[Run]:
        target = self._target
        most = max(1, BOX_BYTES // target.block_bytes)
        corner = self._cube * target.cube_len
        for start, count, in_file in pieces(target, first, last, most):
            data = files.read(Box(corner + in_file.offset, in_file.size))
            copy = BlockCopy(target, in_file, rows_of(data))
            assert copy.index[0] == start, "a piece is a box in Morton order"
            blocks = copy.buffer(count)
            copy.from_box(0, blocks)
            yield Run(count, blocks.reshape(count, target.block_bytes))


def pieces(layout: Header, first: int, last: int, most: int) -> Iterator[tuple[int, int, Box]]:
    """Cut blocks that follow each other in Morton order into boxes.

    :param first, last: the blocks from `first` up to, without, `last`
    :param most: a piece has at most so many blocks
    :return: first block, number of blocks, and box in voxels from the first of the cube file
    """
    largest = 1 << (most.bit_length() - 1)
    while first < last:
        # The lowest bit that is set says on the border of how large a piece it lies.
        count = min(first & -first or largest, largest)
        while count > last - first:
            count >>= 1
        x, y, z = (int(axis[0]) for axis in block_coordinates(np.array([first])))
        bits = count.bit_length() - 1
        edges = Vec3(1 << (bits + 2) // 3, 1 << (bits + 1) // 3, 1 << bits // 3)
        yield first, count, Box(Vec3(x, y, z) * layout.block_len, edges * layout.block_len)
        first += count


def written_blocks(file: OpenCubeFile, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The blocks of a raw cube file that do not lie in holes.

    :param first, last: looks at the blocks from `first` up to, without, `last`
    :return: [start, end) of runs of blocks, ascending and without overlap
    :raises DataLoss: the file cannot be read
    """
    header = file.header

    def place(index: int) -> int:
        return header.data_offset + index * header.block_bytes

    position = place(first)
    while position < place(last):
        try:
            data = os.lseek(file.fd, position, os.SEEK_DATA)
            hole = os.lseek(file.fd, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            if error.errno == errno.EINVAL:  # the file system cannot tell: all of it may be data
                yield first, last
                return
            raise from_os_error(error, file.path) from error
        start = max((data - header.data_offset) // header.block_bytes, first)
        end = min(-(-(hole - header.data_offset) // header.block_bytes), last)
        if start < end:
            yield start, end
            first = end
        position = max(hole, place(end))
