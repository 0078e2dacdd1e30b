"""Reading and writing parts of one raw cube file.

Block n lies at data_offset + n * block_bytes. What goes in one system call, box_plan.py tells. Of a block that a box
covers only in part, whole planes are read, changed and written: so two writes may run at the same time only if they
touch no common block. A reader of the other voxels of such a block sees no difference, since their bytes are replaced
by equal ones.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING

from magd.cubes import scratch
from magd.cubes.exact_io import read_into, read_pieces, write_all, write_pieces
from magd.cubes.parallel import for_each
from magd.errors import from_os_error

if TYPE_CHECKING:
    from magd.cubes.block_copy import BlockBuffer
    from magd.cubes.box_copy import BoxCopy
    from magd.cubes.box_plan import Group
    from magd.cubes.cube_file import OpenCubeFile
    from magd.cubes.header import Header


def read_blocks(file: OpenCubeFile, copy: BoxCopy) -> None:
    """Fill the box of `copy` from a raw cube file, by several threads if there is much to do.

    :raises DataLoss: the file cannot be read, or ends too early
    """

    def read(group: Group) -> None:
        blocks = copy.in_box(group)
        if blocks is not None:
            _read(file, group, blocks.data)
            return
        memory = scratch.take(group.moves.memory_bytes + group.moves.gap_bytes)
        _read(file, group, memory.array.data)
        copy.to_box(group, memory.array)
        scratch.give_back(memory)

    for_each(read, copy.groups("read"), worth=copy.nbytes)


def write_blocks(file: OpenCubeFile, copy: BoxCopy) -> None:
    """Write the box of `copy` into a raw cube file that is open for reading and writing. If there is much to do, other
    threads bring blocks into order meanwhile, but one at a time writes: several that write one file wait for its lock
    in the kernel, and for the processor that the others spend on that.

    :raises DataLoss: the file cannot be written, or ends too early
    :raises DiskFull: some of the box may have been written
    """
    in_kernel = Lock()

    def write(group: Group) -> None:
        blocks = copy.in_box(group)
        if blocks is not None:
            with in_kernel:
                _write(file, group, blocks.data)
            return
        memory = scratch.take(group.moves.memory_bytes + group.moves.gap_bytes)
        bytes_in_memory = memory.array.data
        _read(file, group, bytes_in_memory)
        copy.from_box(group, memory.array)
        with in_kernel:
            _write(file, group, bytes_in_memory)
        scratch.give_back(memory)

    for_each(write, copy.groups("write"), worth=copy.nbytes)


def read_run(file: OpenCubeFile, index: int, blocks: BlockBuffer) -> None:
    """Fill a buffer with the blocks from `index` on.

    :raises DataLoss: the file cannot be read, or ends too early
    """
    start = file.header.data_offset + index * file.header.block_bytes
    read_into(file.fd, blocks.data, start, file.path)


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


def _read(file: OpenCubeFile, group: Group, memory: memoryview) -> None:
    fd, start, path = file.fd, file.header.data_offset + group.first_byte, file.path
    for offset, size, pieces in group.moves.reads:
        read_pieces(fd, memory, pieces, start + offset, size, path)


def _write(file: OpenCubeFile, group: Group, memory: memoryview) -> None:
    fd, start, path = file.fd, file.header.data_offset + group.first_byte, file.path
    for offset, size, pieces in group.moves.writes:
        write_pieces(fd, memory, pieces, start + offset, size, path)
