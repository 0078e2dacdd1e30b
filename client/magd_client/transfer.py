"""The bookkeeping of one piece of a box on its way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, UUID, uuid5

from magd.errors import Conflict, DataLoss, InvalidRequest, Reason, Unimplemented
from magd.framing import WriteFrame
from magd.part_encoding import PartEncoder, decode
from magd.v1 import types_pb2, volume_pb2
from magd_client import answers, arrays
from magd_client.arrays import PART_BYTES
from magd_client.regions import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from magd.errors import MagdError
    from magd.framing import Bytes, ReadFrame
    from magd.geometry import Box
    from magd.voxels import VoxelArray, VoxelFormat
    from magd_client.progress import Meter
    from magd_client.regions import Region


class Account:
    """What one attempt has told a meter, so that it can be taken back when the attempt fails."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._total = 0
        self._closed = False
        # gRPC's own thread may still report a part while the caller closes the account.
        self._lock = threading.Lock()

    def add(self, nbytes: int) -> None:
        """Count bytes that went."""
        with self._lock:
            if not self._closed:
                self._total += nbytes
                self._meter.advance(nbytes)

    def complete(self, nbytes: int) -> None:
        """Count it all as gone: the attempt succeeded."""
        with self._lock:
            self._closed = True
            if self._total != nbytes:
                self._meter.advance(nbytes - self._total)

    def take_back(self) -> None:
        """Count nothing: the attempt failed."""
        with self._lock:
            self._closed = True
            if self._total:
                self._meter.advance(-self._total)


class Filling:
    """An array that is filled from the messages of one ReadBox.

    :param into: (c, x, y, z) in Fortran order, of the expected format
    :param region: that the request names
    """

    def __init__(self, into: VoxelArray, voxels: VoxelFormat, account: Account, region: Region | None = None) -> None:
        self._bytes = arrays.array_bytes(into)
        self._voxels = voxels
        self._account = account
        self._region = region
        self._filled = 0
        self._begun = False

    def receive(self, frame: ReadFrame) -> None:
        """Take the next message.

        :raises Conflict: the mag holds other voxels than expected
        :raises DataLoss: there are more bytes than the box has, or they cannot be decoded
        """
        if not self._begun:
            self._begun = True
            found = answers.voxel_format(frame.header)
            if found != self._voxels:
                raise Conflict(
                    f"the mag was made anew: it had voxels of {self._voxels}, it has voxels of {found}",
                    reason=Reason.DATA_TYPE_MISMATCH,
                    metadata={"value": found, "expected": self._voxels},
                )
        shared = frame.header.shared_memory
        data = _decoded(frame)
        size = shared.size or len(data)
        end = self._filled + size
        if end > len(self._bytes):
            raise self._wrong_length(f"at least {end}")
        part = self._bytes[self._filled : end]
        if not shared.size:
            part[:] = data
        elif self._region is None or not self._region.read_into(part, shared.offset):
            raise self._wrong_length(f"not {size}")
        self._filled = end
        self._account.add(size)

    def finish(self) -> None:
        """Check that all has come.

        :raises DataLoss: bytes are missing
        """
        if self._filled != len(self._bytes):
            raise self._wrong_length(str(self._filled))

    def _wrong_length(self, found: str) -> DataLoss:
        expected = len(self._bytes)
        return DataLoss(
            f"the daemon sent {found} bytes of a box of {expected}",
            reason=Reason.DATA_LENGTH_MISMATCH,
            metadata={"value": found, "expected": expected},
        )


def write_frames(
    header: volume_pb2.WriteBoxRequest, parts: Iterator[memoryview], size_bytes: int
) -> Iterator[WriteFrame]:
    """The messages of one write. The first has all of a small box; of a large one it has nothing, since the rest waits
    for the daemon.

    :param header: what the first message says; with ENCODING_LZ4 parts are encoded where that pays
    :param size_bytes: of all parts
    """
    encoder = PartEncoder() if header.encoding == types_pb2.ENCODING_LZ4 else None
    if size_bytes > PART_BYTES:
        yield WriteFrame(header, b"")
    first = header if size_bytes <= PART_BYTES else None
    for part in parts:
        sent, decoded_size = encoder.encode(part) if encoder is not None else (part, 0)
        said = first
        if first is not None:
            first.decoded_size = decoded_size
        elif decoded_size:
            said = volume_pb2.WriteBoxRequest(decoded_size=decoded_size)
        yield WriteFrame(said, sent)


def shared_frames(
    header: volume_pb2.WriteBoxRequest, slabs: Iterable[VoxelArray], region: Region
) -> Iterator[WriteFrame]:
    """The messages of one write through shared memory: the first only names the region, so that the daemon keeps it for
    the call; the others name what was put there. What it has no room for goes with them. They end early when the region
    is closed.

    :param header: what the first message says beside
    :param slabs: in Fortran order
    """
    first = volume_pb2.WriteBoxRequest(shared_memory=volume_pb2.SharedMemory(region=region.name))
    first.MergeFrom(header)
    yield WriteFrame(first, b"")
    filled = 0
    for slab in slabs:
        flat = arrays.array_bytes(slab)
        for start in range(0, len(flat), PIECE_BYTES):
            piece = flat[start : start + PIECE_BYTES]
            if filled + len(piece) <= region.size_bytes:
                if not region.write(piece, filled):
                    return
                shared = volume_pb2.SharedMemory(region=region.name, offset=filled, size=len(piece))
                filled += len(piece)
                yield WriteFrame(volume_pb2.WriteBoxRequest(shared_memory=shared), b"")
            else:
                for at in range(0, len(piece), PART_BYTES):
                    yield WriteFrame(None, piece[at : at + PART_BYTES])


def is_region_refused(error: MagdError) -> bool:
    """Whether the daemon does not know a region: it was begun anew, or has taken it back."""
    return isinstance(error, InvalidRequest | Unimplemented) and error.metadata.get("field") == "shared_memory"


def _decoded(frame: ReadFrame) -> Bytes:
    if not frame.header.decoded_size:
        return frame.data
    try:
        return decode(frame.data, frame.header.decoded_size)
    except ValueError as error:
        raise DataLoss(f"the daemon sent a part that cannot be decoded: {error}") from error


def part_of(array: VoxelArray, box: Box, piece: Box) -> VoxelArray:
    """The voxels of a piece, as a view.

    :param array: (c, x, y, z) of `box`
    """
    start, end = piece.offset - box.offset, piece.end - box.offset
    return array[:, start.x : end.x, start.y : end.y, start.z : end.z]


def piece_id(request_id: str, piece: Box) -> str:
    """The id of a piece of a write: the same again if the user repeats the write with its id."""
    try:
        namespace = UUID(request_id)
    except ValueError:
        namespace = uuid5(NAMESPACE_OID, request_id)
    return str(uuid5(namespace, str(piece)))
