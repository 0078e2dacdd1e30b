"""What the tests of cube files compare with: the `wkw` package, and voxels in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import wkw
from hypothesis import strategies as st

from magd.cubes.header import BlockType, Header
from magd.geometry import Box, Vec3
from magd.voxels import VOXEL_DTYPES, VoxelArray, VoxelFormat

if TYPE_CHECKING:
    from pathlib import Path

    from magd.cubes.mag_files import MagFiles


def make_header(
    dtype: str = "uint8",
    channels: int = 1,
    block_len: int = 4,
    file_len: int = 4,
    block_type: BlockType = BlockType.RAW,
) -> Header:
    return Header(VoxelFormat.of(dtype, channels), block_len, file_len, block_type)


def wkw_header(header: Header) -> Any:
    """The same for `wkw`."""
    return wkw.Header(
        header.voxels.dtype.type,
        num_channels=header.voxels.num_channels,
        block_len=header.block_len,
        file_len=header.file_len,
        block_type=int(header.block_type),
    )


def wkw_read(folder: Path, box: Box) -> VoxelArray:
    with wkw.Dataset.open(str(folder)) as dataset:
        data: VoxelArray = dataset.read(tuple(box.offset), tuple(box.size))
    return data


def wkw_write(folder: Path, header: Header, data: VoxelArray) -> None:
    """Make a mag with `data` at the origin. Compressed: its size must be a multiple of that of a cube file."""
    with wkw.Dataset.create(str(folder), wkw_header(header)) as dataset:
        dataset.write((0, 0, 0), data)


def some_voxels(header: Header, size: Vec3, seed: int = 0) -> VoxelArray:
    """Voxels of few values, with stretches of zeros and others that repeat. Fortran order."""
    random = np.random.default_rng(seed)
    data = np.asfortranarray(random.integers(0, 100, (header.voxels.num_channels, *size)).astype(header.voxels.dtype))
    data[:, : size.x // 3] = 0
    data[:, :, size.y // 2 :, size.z // 3 :] = 7
    return data


class Model:
    """A mag in memory: a cube of voxels at the origin, zero where nothing was written."""

    def __init__(self, header: Header, edge: int) -> None:
        self.box = Box(Vec3.full(0), Vec3.full(edge))
        self.data = header.voxels.zeros(self.box.size)

    def write(self, box: Box, data: VoxelArray) -> None:
        self.data[self._slices(box)] = data

    def read(self, box: Box) -> VoxelArray:
        return self.data[self._slices(box)]

    @staticmethod
    def _slices(box: Box) -> tuple[slice, ...]:
        axes = zip(box.offset, box.end, strict=True)
        return (slice(None), *(slice(start, end) for start, end in axes))


def assert_holds(files: MagFiles, model: Model) -> None:
    np.testing.assert_array_equal(files.read(model.box), model.data)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    """Every dtype, channels, small block and file lengths, every block type."""
    return make_header(
        draw(st.sampled_from(VOXEL_DTYPES)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 2, 4, 8])),
        draw(st.sampled_from([1, 2, 4])),
        draw(st.sampled_from(BlockType)),
    )


@st.composite
def boxes(draw: st.DrawFn, edge: int) -> Box:
    """A box in a cube at the origin."""
    corners = [sorted(draw(st.lists(st.integers(0, edge), min_size=2, max_size=2, unique=True))) for _ in range(3)]
    start, end = (Vec3.of([corner[i] for corner in corners]) for i in range(2))
    return Box.between(start, end)
