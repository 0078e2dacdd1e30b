"""Which blocks get how much effort, and that every reader takes the result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import lz4.block
import numpy as np
import pytest

from magd.cubes.convert import Conversion, make_file
from magd.cubes.encode import (
    AUTO_HC_LEVEL,
    BlockCounts,
    BlockEncoder,
    CompressionLevel,
    check_level,
    decode,
    default_level,
    largest_encoded,
)
from magd.cubes.header import BlockType
from magd.cubes.mag_files import MagFiles
from magd.errors import DataLoss, InvalidRequest, Reason
from magd.geometry import Box, Vec3
from tests.cubes.oracle import make_header, wkw_read, wkw_write

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 32**3
NOISE = np.random.default_rng(1).integers(0, 256, SIZE, dtype=np.uint8)
ZEROS = np.zeros(SIZE, np.uint8)
SEGMENTS = np.repeat(np.random.default_rng(2).integers(1, 9, SIZE // 16, dtype=np.uint8), 16)
KINDS = {"noise": NOISE, "zeros": ZEROS, "segments": SEGMENTS}


@pytest.mark.parametrize("level", ["auto", "fast", 3, 9, 10, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_encoded_is_decoded(level: CompressionLevel, kind: str) -> None:
    encoded = BlockEncoder(level, SIZE).encode(KINDS[kind])
    assert decode(encoded, SIZE, 0, "x0.wkw") == KINDS[kind].tobytes()
    assert len(encoded) <= largest_encoded(SIZE)


@pytest.mark.parametrize("level", ["auto", "fast", 3])
@pytest.mark.parametrize("size", [1, 2, 12, 13, 64, 300, 8**3, SIZE])
def test_zeros_are_known_and_nothing_else_is_taken_for_them(level: CompressionLevel, size: int) -> None:
    encoder = BlockEncoder(level, size)
    assert encoder.encode_pieces(np.zeros(size, np.uint8)) == (encoder.zero_block,)
    assert encoder.counts == BlockCounts(zero=1)
    for place in {0, size // 2, size - 1}:
        block = np.zeros(size, np.uint8)
        block[place] = 1
        encoded = b"".join(encoder.encode_pieces(block))
        assert decode(encoded, size, 0, "x0.wkw") == block.tobytes()
    assert (encoder.counts.zero, encoder.counts.total) == (1, 1 + len({0, size // 2, size - 1}))


@pytest.mark.parametrize("size", [1, 2, 14, 15, 16, 269, 270, 271, 524, 525, 526, SIZE])
def test_a_stored_block_is_its_bytes_after_their_number_and_every_reader_takes_it(size: int) -> None:
    block = np.random.default_rng(size).integers(1, 256, size, dtype=np.uint8)
    encoder = BlockEncoder("auto", size)
    encoded = encoder.encode(block)
    assert encoder.counts == BlockCounts(stored=1)
    assert encoded.endswith(block.tobytes())
    assert len(encoded) <= largest_encoded(size)
    assert decode(encoded, size, 0, "x0.wkw") == block.tobytes()
    assert lz4.block.decompress(encoded, uncompressed_size=size) == block.tobytes()


@pytest.mark.parametrize("level", ["auto", "fast", 9])
def test_wkw_reads_stored_blocks(level: CompressionLevel, tmp_path: Path) -> None:
    header = make_header(block_len=32, file_len=2)
    voxels = np.asfortranarray(np.random.default_rng(3).integers(0, 256, (1, 64, 64, 64), dtype=np.uint8))
    voxels[:, 32:, :, 32:] = 0
    voxels[:, :32, 32:, 32:] = 5
    wkw_write(tmp_path / "source", header, voxels)
    target = replace(header, block_type=BlockType.LZ4HC)
    MagFiles.create(str(tmp_path / "target"), target).close()
    conversion = Conversion(str(tmp_path / "source"), header, str(tmp_path / "target"), target, level)
    made = make_file(conversion, Vec3(0, 0, 0))
    assert (made.blocks.stored, made.blocks.zero, made.blocks.fast + made.blocks.high) == (5, 2, 1)
    np.testing.assert_array_equal(wkw_read(tmp_path / "target", Box.of((0, 0, 0), (64, 64, 64))), voxels)


def test_auto_spends_effort_only_where_the_probe_saves_something() -> None:
    encoder = BlockEncoder("auto", SIZE)
    assert encoder.encode(NOISE).endswith(NOISE.tobytes())
    assert encoder.counts == BlockCounts(stored=1)
    high = lz4.block.compress(SEGMENTS, mode="high_compression", compression=AUTO_HC_LEVEL, store_size=False)
    assert encoder.encode(SEGMENTS) == high
    assert encoder.counts == BlockCounts(stored=1, high=1)
    assert len(encoder.encode(ZEROS)) < 150
    encoder.encode_zeros(5)
    assert encoder.counts == BlockCounts(stored=1, high=1, zero=6)
    assert encoder.counts.total == 8
    assert encoder.counts + BlockCounts(fast=3) == BlockCounts(stored=1, high=1, zero=6, fast=3)


def test_auto_stores_what_saves_less_than_two_percent() -> None:
    def repeating(share: float) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        block = NOISE.copy()
        block[: int(SIZE * share)] = 1
        return block

    encoder = BlockEncoder("auto", SIZE)
    encoder.encode(repeating(0.015))
    assert encoder.counts == BlockCounts(stored=1)
    encoder.encode(repeating(0.035))
    assert encoder.counts == BlockCounts(stored=1, high=1)


def test_a_fixed_level_is_used_for_every_block_that_it_makes_smaller() -> None:
    for level, expected in (
        ("fast", BlockCounts(fast=1, stored=1, zero=1)),
        (3, BlockCounts(high=1, stored=1, zero=1)),
    ):
        encoder = BlockEncoder(level, SIZE)  # type: ignore[arg-type]
        for block in KINDS.values():
            encoder.encode(block)
        assert encoder.counts == expected
    assert BlockEncoder(12, SIZE).encode(SEGMENTS) == lz4.block.compress(
        SEGMENTS, mode="high_compression", compression=12, store_size=False
    )


@pytest.mark.parametrize("level", ["slow", "", 0, 2, 13, -1, True, 9.5, None])
def test_other_levels_are_refused(level: object) -> None:
    for refuse in (check_level, lambda level: BlockEncoder(level, SIZE)):
        with pytest.raises(InvalidRequest, match="level") as caught:
            refuse(level)  # type: ignore[arg-type]
        assert caught.value.reason is Reason.INVALID_FIELD
        assert caught.value.metadata["field"] == "level"


def test_every_level_that_is_offered_is_taken() -> None:
    for level in ("auto", "fast", *range(3, 13)):
        check_level(level)


def test_the_default_effort_is_what_the_block_type_of_the_mag_calls_for() -> None:
    assert default_level(BlockType.LZ4) == "fast"
    assert default_level(BlockType.LZ4HC) == "auto"


@pytest.mark.parametrize("length", [SIZE - 1, SIZE + 1])
def test_a_block_of_another_length_is_damage(length: int) -> None:
    encoded = lz4.block.compress(bytes(length), store_size=False)
    with pytest.raises(DataLoss, match="block 17") as caught:
        decode(encoded, SIZE, 17, "x0.wkw")
    assert caught.value.metadata["file"] == "x0.wkw"


def test_what_is_no_lz4_block_is_damage() -> None:
    with pytest.raises(DataLoss, match="block 3"):
        decode(b"\xff\xff\xff", SIZE, 3, "x0.wkw")
