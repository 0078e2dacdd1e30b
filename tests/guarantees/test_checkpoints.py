"""A checkpoint and a compression, or a shrunk bounding box, do not get in each other's way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import magd_client
from magd.actors import journal_keeper, opening
from magd.actors import mag as mag_module
from magd.actors.storage import Storage
from magd.actors.types import OperationState, StorageConfig
from magd.catalog.root import Root
from magd.compression.pool import CompressionPool
from magd.journal.journal import Journal
from magd_client import BoundingBox, Vec3
from tests.support.voxels import finished, make_mag, read, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magd_client import Layer
    from tests.conftest import Serve

SMALL = BoundingBox(Vec3(0, 0, 0), Vec3(8, 8, 8))


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressionPool]:
    pool = CompressionPool(workers=1)
    pool.start()
    yield pool
    pool.close()


async def test_the_files_of_a_mag_are_not_exchanged_while_a_checkpoint_removes_old_journal_files(
    tmp_path: Path, pool: CompressionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Journal files are removed by their paths: after the exchange those would be the paths of the new journal.
    retiring, exchanged, together = threading.Event(), threading.Event(), threading.Event()
    retire, exchange = Journal.retire, opening.exchange_files

    def slow_retire(journal: Journal, *arguments: Any) -> None:
        retiring.set()
        exchanged.wait(1.0)
        retire(journal, *arguments)
        retiring.clear()

    def watched_exchange(*arguments: Any) -> Any:
        if retiring.is_set():
            together.set()
        exchanged.set()
        return exchange(*arguments)

    monkeypatch.setattr(Journal, "retire", slow_retire)
    monkeypatch.setattr(mag_module, "exchange_files", watched_exchange)
    monkeypatch.setattr(journal_keeper, "CHECKPOINT_BYTES", 1)
    data = np.full((16, 16, 16), 3, dtype="uint8", order="F")
    async with Storage(Root(str(tmp_path)), StorageConfig(), pool) as storage:
        mag = await make_mag(storage)
        await write(storage, mag, (0, 0, 0), data)  # and the journal is larger than it should be
        operation = await finished(storage, await storage.compress(mag, target=None, level="fast", request_id=""))
        assert operation.state is OperationState.SUCCEEDED
        assert exchanged.is_set()
        assert not together.is_set()
        assert (await read(storage, mag, (0, 0, 0), (16, 16, 16)) == 3).all()


# -- a bounding box that was made smaller ------------------------------------------------------------------------------


@pytest.fixture
def shrunk(serve: Serve, tmp_path: Path) -> Path:
    """A root whose daemon was killed after it had made a bounding box smaller that a write had extended."""
    daemon = serve(tmp_path)
    with magd_client.connect(daemon.grpc) as client:
        layer = client.create_dataset("d", voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint8")
        mag = layer.add_mag("1", block_len=8, file_len=2, compressed=True)
        mag.write(np.ones((30, 30, 30), "uint8"))
        shrink(layer)
        assert layer.get_bounding_box() == SMALL
    daemon.kill()
    return tmp_path


def shrink(layer: Layer) -> None:
    layer.set_bounding_box(SMALL, etag=layer.get_info().etag)


def test_replay_does_not_extend_a_bounding_box_that_was_made_smaller(serve: Serve, shrunk: Path) -> None:
    with magd_client.connect(serve(shrunk).grpc) as client:
        layer = client.dataset("d").layer("l")
        assert (layer.mag("1").read((0, 0, 0), (30, 30, 30)) == 1).all()
        assert layer.get_bounding_box() == SMALL


def test_a_checkpoint_does_not_extend_a_bounding_box_that_was_made_smaller(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(tmp_path)
    with magd_client.connect(daemon.grpc) as client:
        layer = client.create_dataset("d", voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint8")
        layer.add_mag("1", block_len=8, file_len=2, compressed=True).write(np.ones((30, 30, 30), "uint8"))
    daemon.kill()
    with magd_client.connect(serve(tmp_path).grpc) as client:
        layer = client.dataset("d").layer("l")
        mag = layer.mag("1")
        mag.read()
        shrink(layer)
        mag.flush()
        assert layer.get_bounding_box() == SMALL
        mag.write(np.ones((4, 4, 4), "uint8"))
        mag.flush()
        assert layer.get_bounding_box() == SMALL
