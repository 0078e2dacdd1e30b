"""What one coarser voxel is, against plain numpy and against webknossos."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.downsampling.kernels import Method, downsample
from magd.geometry import Vec3
from magd.voxels import VOXEL_DTYPES

FACTORS = [Vec3(2, 2, 2), Vec3(2, 2, 1), Vec3(1, 1, 2), Vec3(2, 1, 2), Vec3(4, 4, 2), Vec3(1, 1, 1)]


def groups_of(data: npt.NDArray[Any], factor: Vec3) -> npt.NDArray[Any]:
    """(c, x, y, z, n): the voxels under each coarser one, with y fastest, then x, then z."""
    c, x, y, z = data.shape
    split = data.reshape(c, x // factor.x, factor.x, y // factor.y, factor.y, z // factor.z, factor.z)
    return split.transpose(0, 1, 3, 5, 6, 2, 4).reshape(c, x // factor.x, y // factor.y, z // factor.z, factor.volume)


def plainly(data: npt.NDArray[Any], factor: Vec3, method: Method) -> npt.NDArray[Any]:
    """The definitions, one voxel at a time and with numbers of any size."""
    groups = groups_of(data, factor)
    result = np.empty(groups.shape[:-1], dtype=data.dtype)
    for at in np.ndindex(result.shape):
        group = groups[at].tolist()
        result[at] = one_of(group, method, is_float=data.dtype.kind == "f")
    return result


def one_of(group: list[Any], method: Method, *, is_float: bool) -> Any:
    if method is Method.NEAREST:
        return group[0]
    if method is Method.MODE:
        return max(group, key=group.count)
    if method is Method.MEAN:
        return sum(group) / len(group) if is_float else (2 * sum(group) + len(group)) // (2 * len(group))
    ordered, middle = sorted(group), len(group) // 2
    if len(group) == 1:
        return group[0]
    total = ordered[middle - 1] + ordered[middle]
    if is_float:
        return total / 2
    return total // 2 if total >= 0 else -(-total // 2)


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("dtype", VOXEL_DTYPES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_every_method_is_what_its_definition_says(dtype: str, method: Method, data: st.DataObject) -> None:
    factor = data.draw(st.sampled_from(FACTORS))
    size = factor * Vec3(*data.draw(st.tuples(*[st.integers(1, 3)] * 3)))
    channels = data.draw(st.sampled_from([1, 3]))
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    kind = np.dtype(dtype)
    if kind.kind == "f":
        voxels = generator.normal(size=(channels, *size)).astype(kind)
    elif data.draw(st.booleans()):
        limits = np.iinfo(kind)
        voxels = generator.integers(limits.min, limits.max, size=(channels, *size), dtype=kind, endpoint=True)
    else:
        voxels = generator.integers(0, 3, size=(channels, *size)).astype(kind)
    made = downsample(np.asfortranarray(voxels), factor, method)
    assert made.flags.f_contiguous
    assert made.dtype == kind
    expected = plainly(voxels, factor, method)
    if kind.kind == "f":
        np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-7)
    else:
        np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("factor", [Vec3(2, 2, 2), Vec3(4, 4, 4)])
@pytest.mark.parametrize("method", [Method.MEAN, Method.MEDIAN])
def test_mean_and_median_are_nan_where_one_voxel_is(method: Method, factor: Vec3) -> None:
    data = np.ones((1, *(factor * 2)), dtype="float32", order="F")
    data[0, factor.x, 0, 1] = np.nan
    made = downsample(data, factor, method)
    assert np.isnan(made[0, 1, 0, 0])
    assert np.isnan(made).sum() == 1


def test_the_mode_passes_over_nan() -> None:
    data = np.full((1, 2, 2, 2), np.nan, dtype="float32", order="F")
    data[0, 1, 1, :] = 7
    assert downsample(data, Vec3(2, 2, 2), Method.MODE)[0, 0, 0, 0] == 7


def test_the_mean_of_the_largest_floats_is_finite() -> None:
    data = np.full((1, 2, 2, 2), np.finfo("float64").max, order="F")
    assert downsample(data, Vec3(2, 2, 2), Method.MEAN)[0, 0, 0, 0] == np.finfo("float64").max


def test_slabs_do_not_show() -> None:
    data = np.asfortranarray(np.random.default_rng(1).integers(0, 255, size=(1, 256, 128, 128)).astype("uint8"))
    made = downsample(data, Vec3(2, 2, 2), Method.MEDIAN)
    expected = np.median(groups_of(data, Vec3(2, 2, 2)), axis=-1).astype("uint8")
    np.testing.assert_array_equal(made, expected)
