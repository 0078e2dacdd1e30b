"""Sources that are NIfTI files: `.nii` and `.nii.gz`.

The axes of the file are taken as x, y, z: the affine, which turns them into positions in the scanner, is ignored with a
word. Voxel size and unit come from the header. Voxels are imported as they are stored; a scale and an intercept in the
header are named, and applied only when asked for (which makes float32 of them). Three colours a voxel become three
channels, as do the components of a vector; of a time series one volume is chosen.

A compressed file cannot be read from the middle. It is unpacked once, piece by piece, into a temporary file that is
mapped instead, so that memory stays bounded.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from magd.cli.failures import IMPORT_EXTRA, CommandError, MissingExtra
from magd.cli.importing.source import Source, SourceInfo, VoxelSizeInUnit, voxel_format
from magd.geometry import Box, Vec3

if TYPE_CHECKING:
    from magd.voxels import VoxelArray

_UNITS: Final = {"meter": "meter", "mm": "millimeter", "micron": "micrometer"}
_AXES: Final = 5
"""x, y, z, time, components of a vector. NIfTI has room for two more that nobody uses."""


class NiftiSource(Source):
    """A NIfTI file, mapped.

    :param volume: which volume of a time series; None where there is only one
    :param apply_scaling: whether to compute stored * scale + intercept
    :raises CommandError: it is no NIfTI file, or cannot be a layer
    :raises MissingExtra: nibabel is not installed
    """

    def __init__(self, path: str, *, volume: int | None, apply_scaling: bool) -> None:
        self._path = path
        # nibabel keeps these on the proxy: it clears them in the header when it has read it.
        header, proxy = _read_header(path)
        shape = [max(1, int(length)) for length in header.get_data_shape()]
        if any(length > 1 for length in shape[_AXES:]):
            raise CommandError(f"{path}: {len(shape)} axes are more than a layer has", "INVALID_FIELD")
        shape = (shape + [1] * _AXES)[:_AXES]
        dtype, components = _channels_of(header.get_data_dtype(), shape[4], path)
        slope, intercept = float(proxy.slope), float(proxy.inter)
        scaled = (slope, intercept) != (1.0, 0.0)
        self._scaling = (slope, intercept) if scaled and apply_scaling else None
        chosen = _choose_volume(shape[3], volume, path)

        notes = ["the affine is ignored: the axes of the file become x, y and z"]
        if scaled and not apply_scaling:
            notes.append(
                f"voxels are imported as stored; the header asks for stored * {slope:g} + {intercept:g} "
                "(--apply-scaling does it)"
            )
        voxel_size, unit_note = _voxel_size_of(header)
        if unit_note:
            notes.append(unit_note)
        stored = voxel_format(dtype, components, path)
        self.info = SourceInfo(
            label=f"{os.path.basename(path)}: NIfTI, {' x '.join(map(str, shape[:3]))} {stored}"
            + (f", volume {chosen} of {shape[3]}" if shape[3] > 1 else ""),
            size=Vec3.of(shape[:3]),
            voxels=voxel_format(np.dtype("float32"), components, path) if self._scaling else stored,
            voxel_size=voxel_size,
            notes=tuple(notes),
        )
        self._resources = ExitStack()
        # Colours lie side by side in each voxel, the components of a vector as one volume after the other.
        interleaved = header.get_data_dtype().fields is not None
        file_shape = (components, *shape[:4]) if interleaved else tuple(shape)
        mapped = self._map(int(proxy.offset), dtype, file_shape)
        self._array = mapped[..., chosen] if interleaved else np.moveaxis(mapped[:, :, :, chosen], -1, 0)

    def read(self, box: Box) -> VoxelArray:
        (x, y, z), (end_x, end_y, end_z) = box.offset, box.end
        stored = self._array[:, x:end_x, y:end_y, z:end_z]
        data = self.info.voxels.empty(box.size)
        if self._scaling is None:
            data[...] = stored
        else:
            slope, intercept = self._scaling
            data[...] = stored * np.float64(slope) + np.float64(intercept)
        return data

    def close(self) -> None:
        self._resources.close()

    def _map(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        packed = self._path.lower().endswith(".gz")
        file: Any = _unpack(self._path) if packed else open(self._path, "rb")  # noqa: SIM115  closed by close()
        self._resources.enter_context(file)
        expected = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        actual = os.fstat(file.fileno()).st_size
        if actual < expected:
            self._resources.close()
            raise CommandError(f"{self._path}: the file ends after {actual} of {expected} bytes", "INVALID_FIELD")
        return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape, order="F")


def _read_header(path: str) -> tuple[Any, Any]:
    """The header, and the proxy that knows where the voxels lie."""
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise MissingExtra("importing NIfTI", error.name, IMPORT_EXTRA) from error
    try:
        image = nibabel.load(path)  # type: ignore[attr-defined,unused-ignore]  # some of its versions have no type for it
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        EOFError,
        zlib.error,
    ) as error:
        raise CommandError(f"{path}: not a NIfTI file: {error}", "INVALID_FIELD") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise CommandError(f"{path}: {type(image).__name__} is not a NIfTI volume in one file", "INVALID_FIELD")
    return image.header, image.dataobj


def _channels_of(dtype: np.dtype[Any], components: int, path: str) -> tuple[np.dtype[Any], int]:
    """The dtype of one channel and how many there are, of a plain dtype or one of colours."""
    if dtype.fields is None:
        return dtype, components
    kinds = {field[0] for field in dtype.fields.values()}
    if len(kinds) != 1 or components != 1:
        raise CommandError(f"{path}: voxels of type {dtype} cannot become channels", "DATA_TYPE_MISMATCH")
    return kinds.pop(), len(dtype.fields)


def _choose_volume(volumes: int, wanted: int | None, path: str) -> int:
    if wanted is None:
        if volumes > 1:
            raise CommandError(
                f"{path}: a series of {volumes} volumes; choose one with --volume 0 to --volume {volumes - 1}",
                "INVALID_FIELD",
            )
        return 0
    if wanted >= volumes:
        raise CommandError(f"{path}: --volume {wanted}, but the last one is {volumes - 1}", "INVALID_FIELD")
    return wanted


def _voxel_size_of(header: Any) -> tuple[VoxelSizeInUnit | None, str | None]:
    zooms = [float(zoom) for zoom in header.get_zooms()[:3]]
    zooms += [1.0] * (3 - len(zooms))
    if not all(np.isfinite(zoom) and zoom > 0 for zoom in zooms):
        return None, None
    unit = _UNITS.get(header.get_xyzt_units()[0])
    note = None if unit else "the header has no unit of length: millimeter is assumed"
    # Sizes are stored as float32: 0.3 should not become 0.30000001192092896.
    x, y, z = (float(f"{zoom:.6g}") for zoom in zooms)
    return VoxelSizeInUnit((x, y, z), unit or "millimeter"), note


def _unpack(path: str) -> Any:
    """A temporary file without a name that holds the unpacked contents."""
    file = tempfile.TemporaryFile(prefix="magd-import-")  # noqa: SIM115 - the caller closes it
    try:
        with gzip.open(path, "rb") as packed:
            shutil.copyfileobj(packed, file, 1 << 20)
        file.flush()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        file.close()
        raise CommandError(f"{path}: cannot be unpacked: {error}", "INVALID_FIELD") from error
    except BaseException:
        file.close()
        raise
    return file
