"""The files that an export writes, in bounded memory.

`.npy` is mapped at its full size and filled by several pieces at once. TIFF has to be written page by page: slabs of
planes are read ahead, as many as there are jobs, and written in order.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from magd.cli.failures import IMPORT_EXTRA, CommandError, MissingExtra
from magd.cli.importing.plan import piece_shape, pieces
from magd.cli.transfer import copy_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from magd.geometry import Box
    from magd.voxels import VoxelArray
    from magd_client import MagHandle
    from magd_client.info import MagInfo

BIG_TIFF_BYTES = (1 << 32) - (64 << 20)
"""A TIFF file holds 4 GiB, its directories included; larger ones are written as BigTIFF."""


class Exporter(Protocol):
    """Writes a box of a mag to a file.

    :param path: the file, which is replaced
    :param piece_bytes: of one piece, at most, unless a single plane is larger
    :param advance: told the bytes of each piece that is done
    """

    def __call__(
        self,
        mag: MagHandle,
        box: Box,
        info: MagInfo,
        path: str,
        jobs: int,
        piece_bytes: int,
        advance: Callable[[int], None],
    ) -> None: ...


def exporter_of(path: str, compression: str) -> Exporter:
    """What writes the format that a file name asks for.

    :param compression: "none" or "zlib"
    :raises CommandError: there is no such format, or it is not compressed
    """
    lower = path.lower()
    if lower.endswith(".npy"):
        if compression != "none":
            raise CommandError("--compression is for TIFF", "INVALID_FIELD")
        return export_npy
    if lower.endswith((".tif", ".tiff")):
        try:
            import tifffile  # noqa: F401  # whether it is there, before a daemon is asked for voxels
        except ModuleNotFoundError as error:
            raise MissingExtra("exporting TIFF", error.name, IMPORT_EXTRA) from error
        return export_compressed_tiff if compression == "zlib" else export_tiff
    raise CommandError(f"{path}: the file name must end in .npy, .tif or .tiff", "INVALID_FIELD")


def export_npy(
    mag: MagHandle, box: Box, info: MagInfo, path: str, jobs: int, piece_bytes: int, advance: Callable[[int], None]
) -> None:
    """Write shape (x, y, z) for one channel, else (c, x, y, z), in Fortran order."""
    voxels = info.voxels
    shape = (*box.size,) if voxels.num_channels == 1 else (voxels.num_channels, *box.size)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=voxels.dtype, shape=shape, fortran_order=True)
    with_channels = array[np.newaxis] if voxels.num_channels == 1 else array

    def copy(piece: Box) -> int:
        data = mag.read(offset=piece.offset, size=piece.size)
        (x, y, z), (end_x, end_y, end_z) = piece.offset - box.offset, piece.end - box.offset
        with_channels[:, x:end_x, y:end_y, z:end_z] = data
        return data.nbytes

    shape_of_pieces = piece_shape(
        box,
        cube_len=info.cube_len,
        block_len=info.block_len,
        bytes_per_voxel=voxels.bytes_per_voxel,
        max_bytes=piece_bytes,
        whole_pages=False,
    )
    copy_pieces(pieces(box, shape_of_pieces), copy, jobs, advance)
    array.flush()


def export_tiff(
    mag: MagHandle, box: Box, info: MagInfo, path: str, jobs: int, piece_bytes: int, advance: Callable[[int], None]
) -> None:
    """Write one page for each z; channels become samples."""
    _write_tiff(mag, box, info, path, jobs, piece_bytes, advance, compression=None)


def export_compressed_tiff(
    mag: MagHandle, box: Box, info: MagInfo, path: str, jobs: int, piece_bytes: int, advance: Callable[[int], None]
) -> None:
    """Like `export_tiff`, with compressed pages."""
    _write_tiff(mag, box, info, path, jobs, piece_bytes, advance, compression="zlib")


def _write_tiff(
    mag: MagHandle,
    box: Box,
    info: MagInfo,
    path: str,
    jobs: int,
    piece_bytes: int,
    advance: Callable[[int], None],
    *,
    compression: str | None,
) -> None:
    import tifffile

    voxels = info.voxels
    shape_of_slabs = piece_shape(
        box,
        cube_len=info.cube_len,
        block_len=info.block_len,
        bytes_per_voxel=voxels.bytes_per_voxel,
        max_bytes=piece_bytes,
        whole_pages=True,
    )
    samples = () if voxels.num_channels == 1 else (voxels.num_channels,)
    is_rgb = voxels.num_channels == 3 and voxels.dtype == np.uint8
    arguments: dict[str, Any] = {"planarconfig": "contig"} if samples else {}
    with tifffile.TiffWriter(path, bigtiff=voxels.nbytes(box) > BIG_TIFF_BYTES) as writer:
        writer.write(
            _pages(mag, pieces(box, shape_of_slabs), jobs, advance),
            shape=(box.size.z, box.size.y, box.size.x, *samples),
            dtype=voxels.dtype,
            photometric="rgb" if is_rgb else "minisblack",
            compression=compression,
            metadata={"axes": "ZYXS" if samples else "ZYX"},
            maxworkers=1,
            **arguments,
        )
    # A full disk may only show when the file is synced.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pages(
    mag: MagHandle, slabs: Iterator[Box], jobs: int, advance: Callable[[int], None]
) -> Iterator[np.ndarray[Any, Any]]:
    """The z-planes in order, each (y, x) or (y, x, c)."""

    def read(slab: Box) -> VoxelArray:
        return mag.read(offset=slab.offset, size=slab.size)

    with ThreadPoolExecutor(jobs, thread_name_prefix="magd-export") as threads:
        ahead: deque[Future[VoxelArray]] = deque()
        for slab in slabs:
            ahead.append(threads.submit(read, slab))
            if len(ahead) > jobs:
                yield from _planes(ahead.popleft().result(), advance)
        while ahead:
            yield from _planes(ahead.popleft().result(), advance)


def _planes(slab: VoxelArray, advance: Callable[[int], None]) -> Iterator[np.ndarray[Any, Any]]:
    for z in range(slab.shape[3]):
        plane = slab[:, :, :, z].transpose(2, 1, 0)
        yield np.ascontiguousarray(plane[:, :, 0] if plane.shape[2] == 1 else plane)
    advance(slab.nbytes)
