"""What an import reads from: a volume with a size and a voxel format, of which boxes can be read.

A source opens its files and checks all it can before anything is created, so that an import fails before it has written
or not for this reason. It reads in bounded memory and may be read by several threads at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from magd.cli.failures import CommandError
from magd.geometry import ORIGIN, Box, Vec3
from magd.voxels import VOXEL_DTYPES, VoxelArray, VoxelFormat

if TYPE_CHECKING:
    import numpy as np


COPY_BLOCK = 32
"""Edge of the blocks in which voxels change their memory order."""


@dataclass(frozen=True, slots=True)
class VoxelSizeInUnit:
    """The size of a voxel of the source."""

    factor: tuple[float, float, float]
    """Along x, y, z."""
    unit: str
    """As WEBKNOSSOS spells it: "nanometer"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What is known of a source before its voxels are read."""

    label: str
    """What was read, for messages: a path and what was found there."""
    size: Vec3
    """In voxels."""
    voxels: VoxelFormat
    offset: Vec3 = ORIGIN
    """Where the volume lies, in voxels of its own mag, if the source says so."""
    voxel_size: VoxelSizeInUnit | None = None
    """Of a voxel of the source. None if the source does not say it."""
    category: Literal["color", "segmentation"] | None = None
    """If the source says so."""
    largest_segment_id: int | None = None
    notes: tuple[str, ...] = ()
    """What the user should know about the data, for instance what is ignored."""
    whole_pages: bool = False
    """Whether any part of a z-plane costs as much to read as the plane."""


class Source(ABC):
    """A volume that boxes can be read from."""

    info: SourceInfo

    @abstractmethod
    def read(self, box: Box) -> VoxelArray:
        """Read a box; its offset counts from the first voxel of the source.

        :param box: inside the size of the source
        :return: shape (c, x, y, z), Fortran order, the dtype of `info.voxels`
        :raises CommandError: a file cannot be decoded
        :raises OSError: a file cannot be read
        """

    def close(self) -> None:  # noqa: B027  a map has nothing to close
        """Release the files. A source that was closed is not used again."""


def voxel_format(dtype: np.dtype[Any], num_channels: int, where: str) -> VoxelFormat:
    """The format that holds voxels of a source, little-endian.

    :raises CommandError: WKW has no such dtype; the message suggests what to do
    """
    try:
        return VoxelFormat.of(dtype, num_channels)
    except ValueError as error:
        if dtype.newbyteorder("<").name in VOXEL_DTYPES:
            raise CommandError(
                f"{where}: {error}; import fewer channels into one layer", "DATA_TYPE_MISMATCH"
            ) from error
        raise CommandError(f"{where}: {_refusal(dtype)}", "DATA_TYPE_MISMATCH") from error


def _refusal(dtype: np.dtype[Any]) -> str:
    match dtype.kind:
        case "b":
            advice = 'save it as uint8 first: numpy.save(path, array.astype("uint8"))'
        case "f":
            advice = 'save it as float32 or float64 first: numpy.save(path, array.astype("float32"))'
        case "c":
            advice = "save real and imaginary part as two float32 channels first"
        case "O":
            advice = "it holds Python objects, not numbers"
        case _:
            advice = f"WKW has {', '.join(VOXEL_DTYPES)}"
    return f"voxels of type {dtype.name} cannot be stored; {advice}"


class ArraySource(Source):
    """A source over an array whose axes are (c, x, y, z), as a rule a view of a memory-mapped file."""

    def __init__(self, array: np.ndarray[Any, Any], info: SourceInfo) -> None:
        self._array = array
        self.info = info

    def read(self, box: Box) -> VoxelArray:
        (x, y, z), (end_x, end_y, end_z) = box.offset, box.end
        data = self.info.voxels.empty(box.size)
        _copy(self._array[:, x:end_x, y:end_y, z:end_z], data)
        return data


def _copy(array: np.ndarray[Any, Any], data: VoxelArray) -> None:
    """Copy voxels of any memory order and byte order into Fortran order.

    Where z is the fast axis of the array, one of the two would be walked through in steps of a whole plane. Small
    blocks keep both in the cache: six times as fast.
    """
    if abs(array.strides[1]) <= abs(array.strides[3]):
        data[...] = array
        return
    _, size_x, _, size_z = data.shape
    for z in range(0, size_z, COPY_BLOCK):
        for x in range(0, size_x, COPY_BLOCK):
            block = (slice(None), slice(x, x + COPY_BLOCK), slice(None), slice(z, z + COPY_BLOCK))
            data[block] = array[block]
