"""The 16 bytes at the start of `header.wkw` and of every cube file.

Little-endian:

    [0:3]   "WKW"
    [3]     version, 1
    [4]     log2(file_len) << 4 | log2(block_len)
    [5]     block type
    [6]     dtype of a channel
    [7]     bytes of a voxel, all channels together
    [8:16]  where the first block starts: after the header in a raw cube file, after the jump table in a
            compressed one; without a meaning (0) in header.wkw

`header.wkw` says what cube files of a mag are like; each cube file has a header of its own, and that one
tells how its bytes are to be read.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Final

import numpy as np

from magd.errors import DataLoss, NotFound, Reason, from_os_error
from magd.geometry import Vec3
from magd.voxels import VoxelFormat

HEADER_FILE: Final = "header.wkw"
HEADER_BYTES: Final = 16
MAX_LEN: Final = 128
"""The largest block_len, and the largest file_len: the reference implementation keeps them in a signed
byte."""

_LAYOUT: Final = struct.Struct("<3sBBBBBQ")
_MAGIC: Final = b"WKW"
_VERSION: Final = 1
_DTYPE_OF_CODE: Final = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in enumerate(
        (
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float32",
            "float64",
            "int8",
            "int16",
            "int32",
            "int64",
        ),
        start=1,
    )
}
_CODE_OF_NAME: Final = {dtype.name: code for code, dtype in _DTYPE_OF_CODE.items()}


class BlockType(IntEnum):
    """How the blocks of a cube file are stored. Readers treat LZ4 and LZ4HC alike."""

    RAW = 1
    LZ4 = 2
    LZ4HC = 3

    @property
    def is_compressed(self) -> bool:
        """Whether there is a jump table and each block is an LZ4 block."""
        return self is not BlockType.RAW


@dataclass(frozen=True, slots=True)
class Header:
    """What a mag's cube files are like, or one cube file.

    :ivar voxels: dtype and channels
    :ivar block_len: edge of a block in voxels
    :ivar file_len: edge of a cube file in blocks
    :ivar data_offset: byte at which the first block starts; 0 in header.wkw
    """

    voxels: VoxelFormat
    block_len: int
    file_len: int
    block_type: BlockType
    data_offset: int = 0

    @classmethod
    def parse(cls, data: bytes, *, file: str) -> Header:
        """Read the first bytes of a file.

        :param data: at least 16 bytes; what follows them is not looked at
        :param file: the file they come from, for errors
        :raises DataLoss: they are no header of a WKW file, or one with values that no WKW file can have
        """
        if len(data) < HEADER_BYTES:
            raise damaged(file, f"it ends after {len(data)} of the {HEADER_BYTES} bytes of its header")
        header = _parse(bytes(data[:HEADER_BYTES]))
        if isinstance(header, str):
            raise damaged(file, header)
        return header

    def to_bytes(self) -> bytes:
        """The 16 bytes."""
        return _LAYOUT.pack(
            _MAGIC,
            _VERSION,
            (self.file_len.bit_length() - 1) << 4 | (self.block_len.bit_length() - 1),
            self.block_type,
            _CODE_OF_NAME[self.voxels.dtype.name],
            self.voxels.bytes_per_voxel,
            self.data_offset,
        )

    def problem(self) -> str | None:
        """Why no mag may have this header, or None: a length is not a power of two from 1 to 128."""
        for field, length in (("block_len", self.block_len), ("file_len", self.file_len)):
            if not 1 <= length <= MAX_LEN or length & (length - 1):
                return f"{field} {length}, which is not a power of two from 1 to {MAX_LEN}"
        return None

    @property
    def cube_len(self) -> int:
        """Edge of a cube file in voxels."""
        return self.block_len * self.file_len

    @property
    def cube_size(self) -> Vec3:
        """Size of a cube file in voxels."""
        return Vec3.full(self.cube_len)

    @property
    def blocks_per_file(self) -> int:
        """Number of blocks in a cube file."""
        return self.file_len**3

    @property
    def block_bytes(self) -> int:
        """Bytes of one block that is not compressed."""
        return self.block_len**3 * self.voxels.bytes_per_voxel

    @property
    def first_block_offset(self) -> int:
        """Where the blocks of a cube file of this kind start at the earliest, in bytes."""
        return HEADER_BYTES + (8 * self.blocks_per_file if self.block_type.is_compressed else 0)

    @property
    def raw_file_bytes(self) -> int:
        """Length of a raw cube file, holes included."""
        return HEADER_BYTES + self.blocks_per_file * self.block_bytes

    def of_cube_file(self, block_type: BlockType | None = None) -> Header:
        """The header of a new cube file of this mag: with the place of its first block.

        :param block_type: default: that of the mag
        """
        kind = replace(self, block_type=block_type or self.block_type)
        return replace(kind, data_offset=kind.first_block_offset)

    def has_layout_of(self, other: Header) -> bool:
        """Whether dtype, channels and both lengths are equal. How blocks are stored may differ."""
        return self.voxels == other.voxels and self.block_len == other.block_len and self.file_len == other.file_len

    def describe_layout(self) -> str:
        """Dtype, channels and both lengths, for messages."""
        return f"{self.voxels}, block_len {self.block_len}, file_len {self.file_len}"


@lru_cache(maxsize=64)  # each cube file of a mag has the same
def _parse(data: bytes) -> Header | str:
    """The header, or what is wrong with it."""
    magic, version, lengths, block_type, dtype_code, bytes_per_voxel, data_offset = _LAYOUT.unpack(data)
    if magic != _MAGIC:
        return f"it starts with {magic!r} instead of {_MAGIC!r}"
    if version != _VERSION:
        return f"its header has version {version}, not {_VERSION}"
    dtype = _DTYPE_OF_CODE.get(dtype_code)
    if dtype is None:
        return f"its header has the unknown dtype {dtype_code}"
    if bytes_per_voxel == 0 or bytes_per_voxel % dtype.itemsize:
        return f"its header says {bytes_per_voxel} bytes a voxel for channels of {dtype.name}"
    if block_type not in BlockType.__members__.values():
        return f"its header has the unknown block type {block_type}"
    header = Header(
        voxels=VoxelFormat(dtype, bytes_per_voxel // dtype.itemsize),
        block_len=1 << (lengths & 15),
        file_len=1 << (lengths >> 4),
        block_type=BlockType(block_type),
        data_offset=data_offset,
    )
    problem = header.problem()
    return header if problem is None else f"its header says {problem}"


def read_header(path: str) -> Header:
    """Read a header.wkw by its path.

    :raises NotFound: MAG_NOT_FOUND: it does not exist
    :raises DataLoss: it is damaged, or cannot be read
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise no_mag(path) from error
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        return read_header_from(fd, path)
    finally:
        os.close(fd)


def read_header_from(fd: int, path: str) -> Header:
    """Read a header.wkw that is open.

    :raises DataLoss: it is damaged, or cannot be read
    """
    try:
        data = os.pread(fd, HEADER_BYTES, 0)
    except OSError as error:
        raise from_os_error(error, path) from error
    return Header.parse(data, file=path)


def no_mag(file: str) -> NotFound:
    """The error for a mag's folder, or a header.wkw, that does not exist."""
    return NotFound(f"{file} does not exist", reason=Reason.MAG_NOT_FOUND, metadata={"file": file})


def damaged(file: str, what: str) -> DataLoss:
    """The error for a file whose contents cannot be right."""
    return DataLoss(f"{file} is damaged: {what}", metadata={"file": file})
