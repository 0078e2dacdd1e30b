"""How a box lies among the blocks of one cube file: which bytes of the file it takes, and where they go in memory.

To ask numpy or the system for the bytes of one block takes longer than to move them. So:

1. The blocks that a box touches are cut into groups: neighbours in space, as many as fit into the caches of the
   processor, and all along x, then y, if that is not too much; but two along z where there are, since in Morton order
   four times as many follow each other then. A small box is one group.
2. In the memory of a group, blocks lie in columns along z: (y, x) of the blocks, then (z, y, bytes of a row along x).
   Planes of blocks that the box does not touch along z are left out, so that they need not be moved: the planes of a
   block lie one after the other in the file, too. Wherever a group lies in the file and whatever the box cuts off,
   the order of the rows in memory depends on three numbers only.
3. What lies together in the file goes in one system call. What is read may also have gaps, which are read and thrown
   away: that takes less time than another call. What is written has none, as a gap may be a block that somebody else
   writes.
4. Where a group lies in the file is a matter of one number, the index of its first block: how the others follow in
   Morton order repeats itself all over the file. So what was worked out for one place serves others.

Users' boxes mostly lie on a grid of their own, so that the same few plans come again and again: they are kept.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from magd.cubes import scratch
from magd.cubes.layout import spread_bits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Purpose: TypeAlias = Literal["read", "write", "decode"]
"""What is to be done with blocks: read what the box touches; change it; or read all of each, as what was compressed has
to be."""

Triple: TypeAlias = tuple[int, int, int]
"""Something along z, y, x."""

GROUP_BYTES: Final = 2 << 20
"""What is moved at a time, at most; but at least a block."""
GROUP_ROWS: Final = 1 << 16
"""The rows of these blocks, at most: for each, its place is remembered."""
GAP_BYTES: Final = 64 << 10
"""What is read and thrown away rather than making another system call."""
MOST_PIECES: Final = 512
"""Of memory that one system call fills; Linux takes up to 1024."""
MOST_KEPT_LENGTHS: Final = 4
"""Plans of boxes that are so many blocks long are kept."""


Transfer: TypeAlias = tuple[int, int, tuple[tuple[int, int], ...]]
"""What one system call moves: where it starts in the file, in bytes from the first block of the group; its bytes; and
[start, end) of the pieces in memory, in the order of the file."""


class Decoded(NamedTuple):
    """A block that is read as a whole.

    :ivar number: its index in the file, counted from that of the first block of the group
    :ivar place: where it starts in memory, in bytes
    :ivar wanted: how many of its bytes are needed, from its start on
    """

    number: int
    place: int
    wanted: int


class Moves(NamedTuple):
    """How the blocks of a group come from the file into memory and back, wherever it lies in the file.

    :ivar shape: planes along z in memory; blocks along y and x
    :ivar memory_bytes: of the blocks; and of gaps that are read, behind them
    :ivar reads: all that is read before the box is filled, or before it is laid over: only what it leaves as it is
    :ivar writes: all that is written
    :ivar decoded: the blocks, as they follow each other in the file
    """

    shape: Triple
    memory_bytes: int
    gap_bytes: int
    reads: tuple[Transfer, ...]
    writes: tuple[Transfer, ...]
    decoded: tuple[Decoded, ...]


Region: TypeAlias = tuple[slice, slice, slice]
"""Along one axis, neighbouring blocks in which a box lies alike: which they are; where it lies in each of them; and
where these lie in what the group has of the box."""


class Group(NamedTuple):
    """Blocks that are moved together.

    :ivar first: the index of the first one in the file
    :ivar first_byte: where it would start in a raw file, in bytes from the first block of the file
    :ivar in_box: the part of the box that lies in them, (z, y, bytes along x)
    :ivar in_blocks: the same, from the first voxel that is in memory
    :ivar is_cut_along_x: whether they have voxels beyond the box along x; and along any axis
    :ivar along_y, along_x: all of that part
    """

    first: int
    first_byte: int
    moves: Moves
    in_box: tuple[slice, slice, slice]
    in_blocks: tuple[slice, slice, slice]
    is_cut_along_x: bool
    is_cut: bool
    along_y: tuple[Region, ...]
    along_x: tuple[Region, ...]


def plan(purpose: Purpose, length: int, voxel: int, start: Triple, size: Triple) -> tuple[Group, ...]:
    """The groups of blocks that a box touches.

    :param length: edge of a block in voxels
    :param voxel: bytes of a voxel
    :param start: of the box, in voxels from the first of the cube file
    :param size: of the box in voxels
    """
    is_small = max(size) <= MOST_KEPT_LENGTHS * length
    return (_kept_plan if is_small else _plan)(purpose, length, voxel, start, size)


def forget() -> None:
    """Work out everything anew from now on."""
    _kept_plan.cache_clear()
    _moves.cache_clear()


def _plan(purpose: Purpose, length: int, voxel: int, start: Triple, size: Triple) -> tuple[Group, ...]:
    first = (start[0] // length, start[1] // length, start[2] // length)
    in_first = (start[0] % length, start[1] % length, start[2] % length)
    blocks = (
        -(-(in_first[0] + size[0]) // length),
        -(-(in_first[1] + size[1]) // length),
        -(-(in_first[2] + size[2]) // length),
    )
    most = max(1, min(GROUP_BYTES // (length**3 * voxel), GROUP_ROWS // (length * length)))
    x_step = _step(blocks[2], most)
    y_step = _step(blocks[1], max(1, most // x_step // min(2, blocks[0])))
    z_step = _step(blocks[0], most // (x_step * y_step))
    along_x = list(_steps(first[2], blocks[2], x_step))
    along_y = list(_steps(first[1], blocks[1], y_step))
    return tuple(
        _group(purpose, length, voxel, first, (z, y, x), in_first, size)
        for z in _steps(first[0], blocks[0], z_step)
        for y in along_y
        for x in along_x
    )


_kept_plan = lru_cache(maxsize=512)(_plan)


def _step(blocks: int, most: int) -> int:
    """All of them, or a power of two, on whose grid more blocks follow each other in Morton order."""
    return blocks if blocks <= most else 1 << (max(1, most).bit_length() - 1)


def _steps(first: int, blocks: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut blocks along one axis, at multiples of `step` from the first of the cube file if they are more than it.

    :return: [start, end), counted from `first`
    """
    start = 0
    while start < blocks:
        end = blocks if step == blocks else min(blocks, start + step - (first + start) % step)
        yield start, end
        start = end


def _group(
    purpose: Purpose,
    length: int,
    voxel: int,
    first: Triple,
    steps: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    in_first: Triple,
    size: Triple,
) -> Group:
    """One group.

    :param first: the first block that the box touches
    :param steps: the blocks of the group along each axis, counted from there
    :param in_first: where the box starts in the first block, in voxels
    """
    (z_start, z_end), (y_start, y_end), (x_start, x_end) = steps
    z = _axis(length, 1, z_start, z_end, in_first[0], size[0])
    y = _axis(length, 1, y_start, y_end, in_first[1], size[1])
    x = _axis(length, voxel, x_start, x_end, in_first[2], size[2])
    corner_z, corner_y, corner_x = first[0] + z_start, first[1] + y_start, first[2] + x_start
    blocks = (z_end - z_start, y_end - y_start, x_end - x_start)
    like = _alike(corner_z, blocks[0]), _alike(corner_y, blocks[1]), _alike(corner_x, blocks[2])
    cut_y, cut_x = (y.is_cut, x.is_cut) if purpose == "write" else (_NOT_CUT, _NOT_CUT)
    moves = _moves(purpose, length, voxel, like, blocks, (z.in_blocks.start, z.in_blocks.stop), cut_y, cut_x)
    planes = z.in_blocks if purpose == "decode" else slice(0, moves.shape[0])
    is_cut_along_x = x.is_cut != _NOT_CUT
    index = spread_bits(corner_z, 1)[0] << 2 | spread_bits(corner_y, 1)[0] << 1 | spread_bits(corner_x, 1)[0]
    return Group(
        index,
        index * length**3 * voxel,
        moves,
        (z.in_box, y.in_box, x.in_box),
        (planes, y.in_blocks, x.in_blocks),
        is_cut_along_x,
        is_cut_along_x or y.is_cut != _NOT_CUT or planes.stop - planes.start != moves.shape[0],
        y.regions,
        x.regions,
    )


class _Axis(NamedTuple):
    """How a box and the blocks of a group lie along one axis.

    :ivar in_box: what of the box lies in them
    :ivar in_blocks: the same, from the first voxel of the blocks
    :ivar is_cut: whether the blocks have voxels before the box, and after it
    """

    in_box: slice
    in_blocks: slice
    is_cut: tuple[bool, bool]
    regions: tuple[Region, ...]


_NOT_CUT: Final = (False, False)


@lru_cache(maxsize=4096)
def _axis(length: int, unit: int, first: int, last: int, in_first: int, size: int) -> _Axis:
    """One axis.

    :param unit: what slices count, per voxel
    :param first, last: the blocks from `first` up to, without, `last`, counted from the first that the box touches
    :param in_first: where the box starts in that one, in voxels
    :param size: of the box
    """
    corner = first * length
    start, end = max(in_first - corner, 0), min(in_first + size - corner, (last - first) * length)
    # From a border on, blocks lie otherwise to the box than those before it: the first and the last one may be cut.
    borders = {start, end}
    if start:
        borders.add(min(length, end))
    if end % length:
        borders.add(max(end - end % length, start))
    regions = tuple(
        (
            slice(low // length, -(-high // length)),
            slice(low % length * unit, ((high - 1) % length + 1) * unit),
            slice((low - start) * unit, (high - start) * unit),
        )
        for low, high in pairwise(sorted(borders))
    )
    return _Axis(
        slice((corner + start - in_first) * unit, (corner + end - in_first) * unit),
        slice(start * unit, end * unit),
        (start > 0, end < (last - first) * length),
        regions,
    )


def _alike(first: int, count: int) -> int:
    """The lowest coordinate from which on so many have bits that differ from each other as those from `first` on do."""
    bits = (count - 1).bit_length()
    low, high = first & ((1 << bits) - 1), first >> bits
    if low + count <= 1 << bits:
        return low
    # There is one carry into the higher bits: it goes through the ones at their lower end.
    ones = (~high & (high + 1)).bit_length() - 1
    return low | ((1 << ones) - 1) << bits


@lru_cache(maxsize=512)
def _moves(
    purpose: Purpose,
    length: int,
    voxel: int,
    first: Triple,
    blocks: Triple,
    z: tuple[int, int],
    is_cut_along_y: tuple[bool, bool],
    is_cut_along_x: tuple[bool, bool],
) -> Moves:
    """How a group is moved.

    :param first: the first block
    :param blocks: how many along each axis
    :param z: [start, end) of what the box has of it along z
    :param is_cut_along_y, is_cut_along_x: whether there is more of it before the box, and after it; of no matter where
        nothing is written
    """
    plane_bytes = length * length * voxel
    depth, height, width = blocks
    cut_columns = {
        row * width + column
        for row in range(height)
        for column in range(width)
        if (row == 0 and is_cut_along_y[0])
        or (row == height - 1 and is_cut_along_y[1])
        or (column == 0 and is_cut_along_x[0])
        or (column == width - 1 and is_cut_along_x[1])
    }
    in_order = _morton_order(first, blocks)
    planes = (0, depth * length) if purpose == "decode" else z
    spans = _spans(in_order, length, plane_bytes, planes)
    writes: tuple[Transfer, ...] = ()
    old = spans
    if purpose == "write":
        writes, _ = _transfers(spans, 0, 0)
        old = [span for span, (_, _, column) in zip(spans, in_order, strict=True) if column in cut_columns]
    memory_bytes = (planes[1] - planes[0]) * height * width * plane_bytes
    # What a column is read into may be the memory of the box, which has no room for gaps.
    most_gap = min(GAP_BYTES, max(0, scratch.KEPT_BYTES - memory_bytes)) if height * width > 1 else 0
    reads, gap_bytes = _transfers(old, most_gap, memory_bytes)
    return Moves(
        (planes[1] - planes[0], height, width),
        memory_bytes,
        gap_bytes,
        reads,
        writes,
        tuple([
            Decoded(index, start, (z[1] - k * length) * plane_bytes if k == depth - 1 else length * plane_bytes)
            for (_, start, _), (index, k, _) in zip(spans, in_order, strict=True)
        ]) if purpose == "decode" else (),
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _morton_order(first: Triple, blocks: Triple) -> tuple[Triple, ...]:
    """The blocks of a group as they lie in the file.

    :return: index, counted from that of the first; number along z; number of the column
    """
    z, y, x = (spread_bits(at, count) for at, count in zip(first, blocks, strict=True))
    height, width = len(y), len(x)
    return tuple(
        sorted(
            ((z[k] - z[0] << 2) + (y[j] - y[0] << 1) + x[i] - x[0], k, j * width + i)
            for k in range(len(z))
            for j in range(height)
            for i in range(width)
        )
    )


def _spans(
    in_order: tuple[Triple, ...], length: int, plane_bytes: int, planes: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """What is moved of each block: where it starts in the file, where in memory, and its bytes.

    :param planes: [start, end) of the planes of the group that are moved
    """
    start, end = planes
    column_bytes = (end - start) * plane_bytes
    layers = []
    for corner in range(0, end, length):
        low, high = max(start, corner), min(end, corner + length)
        layers.append(((low - corner) * plane_bytes, (low - start) * plane_bytes, (high - low) * plane_bytes))
    block_bytes = length * plane_bytes
    return [
        (index * block_bytes + in_block, column * column_bytes + in_column, size)
        for index, k, column in in_order
        for in_block, in_column, size in (layers[k],)
    ]


def _transfers(spans: Iterable[tuple[int, int, int]], most_gap: int, gaps_at: int) -> tuple[tuple[Transfer, ...], int]:
    """Join what lies together in the file.

    :param spans: as of `_spans`, ascending
    :param most_gap: bytes that may lie between them
    :param gaps_at: where in memory these go
    :return: also the largest gap
    """
    transfers: list[Transfer] = []
    first = next_at = -1
    gap_bytes = 0
    pieces: list[tuple[int, int]] = []
    for at, start, size in spans:
        gap = at - next_at
        if not pieces or gap > most_gap or len(pieces) >= MOST_PIECES:
            if pieces:
                transfers.append((first, next_at - first, tuple(pieces)))
            first, pieces = at, [(start, start + size)]
        elif gap:
            gap_bytes = max(gap_bytes, gap)
            pieces += ((gaps_at, gaps_at + gap), (start, start + size))
        elif pieces[-1][1] == start:
            pieces[-1] = (pieces[-1][0], start + size)
        else:
            pieces.append((start, start + size))
        next_at = at + size
    if pieces:
        transfers.append((first, next_at - first, tuple(pieces)))
    return tuple(transfers), gap_bytes
