"""Copying pieces in several threads."""

from __future__ import annotations

import itertools
import threading

import pytest

from magd.cli.transfer import copy_pieces
from magd.geometry import Box

PIECES = [Box.of((index, 0, 0), (1, 1, 1)) for index in range(40)]


def test_each_piece_is_copied_once_and_counted() -> None:
    copied: list[Box] = []
    advanced: list[int] = []

    def copy(piece: Box) -> int:
        copied.append(piece)
        return piece.offset.x

    assert copy_pieces(PIECES, copy, 4, advanced.append) == sum(range(40))
    assert sorted(copied, key=lambda box: box.offset) == PIECES
    assert sorted(advanced) == list(range(40))


def test_no_more_pieces_than_jobs_are_under_way() -> None:
    under_way: set[int] = set()
    most = 0
    lock = threading.Lock()
    together = threading.Barrier(3)

    def copy(piece: Box) -> int:
        nonlocal most
        with lock:
            under_way.add(piece.offset.x)
            most = max(most, len(under_way))
        # Passes only when three are under way at once.
        together.wait(30)
        with lock:
            under_way.remove(piece.offset.x)
        return 1

    copy_pieces(PIECES[:30], copy, 3, lambda _: None)
    assert most == 3


def test_the_first_failure_stops_the_rest_and_is_raised() -> None:
    copied = 0

    def copy(piece: Box) -> int:
        nonlocal copied
        if piece.offset.x == 3:
            raise OSError("no more")
        copied += 1
        return 1

    with pytest.raises(OSError, match="no more"):
        copy_pieces(PIECES, copy, 1, lambda _: None)
    assert copied == 3


def test_a_failure_in_one_thread_stops_the_others() -> None:
    def copy(piece: Box) -> int:
        if piece.offset.x == 100:
            raise OSError("no more")
        return 1

    endless = (Box.of((index, 0, 0), (1, 1, 1)) for index in itertools.count())
    with pytest.raises(OSError, match="no more"):
        copy_pieces(endless, copy, 3, lambda _: None)


def test_nothing_to_copy_is_nothing() -> None:
    assert copy_pieces([], lambda _: 1, 2, lambda _: None) == 0
