"""The messages that carry voxels, without the copies that protobuf would make of them.

`WriteBoxRequest` and `ReadBoxResponse` keep their voxels in `bytes data = 100`, after all other fields;
`WriteBoxesRequest` and `ReadBoxesResponse` carry one of them with an index. Written and read by hand, voxels are copied
once when a message is written, and not at all when it is read: what is read is a view of the message. The generated
classes make three to five copies. On the wire nothing differs. Further small boxes that travel in the same message
(`more`) are read by the generated classes: for them a copy costs less than a walk.

Reading:

1. The fields of the message are walked through. Values of the one that carries voxels are set aside, everything else is
   kept as it is. Within groups (which only unknown fields can be) nothing is set aside.
2. The generated class reads what was kept: it judges everything that is not walked through here.
3. Of several data fields the last one counts, several nested messages are one (which is what their concatenation says):
   as in protobuf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from google.protobuf.message import DecodeError

from magd.v1 import volume_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf.message import Message

Bytes: TypeAlias = bytes | memoryview
"""Contiguous bytes. A memoryview has one dimension, of bytes."""

MoreT = TypeVar("MoreT", volume_pb2.WriteBoxesRequest, volume_pb2.ReadBoxesResponse)

_VARINT, _FIXED64, _LENGTH, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_DATA: Final = volume_pb2.WriteBoxRequest.DATA_FIELD_NUMBER
_INDEX: Final = volume_pb2.WriteBoxesRequest.INDEX_FIELD_NUMBER
_BOX: Final = volume_pb2.WriteBoxesRequest.BOX_FIELD_NUMBER
_MORE_WRITES: Final = volume_pb2.WriteBoxesRequest.MORE_FIELD_NUMBER
_MORE_READS: Final = volume_pb2.ReadBoxesResponse.MORE_FIELD_NUMBER
_BATCHED_WRITES: Final = volume_pb2.WriteBoxBatchRequest.BOXES_FIELD_NUMBER
_BATCHED_READS: Final = volume_pb2.ReadBoxBatchResponse.RESULTS_FIELD_NUMBER
_MAX_SHORT_VARINT_BYTES: Final = 5
"""Of keys and lengths."""
_MAX_VARINT_BYTES: Final = 10
_NOTHING: Final = memoryview(b"")


@dataclass(frozen=True, slots=True)
class WriteFrame:
    """A `WriteBoxRequest`: the header, the next bytes of the box, or both."""

    header: volume_pb2.WriteBoxRequest | None
    """Every field but `data`; None if there is no other."""
    data: Bytes

    @property
    def decoded_size(self) -> int:
        """The bytes of the box that it carries, before they were encoded, or that it names in shared memory."""
        header = self.header
        return (header.decoded_size or header.shared_memory.size if header is not None else 0) or len(self.data)

    def encode(self) -> bytes:
        """The message as the generated class would write it."""
        return b"".join(_pieces(self.header, self.data))

    @classmethod
    def decode(cls, message: Bytes) -> WriteFrame:
        """Read a message. Its data is a view of it.

        :raises DecodeError: it is not well-formed
        """
        rest, data = _take(message, _DATA)
        return cls(volume_pb2.WriteBoxRequest.FromString(rest) if rest else None, data[-1] if data else _NOTHING)


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """A `ReadBoxResponse`."""

    header: volume_pb2.ReadBoxResponse
    """Every field but `data`."""
    data: Bytes
    """The next bytes of the box."""

    def encode(self) -> bytes:
        """The message as the generated class would write it."""
        return b"".join(_pieces(self.header, self.data))

    @classmethod
    def decode(cls, message: Bytes) -> ReadFrame:
        """Read a message. Its data is a view of it.

        :raises DecodeError: it is not well-formed
        """
        rest, data = _take(message, _DATA)
        return cls(volume_pb2.ReadBoxResponse.FromString(rest), data[-1] if data else _NOTHING)


@dataclass(frozen=True, slots=True)
class WriteBoxesFrame:
    """A `WriteBoxesRequest`: one message of one of many boxes, and others that travel with it."""

    index: int
    box: WriteFrame
    """Among `more` the header may have the data, too."""
    more: tuple[WriteBoxesFrame, ...] = ()

    def encode(self) -> bytes:
        """The message as the generated class would write it."""
        return b"".join((*self.pieces(), *_repeated(_MORE_WRITES, (frame.pieces() for frame in self.more))))

    def pieces(self) -> list[Bytes]:
        """What the message consists of, without `more`."""
        return _nested_pieces(self.index, _pieces(self.box.header, self.box.data))

    @classmethod
    def decode(cls, message: Bytes) -> WriteBoxesFrame:
        """Read a message. The data of its box is a view of it.

        :raises DecodeError: it is not well-formed, or has `more` within `more`
        """
        rest, boxes = _take(message, _BOX)
        others = volume_pb2.WriteBoxesRequest.FromString(rest)
        more = tuple(cls(other.index, WriteFrame(other.box, other.box.data)) for other in _flat(others.more))
        return cls(others.index, WriteFrame.decode(_merged(boxes)), more)


@dataclass(frozen=True, slots=True)
class ReadBoxesFrame:
    """A `ReadBoxesResponse`: the next part of one of many boxes, or why there is none. Others travel with it."""

    index: int
    outcome: ReadFrame | volume_pb2.BoxError
    more: tuple[ReadBoxesFrame, ...] = ()

    def encode(self) -> bytes:
        """The message as the generated class would write it."""
        return b"".join((*self.pieces(), *_repeated(_MORE_READS, (frame.pieces() for frame in self.more))))

    def pieces(self) -> list[Bytes]:
        """What the message consists of, without `more`."""
        if isinstance(self.outcome, volume_pb2.BoxError):
            return [volume_pb2.ReadBoxesResponse(index=self.index, error=self.outcome).SerializeToString()]
        return _nested_pieces(self.index, _pieces(self.outcome.header, self.outcome.data))

    @classmethod
    def decode(cls, message: Bytes) -> ReadBoxesFrame:
        """Read a message. The data of its box is a view of it.

        :raises DecodeError: it is not well-formed, has both a box and an error, or `more` within `more`
        """
        rest, boxes = _take(message, _BOX)
        others = volume_pb2.ReadBoxesResponse.FromString(rest)
        more = tuple(cls(other.index, _outcome(other)) for other in _flat(others.more))
        if not others.HasField("error"):
            return cls(others.index, ReadFrame.decode(_merged(boxes)), more)
        if boxes:
            raise DecodeError("a message has both a box and an error")
        return cls(others.index, others.error, more)


@dataclass(frozen=True, slots=True)
class WriteBatchFrame:
    """A `WriteBoxBatchRequest`."""

    boxes: Sequence[WriteFrame]

    def encode(self) -> bytes:
        """The message as the generated class would write it."""
        return b"".join(_repeated(_BATCHED_WRITES, (_pieces(box.header, box.data) for box in self.boxes)))

    @classmethod
    def decode(cls, message: Bytes) -> WriteBatchFrame:
        """Read a message. The data of a box that is alone is a view of it.

        :raises DecodeError: it is not well-formed
        """
        rest, boxes = _take(message, _BATCHED_WRITES)
        if len(boxes) == 1:
            volume_pb2.WriteBoxBatchRequest.FromString(rest)  # judges what is unknown
            return cls((WriteFrame.decode(boxes[0]),))
        request = volume_pb2.WriteBoxBatchRequest.FromString(bytes(message))
        return cls(tuple(WriteFrame(box, box.data) for box in request.boxes))


@dataclass(frozen=True, slots=True)
class ReadBatchFrame:
    """A `ReadBoxBatchResponse`."""

    results: Sequence[ReadBoxesFrame]

    def encode(self) -> bytes:
        """The message as the generated class would write it."""
        results = (result.pieces() for result in self.results)
        return b"".join(_repeated(_BATCHED_READS, results))

    @classmethod
    def decode(cls, message: Bytes) -> ReadBatchFrame:
        """Read a message. The data of its boxes is a view of it.

        :raises DecodeError: it is not well-formed
        """
        rest, results = _take(message, _BATCHED_READS)
        volume_pb2.ReadBoxBatchResponse.FromString(rest)  # judges what is unknown
        return cls(tuple(ReadBoxesFrame.decode(result) for result in results))


# -- writing -----------------------------------------------------------------------------------------------------------


def _pieces(header: Message | None, data: Bytes) -> list[Bytes]:
    """What a message that carries voxels consists of."""
    pieces: list[Bytes] = [] if header is None else [header.SerializeToString()]
    if data:
        pieces += (_front(_DATA, len(data)), data)
    return pieces


def _nested_pieces(index: int, box: list[Bytes]) -> list[Bytes]:
    """What a message with an index and a box consists of.

    :param box: what the box consists of
    """
    front = _front(_BOX, sum(len(piece) for piece in box))
    if index:
        # A negative number is written as that of 64 bits which is equal modulo 2^64.
        front = _encode_varint(_INDEX << 3 | _VARINT) + _encode_varint(index & (1 << 64) - 1) + front
    return [front, *box]


def _repeated(field: int, messages: Iterable[list[Bytes]]) -> Iterator[Bytes]:
    """What a field that has many messages consists of.

    :param messages: what each consists of
    """
    for pieces in messages:
        yield _front(field, sum(len(piece) for piece in pieces))
        yield from pieces


def _front(field: int, length: int) -> bytes:
    return _encode_varint(field << 3 | _LENGTH) + _encode_varint(length)


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# -- reading -----------------------------------------------------------------------------------------------------------


def _take(message: Bytes, field: int) -> tuple[bytes, list[memoryview]]:
    """Take a field out of a message.

    :param field: number of a field of type bytes or of a message
    :return: all other fields as they are, and the values of this one as views
    """
    view = memoryview(message)
    others: list[memoryview] = []
    values: list[memoryview] = []
    groups = 0
    at = 0
    while at < len(view):
        start = at
        key = view[at]
        at += 1
        if key > 0x7F:
            key, at = _decode_varint(view, start, _MAX_SHORT_VARINT_BYTES)
        kind = key & 7
        if kind == _LENGTH:
            length, at = _decode_varint(view, at, _MAX_SHORT_VARINT_BYTES)
            at += length
            if key >> 3 == field and not groups and at <= len(view):
                values.append(view[at - length : at])
                continue
        elif kind == _VARINT:
            _, at = _decode_varint(view, at, _MAX_VARINT_BYTES)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _START_GROUP:
            groups += 1
        elif kind == _END_GROUP and groups:
            groups -= 1
        else:
            raise DecodeError(f"wire type {kind} in a message")
        if at > len(view):
            raise DecodeError("a message ends within a field")
        others.append(view[start:at])
    return b"".join(others), values


def _flat(messages: Iterable[MoreT]) -> Iterator[MoreT]:
    for message in messages:
        if message.more:
            raise DecodeError("a message has `more` within `more`")
        yield message


def _outcome(message: volume_pb2.ReadBoxesResponse) -> ReadFrame | volume_pb2.BoxError:
    return message.error if message.HasField("error") else ReadFrame(message.box, message.box.data)


def _merged(messages: list[memoryview]) -> Bytes:
    return messages[0] if len(messages) == 1 else b"".join(messages)


def _decode_varint(message: memoryview, at: int, most: int) -> tuple[int, int]:
    value = 0
    for i in range(most):
        if at + i >= len(message):
            raise DecodeError("a message ends within a number")
        byte = message[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise DecodeError(f"a number in a message is longer than {most} bytes")
