"""The states of a disk after a power loss are those that the log allows, and all of those."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.powerloss.disk_log import DiskLogWriter, Flush, Write, log_length, read_log
from tests.powerloss.states import BLOCK, SECTOR, Images, PowerLoss, copy_sparse, draw, surviving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.powerloss.disk_log import Event

DISK_BYTES = 64 * BLOCK


def write(block: int, value: int, *, blocks: int = 1) -> Write:
    return Write(block * BLOCK, memoryview(bytes([value]) * (blocks * BLOCK)))


def image_of(events: Sequence[Event], state: PowerLoss, folder: Path) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    first, made = folder / "first", folder / "made"
    with open(first, "wb") as file:
        file.truncate(DISK_BYTES)
    Images(str(first), events, str(folder)).make(state, str(made))
    return np.fromfile(made, np.uint8)


def test_what_was_logged_is_read_in_order(tmp_path: Path) -> None:
    log = DiskLogWriter(str(tmp_path))
    assert log_length(str(tmp_path)) == 0
    log.write(8192, b"abc")
    log.flush()
    log.write(0, b"defg")
    assert log_length(str(tmp_path)) == 3
    first, flush, second = read_log(str(tmp_path))
    assert isinstance(flush, Flush)
    assert [(event.offset, bytes(event.data)) for event in (first, second) if isinstance(event, Write)] == [
        (8192, b"abc"),
        (0, b"defg"),
    ]


def test_an_empty_log_has_no_events(tmp_path: Path) -> None:
    DiskLogWriter(str(tmp_path))
    assert read_log(str(tmp_path)) == []


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_what_was_flushed_is_always_there_and_what_came_after_the_cut_never(kept: float, tmp_path: Path) -> None:
    events: list[Event] = [write(1, 1), write(2, 1), Flush(), write(2, 2), write(3, 3), write(4, 4)]
    image = image_of(events, PowerLoss(cut=5, kept=kept, unit=SECTOR, seed=7), tmp_path)
    assert (image[BLOCK : 2 * BLOCK] == 1).all()
    assert np.isin(image[2 * BLOCK : 3 * BLOCK], (1, 2)).all()
    assert np.isin(image[3 * BLOCK : 4 * BLOCK], (0, 3)).all()
    assert not image[4 * BLOCK :].any()
    if kept in (0.0, 1.0):
        assert (image[2 * BLOCK] == 2, image[3 * BLOCK] == 3) == (kept == 1.0, kept == 1.0)


def test_a_flush_at_the_cut_has_not_happened(tmp_path: Path) -> None:
    events: list[Event] = [write(1, 1), Flush()]
    assert not image_of(events, PowerLoss(cut=1, kept=0.0, unit=0, seed=0), tmp_path).any()
    assert image_of(events, PowerLoss(cut=2, kept=0.0, unit=0, seed=0), tmp_path).any()


@pytest.mark.parametrize("unit", [0, SECTOR, BLOCK])
def test_a_write_is_torn_at_its_unit_only_and_pieces_are_independent(unit: int) -> None:
    events = [write(1, 1, blocks=8), write(20, 2, blocks=8)]
    seen = set()
    for seed in range(40):
        pieces = list(surviving(events, PowerLoss(2, 0.5, unit, seed)))
        assert all((offset - BLOCK) % (unit or BLOCK) == 0 for offset, _ in pieces)
        assert all(len(data) == (unit or 8 * BLOCK) for _, data in pieces)
        seen.add(tuple(offset for offset, _ in pieces))
    assert ({(), (BLOCK,), (20 * BLOCK,), (BLOCK, 20 * BLOCK)} == seen) if unit == 0 else len(seen) > 30


def test_the_superblock_is_never_torn() -> None:
    for seed in range(20):
        pieces = list(surviving([write(0, 1)], PowerLoss(1, 0.5, SECTOR, seed)))
        assert [len(data) for _, data in pieces] in ([], [BLOCK])


@settings(max_examples=40, deadline=None)
@given(events=st.lists(st.sampled_from("wf"), min_size=1, max_size=40), seed=st.integers(0, 2**32))
def test_drawn_states_are_in_order_and_inside_the_log(events: list[str], seed: int) -> None:
    log = [write(at, 1) if kind == "w" else Flush() for at, kind in enumerate(events)]
    first = seed % len(log)
    states = draw(log, first, [first, len(log)], 30, seed)
    assert len(states) == 30
    assert states == sorted(states)
    assert all(first <= state.cut <= len(log) for state in states)
    assert states == draw(log, first, [first, len(log)], 30, seed)


def test_images_made_one_after_the_other_are_as_if_each_were_made_alone(tmp_path: Path) -> None:
    log = [write(at % 50, at) if at % 7 else Flush() for at in range(1, 120)]
    states = draw(log, 0, [], 20, seed=3)
    first = tmp_path / "first"
    with open(first, "wb") as file:
        file.truncate(DISK_BYTES)
    images = Images(str(first), log, str(tmp_path))
    for number, state in enumerate(states):
        images.make(state, str(tmp_path / "state"))
        alone = tmp_path / str(number)
        alone.mkdir()
        assert np.array_equal(np.fromfile(tmp_path / "state", np.uint8), image_of(log, state, alone))


def test_states_must_come_in_the_order_of_their_cuts(tmp_path: Path) -> None:
    first = tmp_path / "first"
    with open(first, "wb") as file:
        file.truncate(DISK_BYTES)
    images = Images(str(first), [write(1, 1), Flush(), write(2, 1)], str(tmp_path))
    images.make(PowerLoss(3, 1.0, 0, 0), str(tmp_path / "state"))
    with pytest.raises(ValueError, match="later cut"):
        images.make(PowerLoss(1, 1.0, 0, 0), str(tmp_path / "state"))


def test_a_copy_of_a_file_with_holes_is_equal_and_has_the_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"x" * 10_000, 5_000_000)
        os.pwrite(file.fileno(), b"y", (64 << 20) - 1)
    target.write_bytes(b"longer ago" * 10_000_000)
    copy_sparse(str(source), str(target))
    assert source.read_bytes() == target.read_bytes()
    assert target.stat().st_blocks * 512 < 8 << 20
