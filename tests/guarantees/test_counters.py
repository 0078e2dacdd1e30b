"""Several who change the same voxels at once lose nothing, also while the daemon is killed: each counts in a slot, so
that a lost update is a wrong count (as in TensorStore's tests of concurrent writes)."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

import magd_client
from magd_client import Conflict

if TYPE_CHECKING:
    from pathlib import Path

    from magd_client import MagHandle, Revision
    from tests.conftest import Serve

CLIENTS = 4
INCREMENTS = 20
PLACE = (12, 14, 15)
"""Over the borders of eight cube files of 16 voxels."""
SIZE = (6, 4, 3)


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_clients_that_count_in_the_same_voxels_count_right_also_while_the_daemon_is_killed(
    serve: Serve, tmp_path: Path, unix_address: str, compressed: bool
) -> None:
    drawn = random.Random(compressed)
    daemon = serve(tmp_path, grpc=unix_address)
    with magd_client.connect(unix_address) as client:
        layer = client.create_dataset("d", voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint32")
        layer.add_mag("1", block_len=8, file_len=2, compressed=compressed)
    with ThreadPoolExecutor(CLIENTS) as threads:
        running = [threads.submit(count, unix_address, number) for number in range(CLIENTS)]
        for _ in range(2):
            time.sleep(drawn.uniform(0.05, 0.4))  # a moment of the load, whichever
            daemon.kill()
            daemon = serve(tmp_path, grpc=unix_address)
        conflicts = sum(future.result() for future in running)
    with magd_client.connect(unix_address) as client:
        mag = client.dataset("d").layer("l").mag("1")
        assert (mag.read(PLACE, SIZE) == CLIENTS * INCREMENTS).all(), f"{conflicts} conflicts"
        slots = mag.read((0, 0, 0), (CLIENTS, 1, 1))[0, :, 0, 0]
        assert slots.tolist() == [INCREMENTS] * CLIENTS


def count(address: str, number: int) -> int:
    """Add one to a box that all share, and to a voxel of one's own that all write around.

    :return: how often somebody else was faster
    """
    conflicts = 0
    with magd_client.connect(address) as client:
        mag = client.dataset("d").layer("l").mag("1")
        for done in range(1, INCREMENTS + 1):
            while not increment(mag):
                conflicts += 1
            # Zero everywhere but in the own slot: the slots of the others are left as they are.
            slots = np.zeros((CLIENTS, 1, 1), "uint32")
            slots[number] = done
            mag.write(slots, (0, 0, 0), only_nonzero=True)
    return conflicts


def increment(mag: MagHandle) -> bool:
    """:return: False if another client was faster"""
    revision = revision_of(mag)
    data = mag.read(PLACE, SIZE)
    assert (data == data.flat[0]).all(), "a box is torn"
    try:
        mag.write(data + np.uint32(1), PLACE, if_revision=revision)
    except Conflict:
        return False
    return True


def revision_of(mag: MagHandle) -> Revision:
    revision = mag.get_info().revision
    while revision is None:  # nobody has used the mag since the daemon was started
        mag.read(PLACE, SIZE)
        revision = mag.get_info().revision
    return revision


def test_a_condition_on_a_state_that_a_kill_has_taken_does_not_hold(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(tmp_path)
    data = np.ones((4, 4, 4), "uint8")
    with magd_client.connect(daemon.grpc) as client:
        layer = client.create_dataset("d", voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint8")
        mag = layer.add_mag("1", block_len=8, file_len=2, compressed=True)
        mag.write(data, durability="none")
        seen = revision_of(mag)
        assert (mag.read((0, 0, 0), (4, 4, 4)) == 1).all()
    daemon.kill()
    with magd_client.connect(serve(tmp_path).grpc) as client:
        mag = client.dataset("d").layer("l").mag("1")
        assert not mag.read((0, 0, 0), (4, 4, 4)).any(), (
            "it promised nothing, and in a compressed mag it was not written"
        )
        with pytest.raises(Conflict):
            mag.write(data * 2, if_revision=seen)
        mag.write(data * 2, if_revision=revision_of(mag))
