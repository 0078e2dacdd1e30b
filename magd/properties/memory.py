"""Bounding boxes that were extended since others last wrote the file.

Programs that hold a dataset open write back the properties as they read them at some earlier time. If we
extended a bounding box in between, their file has the old box, and saving it made the extension disappear;
the server then shows nothing of what lies outside. The three-way merge for a box is the union: ours, as
extended since we last took in a file of theirs, and what they wrote.

So every extension is remembered here until the file of another program was merged with it. From then on that
program (and whoever reads after it) has seen the extended box, and a smaller one in a later file is meant:
that is the one way to shrink a box by editing the file. Setting a box explicitly forgets what was remembered
for its layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magd.errors import NotAllowed, NotFound
from magd.geometry import BoundingBox
from magd.properties.edits import Edit, ExtendBoundingBox, RemoveLayer, RenameLayer, SetBoundingBox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magd.properties.forms import JsonObject
    from magd.properties.model import DatasetProperties


class BoundingBoxMemory:
    """What has been added to the bounding boxes of a dataset since others last wrote its properties."""

    def __init__(self) -> None:
        self._extensions: dict[str, BoundingBox] = {}

    def note(self, edits: Iterable[Edit]) -> None:
        """Learn from edits that were saved."""
        for edit in edits:
            match edit:
                case ExtendBoundingBox(layer, box):
                    self._extensions[layer] = self._extensions.get(layer, BoundingBox.empty()).union(box)
                case SetBoundingBox(layer) | RemoveLayer(layer):
                    self._extensions.pop(layer, None)
                case RenameLayer(old, new) if old in self._extensions:
                    self._extensions[new] = self._extensions.pop(old)
                case _:
                    pass

    def forget(self) -> None:
        """Start anew, after a file of somebody else was saved together with what was missing in it."""
        self._extensions.clear()

    def missing(self, properties: DatasetProperties) -> list[Edit]:
        """The edits that bring back what these properties have lost; none if nothing is lost."""
        for name, box in self._extensions.items():
            layer = properties.layer(name)
            if layer is not None and not layer.bounding_box.contains(box):
                return [self.edit()]
        return []

    def edit(self) -> Edit:
        """An edit that brings back whatever the file has lost when it is saved, and leaves gone layers gone.

        Put before the edits of every save it closes the gap between looking at the file and saving it.
        """
        return _Remembered(tuple(self._extensions.items()))


@dataclass(frozen=True, slots=True)
class _Remembered:
    """Extensions of those layers that still have a bounding box."""

    extensions: tuple[tuple[str, BoundingBox], ...]

    def apply(self, tree: JsonObject) -> None:
        for name, box in self.extensions:
            try:
                ExtendBoundingBox(name, box).apply(tree)
            except (NotFound, NotAllowed):
                pass  # others removed the layer, or made it one that is not served: their edit stands
