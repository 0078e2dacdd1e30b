# Generated from _async/boxes.py by scripts/unasync: change it there.
"""Writing and reading one box of any size.

A box of at most `max_box_bytes` is one call: atomic, whatever its size. A larger one is cut into pieces along
cube files; several are under way at a time, each atomic alone.

A box that fits into one message is a batch of one: for that gRPC needs no stream, which costs both ends much. A daemon
that does not say it is fast at that gets it in a stream, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from magd.acknowledgement import Acknowledgement
from magd.errors import MagdError, TooSlow, Unavailable
from magd.framing import WriteBatchFrame
from magd.memory_order import slabs
from magd.v1 import types_pb2, volume_pb2
from magd_client import answers, arrays, convert, methods
from magd_client._sync.connection import Connection, new_request_id
from magd_client._sync.twins import for_each
from magd_client.defaults import check_possible
from magd_client.pieces import PIECES_IN_FLIGHT, pieces
from magd_client.progress import Meter, ProgressLike, show_progress
from magd_client.retry import Deadline, bulk_timeout
from magd_client.status import error_of_box
from magd_client.transfer import Account, Filling, is_region_refused, part_of, piece_id, shared_frames, write_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.acknowledgement import Durability, Revision
    from magd.framing import ReadFrame, WriteFrame
    from magd.geometry import Box
    from magd.voxels import VoxelArray, VoxelFormat
    from magd_client.regions import Region

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """A mag, as far as its boxes need it."""

    connection: Connection
    name: str
    """Its full resource name."""
    voxels: VoxelFormat
    cube_len: int
    """Edge of a cube file, in voxels of the mag."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How to write."""

    durability: Durability
    bounds: convert.Bounds = "extend"
    only_nonzero: bool = False
    if_revision: Revision | None = None
    request_id: str | None = None
    timeout: float | None = None
    progress: ProgressLike = None


def write(target: Target, box: Box, data: VoxelArray, options: WriteOptions) -> Acknowledgement:
    """Write a box.

    :param data: (c, x, y, z) of the target's format, in any memory order
    :return: of the pieces: the highest revision and the lowest durability
    :raises MagdError: the first failure of a piece
    """
    check_possible(box)
    nbytes = target.voxels.nbytes(box)
    deadline = _deadline(target, nbytes, options.timeout)
    request_id = options.request_id or new_request_id()
    acknowledgements: list[Acknowledgement] = []
    with show_progress(options.progress, f"write {target.name}", nbytes, in_bytes=True) as meter:

        def write_piece(piece: Box) -> None:
            # A retry by the user with the same id gives each piece the id it had.
            identifier = request_id if piece == box else piece_id(request_id, piece)
            part = part_of(data, box, piece)
            acknowledgements.append(_write_piece(target, piece, part, identifier, options, deadline, meter))

        try:
            _for_each_piece(target, box, write_piece)
        except (TooSlow, Unavailable) as error:
            raise type(error)(
                f"{error.message}; it is not known whether the write of {box} was committed. "
                f"The same write with request_id={request_id!r} is applied at most once",
                reason=error.reason,
                metadata={**error.metadata, "request_id": request_id},
            ) from None
    return Acknowledgement(
        max(acknowledgement.revision for acknowledgement in acknowledgements),
        min(acknowledgement.durability for acknowledgement in acknowledgements),
    )


def read(
    target: Target, box: Box, *, timeout: float | None, progress: ProgressLike, out: VoxelArray | None = None
) -> VoxelArray:
    """Read a box.

    :param out: where to; None: into a new array
    :return: (c, x, y, z), Fortran order; zeros where nothing was written
    :raises InvalidRequest: `out` is not an array that the box fits into as it is
    :raises MagdError: the first failure of a piece
    """
    check_possible(box)
    whole = target.voxels.empty(box.size) if out is None else arrays.room_in(out, target.voxels, box.size)
    deadline = _deadline(target, whole.nbytes, timeout)
    with show_progress(progress, f"read {target.name}", whole.nbytes, in_bytes=True) as meter:

        def read_piece(piece: Box) -> None:
            part = part_of(whole, box, piece)
            if part.flags.f_contiguous:
                _read_piece(target, piece, part, deadline, meter)
                return
            filled = target.voxels.empty(piece.size)
            _read_piece(target, piece, filled, deadline, meter)
            part[...] = filled

        _for_each_piece(target, box, read_piece)
    return whole


def write_header(
    target: Target, box: Box, request_id: str, options: WriteOptions, *, is_encoded: bool = False
) -> volume_pb2.WriteBoxRequest:
    """What the first message of a write says."""
    return volume_pb2.WriteBoxRequest(
        name=target.name,
        box=convert.box_to_proto(box),
        data_type=convert.data_type_to_proto(target.voxels.dtype.name),
        num_channels=target.voxels.num_channels,
        durability=convert.durability_to_proto(options.durability),
        bounds=convert.bounds_to_proto(options.bounds),
        mask=volume_pb2.MASK_NONZERO if options.only_nonzero else volume_pb2.MASK_ALL,
        if_revision=convert.revision_to_proto(options.if_revision),
        request_id=request_id,
        order=types_pb2.ORDER_FORTRAN,
        encoding=types_pb2.ENCODING_LZ4 if is_encoded else types_pb2.ENCODING_RAW,
    )


def _deadline(target: Target, nbytes: int, timeout: float | None) -> Deadline:
    if timeout is None:
        timeout = bulk_timeout(target.connection.settings.timeout, nbytes)
    return Deadline(timeout)


def _for_each_piece(target: Target, box: Box, work: Callable[[Box], None]) -> None:
    max_bytes = target.connection.max_box_bytes()
    if target.voxels.nbytes(box) <= max_bytes:
        work(box)
        return
    cut = pieces(
        box,
        cube_len=target.cube_len,
        bytes_per_voxel=target.voxels.bytes_per_voxel,
        max_bytes=max_bytes,
    )
    for_each(cut, work, limit=PIECES_IN_FLIGHT)


def _write_piece(
    target: Target,
    box: Box,
    data: VoxelArray,
    request_id: str,
    options: WriteOptions,
    deadline: Deadline,
    meter: Meter,
) -> Acknowledgement:
    """Write a box that is not too large, with retries."""
    is_encoded = target.connection.compresses_parts()
    is_alone = data.nbytes <= arrays.PART_BYTES and target.connection.batches_one_box()
    header = write_header(target, box, request_id, options, is_encoded=is_encoded)

    def send(seconds: float, region: Region | None) -> volume_pb2.WriteBoxResponse:
        account = Account(meter)
        turned = slabs(data, target.voxels)
        if region is None:
            frames = write_frames(header, arrays.parts(turned), data.nbytes)
            if is_alone:
                response = _write_alone(target.connection, next(frames), seconds)
                account.complete(data.nbytes)
                return response
        else:
            frames = shared_frames(header, turned, region)
        try:
            response = target.connection.transport.upload(methods.WRITE_BOX, next(frames), frames, seconds, account.add)
        except BaseException:
            account.take_back()
            raise
        # A retry may be answered before all was sent: what counts is that it is there.
        account.complete(data.nbytes)
        return response

    shareable = 0 if is_encoded else target.connection.shareable_bytes(data.nbytes)
    response = _transfer(target.connection, send, shareable, deadline)
    return answers.acknowledgement(response)


def _read_piece(target: Target, box: Box, into: VoxelArray, deadline: Deadline, meter: Meter) -> None:
    """Read a box that is not too large, with retries."""
    is_encoded = target.connection.compresses_parts()
    # The boxes of batches are read as they are.
    is_alone = into.nbytes <= arrays.PART_BYTES and not is_encoded and target.connection.batches_one_box()

    def receive(seconds: float, region: Region | None) -> None:
        request = volume_pb2.ReadBoxRequest(
            name=target.name,
            box=convert.box_to_proto(box),
            order=types_pb2.ORDER_FORTRAN,
            encoding=types_pb2.ENCODING_LZ4 if is_encoded else types_pb2.ENCODING_RAW,
            shared_memory=None if region is None else region.whole,
        )
        account = Account(meter)
        filling = Filling(into, target.voxels, account, region)
        try:
            if is_alone:
                filling.receive(_read_alone(target.connection, request, seconds))
            else:
                target.connection.transport.download(methods.READ_BOX, request, seconds, filling.receive)
            filling.finish()
        except BaseException:
            account.take_back()
            raise

    shareable = 0 if is_encoded else target.connection.shareable_bytes(into.nbytes)
    _transfer(target.connection, receive, shareable, deadline)


def _write_alone(connection: Connection, frame: WriteFrame, seconds: float) -> volume_pb2.WriteBoxResponse:
    """Write a box that is whole in one message."""
    response = connection.transport.unary(methods.WRITE_BOX_BATCH, WriteBatchFrame((frame,)), seconds)
    (result,) = response.results
    if result.HasField("error"):
        raise error_of_box(result.error)
    return result.acknowledgement


def _read_alone(connection: Connection, request: volume_pb2.ReadBoxRequest, seconds: float) -> ReadFrame:
    """Read a box that is whole in one message."""
    batch = volume_pb2.ReadBoxBatchRequest(boxes=(request,))
    (result,) = (connection.transport.unary(methods.READ_BOX_BATCH, batch, seconds)).results
    if isinstance(result.outcome, volume_pb2.BoxError):
        raise error_of_box(result.outcome)
    return result.outcome


def _transfer(
    connection: Connection,
    attempt: Callable[[float, Region | None], T],
    shareable_bytes: int,
    deadline: Deadline,
) -> T:
    """Make attempts, the first one with shared memory if there is some.

    :param attempt: called with the seconds it has, and a region or None
    :param shareable_bytes: what the region should have; 0: none is wanted
    """

    def attempt_with_region(seconds: float) -> T:
        nonlocal shareable_bytes
        wanted, shareable_bytes = shareable_bytes, 0  # whatever fails, the next attempt goes without
        sharing = connection.sharing()
        with sharing.borrow(wanted, seconds) as region:
            try:
                result = attempt(deadline.remaining(), region)
            except MagdError as error:
                if region is None or not (region.has_failed or is_region_refused(error)):
                    raise
                sharing.note_trouble()
            else:
                if region is not None:
                    sharing.note_success()
                return result
        return attempt(deadline.remaining(), None)

    return connection.retry(attempt_with_region, timeout=deadline.remaining())
