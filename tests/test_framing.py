"""The framing by hand, compared with the generated classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from magd.framing import ReadBatchFrame, ReadBoxesFrame, ReadFrame, WriteBatchFrame, WriteBoxesFrame, WriteFrame
from magd.v1 import types_pb2, volume_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

headers = st.builds(
    volume_pb2.WriteBoxRequest,
    name=st.text(max_size=200),
    num_channels=st.integers(0, 255),
    request_id=st.text(max_size=36),
    crc32c=st.integers(0, 2**32 - 1),
    box=st.builds(types_pb2.Box, offset=st.builds(types_pb2.Vec3, x=st.integers(-(2**31), 2**31 - 1))),
)
response_headers = st.builds(
    volume_pb2.ReadBoxResponse,
    num_channels=st.integers(0, 2**31 - 1),
    revision=st.builds(types_pb2.Revision, epoch=st.integers(0, 2**62), counter=st.integers(-(2**63), 2**62)),
    crc32c=st.integers(0, 2**32 - 1),
)
voxels = st.one_of(st.binary(max_size=300), st.just(bytes(70_000)))
indices = st.one_of(st.integers(-(2**63), 2**63 - 1), st.just(0))
errors = st.builds(volume_pb2.BoxError, code=st.integers(0, 16), message=st.text(max_size=20))

# Fields that no class knows: a number, eight bytes, four bytes, text, and a group with a field 100 and 2 in it.
UNKNOWN = (
    b"\xf8\x3f\x96\x01",
    b"\xf9\x3f12345678",
    b"\xfd\x3f1234",
    b"\xfa\x3f\x02ab",
    b"\xfb\x3f\xa2\x06\x03abc\x12\x01x\xfb\x3f\xfc\x3f\xfc\x3f",
)
unknown_fields = st.sampled_from((b"", *UNKNOWN))


def without_data(message: Any) -> Any:
    message = type(message).FromString(message.SerializeToString())
    message.ClearField("data")
    return message


def known(message: Message) -> Message:
    """Without fields that the class does not know."""
    message.DiscardUnknownFields()
    return message


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_bytes_of_frames_are_these() -> None:
    header = volume_pb2.WriteBoxRequest(name="d")
    assert WriteFrame(header, b"xyz").encode() == b"\x0a\x01d\xa2\x06\x03xyz"
    assert WriteFrame(None, memoryview(bytes(200))).encode() == b"\xa2\x06\xc8\x01" + bytes(200)
    assert ReadFrame(volume_pb2.ReadBoxResponse(num_channels=1), b"xyz").encode() == b"\x18\x01\xa2\x06\x03xyz"
    assert WriteBoxesFrame(7, WriteFrame(header, b"xyz")).encode() == b"\x08\x07\x12\x09\x0a\x01d\xa2\x06\x03xyz"
    assert WriteBoxesFrame(0, WriteFrame(None, b"")).encode() == b"\x12\x00"


@given(header=headers, data=voxels)
def test_a_written_frame_is_what_the_generated_class_writes(header: volume_pb2.WriteBoxRequest, data: bytes) -> None:
    whole = volume_pb2.WriteBoxRequest()
    whole.CopyFrom(header)
    whole.data = data
    assert WriteFrame(header, memoryview(data)).encode() == whole.SerializeToString()
    assert volume_pb2.WriteBoxRequest.FromString(WriteFrame(None, data).encode()).data == data


@given(header=response_headers, data=voxels)
def test_a_read_frame_is_what_the_generated_class_writes(header: volume_pb2.ReadBoxResponse, data: bytes) -> None:
    whole = volume_pb2.ReadBoxResponse()
    whole.CopyFrom(header)
    whole.data = data
    assert ReadFrame(header, memoryview(data)).encode() == whole.SerializeToString()


@given(index=indices, header=headers, response=response_headers, data=voxels, error=errors)
def test_frames_of_many_boxes_are_what_the_generated_classes_write(
    index: int,
    header: volume_pb2.WriteBoxRequest,
    response: volume_pb2.ReadBoxResponse,
    data: bytes,
    error: volume_pb2.BoxError,
) -> None:
    written = WriteBoxesFrame(index, WriteFrame(header, data)).encode()
    header.data = data
    assert written == volume_pb2.WriteBoxesRequest(index=index, box=header).SerializeToString()
    read = ReadBoxesFrame(index, ReadFrame(response, data)).encode()
    response.data = data
    assert read == volume_pb2.ReadBoxesResponse(index=index, box=response).SerializeToString()
    failed = volume_pb2.ReadBoxesResponse(index=index, error=error).SerializeToString()
    assert ReadBoxesFrame(index, error).encode() == failed


@given(header=headers, response=response_headers, data=voxels, error=errors, count=st.integers(1, 3))
def test_messages_that_travel_together_are_written_and_read_as_by_the_generated_classes(
    header: volume_pb2.WriteBoxRequest,
    response: volume_pb2.ReadBoxResponse,
    data: bytes,
    error: volume_pb2.BoxError,
    count: int,
) -> None:
    more = tuple(WriteBoxesFrame(i, WriteFrame(header, data)) for i in range(count))
    writes = WriteBoxesFrame(7, WriteFrame(header, data), more).encode()
    header.data = data
    expected = volume_pb2.WriteBoxesRequest(index=7, box=header)
    expected.more.extend(volume_pb2.WriteBoxesRequest(index=i, box=header) for i in range(count))
    assert writes == expected.SerializeToString()
    frame = WriteBoxesFrame.decode(writes)
    assert [(each.index, bytes(each.box.data)) for each in frame.more] == [(i, data) for i in range(count)]
    assert all(each.box.header == header for each in frame.more)

    outcomes: list[ReadFrame | volume_pb2.BoxError] = [ReadFrame(response, data), error, ReadFrame(response, b"")]
    reads = ReadBoxesFrame(7, error, tuple(ReadBoxesFrame(i, outcomes[i]) for i in range(count))).encode()
    generated = volume_pb2.ReadBoxesResponse.FromString(reads)
    assert [each.index for each in generated.more] == list(range(count))
    assert (generated.error, generated.more[0].box.data) == (error, data)
    read = ReadBoxesFrame.decode(reads)
    assert read.outcome == error
    first = read.more[0].outcome
    assert isinstance(first, ReadFrame)
    assert (first.data, without_data(first.header)) == (data, response)
    assert [each.outcome for each in read.more[1:2]] == [error][: count - 1]


@given(header=headers, response=response_headers, data=voxels, error=errors, count=st.integers(0, 3))
def test_batches_are_what_the_generated_classes_write(
    header: volume_pb2.WriteBoxRequest,
    response: volume_pb2.ReadBoxResponse,
    data: bytes,
    error: volume_pb2.BoxError,
    count: int,
) -> None:
    writes = WriteBatchFrame([WriteFrame(header, data)] * count).encode()
    for frame in WriteBatchFrame.decode(writes).boxes:
        assert bytes(frame.data) == data
        assert without_data(frame.header or volume_pb2.WriteBoxRequest()) == header
    header.data = data
    assert writes == volume_pb2.WriteBoxBatchRequest(boxes=[header] * count).SerializeToString()
    assert len(WriteBatchFrame.decode(writes).boxes) == count
    reads = ReadBatchFrame([ReadBoxesFrame(0, error), ReadBoxesFrame(1, ReadFrame(response, data))][:count]).encode()
    outcomes = [result.outcome for result in ReadBatchFrame.decode(reads).results]
    assert outcomes[:1] == [error][:count]
    assert len(outcomes) == min(count, 2)
    for read in outcomes[1:]:
        assert isinstance(read, ReadFrame)
        assert (bytes(read.data), read.header) == (data, response)
    response.data = data
    expected = [volume_pb2.ReadBoxesResponse(error=error), volume_pb2.ReadBoxesResponse(index=1, box=response)]
    assert reads == volume_pb2.ReadBoxBatchResponse(results=expected[:count]).SerializeToString()


def test_messages_within_those_that_travel_together_are_refused() -> None:
    write = volume_pb2.WriteBoxesRequest(more=[volume_pb2.WriteBoxesRequest(more=[volume_pb2.WriteBoxesRequest()])])
    with pytest.raises(DecodeError):
        WriteBoxesFrame.decode(write.SerializeToString())
    read = volume_pb2.ReadBoxesResponse(more=[volume_pb2.ReadBoxesResponse(more=[volume_pb2.ReadBoxesResponse()])])
    with pytest.raises(DecodeError):
        ReadBoxesFrame.decode(read.SerializeToString())


# -- what is read ------------------------------------------------------------------------------------------------------


@given(header=headers, data=voxels, before=unknown_fields, after=unknown_fields)
def test_a_write_is_read_as_the_generated_class_reads_it(
    header: volume_pb2.WriteBoxRequest, data: bytes, before: bytes, after: bytes
) -> None:
    # The data between other fields, and twice: the last one counts.
    parts = (before, WriteFrame(None, b"first").encode(), header.SerializeToString())
    message = b"".join((*parts, WriteFrame(None, data or b"last").encode(), after))
    frame, expected = WriteFrame.decode(message), volume_pb2.WriteBoxRequest.FromString(message)
    assert bytes(frame.data) == expected.data
    assert frame.header is not None or not (header.ListFields() or before or after)
    assert (frame.header or volume_pb2.WriteBoxRequest()) == without_data(expected)


@given(header=response_headers, data=voxels, before=unknown_fields, after=unknown_fields)
def test_a_read_is_read_as_the_generated_class_reads_it(
    header: volume_pb2.ReadBoxResponse, data: bytes, before: bytes, after: bytes
) -> None:
    parts = (before, volume_pb2.ReadBoxResponse(data=b"first").SerializeToString(), header.SerializeToString())
    message = b"".join((*parts, volume_pb2.ReadBoxResponse(data=data or b"last").SerializeToString(), after))
    frame, expected = ReadFrame.decode(message), volume_pb2.ReadBoxResponse.FromString(message)
    assert bytes(frame.data) == expected.data
    assert frame.header == without_data(expected)


@given(index=indices, header=headers, data=voxels, around=unknown_fields, later=st.binary(max_size=20))
def test_one_of_many_writes_is_read_as_the_generated_class_reads_it(
    index: int, header: volume_pb2.WriteBoxRequest, data: bytes, around: bytes, later: bytes
) -> None:
    header.data = data
    first = volume_pb2.WriteBoxesRequest(box=header).SerializeToString()
    # A second nested message is merged with the first one.
    second = volume_pb2.WriteBoxesRequest(box=volume_pb2.WriteBoxRequest(data=later)).SerializeToString()
    for message in (
        first,
        around + first + volume_pb2.WriteBoxesRequest(index=index).SerializeToString() + around,
        around + first + volume_pb2.WriteBoxesRequest(index=index).SerializeToString() + second,
        around,
    ):
        frame, expected = WriteBoxesFrame.decode(message), volume_pb2.WriteBoxesRequest.FromString(message)
        assert frame.index == expected.index
        assert bytes(frame.box.data) == expected.box.data
        assert (frame.box.header or volume_pb2.WriteBoxRequest()) == without_data(expected.box)


@given(index=indices, header=response_headers, data=voxels, around=unknown_fields, error=errors)
def test_one_of_many_reads_is_read_as_the_generated_class_reads_it(
    index: int, header: volume_pb2.ReadBoxResponse, data: bytes, around: bytes, error: volume_pb2.BoxError
) -> None:
    header.data = data
    whole = volume_pb2.ReadBoxesResponse(index=index, box=header)
    frame = ReadBoxesFrame.decode(around + whole.SerializeToString() + around)
    assert isinstance(frame.outcome, ReadFrame)
    assert (frame.index, bytes(frame.outcome.data)) == (index, data)
    assert frame.outcome.header == without_data(header)
    failed = volume_pb2.ReadBoxesResponse(index=index, error=error)
    frame = ReadBoxesFrame.decode(around + failed.SerializeToString())
    assert (frame.index, frame.outcome) == (index, error)
    with pytest.raises(DecodeError):
        ReadBoxesFrame.decode(failed.SerializeToString() + whole.SerializeToString())


@given(message=st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(UNKNOWN)).map(b"".join)))
def test_garbage_is_refused_or_read_as_the_generated_class_reads_it(message: bytes) -> None:
    try:
        frame = WriteFrame.decode(message)
    except DecodeError:
        with pytest.raises(DecodeError):
            volume_pb2.WriteBoxRequest.FromString(message)
    else:
        expected = volume_pb2.WriteBoxRequest.FromString(message)
        assert bytes(frame.data) == expected.data
        assert known(frame.header or volume_pb2.WriteBoxRequest()) == known(without_data(expected))


@pytest.mark.parametrize("cut", [1, 5, 6, 9])
def test_a_message_that_ends_too_early_is_refused(cut: int) -> None:
    message = volume_pb2.ReadBoxResponse(crc32c=1, data=b"12345").SerializeToString()
    with pytest.raises(DecodeError, match="ends within"):
        ReadFrame.decode(message[:-cut])


@pytest.mark.parametrize(
    "message", [b"\xfc\x3f", b"\xfb\x3f", b"\x07", b"\x06", b"\xa2\x06\xff\xff\xff\xff\xff\xff", b"\x0a\x01\xff"]
)
def test_what_the_generated_class_refuses_is_refused(message: bytes) -> None:
    with pytest.raises(DecodeError):
        volume_pb2.WriteBoxRequest.FromString(message)
    with pytest.raises(DecodeError):
        WriteFrame.decode(message)


def test_data_is_not_copied() -> None:
    message = WriteBoxesFrame(3, WriteFrame(volume_pb2.WriteBoxRequest(name="d"), bytes(1000))).encode()
    data = WriteBoxesFrame.decode(message).box.data
    assert isinstance(data, memoryview)
    assert data.obj is message
