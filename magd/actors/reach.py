"""What of a mag its layer's bounding box contains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from magd.actors.opening import layer_box
from magd.actors.requests import outside
from magd.geometry import BoundingBox

if TYPE_CHECKING:
    from magd.actors.dataset import DatasetActor
    from magd.catalog.names import MagName
    from magd.geometry import Box
    from magd.properties.file import Snapshot


class Reach:
    """The bounding box of a layer, as one of its mags asks for it with each write.

    :param dataset: of the layer
    """

    def __init__(self, name: MagName, dataset: DatasetActor) -> None:
        self._name: Final = name
        self._dataset: Final = dataset
        self._last: tuple[Snapshot, BoundingBox] | None = None

    def contains_now(self, box: Box) -> bool:
        """Whether it is known, without looking at the properties, that a box lies inside.

        :param box: in voxels of the mag
        """
        snapshot = self._dataset.known_now()
        return snapshot is not None and self._in(snapshot).contains(box.in_mag_1(self._name.mag))

    async def missing(self, box: BoundingBox) -> BoundingBox:
        """What the bounding box must be enlarged by to contain a box; empty if it does."""
        return BoundingBox.empty() if self._in(await self._dataset.known()).contains(box) else box

    async def require(self, box: Box) -> None:
        """Refuse a box that leaves it.

        :param box: in voxels of the mag
        :raises OutOfBounds: it does
        """
        bounds = layer_box(await self._dataset.current(), self._name)
        if not bounds.contains(box):
            raise outside(box, bounds, self._name)

    def _in(self, snapshot: Snapshot) -> BoundingBox:
        """What it contains of the mag."""
        if self._last is None or self._last[0] is not snapshot:
            layer, mag = snapshot.properties.layer(self._name.layer), self._name.mag
            reach = BoundingBox.empty() if layer is None else layer.bounding_box.in_mag(mag).in_mag_1(mag)
            self._last = (snapshot, reach)
        return self._last[1]
