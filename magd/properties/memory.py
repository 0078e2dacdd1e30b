"""Bounding boxes that were extended, to bring back what others write over.

Programs that hold a dataset open write back the properties as they read them at some earlier time, and do so again
and again without reading what became of them. If we extended a bounding box in between, their file has the old box,
and saving it made the extension disappear; the server then shows nothing of what lies outside. The three-way merge for
a box is the union: ours, as extended, and what they wrote.

So every extension is remembered here for as long as the dataset is served. A smaller box in a file of others may be
meant, or be older than the extension: nothing tells the two apart, so it is taken for the latter. Setting a box
explicitly forgets what was remembered for its layer: that is the one way to make it smaller.
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
    """What has been added to the bounding boxes of a dataset."""

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

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be lost."""
        return not self._extensions

    def forget_gone(self, properties: DatasetProperties) -> None:
        """Others have written the file: a layer that they removed is not the one that may get its name later."""
        self._extensions = {name: box for name, box in self._extensions.items() if properties.layer(name) is not None}

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
