"""The files that an export writes, read back as sources of an import and by the libraries they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magd.cli.exporting.command import box_to_export
from magd.cli.exporting.writers import exporter_of
from magd.cli.failures import CommandError, MissingExtra
from magd.cli.importing.open import SourceOptions, open_sources
from magd.cli.names import parse
from magd.geometry import ORIGIN, Box, Vec3
from magd.voxels import VoxelArray, VoxelFormat

if TYPE_CHECKING:
    from pathlib import Path

    from magd_client import MagHandle
    from magd_client.info import MagInfo

NAME = parse("brain/mri/1")


class MagInMemory:
    """As much of a mag as an export needs."""

    block_len = 4
    cube_len = 8

    def __init__(self, data: VoxelArray, offset: Vec3) -> None:
        self.data = data
        self.box = Box(offset, Vec3.of(data.shape[1:]))
        self.voxels = VoxelFormat.of(data.dtype, data.shape[0])

    def read(self, offset: Vec3, size: Vec3) -> VoxelArray:
        (x, y, z), (end_x, end_y, end_z) = offset - self.box.offset, offset + size - self.box.offset
        return np.asfortranarray(self.data[:, x:end_x, y:end_y, z:end_z])


def export(mag: MagInMemory, path: Path, *, compression: str = "none", piece_bytes: int = 500) -> list[int]:
    advanced: list[int] = []
    exporter = exporter_of(str(path), compression)
    exporter(cast("MagHandle", mag), mag.box, cast("MagInfo", mag), str(path), 3, piece_bytes, advanced.append)
    return advanced


def read_back(path: Path) -> VoxelArray:
    opened = open_sources(str(path), SourceOptions())
    try:
        source = opened.sources[0].source
        return source.read(Box(ORIGIN, source.info.size))
    finally:
        opened.close()


def noise(shape: tuple[int, ...], dtype: str) -> VoxelArray:
    return np.asfortranarray(np.random.default_rng(0).integers(0, 200, size=shape).astype(dtype))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(*[st.integers(2, 20)] * 3),
    offset=st.builds(Vec3, *[st.integers(0, 20)] * 3),
    num_channels=st.sampled_from([1, 2, 3]),
    dtype=st.sampled_from(["uint8", "uint16", "int64", "float32"]),
    suffix=st.sampled_from([".npy", ".tif"]),
    piece_bytes=st.integers(1, 20000),
)
def test_what_was_exported_imports_as_it_was(
    tmp_path: Path,
    size: tuple[int, int, int],
    offset: Vec3,
    num_channels: int,
    dtype: str,
    suffix: str,
    piece_bytes: int,
) -> None:
    mag = MagInMemory(noise((num_channels, *size), dtype), offset)
    path = tmp_path / f"a{suffix}"
    advanced = export(mag, path, piece_bytes=piece_bytes)
    assert sum(advanced) == mag.data.nbytes
    back = read_back(path)
    assert back.dtype == mag.data.dtype
    np.testing.assert_array_equal(back, mag.data)


def test_one_channel_of_npy_has_three_axes_in_fortran_order(tmp_path: Path) -> None:
    mag = MagInMemory(noise((1, 5, 6, 7), "uint16"), Vec3(1, 2, 3))
    export(mag, tmp_path / "a.npy")
    array = np.load(tmp_path / "a.npy")
    assert array.flags.f_contiguous
    np.testing.assert_array_equal(array, mag.data[0])


def test_several_channels_of_npy_come_first(tmp_path: Path) -> None:
    mag = MagInMemory(noise((2, 5, 6, 7), "uint16"), ORIGIN)
    export(mag, tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), mag.data)


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_pages_of_tiff_are_z_and_rows_are_y(tmp_path: Path, compression: str) -> None:
    mag = MagInMemory(noise((1, 5, 6, 20), "uint16"), Vec3(1, 2, 3))
    export(mag, tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), mag.data[0].transpose(2, 1, 0))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages) == 20
        assert not tiff.is_bigtiff
        assert tiff.pages[0].compression == (8 if compression == "zlib" else 1)


def test_three_channels_of_uint8_are_colours(tmp_path: Path) -> None:
    mag = MagInMemory(noise((3, 5, 6, 4), "uint8"), ORIGIN)
    export(mag, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.series[0].keyframe.photometric == tifffile.PHOTOMETRIC.RGB
        np.testing.assert_array_equal(tiff.asarray(), mag.data.transpose(3, 2, 1, 0))


def test_what_tiff_cannot_hold_is_written_as_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magd.cli.exporting.writers.BIG_TIFF_BYTES", 100)
    mag = MagInMemory(noise((1, 5, 6, 7), "uint16"), ORIGIN)
    export(mag, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_bigtiff
    np.testing.assert_array_equal(read_back(tmp_path / "a.tif"), mag.data)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_read_that_fails_ends_the_export(tmp_path: Path, suffix: str) -> None:
    class Failing(MagInMemory):
        def read(self, offset: Vec3, size: Vec3) -> VoxelArray:
            if offset.z >= 16:
                raise OSError(5, "Input/output error")
            return super().read(offset, size)

    with pytest.raises(OSError, match="Input/output"):
        export(Failing(noise((1, 5, 6, 40), "uint16"), ORIGIN), tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("name", "compression", "text"),
    [("a.png", "none", "must end in"), ("a", "none", "must end in"), ("a.npy", "zlib", "is for TIFF")],
)
def test_other_formats_are_refused(name: str, compression: str, text: str) -> None:
    with pytest.raises(CommandError, match=text):
        exporter_of(name, compression)


def test_without_the_import_extra_tiff_shows_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(MissingExtra, match=r'pip install "magd\[import\]"'):
        exporter_of("a.tif", "none")


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (None, None, Box.of((10, 10, 10), (20, 20, 20))),
        (Vec3(15, 10, 10), None, Box.of((15, 10, 10), (15, 20, 20))),
        (None, Vec3(5, 5, 5), Box.of((10, 10, 10), (5, 5, 5))),
        (Vec3(0, 0, 0), Vec3(100, 1, 1), Box.of((0, 0, 0), (100, 1, 1))),
    ],
)
def test_what_is_not_said_of_the_box_is_taken_from_the_bounding_box(offset: Any, size: Any, expected: Box) -> None:
    assert box_to_export(Box.of((10, 10, 10), (20, 20, 20)), offset, size, NAME) == expected


@pytest.mark.parametrize(
    ("bounding_box", "offset", "size", "text"),
    [
        (Box(ORIGIN, ORIGIN), None, None, "holds no data"),
        (Box(ORIGIN, ORIGIN), Vec3(1, 1, 1), None, "holds no data"),
        (Box.of((0, 0, 0), (5, 5, 5)), Vec3(5, 0, 0), None, "size"),
        (Box.of((0, 0, 0), (5, 5, 5)), Vec3(2**31 - 2, 0, 0), Vec3(9, 1, 1), "beyond"),
    ],
)
def test_a_box_without_voxels_is_refused(bounding_box: Box, offset: Any, size: Any, text: str) -> None:
    with pytest.raises(CommandError, match=text):
        box_to_export(bounding_box, offset, size, NAME)
