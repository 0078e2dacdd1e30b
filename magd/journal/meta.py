"""The values in the meta of records: what stands in JSON for them, and back.

Whatever JSON there is, each way back gives a value of the right kind, or raises one of `WRONG`.
"""

from __future__ import annotations

from typing import Any, Final

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.geometry import BoundingBox, Box, Vec3
from magd.journal.records import Outcome
from magd.voxels import VOXEL_DTYPES

MAX_COUNT: Final = 2**62
"""Of what only rises: it travels as a signed number of 64 bits, and has to go on rising."""

WRONG: Final = (ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What the ways back raise for meta that is not as it should be."""


def of_box(box: Box | BoundingBox) -> tuple[int, ...]:
    """A box: [x, y, z, size x, size y, size z]."""
    offset, size = box.offset, box.size
    return (offset.x, offset.y, offset.z, size.x, size.y, size.z)


def of_revision(revision: Revision) -> tuple[int, int]:
    """A revision: [epoch, counter]."""
    return (revision.epoch, revision.counter)


def of_outcome(outcome: Outcome) -> tuple[str, int, int, int, int, float]:
    """An outcome: [request_id, fingerprint, epoch, counter, durability, unix time]."""
    acknowledgement = outcome.acknowledgement
    revision = acknowledgement.revision
    durability = int(acknowledgement.durability)
    return (
        outcome.request_id,
        outcome.fingerprint,
        revision.epoch,
        revision.counter,
        durability,
        outcome.unix_time,
    )


def to_dtype_name(value: object) -> str:
    """The name of a dtype of voxels."""
    # numpy takes more texts for a dtype than that, and raises almost anything for the others.
    if value not in VOXEL_DTYPES:
        raise ValueError("it is not the name of a dtype")
    return to_text(value)


def to_corners(value: object) -> tuple[Vec3, Vec3]:
    """Offset and size of a box."""
    numbers = [to_int(item) for item in to_list(value)]
    if len(numbers) != 6:
        raise ValueError("a box has six numbers")
    return Vec3(*numbers[:3]), Vec3(*numbers[3:])


def to_revision(value: object) -> Revision:
    """A revision."""
    epoch, counter = to_list(value)
    return Revision(to_count(epoch), to_count(counter))


def to_range(value: object) -> tuple[int, int]:
    """The first and the last number of a range."""
    first, last = to_list(value)
    return to_whole(first), to_whole(last)


def to_outcome(value: object) -> Outcome:
    """An outcome."""
    request_id, fingerprint, epoch, counter, durability, unix_time = to_list(value)
    acknowledgement = Acknowledgement(to_revision([epoch, counter]), Durability(to_whole(durability)))
    return Outcome(to_text(request_id), to_int(fingerprint), acknowledgement, to_seconds(unix_time))


def to_list(value: object) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def to_text(value: object) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def to_bool(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def to_int(value: object) -> int:
    """A whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def to_whole(value: object) -> int:
    """A whole number that is not below 0."""
    number = to_int(value)
    if number < 0:
        raise ValueError(f"{number} is below 0")
    return number


def to_count(value: object) -> int:
    """A number that has risen from 0."""
    number = to_whole(value)
    if number > MAX_COUNT:
        raise ValueError(f"{number} cannot have been reached")
    return number


def to_seconds(value: object) -> float:
    """A time in seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no time")
    return float(value)
