"""Every kind of source, against the array its file was made of."""

from __future__ import annotations

import gzip
import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from magd.cli.failures import CommandError, MissingExtra
from magd.cli.importing.npy import in_channel_order
from magd.cli.importing.open import SourceOptions, open_sources
from magd.cli.importing.source import Source, VoxelSizeInUnit
from magd.cli.importing.tiff import natural_key
from magd.geometry import ORIGIN, Box, Vec3
from magd.voxels import VOXEL_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = np.ndarray[Any, Any]

nibabel: Any = importlib.import_module("nibabel")
"""It has types, but leaves out those that matter."""


def values(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> Array:
    kind = np.dtype(dtype)
    noise = np.random.default_rng(seed)
    if kind.kind == "f":
        return noise.normal(size=shape).astype(kind)
    limits = np.iinfo(kind)
    return noise.integers(limits.min, limits.max, size=shape, dtype=kind.newbyteorder("="), endpoint=True).astype(kind)


to_close: list[Source] = []


@pytest.fixture(autouse=True)
def close_sources() -> Iterator[None]:
    yield
    while to_close:
        to_close.pop().close()


def open_one(path: Path | str, **options: Any) -> Source:
    opened = open_sources(str(path), SourceOptions(**options))
    assert len(opened.sources) == 1
    to_close.append(opened.sources[0].source)
    return opened.sources[0].source


def check(source: Source, model: Array) -> None:
    """Compare a source with what it must hold, (c, x, y, z): as a whole, in boxes, from several threads."""
    num_channels, *size = model.shape
    info = source.info
    assert (info.voxels.num_channels, info.size) == (num_channels, Vec3.of(size))
    assert info.voxels.dtype == model.dtype.newbyteorder("<")
    whole = source.read(Box(ORIGIN, info.size))
    assert whole.flags.f_contiguous
    assert whole.dtype == info.voxels.dtype
    np.testing.assert_array_equal(whole, model)
    noise = np.random.default_rng(1)

    def compare(_: int) -> None:
        with lock:
            start = Vec3.of([int(noise.integers(0, length)) for length in size])
            end = start + Vec3.of([int(noise.integers(1, length + 1)) for length in info.size - start])
        part = model[:, start.x : end.x, start.y : end.y, start.z : end.z]
        np.testing.assert_array_equal(source.read(Box.between(start, end)), part)

    lock = threading.Lock()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(compare, range(24)))


# -- npy ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", VOXEL_DTYPES)
def test_npy_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    array = values((7, 5, 3), dtype)
    np.save(tmp_path / "a.npy", array)
    check(open_one(tmp_path / "a.npy"), array[np.newaxis])


def test_big_endian_npy_becomes_little_endian(tmp_path: Path) -> None:
    array = values((7, 5, 3), ">u4")
    np.save(tmp_path / "a.npy", array)
    check(open_one(tmp_path / "a.npy"), array[np.newaxis])


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_either_memory_order(tmp_path: Path, order: Any) -> None:
    array = np.array(values((2, 70, 5, 40)), order=order)
    np.save(tmp_path / "a.npy", array)
    check(open_one(tmp_path / "a.npy"), array)


@given(st.permutations("cxyz"), st.sampled_from([1, 2, 3, 4]))
@settings(max_examples=40, deadline=None)
def test_axes_in_any_order_and_number_give_channels_x_y_z(letters: list[str], number: int) -> None:
    axes = "".join(letters[:number])
    if not {"x", "y"} <= set(axes):
        with pytest.raises(CommandError, match="axes"):
            in_channel_order(np.zeros((2,) * number), axes, "here")
        return
    lengths = {"c": 2, "x": 3, "y": 4, "z": 5}
    array = values(tuple(lengths[letter] for letter in axes))
    result = in_channel_order(array, axes, "here")
    for index in np.ndindex(*result.shape):
        place = dict(zip("cxyz", index, strict=True))
        assert result[index] == array[tuple(place[letter] for letter in axes)]


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [((4, 3), None, (1, 4, 3, 1)), ((4, 3), "yx", (1, 3, 4, 1)), ((5, 4, 3), "zyx", (1, 3, 4, 5))],
)
def test_missing_axes_have_length_one(shape: tuple[int, ...], axes: str | None, expected: tuple[int, ...]) -> None:
    assert in_channel_order(values(shape), axes, "here").shape == expected


@pytest.mark.parametrize("axes", ["xyzt", "xxy", "xy", "xyzc", "", "XYZ"])
def test_axes_that_do_not_fit_a_volume_are_refused(tmp_path: Path, axes: str) -> None:
    np.save(tmp_path / "a.npy", values((4, 3, 2)))
    with pytest.raises(CommandError, match=r"a\.npy: axes"):
        open_one(tmp_path / "a.npy", axes=axes)


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((2, 2, 2), bool), "uint8"),
        (np.zeros((2, 2, 2), np.float16), "float32"),
        (np.zeros((2, 2, 2), np.complex64), "two float32 channels"),
        (np.zeros((2, 2, 2), "U3"), "WKW has uint8"),
        (np.zeros((300, 2, 2, 2), np.uint8), "fewer channels"),
        (np.zeros((0, 2, 2), np.uint8), "empty"),
        (np.zeros(5), "no x, y and z"),
    ],
)
def test_arrays_that_cannot_be_stored_are_refused_with_advice(tmp_path: Path, array: Array, advice: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(CommandError, match=advice):
        open_one(tmp_path / "a.npy")


@pytest.mark.parametrize("content", [b"", b"not numpy", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_what_is_no_npy_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(CommandError, match=r"a\.npy"):
        open_one(tmp_path / "a.npy")


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    with pytest.raises(CommandError, match=r"a\.npy"):
        open_one(tmp_path / "a.npy")


# -- TIFF --------------------------------------------------------------------------------------------------------------


def as_volume(pages: Array) -> Array:
    """(z, y, x) as (c, x, y, z)."""
    return pages.transpose(2, 1, 0)[np.newaxis]


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">u2"])
def test_a_tiff_of_many_pages(tmp_path: Path, dtype: str, compression: str | None) -> None:
    pages = values((9, 6, 5), dtype)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", compression=compression)
    check(open_one(tmp_path / "a.tif"), as_volume(pages))


def test_a_tiff_whose_pages_were_written_one_by_one(tmp_path: Path) -> None:
    pages = values((9, 6, 5))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pages:
            writer.write(page, metadata=None, contiguous=False)
    check(open_one(tmp_path / "a.tif"), as_volume(pages))


def test_a_tiff_with_tiles(tmp_path: Path) -> None:
    pages = values((3, 40, 50))
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", tile=(16, 16))
    check(open_one(tmp_path / "a.tif"), as_volume(pages))


def test_the_samples_of_a_tiff_become_channels(tmp_path: Path) -> None:
    pages = values((4, 6, 5, 3), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb")
    check(open_one(tmp_path / "a.tif"), pages.transpose(3, 2, 1, 0))


def test_the_channels_of_an_imagej_file_become_channels(tmp_path: Path) -> None:
    pages = values((4, 2, 6, 5))
    tifffile.imwrite(
        tmp_path / "a.tif",
        pages,
        imagej=True,
        resolution=(10.0, 4.0),
        metadata={"axes": "ZCYX", "spacing": 0.3, "unit": "um"},
    )
    source = open_one(tmp_path / "a.tif")
    assert source.info.voxel_size == VoxelSizeInUnit((0.1, 0.25, 0.3), "micrometer")
    check(source, pages.transpose(1, 3, 2, 0))


def test_the_voxel_size_of_an_ome_file_is_read(tmp_path: Path) -> None:
    pages = values((2, 4, 6, 5))
    sizes = {f"PhysicalSize{axis}": size for axis, size in (("X", 11.24), ("Y", 11.24), ("Z", 28.0))}
    units = {f"PhysicalSize{axis}Unit": "nm" for axis in "XYZ"}
    tifffile.imwrite(tmp_path / "a.ome.tif", pages, ome=True, metadata={"axes": "CZYX", **sizes, **units})
    source = open_one(tmp_path / "a.ome.tif")
    assert source.info.voxel_size == VoxelSizeInUnit((11.24, 11.24, 28.0), "nanometer")
    check(source, pages.transpose(0, 3, 2, 1))


def test_dots_per_inch_are_no_voxel_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values((4, 6, 5)), photometric="minisblack", resolution=(300, 300))
    assert open_one(tmp_path / "a.tif").info.voxel_size is None


def test_of_a_time_series_one_volume_is_chosen(tmp_path: Path) -> None:
    pages = values((3, 4, 6, 5))
    tifffile.imwrite(tmp_path / "a.tif", pages, imagej=True, metadata={"axes": "TZYX"})
    check(open_one(tmp_path / "a.tif", volume=2), as_volume(pages[2]))
    with pytest.raises(CommandError, match="--volume 0 to --volume 2"):
        open_one(tmp_path / "a.tif")
    with pytest.raises(CommandError, match="the last one is 2"):
        open_one(tmp_path / "a.tif", volume=3)


def test_times_without_z_are_planes(tmp_path: Path) -> None:
    pages = values((3, 6, 5))
    tifffile.imwrite(tmp_path / "a.tif", pages, imagej=True, metadata={"axes": "TYX"})
    check(open_one(tmp_path / "a.tif"), as_volume(pages))


def write_stack(folder: Path, pages: Array) -> None:
    for z, page in enumerate(pages):
        tifffile.imwrite(folder / f"slice{z}.tif", page, photometric="rgb" if page.ndim == 3 else "minisblack")


def test_a_folder_of_tiff_files_in_natural_order(tmp_path: Path) -> None:
    pages = values((12, 6, 5))
    write_stack(tmp_path, pages)
    (tmp_path / "notes.txt").write_text("not an image")
    check(open_one(tmp_path), as_volume(pages))


def test_a_folder_of_colour_images(tmp_path: Path) -> None:
    pages = values((4, 6, 5, 3), "uint8")
    write_stack(tmp_path, pages)
    check(open_one(tmp_path), pages.transpose(3, 2, 1, 0))


def test_a_pattern_of_tiff_files(tmp_path: Path) -> None:
    pages = values((12, 6, 5))
    write_stack(tmp_path, pages)
    check(open_one(f"{tmp_path}/slice?.tif"), as_volume(pages[:10]))


def test_a_stack_of_files_that_differ_is_refused(tmp_path: Path) -> None:
    write_stack(tmp_path, values((3, 6, 5)))
    tifffile.imwrite(tmp_path / "slice10.tif", values((6, 4)))
    with pytest.raises(CommandError, match=r"slice10\.tif: 4 x 6 uint16, but .*slice0\.tif has 5 x 6"):
        open_one(tmp_path)


def test_a_stack_of_files_with_many_pages_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values((3, 6, 5)), photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(CommandError, match=r"a\.tif: 3 pages"):
        open_one(tmp_path)


def test_a_file_of_a_stack_that_changes_during_the_import_is_an_error(tmp_path: Path) -> None:
    write_stack(tmp_path, values((3, 6, 5)))
    source = open_one(tmp_path)
    tifffile.imwrite(tmp_path / "slice1.tif", values((8, 5)))
    with pytest.raises(CommandError, match=r"slice1\.tif: it changed"):
        source.read(Box(ORIGIN, source.info.size))


def test_a_damaged_page_is_an_error_that_names_it(tmp_path: Path) -> None:
    pages = values((4, 64, 64))
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        start = tiff.pages[2].dataoffsets[0]
    with open(tmp_path / "a.tif", "r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 64)
    source = open_one(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.read(Box.of((0, 0, 1), (64, 64, 1))), as_volume(pages)[..., 1:2])
    with pytest.raises(CommandError, match=r"a\.tif: page 2: cannot be decoded"):
        source.read(Box.of((0, 0, 2), (64, 64, 1)))


@pytest.mark.parametrize("content", [b"", b"II*\x00", b"II*\x00\xff\xff\xff\x00", b"hello, this is text"])
def test_what_is_no_tiff_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(CommandError, match=r"a\.tif"):
        open_one(tmp_path / "a.tif")


def test_bits_are_refused_with_advice(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 8), bool), photometric="minisblack")
    with pytest.raises(CommandError, match="uint8"):
        open_one(tmp_path / "a.tif")


def test_numbers_in_names_sort_as_numbers() -> None:
    names = ["s10.tif", "s9.tif", "S1.tif", "a2b10.tif", "a2b9.tif", "s09.tif"]
    assert sorted(names, key=natural_key) == ["a2b9.tif", "a2b10.tif", "S1.tif", "s09.tif", "s9.tif", "s10.tif"]


# -- NIfTI -------------------------------------------------------------------------------------------------------------


def save_nifti(path: Path, array: Array, *, zooms: tuple[float, ...] = (), unit: str = "mm") -> Path:
    image = nibabel.Nifti1Image(array, np.eye(4), dtype=array.dtype)
    if zooms:
        image.header.set_zooms(zooms)
    image.header.set_xyzt_units(unit)
    image.to_filename(path)
    return path


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "uint64"])
def test_nifti(tmp_path: Path, suffix: str, dtype: str) -> None:
    array = values((7, 5, 3), dtype)
    source = open_one(save_nifti(tmp_path / f"a.{suffix}", array, zooms=(0.3, 0.3, 2.2)))
    assert source.info.voxel_size == VoxelSizeInUnit((0.3, 0.3, 2.2), "millimeter")
    assert any("affine" in text for text in source.info.notes)
    check(source, array[np.newaxis])


def test_nifti_reads_as_nibabel_reads_it(tmp_path: Path) -> None:
    path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    expected = np.asanyarray(nibabel.load(path).dataobj)
    check(open_one(path, volume=1), expected[np.newaxis, ..., 1])


def test_big_endian_nifti(tmp_path: Path) -> None:
    array = values((7, 5, 3), ">i2")
    image = nibabel.Nifti1Image(array, np.eye(4), header=nibabel.Nifti1Header(endianness=">"), dtype=array.dtype)
    image.to_filename(tmp_path / "a.nii")
    assert open_one(tmp_path / "a.nii")._array.dtype.byteorder == ">"  # type: ignore[attr-defined]
    check(open_one(tmp_path / "a.nii"), array[np.newaxis])


def test_a_nifti_series_needs_a_choice(tmp_path: Path) -> None:
    array = values((7, 5, 3, 4))
    path = save_nifti(tmp_path / "a.nii", array)
    check(open_one(path, volume=3), array[np.newaxis, ..., 3])
    with pytest.raises(CommandError, match="--volume 0 to --volume 3"):
        open_one(path)
    with pytest.raises(CommandError, match="the last one is 3"):
        open_one(path, volume=4)


def test_nifti_vectors_become_channels(tmp_path: Path) -> None:
    array = values((7, 5, 3, 1, 3), "float32")
    check(open_one(save_nifti(tmp_path / "a.nii", array)), np.moveaxis(array[:, :, :, 0], -1, 0))


def test_nifti_colours_become_channels(tmp_path: Path) -> None:
    colours = values((7, 5, 3, 3), "uint8")
    array = np.ascontiguousarray(colours).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    check(open_one(save_nifti(tmp_path / "a.nii", array)), np.moveaxis(colours, -1, 0))


def test_nifti_scaling_is_named_and_applied_only_when_asked_for(tmp_path: Path) -> None:
    array = values((7, 5, 3), "int16")
    image = nibabel.Nifti1Image(array, np.eye(4), dtype=array.dtype)
    image.header.set_slope_inter(0.5, -1024)
    image.to_filename(tmp_path / "a.nii")
    # nibabel rescales while it saves; what is stored is read without scaling.
    stored = np.asanyarray(nibabel.load(tmp_path / "a.nii").dataobj.get_unscaled())
    source = open_one(tmp_path / "a.nii")
    assert any("0.5 + -1024" in text and "--apply-scaling" in text for text in source.info.notes)
    check(source, stored[np.newaxis])
    check(open_one(tmp_path / "a.nii", apply_scaling=True), (stored * 0.5 - 1024).astype("float32")[np.newaxis])


def test_nifti_without_a_unit_is_taken_as_millimeters_with_a_word(tmp_path: Path) -> None:
    source = open_one(save_nifti(tmp_path / "a.nii", values((2, 2, 2)), zooms=(2, 2, 2), unit="unknown"))
    assert source.info.voxel_size == VoxelSizeInUnit((2.0, 2.0, 2.0), "millimeter")
    assert any("millimeter is assumed" in text for text in source.info.notes)


def test_complex_nifti_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="complex64"):
        open_one(save_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), np.complex64)))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("keep", [0, 100, 400, 900])
def test_a_nifti_that_was_cut_off_is_refused(tmp_path: Path, suffix: str, keep: int) -> None:
    whole = save_nifti(tmp_path / f"a.{suffix}", values((20, 20, 20))).read_bytes()
    (tmp_path / f"b.{suffix}").write_bytes(whole[:keep])
    with pytest.raises(CommandError, match=r"b\.nii"):
        open_one(tmp_path / f"b.{suffix}")


def test_a_packed_nifti_that_is_damaged_is_refused(tmp_path: Path) -> None:
    data = bytearray(save_nifti(tmp_path / "a.nii.gz", values((20, 20, 20))).read_bytes())
    data[-8:-4] = b"\0\0\0\0"  # the checksum of the contents
    (tmp_path / "a.nii.gz").write_bytes(bytes(data))
    with pytest.raises(CommandError, match=r"a\.nii\.gz: cannot be unpacked"):
        open_one(tmp_path / "a.nii.gz")


def test_what_is_no_nifti_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"not an image" * 100)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"not an image" * 100))
    for name in ("a.nii", "b.nii.gz"):
        with pytest.raises(CommandError, match=name):
            open_one(tmp_path / name)


# -- what kind it is ---------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "a.npy", tmp_path / "*.tif", tmp_path / "none"):
        with pytest.raises(CommandError) as caught:
            open_one(path)
        assert caught.value.reason == "NOT_FOUND"


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no TIFF files"):
        open_one(tmp_path)


def test_other_files_are_refused_with_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(CommandError, match=r"known are TIFF .* NIfTI"):
        open_one(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "options", "flag"),
    [
        ("a.npy", {"volume": 0}, "--volume"),
        ("a.npy", {"apply_scaling": True}, "--apply-scaling"),
        ("a.tif", {"axes": "xyz"}, "--axes"),
        ("a.nii", {"axes": "xyz"}, "--axes"),
        ("", {"volume": 1}, "--volume"),
    ],
)
def test_options_of_another_kind_are_refused(tmp_path: Path, name: str, options: dict[str, Any], flag: str) -> None:
    (tmp_path / (name or "b.tif")).write_bytes(b"")
    with pytest.raises(CommandError, match=flag):
        open_one(tmp_path / name, **options)


@pytest.mark.parametrize(("package", "name"), [("tifffile", "a.tif"), ("nibabel", "a.nii")])
def test_without_the_import_extra_the_install_line_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtra, match=rf'{package} is missing.*pip install "magd\[import\]"'):
        open_one(tmp_path / name)
