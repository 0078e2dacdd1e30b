"""Arrays of any memory order, as they travel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magd import memory_order
from magd.memory_order import c_order_slabs, in_fortran_order, slabs
from magd.voxels import VoxelFormat
from magd_client import arrays

ONE = VoxelFormat.of("uint16", 1)


def test_an_array_in_fortran_order_is_sent_as_it_lies() -> None:
    data = np.zeros((3, 4, 5, 6), dtype="<u2", order="F")
    (slab,) = slabs(data, VoxelFormat.of("uint16", 3))
    assert slab is data
    assert np.shares_memory(np.frombuffer(next(arrays.parts([slab])), np.uint8), data)


@pytest.mark.parametrize(
    "arrange",
    [
        np.ascontiguousarray,
        np.asfortranarray,
        lambda data: data[:, ::-1].copy()[:, ::-1],
        lambda data: np.repeat(data, 2, axis=2)[:, :, ::2],
        lambda data: data.astype(data.dtype.newbyteorder(">")),
        lambda data: np.ascontiguousarray(data.transpose(2, 0, 3, 1)).transpose(1, 3, 0, 2),
        lambda data: np.ascontiguousarray(data.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2),
        lambda data: np.ascontiguousarray(data.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2),
        lambda data: np.ascontiguousarray(data[..., ::-1])[..., ::-1],
        lambda data: np.repeat(data, 2, axis=3)[..., ::2],
        lambda data: np.pad(data, ((0, 0), (1, 2), (3, 1), (2, 2)))[:, 1:-2, 3:-1, 2:-2],
        lambda data: np.asfortranarray(np.pad(data, ((0, 0), (1, 2), (3, 1), (2, 2))))[:, 1:-2, 3:-1, 2:-2],
    ],
)
@given(
    dtype=st.sampled_from(["uint8", "int16", "uint32", "float64"]),
    channels=st.integers(1, 3),
    size=st.tuples(st.integers(1, 70), st.integers(1, 20), st.integers(1, 70)),
    slab_bytes=st.sampled_from([1, 1000, 8 << 20]),
    tile=st.sampled_from([(9, 300), (24, 1500), (128, 32 << 10)]),
)
def test_any_memory_order_and_byte_order_gives_the_same_bytes(
    arrange: Any, dtype: str, channels: int, size: tuple[int, int, int], slab_bytes: int, tile: tuple[int, int]
) -> None:
    voxels = VoxelFormat.of(dtype, channels)
    data = np.arange(channels * np.prod(size), dtype=voxels.dtype).reshape(channels, *size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_order, "SLAB_BYTES", slab_bytes)
        patch.setattr(memory_order, "ROW_BYTES", tile[0])
        patch.setattr(memory_order, "TILE_BYTES", tile[1])
        made = list(slabs(arrange(data), voxels))
    assert b"".join(arrays.parts(made)) == data.tobytes(order="F")


def test_parts_have_the_size_that_travels_best_and_slabs_are_small() -> None:
    data = np.zeros((1, 1024, 1024, 2), dtype=np.uint16)
    assert [len(part) for part in arrays.parts(slabs(data, ONE))] == [arrays.PART_BYTES] * 4
    whole = np.broadcast_to(np.uint16(7), (1, 512, 512, 512))
    assert next(slabs(whole, ONE)).nbytes < whole.nbytes // 7


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
@pytest.mark.parametrize("size", [(300, 5, 130), (256, 256, 128), (1, 1, 5000), (3000, 1, 1), (1, 700, 65)])
def test_boxes_of_many_tiles_are_turned(size: tuple[int, int, int], dtype: str) -> None:
    voxels = VoxelFormat.of(dtype, 2)
    data = np.random.default_rng(0).integers(0, 200, (2, *size)).astype(voxels.dtype)
    assert b"".join(arrays.parts(slabs(data, voxels))) == data.tobytes(order="F")


@given(
    channels=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 70)),
    order=st.sampled_from("CF"),
)
def test_c_order_comes_back(channels: int, size: tuple[int, int, int], order: str) -> None:
    data = np.arange(channels * np.prod(size), dtype="<u2").reshape(channels, *size)
    arranged = np.array(data, order="C" if order == "C" else "F")
    made = list(c_order_slabs(arranged, VoxelFormat.of("uint16", channels)))
    assert b"".join(arrays.parts(made)) == data.tobytes(order="C")


@pytest.mark.parametrize("shape", [(1, 0, 5, 4), (1, 5, 0, 4), (1, 5, 4, 0), (3, 0, 0, 0)])
def test_an_array_without_voxels_stays_one(shape: tuple[int, int, int, int]) -> None:
    array = np.zeros((shape[0], *(2 * extent for extent in shape[1:])), np.uint8)[:, ::2, ::2, ::2]
    assert in_fortran_order(array).shape == shape
    assert not any(slab.size for slab in slabs(array, VoxelFormat.of("uint8", shape[0])))
    assert not any(slab.size for slab in c_order_slabs(array, VoxelFormat.of("uint8", shape[0])))
