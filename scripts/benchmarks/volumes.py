"""What is written and read in benchmarks: voxels, real ones where there are some, and mags of `webknossos` and `wkw`.

Real data is the dataset below MAGD_TEST_DATA (see tests/support/data.py), repeated to the extent that is asked for.
Everything else is drawn from a fixed seed.
"""

from __future__ import annotations

import importlib
import io
import os
import warnings
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import wkw

from tests.support.data import find_real_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magd.voxels import VoxelArray

Category: TypeAlias = Literal["color", "segmentation"]

BLOCK_LEN: Final = 32
LARGEST_SEGMENT_ID: Final = (1 << 32) - 1
_REAL: Final[dict[Category, tuple[str, tuple[int, int, int], tuple[int, int, int]]]] = {
    "color": ("2-2-1", (1340, 2112, 1719), (128, 128, 150)),
    "segmentation": ("1", (2679, 4224, 1719), (256, 256, 150)),
}
"""Of each real layer the finest mag that is there, and where voxels are in it."""
_SEED: Final = 1


def random_voxels(edge: int | tuple[int, int, int], dtype: str = "uint8") -> VoxelArray:
    """Noise, (x, y, z) in Fortran order."""
    shape = (edge, edge, edge) if isinstance(edge, int) else edge
    random = np.random.default_rng(_SEED)
    return random.integers(0, 256, shape[::-1], dtype=np.uint8).astype(dtype, copy=False).T


@cache
def image_or_segments(category: Category, edge: int) -> tuple[VoxelArray, str]:
    """A cube of voxels as they come from a microscope or from a segmentation.

    :return: (x, y, z) in Fortran order, and "synthetic" or "real" with the name of the layer
    """
    dataset = find_real_dataset()
    if dataset is None:
        return _synthetic(category, edge), "synthetic"
    mag, offset, size = _REAL[category]
    with wkw.Dataset.open(str(dataset / category / mag)) as files:
        data = files.read(offset, size)[0]
    times = [-(-edge // extent) for extent in data.shape]
    return np.asfortranarray(np.tile(data, times)[:edge, :edge, :edge]), f"real {category}"


def _synthetic(category: Category, edge: int) -> VoxelArray:
    """Noise on a gradient; or segments of some ten voxels, their borders on no grid of blocks."""
    random = np.random.default_rng(_SEED)
    if category == "color":
        noise = random.integers(0, 128, (edge, edge, edge), dtype=np.uint8)
        noise += (np.arange(edge) // 4 % 128).astype(np.uint8)
        return noise.T
    seeds = random.integers(1, 1 << 24, (-(-edge // 12),) * 3, dtype=np.uint32)
    segments = seeds.repeat(12, 0).repeat(12, 1).repeat(12, 2)[:edge, :edge, :edge]
    return np.asfortranarray(np.roll(segments, (5, 3, 7), (0, 1, 2)))


def wkw_dataset(folder: Path, dtype: str, file_len: int, block_type: int = wkw.Header.BLOCK_TYPE_RAW) -> Any:
    """A new mag of `wkw`; close it."""
    header = wkw.Header(np.dtype(dtype).type, block_len=BLOCK_LEN, file_len=file_len, block_type=block_type)
    return wkw.Dataset.create(str(folder), header)


def webknossos_library() -> Any:
    """The package, imported only now: that takes seconds, and processes of clients import this module."""
    with quiet():
        return importlib.import_module("webknossos")


@contextmanager
def quiet() -> Iterator[None]:
    """`webknossos` shall not print how far it is, nor warn of packages that are not there and of slow writes."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def webknossos_mag(
    folder: Path,
    layer: str,
    dtype: str,
    file_len: int,
    extent: int | tuple[int, int, int],
    *,
    category: Category = "color",
    is_compressed: bool = False,
) -> Any:
    """A new mag 1 of `webknossos`, in a dataset that is made if it is not there.

    :param extent: of the bounding box
    """
    library = webknossos_library()
    shape = (extent, extent, extent) if isinstance(extent, int) else extent
    dataset = library.Dataset(folder, voxel_size=(11.24, 11.24, 28.0), exist_ok=True)
    more = {"largest_segment_id": LARGEST_SEGMENT_ID} if category == "segmentation" else {}
    new = dataset.add_layer(
        layer,
        category,
        dtype=dtype,
        num_channels=1,
        data_format="wkw",
        bounding_box=library.BoundingBox((0, 0, 0), shape),
        **more,
    )
    return new.add_mag("1", chunk_shape=BLOCK_LEN, shard_shape=BLOCK_LEN * file_len, compress=is_compressed)


def bytes_of_cube_files(mag: Path) -> int:
    """Lengths of all cube files of a mag, in bytes."""
    return sum(path.stat().st_size for path in mag.glob("z*/y*/x*.wkw"))


def write_plain_file(path: Path, data: VoxelArray) -> None:
    """Write an array to a new file in pieces, put it on the disk, and remove it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        rest = data.reshape(-1, order="F").view(np.uint8).data
        while rest:
            rest = rest[os.write(fd, rest[: 1 << 20]) :]
        os.fdatasync(fd)
    finally:
        os.close(fd)
        path.unlink()
