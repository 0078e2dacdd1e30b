"""Python's search for reference cycles."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from magd import garbage
from magd.errors import DataLoss, MagdError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Data:
    """Something large."""


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.enable()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_there_is_left_out_and_new_objects_are_searched_less_often() -> None:
    garbage.search_less()
    assert gc.get_threshold() == garbage.THRESHOLDS
    assert gc.get_freeze_count() > 1000
    assert gc.isenabled()


def test_cycles_of_later_are_found_still() -> None:
    garbage.search_less()
    one = Data()
    one.__dict__["itself"] = one
    seen = weakref.ref(one)
    del one
    gc.collect()
    assert seen() is None


def test_an_error_that_let_go_holds_nothing_of_where_it_was_raised() -> None:
    kept: list[MagdError] = []

    def fail(data: Data) -> weakref.ref[Data]:
        try:
            try:
                raise OSError("no")
            except OSError as error:
                raise DataLoss("it cannot be read") from error
        except MagdError as error:
            kept.append(error)
        return weakref.ref(data)

    gc.disable()
    seen = fail(Data())
    assert seen() is not None, "the frame is in the traceback"
    kept[0].let_go()
    assert seen() is None
    assert kept[0].message == "it cannot be read"
