"""A user's arrays, and what is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magd.errors import InvalidRequest, Reason
from magd.geometry import Box, Vec3
from magd.voxels import VoxelFormat
from magd_client import arrays
from magd_client.slices import Key, select

ONE = VoxelFormat.of("uint16", 1)
THREE = VoxelFormat.of("uint16", 3)
BOUNDS = Box.of((0, 0, 0), (4, 5, 6))


@pytest.mark.parametrize(
    ("data", "voxels", "reason"),
    [
        (np.zeros((4, 5, 6), np.uint8), ONE, Reason.DATA_TYPE_MISMATCH),
        (np.zeros((4, 5, 6), np.int16), ONE, Reason.DATA_TYPE_MISMATCH),
        (np.zeros((4, 5, 6), np.uint16), THREE, Reason.CHANNELS_MISMATCH),
        (np.zeros((1, 4, 5, 6), np.uint16), THREE, Reason.CHANNELS_MISMATCH),
        (np.zeros((3, 4, 5, 6), np.uint16), ONE, Reason.CHANNELS_MISMATCH),
        (np.zeros((5, 6), np.uint16), ONE, Reason.INVALID_FIELD),
        (np.zeros((1, 1, 4, 5, 6), np.uint16), ONE, Reason.INVALID_FIELD),
        (np.zeros((0, 5, 6), np.uint16), ONE, Reason.INVALID_BOX),
    ],
)
def test_what_does_not_fit_is_refused(data: Any, voxels: VoxelFormat, reason: Reason) -> None:
    with pytest.raises(InvalidRequest) as caught:
        arrays.as_voxels(data, voxels)
    assert caught.value.reason is reason
    assert {"field", "value"} <= caught.value.metadata.keys()


@pytest.mark.parametrize(
    ("out", "voxels", "about"),
    [
        ([[[0]]], ONE, "list, no numpy array"),
        (np.zeros((4, 5, 7), np.uint16, order="F"), ONE, "shape"),
        (np.zeros((4, 5, 6), np.uint16, order="F"), THREE, "shape"),
        (np.zeros((1, 4, 5, 6), np.uint16, order="F"), THREE, "shape"),
        (np.zeros((1, 1, 4, 5, 6), np.uint16, order="F"), ONE, "shape"),
        (np.zeros((4, 5, 6), np.int16, order="F"), ONE, "does not cast"),
        (np.zeros((4, 5, 6), ">u2", order="F"), ONE, "does not cast"),
        (np.zeros((4, 5, 6), np.uint16), ONE, "Fortran order"),
        (np.zeros((8, 5, 6), np.uint16, order="F")[::2], ONE, "Fortran order"),
        (np.broadcast_to(np.zeros((1, 1, 1), np.uint16), (4, 5, 6)), ONE, "Fortran order"),
        (np.frombuffer(bytes(4 * 5 * 6 * 2), np.uint16).reshape((4, 5, 6), order="F"), ONE, "read-only"),
    ],
)
def test_an_array_that_a_box_cannot_be_read_into_is_refused(out: Any, voxels: VoxelFormat, about: str) -> None:
    with pytest.raises(InvalidRequest, match=about) as caught:
        arrays.room_in(out, voxels, Vec3(4, 5, 6))
    assert caught.value.metadata["field"] == "out"


def test_another_dtype_is_refused_with_the_cast_that_would_do() -> None:
    with pytest.raises(InvalidRequest, match=r"use \.astype\('uint16'\)"):
        arrays.as_voxels(np.zeros((4, 5, 6)), ONE)


@given(
    key=st.sampled_from([np.s_[:], np.s_[1], np.s_[1:3, 2, ...], np.s_[..., 4], np.s_[0, 0, 0], np.s_[2:2]]),
    seed=st.integers(0, 100),
    num_channels=st.sampled_from([1, 3]),
    form=st.sampled_from(["number", "whole", "row", "element"]),
)
def test_an_assignment_does_what_numpy_does(key: Key, seed: int, num_channels: int, form: str) -> None:
    voxels = VoxelFormat.of("uint16", num_channels)
    if num_channels > 1:
        key = (slice(None), *key) if isinstance(key, tuple) else (slice(None), key)
    selection = select(key, BOUNDS, num_channels)
    value: Any = np.random.default_rng(seed).integers(0, 1000, selection.shape, dtype=np.uint16)
    if form == "number":
        value = seed
    elif form == "row" and value.ndim:
        value = value[:1]
    elif form == "element":
        value = np.uint16(seed)
    model = np.zeros((num_channels, 4, 5, 6) if num_channels > 1 else (4, 5, 6), dtype=np.uint16)
    model[key] = value
    stored = np.zeros((num_channels, 4, 5, 6), dtype=np.uint16)
    (x, y, z), (x1, y1, z1) = selection.box.offset, selection.box.end
    stored[:, x:x1, y:y1, z:z1] = arrays.spread(value, selection, voxels)
    np.testing.assert_array_equal(stored.reshape(model.shape), model)


@pytest.mark.parametrize("value", [-1, 65536, 1.5, 7.0, np.uint8(7), np.float64(7), [1, 2, 3, 4, 5, 6], "7"])
def test_a_value_that_the_layer_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        arrays.spread(value, select(np.s_[:], BOUNDS, 1), ONE)
    assert caught.value.reason is Reason.DATA_TYPE_MISMATCH


def test_a_value_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"shape \(4,\) does not fit a selection of shape \(4, 5, 6\)"):
        arrays.spread(np.zeros(4, np.uint16), select(np.s_[:], BOUNDS, 1), ONE)


def test_an_assignment_to_some_channels_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="all its channels"):
        arrays.spread(1, select(np.s_[0:2], BOUNDS, 3), THREE)


def test_a_whole_number_may_be_assigned_to_a_layer_of_floats() -> None:
    voxels = VoxelFormat.of("float32", 1)
    assert arrays.spread(7, select(np.s_[:], BOUNDS, 1), voxels).dtype == np.float32
