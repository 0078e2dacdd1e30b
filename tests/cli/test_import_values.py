"""Casts that change no value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magd.cli.failures import CommandError
from magd.cli.importing.values import cast
from magd.voxels import VOXEL_DTYPES


def voxels(values: list[Any], dtype: str) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=dtype).reshape((1, len(values), 1, 1))


@pytest.mark.parametrize(
    ("values", "source", "target", "expected"),
    [
        ([0, 255], "uint16", "uint8", [0, 255]),
        ([-128, 127], "int64", "int8", [-128, 127]),
        ([-0.4, 0.4, 0.6, 255.4], "float32", "uint8", [0, 0, 1, 255]),
        ([2**64 - 1], "uint64", "uint64", [2**64 - 1]),
        ([2**24], "uint32", "float32", [2**24]),
        ([1.5, float("nan"), float("inf")], "float64", "float32", [1.5, float("nan"), float("inf")]),
    ],
)
def test_what_fits_is_cast(values: list[Any], source: str, target: str, expected: list[Any]) -> None:
    result = cast(voxels(values, source), np.dtype(target), "here")
    assert result.dtype == np.dtype(target)
    np.testing.assert_array_equal(result.ravel(), np.array(expected, dtype=target))


@pytest.mark.parametrize(
    ("values", "source", "target"),
    [
        ([0, 256], "uint16", "uint8"),
        ([-1], "int8", "uint8"),
        ([2**63], "uint64", "int64"),
        ([255.5], "float64", "uint8"),
        ([float("nan")], "float32", "uint8"),
        ([float("inf")], "float32", "int64"),
        ([float(2**64)], "float64", "uint64"),
        ([2**24 + 1], "uint32", "float32"),
        ([1e300], "float64", "float32"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_place(values: list[Any], source: str, target: str) -> None:
    with pytest.raises(CommandError, match=r"^here: ") as caught:
        cast(voxels(values, source), np.dtype(target), "here")
    assert caught.value.reason == "DATA_TYPE_MISMATCH"


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=5), st.data())
def test_whole_numbers_are_kept_or_refused(values: list[int], data: st.DataObject) -> None:
    fitting = [name for name in VOXEL_DTYPES if np.dtype(name).kind in "iu"]
    source = data.draw(
        st.sampled_from([name for name in fitting if all(_fits(value, name) for value in values)] or ["object"])
    )
    if source == "object":
        return
    target = data.draw(st.sampled_from(fitting))
    if all(_fits(value, target) for value in values):
        assert cast(voxels(values, source), np.dtype(target), "here").ravel().tolist() == values
    else:
        with pytest.raises(CommandError):
            cast(voxels(values, source), np.dtype(target), "here")


def _fits(value: int, dtype: str) -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max)
