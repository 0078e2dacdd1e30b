"""Finding out what a journal says, after a normal end, a crash, or a power loss. Nothing is changed on the disk.

1. The journal files are read in the order of their sequences (`scan`). Each must have a HEAD, of the same incarnation;
   numbers and epochs must rise from file to file. Files before the oldest one that the newest HEAD counts were retired:
   they are left out.
2. Records that a later HEAD declares void do not count; nor do those with numbers from the one of a later HEAD on. The
   append of such a record failed, and it was not there when the HEAD was written: what had cut it off did not reach
   the disk.
3. Numbers between the first HEAD and the last record that no record has are missing. If one of them was declared to
   be on the disk, by any record or HEAD, the journal is damaged: nothing is replayed, since the writes after it may
   stand on it. Others were being written when the machine stopped, and were promised to nobody: writes around them
   count, in their order.
4. The newest HEAD and the writes after it give the state of the mag: revision, outcomes, unsaved extension. Older
   writes are in that HEAD already; of them only the voxels are missing.
5. If the machine was started anew since the newest HEAD, and the journal was not closed before, writes that were
   acknowledged below DISK may be lost: without a trace, if they were the last ones.
6. A journal is applied only to cube files like those it was written for. Where the mag has others now (another program
   has converted it), a journal with anything to apply is an error. One with nothing is discarded, with a note: revision
   and outcomes go on from it, its files are leftovers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from magd.errors import DataLoss, os_errors_of
from magd.journal.parts import MAX_PARTS
from magd.journal.places import (
    boot_id,
    journal_folder,
    journal_path,
    linked_path,
    new_journal_path,
    parse_name,
    part_path,
    side_path,
    staged_path,
    unsynced_path,
)
from magd.journal.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from magd.journal.format import FileStart, Ranges
    from magd.journal.records import FileFormat, Head
    from magd.journal.scan import Damage, StoredWrite


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A journal file that is there."""

    path: str
    sequence: int
    number: int
    """Of its HEAD."""
    side_paths: tuple[str, ...]
    """Of the side files and parts that its records name, and of the marks that parts are linked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a journal says."""

    head: Head | None
    """The state of the mag: the newest HEAD, with the writes after it; its outcomes end with theirs. None if the mag
    has no journal."""
    writes: tuple[StoredWrite, ...]
    """What may not be in the cube files yet. To be applied in this order."""
    power_was_lost: bool
    """Whether writes acknowledged below DISK may be lost or torn."""
    notes: tuple[str, ...]
    """What is worth a line in the log."""

    files: tuple[StoredFile, ...]
    """The journal files that count, oldest first."""
    durable: int
    """Every record up to this number that counts was declared to be on the disk."""
    void: Ranges
    """The numbers of all records that do not count, and of all that are not declared to be on the disk."""
    next_number: int
    """Above all that were ever used, as far as that can be known."""
    next_sequence: int
    leftovers: tuple[str, ...]
    """Paths of files that a crash left and that do not count."""


def recover(mag_folder: str, format: FileFormat) -> Recovery:  # noqa: A002  # what it is called in a HEAD
    """Read the journal of a mag.

    :param format: what the cube files are like that the journal is to be applied to
    :raises DataLoss: it is damaged, belongs to other files, or cannot be read; `file` names the journal file
    """
    folder = journal_folder(mag_folder)
    names = _list(folder)
    files = _read_all(folder, [sequence for kind, sequence in names if kind == "journal"])
    for before, after in pairwise(files):
        _check_order(before, after)

    declared_void = [numbers for file in files for numbers in file.start.void]
    writes = [write for file in files for write in file.writes if not _contains(declared_void, write.number)]
    found_numbers = [number for file in files for number in file.numbers]
    side_numbers = [number for kind, number in names if kind not in ("journal", "journal.new", "staged")]
    next_number = max((0, *found_numbers, *(last for _, last in declared_void), *side_numbers)) + 1

    first_number, last_number = (found_numbers[0], found_numbers[-1]) if files else (next_number, 0)
    durable = max((file.durable for file in files), default=0)
    lost = _subtract(_gaps(found_numbers, first_number, last_number), declared_void)
    _check_promises(files, lost, durable)
    kept = [number for number in found_numbers if number <= durable and not _contains(declared_void, number)]

    named = {path for file in files for path in (file.path, *file.side_paths)}
    newest = files[-1] if files else None
    recovery = Recovery(
        head=None if newest is None else _merge(newest, writes),
        writes=tuple(writes),
        power_was_lost=newest is not None and _may_have_lost(newest),
        notes=tuple(
            [f"{file.path}, byte {damage.offset}: {damage.why}" for file in files for damage in file.damages]
            + [f"{folder}: the records {first} to {last} were not written completely" for first, last in lost]
        ),
        files=tuple(StoredFile(file.path, file.start.sequence, file.start.number, file.side_paths) for file in files),
        durable=durable,
        void=_gaps(kept, first_number, next_number - 1),
        next_number=next_number,
        next_sequence=max((number for kind, number in names if kind in ("journal", "journal.new")), default=0) + 1,
        leftovers=tuple(_leftovers(folder, names, named)),
    )
    others = [file for file in files if file.start.head.format != format]
    return _discard(recovery, others, files, format) if others else recovery


def _discard(
    recovery: Recovery,
    others: Sequence[_SoundFile],
    files: Sequence[_SoundFile],
    format: FileFormat,  # noqa: A002  # what it is called in a HEAD
) -> Recovery:
    """Go on without a journal that was written for other cube files, if nothing in it is to be applied."""
    head, path = recovery.head, others[-1].path
    assert head is not None, "there are journal files"
    which = f"it is for cube files of {others[-1].start.head.format}; those of the mag are of {format}"
    if recovery.writes or not head.unsaved_box.is_empty or any(file.damages for file in files):
        raise _damaged(path, which)
    return replace(
        recovery,
        head=replace(head, format=format, generation=head.generation + 1),
        notes=(*recovery.notes, f"{path} is discarded: {which}, and there is nothing in it to apply"),
        files=(),
        leftovers=(*recovery.leftovers, *(file.path for file in files)),
    )


@dataclass(frozen=True, slots=True)
class _SoundFile:
    path: str
    start: FileStart
    writes: tuple[StoredWrite, ...]
    damages: tuple[Damage, ...]
    durable: int

    @property
    def numbers(self) -> list[int]:
        return [self.start.number, *(write.number for write in self.writes)]

    @property
    def side_paths(self) -> tuple[str, ...]:
        return tuple(
            path
            for write in self.writes
            for path in (
                *((write.data_path,) if write.is_in_side_file else ()),
                *write.parts,
                *write.mark_paths,
            )
        )


def _list(folder: str) -> list[tuple[str, int]]:
    """What the journal's files are: kind, and sequence or number; rising."""
    with os_errors_of(folder):
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
    return sorted((parsed for name in names if (parsed := parse_name(name)) is not None), key=lambda item: item[1])


def _read_all(folder: str, sequences: list[int]) -> list[_SoundFile]:
    """The files that count, oldest first. The newest is read first: it says which they are."""
    if not sequences:
        return []
    newest = _read(folder, sequences[-1])
    files = [newest]
    for sequence in reversed([at for at in sequences[:-1] if at >= newest.start.oldest]):
        file = _read(folder, sequence)
        below = tuple(write for write in file.writes if write.number < files[0].start.number)
        files.insert(0, replace(file, writes=below))
    return files


def _read(folder: str, sequence: int) -> _SoundFile:
    path = journal_path(folder, sequence)
    found = scan(path)
    start = found.start
    if start is None:
        raise _damaged(path, f"its HEAD is not sound: {found.damages[0].why}")
    if start.sequence != sequence:
        raise _damaged(path, f"its HEAD says it is journal file {start.sequence}")
    return _SoundFile(path, start, found.writes, found.damages, found.durable)


def _check_order(before: _SoundFile, after: _SoundFile) -> None:
    if after.start.head.incarnation != before.start.head.incarnation:
        raise _damaged(after.path, f"it is of another incarnation of the mag than {before.path}")
    if after.start.head.revision.epoch < before.start.head.revision.epoch:
        raise _damaged(after.path, f"its epoch is below that of {before.path}")
    if after.start.number <= before.start.number:
        raise _damaged(
            after.path, f"it begins with record {after.start.number}, {before.path} with record {before.start.number}"
        )


def _check_promises(files: Sequence[_SoundFile], lost: Ranges, durable: int) -> None:
    """That no record is missing which was declared to be on the disk."""
    for first, _ in lost:
        if first <= durable:
            path = [file.path for file in files if file.start.number < first][-1]
            raise _damaged(path, f"record {first}, which was on the disk, is missing or not sound")


def _may_have_lost(newest: _SoundFile) -> bool:
    here = boot_id()
    if here and newest.start.head.boot_id == here:
        return False
    return not newest.start.head.closed or bool(newest.writes or newest.damages)


def _merge(newest: _SoundFile, writes: Iterable[StoredWrite]) -> Head:
    """The newest HEAD with the writes after it."""
    head = newest.start.head
    revision, unsaved_box = head.revision, head.unsaved_box
    outcomes = {outcome.request_id: outcome for outcome in head.outcomes}
    for write in writes:
        if write.number > newest.start.number:
            revision = max(revision, write.revision)
            unsaved_box = unsaved_box.union(write.extension)
        if write.request_id and (write.number > newest.start.number or write.request_id not in outcomes):
            outcomes.pop(write.request_id, None)  # so that the new one is the last
            outcomes[write.request_id] = write.outcome
    return replace(head, revision=revision, unsaved_box=unsaved_box, outcomes=tuple(outcomes.values()))


_PATHS: Final[dict[str, Callable[[str, int], str]]] = {
    "journal": journal_path,
    "journal.new": new_journal_path,
    "side": side_path,
    "linked": linked_path,
    "unsynced": unsynced_path,
    **{f"part{part}": partial(part_path, part=part) for part in range(MAX_PARTS)},
    "staged": staged_path,
}


def _leftovers(folder: str, names: Iterable[tuple[str, int]], named: set[str]) -> Iterator[str]:
    for kind, number in names:
        path = _PATHS[kind](folder, number)
        if path not in named:
            yield path


def _damaged(path: str, what: str) -> DataLoss:
    return DataLoss(f"{path} is damaged: {what}", metadata={"file": path})


# -- ranges of numbers -------------------------------------------------------------------------------------------------


def _contains(ranges: Iterable[tuple[int, int]], number: int) -> bool:
    return any(first <= number <= last for first, last in ranges)


def _gaps(numbers: Iterable[int], first: int, last: int) -> Ranges:
    """What is not among `numbers` from `first` to `last`. The numbers rise."""
    gaps: list[tuple[int, int]] = []
    for number in (*numbers, last + 1):
        if number > first:
            gaps.append((first, number - 1))
        first = number + 1
    return tuple(gaps)


def _subtract(ranges: Ranges, minus: Iterable[tuple[int, int]]) -> Ranges:
    """What is in `ranges`, and in none of `minus`."""
    for without_first, without_last in minus:
        pieces = [
            piece
            for first, last in ranges
            for piece in ((first, min(last, without_first - 1)), (max(first, without_last + 1), last))
            if piece[0] <= piece[1]
        ]
        ranges = tuple(pieces)
    return ranges
