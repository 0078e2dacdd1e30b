"""Voxel data in memory: which dtypes there are, how a box of voxels is laid out, how many bytes it takes.

Voxel data is little-endian, channels interleaved per voxel, x fastest: Fortran order of an array (c, x, y, z), which
is C order of (z, y, x, c). This is the order of a WKW block, so a box travels and is stored without transposing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from magd.geometry import Box, Vec3

VoxelArray: TypeAlias = npt.NDArray[Any]
"""Voxels of a box: shape (c, x, y, z), Fortran order, a dtype of `VOXEL_DTYPES`."""

VOXEL_DTYPES: Final = (
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float32",
    "float64",
)
"""Every dtype a WKW file can have."""

MAX_VOXEL_BYTES: Final = 255
"""WKW keeps the bytes of one voxel, all channels together, in one byte of its header."""


@dataclass(frozen=True, slots=True)
class VoxelFormat:
    """What one voxel of a layer is: the dtype of a channel, and the number of channels."""

    dtype: np.dtype[Any]
    num_channels: int

    @classmethod
    def of(cls, dtype: npt.DTypeLike, num_channels: int) -> VoxelFormat:
        """Make a format of anything numpy takes for a dtype.

        :raises ValueError: WKW has no such dtype, or the channels are below 1 or take more than 255 bytes together
        """
        kind = np.dtype(dtype).newbyteorder("<")
        if kind.name not in VOXEL_DTYPES:
            raise ValueError(f"dtype {kind.name!r} is not one of {', '.join(VOXEL_DTYPES)}")
        if num_channels < 1:
            raise ValueError(f"num_channels {num_channels} is below 1")
        if num_channels * kind.itemsize > MAX_VOXEL_BYTES:
            raise ValueError(
                f"{num_channels} channels of {kind.name} take {num_channels * kind.itemsize} bytes a voxel, "
                f"more than {MAX_VOXEL_BYTES}"
            )
        return cls(kind, num_channels)

    @property
    def bytes_per_voxel(self) -> int:
        """All channels of one voxel, in bytes."""
        return self.num_channels * self.dtype.itemsize

    def nbytes(self, box: Box) -> int:
        """The bytes of a box of voxels."""
        return box.volume * self.bytes_per_voxel

    def empty(self, size: Vec3) -> VoxelArray:
        """An array of this format whose contents are not set."""
        return np.empty((self.num_channels, *size), dtype=self.dtype, order="F")

    def of_bytes(self, data: npt.NDArray[np.uint8], size: Vec3) -> VoxelArray:
        """Bytes as an array of this format, without a copy.

        :param data: as many as the array has; they need not be aligned
        """
        return data.view(self.dtype).reshape((self.num_channels, *size), order="F")

    def zeros(self, size: Vec3) -> VoxelArray:
        """An array of this format, all zero."""
        return np.zeros((self.num_channels, *size), dtype=self.dtype, order="F")

    def __str__(self) -> str:
        return self.dtype.name if self.num_channels == 1 else f"{self.num_channels} x {self.dtype.name}"
