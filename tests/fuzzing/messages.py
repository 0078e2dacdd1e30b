"""Making up requests: every field of every message, from values at the edge of what is allowed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, volume_pb2, watch_pb2

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

METHODS: Final[dict[str, MethodDescriptor]] = {
    f"/{service.full_name}/{method.name}": method
    for module in (dataset_pb2, volume_pb2, operation_pb2, watch_pb2, maintenance_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every method of magd.v1, by its path."""

_NAMES: Final = (
    *("datasets/d", "datasets/d/layers/l", "datasets/d/layers/l/mags/1", "datasets/d/layers/c/mags/1"),
    *("datasets/d/layers/c", "datasets/edited", "datasets/edited/layers/color", "datasets/edited/layers/color/mags/1"),
    *("datasets/none", "datasets/d/layers/none", "datasets/d/layers/l/mags/2-2-1", "datasets/d/layers/l/mags/0"),
    *("", "/", "datasets/", "datasets/..", "datasets/d/layers/../mags/1", "datasets/d/", "datasets//layers/l"),
    *("datasets/.magd", "datasets/\0", "datasets/" + "x" * 300, "datasets/ü", "datasets/d/layers/l/mags/1/x"),
    *("operations/none", "operations/", "operations/a/b"),
)
_TEXTS: Final = (
    *("", "d", "e", "l", "c", "new", "1", "2-2-1", "1-1-1", "..", ".", ".hidden", "a/b", "a\0b", "ü", "x" * 300),
    *("nanometer", "nm", "{}", '{"a": 1}', "[]", "null", "NaN", "{" * 2000, '{"a":' * 400 + "1" + "}" * 400),
    *('{"a": 1e999}', '{"\\ud800": "\\ud800"}', "\ue000", "y" * 200_000),
)
_NUMBERS: Final = (0, 1, 2, 3, 4, 8, 16, 31, 32, 33, 100, 127, 128, 255, 256, 1000, 2**20, 2**31 - 2, 2**31 - 1)
_LARGE_NUMBERS: Final = (2**31, 2**32, 2**53, 2**62, 2**63 - 1)
_REALS: Final = (0.0, -0.0, 1.0, 11.24, -1.0, 1e-320, 1e308, math.inf, -math.inf, math.nan)
_SIZES: Final = (0, 1, 2, 63, 64, 65, 128, 512, 4096, 100_000)
_MOST_DEPTH: Final = 5


def request_of(method: str) -> type[Message]:
    """The class of the requests of a method."""
    return GetMessageClass(METHODS[method].input_type)


def draw_message(descriptor: Descriptor, random: random.Random, depth: int = 0) -> Message:
    """A message with most of its fields set to something."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if random.random() < 0.7:
            set_field(message, field, random, depth)
    return message


def change_message(message: Message, random: random.Random) -> None:
    """Give one field of a message, or of a message inside of it, another value, or none."""
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    if not fields:
        return
    field = random.choice(fields)
    inner = _messages_in(message, field)
    if inner and random.random() < 0.7:
        change_message(random.choice(inner), random)
    elif random.random() < 0.15:
        message.ClearField(field.name)
    else:
        set_field(message, field, random)


def set_field(message: Message, field: FieldDescriptor, random: random.Random, depth: int = 0) -> None:
    """Give a field a value of its type."""
    message.ClearField(field.name)
    if _is_repeated(field):
        for _ in range(random.choice((0, 1, 1, 2, 5)) if depth < _MOST_DEPTH else 0):
            if field.message_type is not None:
                getattr(message, field.name).add().CopyFrom(draw_message(field.message_type, random, depth + 1))
            else:
                getattr(message, field.name).append(_draw_value(field, random))
    elif field.message_type is not None:
        if depth < _MOST_DEPTH:
            getattr(message, field.name).CopyFrom(draw_message(field.message_type, random, depth + 1))
    else:
        setattr(message, field.name, _draw_value(field, random))


def _messages_in(message: Message, field: FieldDescriptor) -> Sequence[Message]:
    if field.message_type is None:
        return ()
    value: Any = getattr(message, field.name)
    if _is_repeated(field):
        return list(value)
    return [value] if message.HasField(field.name) else []


def _is_repeated(field: FieldDescriptor) -> bool:
    # `label` is deprecated in newer versions of protobuf, and `is_repeated` is missing in older ones.
    return field.has_presence is False and field.default_value == []


def _draw_value(field: FieldDescriptor, random: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return random.randbytes(random.choice(_SIZES))
        case FieldDescriptor.CPPTYPE_STRING:
            is_name = field.name in ("name", "parent", "resource") and random.random() < 0.9
            return random.choice(_NAMES if is_name else _TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return random.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return random.choice(_REALS)
        case FieldDescriptor.CPPTYPE_ENUM:
            return random.choice((*range(5), 5, 11, -1, 2**31 - 1))
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return random.choice(_NUMBERS)
        case FieldDescriptor.CPPTYPE_INT64:
            return random.choice((*_NUMBERS, *_LARGE_NUMBERS)) * random.choice((1, 1, 1, -1))
        case _:
            return random.choice(_NUMBERS) * random.choice((1, 1, 1, -1))
