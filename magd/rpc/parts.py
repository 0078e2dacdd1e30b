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

    from magd.framing import Bytes, WriteFrame
    from magd.geometry import Vec3
    from magd.rpc.admission import Pace
    from magd.voxels import VoxelArray, VoxelFormat


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


async def receive(
    first: Bytes,
    requests: AsyncIterator[WriteFrame],
    voxels: VoxelFormat,
    size: Vec3,
    pace: Pace,
) -> VoxelArray:
    """Receive the bytes of a box.

    :param first: the bytes that came with the first message
    :param requests: the messages after the first
    :param size: of the box, in voxels of the mag
    :return: (c, x, y, z), Fortran order
    :raises InvalidRequest: DATA_LENGTH_MISMATCH: there are more bytes or fewer
    :raises TooSlow: the client is slower than it may be
    """
    array = voxels.empty(size)
    target = flat(array)
    filled = 0
    part: Bytes | None = first
    while part is not None:
        if len(part) > target.size - filled:
            raise length_mismatch(filled + len(part), target.size, "at least ")
        target[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
        part = await next_part(requests, pace)
    if filled < target.size:
        raise length_mismatch(filled, target.size, "")
    return array


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
