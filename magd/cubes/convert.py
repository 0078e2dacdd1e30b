"""Writing a compressed copy of a whole cube file, raw or compressed, in bounded memory.

1. Go through the source in Morton order, a run of blocks of about a MiB at a time. What is a hole in a raw
   file is not read: it is blocks of zeros.
2. Encode each block, and append it.
3. Write jump table and header, and sync.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from magd.cubes import compressed, raw
from magd.cubes.compressed import CompressedFileWriter, JumpTable
from magd.cubes.cube_file import OPEN_FLAGS, OpenCubeFile
from magd.cubes.encode import BlockCounts, BlockEncoder, CompressionLevel
from magd.cubes.exact_io import sync_file
from magd.cubes.header import BlockType
from magd.errors import from_os_error


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """What became of a cube file.

    :ivar bytes_in: length of the source
    :ivar bytes_out: length of the target
    :ivar blocks: how many blocks were zero, encoded fast, encoded with effort
    """

    bytes_in: int
    bytes_out: int
    blocks: BlockCounts


def compress_cube_file(source: str, target: str, level: CompressionLevel) -> ConvertedFile:
    """Write a compressed copy of a cube file, and sync it.

    :param source: path of a cube file, raw or compressed
    :param target: path of a file that does not exist, in a folder that does. The folder is not synced
    :raises InvalidRequest: there is no such level
    :raises DataLoss: the source is damaged, or one of them cannot be read or written
    :raises DiskFull: there is no space for the target

    The target has block type LZ4 if the level is "fast", else LZ4HC. Where the call raises, there is no
    target.
    """
    with OpenCubeFile.open(source) as file:
        encoder = BlockEncoder(level, file.header.block_bytes)
        block_type = BlockType.LZ4 if level == "fast" else BlockType.LZ4HC
        try:
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o666)
        except OSError as error:
            raise from_os_error(error, target) from error
        try:
            try:
                writer = CompressedFileWriter(fd, file.header.of_cube_file(block_type), target)
                _convert(file, writer, encoder)
                bytes_out = writer.finish()
                sync_file(fd, target)
            finally:
                os.close(fd)
        except BaseException:
            os.unlink(target)
            raise
        return ConvertedFile(file.size_bytes, bytes_out, encoder.counts)


def _convert(file: OpenCubeFile, writer: CompressedFileWriter, encoder: BlockEncoder) -> None:
    header = file.header
    per_run = raw.blocks_per_run(header)
    if header.block_type.is_compressed:
        table = JumpTable(file)
        for first in range(0, header.blocks_per_file, per_run):
            last = min(first + per_run, header.blocks_per_file)
            for block in compressed.read_run(file, table, first, last):
                writer.append(encoder.encode(np.frombuffer(block, dtype=np.uint8)))
        return
    buffer = np.empty((per_run, header.block_bytes), dtype=np.uint8)
    done = 0
    for start, end in raw.written_blocks(file):
        writer.append(encoder.encode_zeros(start - done), start - done)
        for first in range(start, end, per_run):
            blocks = buffer[: min(per_run, end - first)]
            raw.read_run(file, first, blocks)
            for block in blocks:
                writer.append(encoder.encode(block))
        done = end
    writer.append(encoder.encode_zeros(header.blocks_per_file - done), header.blocks_per_file - done)
