"""Large boxes never stop the event loop: no turn of it touches more than a message's worth of their bytes.

Bytes are counted, not time: a count is the same on a busy machine. What touches many bytes is wrapped, and adds to the
count of the turn in which the loop's own thread runs it.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

import magd_client.aio
from magd.actors import requests
from magd.actors.arrival import Arrival
from magd.actors.storage import Storage
from magd.actors.types import StorageConfig
from magd.catalog.root import Root
from magd.compression.pool import CompressionPool
from magd.cubes.mag_files import MagFiles
from magd.framing import ReadFrame
from magd.journal import journal_file, staging
from magd.journal.overlay import Entry
from magd.rpc.addresses import HostPort
from magd.rpc.admission import EdgeConfig
from magd.rpc.server import rpc_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MOST_BYTES = 2 << 20
EDGE = 320
"""Of the boxes, in voxels: 31 MiB each."""


class Turns:
    """What the turns of this thread's event loop touch.

    :ivar largest: bytes of the turn that touched most
    :ivar elsewhere: bytes that other threads touched
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.largest = 0
        self.elsewhere = 0
        self._now = 0
        self._patch = patch
        self._thread = threading.get_ident()
        real = asyncio.Handle._run

        def run(handle: asyncio.Handle) -> None:
            self._now = 0
            real(handle)
            self.largest = max(self.largest, self._now)

        patch.setattr(asyncio.Handle, "_run", run)

    def count(self, owner: Any, name: str, size_of: Callable[..., int]) -> None:
        """Count what a function touches.

        :param size_of: of its arguments
        """
        real = getattr(owner, name)

        @functools.wraps(real)
        def counted(*arguments: Any, **options: Any) -> Any:
            size_bytes = size_of(*arguments)
            if threading.get_ident() == self._thread:
                self._now += size_bytes
            else:
                self.elsewhere += size_bytes
            return real(*arguments, **options)

        self._patch.setattr(owner, name, counted)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    turns = Turns(monkeypatch)
    turns.count(Arrival, "add", lambda _, part: len(part))
    turns.count(ReadFrame, "encode", lambda frame: len(frame.data))
    turns.count(requests, "checksum_of", len)
    turns.count(journal_file, "checksum_of", len)
    for module in (journal_file, staging):
        turns.count(module, "write_all", lambda _, buffers, __: sum(map(len, buffers)))
    turns.count(MagFiles, "read", lambda files, box: files.header.voxels.nbytes(box))
    turns.count(MagFiles, "write_many", lambda _, writes: sum(data.nbytes for _, data in writes))
    turns.count(Entry, "paint", lambda entry, _, around: entry.box.intersection(around).volume)
    return turns


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    pool = CompressionPool(workers=1)
    await asyncio.to_thread(pool.start)
    try:
        async with (
            Storage(Root(str(tmp_path)), StorageConfig(budget_bytes=512 << 20), pool) as storage,
            rpc_server(storage, HostPort("127.0.0.1", 0), EdgeConfig(), CollectorRegistry()) as server,
        ):
            server.set_serving()
            yield str(server.address)
    finally:
        await asyncio.to_thread(pool.close)


@pytest.mark.parametrize("durability", ["process", "disk"])
async def test_no_turn_of_the_loop_touches_more_than_two_mebibytes(
    turns: Turns, address: str, durability: Literal["process", "disk"]
) -> None:
    data = np.asfortranarray(np.random.default_rng(1).integers(0, 256, (1, EDGE, EDGE, EDGE), dtype=np.uint8))
    async with magd_client.aio.connect(address) as client:
        dataset = await client.create_dataset("brain", voxel_size=(1.0, 1.0, 1.0))
        layer = await dataset.add_layer("color", category="color", dtype="uint8", num_channels=1)
        mag = await layer.add_mag("1", block_len=32, file_len=4)
        for offset in ((0, 0, 0), (40, 50, 60)):  # new and over what is there; two at once on top
            await asyncio.gather(
                mag.write(data, offset=offset, durability=durability),
                mag.write(data, offset=(1000, *offset[1:]), durability=durability),
                mag.read(offset=(0, 0, 0), size=(EDGE, EDGE, EDGE)),
            )
        read = await mag.read(offset=(40, 50, 60), size=(EDGE, EDGE, EDGE))
        await mag.flush()
    np.testing.assert_array_equal(read, data)
    # Of the client, which shares this loop, nothing is counted but what the daemon's own functions do for it.
    assert 1 << 20 <= turns.largest <= MOST_BYTES
    assert turns.elsewhere > 10 * data.nbytes, "what is counted is what does the work"
