"""What a request for a box must be, and what it costs, before anything is read or written.

Costs are bytes of memory at the worst moment, charged before the request enters a mailbox:

- a write holds its data until it is applied, and beside it the blocks it covers in part, which are read, changed and
  written back; into a compressed mag also the encoded form of every block it touches; with a mask also what was there;
- a read holds its result, and the encoded form of the blocks it is decoded from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import xxhash

from magd.actors.types import Mask
from magd.errors import InvalidRequest, NotAllowed, OutOfBounds, Reason
from magd.geometry import Box
from magd.journal.format import checksum_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.actors.types import WriteCommand
    from magd.catalog.names import MagName
    from magd.catalog.root import Root
    from magd.cubes.header import Header
    from magd.voxels import VoxelFormat

WORKING_BYTES: Final = 8 << 20
"""The storage works through a box in pieces: what it needs for them at once is bounded, however large the box."""
SLAB_BYTES: Final = 4 << 20
"""What of a box is read at a time at most, if a layer of blocks is not more."""


def check_writable(root: Root) -> None:
    """Refuse every change below a root that is served read-only.

    :raises NotAllowed: READ_ONLY
    """
    if root.read_only:
        raise NotAllowed("the daemon serves its root read-only", reason=Reason.READ_ONLY)


def check_box(box: Box) -> None:
    """Refuse a box that no mag can have.

    :raises InvalidRequest: INVALID_BOX
    """
    problem = box.problem()
    if problem is not None:
        raise InvalidRequest(problem, reason=Reason.INVALID_BOX, metadata={"field": "box", "value": box})


def check_voxels(there: VoxelFormat, given: VoxelFormat) -> None:
    """Refuse data of another kind than the layer's: magd never casts.

    :raises InvalidRequest: DATA_TYPE_MISMATCH, CHANNELS_MISMATCH
    """
    if given.dtype != there.dtype:
        raise InvalidRequest(
            f"data_type {given.dtype.name} is not the layer's {there.dtype.name}; "
            f"convert the data, in Python with .astype({there.dtype.name!r})",
            reason=Reason.DATA_TYPE_MISMATCH,
            metadata={"field": "data_type", "value": given.dtype.name, "expected": there.dtype.name},
        )
    if given.num_channels != there.num_channels:
        raise InvalidRequest(
            f"num_channels {given.num_channels} is not the layer's {there.num_channels}",
            reason=Reason.CHANNELS_MISMATCH,
            metadata={"field": "num_channels", "value": given.num_channels, "expected": there.num_channels},
        )


def check_size(voxels: VoxelFormat, box: Box, limit_bytes: int) -> None:
    """Refuse a box that is too large for one request.

    :raises InvalidRequest: BOX_TOO_LARGE
    """
    size_bytes = voxels.nbytes(box)
    if size_bytes > limit_bytes:
        raise InvalidRequest(
            f"box {box} has {size_bytes} bytes, more than the limit of {limit_bytes}; split it, best along cube files",
            reason=Reason.BOX_TOO_LARGE,
            metadata={"field": "box", "value": size_bytes, "limit": limit_bytes},
        )


def write_cost(header: Header, box: Box, mask: Mask) -> int:
    """Bytes of memory that writing a box needs."""
    data = header.voxels.nbytes(box) * (1 if mask is Mask.ALL else 2)
    blocks = header.voxels.nbytes(box.aligned_outward(header.block_len))
    return data + (blocks if header.block_type.is_compressed else min(blocks, WORKING_BYTES))


def read_cost(header: Header, box: Box) -> int:
    """Bytes of memory that reading a box needs."""
    return header.voxels.nbytes(box) + min(header.voxels.nbytes(box.aligned_outward(header.block_len)), WORKING_BYTES)


def fingerprint_of(command: WriteCommand) -> int:
    """A number that two writes share only if they say the same, for all that matters. Touches every byte, unless that
    was done while they arrived."""
    if command.staging is not None:
        checksum = command.staging.checksum
    else:
        checksum = checksum_of(command.data.reshape(-1, order="F").data.cast("B"))
    said = (command.box, command.durability, command.bounds, command.mask, command.if_revision, checksum)
    return xxhash.xxh3_64_intdigest("|".join(map(str, said)).encode())


def slabs_of(box: Box, header: Header) -> Iterator[Box]:
    """Cut a box along z into slabs, whose bytes follow each other. No block is in two of them.

    :param box: in voxels of the mag
    """
    layer_bytes = header.voxels.nbytes(Box(box.offset, replace(box.size, z=header.block_len)))
    thickness = max(1, SLAB_BYTES // layer_bytes) * header.block_len
    start = box.offset.z
    while start < box.end.z:
        end = min((start // header.block_len) * header.block_len + thickness, box.end.z)
        yield Box.between(replace(box.offset, z=start), replace(box.end, z=end))
        start = end


def outside(box: Box, bounds: Box, name: MagName) -> OutOfBounds:
    """The error of a box that leaves the bounding box of its layer."""
    return OutOfBounds(
        f"box {box} leaves the bounding box {bounds} of {name}",
        metadata={"field": "box", "value": box, "limit": bounds},
    )
