"""Reading one journal file, however it was left.

1. The first record must be the HEAD. A journal file gets its name only when its HEAD is on the disk, so a file
   without one is damaged.
2. Record after record is read and checked, data included. A record counts if all of it is as it should be and its
   number is above that of the one before.
3. Where there is none, the rest of the file is searched for the next one that counts, and reading goes on there. A
   file that was being written when the daemon or the machine stopped ends in such a place; whether more than that
   has happened is for `recovery` to judge, from the numbers that are missing.

Voxels are not kept: a `StoredWrite` says where they are. A file that cannot be read is an error, never a place where
no record is.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import xxhash

from magd.errors import DataLoss, os_errors_of
from magd.journal.format import (
    HEADER_BYTES,
    MAGIC,
    FileStart,
    Invalid,
    Place,
    RecordHeader,
    checksum_of,
    parse_head,
    parse_header,
    parse_write,
)
from magd.journal.parts import MAX_PARTS, check_parts, header_of, parts_of, read_layers
from magd.journal.places import linked_path, part_path, side_path, unsynced_path
from magd.journal.records import WriteFacts, WriteRecord, facts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.cubes.header import Header
    from magd.voxels import VoxelArray, VoxelFormat

_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWrite(WriteFacts):
    """A write that is in the journal."""

    number: int
    durable: int
    """Every record up to this number was on the disk when this one was written."""
    path: str
    """Of the journal file."""
    data_path: str
    """Of the file with the voxels: the journal file or a side file; the journal file if they are in parts."""
    data_offset: int
    data_checksum: int
    voxels: VoxelFormat
    parts: tuple[str, ...] = ()
    """Paths of the parts with the voxels; empty if they are elsewhere."""
    header: Header | None = None
    """What the parts are like."""

    @property
    def data_bytes(self) -> int:
        """What the voxels take in memory."""
        return self.voxels.nbytes(self.box)

    @property
    def is_in_side_file(self) -> bool:
        """Whether the voxels are in a file of their own."""
        return self.data_path != self.path

    def read(self) -> WriteRecord:
        """Read the voxels.

        :raises DataLoss: they are not what was written any more, or cannot be read
        """
        if self.parts:
            return self._read_parts()
        data = self.voxels.empty(self.box.size)
        buffer = data.reshape(-1, order="F").view("uint8").data
        with _Reader(self.data_path) as reader:
            count = reader.read_into(buffer, self.data_offset)
        if count < len(buffer) or checksum_of(buffer) != self.data_checksum:
            raise self._damaged(self.data_path)
        return WriteRecord(**facts_of(self), data=data)

    @property
    def mark_paths(self) -> tuple[str, ...]:
        """Of the marks that parts may be cube files by now, and hold newer voxels."""
        if not self.parts:
            return ()
        folder = os.path.dirname(self.path)
        return linked_path(folder, self.number), unsynced_path(folder, self.number)

    @property
    def is_linked(self) -> bool:
        """Whether it has parts that may be cube files by now, and hold newer voxels."""
        return any(os.path.lexists(path) for path in self.mark_paths)

    @property
    def was_synced(self) -> bool:
        """Whether its mark says that it is on the disk, and all before it."""
        return bool(self.parts) and os.path.lexists(self.mark_paths[0])

    def checksum_of_parts(self) -> int | None:
        """The checksum of the voxels in the parts; None if it says nothing any more.

        :raises FileNotFoundError: one is missing
        :raises DataLoss: one cannot be read, or is not what a part is
        """
        if self.is_linked:
            assert self.header is not None, "it is there with the parts"
            check_parts(self.parts, self.header)
            return None
        digest = xxhash.xxh3_64()
        for layers in self._layers():
            digest.update(layers.reshape(-1, order="F").view("uint8").data)
        return digest.intdigest()

    def _read_parts(self) -> WriteRecord:
        was_linked = self.is_linked  # the marks are removed after the parts, and maybe while they are read here
        data = self.voxels.empty(self.box.size)
        z = 0
        for layers in self._layers():
            end = z + layers.shape[3]
            data[..., z:end] = layers
            z = end
        buffer = data.reshape(-1, order="F").view("uint8").data
        if not (was_linked or self.is_linked) and checksum_of(buffer) != self.data_checksum:
            raise self._damaged(self.parts[0])
        return WriteRecord(**facts_of(self), data=data)

    def _layers(self) -> Iterator[VoxelArray]:
        assert self.header is not None, "it is there with the parts"
        return read_layers(self.parts, self.box, self.header)

    def _damaged(self, path: str) -> DataLoss:
        return DataLoss(
            f"{path} is damaged: the voxels of record {self.number} are not those that were written",
            metadata={"file": path},
        )


@dataclass(frozen=True, slots=True)
class Damage:
    """A place in a journal file where no record is."""

    offset: int
    why: str


@dataclass(frozen=True, slots=True)
class FileScan:
    """What is in one journal file."""

    path: str
    start: FileStart | None
    """The HEAD; None if it is not sound, and then nothing else is known."""
    writes: tuple[StoredWrite, ...]
    """All that count, in order."""
    damages: tuple[Damage, ...]

    @property
    def durable(self) -> int:
        """The highest number that a record of the file, or its mark, says to be on the disk."""
        declared = max((found.durable for found in (self.start, *self.writes) if found is not None), default=0)
        return max((declared, *(write.number for write in self.writes if write.was_synced)))


def scan(path: str) -> FileScan:
    """Read a journal file. What its records mean together with other files is not looked at.

    :raises FileNotFoundError: there is none
    :raises DataLoss: it is no regular file, or cannot be read
    """
    with _Reader(path) as reader:
        header = parse_header(reader.read(HEADER_BYTES, 0))
        if isinstance(header, Invalid):
            return FileScan(path, None, (), (Damage(0, header.why),))
        end = HEADER_BYTES + header.meta_bytes
        start = parse_head(header, reader.read(end, 0))
        if isinstance(start, Invalid):
            return FileScan(path, None, (), (Damage(0, start.why),))
        writes: list[StoredWrite] = []
        damages: list[Damage] = []
        last_number = start.number
        for found in _records(reader, start, end):
            if isinstance(found, Damage):
                damages.append(found)
            elif found.number <= last_number:
                damages.append(Damage(found.data_offset, f"record {found.number} follows record {last_number}"))
            else:
                writes.append(found)
                last_number = found.number
        return FileScan(path, start, tuple(writes), tuple(damages))


def _records(reader: _Reader, start: FileStart, offset: int) -> Iterator[StoredWrite | Damage]:
    """The writes from `offset` on, and the places between them where there is none."""
    folder = os.path.dirname(reader.path)
    while offset < reader.size:
        found = _parse_at(reader, start, offset)
        if isinstance(found, Invalid):
            yield Damage(offset, found.why)
            offset = _find_record(reader, start, offset + 1)
            continue
        header, facts = found
        end = offset + HEADER_BYTES + header.meta_bytes
        in_side_file, in_parts = header.place is Place.SIDE_FILE, header.place is Place.PARTS
        cubes = header_of(start.head.format) if in_parts else None
        if in_parts and cubes is None:
            yield Damage(offset, "its data is in parts, and the cube files are not raw")
            offset = end
            continue
        count = len(parts_of(facts.box, cubes)) if cubes is not None else 0
        if count > MAX_PARTS:
            yield Damage(offset, f"its data is in parts, and its box touches more than {MAX_PARTS} cube files")
            offset = end
            continue
        write = StoredWrite(
            **facts_of(facts),
            number=header.number,
            durable=header.durable,
            path=reader.path,
            data_path=side_path(folder, header.number) if in_side_file else reader.path,
            data_offset=0 if in_side_file else end,
            data_checksum=header.data_checksum,
            voxels=start.head.format.voxels,
            parts=tuple(part_path(folder, header.number, part) for part in range(count)),
            header=cubes,
        )
        why = _check_data(reader, write)
        yield write if why is None else Damage(offset, why)
        # The header is sound, so the record is as long as it says.
        offset = end if in_side_file or in_parts else end + header.data_bytes


def _parse_at(reader: _Reader, start: FileStart, offset: int) -> tuple[RecordHeader, WriteFacts] | Invalid:
    header = parse_header(reader.read(HEADER_BYTES, offset))
    if isinstance(header, Invalid):
        return header
    facts = parse_write(header, reader.read(HEADER_BYTES + header.meta_bytes, offset), start)
    return facts if isinstance(facts, Invalid) else (header, facts)


def _find_record(reader: _Reader, start: FileStart, offset: int) -> int:
    """The first place from `offset` on where a sound header and meta of a write of this file are; the end if none."""
    while offset < reader.size:
        piece = reader.read(_PIECE_BYTES, offset)
        at = piece.find(MAGIC)
        while at >= 0:
            if not isinstance(_parse_at(reader, start, offset + at), Invalid):
                return offset + at
            at = piece.find(MAGIC, at + 1)
        # The magic may lie across two pieces.
        offset += max(len(piece) - len(MAGIC) + 1, 1)
    return reader.size


def _check_data(reader: _Reader, write: StoredWrite) -> str | None:
    """What is wrong with the voxels of a write, or None."""
    if write.parts:
        try:
            checksum = write.checksum_of_parts()
        except FileNotFoundError:
            return "one of its parts is missing"
        except DataLoss as error:
            if "errno" in error.metadata:
                raise
            return error.message
        return None if checksum in (None, write.data_checksum) else "the checksum of its data does not fit"
    if not write.is_in_side_file:
        return reader.problem_of_data(write, reader.size - write.data_offset)
    try:
        with _Reader(write.data_path) as side:
            if side.size != write.data_bytes:
                return f"its side file has {side.size} instead of {write.data_bytes} bytes"
            return side.problem_of_data(write, side.size)
    except FileNotFoundError:
        return "its side file is missing"


class _Reader:
    """A file that is open for reading.

    :raises FileNotFoundError: it does not exist
    :raises DataLoss: it is no regular file, or cannot be read
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with os_errors_of(path):
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                self._fd = -1
        if self._fd < 0:
            raise FileNotFoundError(path)
        try:
            with os_errors_of(path):
                status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise DataLoss(f"{path} is no regular file", metadata={"file": path})
        except BaseException:
            os.close(self._fd)
            raise
        self.size = status.st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        buffer = bytearray(max(0, min(size, self.size - offset)))
        return bytes(buffer[: self.read_into(memoryview(buffer), offset)])

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer, as far as the file goes, and say how far that was."""
        done = 0
        with os_errors_of(self.path):
            while done < len(buffer):
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
                if count == 0:
                    break
                done += count
        return done

    def problem_of_data(self, write: StoredWrite, available: int) -> str | None:
        """What is wrong with the voxels of a write in this file, or None."""
        if write.data_bytes > available:
            return f"it has {max(0, available)} of its {write.data_bytes} bytes of data"
        digest = xxhash.xxh3_64()
        offset, rest = write.data_offset, write.data_bytes
        buffer = memoryview(bytearray(min(_PIECE_BYTES, rest)))
        while rest:
            piece = buffer[: min(len(buffer), rest)]
            if self.read_into(piece, offset) < len(piece):
                return "the file became shorter"
            digest.update(piece)
            offset += len(piece)
            rest -= len(piece)
        return None if digest.intdigest() == write.data_checksum else "the checksum of its data does not fit"
