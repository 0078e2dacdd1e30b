"""Reading and writing parts of one raw cube file.

Block n lies at data_offset + n * block_bytes. Blocks of a group that follow each other in Morton order go in one
system call. A block that a box covers only in part is read, changed and written whole: so two writes
may run at the same time only if they touch no common block. A reader of the other voxels of such a block sees
no difference, since their bytes are replaced by equal ones.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from magd.cubes import scratch
from magd.cubes.exact_io import read_into, read_into_all, write_all, write_from_all
from magd.cubes.parallel import for_each
from magd.errors import from_os_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.cubes.block_copy import BlockBuffer
    from magd.cubes.box_copy import Blocks, BoxCopy, Group, Run
    from magd.cubes.cube_file import OpenCubeFile
    from magd.cubes.header import Header


def read_blocks(file: OpenCubeFile, copy: BoxCopy) -> None:
    """Fill the box of `copy` from a raw cube file, by several threads if there is much to do.

    :raises DataLoss: the file cannot be read, or ends too early
    """

    def read(group: Group) -> None:
        blocks = copy.in_box(group)
        if blocks is not None:
            _read_runs(file, group.runs, blocks)
            return
        memory = scratch.take(copy.group_bytes(group))
        blocks = memory.array[: copy.group_bytes(group)]
        _read_runs(file, group.runs, blocks)
        copy.to_box(group, blocks)
        scratch.give_back(memory)

    for_each(read, copy.groups, worth=copy.block_count * file.header.block_bytes)


def write_blocks(file: OpenCubeFile, copy: BoxCopy) -> None:
    """Write the box of `copy` into a raw cube file that is open for reading and writing, by several threads if there
    is much to do.

    :raises DataLoss: the file cannot be written, or ends too early
    :raises DiskFull: some of the box may have been written
    """

    def write(group: Group) -> None:
        blocks = copy.in_box(group)
        if blocks is not None:
            _write_runs(file, group.runs, blocks)
            return
        memory = scratch.take(copy.group_bytes(group))
        blocks = memory.array[: copy.group_bytes(group)]
        _read_runs(file, copy.cut_runs(group), blocks)
        copy.from_box(group, blocks)
        _write_runs(file, group.runs, blocks)
        scratch.give_back(memory)

    for_each(write, copy.groups, worth=copy.block_count * file.header.block_bytes)


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


def _read_runs(file: OpenCubeFile, runs: Sequence[Run], blocks: Blocks) -> None:
    start, block_bytes, memory = file.header.data_offset, file.header.block_bytes, blocks.data
    for run in runs:
        read_into_all(file.fd, _pieces(run, memory, block_bytes), start + run.first * block_bytes, file.path)


def _write_runs(file: OpenCubeFile, runs: Sequence[Run], blocks: Blocks) -> None:
    start, block_bytes, memory = file.header.data_offset, file.header.block_bytes, blocks.data
    for run in runs:
        write_from_all(file.fd, _pieces(run, memory, block_bytes), start + run.first * block_bytes, file.path)


def _pieces(run: Run, memory: memoryview, block_bytes: int) -> list[memoryview]:
    """The memory of the blocks of a run, in their order in the file."""
    return [memory[start * block_bytes : end * block_bytes] for start, end in run.pieces]


def _offset(header: Header, index: int) -> int:
    return header.data_offset + index * header.block_bytes
