"""The two messages that carry voxels, without the copies that protobuf would make of them.

`WriteBoxRequest` and `ReadBoxResponse` keep their voxels in `bytes data = 100`, after all other fields. Written
and read by hand, that field costs one copy where the generated classes make three to five; on the wire nothing
differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from magd.v1 import volume_pb2

_DATA_FIELD: Final = volume_pb2.WriteBoxRequest.DATA_FIELD_NUMBER
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class WriteFrame:
    """One message of a WriteBox stream: the header, the next bytes, or both."""

    header: volume_pb2.WriteBoxRequest | None
    data: memoryview | bytes

    def encode(self) -> bytes:
        """The message as `WriteBoxRequest` would serialize it."""
        header = b"" if self.header is None else self.header.SerializeToString()
        if not self.data:
            return header
        key = _encode_varint(_DATA_FIELD << 3 | _LENGTH)
        return b"".join((header, key, _encode_varint(len(self.data)), self.data))


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """One message of a ReadBox stream."""

    header: volume_pb2.ReadBoxResponse
    """Every field but `data`."""
    data: memoryview
    """The next bytes of the box: a view of the message."""

    @classmethod
    def decode(cls, message: bytes) -> ReadFrame:
        """Read a message.

        :raises ValueError: it is not a well-formed message
        """
        rest, data = _split(message)
        return cls(volume_pb2.ReadBoxResponse.FromString(rest), data)


def _split(message: bytes) -> tuple[bytes, memoryview]:
    """Take the data field out of a message: all other fields as bytes, and the data as a view.

    As in protobuf, the last of several data fields wins.
    """
    view = memoryview(message)
    others: list[memoryview] = []
    data = view[:0]
    at = 0
    while at < len(message):
        start = at
        key, at = _decode_varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _decode_varint(message, at)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _LENGTH:
            length, at = _decode_varint(message, at)
            at += length
            if key >> 3 == _DATA_FIELD and at <= len(message):
                data = view[at - length : at]
                continue
        else:
            raise ValueError(f"wire type {kind} in a message")
        if at > len(message):
            raise ValueError("a message ends within a field")
        others.append(view[start:at])
    return b"".join(others), data


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _decode_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(_MAX_VARINT_BYTES):
        if at + i >= len(message):
            raise ValueError("a message ends within a number")
        byte = message[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("a number in a message is longer than ten bytes")
