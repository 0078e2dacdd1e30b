"""Slices, compared with what numpy makes of them on an array that begins at 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magd.errors import InvalidRequest, OutOfBounds
from magd.geometry import Box, Vec3
from magd_client.slices import Key, select

BOUNDS = Box.of((3, 5, 7), (6, 5, 4))
EVERYTHING = Box.of((0, 0, 0), (16, 16, 16))


def volume(num_channels: int) -> Any:
    """Voxels of EVERYTHING, each with a value of its own: (c, x, y, z)."""
    shape = (num_channels, *EVERYTHING.size)
    return np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)


def taken(key: Key, bounds: Box, num_channels: int) -> Any:
    """What the selection makes of the voxels of its box."""
    selection = select(key, bounds, num_channels)
    (x, y, z), (x1, y1, z1) = selection.box.offset, selection.box.end
    data = volume(num_channels)[:, x:x1, y:y1, z:z1]
    result = data[selection.channels][selection.cut]
    assert np.shape(result) == selection.shape
    return result


def part(lower: int, upper: int) -> st.SearchStrategy[Any]:
    """An index, or a slice with or without open ends, inside a range."""
    inside = st.integers(lower, upper - 1)
    ends = st.tuples(st.integers(lower, upper), st.integers(lower, upper)).map(sorted)
    return st.one_of(
        inside,
        inside.map(np.int64),
        ends.map(lambda pair: slice(*pair)),
        ends.map(lambda pair: slice(pair[0], None)),
        ends.map(lambda pair: slice(None, pair[1], 1)),
    )


@st.composite
def keys(draw: st.DrawFn, num_channels: int) -> tuple[Key, tuple[Any, ...]]:
    """A key, and the same with all axes and closed ends, as numpy needs it."""
    lower = [*([0] if num_channels > 1 else []), *BOUNDS.offset]
    upper = [*([num_channels] if num_channels > 1 else []), *BOUNDS.end]
    parts = [draw(part(low, high)) for low, high in zip(lower, upper, strict=True)]
    whole = [slice(low, high) for low, high in zip(lower, upper, strict=True)]
    closed = [
        one
        if not isinstance(one, slice)
        else slice(low if one.start is None else one.start, high if one.stop is None else one.stop)
        for one, low, high in zip(parts, lower, upper, strict=True)
    ]
    match draw(st.sampled_from(["all", "first", "ellipsis"])):
        case "first":
            count = draw(st.integers(0, len(parts)))
            key: Any = parts[0] if count == 1 and draw(st.booleans()) else tuple(parts[:count])
            return key, (*closed[:count], *whole[count:])
        case "ellipsis":
            before = draw(st.integers(0, len(parts)))
            after = draw(st.integers(0, len(parts) - before))
            last = len(parts) - after
            key = (*parts[:before], ..., *parts[last:])
            return key, (*closed[:before], *whole[before:last], *closed[last:])
        case _:
            return tuple(parts), tuple(closed)


@given(keys(1))
def test_a_key_of_one_channel_selects_what_numpy_selects(key: tuple[Key, tuple[Any, ...]]) -> None:
    given_key, closed = key
    np.testing.assert_array_equal(taken(given_key, BOUNDS, 1), volume(1)[0][closed])


@given(keys(3))
def test_a_key_of_several_channels_has_the_channel_axis_first(key: tuple[Key, tuple[Any, ...]]) -> None:
    given_key, closed = key
    np.testing.assert_array_equal(taken(given_key, BOUNDS, 3), volume(3)[closed])


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (np.s_[-1, 5, 7], "negative"),
        (np.s_[-4:5], "negative"),
        (np.s_[3:-1], "negative"),
        (np.s_[3:9:2], "step"),
        (np.s_[3:9:-1], "step"),
        (np.s_[2:5], "leaves 3:9"),
        (np.s_[3:10], "leaves 3:9"),
        (np.s_[9, 5, 7], "not in 3:9"),
        (np.s_[2, 5, 7], "not in 3:9"),
        (np.s_[6:4], "ends before it starts"),
        (np.s_[3, 5, 7, 0], "4 axes given, there are 3"),
        (np.s_[..., 3, ...], "one ellipsis"),
    ],
)
def test_what_would_surprise_is_an_index_error(key: Key, why: str) -> None:
    with pytest.raises(OutOfBounds, match=why) as caught:
        select(key, BOUNDS, 1)
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("key", [np.s_[1.5, 5, 7], np.s_["x"], np.s_[True], np.s_[None], np.s_[3.0:5.0]])
def test_what_is_no_position_is_a_value_error(key: Any) -> None:
    with pytest.raises(InvalidRequest, match="a position is a whole number"):
        select(key, BOUNDS, 1)


def test_a_range_that_may_grow_may_leave_the_bounds_but_not_the_space() -> None:
    selection = select(np.s_[0:20, 30, 7:], BOUNDS, 1, may_grow=True)
    assert selection.box == Box.of((0, 30, 7), (20, 1, 4))
    with pytest.raises(OutOfBounds, match="ends beyond"):
        select(np.s_[0 : 2**31], BOUNDS, 1, may_grow=True)
    with pytest.raises(OutOfBounds, match="negative"):
        select(np.s_[-1:3], BOUNDS, 1, may_grow=True)
    with pytest.raises(OutOfBounds, match="c leaves 0:3"):
        select(np.s_[0:4], BOUNDS, 3, may_grow=True)


def test_open_ends_select_nothing_without_data_and_are_refused_where_they_would_hide_a_write() -> None:
    empty = Box(Vec3(0, 0, 0), Vec3(0, 0, 0))
    assert select(np.s_[:], empty, 1).shape == (0, 0, 0)
    with pytest.raises(OutOfBounds, match="open end"):
        select(np.s_[:], empty, 1, may_grow=True)
    assert select(np.s_[0:4, 0:4, 0:4], empty, 1, may_grow=True).box.volume == 64
