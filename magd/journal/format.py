"""The bytes of a journal file, version 2.

A journal file is a sequence of records without gaps. The first is its HEAD, all others are WRITEs. A record is a
header of 64 bytes, its meta, and its data. Little-endian:

    [0:8]    magic, ab 4d 41 47 44 4a 0d 0a
    [8:10]   version of the format, 1 or 2
    [10]     kind: 1 HEAD, 2 WRITE
    [11]     where the data is: 0 here, 1 in a side file, 2 in parts (see `parts`; not in version 1)
    [12:16]  bytes of the meta
    [16:24]  epoch of the mag; the same in all records of a file
    [24:32]  number of the record; rises by one from record to record, over all journal files of the mag
    [32:40]  durable: every record up to this number was known to be on the disk when this one was written
    [40:48]  bytes of the data; 0 for a HEAD
    [48:56]  XXH3-64 of the data
    [56:64]  XXH3-64 of the bytes [0:56] and the meta, with the salt of the file as its seed; for a HEAD the seed is 0

Meta is compact JSON, all of it ASCII. Boxes are [x, y, z, size x, size y, size z], revisions [epoch, counter].

    HEAD     sequence     of the journal file; must agree with its name
             oldest       sequence of the oldest journal file that counts. One before it was retired, and is there
                          only because its removal did not reach the disk
             salt         drawn at random for each journal file
             void         [[first, last], ...]: records with these numbers, in earlier files, do not count. They were
                          lost, or stand again in this file
             incarnation, generation, revision, unsaved_box, boot_id, closed     as in `records.Head`
             dtype, channels, block_len, file_len, block_type                    as in `records.FileFormat`
             outcomes     [[request_id, fingerprint, epoch, counter, durability, unix time], ...]
    WRITE    id, fingerprint, box, extension, durability, revision, time         as in `records.WriteFacts`

The data of a WRITE are the voxels of its box: channels interleaved, x fastest.

The salt is what makes a record one of this file and of no other: neither what an older file left on the disk, nor
voxels that happen to be (or were made to be) a copy of a record have a checksum that fits.

Nothing here trusts what it reads: what is not exactly as above is `Invalid`, and never an exception.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

import numpy as np
import xxhash

from magd.acknowledgement import Durability
from magd.errors import InvalidRequest
from magd.geometry import BoundingBox, Box
from magd.journal.meta import (
    MAX_COUNT,
    WRONG,
    of_box,
    of_outcome,
    of_revision,
    to_bool,
    to_corners,
    to_count,
    to_dtype_name,
    to_int,
    to_list,
    to_outcome,
    to_range,
    to_revision,
    to_seconds,
    to_text,
    to_whole,
)
from magd.journal.records import FileFormat, Head, WriteFacts, WriteRecord
from magd.voxels import VoxelFormat

HEADER_BYTES: Final = 64
MAGIC: Final = b"\xabMAGDJ\r\n"
VERSION: Final = 2
"""Of what is written. Of version 1 everything can be read too."""
MAX_WRITE_META_BYTES: Final = 1 << 16
MAX_HEAD_META_BYTES: Final = 1 << 28

_HEADER: Final = struct.Struct("<8sHBBIQQQQQ")
_CHECKSUM: Final = struct.Struct("<Q")
_MAX_U64: Final = 2**64 - 1

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Numbers of records: first and last of each range, rising."""


class Place(IntEnum):
    """Where the data of a record is."""

    HERE = 0
    SIDE_FILE = 1
    PARTS = 2


class Kind(IntEnum):
    """What a record is."""

    HEAD = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class Invalid:
    """Bytes that are no record."""

    why: str


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """What the first 56 bytes of a record say."""

    kind: Kind
    place: Place
    meta_bytes: int
    epoch: int
    number: int
    durable: int
    data_bytes: int
    data_checksum: int


@dataclass(frozen=True, slots=True)
class FileStart:
    """The HEAD of a journal file, and what the file is among the others."""

    head: Head
    sequence: int
    oldest: int
    salt: int
    number: int
    durable: int
    void: Ranges


def voxel_bytes(record: WriteRecord, voxels: VoxelFormat) -> memoryview:
    """The data of a write as it goes into the journal. No copy is made if it lies in Fortran order.

    :raises ValueError: shape or dtype do not fit the box and the format
    """
    data = record.data
    if data.shape != (voxels.num_channels, *record.box.size) or data.dtype != voxels.dtype:
        raise ValueError(f"{data.dtype} {data.shape} is not a box {record.box} of {voxels}")
    return np.asfortranarray(data).reshape(-1, order="F").view(np.uint8).data


def checksum_of(data: bytes | bytearray | memoryview) -> int:
    """The checksum of data."""
    return xxhash.xxh3_64_intdigest(data)


# -- encoding ----------------------------------------------------------------------------------------------------------


def encode_head(start: FileStart) -> bytes:
    """The first record of a journal file, complete."""
    head = start.head
    meta = {
        "sequence": start.sequence,
        "oldest": start.oldest,
        "salt": start.salt,
        "void": start.void,
        "incarnation": head.incarnation,
        "generation": head.generation,
        "revision": of_revision(head.revision),
        "unsaved_box": of_box(head.unsaved_box),
        "boot_id": head.boot_id,
        "closed": head.closed,
        "dtype": head.format.voxels.dtype.name,
        "channels": head.format.voxels.num_channels,
        "block_len": head.format.block_len,
        "file_len": head.format.file_len,
        "block_type": head.format.block_type,
        "outcomes": [of_outcome(outcome) for outcome in head.outcomes],
    }
    text = _to_json(meta)
    header = RecordHeader(
        Kind.HEAD, Place.HERE, len(text), head.revision.epoch, start.number, start.durable, 0, checksum_of(b"")
    )
    return _encode(header, text, salt=0)


def encode_write(
    record: WriteFacts,
    start: FileStart,
    *,
    number: int,
    durable: int,
    data_bytes: int,
    data_checksum: int,
    place: Place,
) -> bytes:
    """Header and meta of a write; its data follows them, or is where `place` says.

    :param start: the HEAD of the file
    :raises InvalidRequest: the request id is too long
    """
    meta = {
        "id": record.request_id,
        "fingerprint": record.fingerprint,
        "box": of_box(record.box),
        "extension": of_box(record.extension),
        "durability": int(record.durability),
        "revision": of_revision(record.revision),
        "time": record.unix_time,
    }
    text = _to_json(meta)
    if len(text) > MAX_WRITE_META_BYTES:
        raise InvalidRequest(
            f"request_id of {len(record.request_id)} characters is too long for the journal",
            metadata={"field": "request_id", "value": record.request_id[:64]},
        )
    epoch = start.head.revision.epoch
    header = RecordHeader(Kind.WRITE, place, len(text), epoch, number, durable, data_bytes, data_checksum)
    return _encode(header, text, salt=start.salt)


def _to_json(meta: dict[str, Any]) -> bytes:
    return _JSON.encode(meta).encode("ascii")


_JSON: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _encode(header: RecordHeader, meta: bytes, *, salt: int) -> bytes:
    front = _HEADER.pack(
        MAGIC,
        VERSION,
        header.kind,
        header.place,
        header.meta_bytes,
        header.epoch,
        header.number,
        header.durable,
        header.data_bytes,
        header.data_checksum,
    )
    return front + _CHECKSUM.pack(_header_checksum(front, meta, salt)) + meta


# -- decoding ----------------------------------------------------------------------------------------------------------


def parse_header(data: bytes) -> RecordHeader | Invalid:
    """Read the 64 bytes at the start of a record. Whether the checksum fits is only known with the meta."""
    if len(data) < HEADER_BYTES:
        return Invalid(f"it ends after {len(data)} of the {HEADER_BYTES} bytes of a header")
    magic, version, kind, place, meta_bytes, epoch, number, durable, data_bytes, data_checksum = _HEADER.unpack_from(
        data
    )
    if magic != MAGIC:
        return Invalid("no record starts here")
    if version not in (1, VERSION):
        return Invalid(f"version {version} of the format is not known")
    if kind not in Kind.__members__.values() or place not in ((0, 1) if version == 1 else (0, 1, 2)):
        return Invalid(f"a record of kind {kind} with data at {place} is not known")
    if kind == Kind.HEAD and (place or data_bytes):
        return Invalid("a HEAD has no data")
    if meta_bytes > (MAX_HEAD_META_BYTES if kind == Kind.HEAD else MAX_WRITE_META_BYTES):
        return Invalid(f"{meta_bytes} bytes of meta are too many")
    if epoch > MAX_COUNT or number > MAX_COUNT:
        return Invalid(f"epoch {epoch} or number {number} cannot have been reached")
    if durable >= number:
        return Invalid(f"record {number} cannot know that record {durable} is durable")
    return RecordHeader(Kind(kind), Place(place), meta_bytes, epoch, number, durable, data_bytes, data_checksum)


def parse_head(header: RecordHeader, data: bytes) -> FileStart | Invalid:
    """Read the first record of a journal file.

    :param data: header and meta
    """
    fields = _parse_meta(header, Kind.HEAD, data, salt=0)
    if isinstance(fields, Invalid):
        return fields
    try:
        head = Head(
            incarnation=to_text(fields["incarnation"]),
            generation=to_count(fields["generation"]),
            revision=to_revision(fields["revision"]),
            format=FileFormat(
                VoxelFormat.of(to_dtype_name(fields["dtype"]), to_whole(fields["channels"])),
                to_whole(fields["block_len"]),
                to_whole(fields["file_len"]),
                to_whole(fields["block_type"]),
            ),
            unsaved_box=BoundingBox(*to_corners(fields["unsaved_box"])),
            outcomes=tuple(to_outcome(item) for item in to_list(fields["outcomes"])),
            boot_id=to_text(fields["boot_id"]),
            closed=to_bool(fields["closed"]),
        )
        sequence, oldest, salt = to_whole(fields["sequence"]), to_whole(fields["oldest"]), to_whole(fields["salt"])
        void = tuple(to_range(item) for item in to_list(fields["void"]))
    except WRONG as error:
        return Invalid(f"its meta is wrong: {error!r}")
    if head.revision.epoch != header.epoch:
        return Invalid(f"its revision is of epoch {head.revision.epoch}, the record of epoch {header.epoch}")
    if salt > _MAX_U64:
        return Invalid("its salt is too large")
    if oldest > sequence:
        return Invalid(f"journal file {sequence} cannot know that {oldest} is the oldest")
    ends = [end for first, last in void for end in (first, last)]
    if ends != sorted(ends) or (ends and ends[-1] >= header.number):
        return Invalid("the numbers it declares void are not in order")
    return FileStart(head, sequence, oldest, salt, header.number, header.durable, void)


def parse_write(header: RecordHeader, data: bytes, start: FileStart) -> WriteFacts | Invalid:
    """Read header and meta of a write. Its data is not looked at.

    :param data: header and meta
    :param start: the HEAD of the file
    """
    if header.epoch != start.head.revision.epoch:
        return Invalid(f"it is of epoch {header.epoch}, the file of epoch {start.head.revision.epoch}")
    fields = _parse_meta(header, Kind.WRITE, data, salt=start.salt)
    if isinstance(fields, Invalid):
        return fields
    try:
        facts = WriteFacts(
            request_id=to_text(fields["id"]),
            fingerprint=to_int(fields["fingerprint"]),
            box=Box(*to_corners(fields["box"])),
            extension=BoundingBox(*to_corners(fields["extension"])),
            durability=Durability(to_whole(fields["durability"])),
            revision=to_revision(fields["revision"]),
            unix_time=to_seconds(fields["time"]),
        )
    except WRONG as error:
        return Invalid(f"its meta is wrong: {error!r}")
    problem = facts.box.problem()
    if problem is not None:
        return Invalid(f"its box is wrong: {problem}")
    nbytes = start.head.format.voxels.nbytes(facts.box)
    if header.data_bytes != nbytes:
        return Invalid(f"it has {header.data_bytes} bytes of data for a box of {nbytes}")
    return facts


def _header_checksum(header: bytes, meta: bytes, salt: int) -> int:
    return xxhash.xxh3_64_intdigest(header + meta, seed=salt)


def _parse_meta(header: RecordHeader, kind: Kind, data: bytes, *, salt: int) -> dict[str, Any] | Invalid:
    text = data[HEADER_BYTES:]
    if header.kind != kind or len(text) != header.meta_bytes:
        return Invalid(f"it is no complete {kind.name}")
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    if checksum != _header_checksum(data[: _HEADER.size], text, salt):
        return Invalid("its checksum does not fit")
    try:
        fields = json.loads(text)
    except WRONG as error:
        return Invalid(f"its meta is no JSON: {error!r}")
    return fields if isinstance(fields, dict) else Invalid("its meta is no object")
