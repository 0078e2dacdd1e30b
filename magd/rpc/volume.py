"""Reading and writing boxes.

A write:

1. The first message says what is to be written. It is checked, by itself and against the mag, before more is
   read.
2. Memory for all that the write will need is leased from the budget. This may wait; nothing is held
   meanwhile.
3. The grant: initial metadata tells the client that its data is welcome. If the first message has all of the
   data, there is nothing to grant.
4. The parts go into one array, and from there, while further ones arrive, into the checksum and the file that
   the journal will need: see `actors.arrival`.
5. When the stream has ended with exactly the bytes of the box, the storage gets the array, and the lease with
   it.

A part is in its message, or in shared memory that the message names; the first message can name all of the box.

Who leaves before step 5 has written nothing, and the lease is given back. From then on the write belongs to
the storage, and goes on without the client.

A read is sent slab by slab, while the next ones are read. The whole box is of one moment: the mag keeps its
turn until the last slab is read, whether the client takes them or not. What fails in the middle ends the call
with its status. With shared memory, slabs go there as far as there is room, and the messages name them.
"""

# ruff: noqa: ARG002, N802  # names and arguments of the methods are those of the protos

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from magd.actors.types import Slab
from magd.catalog.names import MagName
from magd.errors import InvalidRequest, TooSlow
from magd.framing import ReadFrame
from magd.memory_order import c_order_slabs
from magd.part_encoding import PartEncoder
from magd.rpc import from_proto, to_proto
from magd.rpc.admission import EdgeConfig, Pace, stream_cost
from magd.rpc.box_headers import WriteHeader
from magd.rpc.enums import DATA_TYPES
from magd.rpc.from_proto import refuse
from magd.rpc.many_reads import read_box_batch, read_boxes
from magd.rpc.many_writes import write_box_batch, write_boxes
from magd.rpc.parts import InCOrder, cut, part_of, receive
from magd.rpc.sharing import Room, share_memory
from magd.v1 import types_pb2, volume_pb2
from magd.voxels import VoxelFormat

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from magd.actors.budget import Lease
    from magd.actors.storage import Storage
    from magd.framing import ReadBatchFrame, ReadBoxesFrame, WriteBatchFrame, WriteBoxesFrame, WriteFrame
    from magd.geometry import Box
    from magd.rpc.interceptors import Context


class VolumeService:
    """magd.v1.VolumeService. Messages that carry voxels come and go as frames: see `volume_handlers`."""

    def __init__(self, storage: Storage, config: EdgeConfig) -> None:
        self._storage = storage
        self._config = config

    async def WriteBox(
        self, request_iterator: AsyncIterator[WriteFrame], context: Context
    ) -> volume_pb2.WriteBoxResponse:
        """Write one box."""
        storage = self._storage
        first = await self._first(request_iterator)
        is_shared = storage.regions.limit_bytes > 0
        header = WriteHeader.of(first.header or volume_pb2.WriteBoxRequest(), may_share=is_shared)
        cost = await storage.volume.check_write(header.name, header.box, header.voxels, header.bounds, header.mask)
        size_bytes = header.voxels.nbytes(header.box)
        cost += stream_cost(size_bytes) + (size_bytes if header.is_c_order else 0)
        with storage.regions.uses() as uses, await storage.budget.lease(cost) as lease:
            data = part_of(first, header, uses)
            del first  # it is not part of the lease, and the write may take long
            if len(data) < size_bytes:
                await context.send_initial_metadata(())
            pace = Pace(self._config)
            with await storage.volume.arrival(
                header.name, header.box, header.voxels, header.durability, header.mask, lease
            ) as arrival:
                sink = InCOrder(arrival, header.voxels, header.box.size) if header.is_c_order else arrival
                await receive(data, request_iterator, header, sink, pace, uses)
                del data  # nor is this
                command = header.command(arrival.data, arrival.staging)
                return to_proto.acknowledgement(await storage.volume.write(header.name, command, lease))

    async def ReadBox(self, request: volume_pb2.ReadBoxRequest, context: Context) -> AsyncIterator[ReadFrame]:
        """Read one box."""
        is_c_order = from_proto.is_c_order(request.order)
        encoder = PartEncoder() if from_proto.is_lz4(request.encoding) else None
        storage = self._storage
        if request.HasField("shared_memory") and not storage.regions.limit_bytes:
            raise refuse("shared_memory")
        name = MagName.parse(request.name)
        box, facts, cost = await storage.volume.check_read(name, from_proto.optional_box(request))
        response = volume_pb2.ReadBoxResponse(
            box=to_proto.box(box),
            data_type=DATA_TYPES[facts.header.voxels.dtype.name],
            num_channels=facts.header.voxels.num_channels,
            revision=to_proto.revision(facts.revision),
            order=types_pb2.ORDER_C if is_c_order else types_pb2.ORDER_FORTRAN,
            encoding=types_pb2.ENCODING_LZ4 if encoder is not None else types_pb2.ENCODING_RAW,
        )
        if box.is_empty:
            yield ReadFrame(response, b"")
            return
        cost += stream_cost(facts.header.voxels.nbytes(box))
        with storage.regions.uses() as uses, await storage.budget.lease(cost) as lease:
            room = Room(request.shared_memory, uses, lease) if request.HasField("shared_memory") else None
            pace: Pace | None = None
            slabs = (
                self._in_c_order(name, box, lease)
                if is_c_order
                else storage.volume.read_slabs(name, box, lease, None if room is None else room.place)
            )
            async with aclosing(slabs):
                async for slab in slabs:
                    if pace is None:
                        pace = Pace(self._config)
                        response.revision.CopyFrom(to_proto.revision(slab.revision))
                    shared = None if room is None else await room.put(slab)
                    if shared is not None:
                        response.shared_memory.CopyFrom(shared)
                        yield ReadFrame(response, b"")
                        pace.moved(slab.data.nbytes)
                        pace.check()
                        response = volume_pb2.ReadBoxResponse()
                        continue
                    for part in cut(slab.data):
                        sent, decoded_size = encoder.encode(part) if encoder is not None else (part, 0)
                        response.decoded_size = decoded_size
                        yield ReadFrame(response, sent)
                        pace.moved(len(sent))
                        pace.check()
                        response = volume_pb2.ReadBoxResponse()

    async def _in_c_order(self, name: MagName, box: Box, lease: Lease) -> AsyncGenerator[Slab, None]:
        """A box, slab by slab, whose bytes are those of the box in C order."""
        result = await self._storage.volume.read(name, box, lease)
        turned = c_order_slabs(result.data, VoxelFormat.of(result.data.dtype, len(result.data)))
        while (slab := await asyncio.to_thread(next, turned, None)) is not None:
            yield Slab(slab, result.revision)

    async def WriteBoxBatch(self, request: WriteBatchFrame, context: Context) -> volume_pb2.WriteBoxBatchResponse:
        """Write the boxes of one message."""
        return await write_box_batch(self._storage, self._config, request)

    async def ReadBoxBatch(self, request: volume_pb2.ReadBoxBatchRequest, context: Context) -> ReadBatchFrame:
        """Read the boxes of one message."""
        return await read_box_batch(self._storage, request)

    def WriteBoxes(
        self, request_iterator: AsyncIterator[WriteBoxesFrame], context: Context
    ) -> AsyncIterator[volume_pb2.WriteBoxesResponse]:
        """Write the boxes of a stream."""
        return write_boxes(self._storage, self._config, request_iterator)

    def ReadBoxes(
        self, request_iterator: AsyncIterator[volume_pb2.ReadBoxesRequest], context: Context
    ) -> AsyncIterator[ReadBoxesFrame]:
        """Read the boxes of a stream."""
        return read_boxes(self._storage, self._config, request_iterator)

    def ShareMemory(
        self, request_iterator: AsyncIterator[volume_pb2.ShareMemoryRequest], context: Context
    ) -> AsyncIterator[volume_pb2.ShareMemoryResponse]:
        """Lease regions of shared memory."""
        return share_memory(self._storage.regions, request_iterator)

    async def _first(self, requests: AsyncIterator[WriteFrame]) -> WriteFrame:
        try:
            async with asyncio.timeout(self._config.stall_seconds):
                return await anext(requests)
        except StopAsyncIteration:
            raise InvalidRequest(
                "the stream ended before its first message", metadata={"field": "message", "value": ""}
            ) from None
        except TimeoutError:
            raise TooSlow(
                f"no first message came in {self._config.stall_seconds:g} s",
                metadata={"limit": f"{self._config.stall_seconds:g} s"},
            ) from None
