"""The batches of a mag or a view: as a context, or as an iterator over boxes whose outcomes come in their order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from magd_client._async.batch import Batch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    import numpy.typing as npt

    from magd.acknowledgement import Acknowledgement
    from magd.geometry import Box, Vec3Like
    from magd.voxels import VoxelArray
    from magd_client._async.boxes import Target
    from magd_client.convert import Bounds, DurabilityLike
    from magd_client.outcome import Outcome

T = TypeVar("T")

WINDOW_BYTES: Final = 16 << 20
"""What an iterator may run ahead of the box that is next, in bytes of voxels."""


class Batching(ABC):
    """What has boxes that can be written and read many at a time: a mag, a view."""

    def batch(
        self,
        *,
        durability: DurabilityLike | None = None,
        bounds: Bounds = "extend",
        timeout: float | None = None,
    ) -> Batch:
        """Many small boxes at once: some ten times as fast as one after the other. See `Batch`.

        :param durability: "none", "process" or "disk"; None: the client's
        :param bounds: "extend" lets a box that leaves the bounding box enlarge it, "reject" refuses it
        :param timeout: seconds for each message with all its attempts; None: by its size
        """
        return Batch(self, durability=durability, bounds=bounds, timeout=timeout)

    async def write_boxes(
        self,
        boxes: Iterable[tuple[Vec3Like, npt.ArrayLike]],
        *,
        durability: DurabilityLike | None = None,
        bounds: Bounds = "extend",
        timeout: float | None = None,
    ) -> AsyncIterator[Acknowledgement]:
        """Write many small boxes, and give the acknowledgement of each, in their order.

        Boxes are taken from `boxes` as fast as the daemon takes them; a bounded number is in memory.

        :param boxes: pairs of an offset and data, as for `write`
        :param durability: "none", "process" or "disk"; None: the client's
        :param bounds: "extend" or "reject", as for `write`
        :param timeout: seconds for each message with all its attempts; None: by its size
        :raises MagdError: what the first box met that failed, when it is its turn. Later ones may be committed
        """
        async with self.batch(durability=durability, bounds=bounds, timeout=timeout) as batch:
            window = _Window["Acknowledgement"]()
            for offset, data in boxes:
                window.add(await batch.write(data, offset), batch)
                if window.is_full:
                    await batch.flush()
                for outcome in window.known():
                    yield outcome.result()
            await batch.flush()
            for outcome in window.known():
                yield outcome.result()

    async def read_boxes(
        self, boxes: Iterable[Box], *, timeout: float | None = None
    ) -> AsyncIterator[tuple[Box, VoxelArray]]:
        """Read many small boxes, and give each with its voxels, (c, x, y, z) in Fortran order, in their order.

        Boxes are taken from `boxes` as fast as they are read; a bounded number is in memory.

        :param boxes: in voxels of the mag
        :param timeout: seconds for each message with all its attempts; None: by its size
        :raises MagdError: what the first box met that failed, when it is its turn
        """
        async with self.batch(timeout=timeout) as batch:
            window = _Window["VoxelArray"]()
            for box in boxes:
                window.add(await batch.read(box.offset, box.size), batch)
                if window.is_full:
                    await batch.flush()
                for outcome in window.known():
                    yield outcome.box, outcome.result()
            await batch.flush()
            for outcome in window.known():
                yield outcome.box, outcome.result()

    @abstractmethod
    async def _batch_target(self) -> tuple[Target, Box | None]:
        """The mag as it is now, and the box that boxes must not leave."""

    @abstractmethod
    def _check_writable(self) -> None:
        """Refuse to write, if it is known already that this is not allowed.

        :raises NotAllowed: it is read-only
        """


class _Window(Generic[T]):
    """The boxes of an iterator that were not given to its caller yet, in order."""

    def __init__(self) -> None:
        self._outcomes: deque[tuple[Outcome[T], int]] = deque()
        self._size_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether no more may be added before the first is known."""
        return self._size_bytes > WINDOW_BYTES

    def add(self, outcome: Outcome[T], batch: Batch) -> None:
        """Add the next one."""
        size_bytes = batch.size_bytes(outcome.box)
        self._outcomes.append((outcome, size_bytes))
        self._size_bytes += size_bytes

    def known(self) -> Iterator[Outcome[T]]:
        """Take out the first ones, as long as they are known."""
        while self._outcomes and self._outcomes[0][0].is_known:
            outcome, size_bytes = self._outcomes.popleft()
            self._size_bytes -= size_bytes
            yield outcome
