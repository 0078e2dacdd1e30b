"""Which coarser mags a layer gets.

From a mag to the next coarser one, by the sampling mode:

- anisotropic: those axes are halved in resolution that make the voxels as isotropic as possible, which means the
  smallest ratio of longest to shortest edge. Among equally good choices, the one with fewer axes.
- isotropic: all axes.
- constant z: x and y.

It goes on until the largest factor reaches that of the coarsest mag. If none is named, that is the first power of two
from 4 on in which the longest edge of the layer has at most 100 voxels. No factor gets above that of the coarsest mag.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING, Final

from magd.downsampling.kernels import Method
from magd.errors import InvalidRequest
from magd.geometry import Mag, Vec3
from magd.properties.model import LayerCategory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.geometry import BoundingBox
    from magd.properties.model import VoxelSize

LONGEST_EDGE: Final = 100
"""Voxels of the coarsest mag along the longest edge of a layer, at most."""
LEAST_COARSEST: Final = 4
MAX_STEP: Final = 16
"""A voxel comes from at most so many along each axis."""


class SamplingMode(StrEnum):
    """Which axes are halved from a mag to the next."""

    ANISOTROPIC = "anisotropic"
    ISOTROPIC = "isotropic"
    CONSTANT_Z = "constant_z"


def default_method(category: LayerCategory) -> Method:
    """What suits a layer: mixing ids of segments would make ids that mean something else."""
    return Method.MODE if category is LayerCategory.SEGMENTATION else Method.MEDIAN


def coarser_mags(
    source: Mag, voxel_size: VoxelSize, bounding_box: BoundingBox, mode: SamplingMode, coarsest: Mag | None
) -> list[Mag]:
    """The mags to build from `source`, finest first; none if it is as coarse already.

    :param voxel_size: of mag 1
    :param bounding_box: of the layer
    """
    limit = Vec3.full(_coarsest_factor(max(bounding_box.size))) if coarsest is None else coarsest.factor
    mags: list[Mag] = []
    factor = source.factor
    while max(factor) < max(limit):
        doubled = _next(factor, voxel_size, mode)
        # An axis may be coarser in the source than in the coarsest mag.
        following = doubled.min(limit).max(factor)
        if following == factor:
            break
        factor = following
        mags.append(Mag(factor))
    return mags


def check_chain(source: Mag, targets: Sequence[Mag]) -> None:
    """Refuse mags that cannot be made one from the other.

    :raises InvalidRequest: one is no coarser multiple of the one before, or too much coarser
    """
    before = source
    for target in targets:
        steps = [after / earlier for after, earlier in zip(target.factor, before.factor, strict=True)]
        why = ""
        if target == before or min(steps) < 1:
            why = f"is not coarser than mag {before}"
        elif max(steps) > MAX_STEP:
            why = f"is more than {MAX_STEP} times as coarse as mag {before}; name a mag in between"
        if why:
            raise InvalidRequest(f"mag {target} {why}", metadata={"field": "target_mags", "value": target})
        before = target


def _coarsest_factor(longest: int) -> int:
    factor = LEAST_COARSEST
    while longest > LONGEST_EDGE * factor:
        factor *= 2
    return factor


def _next(factor: Vec3, voxel_size: VoxelSize, mode: SamplingMode) -> Vec3:
    if mode is SamplingMode.ISOTROPIC:
        return factor * 2
    if mode is SamplingMode.CONSTANT_Z:
        return factor * Vec3(2, 2, 1)
    # Fewer axes come first, and only a clearly better choice replaces an earlier one.
    choices = sorted((Vec3(*step) for step in product((1, 2), repeat=3)), key=lambda step: step.volume)
    best, least = Vec3.full(2), float("inf")
    for step in choices[1:]:
        x, y, z = factor * step
        edges = (voxel_size.x * x, voxel_size.y * y, voxel_size.z * z)
        ratio = max(edges) / min(edges)
        if ratio < least * (1 - 1e-9):
            best, least = step, ratio
    return factor * best
