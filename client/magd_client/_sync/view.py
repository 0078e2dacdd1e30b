# Generated from _async/view.py by scripts/unasync: change it there.
"""Slices, which a mag and its views have in common, and the view itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from magd.errors import NotAllowed, Reason
from magd.geometry import Box, Vec3Like
from magd_client import arrays
from magd_client._sync.batching import Batching
from magd_client._sync.boxes import Target, WriteOptions, read, write
from magd_client._sync.twins import Assignable
from magd_client.convert import DurabilityLike, durability_of
from magd_client.defaults import box_of, check_inside, vec3_of
from magd_client.slices import Key, select

if TYPE_CHECKING:
    import numpy.typing as npt

    from magd.acknowledgement import Acknowledgement, Durability
    from magd.voxels import VoxelArray
    from magd_client._sync.mag import MagHandle
    from magd_client.progress import ProgressLike


class Sliceable(Batching, Assignable, ABC):
    """Something whose voxels are read and written by slices.

    Positions are absolute, in voxels of the mag. An open end is the end of the bounding box (of a view: of its
    box). Negative positions, steps and ranges that leave it are errors, of a type that is also an IndexError;
    only an assignment to a mag may leave the bounding box, which then grows. Layers with one channel have the
    axes (x, y, z), others (c, x, y, z). An index drops its axis.
    """

    __iter__ = None  # or Python would take it for a sequence of voxels

    def __getitem__(self, key: Key) -> VoxelArray:
        """Read a selection, as `read_at` does."""
        return self.read_at(key)

    def read_at(self, key: Key, *, timeout: float | None = None) -> VoxelArray:
        """Read a selection: `mag.read_at(np.s_[0:64, 0:64, 5])` is `mag[0:64, 0:64, 5]`.

        :param timeout: seconds for all of it; None: by its size
        :return: (x, y, z) for one channel, else (c, x, y, z), without the axes that have an index
        :raises OutOfBounds: it leaves the bounding box (of a view: its box), has a step or a negative position
        :raises InvalidRequest: the key has something else than indices, slices and an ellipsis
        """
        target, bounds = self._selectable()
        selection = select(key, bounds, target.voxels.num_channels)
        if selection.box.is_empty:
            return np.zeros(selection.shape, dtype=target.voxels.dtype)
        data = read(target, selection.box, timeout=timeout, progress=None)
        selected: VoxelArray = data[selection.channels][selection.cut]
        return selected

    def write_at(
        self,
        key: Key,
        value: Any,
        *,
        durability: DurabilityLike | None = None,
        timeout: float | None = None,
    ) -> Acknowledgement | None:
        """Write a value to a selection.

        :param value: a Python number that the layer's dtype has, or an array of that dtype; it is broadcast to
            the shape that reading the selection gives
        :param durability: None: the client's
        :param timeout: seconds for all of it; None: by its size
        :return: None if the selection is empty: nothing was written
        :raises OutOfBounds: as for reading; but a mag's bounding box grows
        :raises InvalidRequest: the value does not fit, or the selection leaves out channels
        :raises NotAllowed: the view is read-only
        """
        self._check_writable()
        target, bounds = self._selectable()
        selection = select(key, bounds, target.voxels.num_channels, may_grow=self._may_grow)
        data = arrays.spread(value, selection, target.voxels)
        if selection.box.is_empty:
            return None
        options = WriteOptions(durability=_durability(target, durability), timeout=timeout)
        return write(target, selection.box, data, options)

    @property
    @abstractmethod
    def _may_grow(self) -> bool:
        """Whether an assignment may leave the bounds."""

    @abstractmethod
    def _selectable(self) -> tuple[Target, Box]:
        """The mag as it is now, and what open ends mean."""


class View(Sliceable):
    """A box of a mag. It refuses what leaves the box. Positions stay absolute, in voxels of the mag."""

    def __init__(self, mag: MagHandle, box: Box, *, read_only: bool) -> None:
        self.mag: Final = mag
        self.box: Final = box
        """In voxels of the mag."""
        self.read_only: Final = read_only

    def __repr__(self) -> str:
        access = "read-only " if self.read_only else ""
        return f"<magd_client.View {access}{self.box} of {self.mag.name!r}>"

    def read(
        self,
        offset: Vec3Like | None = None,
        size: Vec3Like | None = None,
        *,
        out: VoxelArray | None = None,
        timeout: float | None = None,
        progress: ProgressLike = None,
    ) -> VoxelArray:
        """Read a box of the view.

        :param offset: first voxel, absolute, in voxels of the mag; None: the corner of the view
        :param size: extent in voxels of the mag; None: up to the end of the view
        :param out: an array to read into, as for a mag
        :return: `out`, or (c, x, y, z), Fortran order, the layer's dtype; zeros where nothing was written
        :raises OutOfBounds: the box leaves the view
        """
        box = box_of(self.box, offset, size)
        check_inside(box, self.box, "the view")
        return self.mag.read(box.offset, box.size, out=out, timeout=timeout, progress=progress)

    def write(
        self,
        data: npt.ArrayLike,
        offset: Vec3Like | None = None,
        *,
        durability: DurabilityLike | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        progress: ProgressLike = None,
    ) -> Acknowledgement:
        """Write a box of the view: see `MagHandle.write`.

        :param offset: first voxel, absolute, in voxels of the mag; None: the corner of the view
        :raises OutOfBounds: the box leaves the view
        :raises NotAllowed: the view is read-only
        """
        self._check_writable()
        start = self.box.offset if offset is None else vec3_of("offset", offset)
        array = np.asarray(data)
        if array.ndim in (3, 4):
            check_inside(Box.of(start, array.shape[-3:]), self.box, "the view")
        return self.mag.write(
            array,
            start,
            durability=durability,
            request_id=request_id,
            timeout=timeout,
            progress=progress,
        )

    def get_view(
        self, offset: Vec3Like | None = None, size: Vec3Like | None = None, *, read_only: bool = False
    ) -> View:
        """A view of a part of this one. It is read-only if this one is.

        :param offset: first voxel, absolute, in voxels of the mag; None: the corner of this view
        :param size: extent in voxels of the mag; None: up to the end of this view
        :raises OutOfBounds: it leaves this view
        """
        box = box_of(self.box, offset, size)
        check_inside(box, self.box, "the view")
        return View(self.mag, box, read_only=read_only or self.read_only)

    @property
    def _may_grow(self) -> bool:
        return False

    def _check_writable(self) -> None:
        if self.read_only:
            raise NotAllowed(f"the view {self.box} is read-only", reason=Reason.READ_ONLY)

    def _selectable(self) -> tuple[Target, Box]:
        return self.mag.target(), self.box

    def _batch_target(self) -> tuple[Target, Box | None]:
        return self.mag.target(), self.box


def _durability(target: Target, value: DurabilityLike | None) -> Durability:
    return target.connection.settings.durability if value is None else durability_of(value)
