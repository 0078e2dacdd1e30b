"""The index of boxes, compared with a look at all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magd.box_index import BoxIndex
from magd.geometry import Box

sizes = st.one_of(st.integers(1, 300), st.sampled_from((5000, 2**30)))
boxes = st.builds(Box.of, st.tuples(*[st.integers(0, 600)] * 3), st.tuples(sizes, sizes, sizes))


@given(
    steps=st.lists(st.one_of(boxes, st.integers(0, 30)), max_size=60),
    questions=st.lists(boxes, min_size=1, max_size=5),
)
def test_it_finds_what_shares_a_voxel_in_the_order_of_adding(steps: list[Box | int], questions: list[Box]) -> None:
    index, model = BoxIndex[int](), dict[int, Box]()
    for number, step in enumerate(steps):
        if isinstance(step, Box):
            index.add(number, step)
            model[number] = step
        elif model:
            gone = sorted(model)[step % len(model)]
            index.remove(gone)
            del model[gone]
    assert list(index) == list(model)
    assert len(index) == len(model)
    for box in questions:
        assert index.touching(box) == [number for number, other in model.items() if other.intersects(box)]


def test_an_item_that_is_not_there_cannot_be_removed() -> None:
    index = BoxIndex[str]()
    index.add("a", Box.of((0, 0, 0), (1, 1, 1)))
    index.remove("a")
    with pytest.raises(KeyError):
        index.remove("a")
    assert index.touching(Box.of((0, 0, 0), (1, 1, 1))) == []
