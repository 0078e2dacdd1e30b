"""What clients saw while they read and wrote overlapping boxes at once, and whether that can be.

`record` lets several clients, over connections of their own, draw boxes; each write fills its box with a value of its
own, or with a mask some voxels of it. Some writes travel in batches, and some have a condition: that no overlapping box
was committed since the client read theirs. Two checks, independent of each other:

- `check_by_revisions` believes the revisions: they agree with real time, and every read holds exactly what the writes
  up to its revision, applied in that order, leave in its box. (Writes of unique values and a log position in each
  answer make this cheap; etcd's robustness tests do it so.) A box that is torn differs from every such state. No write
  lies between one with a condition and the revision that it names.
- `check_by_search` does not: for some voxels it searches for any order that explains what was seen.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
import numpy as np
import numpy.typing as npt

import magd_client
from magd.geometry import Box, Vec3
from magd.v1 import types_pb2, volume_pb2, volume_pb2_grpc
from magd_client import Reason, Revision
from magd_client.convert import box_to_proto, revision_to_proto
from magd_client.status import error_of_call
from tests.guarantees.attempts import DTYPE, GuaranteeBroken, Voxels, within
from tests.guarantees.linearizability import Step, is_linearizable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Mask = npt.NDArray[np.bool_]

SEARCHED_AT_MOST: Final = 300
"""Operations in one search: its time grows fast with their number."""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """A read or a write that has ended well."""

    client: int
    box: Box
    sent: float
    """By the clock `time.monotonic`; so is `done`."""
    done: float
    revision: Revision
    """Of a write: its own. Of a read: that of the mag it saw."""
    written: int | None
    """The value that fills the box; None for a read."""
    seen: Voxels | None
    """What a read got: (x, y, z); None for a write."""
    mask: Mask | None = None
    """Which voxels a write leaves as they are: False; None: it writes all."""
    since: Revision | None = None
    """The condition of a write: nothing that overlaps it was committed after this."""

    def __str__(self) -> str:
        what = "read" if self.written is None else f"wrote {self.written}"
        return f"client {self.client} {what} {self.box} at {self.revision}, {self.sent:.6f} to {self.done:.6f}"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What clients do."""

    edge: int = 32
    """Of the arena, in voxels. It holds zeros at first."""
    clients: int = 8
    operations: int = 1000
    """Of all clients together."""
    reads: float = 0.5
    """Their share; so for what follows."""
    batches: float = 0.05
    """Of several small boxes."""
    masked: float = 0.1
    conditional: float = 0.1
    """Each after a read of its box."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was checked of one history."""

    operations: int
    searched: int
    """Operations in all searches together."""
    masked: int
    conditional: int
    """Of the writes, those whose condition held."""


def record_and_check(address: str, dataset: str, traffic: Traffic, seed: int, *, compressed: bool) -> Checked:
    """Record a history of a new mag, and check it both ways.

    :param dataset: a name that is free
    :raises GuaranteeBroken: it cannot be
    """
    with magd_client.connect(address) as client:
        layer = client.create_dataset(dataset, voxel_size=(1, 1, 1)).add_layer(
            "values", category="segmentation", dtype="uint32"
        )
        mag = layer.add_mag("1", block_len=8, file_len=2, compressed=compressed)
    history = asyncio.run(record(address, mag.name, traffic, seed))
    check_by_revisions(history, traffic.edge)
    searched = check_by_search(history, traffic.edge, seed, searches=10, voxels=1)
    searched += check_by_search(history, traffic.edge, seed + 1, searches=3, voxels=2)
    return Checked(
        len(history),
        searched,
        masked=sum(operation.mask is not None for operation in history),
        conditional=sum(operation.since is not None for operation in history),
    )


# -- recording ---------------------------------------------------------------------------------------------------------


async def record(address: str, mag: str, traffic: Traffic, seed: int) -> list[Operation]:
    """Let the clients work.

    :param address: HOST:PORT or unix:PATH
    :param mag: the resource name of one that is empty
    """
    values = itertools.count(1)
    drawn = random.Random(seed)
    clients = [
        _Client(number, address, mag, traffic, values, drawn.getrandbits(64)) for number in range(traffic.clients)
    ]
    histories = await asyncio.gather(*(client.run() for client in clients))
    return [operation for history in histories for operation in history]


class _Client:
    def __init__(self, number: int, address: str, mag: str, traffic: Traffic, values: Iterator[int], seed: int) -> None:
        self._number = number
        self._address = address
        self._mag = mag
        self._traffic = traffic
        self._values = values
        self._random = random.Random(seed)

    async def run(self) -> list[Operation]:
        # Without sharing subchannels: each client has a connection of its own.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._address, options=options) as channel:
            # The generated stub is typed for channels that block.
            stub: Any = volume_pb2_grpc.VolumeServiceStub(channel)
            history: list[Operation] = []
            while len(history) < self._traffic.operations // self._traffic.clients:
                history.extend(await self._act(stub))
            return history

    async def _act(self, stub: Any) -> list[Operation]:
        traffic, kind, box = self._traffic, self._random.random(), self._draw_box()
        if (kind := kind - traffic.reads) < 0:
            return [await self._read(stub, box)]
        if (kind := kind - traffic.batches) < 0:
            return await self._write_batch(stub)
        if (kind := kind - traffic.masked) < 0:
            return [await self._write(stub, box, mask=self._draw_mask(box))]
        if kind - traffic.conditional < 0:
            before = await self._read(stub, box)
            try:
                return [before, await self._write(stub, box, since=before.revision)]
            except grpc.aio.AioRpcError as error:
                if error_of_call(error, self._address).reason is not Reason.REVISION_MISMATCH:
                    raise
                return [before]  # it changed nothing
        return [await self._write(stub, box)]

    async def _write(
        self, stub: Any, box: Box, *, mask: Mask | None = None, since: Revision | None = None
    ) -> Operation:
        value = next(self._values)
        request = self._request(box, value, mask=mask, since=since)
        sent = time.monotonic()
        response = await stub.WriteBox(iter([request]))
        revision = revision_of(response.revision)
        return Operation(self._number, box, sent, time.monotonic(), revision, value, None, mask, since)

    async def _write_batch(self, stub: Any) -> list[Operation]:
        """Boxes in one message; those that overlap take effect in its order."""
        edge = self._traffic.edge // 4
        writes = [(self._draw(edge), next(self._values)) for _ in range(self._random.randint(2, 12))]
        request = volume_pb2.WriteBoxBatchRequest(boxes=[self._request(box, value) for box, value in writes])
        sent = time.monotonic()
        response = await stub.WriteBoxBatch(request)
        done = time.monotonic()
        operations = []
        for (box, value), result in zip(writes, response.results, strict=True):
            assert result.HasField("acknowledgement"), result
            revision = revision_of(result.acknowledgement.revision)
            operations.append(Operation(self._number, box, sent, done, revision, value, None))
        for before, after in itertools.combinations(operations, 2):
            if before.box.intersects(after.box) and before.revision > after.revision:
                raise GuaranteeBroken(f"in a batch this came first:\n  {before}\n  {after}")
        return operations

    def _request(
        self, box: Box, value: int, *, mask: Mask | None = None, since: Revision | None = None
    ) -> volume_pb2.WriteBoxRequest:
        data = np.full(tuple(box.size), value, DTYPE, order="F")
        if mask is not None:
            data[~mask] = 0
        return volume_pb2.WriteBoxRequest(
            name=self._mag,
            box=box_to_proto(box),
            data_type=types_pb2.DATA_TYPE_UINT32,
            num_channels=1,
            durability=self._random.choice([types_pb2.DURABILITY_PROCESS, types_pb2.DURABILITY_DISK]),
            mask=volume_pb2.MASK_ALL if mask is None else volume_pb2.MASK_NONZERO,
            if_revision=revision_to_proto(since),
            data=data.tobytes(order="F"),
        )

    async def _read(self, stub: Any, box: Box) -> Operation:
        sent = time.monotonic()
        parts = [part async for part in stub.ReadBox(volume_pb2.ReadBoxRequest(name=self._mag, box=box_to_proto(box)))]
        done = time.monotonic()
        revision = revision_of(parts[0].revision)
        seen = np.frombuffer(b"".join(part.data for part in parts), DTYPE).reshape(tuple(box.size), order="F")
        return Operation(self._number, box, sent, done, revision, None, seen)

    def _draw_box(self) -> Box:
        edge = self._traffic.edge
        return self._draw(edge if self._random.random() < 0.6 else edge // 2)

    def _draw(self, longest: int) -> Box:
        size = Vec3(*(self._random.randint(1, longest) for _ in range(3)))
        return Box(Vec3(*(self._random.randint(0, self._traffic.edge - extent) for extent in size)), size)

    def _draw_mask(self, box: Box) -> Mask:
        """Nothing that is a box: every second or third voxel, diagonally."""
        mask: Mask = np.indices(tuple(box.size)).sum(axis=0) % self._random.randint(2, 3) == 0
        return mask


def revision_of(message: types_pb2.Revision) -> Revision:
    """A revision that the daemon has given."""
    return Revision(message.epoch, message.counter)


# -- checks ------------------------------------------------------------------------------------------------------------


def check_by_revisions(history: Sequence[Operation], edge: int) -> None:
    """Check a history, believing its revisions.

    :param edge: of the arena, which held zeros before
    :raises GuaranteeBroken: it cannot be
    """
    # A read at a revision comes after the write that has it; several of them come as they ended.
    ordered = sorted(history, key=lambda operation: (operation.revision, operation.written is None, operation.done))
    writes = [operation for operation in ordered if operation.written is not None]
    for before, after in itertools.pairwise(writes):
        if before.revision == after.revision:
            raise GuaranteeBroken(f"one revision for two writes:\n  {before}\n  {after}")
    _check_real_time(ordered)
    _check_conditions(writes)

    arena = np.zeros((edge, edge, edge), DTYPE, order="F")
    for operation in ordered:
        if operation.written is not None:
            there = arena[within(operation.box)]
            there[... if operation.mask is None else operation.mask] = operation.written
            continue
        expected = arena[within(operation.box)]
        assert operation.seen is not None, "a read"
        if not np.array_equal(operation.seen, expected):
            different = np.count_nonzero(operation.seen != expected)
            raise GuaranteeBroken(f"{different} voxels are not those of its revision: {operation}")


def _check_real_time(ordered: Sequence[Operation]) -> None:
    earliest: Operation | None = None
    for operation in reversed(ordered):
        if earliest is not None and earliest.done < operation.sent:
            raise GuaranteeBroken(f"done before the other was sent, but ordered after it:\n  {earliest}\n  {operation}")
        if earliest is None or operation.done < earliest.done:
            earliest = operation


def _check_conditions(writes: Sequence[Operation]) -> None:
    for place, operation in enumerate(writes):
        for other in reversed(writes[:place]):
            if operation.since is None or other.revision <= operation.since:
                break
            if other.box.intersects(operation.box):
                raise GuaranteeBroken(f"after {operation.since} came one before the other:\n  {other}\n  {operation}")


def check_by_search(history: Sequence[Operation], edge: int, seed: int, *, searches: int, voxels: int) -> int:
    """Check a history without a look at its revisions, at voxels that are drawn.

    :param edge: of the arena, which held zeros before
    :param voxels: that are looked at together in one search
    :return: the number of operations of all searches
    :raises GuaranteeBroken: no order explains what was seen
    """
    drawn = random.Random(seed)
    count = 0
    for _ in range(searches):
        # Most boxes lie in the middle.
        places = [Vec3(*(drawn.randrange(edge // 4, 3 * edge // 4) for _ in range(3))) for _ in range(voxels)]
        steps = [step for operation in history if (step := _at(operation, places)) is not None]
        steps = _beginning(steps)
        if not is_linearizable(steps, (0,) * voxels):
            raise GuaranteeBroken(f"no order explains what {len(steps)} operations wrote and saw at {places}")
        count += len(steps)
    return count


def _beginning(steps: list[Step]) -> list[Step]:
    """So much of a history as one search can do. It is linearizable if all of it is."""
    steps = sorted(steps, key=lambda step: step.sent)
    if len(steps) <= SEARCHED_AT_MOST:
        return steps
    cut = steps[SEARCHED_AT_MOST].sent
    # A read that went on beyond the cut may have seen writes that were sent after it.
    return [step for step in steps[:SEARCHED_AT_MOST] if step.writes or step.done < cut]


def _at(operation: Operation, places: Sequence[Vec3]) -> Step | None:
    """What an operation has to do with some voxels; None if nothing."""
    values: list[int | None] = []
    for place in places:
        if not operation.box.intersects(Box(place, Vec3(1, 1, 1))):
            values.append(None)
        elif operation.written is not None:
            is_left = operation.mask is not None and not operation.mask[tuple(place - operation.box.offset)]
            values.append(None if is_left else operation.written)
        else:
            assert operation.seen is not None, "a read"
            values.append(int(operation.seen[tuple(place - operation.box.offset)]))
    if all(value is None for value in values):
        return None
    return Step(operation.sent, operation.done, operation.written is not None, tuple(values))
