"""LZ4 for the parts of boxes: what comes back is what was sent, and what does not shrink is left alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magd.part_encoding import MOST_SKIPPED, PartEncoder, decode

NOISE = random.Random(1).randbytes(4096)


@given(parts=st.lists(st.one_of(st.binary(max_size=64), st.integers(0, 4096).map(bytes), st.just(NOISE))))
def test_what_was_encoded_can_be_decoded_and_is_smaller(parts: list[bytes]) -> None:
    encoder = PartEncoder()
    for part in parts:
        data, size = encoder.encode(part)
        if size:
            assert size == len(part) > len(data)
            assert decode(data, size) == part
        else:
            assert data is part


def test_parts_that_do_not_pay_are_tried_more_and_more_seldom_and_those_that_do_again_at_once() -> None:
    encoder = PartEncoder()
    for _ in range(100):
        assert encoder.encode(NOISE)[1] == 0
    tries = [bool(encoder.encode(bytes(4096))[1]) for _ in range(2 * MOST_SKIPPED)]
    first = tries.index(True)
    assert first <= MOST_SKIPPED
    assert all(tries[first:])


@pytest.mark.parametrize(
    ("data", "size"), [(b"", 3), (b"\xff\xff\xff", 3), (NOISE, 100), (b"\x30abc", 4), (b"\x30abc", 2)]
)
def test_what_is_no_block_of_that_size_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="LZ4 block"):
        decode(data, size)
    assert decode(b"\x30abc", 3) == b"abc"
