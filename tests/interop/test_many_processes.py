"""Many processes that write one mag at the same time through one daemon lose nothing of each other.

One slot per writer, after the test of TensorStore for concurrent writes: each process counts up in a voxel of its own,
reading and writing boxes that overlap those of all others only in blocks and cube files, never in voxels. A lost update
is a wrong count.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import numpy as np
import pytest

import magd_client

if TYPE_CHECKING:
    from multiprocessing.context import ForkContext, SpawnContext
    from pathlib import Path

    from tests.conftest import Serve

WRITERS = 4
ROUNDS = 25


def count_up(address: str, number: int) -> None:
    """Count to ROUNDS in a column of voxels that crosses a border of cube files; extend the bounding box on the way."""
    with magd_client.connect(address, durability="process") as client:
        dataset = client.create_dataset("shared", voxel_size=(1, 1, 1), exist_ok=True)
        layer = dataset.add_layer("counts", category="segmentation", dtype="uint32", exist_ok=True)
        mag = layer.add_mag(1, block_len=8, file_len=2, exist_ok=True)
        for _ in range(ROUNDS):
            column = mag.read(offset=(number, 3, 12), size=(1, 1, 8))
            mag.write(column + 1, offset=(number, 3, 12))
        mag.write(np.full((1, 2, 1), number + 1, np.uint32), offset=(number, 20 * (number + 1), 40))


@pytest.mark.parametrize("start", [multiprocessing.get_context("spawn"), multiprocessing.get_context("fork")])
def test_every_count_is_right_and_the_bounding_box_is_around_all(
    serve: Serve, tmp_path: Path, any_address: str, start: SpawnContext | ForkContext
) -> None:
    daemon = serve(tmp_path, grpc=any_address)
    writers = [start.Process(target=count_up, args=(daemon.grpc, number)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    with magd_client.connect(daemon.grpc) as client:
        layer = client.dataset("shared").layer("counts")
        counts = layer.mag(1).read(offset=(0, 3, 12), size=(WRITERS, 1, 8))
        assert (counts == ROUNDS).all()
        box = layer.get_bounding_box()
        assert tuple(box.offset) == (0, 3, 12)
        assert tuple(box.end) == (WRITERS, 20 * WRITERS + 2, 41)
