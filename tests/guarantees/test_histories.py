"""Reads and writes of overlapping boxes by clients at once are linearizable; and the checks find histories that are
not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.geometry import Box, Vec3
from magd_client import Revision
from tests.guarantees.attempts import DTYPE, GuaranteeBroken
from tests.guarantees.histories import Operation, Traffic, check_by_revisions, check_by_search, record_and_check
from tests.guarantees.linearizability import Step, is_linearizable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

EDGE = 8
WHOLE = Box(Vec3(0, 0, 0), Vec3(EDGE, EDGE, EDGE))
HALF = Box(Vec3(0, 0, 0), Vec3(EDGE // 2, EDGE, EDGE))


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_what_eight_clients_read_and_write_at_once_is_linearizable(
    serve: Serve, tmp_path: Path, compressed: bool
) -> None:
    daemon = serve(tmp_path)
    checked = record_and_check(daemon.grpc, "watched", Traffic(), seed=7, compressed=compressed)
    assert checked.operations >= 1000
    assert checked.searched > 1000
    assert checked.masked > 50
    assert checked.conditional > 10


# -- what the checks find ----------------------------------------------------------------------------------------------


def wrote(box: Box, value: int, counter: int, sent: float, done: float) -> Operation:
    return Operation(0, box, sent, done, Revision(1, counter), value, None)


def read(box: Box, seen: int, counter: int, sent: float, done: float) -> Operation:
    data = np.full(tuple(box.size), seen, DTYPE, order="F")
    return Operation(1, box, sent, done, Revision(1, counter), None, data)


GOOD = [
    wrote(WHOLE, 1, 1, 0.0, 1.0),
    read(HALF, 1, 1, 0.5, 2.0),
    wrote(HALF, 2, 2, 1.5, 4.0),
    read(HALF, 2, 2, 2.0, 3.0),
    read(HALF, 2, 2, 5.0, 6.0),
]
BAD = {
    "a stale read": [*GOOD, read(HALF, 1, 1, 7.0, 8.0)],
    "a read from the future": [*GOOD, read(HALF, 3, 3, 7.0, 8.0), wrote(HALF, 3, 3, 9.0, 10.0)],
    "a read that goes back": [*GOOD[:3], GOOD[3], read(HALF, 1, 1, 3.5, 3.8)],
    "a lost update": [*GOOD, wrote(HALF, 3, 3, 7.0, 8.0), read(HALF, 2, 3, 9.0, 10.0)],
    "a value that nobody wrote": [*GOOD, read(HALF, 9, 2, 7.0, 8.0)],
}


def test_a_history_that_can_be_is_accepted() -> None:
    check_by_revisions(GOOD, EDGE)
    assert check_by_search(GOOD, EDGE, seed=1, searches=10, voxels=1)
    assert check_by_search(GOOD, EDGE, seed=1, searches=10, voxels=3)


@pytest.mark.parametrize("what", BAD)
def test_a_history_that_cannot_be_is_rejected_by_both_checks(what: str) -> None:
    with pytest.raises(GuaranteeBroken):
        check_by_revisions(BAD[what], EDGE)
    with pytest.raises(GuaranteeBroken, match="no order"):
        check_by_search(BAD[what], EDGE, seed=1, searches=10, voxels=1)


def test_a_torn_box_is_rejected_also_where_each_voxel_alone_can_be() -> None:
    torn = read(WHOLE, 1, 1, 2.5, 3.5)
    assert torn.seen is not None
    torn.seen[:3] = 2  # a part of a write that is under way
    history = [*GOOD[:3], torn]
    with pytest.raises(GuaranteeBroken, match="not those of its revision"):
        check_by_revisions(history, EDGE)
    check_by_search(history, EDGE, seed=1, searches=20, voxels=1)
    with pytest.raises(GuaranteeBroken, match="no order"):
        check_by_search(history, EDGE, seed=1, searches=200, voxels=2)


def test_one_revision_for_two_writes_is_rejected() -> None:
    with pytest.raises(GuaranteeBroken, match="one revision"):
        check_by_revisions([*GOOD, replace(GOOD[2], written=3)], EDGE)


def test_a_write_that_changed_voxels_outside_of_its_mask_is_rejected_by_both_checks() -> None:
    mask = np.zeros((EDGE // 2, EDGE, EDGE), "bool")
    masked = replace(wrote(HALF, 3, 3, 7.0, 8.0), mask=mask)
    after = read(HALF, 2, 3, 9.0, 10.0)
    check_by_revisions([*GOOD, masked, after], EDGE)
    assert check_by_search([*GOOD, masked, after], EDGE, seed=1, searches=10, voxels=1)
    mask[:] = True
    with pytest.raises(GuaranteeBroken):
        check_by_revisions([*GOOD, masked, after], EDGE)
    with pytest.raises(GuaranteeBroken, match="no order"):
        check_by_search([*GOOD, masked, after], EDGE, seed=1, searches=10, voxels=1)


def test_a_condition_that_did_not_hold_is_rejected() -> None:
    other = wrote(Box(Vec3(4, 0, 0), Vec3(4, 8, 8)), 3, 3, 7.0, 8.0)
    conditional = replace(wrote(HALF, 4, 4, 9.0, 10.0), since=Revision(1, 2))
    check_by_revisions([*GOOD, other, conditional], EDGE)
    with pytest.raises(GuaranteeBroken, match="came one before"):
        check_by_revisions([*GOOD, other, replace(conditional, since=Revision(1, 1))], EDGE)


def test_revisions_against_real_time_are_rejected_also_of_boxes_apart() -> None:
    other = Box(Vec3(4, 0, 0), Vec3(4, 8, 8))
    with pytest.raises(GuaranteeBroken, match="done before"):
        check_by_revisions([wrote(other, 1, 2, 0.0, 1.0), wrote(HALF, 2, 1, 2.0, 3.0)], EDGE)


def test_the_search_finds_an_order_only_where_one_is() -> None:
    def write(value: int, sent: float, done: float) -> Step:
        return Step(sent, done, True, (value,))

    def see(value: int, sent: float, done: float) -> Step:
        return Step(sent, done, False, (value,))

    overlapping = [write(1, 0, 10), write(2, 0, 10), see(2, 1, 2), see(1, 3, 4)]
    assert is_linearizable(overlapping, (0,))
    assert not is_linearizable([*overlapping, see(2, 5, 6)], (0,))
    assert is_linearizable([write(1, 0, 10), see(0, 1, 2), see(1, 3, 4)], (0,))
    assert not is_linearizable([write(1, 0, 10), see(1, 1, 2), see(0, 3, 4)], (0,))
    assert is_linearizable([], (0,))
