"""Making the cube files of a coarser mag in the processes of the pool.

The steps, the parts of a large cube file, and what is done about blocks that were written meanwhile, are those of
`magd.cubes.convert`. What is different is where the blocks come from: they are not read, they are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from magd.cubes.block_copy import BlockCopy, rows_of
from magd.cubes.block_source import BlockSource, Run, pieces
from magd.cubes.convert import Conversion
from magd.cubes.layout import box_of_cube_file, split_by_cube_file
from magd.cubes.mag_files import MagFiles
from magd.downsampling.boxes import downsample_box
from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from magd.downsampling.kernels import Method

PIECE_BYTES: Final = 2 << 20
"""Of blocks that are made at once."""


@dataclass(frozen=True, slots=True)
class Downsampling(Conversion):
    """What is made of what: the source is the finer mag, the target the coarser one."""

    factor: Vec3
    """Voxels of the source in one of the target along each axis."""
    method: Method
    bounds: Box
    """The layer's bounding box, in voxels of the source."""

    def blocks_of(self, cube: Vec3) -> BlockSource:
        """See Conversion."""
        return _CoarserBlocks(self, cube)

    def target_boxes(self, boxes: Iterable[Box]) -> Iterator[Box]:
        """The voxels of the target that boxes of the source touch."""
        return coarser_boxes(boxes, self.factor)

    def cubes_over(self, cubes: Iterable[Vec3]) -> list[Vec3]:
        """The cube files of the target over some cube files of the source."""
        found: dict[Vec3, None] = {}
        for box in coarser_boxes(
            (box_of_cube_file(cube, self.source_header.cube_len).intersection(self.bounds) for cube in cubes),
            self.factor,
        ):
            found.update((cube, None) for cube, _ in split_by_cube_file(box, self.header.cube_len))
        return list(found)


def coarser_boxes(boxes: Iterable[Box], factor: Vec3) -> Iterator[Box]:
    """The voxels of a coarser mag that boxes of a finer one touch, each box once."""
    seen: set[Box] = set()
    for box in boxes:
        coarser = Box.between(box.offset // factor, box.end.ceildiv(factor))
        if not box.is_empty and coarser not in seen:
            seen.add(coarser)
            yield coarser


class _CoarserBlocks(BlockSource):
    """Makes the blocks of one cube file of the coarser mag."""

    def __init__(self, downsampling: Downsampling, cube: Vec3) -> None:
        super().__init__(downsampling.source, downsampling.source_header, downsampling.header, cube)
        self._downsampling: Final = downsampling
        self._finer: MagFiles | None = None

    def __enter__(self) -> Self:
        self._finer = MagFiles.open(self._downsampling.source, read_only=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._finer is not None, "the context was entered"
        self._finer.close()

    def runs(self, first: int, last: int) -> Iterator[Run]:
        """See BlockSource."""
        assert self._finer is not None, "the context was entered"
        way, target = self._downsampling, self._target
        corner = self._cube * target.cube_len
        for start, count, in_file in pieces(target, first, last, max(1, PIECE_BYTES // target.block_bytes)):
            box = Box(corner + in_file.offset, in_file.size)
            data = downsample_box(box, way.factor, way.method, way.bounds, target.voxels, self._finer.read)
            if not data.any():
                yield Run(count, None)
                continue
            copy = BlockCopy(target, in_file, rows_of(data))
            assert copy.index[0] == start, "a piece is a box in Morton order"
            blocks = copy.buffer(count)
            copy.from_box(0, blocks)
            yield Run(count, blocks.reshape(count, target.block_bytes))
