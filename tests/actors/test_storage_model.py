"""A storage against a numpy array: whatever is done to it in whatever order, every read equals the model.

Each rule runs several requests at once. Those that overlap may end in any order that agrees with real time; the
revision each acknowledgement and each read carries says which one it was, and the model follows it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from magd.acknowledgement import Durability, Revision
from magd.actors.storage import Storage
from magd.actors.types import OperationState, StorageConfig
from magd.catalog.root import Root
from magd.geometry import Box, Vec3
from tests.support.voxels import finished, make_mag, read_result, write

if TYPE_CHECKING:
    from magd.catalog.names import MagName
    from magd.compression.pool import CompressionPool
    from magd.voxels import VoxelArray

EDGE = 40
"""The model is a cube of so many voxels; cube files have 16, blocks 8."""

offsets = st.tuples(*[st.integers(0, EDGE - 1)] * 3)
sizes = st.tuples(*[st.integers(1, 20)] * 3)
boxes = st.builds(lambda o, s: clipped(Box(Vec3.of(o), Vec3.of(s))), offsets, sizes)


def clipped(box: Box) -> Box:
    return box.intersection(Box.of((0, 0, 0), (EDGE,) * 3))


def slices(box: Box) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, b) for a, b in zip(box.offset, box.end, strict=True)))


class StorageMachine(RuleBasedStateMachine):
    """One mag of a storage, and what it must hold."""

    pool: CompressionPool

    @initialize(
        dtype=st.sampled_from(["uint8", "uint16", "int32", "float32", "uint64"]),
        channels=st.integers(1, 3),
        compressed=st.booleans(),
    )
    def create(self, dtype: str, channels: int, compressed: bool) -> None:
        self.folder = tempfile.mkdtemp(prefix="magd-model-")
        self.runner = asyncio.Runner()
        self.open()
        self.compressed = compressed
        self.mag: MagName = self.run(make_mag(self.storage, dtype=dtype, num_channels=channels, compressed=compressed))
        self.model: VoxelArray = np.zeros((channels, EDGE, EDGE, EDGE), dtype=dtype, order="F")
        self.written = Box.of((0, 0, 0), (0, 0, 0))
        self.last_revision = Revision(0, 0)
        self.value = 0
        self.retries = 0

    def open(self) -> None:
        config = StorageConfig(budget_bytes=64 << 20, io_threads=4)
        self.storage = Storage(Root(self.folder), config, self.pool)
        self.run(self.storage.__aenter__())

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def data(self, box: Box) -> VoxelArray:
        self.value = self.value % 200 + 1
        return np.full((self.model.shape[0], *box.size), self.value, dtype=self.model.dtype, order="F")

    @rule(
        writes=st.lists(boxes, min_size=1, max_size=5),
        reads=st.lists(boxes, max_size=3),
        durability=st.sampled_from(list(Durability)),
    )
    def write_and_read_at_once(self, writes: list[Box], reads: list[Box], durability: Durability) -> None:
        jobs = [(box, self.data(box)) for box in writes]

        async def both() -> tuple[list[Any], list[Any]]:
            acks = [write(self.storage, self.mag, box.offset, data, durability=durability) for box, data in jobs]
            seen = [read_result(self.storage, self.mag, box) for box in reads]
            results = await asyncio.gather(*acks, *seen)
            return results[: len(acks)], results[len(acks) :]

        acknowledged, seen = self.run(both())
        by_revision = sorted(zip(acknowledged, jobs, strict=True), key=lambda pair: pair[0].revision)
        assert len({ack.revision for ack, _ in by_revision}) == len(by_revision)
        states = {self.last_revision: self.model.copy()}
        for ack, (box, data) in by_revision:
            assert ack.revision > self.last_revision
            assert ack.durability >= durability
            self.model[slices(box)] = data
            self.written = self.written.union(box)
            self.last_revision = ack.revision
            states[ack.revision] = self.model.copy()
        for result in seen:
            # The read is at its revision, or a later one, as far as its own box is concerned: disjoint writes that
            # commit while it runs do not change what it sees.
            expected = max(revision for revision in states if revision <= max(result.revision, min(states)))
            assert np.array_equal(result.data, states[expected][slices(result.box)])

    @rule(box=boxes)
    def read_a_box(self, box: Box) -> None:
        result = self.run(read_result(self.storage, self.mag, box))
        assert np.array_equal(result.data, self.model[slices(box)])
        assert result.data.flags.f_contiguous

    @rule(box=boxes)
    def retry_a_write(self, box: Box) -> None:
        data = self.data(box)

        self.retries += 1
        request_id = f"retry-{self.retries}"

        async def three() -> list[Any]:
            first = [write(self.storage, self.mag, box.offset, data, request_id=request_id) for _ in range(2)]
            outcomes = list(await asyncio.gather(*first))
            outcomes.append(await write(self.storage, self.mag, box.offset, data, request_id=request_id))
            return outcomes

        outcomes = self.run(three())
        assert len({outcome.revision for outcome in outcomes}) == 1
        self.model[slices(box)] = data
        self.written = self.written.union(box)
        self.last_revision = outcomes[0].revision

    @precondition(lambda self: not self.compressed)
    @rule(writes=st.lists(boxes, max_size=4))
    def compress_while_writing(self, writes: list[Box]) -> None:
        jobs = [(box, self.data(box)) for box in writes]

        async def compress() -> Any:
            operation = await self.storage.compress(self.mag, target=None, level="auto", request_id="")
            acks = [await write(self.storage, self.mag, box.offset, data) for box, data in jobs]
            return await finished(self.storage, operation), acks

        operation, acks = self.run(compress())
        assert operation.state is OperationState.SUCCEEDED, operation
        for ack, (box, data) in zip(acks, jobs, strict=True):
            self.model[slices(box)] = data
            self.written = self.written.union(box)
            self.last_revision = ack.revision
        self.compressed = True

    @rule()
    def restart(self) -> None:
        self.run(self.storage.__aexit__(None, None, None))
        self.open()

    @invariant()
    def the_bounding_box_is_around_all_that_was_written(self) -> None:
        if hasattr(self, "storage"):
            info = self.run(self.storage.hierarchy.get_mag(self.mag))
            assert info.bounding_box == self.written or (info.bounding_box.is_empty and self.written.is_empty)

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            whole = self.run(read_result(self.storage, self.mag, Box.of((0, 0, 0), (EDGE,) * 3)))
            assert np.array_equal(whole.data, self.model)
            self.run(self.storage.flush(""))
            assert self.storage.budget.used_bytes == 0
            self.run(self.storage.__aexit__(None, None, None))
            self.runner.close()
            shutil.rmtree(self.folder)


def test_a_storage_behaves_like_a_numpy_array(pool: CompressionPool) -> None:
    class Machine(StorageMachine):
        pass

    Machine.pool = pool
    case = Machine.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
    case().runTest()
