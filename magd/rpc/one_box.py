"""One box in one message each way: a WriteBoxBatch or ReadBoxBatch with a single box.

That is how a client writes or reads a small box when it waits for each. Then gRPC's own work for streams, and what
keeps many boxes of a call apart, would be the larger part of the time; so neither is here:

1. The header is checked, by itself and against the mag, and memory is leased.
2. The data of a write stays where it is in the message, unless it was encoded.
3. The storage writes or reads the box. What is wrong with it is its outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magd.errors import MagdError
from magd.framing import ReadBoxesFrame, ReadFrame
from magd.rpc import to_proto
from magd.rpc.box_headers import ReadHeader, WriteHeader
from magd.rpc.errors import box_error
from magd.rpc.from_proto import refuse
from magd.rpc.parts import decoded, flat, length_mismatch
from magd.v1 import volume_pb2

if TYPE_CHECKING:
    from magd.actors.storage import Storage
    from magd.framing import WriteFrame


async def write_one_box(storage: Storage, frame: WriteFrame) -> volume_pb2.WriteBoxesResponse:
    """Write one box.

    :param frame: the header, and all of the data
    """
    try:
        header = WriteHeader.of(frame.header or volume_pb2.WriteBoxRequest())
        if header.is_c_order:
            raise refuse("order")
        cost = await storage.volume.check_write(header.name, header.box, header.voxels, header.bounds, header.mask)
        data = decoded(frame, header)
        expected = header.voxels.nbytes(header.box)
        if len(data) != expected:
            raise length_mismatch(len(data), expected, "at least " if len(data) > expected else "")
        array = np.frombuffer(data, header.voxels.dtype)
        array = array.reshape((header.voxels.num_channels, *header.box.size), order="F")
        with await storage.budget.lease(cost) as lease:
            if not array.flags.aligned:
                array = array.copy(order="F")  # numbers of several bytes, where they came to lie in the message
            acknowledgement = await storage.volume.write(header.name, header.command(array), lease)
    except MagdError as error:
        error.let_go()
        return volume_pb2.WriteBoxesResponse(error=box_error(error))
    return volume_pb2.WriteBoxesResponse(acknowledgement=to_proto.acknowledgement(acknowledgement))


async def read_one_box(storage: Storage, request: volume_pb2.ReadBoxRequest, limit_bytes: int) -> ReadBoxesFrame:
    """Read one box.

    :param limit_bytes: of the answer
    """
    try:
        header = await ReadHeader.of(storage, request)
        header.require_room(limit_bytes)
        if header.box.is_empty:
            return ReadBoxesFrame(0, ReadFrame(header.response(header.box, header.revision), b""))
        with await storage.budget.lease(header.cost) as lease:
            result = await storage.volume.read(header.name, header.box, lease)
    except MagdError as error:
        error.let_go()
        return ReadBoxesFrame(0, box_error(error))
    return ReadBoxesFrame(0, ReadFrame(header.response(result.box, result.revision), flat(result.data).data))
