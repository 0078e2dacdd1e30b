"""How the bytes of a box travel: as parts, each the next contiguous range of bytes.

Receiving: parts go one after the other into one array that was made before. A part is in its message, or in shared
memory that the message names. The stream must hold exactly the bytes of the box and then end: one byte too many is
refused when it arrives, one too few when the stream ends, and nothing of the box is used. Sending: the array is cut
into parts. In both directions a client that is too slow loses its call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import numpy as np

from magd import part_encoding
from magd.actors.regions import Range
from magd.errors import InvalidRequest, Reason
from magd.memory_order import slabs
from magd.rpc.admission import PART_BYTES
from magd.rpc.from_proto import invalid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import numpy.typing as npt

    from magd.actors.arrival import Arrival
    from magd.actors.regions import Uses
    from magd.framing import Bytes, WriteFrame
    from magd.geometry import Vec3
    from magd.rpc.admission import Pace
    from magd.rpc.box_headers import WriteHeader
    from magd.voxels import VoxelArray, VoxelFormat


PART_FIELDS: Final = frozenset({"data", "decoded_size"})
"""What messages after the first may carry."""
SHARED_FIELDS: Final = PART_FIELDS | {"shared_memory"}
"""The same, where parts may lie in shared memory."""


def decoded(frame: WriteFrame, header: WriteHeader) -> Bytes:
    """The next bytes of a box, as they were before they were encoded.

    :param header: of the box
    :raises InvalidRequest: they cannot be decoded, or must not be encoded
    """
    size = frame.header.decoded_size if frame.header is not None else 0
    if not size:
        return frame.data
    if not header.is_encoded:
        raise invalid("decoded_size", size, "the first message does not say ENCODING_LZ4")
    if not 0 < size <= PART_BYTES:
        raise invalid("decoded_size", size, f"a part has 1 to {PART_BYTES} bytes")
    try:
        return part_encoding.decode(frame.data, size)
    except ValueError as error:
        raise invalid("data", f"{len(frame.data)} bytes", str(error)) from error


def part_of(frame: WriteFrame, header: WriteHeader, uses: Uses) -> Bytes | Range:
    """The next bytes of a box: those of the message, decoded, or those in shared memory that it names.

    :param header: of the box
    :param uses: of the call
    :raises InvalidRequest: they cannot be decoded, or are not there
    """
    if frame.header is None or not frame.header.HasField("shared_memory"):
        return decoded(frame, header)
    shared = frame.header.shared_memory
    if len(frame.data) or frame.header.decoded_size:
        raise invalid("shared_memory", shared.region, "a message carries data or names shared memory, not both")
    if header.is_c_order:
        raise invalid("shared_memory", shared.region, "what lies in shared memory is in ORDER_FORTRAN")
    return uses.range(shared.region, shared.offset, shared.size)


async def next_part(
    requests: AsyncIterator[WriteFrame], header: WriteHeader, pace: Pace, uses: Uses
) -> Bytes | Range | None:
    """The bytes of the next message, or None at the end of the stream.

    :raises InvalidRequest: the message carries more than data, or data that cannot be decoded
    :raises TooSlow: it does not come in time
    """
    try:
        async with asyncio.timeout_at(pace.deadline()):
            frame = await anext(requests)
    except StopAsyncIteration:
        return None
    except TimeoutError:
        raise pace.too_slow() from None
    fields = [field.name for field, _ in frame.header.ListFields()] if frame.header is not None else []
    if more := [name for name in fields if name not in SHARED_FIELDS]:
        raise invalid(more[0], "", "messages after the first carry only data")
    part = part_of(frame, header, uses)
    pace.moved(len(part) if isinstance(part, Range) else len(frame.data))
    return part


async def receive(
    first: Bytes | Range,
    requests: AsyncIterator[WriteFrame],
    header: WriteHeader,
    arrival: Arrival | InCOrder,
    pace: Pace,
    uses: Uses,
) -> None:
    """Receive the bytes of a box.

    :param first: the bytes that came with the first message, decoded
    :param requests: the messages after the first
    :param arrival: of the box; all of it has arrived when this returns
    :param uses: of shared memory by the call
    :raises InvalidRequest: DATA_LENGTH_MISMATCH: there are more bytes or fewer
    :raises TooSlow: the client is slower than it may be
    """
    part: Bytes | Range | None = first
    while part is not None:
        found = arrival.filled_bytes + len(part)
        if found > arrival.size_bytes:
            raise length_mismatch(found, arrival.size_bytes, "at least ")
        if isinstance(part, Range):
            assert not isinstance(arrival, InCOrder), "such parts were refused"
            await arrival.add_shared(part)
        else:
            arrival.add(part)
        part = await next_part(requests, header, pace, uses)
    if arrival.filled_bytes < arrival.size_bytes:
        raise length_mismatch(arrival.filled_bytes, arrival.size_bytes, "")
    await arrival.finish()


class InCOrder:
    """Takes the bytes of a box in C order, and gives them to its arrival in the order in which voxels are kept.

    :param arrival: of the box
    :param size: of the box, in voxels of the mag
    """

    def __init__(self, arrival: Arrival, voxels: VoxelFormat, size: Vec3) -> None:
        self.size_bytes: Final = arrival.size_bytes
        self.filled_bytes = 0
        self._arrival = arrival
        self._voxels = voxels
        self._array: VoxelArray = np.empty((voxels.num_channels, *size), dtype=voxels.dtype)
        self._bytes = self._array.reshape(-1).view(np.uint8)

    def add(self, part: Bytes) -> None:
        """Take the next bytes. There must be no more than the box has."""
        end = self.filled_bytes + len(part)
        self._bytes[self.filled_bytes : end] = np.frombuffer(part, np.uint8)
        self.filled_bytes = end

    async def finish(self) -> None:
        """Give all of it to the arrival, slab by slab as they are turned in a thread."""
        turned = slabs(self._array, self._voxels)
        while (slab := await asyncio.to_thread(next, turned, None)) is not None:
            for part in cut(slab):
                self._arrival.add(part)
                await asyncio.sleep(0)  # others have their turn between parts
        await self._arrival.finish()


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
