# Generated from _async/batch.py by scripts/unasync: change it there.
"""Many small boxes of one mag, in few messages.

1. Boxes are collected, writes and reads apart, until they fill a message (or the caller flushes). Their data is copied.
2. A full group is sent in a call of its own; some calls are under way side by side. While as many are as may be, the
   next box waits. A box that fills a message alone goes the way of single boxes.
3. Each box is committed, or read, by itself and has its own outcome. Those that fail because the daemon is away or busy
   are sent again, with the same request ids: each is applied once.
4. Boxes that overlap take effect in the order of the calls. The daemon sees to that within one message; before a box is
   collected that overlaps one under way, or one of the other kind, everything before it is brought to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from magd.acknowledgement import Acknowledgement
from magd.box_index import BoxIndex
from magd.errors import MagdError, TooSlow, Unavailable
from magd.framing import ReadBoxesFrame, WriteBatchFrame, WriteFrame
from magd.geometry import ORIGIN, Box, Vec3Like
from magd.v1 import types_pb2, volume_pb2
from magd.voxels import VoxelArray
from magd_client import answers, arrays, convert, methods
from magd_client._sync import boxes
from magd_client._sync.boxes import Target, WriteOptions
from magd_client._sync.connection import new_request_id
from magd_client._sync.twins import Crew
from magd_client.defaults import check_inside, check_possible, vec3_of
from magd_client.outcome import Outcome
from magd_client.progress import Meter
from magd_client.retry import bulk_timeout, is_transient
from magd_client.status import error_of_box
from magd_client.transfer import Account, Filling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from magd_client._sync.batching import Batching
    from magd_client.convert import Bounds, DurabilityLike

CALLS_IN_FLIGHT: Final = 4
"""Of one batch. Some more than one, so that the daemon always has something to do."""
MOST_BOXES: Final = 200
"""In one message: the daemon holds no more of one call at a time."""
_BESIDE_DATA: Final = 256
"""Bytes that a box takes in a message beside its data, at most or a little more."""


@dataclass(eq=False, slots=True)
class _Write:
    outcome: Outcome[Acknowledgement]
    header: volume_pb2.WriteBoxRequest
    data: bytes
    """In the order in which it travels."""


@dataclass(eq=False, slots=True)
class _Read:
    outcome: Outcome[VoxelArray]
    request: volume_pb2.ReadBoxRequest


@dataclass(eq=False, slots=True)
class _Group:
    """Boxes that travel together: only writes, or only reads."""

    writes: list[_Write] = field(default_factory=list)
    reads: list[_Read] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    size_bytes: int = 0
    is_done: bool = False

    def overlaps(self, box: Box) -> bool:
        """Whether one of them shares a voxel with a box."""
        return any(box.intersects(other) for other in self.boxes)


ItemT = TypeVar("ItemT", _Write, _Read)
ResultT = TypeVar("ResultT", volume_pb2.WriteBoxesResponse, ReadBoxesFrame)


class Batch:
    """Many small boxes at once, each atomic alone. Made by `batch()` of a mag or a view, and used as a context:

        with mag.batch() as batch:
            for offset, data in tiles:
                batch.write(data, offset)
            cut = batch.read((0, 0, 0), (32, 32, 32))
        voxels = cut.result()

    Leaving the context sends what is collected and waits for all outcomes; then it raises the first error, if there is
    one, with a note on how many boxes failed (each outcome has its own). Boxes that overlap take effect in the order of
    the calls. A context that is left by an exception sends nothing more, and gives up what is under way.
    """

    def __init__(
        self, source: Batching, *, durability: DurabilityLike | None, bounds: Bounds, timeout: float | None
    ) -> None:
        self._source = source
        self._durability = durability
        self._bounds: Bounds = bounds
        self._timeout = timeout
        self._crew = Crew(CALLS_IN_FLIGHT)
        self._under_way: list[_Group] = []
        self._boxes_under_way = BoxIndex[tuple[_Group, int]]()
        """By group and number in it."""
        self._collected = _Group()
        self._count = 0
        self._failed: list[Outcome[Any]] = []
        self._target: Target | None = None
        self._limit: Box | None = None
        self._options: WriteOptions | None = None

    def __enter__(self) -> Self:
        self._target, self._limit = self._source._batch_target()  # noqa: SLF001  # two halves of one thing
        settings = self._target.connection.settings
        durability = settings.durability if self._durability is None else convert.durability_of(self._durability)
        self._options = WriteOptions(durability=durability, bounds=self._bounds, timeout=self._timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._crew.abandon()
            return
        try:
            self.flush()
        finally:
            self._crew.abandon()
        if self._failed:
            first = min(self._failed, key=lambda outcome: outcome.number)
            assert first.error is not None, "it is among those that failed"
            if len(self._failed) > 1:
                first.error.add_note(f"{len(self._failed)} boxes of the batch failed; this is the first one")
            raise first.error

    def write(
        self, data: npt.ArrayLike, offset: Vec3Like = ORIGIN, *, request_id: str | None = None
    ) -> Outcome[Acknowledgement]:
        """Write a box. May wait for boxes before it; its data may be changed as soon as this returns.

        :param data: (x, y, z) for one channel, or (c, x, y, z); the layer's dtype; any memory order
        :param offset: first voxel, absolute, in voxels of the mag
        :param request_id: a UUID, to repeat a write whose outcome is unknown; None: a new one
        :return: its outcome, which is known at the latest when the batch is left
        :raises InvalidRequest: dtype, channels or dimensions are not the layer's, or the box is not possible
        :raises OutOfBounds: the box leaves the view
        :raises NotAllowed: the view is read-only
        """
        self._source._check_writable()  # noqa: SLF001  # two halves of one thing
        target, options = self._opened()
        array = arrays.as_voxels(data, target.voxels)
        box = self._checked(Box(vec3_of("offset", offset), arrays.size_of(array)))
        outcome = Outcome[Acknowledgement](box, self._next_number(), request_id or new_request_id())
        if array.nbytes > arrays.PART_BYTES:
            self._alone(box, outcome, array.copy())
            return outcome
        self._make_room(box, array.nbytes, is_write=True)
        header = boxes.write_header(target, box, outcome.request_id, options)
        self._collected.writes.append(_Write(outcome, header, arrays.to_bytes(array, target.voxels)))
        self._note(box, array.nbytes)
        return outcome

    def read(self, offset: Vec3Like, size: Vec3Like) -> Outcome[VoxelArray]:
        """Read a box. It sees every write of this batch that was called before.

        :param offset: first voxel, absolute, in voxels of the mag
        :param size: extent in voxels of the mag
        :return: its outcome: (c, x, y, z), Fortran order; known at the latest when the batch is left
        :raises InvalidRequest: the box is not possible
        :raises OutOfBounds: the box leaves the view
        """
        target, _ = self._opened()
        box = self._checked(Box(vec3_of("offset", offset), vec3_of("size", size)))
        outcome = Outcome[VoxelArray](box, self._next_number())
        nbytes = target.voxels.nbytes(box)
        if nbytes > arrays.PART_BYTES:
            self._alone(box, outcome, None)
            return outcome
        self._make_room(box, nbytes, is_write=False)
        request = volume_pb2.ReadBoxRequest(
            name=target.name,
            box=convert.box_to_proto(box),
            order=types_pb2.ORDER_FORTRAN,
            encoding=types_pb2.ENCODING_RAW,
        )
        self._collected.reads.append(_Read(outcome, request))
        self._note(box, nbytes)
        return outcome

    def flush(self) -> None:
        """Send what is collected, and wait until every outcome is known. Raises nothing that a box met."""
        self._send()
        self._crew.finish()

    def size_bytes(self, box: Box) -> int:
        """Bytes of the voxels of a box of this mag."""
        return self._opened()[0].voxels.nbytes(box)

    # -- collecting ----------------------------------------------------------------------------------------------------

    def _opened(self) -> tuple[Target, WriteOptions]:
        if self._target is None or self._options is None:
            raise RuntimeError("a batch is used as a context: `with mag.batch() as batch`")
        return self._target, self._options

    def _checked(self, box: Box) -> Box:
        check_possible(box)
        if self._limit is not None:
            check_inside(box, self._limit, "the view")
        return box

    def _make_room(self, box: Box, nbytes: int, *, is_write: bool) -> None:
        """Have a group to which the box can be added, and nothing under way that it overlaps."""
        group = self._collected
        others_first = bool(group.reads if is_write else group.writes)
        if self._overlaps_what_is_under_way(box) or (others_first and group.overlaps(box)):
            self.flush()
        elif (
            others_first
            or group.size_bytes + nbytes + _BESIDE_DATA > arrays.PART_BYTES
            or len(group.boxes) == MOST_BOXES
        ):
            self._send()

    def _next_number(self) -> int:
        self._count += 1
        return self._count - 1

    def _overlaps_what_is_under_way(self, box: Box) -> bool:
        for group in [group for group in self._under_way if group.is_done]:
            self._under_way.remove(group)
            for number in range(len(group.boxes)):
                self._boxes_under_way.remove((group, number))
        return bool(self._boxes_under_way.touching(box))

    def _note(self, box: Box, nbytes: int) -> None:
        self._collected.boxes.append(box)
        self._collected.size_bytes += nbytes + _BESIDE_DATA

    def _send(self) -> None:
        group, self._collected = self._collected, _Group()
        if group.writes:
            self._start(group, lambda: self._write_group(group))
        elif group.reads:
            self._start(group, lambda: self._read_group(group))

    def _alone(self, box: Box, outcome: Outcome[Any], data: VoxelArray | None) -> None:
        """Have a large box written, or read if there is no data, in a call of its own."""
        target, options = self._opened()
        if self._overlaps_what_is_under_way(box) or self._collected.overlaps(box):
            self.flush()

        def work() -> None:
            try:
                if data is None:
                    outcome.succeed(boxes.read(target, box, timeout=self._timeout, progress=None))
                else:
                    with_id = replace(options, request_id=outcome.request_id)
                    outcome.succeed(boxes.write(target, box, data, with_id))
            except MagdError as error:
                self._fail(outcome, error)

        self._start(_Group(boxes=[box]), work)

    def _start(self, group: _Group, work: Callable[[], None]) -> None:
        self._under_way.append(group)
        for number, box in enumerate(group.boxes):
            self._boxes_under_way.add((group, number), box)

        def tracked() -> None:
            try:
                work()
            finally:
                group.is_done = True

        self._crew.start(tracked)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _write_group(self, group: _Group) -> None:
        target, _ = self._opened()

        def call(writes: list[_Write], seconds: float) -> Sequence[volume_pb2.WriteBoxesResponse]:
            request = WriteBatchFrame([WriteFrame(write.header, write.data) for write in writes])
            response = target.connection.transport.unary(methods.WRITE_BOX_BATCH, request, seconds)
            return response.results

        def take(write: _Write, result: volume_pb2.WriteBoxesResponse) -> None:
            if result.HasField("error"):
                raise error_of_box(result.error)
            write.outcome.succeed(answers.acknowledgement(result.acknowledgement))

        self._carry(group.writes, call, take, group.size_bytes)

    def _read_group(self, group: _Group) -> None:
        target, _ = self._opened()

        def call(reads: list[_Read], seconds: float) -> Sequence[ReadBoxesFrame]:
            request = volume_pb2.ReadBoxBatchRequest(boxes=[read.request for read in reads])
            response = target.connection.transport.unary(methods.READ_BOX_BATCH, request, seconds)
            return response.results

        def take(read: _Read, result: ReadBoxesFrame) -> None:
            if isinstance(result.outcome, volume_pb2.BoxError):
                raise error_of_box(result.outcome)
            array = target.voxels.empty(read.outcome.box.size)
            filling = Filling(array, target.voxels, Account(Meter(array.nbytes, None)))
            filling.receive(result.outcome)
            filling.finish()
            read.outcome.succeed(array)

        self._carry(group.reads, call, take, group.size_bytes)

    def _carry(
        self,
        items: list[ItemT],
        call: Callable[[list[ItemT], float], Any],
        take: Callable[[ItemT, ResultT], None],
        size_bytes: int,
    ) -> None:
        """Make calls until each box has its outcome.

        :param call: gets boxes and the seconds it has; returns what the daemon says of each
        :param take: gets a box, and what the daemon says of it; raises its error
        """
        connection = self._opened()[0].connection
        waiting = items

        def attempt(seconds: float) -> None:
            nonlocal waiting
            asked, waiting = waiting, []
            try:
                results = call(asked, seconds)
            except BaseException:
                waiting = asked
                raise
            last: MagdError | None = None
            for item, result in zip(asked, results, strict=True):
                try:
                    take(item, result)
                except MagdError as error:
                    if is_transient(error):
                        waiting.append(item)
                        last = error
                    else:
                        self._fail(item.outcome, error)
            if last is not None:
                raise last

        timeout = bulk_timeout(connection.settings.timeout, size_bytes) if self._timeout is None else self._timeout
        try:
            connection.retry(attempt, timeout=timeout)
        except MagdError as error:
            for item in waiting:
                self._fail(item.outcome, _of_box(error, item.outcome))

    def _fail(self, outcome: Outcome[Any], error: MagdError) -> None:
        outcome.fail(error)
        self._failed.append(outcome)


def _of_box(error: MagdError, outcome: Outcome[Any]) -> MagdError:
    """What the message met that the box was in, as an error of its own."""
    message, metadata = error.message, error.metadata
    if outcome.request_id and isinstance(error, TooSlow | Unavailable):
        message = (
            f"{message}; it is not known whether the write of {outcome.box} was committed. "
            f"The same write with request_id={outcome.request_id!r} is applied at most once"
        )
        metadata = {**metadata, "request_id": outcome.request_id}
    return type(error)(message, reason=error.reason, metadata=metadata, retry_after=error.retry_after)
