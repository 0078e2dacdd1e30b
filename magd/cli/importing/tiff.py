"""Sources that are TIFF: one file of many pages, or a folder or pattern of files with one page each.

A page is one z-plane; its rows are y, its columns x. Samples of a pixel (RGB) and the channel axis of OME-TIFF and
ImageJ files become channels. Files of a stack are put in natural order: `slice9.tif` before `slice10.tif`.

Pages are decoded one at a time, each as a whole, whatever part of it is read: `whole_pages` tells the plan so.
"""

from __future__ import annotations

import glob
import logging
import math
import os
import re
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from magd.cli.failures import IMPORT_EXTRA, CommandError, MissingExtra
from magd.cli.importing.source import Source, SourceInfo, voxel_format
from magd.cli.importing.tiff_metadata import voxel_size_of
from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.voxels import VoxelArray, VoxelFormat

SUFFIXES: Final = (".tif", ".tiff")

Plane = npt.NDArray[Any]
"""One z-plane: (c, y, x)."""


def open_tiff_file(path: str, *, volume: int | None) -> Source:
    """Open one TIFF file, as a rule of many pages.

    :param volume: which point in time; None where there is only one
    :raises CommandError: it cannot be decoded or cannot be a layer
    :raises MissingExtra: tifffile is not installed
    """
    return _TiffFileSource(_TiffFile(path, volume))


def open_tiff_stack(pattern: str) -> Source:
    """Open the files of a folder, or those that match a pattern, as one stack.

    :raises CommandError: there are none, or they do not fit together; the message names the file
    :raises MissingExtra: tifffile is not installed
    """
    if os.path.isdir(pattern):
        paths = [os.path.join(pattern, name) for name in os.listdir(pattern) if name.lower().endswith(SUFFIXES)]
    else:
        paths = [path for path in glob.glob(pattern) if os.path.isfile(path)]
    if not paths:
        raise CommandError(f"{pattern}: no TIFF files there", "NOT_FOUND")
    return _TiffStackSource(sorted(paths, key=natural_key), pattern)


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts digits as numbers: `s9` before `s10`, `s09` before `s9`."""
    return [
        (0, int(part), part) if part.isdecimal() else (1, 0, part.casefold())
        for part in re.split(r"(\d+)", text)
        if part
    ]


class _TiffFileSource(Source):
    def __init__(self, file: _TiffFile) -> None:
        self._file = file
        self.info = SourceInfo(
            label=f"{os.path.basename(file.path)}: TIFF, {file.size.x} x {file.size.y} x {file.size.z} {file.voxels}",
            size=file.size,
            voxels=file.voxels,
            voxel_size=voxel_size_of(file.tiff),
            whole_pages=True,
        )

    def read(self, box: Box) -> VoxelArray:
        return _stack_planes((self._file.plane(z) for z in range(box.offset.z, box.end.z)), box, self.info.voxels)

    def close(self) -> None:
        self._file.close()


class _TiffStackSource(Source):
    def __init__(self, paths: list[str], pattern: str) -> None:
        self._paths = paths
        with closing(_TiffFile(paths[0], None)) as first:
            self._plane_size, voxels, voxel_size = first.size, first.voxels, voxel_size_of(first.tiff)
        for path in paths:
            with closing(_TiffFile(path, None)) as file:
                if file.size.z != 1:
                    raise CommandError(
                        f"{path}: {file.size.z} pages, but each file of a stack has one; import it by itself",
                        "INVALID_FIELD",
                    )
                if (file.size, file.voxels) != (self._plane_size, voxels):
                    raise CommandError(
                        f"{path}: {file.size.x} x {file.size.y} {file.voxels}, but {paths[0]} has "
                        f"{self._plane_size.x} x {self._plane_size.y} {voxels}",
                        "INVALID_FIELD",
                    )
        size = Vec3(self._plane_size.x, self._plane_size.y, len(paths))
        self.info = SourceInfo(
            label=f"{pattern}: {len(paths)} TIFF files, {size.x} x {size.y} x {size.z} {voxels}",
            size=size,
            voxels=voxels,
            voxel_size=voxel_size,
            whole_pages=True,
        )

    def read(self, box: Box) -> VoxelArray:
        return _stack_planes((self._plane(z) for z in range(box.offset.z, box.end.z)), box, self.info.voxels)

    def _plane(self, z: int) -> Plane:
        with closing(_TiffFile(self._paths[z], None)) as file:
            if (file.size, file.voxels) != (self._plane_size, self.info.voxels):
                raise CommandError(f"{file.path}: it changed during the import", "CHANGED_ON_DISK")
            return file.plane(0)


class _TiffFile:
    """The first image series of an open file, as planes."""

    def __init__(self, path: str, volume: int | None) -> None:
        try:
            import tifffile
        except ModuleNotFoundError as error:
            raise MissingExtra("importing TIFF", error.name, IMPORT_EXTRA) from error
        # tifffile logs what it thinks of a file's metadata; what matters for the voxels arrives as an error.
        logging.getLogger("tifffile").addHandler(logging.NullHandler())
        self.path = path
        with _decoding(path):
            self.tiff = tifffile.TiffFile(path)
        try:
            # Several threads read pages of this file.
            self.tiff.filehandle.set_lock(True)
            self._read_series(volume)
        except BaseException:
            self.tiff.close()
            raise

    def plane(self, z: int) -> Plane:
        """Decode one plane."""
        channels = []
        for index in self._page_of[z]:
            with _decoding(self.path, f"page {index}"):
                page = self._pages[index].asarray(maxworkers=1)
            channels.append(page.reshape(self._page_shape).transpose(self._page_order))
        return np.concatenate(channels) if len(channels) > 1 else channels[0]

    def close(self) -> None:
        self.tiff.close()

    def _read_series(self, volume: int | None) -> None:
        """Find out which page holds which plane and channel."""
        with _decoding(self.path):
            if not self.tiff.series:
                raise CommandError(f"{self.path}: holds no image", "INVALID_FIELD")
            series = self.tiff.series[0]
            page = series.keyframe
            shape, axes = tuple(series.shape), str(series.axes)
            page_axes = str(page.axes)
            self._page_shape = tuple(page.shape)
            self._pages: list[Any] = [series.pages[index] for index in range(len(series.pages))]
        leading_axes, leading = axes[: len(axes) - len(page_axes)], shape[: len(axes) - len(page_axes)]
        if not axes.endswith(page_axes) or sorted(page_axes) not in (["X", "Y"], ["S", "X", "Y"], ["C", "X", "Y"]):
            raise CommandError(f"{self.path}: axes {axes} with pages {page_axes} cannot be imported", "INVALID_FIELD")
        if len(self._pages) != math.prod(leading) or any(page is None for page in self._pages):
            raise CommandError(
                f"{self.path}: {len(self._pages)} pages are listed for {math.prod(leading)} planes; "
                "save it as a TIFF that lists each page",
                "INVALID_FIELD",
            )
        self._page_of = _arrange_pages(self.path, leading_axes, leading, volume)
        samples = next((letter for letter in page_axes if letter in "SC"), None)
        if samples is None:
            self._page_shape, page_axes = (1, *self._page_shape), "S" + page_axes
        self._page_order = [page_axes.index(letter) for letter in (samples or "S", "Y", "X")]
        per_page, rows, columns = (self._page_shape[axis] for axis in self._page_order)
        self.size = Vec3(columns, rows, len(self._page_of))
        self.voxels = voxel_format(np.dtype(page.dtype), per_page * len(self._page_of[0]), self.path)


def _arrange_pages(path: str, axes: str, lengths: tuple[int, ...], volume: int | None) -> list[list[int]]:
    """For each z-plane, the indices of the pages that hold its channels.

    C is the channel and T the time; all other axes together are z, in the order of the file.
    """
    pages: npt.NDArray[Any] = np.arange(math.prod(lengths)).reshape(lengths)
    times = lengths[axes.index("T")] if "T" in axes else 1
    # A T without a Z is what many programs make of a stack.
    if times > 1 and not any(length > 1 for letter, length in zip(axes, lengths, strict=True) if letter not in "TC"):
        axes, times = axes.replace("T", "Z", 1) if "Z" not in axes else axes.replace("T", "Q", 1), 1
    if volume is None and times > 1:
        raise CommandError(
            f"{path}: a series of {times} volumes; choose one with --volume 0 to --volume {times - 1}", "INVALID_FIELD"
        )
    if volume is not None and volume >= times:
        raise CommandError(f"{path}: --volume {volume}, but the last one is {times - 1}", "INVALID_FIELD")
    if "T" in axes:
        pages = pages.take(volume or 0, axis=axes.index("T"))
        axes = axes.replace("T", "", 1)
    channel_axis = axes.index("C") if "C" in axes else None
    if channel_axis is None:
        return [[int(page)] for page in pages.ravel()]
    by_channel = np.moveaxis(pages, channel_axis, -1)
    return [[int(page) for page in row] for row in by_channel.reshape(-1, by_channel.shape[-1])]


def _stack_planes(planes: Iterator[Plane], box: Box, voxels: VoxelFormat) -> VoxelArray:
    data = voxels.empty(box.size)
    (x, y, _), (end_x, end_y, _) = box.offset, box.end
    for z, plane in enumerate(planes):
        data[:, :, :, z] = plane[:, y:end_y, x:end_x].transpose(0, 2, 1)
    return data


@contextmanager
def _decoding(path: str, part: str | None = None) -> Iterator[None]:
    where = f"{path}: {part}" if part else path
    try:
        yield
    except (CommandError, OSError):
        raise
    # Decoders of damaged or unusual files raise whatever their code runs into.
    except Exception as error:
        raise CommandError(f"{where}: cannot be decoded as TIFF: {error}", "INVALID_FIELD") from error
