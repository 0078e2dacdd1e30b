"""Reading and writing parts of one raw cube file.

Block n lies at data_offset + n * block_bytes. Blocks that follow each other in Morton order go in one system
call, up to half a MiB. A block that a box covers only in part is read, changed and written whole: so two writes
may run at the same time only if they touch no common block. A reader of the other voxels of such a block sees
no difference, since their bytes are replaced by equal ones.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from magd.cubes.exact_io import read_into, write_all
from magd.cubes.parallel import for_each
from magd.errors import from_os_error

if TYPE_CHECKING:
    from magd.cubes.block_copy import BlockBuffer, BlockCopy
    from magd.cubes.cube_file import OpenCubeFile
    from magd.cubes.header import Header

RUN_BYTES: Final = 1 << 19
"""What one system call moves; small enough to stay in the cache between it and the copy."""


def read_blocks(file: OpenCubeFile, copy: BlockCopy) -> None:
    """Fill the box of `copy` from a raw cube file, by several threads if there is much to do.

    :raises DataLoss: the file cannot be read, or ends too early
    """
    per_run = blocks_per_run(file.header)

    def read(run: tuple[int, int]) -> None:
        start, end = run
        blocks = copy.scratch(end - start)
        read_run(file, int(copy.index[start]), blocks)
        copy.to_box(start, blocks)

    for_each(read, copy.runs(per_run), worth=len(copy) * file.header.block_bytes)


def write_blocks(file: OpenCubeFile, copy: BlockCopy) -> None:
    """Write the box of `copy` into a raw cube file that is open for reading and writing, by several threads if there
    is much to do.

    :raises DataLoss: the file cannot be written, or ends too early
    :raises DiskFull: some of the box may have been written
    """
    per_run = blocks_per_run(file.header)

    def write(run: tuple[int, int]) -> None:
        start, end = run
        blocks = copy.scratch(end - start)
        index = int(copy.index[start])
        if not all(copy.is_whole[start:end]):
            read_run(file, index, blocks)
        copy.from_box(start, blocks)
        write_all(file.fd, blocks.data, _offset(file.header, index), file.path)

    for_each(write, copy.runs(per_run), worth=len(copy) * file.header.block_bytes)


def read_run(file: OpenCubeFile, index: int, blocks: BlockBuffer) -> None:
    """Fill a buffer with the blocks from `index` on.

    :raises DataLoss: the file cannot be read, or ends too early
    """
    read_into(file.fd, blocks.data, _offset(file.header, index), file.path)


def write_empty_file(fd: int, header: Header, path: str) -> None:
    """Make an empty file a raw cube file in which nothing was written: a header and one hole.

    :param header: that of the mag
    :raises DiskFull, DataLoss: it cannot be written
    """
    own = header.of_cube_file()
    try:
        os.ftruncate(fd, own.raw_file_bytes)
    except OSError as error:
        raise from_os_error(error, path) from error
    write_all(fd, own.to_bytes(), 0, path)


def blocks_per_run(header: Header) -> int:
    """How many blocks are moved at once."""
    return max(1, RUN_BYTES // header.block_bytes)


def _offset(header: Header, index: int) -> int:
    return header.data_offset + index * header.block_bytes
