"""How one voxel of a coarser mag comes from the n voxels of a finer one that lie under it.

- nearest: the first one, which has the lowest coordinates.
- mean: the arithmetic mean. Whole numbers are rounded to the nearest, halves up.
- median: the middle one; of an even number, the mean of the two middle ones, rounded towards zero for whole numbers.
- mode: the most frequent one. Where several are equally frequent, the one that comes first when the voxels are gone
  through with y fastest, then x, then z (as webknossos does). Frequencies compare by ==, so a NaN is as rare as can be.

Mean and median of floats are NaN if one of the voxels is. Channels are independent.

1. The box is worked through in slabs along z that stay in the cache.
2. Of a slab, n arrays are made: the first voxels of all groups, the second ones, and so on. What follows is arithmetic
   on whole arrays.
3. The median of 2, 4 or 8 comes from a network of minima and maxima. For the mode, groups of equal voxels, nearly all
   in a segmentation, are done first; only of the others voxels are counted.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.geometry import Vec3
    from magd.voxels import VoxelArray

Array: TypeAlias = npt.NDArray[Any]

SLAB_BYTES: Final = 1 << 20


class Method(StrEnum):
    """How the voxels of a coarser mag are made."""

    MEDIAN = "median"
    MEAN = "mean"
    MODE = "mode"
    NEAREST = "nearest"


def downsample(data: VoxelArray, factor: Vec3, method: Method) -> VoxelArray:
    """Make a box of coarser voxels.

    :param data: shape (c, x, y, z), any order; x, y and z are multiples of the factor
    :param factor: finer voxels in a coarser one along each axis, powers of two
    :return: shape (c, x / factor.x, y / factor.y, z / factor.z), Fortran order, the same dtype
    """
    channels, x, y, z = data.shape
    shape = (channels, x // factor.x, y // factor.y, z // factor.z)
    result: VoxelArray = np.empty(shape, dtype=data.dtype, order="F")
    if factor.volume == 1 or method is Method.NEAREST:
        result[...] = data[:, :: factor.x, :: factor.y, :: factor.z]
        return result
    kernel = _KERNELS[method]
    plane_bytes = max(1, channels * x * y * factor.z * data.itemsize)
    step = max(1, SLAB_BYTES // plane_bytes)
    for start in range(0, shape[3], step):
        end = min(start + step, shape[3])
        result[..., start:end] = kernel(_members(data[..., start * factor.z : end * factor.z], factor))
    return result


def _members(slab: Array, factor: Vec3) -> list[Array]:
    """The first voxels of all groups, the second ones, and so on, with y fastest, then x, then z."""
    return [
        np.asfortranarray(slab[:, x :: factor.x, y :: factor.y, z :: factor.z])
        for z, x, y in product(range(factor.z), range(factor.x), range(factor.y))
    ]


def _mean(members: list[Array]) -> Array:
    count, dtype = len(members), members[0].dtype
    bits = count.bit_length() - 1  # a power of two
    if dtype.kind == "f":
        # Divided first, which is exact, so that the sum of large numbers does not become infinite.
        total = members[0].astype(np.float64) / count
        for member in members[1:]:
            total += member.astype(np.float64) / count
        return total.astype(dtype)
    # Quotients and remainders apart, so that sums of 64-bit numbers fit. >> rounds down, also below zero.
    wide: np.dtype[Any] = dtype if dtype.itemsize == 8 else np.dtype("int64" if dtype.itemsize == 4 else "int32")
    high = np.zeros(members[0].shape, dtype=wide, order="F")
    low = np.full(members[0].shape, count // 2, dtype=wide, order="F")
    shift, mask = wide.type(bits), wide.type(count - 1)
    for member in members:
        widened = member.astype(wide)
        high += widened >> shift
        low += widened & mask
    mean: Array = (high + (low >> shift)).astype(dtype)
    return mean


def _median(members: list[Array]) -> Array:
    network = _NETWORKS.get(len(members))
    if network is not None:
        for low, high in network:
            members[low], members[high] = (
                np.minimum(members[low], members[high]),
                np.maximum(members[low], members[high]),
            )
        below, above = members[len(members) // 2 - 1], members[len(members) // 2]
    else:
        stacked = np.stack(members)
        middle = len(members) // 2
        stacked.sort(axis=0)  # NaN comes last
        below, above = stacked[middle - 1], stacked[middle]
        if stacked.dtype.kind == "f":
            above = np.where(np.isnan(stacked[-1]), stacked[-1], above)
    return _half_way(below, above)


def _half_way(below: Array, above: Array) -> Array:
    """The mean of two, without overflow."""
    if below.dtype.kind == "f":
        return below / 2 + above / 2
    one = below.dtype.type(1)
    floor: Array = (below & above) + ((below ^ above) >> one)
    if below.dtype.kind == "i":
        # Towards zero: up, where the sum is odd and negative.
        floor += ((below ^ above) & one) * (floor < 0)
    return floor


def _mode(members: list[Array]) -> Array:
    result = members[0].copy(order="F")
    mixed = np.zeros(result.shape, dtype=np.bool_, order="F")
    for member in members[1:]:
        mixed |= member != result
    if not mixed.any():
        return result
    groups = np.stack([member[mixed] for member in members])
    best = groups[0].copy()
    most = np.zeros(best.shape, dtype=np.int32)
    for candidate in groups:
        count = np.zeros(best.shape, dtype=np.int32)
        for other in groups:
            count += candidate == other
        better = count > most
        best[better] = candidate[better]
        np.maximum(most, count, out=most)
    result[mixed] = best
    return result


_NETWORKS: Final = {
    2: ((0, 1),),
    4: ((0, 1), (2, 3), (0, 2), (1, 3), (1, 2)),
    8: (
        *((0, 1), (2, 3), (4, 5), (6, 7)),
        *((0, 2), (1, 3), (4, 6), (5, 7)),
        *((1, 2), (5, 6), (0, 4), (3, 7)),
        *((1, 5), (2, 6)),
        *((1, 4), (3, 6)),
        *((2, 4), (3, 5)),
        (3, 4),
    ),
}
"""Which pairs to put in order, one after the other, so that all are in order."""

_KERNELS: Final[dict[Method, Callable[[list[Array]], Array]]] = {
    Method.MEAN: _mean,
    Method.MEDIAN: _median,
    Method.MODE: _mode,
}
