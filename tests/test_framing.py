"""The framing by hand, compared with the generated classes."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from magd.framing import ReadFrame, WriteFrame
from magd.v1 import types_pb2, volume_pb2

headers = st.builds(
    volume_pb2.WriteBoxRequest,
    name=st.text(max_size=200),
    num_channels=st.integers(0, 255),
    request_id=st.text(max_size=36),
    crc32c=st.integers(0, 2**32 - 1),
)
responses = st.builds(
    volume_pb2.ReadBoxResponse,
    num_channels=st.integers(0, 2**31 - 1),
    revision=st.builds(types_pb2.Revision, epoch=st.integers(0, 2**62), counter=st.integers(-(2**63), 2**62)),
    crc32c=st.integers(0, 2**32 - 1),
    data=st.binary(max_size=300),
)


@given(header=headers, data=st.one_of(st.binary(max_size=300), st.just(bytes(70_000))))
def test_a_frame_is_what_the_generated_class_would_send(header: volume_pb2.WriteBoxRequest, data: bytes) -> None:
    parsed = volume_pb2.WriteBoxRequest.FromString(WriteFrame(header, memoryview(data)).encode())
    assert parsed.data == data
    parsed.ClearField("data")
    assert parsed == header
    assert volume_pb2.WriteBoxRequest.FromString(WriteFrame(None, data).encode()).data == data


@given(response=responses)
def test_a_frame_is_read_as_the_generated_class_reads_it(response: volume_pb2.ReadBoxResponse) -> None:
    frame = ReadFrame.decode(response.SerializeToString())
    assert bytes(frame.data) == response.data
    response.ClearField("data")
    assert frame.header == response


@given(response=responses, later=st.binary(min_size=1, max_size=20))
def test_fields_after_the_data_and_a_second_data_field_are_read(
    response: volume_pb2.ReadBoxResponse, later: bytes
) -> None:
    first = volume_pb2.ReadBoxResponse(data=b"first").SerializeToString()
    second = volume_pb2.ReadBoxResponse(data=later).SerializeToString()
    message = first + response.SerializeToString() + second
    frame = ReadFrame.decode(message)
    assert bytes(frame.data) == later == volume_pb2.ReadBoxResponse.FromString(message).data
    assert frame.header.num_channels == response.num_channels


@given(message=st.binary(max_size=60))
def test_garbage_is_refused_or_read_as_the_generated_class_reads_it(message: bytes) -> None:
    try:
        frame = ReadFrame.decode(message)
    except (ValueError, DecodeError):
        return
    assert bytes(frame.data) == volume_pb2.ReadBoxResponse.FromString(message).data


@pytest.mark.parametrize("cut", [1, 5, 6, 9])
def test_a_message_that_ends_too_early_is_refused(cut: int) -> None:
    message = volume_pb2.ReadBoxResponse(crc32c=1, data=b"12345").SerializeToString()
    with pytest.raises(ValueError, match="ends within"):
        ReadFrame.decode(message[:-cut])
