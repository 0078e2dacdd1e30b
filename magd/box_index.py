"""Which of many boxes share a voxel with a given one, without a look at all of them.

1. Space is divided into cells. A box is noted in each cell that it touches; one that touches too many in a list of its
   own.
2. Those that may touch a box are the ones noted in its cells, and those of the list; if it touches too many cells, all.
3. They are compared with it one by one.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from magd.geometry import Box

CELL_SHIFT: Final = 7
"""A cell has an edge of 2^7 voxels: a few small boxes, and a large box has not many of them."""
MAX_CELLS: Final = 512

Cell: TypeAlias = tuple[int, int, int]
Bounds: TypeAlias = tuple[int, int, int, int, int, int]
"""Start and end along x, y and z."""

T = TypeVar("T")


class BoxIndex(Generic[T]):
    """Items that each have a box, in the order in which they were added. An item is known by what it is equal to."""

    def __init__(self) -> None:
        self._items: dict[T, tuple[int, Bounds, list[Cell] | None]] = {}
        """Number, bounds and cells of each; no cells if it has too many."""
        self._by_cell: dict[Cell, dict[T, None]] = {}
        self._large: dict[T, None] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def add(self, item: T, box: Box) -> None:
        """Add an item that is not there yet, behind all others."""
        bounds = _bounds(box)
        cells = _cells(bounds)
        self._items[item] = (self._added, bounds, cells)
        self._added += 1
        if cells is None:
            self._large[item] = None
        else:
            for cell in cells:
                self._by_cell.setdefault(cell, {})[item] = None

    def remove(self, item: T) -> None:
        """Remove an item.

        :raises KeyError: it is not there
        """
        _, _, cells = self._items.pop(item)
        if cells is None:
            del self._large[item]
            return
        for cell in cells:
            noted = self._by_cell[cell]
            del noted[item]
            if not noted:
                del self._by_cell[cell]

    def touching(self, box: Box) -> list[T]:
        """The items whose boxes share a voxel with this one, in order."""
        bounds = x0, x1, y0, y1, z0, z1 = _bounds(box)
        found: dict[T, int] = {}
        for item in self._near(bounds):
            number, (a0, a1, b0, b1, c0, c1), _ = self._items[item]
            if a0 < x1 and x0 < a1 and b0 < y1 and y0 < b1 and c0 < z1 and z0 < c1:
                found[item] = number
        return sorted(found, key=found.__getitem__)

    def _near(self, bounds: Bounds) -> Iterable[T]:
        cells = _cells(bounds)
        if cells is None or len(cells) >= len(self._items):
            return self._items
        return (item for noted in (self._large, *(self._by_cell.get(cell, {}) for cell in cells)) for item in noted)


def _bounds(box: Box) -> Bounds:
    offset, size = box.offset, box.size
    return offset.x, offset.x + size.x, offset.y, offset.y + size.y, offset.z, offset.z + size.z


def _cells(bounds: Bounds) -> list[Cell] | None:
    """The cells that a box touches; None if they are too many."""
    x0, x1, y0, y1, z0, z1 = bounds
    x = range(x0 >> CELL_SHIFT, (x1 - 1 >> CELL_SHIFT) + 1)
    y = range(y0 >> CELL_SHIFT, (y1 - 1 >> CELL_SHIFT) + 1)
    z = range(z0 >> CELL_SHIFT, (z1 - 1 >> CELL_SHIFT) + 1)
    if len(x) * len(y) * len(z) > MAX_CELLS:
        return None
    return list(product(x, y, z))
