"""Which blocks get how much effort, and that every reader takes the result."""

from __future__ import annotations

import lz4.block
import numpy as np
import pytest

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
from magd.errors import DataLoss, InvalidRequest, Reason

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


def test_auto_spends_effort_only_where_the_probe_saves_something() -> None:
    encoder = BlockEncoder("auto", SIZE)
    assert encoder.encode(NOISE) == lz4.block.compress(NOISE, store_size=False)
    assert encoder.counts == BlockCounts(fast=1)
    high = lz4.block.compress(SEGMENTS, mode="high_compression", compression=AUTO_HC_LEVEL, store_size=False)
    assert encoder.encode(SEGMENTS) == high
    assert encoder.counts == BlockCounts(fast=1, high=1)
    assert len(encoder.encode(ZEROS)) < 150
    encoder.encode_zeros(5)
    assert encoder.counts == BlockCounts(fast=1, high=1, zero=6)


def test_auto_keeps_the_probe_below_two_percent_and_not_above() -> None:
    def repeating(share: float) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        block = NOISE.copy()
        block[: int(SIZE * share)] = 1
        return block

    encoder = BlockEncoder("auto", SIZE)
    encoder.encode(repeating(0.015))
    assert encoder.counts == BlockCounts(fast=1)
    encoder.encode(repeating(0.035))
    assert encoder.counts == BlockCounts(fast=1, high=1)


def test_a_fixed_level_is_used_for_every_block_that_is_not_zero() -> None:
    for level, expected in (("fast", BlockCounts(fast=2, zero=1)), (3, BlockCounts(high=2, zero=1))):
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
