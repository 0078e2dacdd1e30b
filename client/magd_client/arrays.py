"""A user's arrays and the bytes that travel.

Nothing is cast: the dtype must be the layer's. Any memory layout is taken: see `magd.memory_order`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from magd.errors import InvalidRequest, Reason
from magd.geometry import Vec3

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from magd.voxels import VoxelArray, VoxelFormat
    from magd_client.slices import Selection

PART_BYTES: Final = 1 << 20
"""Of one message of a box: measured best for gRPC in Python, and below every limit of a message."""


def as_voxels(data: npt.ArrayLike, voxels: VoxelFormat) -> VoxelArray:
    """Check an array that is to be written.

    :param data: (x, y, z) for one channel, or (c, x, y, z)
    :param voxels: the layer's
    :return: the same memory as (c, x, y, z), in whatever order it has
    :raises InvalidRequest: its dtype, dimensions or channels are not the layer's, or it holds no voxel
    """
    array = np.asarray(data)
    if array.ndim == 3:
        if voxels.num_channels != 1:
            raise _mismatch(
                Reason.CHANNELS_MISMATCH,
                "num_channels",
                1,
                voxels.num_channels,
                f"data has 3 dimensions, but the layer has {voxels.num_channels} channels: (c, x, y, z) is needed",
            )
        array = array[np.newaxis]
    if array.ndim != 4:
        raise InvalidRequest(
            f"data has {array.ndim} dimensions, neither (x, y, z) nor (c, x, y, z)",
            metadata={"field": "data", "value": array.shape},
        )
    if array.shape[0] != voxels.num_channels:
        raise _mismatch(
            Reason.CHANNELS_MISMATCH,
            "num_channels",
            array.shape[0],
            voxels.num_channels,
            f"data has {array.shape[0]} channels, the layer has {voxels.num_channels}",
        )
    check_dtype(array.dtype, voxels)
    if array.size == 0:
        raise InvalidRequest(
            f"data has no voxels: its shape is {array.shape}",
            reason=Reason.INVALID_BOX,
            metadata={"field": "data", "value": array.shape},
        )
    return array


def room_in(out: VoxelArray, voxels: VoxelFormat, size: Vec3) -> VoxelArray:
    """Check an array that a box is to be read into.

    :param out: (x, y, z) for one channel, or (c, x, y, z)
    :param voxels: the layer's
    :param size: of the box
    :return: the same memory as (c, x, y, z)
    :raises InvalidRequest: it is no numpy array, or its shape, dtype or order is another, or it is read-only
    """
    shape = (voxels.num_channels, *size)
    if not isinstance(out, np.ndarray):
        raise InvalidRequest(
            f"out is of type {type(out).__name__}, no numpy array",
            metadata={"field": "out", "value": type(out).__name__},
        )
    if out.shape != shape and (voxels.num_channels != 1 or out.shape != shape[1:]):
        raise InvalidRequest(
            f"out has the shape {out.shape}, the box has {shape}",
            metadata={"field": "out", "value": out.shape, "expected": shape},
        )
    if out.dtype != voxels.dtype:
        raise _mismatch(
            Reason.DATA_TYPE_MISMATCH,
            "out",
            out.dtype.str,
            voxels.dtype.str,
            f"out is {out.dtype.str}, the layer is {voxels.dtype.str} ({voxels.dtype.name}), and magd does not cast",
        )
    if not out.flags.f_contiguous:
        raise InvalidRequest(
            'out is not contiguous in Fortran order, as np.empty(shape, dtype, order="F") is',
            metadata={"field": "out", "value": out.strides},
        )
    if not out.flags.writeable:
        raise InvalidRequest("out is read-only", metadata={"field": "out", "value": "read-only"})
    return out if out.ndim == len(shape) else out[np.newaxis]


def check_dtype(dtype: np.dtype[Any], voxels: VoxelFormat) -> None:
    """Refuse another dtype than the layer's; byte order does not matter.

    :raises InvalidRequest: it is another
    """
    if dtype.newbyteorder("<") != voxels.dtype:
        expected = voxels.dtype.name
        raise _mismatch(
            Reason.DATA_TYPE_MISMATCH,
            "data_type",
            dtype.name,
            expected,
            f"data is {dtype.name}, the layer is {expected}, and magd does not cast: use .astype({expected!r})",
        )


def spread(value: Any, selection: Selection, voxels: VoxelFormat) -> VoxelArray:
    """Check a value that is to be assigned to a selection, and spread it over its box.

    :param value: a Python number, or an array of the layer's dtype that broadcasts to `selection.shape`
    :return: (c, x, y, z), read-only and without a copy of the value
    :raises InvalidRequest: it does not fit the shape or the dtype, or the selection leaves out channels
    """
    if not selection.all_channels:
        raise _mismatch(
            Reason.CHANNELS_MISMATCH,
            "num_channels",
            f"{selection.channels.start}:{selection.channels.stop}",
            voxels.num_channels,
            "a voxel is written with all its channels: assign to all of them",
        )
    # numpy's float64 is a Python float; what has a dtype of its own must have the layer's.
    if isinstance(value, bool | int | float) and not isinstance(value, np.generic):
        array = _number(value, voxels)
    else:
        array = np.asarray(value)
        check_dtype(array.dtype, voxels)
    try:
        fitted = np.broadcast_to(array, selection.shape)
    except ValueError:
        raise InvalidRequest(
            f"a value of shape {array.shape} does not fit a selection of shape {selection.shape}",
            metadata={"field": "value", "value": array.shape, "expected": selection.shape},
        ) from None
    # Dropped axes come back with length 1; the shape's other axes keep their order.
    return fitted[tuple(np.newaxis if isinstance(axis, int) else slice(None) for axis in selection.cut)]


def to_bytes(array: VoxelArray, voxels: VoxelFormat) -> bytes:
    """A copy of the voxels of an array (c, x, y, z), in whatever order it has, as they travel."""
    return np.asarray(array, dtype=voxels.dtype).T.tobytes()


def parts(slabs: Iterable[VoxelArray]) -> Iterator[memoryview]:
    """Cut what follows each other in the bytes of a box into the bytes of messages, without a copy.

    :param slabs: in Fortran order
    """
    for slab in slabs:
        flat = array_bytes(slab)
        for start in range(0, len(flat), PART_BYTES):
            yield flat[start : start + PART_BYTES]


def array_bytes(array: VoxelArray) -> memoryview:
    """The bytes of an array in Fortran order, without a copy."""
    return array.reshape(-1, order="F").view(np.uint8).data


def size_of(array: VoxelArray) -> Vec3:
    """The extent of the box that an array (c, x, y, z) holds."""
    _, x, y, z = array.shape
    return Vec3(x, y, z)


def _number(value: float, voxels: VoxelFormat) -> VoxelArray:
    """A Python number as the layer's dtype, if that has it."""
    dtype = voxels.dtype
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not (isinstance(value, int) and limits.min <= value <= limits.max):
            raise _mismatch(
                Reason.DATA_TYPE_MISMATCH,
                "data_type",
                value,
                dtype.name,
                f"{value!r} is not a value of {dtype.name}",
            )
    return np.asarray(value, dtype=dtype)


def _mismatch(reason: Reason, field: str, value: object, expected: object, message: str) -> InvalidRequest:
    return InvalidRequest(message, reason=reason, metadata={"field": field, "value": value, "expected": expected})
