"""Reading many boxes in one call: ReadBoxes and ReadBoxBatch.

For each box, in the order in which they are asked for:

1. It takes its place in the flight.
2. Its request is checked, by itself and against the mag, and memory for the result is leased.
3. Its mag is asked for it. The next one does not wait for the result.
4. It lands with its result, or with what is wrong with it.
5. Its result is sent: small ones together if the client asked for many in one message, large ones in parts. Its memory
   is given back when the client has taken it.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from magd.errors import MagdError
from magd.framing import ReadBatchFrame, ReadBoxesFrame, ReadFrame
from magd.rpc.admission import PART_BYTES, Pace
from magd.rpc.box_headers import MAX_ANSWER_BYTES, MESSAGE_BYTES, ReadHeader
from magd.rpc.errors import box_error
from magd.rpc.flight import Flight, Incoming
from magd.rpc.one_box import read_one_box
from magd.rpc.parts import cut, flat
from magd.v1 import volume_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

    from magd.actors.budget import Lease
    from magd.actors.storage import Storage
    from magd.actors.types import ReadResult
    from magd.rpc.admission import EdgeConfig
    from magd.voxels import VoxelArray


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one box."""

    index: int
    header: volume_pb2.ReadBoxResponse | None
    data: VoxelArray | None
    """(c, x, y, z), Fortran order; None if the box is empty."""
    lease: Lease | None
    error: volume_pb2.BoxError | None

    @property
    def size_bytes(self) -> int:
        """What a message with all of it takes, or a little less."""
        return MESSAGE_BYTES + (0 if self.data is None else self.data.nbytes)

    def frames(self) -> Iterator[ReadBoxesFrame]:
        """Its messages."""
        if self.error is not None:
            yield ReadBoxesFrame(self.index, self.error)
            return
        header = self.header or volume_pb2.ReadBoxResponse()
        for part in (b"",) if self.data is None else cut(self.data):
            yield ReadBoxesFrame(self.index, ReadFrame(header, part))
            header = volume_pb2.ReadBoxResponse()

    def release(self) -> None:
        """Give its memory back."""
        if self.lease is not None:
            self.lease.release()


async def read_boxes(
    storage: Storage, config: EdgeConfig, requests: AsyncIterator[volume_pb2.ReadBoxesRequest]
) -> AsyncIterator[ReadBoxesFrame]:
    """Read the boxes of a stream."""
    flight = Flight[_Result](dispose=_Result.release)
    reads = _Reads(storage, flight)
    async with flight:
        flight.feed(reads.read(Incoming(requests, flight, config)))
        while landed := await flight.landed():
            async with aclosing(_taken(landed, config, together=reads.come_together)) as frames:
                async for frame in frames:
                    yield frame
            flight.leave(len(landed))


async def read_box_batch(storage: Storage, request: volume_pb2.ReadBoxBatchRequest) -> ReadBatchFrame:
    """Read the boxes of one message. Results in their order."""
    if len(request.boxes) == 1:
        return ReadBatchFrame([await read_one_box(storage, request.boxes[0], MAX_ANSWER_BYTES)])
    flight = Flight[_Result](dispose=_Result.release)
    reads = _Reads(storage, flight, limit_bytes=MAX_ANSWER_BYTES)
    results: dict[int, ReadBoxesFrame] = {}
    leases = ExitStack()
    with leases:
        async with flight:
            flight.feed(reads.read_all(request.boxes))
            while landed := await flight.landed():
                for result in landed:
                    leases.callback(result.release)
                    results[result.index] = _whole(result)
                flight.leave(len(landed))
        return ReadBatchFrame([results[index] for index in range(len(request.boxes))])


class _Reads:
    """The boxes of one call on their way to the storage.

    :param limit_bytes: of all results together; None: as many as one likes
    """

    def __init__(self, storage: Storage, flight: Flight[_Result], *, limit_bytes: int | None = None) -> None:
        self._storage = storage
        self._flight = flight
        self._limit_bytes = limit_bytes
        self.come_together = False
        """Whether the client asks for many boxes in one message."""

    async def read(self, incoming: Incoming[volume_pb2.ReadBoxesRequest]) -> None:
        """Take the messages of a stream, to its end."""
        while (request := await incoming.next()) is not None:
            self.come_together = self.come_together or bool(request.more)
            for each in chain((request,), request.more):
                await self._begin(each.index, each.box)

    async def read_all(self, boxes: Sequence[volume_pb2.ReadBoxRequest]) -> None:
        """Take boxes, numbered as they stand."""
        for index, box in enumerate(boxes):
            await self._begin(index, box)

    async def _begin(self, index: int, request: volume_pb2.ReadBoxRequest) -> None:
        await self._flight.enter()
        try:
            await self._ask(index, request)
        except MagdError as error:
            self._flight.land(_Result(index, None, None, None, box_error(error)))

    async def _ask(self, index: int, request: volume_pb2.ReadBoxRequest) -> None:
        header = await ReadHeader.of(self._storage, request)
        self._count(header)
        if header.box.is_empty:
            self._flight.land(_Result(index, header.response(header.box, header.revision), None, None, None))
            return
        lease = await self._storage.budget.lease(header.cost)
        try:
            outcome = await self._storage.volume.begin_read(header.name, header.box, lease)
        except BaseException:
            lease.release()
            raise

        def land(done: asyncio.Future[ReadResult]) -> None:
            error = asyncio.CancelledError() if done.cancelled() else done.exception()
            if error is None:
                result = done.result()
                response = header.response(result.box, result.revision)
                self._flight.land(_Result(index, response, result.data, lease, None))
                return
            lease.release()
            if isinstance(error, MagdError):
                self._flight.land(_Result(index, None, None, None, box_error(error)))
            else:
                self._flight.fail(error)

        outcome.add_done_callback(land)

    def _count(self, header: ReadHeader) -> None:
        if self._limit_bytes is not None:
            header.require_room(self._limit_bytes)
            self._limit_bytes -= header.answer_bytes


def _whole(result: _Result) -> ReadBoxesFrame:
    """All of a small result in one message."""
    if result.error is not None:
        return ReadBoxesFrame(result.index, result.error)
    data = b"" if result.data is None else flat(result.data).data
    return ReadBoxesFrame(result.index, ReadFrame(result.header or volume_pb2.ReadBoxResponse(), data))


async def _taken(
    landed: Sequence[_Result], config: EdgeConfig, *, together: bool
) -> AsyncGenerator[ReadBoxesFrame, None]:
    """The messages of results, as fast as a client must take them. Each result is given back when it was taken."""
    pace = Pace(config)
    rest = list(reversed(landed))
    try:
        while rest:
            group = _group(rest) if together else rest[-1:]
            frames = chain.from_iterable(result.frames() for result in group)
            if len(group) > 1:
                first, *others = frames
                frames = chain((ReadBoxesFrame(first.index, first.outcome, tuple(others)),))
            for frame in frames:
                yield frame
                pace.moved(min(PART_BYTES, sum(result.size_bytes for result in group)))
                pace.check()
            for result in group:
                rest.pop()
                result.release()
    finally:
        for result in rest:
            result.release()


def _group(rest: Sequence[_Result]) -> list[_Result]:
    """The next results, from the end on, as many as one message may have; at least one."""
    group: list[_Result] = []
    size_bytes = 0
    for result in reversed(rest):
        size_bytes += result.size_bytes
        if group and size_bytes > PART_BYTES:
            break
        group.append(result)
    return group
