"""How the bytes of a box travel: as parts, each the next contiguous range of bytes.

Receiving: parts go one after the other into one array that was made before. The stream must hold exactly the
bytes of the box and then end: one byte too many is refused when it arrives, one too few when the stream ends,
and nothing of the box is used. Sending: the array is cut into parts. In both directions a client that is too
slow loses its call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from magd.errors import InvalidRequest, Reason
from magd.rpc.admission import PART_BYTES
from magd.rpc.from_proto import invalid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import numpy.typing as npt

    from magd.actors.arrival import Arrival
    from magd.framing import Bytes, WriteFrame
    from magd.rpc.admission import Pace
    from magd.voxels import VoxelArray


async def next_part(requests: AsyncIterator[WriteFrame], pace: Pace) -> Bytes | None:
    """The bytes of the next message, or None at the end of the stream.

    :raises InvalidRequest: the message carries more than data
    :raises TooSlow: it does not come in time
    """
    try:
        async with asyncio.timeout_at(pace.deadline()):
            frame = await anext(requests)
    except StopAsyncIteration:
        return None
    except TimeoutError:
        raise pace.too_slow() from None
    fields = frame.header.ListFields() if frame.header is not None else ()
    if fields:
        raise invalid(fields[0][0].name, "", "messages after the first carry only data")
    pace.moved(len(frame.data))
    return frame.data


async def receive(first: Bytes, requests: AsyncIterator[WriteFrame], arrival: Arrival, pace: Pace) -> None:
    """Receive the bytes of a box.

    :param first: the bytes that came with the first message
    :param requests: the messages after the first
    :param arrival: of the box; all of it has arrived when this returns
    :raises InvalidRequest: DATA_LENGTH_MISMATCH: there are more bytes or fewer
    :raises TooSlow: the client is slower than it may be
    """
    part: Bytes | None = first
    while part is not None:
        found = arrival.filled_bytes + len(part)
        if found > arrival.size_bytes:
            raise length_mismatch(found, arrival.size_bytes, "at least ")
        arrival.add(part)
        part = await next_part(requests, pace)
    if arrival.filled_bytes < arrival.size_bytes:
        raise length_mismatch(arrival.filled_bytes, arrival.size_bytes, "")
    await arrival.finish()


def cut(array: VoxelArray) -> Iterator[memoryview]:
    """The parts of an array, (c, x, y, z) in Fortran order, without a copy."""
    source = flat(array).data
    for start in range(0, len(source), PART_BYTES):
        yield source[start : start + PART_BYTES]


def flat(array: VoxelArray) -> npt.NDArray[np.uint8]:
    """The bytes of an array in Fortran order, without a copy."""
    return array.reshape(-1, order="F").view(np.uint8)


def length_mismatch(found: int, expected: int, how: str) -> InvalidRequest:
    """The error of a box that comes with more or fewer bytes than it has.

    :param how: "at least " if more may follow
    """
    return InvalidRequest(
        f"data: the box has {expected} bytes, the stream {how}{found}",
        reason=Reason.DATA_LENGTH_MISMATCH,
        metadata={"field": "data", "value": found, "expected": expected},
    )
