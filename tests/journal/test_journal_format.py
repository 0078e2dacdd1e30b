"""The bytes of a journal: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.errors import DataLoss
from magd.geometry import MAX_COORDINATE, BoundingBox, Box, Vec3
from magd.journal import journal_file
from magd.journal.format import (
    HEADER_BYTES,
    MAGIC,
    FileStart,
    Invalid,
    Place,
    RecordHeader,
    encode_head,
    encode_write,
    parse_head,
    parse_header,
    parse_write,
)
from magd.journal.journal import Journal
from magd.journal.places import journal_folder
from magd.journal.records import FileFormat, Head, Outcome, WriteFacts, facts_of
from magd.journal.recovery import recover
from magd.journal.scan import scan
from magd.voxels import VOXEL_DTYPES, VoxelFormat
from tests.journal.journal_data import FORMAT, VOXELS, make_head, make_write

if TYPE_CHECKING:
    from pathlib import Path

    from hypothesis.strategies import SearchStrategy

COUNTERS = st.integers(0, 2**62)
NUMBERS = st.integers(1, 2**62)
CORNERS = st.builds(Vec3, *[st.integers(-(2**40), 2**40)] * 3)
BOUNDING_BOXES = st.builds(BoundingBox, CORNERS, CORNERS)
REVISIONS = st.builds(Revision, COUNTERS, COUNTERS)
TIMES = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=40)
OUTCOMES = st.builds(
    Outcome,
    TEXTS,
    st.integers(-(2**70), 2**70),
    st.builds(Acknowledgement, REVISIONS, st.sampled_from(Durability)),
    TIMES,
)
VOXEL_FORMATS = st.builds(VoxelFormat.of, st.sampled_from(VOXEL_DTYPES), st.integers(1, 31))
FORMATS = st.builds(FileFormat, VOXEL_FORMATS, COUNTERS, COUNTERS, COUNTERS)
HEADS = st.builds(
    Head,
    incarnation=TEXTS,
    generation=COUNTERS,
    revision=REVISIONS,
    format=FORMATS,
    unsaved_box=BOUNDING_BOXES,
    outcomes=st.lists(OUTCOMES, max_size=5).map(tuple),
    boot_id=TEXTS,
    closed=st.booleans(),
)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    size = draw(st.builds(Vec3, *[st.integers(1, 2**20)] * 3))
    offset = [draw(st.integers(0, MAX_COORDINATE - extent)) for extent in size]
    return Box(Vec3(*offset), size)


@st.composite
def starts(draw: st.DrawFn, heads: SearchStrategy[Head] = HEADS) -> FileStart:
    number = draw(NUMBERS)
    ends = sorted(draw(st.lists(st.integers(0, number - 1), max_size=6, unique=True)))
    sequence = draw(COUNTERS)
    return FileStart(
        head=draw(heads),
        sequence=sequence,
        oldest=draw(st.integers(0, sequence)),
        salt=draw(st.integers(0, 2**64 - 1)),
        number=number,
        durable=draw(st.integers(0, number - 1)),
        void=tuple(zip(ends[::2], ends[1::2], strict=False)),
    )


FACTS = st.builds(
    WriteFacts,
    request_id=TEXTS,
    fingerprint=st.integers(-(2**70), 2**70),
    box=boxes(),
    extension=BOUNDING_BOXES,
    durability=st.sampled_from(Durability),
    revision=REVISIONS,
    unix_time=TIMES,
)
START = FileStart(make_head(), sequence=1, oldest=1, salt=99, number=1, durable=0, void=())


def encode(facts: WriteFacts, start: FileStart, number: int = 2, durable: int = 1) -> bytes:
    return encode_write(
        facts,
        start,
        number=number,
        durable=durable,
        data_bytes=start.head.format.voxels.nbytes(facts.box),
        data_checksum=5,
        place=Place.HERE,
    )


def decode_head(data: bytes) -> FileStart | Invalid:
    header = parse_header(data)
    return header if isinstance(header, Invalid) else parse_head(header, data)


def decode(data: bytes, start: FileStart) -> WriteFacts | Invalid:
    header = parse_header(data)
    return header if isinstance(header, Invalid) else parse_write(header, data, start)


@given(starts())
def test_a_head_is_read_as_it_was_written(start: FileStart) -> None:
    assert decode_head(encode_head(start)) == start


@given(FACTS, starts(), st.integers(0, 2**62 - 1))
def test_a_write_is_read_as_it_was_written(facts: WriteFacts, start: FileStart, durable: int) -> None:
    data = encode(facts, start, durable + 1, durable)
    header = parse_header(data)
    assert isinstance(header, RecordHeader)
    assert (header.number, header.durable, header.epoch) == (durable + 1, durable, start.head.revision.epoch)
    assert parse_write(header, data, start) == facts


@given(starts(), st.data())
def test_a_head_with_one_flipped_bit_is_none(start: FileStart, data: st.DataObject) -> None:
    encoded = bytearray(encode_head(start))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert isinstance(decode_head(bytes(encoded)), Invalid)


@given(FACTS, st.data())
def test_a_write_with_one_flipped_bit_is_none(facts: WriteFacts, data: st.DataObject) -> None:
    encoded = bytearray(encode(facts, START))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert isinstance(decode(bytes(encoded), START), Invalid)


@given(FACTS, st.data())
def test_a_write_that_is_cut_anywhere_is_none(facts: WriteFacts, data: st.DataObject) -> None:
    encoded = encode(facts, START)
    assert isinstance(decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))], START), Invalid)


@given(FACTS)
def test_a_write_belongs_to_the_file_it_was_written_to(facts: WriteFacts) -> None:
    encoded = encode(facts, START)
    other_epoch = replace(START, head=replace(START.head, revision=Revision(2, 0)))
    for other in (replace(START, salt=98), other_epoch):
        assert isinstance(decode(encoded, other), Invalid)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def seal(data: bytes, meta: bytes, salt: int) -> bytes:
    """Put other meta behind a header, with lengths and checksums that fit."""
    header = bytearray(data[:HEADER_BYTES])
    struct.pack_into("<I", header, 12, len(meta))
    struct.pack_into("<Q", header, 56, xxhash.xxh3_64_intdigest(bytes(header[:56]) + meta, seed=salt))
    return bytes(header) + meta


def spoil(fields: dict[str, Any], data: st.DataObject) -> bytes:
    key = data.draw(st.sampled_from(sorted(fields)))
    fields = {**fields, key: data.draw(JSON)}
    if data.draw(st.booleans()):
        del fields[key]
    return json.dumps(fields).encode()


@given(st.data())
def test_meta_that_somebody_made_up_is_never_an_exception(data: st.DataObject) -> None:
    head, write = encode_head(START), encode(make_write(1), START)
    kept = decode_head(seal(head, spoil(json.loads(head[HEADER_BYTES:]), data), 0))
    assert isinstance(kept, FileStart | Invalid)
    found = decode(seal(write, spoil(json.loads(write[HEADER_BYTES:]), data), START.salt), START)
    assert isinstance(found, WriteFacts | Invalid)


@pytest.mark.parametrize(
    "meta",
    [b"", b"{", b"[]", b"null", b"\xff", b"1" * 5000, b"[" * 5000, b'{"a":' * 5000, b"NaN", b'{"id":1e999}'],
    ids=lambda meta: repr(meta[:12]),
)
def test_meta_that_is_no_json_is_no_record(meta: bytes) -> None:
    assert isinstance(decode_head(seal(encode_head(START), meta, 0)), Invalid)
    assert isinstance(decode(seal(encode(make_write(1), START), meta, START.salt), START), Invalid)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (8, "<H", 3),
        (10, "<B", 0),
        (10, "<B", 3),
        (11, "<B", 3),
        (12, "<I", 2**32 - 1),
        (32, "<Q", 2),
        (40, "<Q", 2**63),
    ],
)
def test_header_fields_that_cannot_be_are_refused_although_the_checksum_fits(
    offset: int, layout: str, value: int
) -> None:
    data = bytearray(encode(make_write(1), START))
    struct.pack_into(layout, data, offset, value)
    struct.pack_into(
        "<Q", data, 56, xxhash.xxh3_64_intdigest(bytes(data[:56]) + bytes(data[HEADER_BYTES:]), seed=START.salt)
    )
    assert isinstance(decode(bytes(data), START), Invalid)


# -- whole files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def journal_of_five(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal file with five writes in one sync each; the last is not declared to be on the disk by anything."""
    mag = tmp_path_factory.mktemp("mag")
    journal = Journal.begin(str(mag), recover(str(mag), FORMAT), make_head())
    for counter in range(1, 6):
        journal.append(make_write(counter, box=Box.of((counter, 0, 0), (20 * counter, 2, 1))))
        journal.sync()
    journal.close()
    return (mag / ".magd" / "journal" / "0000000000000001.journal").read_bytes()


def recover_bytes(mag: Path, content: bytes) -> list[int] | DataLoss:
    """The values that come back, in order; or the damage that is reported."""
    folder = mag / ".magd" / "journal"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "0000000000000001.journal"
    path.write_bytes(content)
    try:
        writes = recover(str(mag), FORMAT).writes
    except DataLoss as error:
        return error
    for record in (write.read() for write in writes):
        assert record.box == Box.of((record.revision.counter, 0, 0), (20 * record.revision.counter, 2, 1))
        assert (record.data == record.revision.counter).all()
    return [write.revision.counter for write in writes]


def test_a_file_cut_anywhere_loses_the_last_writes_only_and_says_nothing_wrong(
    tmp_path: Path, journal_of_five: bytes
) -> None:
    head_bytes, *record_ends = [at.start() for at in re.finditer(MAGIC, journal_of_five)][1:]
    for end in range(0, len(journal_of_five), 3):
        found = recover_bytes(tmp_path, journal_of_five[:end])
        if end < head_bytes:
            assert isinstance(found, DataLoss)
        else:
            assert found == [number for number, record_end in enumerate(record_ends, 1) if record_end <= end]
    assert recover_bytes(tmp_path, journal_of_five) == [1, 2, 3, 4, 5]


def test_a_flipped_bit_in_what_is_declared_to_be_on_the_disk_is_damage(tmp_path: Path, journal_of_five: bytes) -> None:
    folder = tmp_path / ".magd" / "journal"
    assert recover_bytes(tmp_path, journal_of_five) == [1, 2, 3, 4, 5]
    last = scan(str(folder / "0000000000000001.journal")).writes[-1]
    last_record = journal_of_five.rindex(MAGIC)
    assert last.data_offset > last_record
    rng = np.random.default_rng(7)
    for at in range(0, len(journal_of_five), 3):
        content = bytearray(journal_of_five)
        content[at] ^= 1 << int(rng.integers(8))
        found = recover_bytes(tmp_path, bytes(content))
        if at < last_record:
            assert isinstance(found, DataLoss)
            assert found.metadata["file"] == str(folder / "0000000000000001.journal")
        else:
            assert found == [1, 2, 3, 4], "nobody can tell a damaged last record from one that was not finished"


def test_a_hole_among_writes_that_were_not_synced_costs_only_what_was_in_it(tmp_path: Path) -> None:
    journal = Journal.begin(str(tmp_path), recover(str(tmp_path), FORMAT), make_head())
    for counter in range(1, 6):
        journal.append(make_write(counter, box=Box.of((counter, 0, 0), (20 * counter, 2, 1))))
    journal.close()
    path = tmp_path / ".magd" / "journal" / "0000000000000001.journal"
    content = bytearray(path.read_bytes())
    third = scan(str(path)).writes[2]
    # Its header and meta, and the end of the one before.
    content[third.data_offset - 300 : third.data_offset + 5] = bytes(305)
    assert recover_bytes(tmp_path, bytes(content)) == [1, 4, 5]
    recovery = recover(str(tmp_path), FORMAT)
    assert recovery.notes[-1].endswith("the records 3 to 4 were not written completely")
    second = Journal.begin(str(tmp_path), recovery, make_head(2))
    for _ in range(2):
        second.append(make_write(9, epoch=2))
        second.sync()
    second.close()
    assert [write.revision.counter for write in recover(str(tmp_path), FORMAT).writes] == [1, 4, 5, 9, 9]


def test_a_copy_of_a_record_in_voxels_is_not_taken_for_one(tmp_path: Path) -> None:
    """A client writes the bytes of a journal file as voxels; then the record with them is torn."""
    voxels = VoxelFormat.of("uint8", 1)
    kind = replace(FORMAT, voxels=voxels)
    head = make_head(format=kind)
    journal = Journal.begin(str(tmp_path), recover(str(tmp_path), kind), head)
    start = scan(str(tmp_path / ".magd" / "journal" / "0000000000000001.journal")).start
    assert start is not None
    forged = make_write(66, box=Box.of((0, 0, 0), (4, 1, 1)), voxels=voxels)
    front = encode_write(
        forged,
        replace(start, salt=start.salt ^ 1),  # the client does not know it
        number=9,
        durable=8,
        data_bytes=4,
        data_checksum=xxhash.xxh3_64_intdigest(b"BBBB"),
        place=Place.HERE,
    )
    copy = front + b"BBBB"
    real = make_write(1, box=Box.of((0, 0, 0), (len(copy), 1, 1)), voxels=voxels)
    data = np.frombuffer(copy, np.uint8).reshape(1, -1, 1, 1)
    journal.append(replace(real, data=data))
    journal.append(make_write(2, voxels=voxels))
    journal.close()
    path = tmp_path / ".magd" / "journal" / "0000000000000001.journal"
    content = bytearray(path.read_bytes())
    content[content.index(b"request-1-1")] ^= 1
    path.write_bytes(content)
    assert [write.revision.counter for write in recover(str(tmp_path), kind).writes] == [2]


def test_what_an_older_file_left_behind_the_end_does_not_come_back(tmp_path: Path, journal_of_five: bytes) -> None:
    """A file system may show old blocks behind what it has written, when a file has grown and the power fails."""
    start = FileStart(make_head(2), sequence=1, oldest=1, salt=12, number=1, durable=0, void=())
    new_head = encode_head(start)
    old_records = journal_of_five[journal_of_five.index(MAGIC, 8) :]
    assert recover_bytes(tmp_path, new_head + old_records) == []
    again = encode_head(replace(start, head=make_head(1)))
    assert recover_bytes(tmp_path, again + old_records) == [], "the salt differs also where the epoch is the same"


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, MAGIC * 600])
def test_a_file_without_a_head_is_damage(tmp_path: Path, content: bytes) -> None:
    found = recover_bytes(tmp_path, content)
    assert isinstance(found, DataLoss)
    assert "HEAD" in found.message


def test_a_file_under_the_name_of_another_is_damage(tmp_path: Path) -> None:
    Journal.begin(str(tmp_path), recover(str(tmp_path), FORMAT), make_head()).close()
    folder = tmp_path / ".magd" / "journal"
    (folder / "0000000000000001.journal").rename(folder / "0000000000000004.journal")
    with pytest.raises(DataLoss, match="says it is journal file 1"):
        recover(str(tmp_path), FORMAT)


@pytest.mark.parametrize("damage", ["missing", "short", "long", "flipped"])
@pytest.mark.parametrize("is_synced", [False, True])
def test_damage_to_a_side_file_is_damage_to_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, is_synced: bool
) -> None:
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 100)
    journal = Journal.begin(str(tmp_path), recover(str(tmp_path), FORMAT), make_head())
    journal.append(make_write(1, box=Box.of((0, 0, 0), (8, 8, 8))))
    if is_synced:
        journal.sync()
    journal.append(make_write(2, box=Box.of((0, 0, 0), (1, 1, 1))))
    journal.close()
    side = tmp_path / ".magd" / "journal" / "0000000000000002.side"
    content = side.read_bytes()
    if damage == "missing":
        side.unlink()
    else:
        flipped = bytes([content[0] ^ 4]) + content[1:]
        side.write_bytes({"short": content[:-1], "long": content + b"\0", "flipped": flipped}[damage])
    if is_synced:
        with pytest.raises(DataLoss, match="record 2, which was on the disk"):
            recover(str(tmp_path), FORMAT)
    else:
        assert [write.revision.counter for write in recover(str(tmp_path), FORMAT).writes] == [2]


def test_voxels_that_change_after_they_were_found_are_not_returned(tmp_path: Path) -> None:
    journal = Journal.begin(str(tmp_path), recover(str(tmp_path), FORMAT), make_head())
    journal.append(make_write(1))
    journal.close()
    write = recover(str(tmp_path), FORMAT).writes[0]
    with open(write.path, "r+b") as file:
        file.seek(write.data_offset)
        file.write(b"?")
    with pytest.raises(DataLoss, match="not those that were written") as lost:
        write.read()
    assert lost.value.metadata["file"] == write.path


def test_a_journal_that_is_no_file_or_a_link_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / ".magd" / "journal"
    folder.mkdir(parents=True)
    path = folder / "0000000000000001.journal"
    path.mkdir()
    with pytest.raises(DataLoss, match="no regular file"):
        recover(str(tmp_path), FORMAT)
    path.rmdir()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataLoss) as refused:
        recover(str(tmp_path), FORMAT)
    assert refused.value.metadata["file"] == str(path)


def test_facts_of_a_record_are_all_it_says_but_its_voxels() -> None:
    record = make_write(1)
    facts = WriteFacts(**facts_of(record))
    assert facts.outcome == record.outcome
    assert not hasattr(facts, "data")
    assert VOXELS.nbytes(facts.box) == record.data.nbytes
    assert journal_folder("/mag") == "/mag/.magd/journal"
