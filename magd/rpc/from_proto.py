"""From the fields of requests to the values of the domain, each checked.

Every function takes the name of the field, so that an error can say which one is wrong and what it held. A
field that this version of the daemon does not do yet is refused, never ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from magd.acknowledgement import Durability, Revision
from magd.actors.downsampler import DownsampleRequest
from magd.actors.types import UNCHANGED, Bounds, Mask, Unchanged
from magd.catalog.names import LayerName, parse_resource
from magd.cubes.encode import check_level
from magd.cubes.header import BlockType
from magd.downsampling.plan import SamplingMode
from magd.errors import InvalidRequest, Reason, Unimplemented
from magd.geometry import BoundingBox, Box, Mag, Vec3
from magd.properties.forms import MAX_DEPTH, is_deeper
from magd.properties.model import LayerCategory, VoxelSize
from magd.rpc.enums import (
    BLOCK_TYPES,
    BOUNDS,
    CATEGORIES,
    DATA_TYPES,
    DOWNSAMPLING_METHODS,
    DURABILITIES,
    MASKS,
    SAMPLING_MODES,
)
from magd.v1 import types_pb2
from magd.voxels import VoxelFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from magd.cubes.encode import CompressionLevel
    from magd.properties.forms import JsonObject
    from magd.v1 import dataset_pb2, operation_pb2, volume_pb2

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000
MAX_REQUEST_ID_LENGTH: Final = 128

ValueT = TypeVar("ValueT")


def invalid(field: str, value: object, why: str, *, reason: Reason = Reason.INVALID_FIELD) -> InvalidRequest:
    """The error for a field with a value that can never be right."""
    return InvalidRequest(f"{field}: {why}", reason=reason, metadata={"field": field, "value": value})


def refuse(field: str) -> Unimplemented:
    """The error for a field, or a value of it, that this version does not do."""
    return Unimplemented(f"{field}: this version of magd does not do this yet", metadata={"field": field})


def is_lz4(encoding: types_pb2.Encoding) -> bool:
    """Whether parts may be encoded with LZ4.

    :raises Unimplemented: it is an encoding that this version does not know
    """
    if encoding in (types_pb2.ENCODING_UNSPECIFIED, types_pb2.ENCODING_RAW):
        return False
    if encoding != types_pb2.ENCODING_LZ4:
        raise refuse("encoding")
    return True


def is_c_order(order: types_pb2.Order) -> bool:
    """Whether the bytes of a box are in C order.

    :raises Unimplemented: it is an order that this version does not know
    """
    if order in (types_pb2.ORDER_UNSPECIFIED, types_pb2.ORDER_FORTRAN):
        return False
    if order != types_pb2.ORDER_C:
        raise refuse("order")
    return True


def resource_name(text: str, field: str = "name") -> str:
    """The name of a dataset, layer or mag, checked; empty if it is empty, which means everything."""
    return str(parse_resource(text, field=field)) if text else ""


def operation_name(text: str) -> str:
    """operations/{id}"""
    prefix, slash, identifier = text.partition("/")
    if prefix != "operations" or not slash or not identifier or "/" in identifier:
        raise invalid("name", text, "expected operations/{id}", reason=Reason.INVALID_NAME)
    return text


def request_id(text: str) -> str:
    """An id that the client chose, a UUID by custom; empty if it does not care."""
    if len(text) > MAX_REQUEST_ID_LENGTH:
        raise invalid("request_id", text, f"it has {len(text)} characters, more than {MAX_REQUEST_ID_LENGTH}")
    if not (text.isascii() and text.isprintable()):
        raise invalid("request_id", text, "it has characters that are not printable ASCII")
    return text


def box(request: Message, field: str = "box") -> Box:
    """A box of voxels of the addressed mag, which the request must have."""
    if not request.HasField(field):
        raise invalid(field, "", "it is missing", reason=Reason.INVALID_BOX)
    message: types_pb2.Box = getattr(request, field)
    value = Box(vec3(message.offset), vec3(message.size))
    problem = value.problem()
    if problem:
        raise invalid(field, value, problem, reason=Reason.INVALID_BOX)
    return value


def optional_box(request: Message, field: str = "box") -> Box | None:
    """A box, or None where the request has none."""
    return box(request, field) if request.HasField(field) else None


def bounding_box(message: types_pb2.BoundingBox, field: str) -> BoundingBox:
    """An extent in mag-1 voxels; a size of 0 means no data yet."""
    value = BoundingBox(vec3(message.offset), vec3(message.size))
    if min(value.size) < 0:
        raise invalid(field, value, f"size {value.size} is negative", reason=Reason.INVALID_BOX)
    problem = None if value.is_empty else Box(value.offset, value.size).problem()
    if problem:
        raise invalid(field, value, problem, reason=Reason.INVALID_BOX)
    return value


def vec3(message: types_pb2.Vec3) -> Vec3:
    """Three integers."""
    return Vec3(message.x, message.y, message.z)


def voxel_format(data_type: int, num_channels: int) -> VoxelFormat:
    """What one voxel is; both fields must be given."""
    dtype = _enum(DATA_TYPES, data_type, "data_type")
    try:
        return _format_of(dtype, num_channels)
    except ValueError as error:
        raise invalid("num_channels", num_channels, str(error)) from None


_format_of = lru_cache(maxsize=256)(VoxelFormat.of)


def category(value: int) -> LayerCategory:
    """What the values of a layer mean; must be given."""
    return _enum(CATEGORIES, value, "category")


def block_type(value: int) -> BlockType:
    """How blocks are stored, by default raw."""
    return _enum(BLOCK_TYPES, value, "block_type", BlockType.RAW)


def durability(value: int) -> Durability:
    """How durable an acknowledgement is, by default DISK."""
    return _enum(DURABILITIES, value, "durability", Durability.DISK)


def bounds(value: int) -> Bounds:
    """What to do outside of the bounding box, by default extend it."""
    return _enum(BOUNDS, value, "bounds", Bounds.EXTEND)


def mask(value: int) -> Mask:
    """Which voxels to change, by default all."""
    return _enum(MASKS, value, "mask", Mask.ALL)


def if_revision(request: volume_pb2.WriteBoxRequest) -> Revision | None:
    """The condition of a write, or None where it has none."""
    return revision(request.if_revision) if request.HasField("if_revision") else None


def compression_level(request: operation_pb2.CompressMagRequest) -> CompressionLevel:
    """How hard to try, by default "auto"."""
    match request.level.WhichOneof("level"):
        case "high":
            check_level(request.level.high)
            return request.level.high
        case "fast" if request.level.fast:
            return "fast"
        case "auto" if request.level.auto:
            return "auto"
        case None:
            return "auto"
        case kind:
            raise invalid(f"level.{kind}", "false", "it is chosen by the value true")


def downsampling(request: operation_pb2.DownsampleLayerRequest) -> DownsampleRequest:
    """Which coarser mags to build from which, and how."""
    return DownsampleRequest(
        layer=LayerName.parse(request.name),
        source=_named_mag("source_mag", request.source_mag) if request.source_mag else None,
        targets=tuple(_named_mag("target_mags", name) for name in request.target_mags),
        sampling_mode=_enum(SAMPLING_MODES, request.sampling_mode, "sampling_mode", SamplingMode.ANISOTROPIC),
        coarsest=_named_mag("coarsest_mag", request.coarsest_mag) if request.coarsest_mag else None,
        method=_enum(DOWNSAMPLING_METHODS, request.method, "method") if request.method else None,
        update=request.update,
        region=bounding_box(request.region, "region") if request.HasField("region") else None,
        changed_since=revision(request.changed_since) if request.HasField("changed_since") else None,
    )


def _named_mag(field: str, name: str) -> Mag:
    try:
        return Mag.of(name)
    except ValueError as error:
        raise invalid(field, name, str(error)) from None


def mag(factor: types_pb2.Vec3) -> Mag:
    """A downsampling factor."""
    try:
        return Mag.of(tuple(vec3(factor)))
    except ValueError as error:
        raise invalid("factor", vec3(factor), str(error)) from None


def voxel_size(message: dataset_pb2.VoxelSize) -> VoxelSize:
    """The size of a mag-1 voxel, each factor above 0; the unit is nanometer by default."""
    for axis, factor in (("x", message.x), ("y", message.y), ("z", message.z)):
        if not (0 < factor < math.inf):
            raise invalid(f"voxel_size.{axis}", factor, "it is not a number above 0")
    return VoxelSize(message.x, message.y, message.z, message.unit or "nanometer")


def revision(message: types_pb2.Revision) -> Revision:
    """The state of a mag's data."""
    return Revision(message.epoch, message.counter)


def json_object(request: Message, field: str) -> JsonObject | Unchanged | None:
    """A JSON object in a text field: UNCHANGED if the field is absent, None if it is empty."""
    if not request.HasField(field):
        return UNCHANGED
    text: str = getattr(request, field)
    if not text:
        return None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(field, text, f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid(field, text, "it is not a JSON object")
    if is_deeper(value, MAX_DEPTH // 2):
        raise invalid(field, text, f"it is nested more than {MAX_DEPTH // 2} levels deep")
    return value


def page_size(value: int) -> int:
    """How many entries a page has at most."""
    if not 0 <= value <= MAX_PAGE_SIZE:
        raise invalid("page_size", value, f"it is not in 0 to {MAX_PAGE_SIZE}")
    return value or DEFAULT_PAGE_SIZE


def page_token(listing: str, last: str) -> str:
    """A token from which the page after this entry can be found.

    :param listing: what is listed; a token of one listing is not one of another
    :param last: names the last entry of the page
    """
    return base64.urlsafe_b64encode(f"{listing}\0{last}".encode()).decode()


def page_start(listing: str, token: str) -> str | None:
    """The last entry of the page before, or None for the first page."""
    if not token:
        return None
    try:
        of, _, last = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("\0")
    except (binascii.Error, ValueError):
        of, last = "", ""
    if of != listing or not last:
        raise invalid("page_token", token, "it is not a next_page_token of this listing")
    return last


def _enum(values: Mapping[ValueT, int], number: int, field: str, default: ValueT | None = None) -> ValueT:
    """The value that an enum's number stands for; 0, unspecified, is the default if there is one."""
    if number == 0 and default is not None:
        return default
    for value, own in values.items():
        if own == number:
            return value
    why = "it must be given" if number == 0 else f"{number} is not a value of it"
    raise invalid(field, number, why)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON value")
