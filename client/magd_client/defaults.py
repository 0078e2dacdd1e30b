"""What an offset or a size that a user leaves out means."""

from __future__ import annotations

from magd.errors import InvalidRequest, OutOfBounds, Reason
from magd.geometry import ORIGIN, Box, Vec3, Vec3Like


def vec3_of(field: str, value: Vec3Like) -> Vec3:
    """Three whole numbers, of what a user gave.

    :raises InvalidRequest: it is something else
    """
    try:
        return Vec3.of(value)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"{field}: {error}", metadata={"field": field, "value": value}) from None


def box_of(bounds: Box, offset: Vec3Like | None, size: Vec3Like | None) -> Box:
    """The box that a user means.

    :param bounds: what defaults come from, in voxels of the mag; may be empty
    :param offset: None: the corner of the bounds
    :param size: None: up to the end of the bounds
    :return: may be empty if the bounds are
    :raises InvalidRequest: one of them is not three whole numbers
    :raises OutOfBounds: the size is left out, and the offset is not inside the bounds
    """
    start = (ORIGIN if bounds.is_empty else bounds.offset) if offset is None else vec3_of("offset", offset)
    if size is not None:
        return Box(start, vec3_of("size", size))
    if offset is None:
        return bounds
    box = Box.between(start, bounds.end)
    if box.is_empty:
        raise OutOfBounds(
            f"no size is given, and offset {start} is not inside {bounds}",
            reason=Reason.OUTSIDE_BOUNDING_BOX,
            metadata={"field": "offset", "value": start, "limit": bounds},
        )
    return box


def check_possible(box: Box) -> None:
    """Refuse a box that no request may have.

    :raises InvalidRequest: offset below 0, size below 1, or an end beyond 2^31 - 1
    """
    problem = box.problem()
    if problem:
        raise InvalidRequest(
            f"box {box}: {problem}", reason=Reason.INVALID_BOX, metadata={"field": "box", "value": box}
        )


def check_inside(box: Box, limit: Box, what: str) -> None:
    """Refuse a box that leaves another.

    :param what: the other box, in words
    :raises OutOfBounds: it does
    """
    if not limit.contains(box):
        raise OutOfBounds(
            f"box {box} leaves {what} {limit}",
            reason=Reason.OUTSIDE_BOUNDING_BOX,
            metadata={"field": "box", "value": box, "limit": limit},
        )
