"""Writing many boxes in one call: WriteBoxes and WriteBoxBatch.

For each box, in the order in which they come:

1. It takes its place in the flight.
2. Its header is checked, by itself and against the mag, and memory is leased: before its data is kept.
3. Its data is put together. A box whose data is whole in one message is not copied once more.
4. It is handed to its mag, with the lease. The next one does not wait for its outcome: so they are committed together,
   and those that overlap take effect in this order.
5. It lands when its outcome is known.

What is wrong with one box is its outcome, and the others go on; parts of it that still come are passed over. What makes
it unclear to which box a message belongs ends the call.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from magd.errors import MagdError, Reason, Unavailable
from magd.rpc import to_proto
from magd.rpc.admission import Pace
from magd.rpc.box_headers import WriteHeader
from magd.rpc.errors import box_error
from magd.rpc.flight import Flight, Incoming
from magd.rpc.from_proto import invalid, refuse
from magd.rpc.one_box import write_one_box
from magd.rpc.parts import PART_FIELDS, decoded, flat, length_mismatch
from magd.v1 import volume_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from magd.acknowledgement import Acknowledgement
    from magd.actors.budget import Lease
    from magd.actors.storage import Storage
    from magd.framing import Bytes, WriteBatchFrame, WriteBoxesFrame, WriteFrame
    from magd.rpc.admission import EdgeConfig
    from magd.voxels import VoxelArray

MAX_TOGETHER: Final = 1000
"""Outcomes in one message."""


async def write_boxes(
    storage: Storage, config: EdgeConfig, frames: AsyncIterator[WriteBoxesFrame]
) -> AsyncIterator[volume_pb2.WriteBoxesResponse]:
    """Write the boxes of a stream."""
    flight = Flight[volume_pb2.WriteBoxesResponse]()
    writes = _Writes(storage, config, flight)
    async with aclosing(writes), flight:
        flight.feed(writes.read(Incoming(frames, flight, config)))
        while landed := await flight.landed():
            for response in _together(landed) if writes.come_together else landed:
                yield response
            flight.leave(len(landed))


async def write_box_batch(
    storage: Storage, config: EdgeConfig, batch: WriteBatchFrame
) -> volume_pb2.WriteBoxBatchResponse:
    """Write the boxes of one message. Outcomes in their order."""
    if len(batch.boxes) == 1:
        return volume_pb2.WriteBoxBatchResponse(results=[await write_one_box(storage, batch.boxes[0])])
    flight = Flight[volume_pb2.WriteBoxesResponse]()
    writes = _Writes(storage, config, flight)
    results: dict[int, volume_pb2.WriteBoxesResponse] = {}
    async with aclosing(writes), flight:
        flight.feed(writes.read_all(batch.boxes))
        while landed := await flight.landed():
            results.update((response.index, response) for response in landed)
            flight.leave(len(landed))
    return volume_pb2.WriteBoxBatchResponse(results=[results[index] for index in range(len(batch.boxes))])


class _Writes:
    """The boxes of one call on their way to the storage."""

    def __init__(self, storage: Storage, config: EdgeConfig, flight: Flight[volume_pb2.WriteBoxesResponse]) -> None:
        self._storage = storage
        self._config = config
        self._flight = flight
        self._half: _Half | None = None
        """The box whose data is not complete."""
        self._refused: int | None = None
        """The index of the last box, if it was refused while parts of it may still come."""
        self.come_together = False
        """Whether the client sends many boxes in one message."""

    async def aclose(self) -> None:
        """Give back what is held for a box that never became complete."""
        if self._half is not None:
            self._half.lease.release()
            self._half = None

    async def read(self, incoming: Incoming[WriteBoxesFrame]) -> None:
        """Take the messages of a stream, to its end."""
        while (frame := await incoming.next()) is not None:
            self.come_together = self.come_together or bool(frame.more)
            for each in chain((frame,), frame.more):
                await self._take(each.index, each.box)
            incoming.pace = self._half.pace if self._half is not None else None
        self._end_half()

    async def read_all(self, boxes: Sequence[WriteFrame]) -> None:
        """Take boxes that are whole, numbered as they stand."""
        for index, box in enumerate(boxes):
            await self._begin(index, box)
            self._end_half()

    async def _take(self, index: int, frame: WriteFrame) -> None:
        if frame.header is not None and frame.header.name:
            self._end_half()
            await self._begin(index, frame)
            return
        fields = [] if frame.header is None else [field.name for field, _ in frame.header.ListFields()]
        if self._half is not None and self._half.index == index:
            if more := [name for name in fields if name not in PART_FIELDS]:
                raise invalid(more[0], "", "messages after the first one of a box carry only data")
            await self._add(self._half, decoded(frame, self._half.header))
        elif self._refused != index:
            raise invalid("index", index, "the first message of a box has its name; no box of this index is incomplete")

    async def _begin(self, index: int, frame: WriteFrame) -> None:
        self._refused = None
        await self._flight.enter()
        try:
            request = frame.header or volume_pb2.WriteBoxRequest()
            header = WriteHeader.of(request)
            if header.is_c_order:
                raise refuse("order")
            storage = self._storage
            cost = await storage.volume.check_write(header.name, header.box, header.voxels, header.bounds, header.mask)
            data = decoded(frame, header)
            lease = await storage.budget.lease(cost)
        except MagdError as error:
            self._refuse(index, error)
            return
        expected = header.voxels.nbytes(header.box)
        if isinstance(data, bytes) and len(data) == expected:
            array = np.frombuffer(data, header.voxels.dtype)
            array = array.reshape((header.voxels.num_channels, *header.box.size), order="F")
            await self._hand_over(index, header, array, lease)
            return
        self._half = _Half(index, header, lease, Pace(self._config))
        await self._add(self._half, data)

    async def _add(self, half: _Half, data: Bytes) -> None:
        try:
            is_whole = half.add(data)
        except MagdError as error:
            self._drop_half(half, error)
            return
        if is_whole:
            self._half = None
            await self._hand_over(half.index, half.header, half.array, half.lease)

    def _end_half(self) -> None:
        if self._half is not None:
            self._drop_half(self._half, self._half.too_short())

    def _drop_half(self, half: _Half, error: MagdError) -> None:
        self._half = None
        half.lease.release()
        self._refuse(half.index, error)

    def _refuse(self, index: int, error: MagdError) -> None:
        self._refused = index
        self._flight.land(volume_pb2.WriteBoxesResponse(index=index, error=box_error(error)))

    async def _hand_over(self, index: int, header: WriteHeader, array: VoxelArray, lease: Lease) -> None:
        command = header.command(array)
        with lease:
            try:
                outcome = await self._storage.volume.begin_write(header.name, command, lease)
            except MagdError as error:
                self._refuse(index, error)
                return

        def land(done: asyncio.Future[Acknowledgement]) -> None:
            if done.cancelled():
                self._flight.fail(asyncio.CancelledError())
                return
            error = done.exception()
            if error is None:
                acknowledgement = to_proto.acknowledgement(done.result())
                self._flight.land(volume_pb2.WriteBoxesResponse(index=index, acknowledgement=acknowledgement))
            elif isinstance(error, MagdError):
                self._flight.land(volume_pb2.WriteBoxesResponse(index=index, error=box_error(_retriable(error))))
            else:
                self._flight.fail(error)

        outcome.add_done_callback(land)


class _Half:
    """A box whose data comes in parts."""

    def __init__(self, index: int, header: WriteHeader, lease: Lease, pace: Pace) -> None:
        self.index: Final = index
        self.header: Final = header
        self.lease: Final = lease
        self.pace: Final = pace
        self.array: Final = header.voxels.empty(header.box.size)
        self._bytes: Final = flat(self.array)
        self._filled = 0

    def add(self, data: Bytes) -> bool:
        """Put the next part in its place.

        :return: whether that was the last one
        :raises InvalidRequest: DATA_LENGTH_MISMATCH: there are more bytes than the box has
        """
        end = self._filled + len(data)
        if end > self._bytes.size:
            raise length_mismatch(end, self._bytes.size, "at least ")
        self._bytes[self._filled : end] = np.frombuffer(data, np.uint8)
        self._filled = end
        self.pace.moved(len(data))
        return end == self._bytes.size

    def too_short(self) -> MagdError:
        """The error of a box that is followed by the next one, or by the end, before it has all of its bytes."""
        return length_mismatch(self._filled, self._bytes.size, "")


def _retriable(error: MagdError) -> MagdError:
    """A mag's actor that stopped with a write in its hands: who asks again gets the next one."""
    if isinstance(error, Unavailable) and error.reason is Reason.ACTOR_STOPPED:
        return Unavailable(error.message, reason=error.reason, metadata=error.metadata, retry_after=0.1)
    return error


def _together(
    landed: Sequence[volume_pb2.WriteBoxesResponse],
) -> list[volume_pb2.WriteBoxesResponse]:
    """Outcomes in as few messages as may be."""
    messages = []
    for start in range(0, len(landed), MAX_TOGETHER):
        first = landed[start]
        first.more.extend(landed[start + 1 : start + MAX_TOGETHER])
        messages.append(first)
    return messages
