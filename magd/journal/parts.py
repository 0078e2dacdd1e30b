"""The data of a record in files that are laid out like cube files, and can become cube files.

A large box is written once where each cube file under it is missing; or lies wholly in the box, if that was promised
to be on the disk:

1. While it arrives its voxels go into one new file for each cube file under it, its part: header, blocks, holes
   elsewhere (`part_staging`). When the record is written, the parts get names that follow from its number and from the
   order of the cube files. Which cube files these are follows from its box.
2. A part is what a side file is: it is synced with the record, and read when the record has to be applied after a
   crash. The checksum of the record is that of the voxels in their order in the box.
3. A part becomes a cube file when the flusher comes to the box in the order of commits, if no box before it that is
   not in the cube files yet touches one of its cube files. Its record, and with it its parts, must be on the disk by
   then: where a sync fails the parts are given up, and the record is written again from memory. See below for boxes
   that need no sync.
4. First the record is marked as linked, by an empty file in the journal's folder, and the folder is synced. From here
   on a part may have voxels that are newer than the record, and the checksum says nothing about it any more. Also, a
   mark says that all records up to this one are on the disk.
5. Then each part gets the name of its cube file too, as a second one. A cube file that is there is replaced in one
   step, if the box covers all of it. Where one that it covers in part came to be meanwhile, or anything goes wrong,
   the box is written into the cube files from memory, like any other.
6. What is written later into the cube file changes the part: they are the same file. The names of parts and the mark
   are removed with the journal file of the record, after the cube files and their names were synced.
7. When records are applied again after a crash, those before one with parts leave out the cube files that this one
   covers: they would write into its part what is older, and it writes all of these voxels anyhow.

A box that was promised to outlive the process only, and whose cube files are all missing, is not synced:

1. Its parts are, before any voxel is in them: header and length. So whatever cube file a power loss leaves can be read.
2. Its mark is another one, and nobody waits until it is on the disk. It says that the checksum means nothing, and
   nothing else. It is made while no sync of the journal is under way: the next one, which may raise the record to DISK,
   brings the mark to the disk before the record.
3. When the parts have become cube files, these count as not synced.
4. Over cube files that are there it has no parts, as these would be synced before they replace anything: to write such
   a box twice, and sync nothing, takes two thirds of the time.

Why it is sound to apply a part again, whatever is there after a crash, by copying the voxels of the box from it:

- A part that is not marked holds what was written, and the checksum is compared.
- One that is marked holds, voxel for voxel, the record or something newer. Never something older: what is in the cube
  files before the turn of the box comes is in other files. When it is applied again after a crash, it goes into a
  missing cube file beside the box, for such a file was not touched by any record before; or it is left out.
- What is newer comes from records that follow, which are kept as long as this one, and are applied again after it; or
  from writes that were promised less than to outlive this crash.
- A record that was not on the disk is written again after a kill, with such newer voxels. Those they come from are
  written again behind it, into the same journal file, which comes to its name as a whole.
- So nothing depends on whether the second names survive a power loss: if they do, the copy changes nothing; if not,
  it makes the cube files anew, or goes into those that were to be replaced.
- What a cube file held that is replaced is not missed: all of its voxels are in the part, and that is on the disk
  before. So what was written to the old file needs no sync any more: until that of the new name, the record is there.
- After a power loss, voxels of a part that was never synced may be torn, and so may those that are copied from it: no
  more was promised of this box. No other box suffers: none before it has voxels in these cube files, and any one behind
  it that was promised to be on the disk was synced together with it.
- Who reads while a cube file is replaced may read the old one to the end. Either the box is in the overlay still when
  the turn of the read begins, and is painted over it; or the new file is found.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from magd.cubes import raw
from magd.cubes.block_copy import part_of, rows_of
from magd.cubes.box_copy import BoxCopy
from magd.cubes.cube_file import OPEN_FLAGS, OpenCubeFile
from magd.cubes.header import BlockType, Header
from magd.cubes.layout import split_by_cube_file
from magd.errors import from_os_error
from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from magd.cubes.block_copy import Rows
    from magd.journal.records import FileFormat
    from magd.voxels import VoxelArray

MAX_PARTS: Final = 8
"""A box over more cube files has no parts: each keeps a descriptor open until it is synced."""


def header_of(format: FileFormat) -> Header | None:  # noqa: A002  # what it is called in a HEAD
    """What cube files of this format are like; None if they are not raw, or cannot be."""
    try:
        block_type = BlockType(format.block_type)
    except ValueError:
        return None
    if block_type.is_compressed:
        return None
    header = Header(format.voxels, format.block_len, format.file_len, block_type)
    return None if header.problem() else header


def parts_of(box: Box, header: Header) -> tuple[tuple[Vec3, Box], ...]:
    """The cube files under a box and what of the box lies in each, in the order of the parts.

    :return: index of the cube file, and the part of the box, in voxels of the mag; at most one more than `MAX_PARTS`
    """
    parts: list[tuple[Vec3, Box]] = []
    for part in split_by_cube_file(box, header.cube_len):
        parts.append(part)
        if len(parts) > MAX_PARTS:
            break
    return tuple(parts)


def in_cube_file(part: Box, header: Header) -> Box:
    """What lies in one cube file, in voxels from its first."""
    length, offset = header.cube_len, part.offset
    return Box(Vec3(offset.x % length, offset.y % length, offset.z % length), part.size)


def copy_of(part: Box, box: Box, rows: Rows, header: Header) -> BoxCopy:
    """To copy between the voxels of a box in memory and a part.

    :param part: lies in `box` and in one cube file
    :param rows: of `box`
    """
    return BoxCopy(header, in_cube_file(part, header), part_of(rows, box, part, header.voxels.bytes_per_voxel))


def check_parts(paths: Sequence[str], header: Header) -> None:
    """Look at the headers of parts.

    :raises FileNotFoundError: one is missing
    :raises DataLoss: one cannot be read, or is no cube file of this format
    """
    for path in paths:
        _open_part(path, header).close()


def _open_part(path: str, header: Header) -> OpenCubeFile:
    try:
        fd = os.open(path, os.O_RDONLY | OPEN_FLAGS)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise from_os_error(error, path) from error
    return OpenCubeFile.of(fd, path, header)


def read_layers(paths: Sequence[str], box: Box, header: Header) -> Iterator[VoxelArray]:
    """Read a box from its parts, from z to z as far as one layer of blocks goes.

    :return: (c, x, y, z), Fortran order; one after the other they are the box
    :raises FileNotFoundError: a part is missing
    :raises DataLoss: one cannot be read, or is no cube file of this format
    """
    files: list[OpenCubeFile] = []
    try:
        for path in paths:  # not all at once: those before one that is missing are to be closed
            files += [_open_part(path, header)]
        z, end = box.offset.z, box.end.z
        while z < end:
            next_z = min((z // header.block_len + 1) * header.block_len, end)
            layer = Box(Vec3(box.offset.x, box.offset.y, z), Vec3(box.size.x, box.size.y, next_z - z))
            data = header.voxels.empty(layer.size)
            rows = rows_of(data)
            for file, (_, part) in zip(files, parts_of(box, header), strict=True):
                common = part.intersection(layer)
                if not common.is_empty:
                    raw.read_blocks(file, copy_of(common, layer, rows, header))
            yield data
            z = next_z
    finally:
        for file in files:
            file.close()
