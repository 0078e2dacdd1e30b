"""Random lives of a mag with a journal, crashes at any point of them, and what must hold afterwards.

The mag is a row of cube files. A write fills a range of it with its own index, so that a voxel says which write it is
from; often it covers cube files wholly. On the recorded disk are the real journal and cube files, which are written
here. Beside them goes a model: what was appended, and what is known to be on the disk.

After a crash anywhere in the log the journal is recovered and checked:

1. Recovery reports no damage.
2. The writes that come back are whole (those whose parts are cube files may have newer voxels), were appended, come
   once, in the order of their records; none whose append was refused, and none that the model says were retired for
   good.
3. Applied to what the cube files hold, no voxel is older than the last write it must have: after a kill, the last
   that was appended; after a power loss, the last that was known to be on the disk. After a power loss, a write that
   was promised to outlive the process only, and whose parts were linked without a sync, may be torn.
4. Those writes have their outcomes, and the bounding box covers them; no outcome says DISK of a write that is lost.
5. A life goes on after it, and the same holds at the next crash.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magd.acknowledgement import Durability, Revision
from magd.atomic import fsync_folder
from magd.cubes import raw
from magd.cubes.block_copy import rows_of
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.layout import box_of_cube_file, split_by_cube_file
from magd.errors import MagdError, Reason, Unavailable
from magd.geometry import BoundingBox, Box, Vec3
from magd.journal import journal_file
from magd.journal.journal import Journal, OldFiles
from magd.journal.part_staging import PartStaging
from magd.journal.parts import copy_of, header_of
from magd.journal.records import FileFormat, Head, Outcome, WriteRecord
from magd.journal.recovery import Recovery, recover
from magd.journal.scan import StoredWrite
from magd.journal.spares import spares
from magd.journal.staging import Staging
from magd.voxels import VoxelFormat
from tests.journal.recorded_disk import Event, RecordedDisk, after_kill, after_power_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.voxels import VoxelArray

ROW = 200
REGION = 40
"""Writes lie in one fifth of the row or another, so that cube files are missing for some time, and writes overlap."""
SIDE_BYTES = 500
FORMAT = FileFormat(VoxelFormat.of("uint32", 2), 2, 2, 1)
CUBE_LEN = 4
_MEMORY = "/dev/shm"
"""What is lost is simulated, so the files themselves need no disk."""
_CALLS_FOR_FOLDERS = 6
_FAULTS = (errno.EIO, errno.ENOSPC, errno.EIO, 0)


class Violated(AssertionError):
    """A promise was broken."""


@dataclass
class Model:
    """What the test knows, at one time."""

    writes: dict[int, WriteRecord] = field(default_factory=dict)
    """By index, which rises."""
    appended: set[int] = field(default_factory=set)
    maybe: set[int] = field(default_factory=set)
    """Their append ended with an unknown outcome, or has not ended."""
    refused: set[int] = field(default_factory=set)
    durable: set[int] = field(default_factory=set)
    """On the disk: as a record; or in cube files that were synced, and no older record can come back over it."""
    retired: set[int] = field(default_factory=set)
    """Can come back no more."""
    unsynced: set[int] = field(default_factory=set)
    """Their parts may be cube files, without a sync."""
    torn: set[int] = field(default_factory=set)
    """A power loss may have torn them."""

    def copy(self) -> Model:
        return Model(
            dict(self.writes),
            set(self.appended),
            set(self.maybe),
            set(self.refused),
            set(self.durable),
            set(self.retired),
            set(self.unsynced),
            set(self.torn),
        )


def index_of(record: Any) -> int:
    return int(record.request_id)


class CubeFiles:
    """The cube files of the row: what `MagFiles` does, with calls that are recorded."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.dirty: dict[str, int] = {}
        """A descriptor of each, from before it was written: it hears of a failed sync by others."""
        self.replaced = 0
        header = header_of(FORMAT)
        assert header is not None
        self.header = header

    def path(self, index: int) -> str:
        return os.path.join(self.root, f"{index}.wkw")

    def write(self, box: Box, data: VoxelArray, later: Sequence[Box] = ()) -> None:
        """Write a box in place, into files that are made where they are missing.

        :param later: boxes that will be written after it: cube files that one of them covers are left out
        """
        rows = rows_of(data)
        for index, part in split_by_cube_file(box, CUBE_LEN):
            if any(other.contains(box_of_cube_file(index, CUBE_LEN)) for other in later):
                continue
            path = self.path(index.x)
            if not os.path.exists(path):
                temporary = self._free_temporary()
                fd = os.open(temporary, os.O_RDWR | os.O_CREAT)
                try:
                    raw.write_empty_file(fd, self.header, temporary)
                    os.fdatasync(fd)
                    os.rename(temporary, path)
                finally:
                    os.close(fd)
            self._add_dirty(path)
            with OpenCubeFile.of(os.open(path, os.O_RDWR), path, self.header) as file:
                raw.write_blocks(file, copy_of(part, box, rows, self.header))

    def are_missing(self, box: Box) -> bool:
        """Whether no cube file under a box is there."""
        return not any(os.path.exists(self.path(index.x)) for index, _ in split_by_cube_file(box, CUBE_LEN))

    def link(self, box: Box, paths: Sequence[str], *, synced: bool) -> bool:
        """Make parts cube files, also in place of those that the box covers.

        :param synced: the parts are on the disk
        :return: False: the box has to be written
        """
        try:
            for source, (index, part) in zip(paths, split_by_cube_file(box, CUBE_LEN), strict=True):
                target = self.path(index.x)
                if not os.path.exists(target):
                    os.link(source, target)
                    if not synced:
                        self._add_dirty(target)
                elif part != box_of_cube_file(index, CUBE_LEN):
                    return False
                elif not os.path.samefile(source, target):
                    temporary = self._free_temporary()
                    os.link(source, temporary)
                    os.rename(temporary, target)
                    if target in self.dirty:
                        os.close(self.dirty.pop(target))
                    self.replaced += 1
        except OSError:
            return False
        return True

    def _free_temporary(self) -> str:
        """A temporary name without what a crash, or an error, left there: it may be a part."""
        temporary = os.path.join(self.root, "tmp")
        if os.path.exists(temporary):
            os.unlink(temporary)
        return temporary

    def sync(self) -> None:
        """Bring everything to the disk. If it fails nobody may go on."""
        for path in sorted(self.dirty):
            os.fdatasync(self.dirty[path])
            os.close(self.dirty.pop(path))
        fsync_folder(self.root)

    def close(self) -> None:
        """The process is gone."""
        while self.dirty:
            os.close(self.dirty.popitem()[1])

    def _add_dirty(self, path: str) -> None:
        if path not in self.dirty:
            self.dirty[path] = os.open(path, os.O_RDWR)


def row_of(root: str) -> np.ndarray[Any, Any]:
    """What the cube files hold, which write each voxel is from; (x, y, z)."""
    files = CubeFiles(root)
    row = np.zeros((ROW, CUBE_LEN, CUBE_LEN), np.int64)
    for index in range(-(-ROW // CUBE_LEN)):
        path = files.path(index)
        if os.path.exists(path):
            part = box_of_cube_file(Vec3(index, 0, 0), CUBE_LEN)
            data = FORMAT.voxels.empty(part.size)
            with OpenCubeFile.of(os.open(path, os.O_RDONLY), path, files.header) as file:
                raw.read_blocks(file, copy_of(part, part, rows_of(data), files.header))
            row[part.offset.x : part.end.x] = data[0]
    return row


class Life:
    """A journal in use, from one crash to the next.

    :param fault_chance: of each action to have a call of the system fail in it
    """

    def __init__(self, disk: RecordedDisk, model: Model, rng: random.Random, fault_chance: float) -> None:
        self.disk = disk
        self.model = model
        self.rng = rng
        self.fault_chance = fault_chance
        self.journal: Journal | None = None
        self.files = CubeFiles(disk.root)
        self.is_over = False
        """A sync of the cube files failed: somebody else has to go on."""
        self.in_memory: dict[int, WriteRecord] = {}
        self.to_apply: list[tuple[int | None, WriteRecord | StoredWrite]] = []
        """In order; with the numbers of those that were appended in this life."""
        self.recovered: set[int] = set()
        """Indices of writes that were recovered, and whose journal files are there still."""
        self.linked = 0
        self.linked_unsynced = 0
        self.outcomes: dict[str, Outcome] = {}
        self.unsaved = BoundingBox.empty()
        self.epoch = 0
        self.counter = 0
        self.left: set[int] = set()
        """Indices of writes that were retired, and whose cube files were not synced."""
        self.retired_unsynced = 0
        self.checkpoint: tuple[OldFiles, int] | None = None
        """One that has begun: the files to retire, and the number of the last record in them."""

    def note(self) -> None:
        self.disk.note(self.model.copy())

    def head(self) -> Head:
        return Head(
            incarnation="i",
            generation=0,
            revision=Revision(self.epoch, self.counter),
            format=FORMAT,
            unsaved_box=self.unsaved,
            outcomes=tuple(self.outcomes.values()),
            boot_id="here",
        )

    def run(self, actions: int) -> None:
        self.note()
        with self.disk.recording():
            if not self._begin():
                return
            for _ in range(actions):
                if self.is_over:
                    break
                self._maybe_fail(len(self.disk.calls))
                self._act()
            self.disk.faults.clear()

    def _maybe_fail(self, first: int) -> None:
        if self.rng.random() < self.fault_chance:
            # Those of a box that arrives in parts are many.
            number = first + self.rng.randrange(self.rng.choice((6, 6, 60)))
            self.disk.faults[number] = self.rng.choice(_FAULTS)
            if self.rng.random() < 0.3:
                self.disk.faults[number + 1] = errno.EIO

    def end(self) -> None:
        """The process is gone: its descriptors are closed by the system."""
        self.files.close()
        if self.journal is not None:
            self.journal.close()

    def _begin(self) -> bool:
        recovery = recover(self.disk.root, FORMAT)
        if recovery.head is not None:
            self.epoch = recovery.head.revision.epoch
            self.unsaved = recovery.head.unsaved_box
            self.outcomes = {outcome.request_id: outcome for outcome in recovery.head.outcomes}
        self.epoch += 1
        # Not the making of the folders, which nothing can mend: without them there is no journal.
        self._maybe_fail(len(self.disk.calls) + _CALLS_FOR_FOLDERS)
        try:
            self.journal = Journal.begin(self.disk.root, recovery, self.head())
        except MagdError:
            return False
        finally:
            self.disk.faults.clear()
        known = {index_of(write) for write in recovery.writes if write.number <= recovery.durable}
        again = [write for write in recovery.writes if write.number > recovery.durable]
        self.in_memory = {number: write.read() for number, write in enumerate(again, recovery.next_number + 1)}
        self.to_apply = [(None, write) for write in recovery.writes]
        come_back = {index_of(write) for write in recovery.writes}
        self.recovered = known
        self.model.durable |= come_back - self.model.torn
        self.model.appended |= come_back - self.model.torn
        self.model.retired |= self.model.maybe - come_back
        self.model.maybe.clear()
        self.note()
        self.checkpoint = (self.journal.old_files, recovery.next_number - 1)
        if self.rng.random() < 0.5:
            self._end_checkpoint()
        return True

    def _flush(self) -> bool:
        """Bring what was appended into the cube files, in order.

        :return: whether all of it got there
        """
        assert self.journal is not None
        while self.to_apply:
            number, write = self.to_apply[0]
            is_done = False
            if number is not None and self.journal.has_parts(number) and not self.journal.broken:
                is_done = self._link(number, write.box)
            if not is_done:
                try:
                    record = write.read() if isinstance(write, StoredWrite) else write
                    self.files.write(record.box, record.data, self._boxes_in_parts_after(write))
                except (OSError, MagdError):
                    self.note()
                    return False
            self.to_apply.pop(0)
            self.note()
        return True

    def _link(self, number: int, box: Box) -> bool:
        assert self.journal is not None
        record = self.in_memory[number]
        unsynced = number > self.journal.durable and self._needs_no_sync(record)
        if unsynced:
            self.model.unsynced.add(index_of(record))
            self.note()  # from its mark on, which is made now
        else:
            self._sync_before_link(number)
        paths = self.journal.link([number], unsynced=[number] if unsynced else ()).get(number)
        self.note()
        is_done = paths is not None and self.files.link(box, paths, synced=not unsynced)
        self.linked += is_done
        self.linked_unsynced += is_done and unsynced
        return is_done

    def _needs_no_sync(self, record: WriteRecord) -> bool:
        return record.durability is Durability.PROCESS and self.files.are_missing(record.box)

    def _boxes_in_parts_after(self, write: WriteRecord | StoredWrite) -> list[Box]:
        """Of recovered writes that follow: their parts may be cube files."""
        at = next(at for at, (_, other) in enumerate(self.to_apply) if other is write)
        return [after.box for _, after in self.to_apply[at + 1 :] if isinstance(after, StoredWrite) and after.parts]

    def _sync_before_link(self, number: int) -> None:
        assert self.journal is not None
        if number > self.journal.durable:
            self._sync()

    def _write_unjournaled(self) -> None:
        """A write that nothing is promised of."""
        if not self._flush():
            return
        record = self._draw()
        self.model.retired.add(index_of(record))
        self.note()
        try:
            self.files.write(record.box, record.data)
        except (OSError, MagdError):
            pass
        self.note()

    def _act(self) -> None:
        journal = self.journal
        assert journal is not None
        if journal.broken:
            self._rewrite()
            return
        action = self.rng.random()
        if action < 0.5:
            self._append()
            if self.rng.random() < 0.2:
                self._flush()
        elif action < 0.58:
            self._flush()
        elif action < 0.62:
            self._write_unjournaled()
        elif action < 0.84:
            self._sync()
        elif action < 0.94:
            self._checkpoint()
        else:
            self._end_checkpoint()

    def _draw(self) -> WriteRecord:
        index = len(self.model.writes) + 1
        size = self.rng.choice((1, 3, 8, 12, 20))
        start = self.rng.randrange(ROW // REGION) * REGION + self.rng.randrange(REGION - size)
        if self.rng.random() < 0.5:
            start -= start % CUBE_LEN
        box = Box.of((start, 0, 0), (size, CUBE_LEN, CUBE_LEN))
        data = FORMAT.voxels.empty(box.size)
        data[0], data[1] = index, self.rng.getrandbits(31)
        record = WriteRecord(
            request_id=str(index),
            fingerprint=index,
            box=box,
            extension=BoundingBox(box.offset, box.size),
            durability=self.rng.choice((Durability.DISK, Durability.PROCESS, Durability.PROCESS)),
            revision=Revision(self.epoch, self.counter + 1),
            unix_time=float(index),
            data=data,
        )
        self.model.writes[index] = record
        return record

    def _append(self) -> None:
        assert self.journal is not None
        record = self._draw()
        index = index_of(record)
        self.model.maybe.add(index)
        self.note()
        try:
            number = self.journal.append(record, self._stage(record))
        except Unavailable as error:
            if error.reason is not Reason.OUTCOME_UNKNOWN or not self.journal.broken:
                raise Violated("an append with an unknown outcome says so, and breaks the journal") from error
        except MagdError:
            self.model.maybe.discard(index)
            self.model.refused.add(index)
        else:
            self.counter += 1
            self.model.maybe.discard(index)
            self.model.appended.add(index)
            self.in_memory[number] = record
            self.to_apply.append((number, record))
            self.outcomes[record.request_id] = record.outcome
            self.unsaved = self.unsaved.union(record.extension)
        self.note()

    def _stage(self, record: WriteRecord) -> Staging | None:
        """Have the data arrive piece by piece; also that of a write that does not come to its end."""
        while (chance := self.rng.random()) < 0.7:
            sync = self.rng.random() < 0.5
            expected = record.data.nbytes if record.data.nbytes > SIDE_BYTES else 0
            staging: Staging
            if expected and self.rng.random() < 0.8:
                sync = record.durability is Durability.DISK
                staging = PartStaging(self.disk.root, record.box, self.files.header, sync=sync)
                staging.attach(record.data)
            else:
                staging = Staging(self.disk.root, sync=sync, expected_bytes=expected)
            data = record.data.reshape(-1, order="F").data.cast("B")
            size = self.rng.randrange(1, len(data) + 1)
            for start in range(0, len(data), size):
                staging.take(data[start : start + size])
                self.note()
            if chance < 0.6:
                return staging
            staging.discard()
            self.note()
        return None

    def _sync(self) -> None:
        assert self.journal is not None
        try:
            number = self.journal.sync()
        except Unavailable:
            assert self.journal.broken
            number = self.journal.durable
        self._is_durable(number)

    def _is_durable(self, number: int) -> None:
        indices = {index_of(record) for at, record in self.in_memory.items() if at <= number}
        self.model.durable |= indices - self.model.torn - self.left
        self.note()

    def _rewrite(self) -> None:
        assert self.journal is not None
        some = {number: record for number, record in self.in_memory.items() if self.rng.random() < 0.7}
        try:
            number = self.journal.rewrite(self.head(), some)
        except Unavailable:
            assert self.journal.broken
        else:
            assert not self.journal.broken
            assert number == self.journal.last_number
            self.checkpoint = None  # what is retired next are all files before this one
            self._is_durable(number)

    def _checkpoint(self) -> None:
        assert self.journal is not None
        try:
            old = self.journal.rotate(self.head())
        except MagdError:
            return
        self.checkpoint = (old, self.journal.last_number - 1)
        if self.rng.random() < 0.5:
            self._end_checkpoint()

    def _must_sync(self, indices: set[int]) -> bool:
        """Whether anything that is to be retired was promised to be on the disk."""
        return any(
            index in self.model.durable or self.model.writes[index].durability is Durability.DISK for index in indices
        )

    def _end_checkpoint(self) -> None:
        """Bring what old files hold into the cube files, and to the disk as far as that was promised; then remove
        them."""
        if self.checkpoint is None:
            return
        assert self.journal is not None
        old, last = self.checkpoint
        indices = self.recovered | {index_of(record) for number, record in self.in_memory.items() if number <= last}
        if not self._flush():
            return
        synced = self._must_sync(indices) or self.rng.random() < 0.3
        if synced:
            try:
                self.files.sync()
            except OSError:
                self.is_over = True
                self.note()
                return
            self.model.durable |= self.left - self.model.torn
            self.left = set()
            self.note()
        else:
            # From here on: should it fail to remove all files, it may have removed theirs.
            self.left |= indices
        try:
            self.journal.retire(old)
        except MagdError:
            return
        self.checkpoint = None
        self.recovered = set()
        self.model.retired |= indices
        if synced:
            # Not before: records before theirs might come back over them.
            self.model.durable |= indices - self.model.torn
        else:
            self.retired_unsynced += 1
        self.in_memory = {number: record for number, record in self.in_memory.items() if number > last}
        self.note()


@dataclass
class Tally:
    """How much was tried."""

    lives: int = 0
    kills: int = 0
    power_losses: int = 0
    linked: int = 0
    """Writes whose parts became cube files."""
    retired_unsynced: int = 0
    """Checkpoints without a sync of the cube files."""
    linked_unsynced: int = 0
    """Of these, those without a sync."""
    replaced: int = 0
    """Cube files in whose place parts came."""


def check(recovery: Recovery, model: Model, base: np.ndarray[Any, Any], required: set[int]) -> None:
    """That a recovery keeps what was promised.

    :param base: what the cube files hold
    :param required: the writes that must not be lost
    """
    last = 0
    row = base.copy()
    outcomes = {} if recovery.head is None else {outcome.request_id: outcome for outcome in recovery.head.outcomes}
    for stored in recovery.writes:
        record = stored.read()
        index = index_of(record)
        if index not in model.writes or not _is_whole(stored, record, model):
            raise Violated(f"write {index} is not what was appended")
        if index in model.refused or index in model.retired or index <= last:
            raise Violated(f"write {index} must not come here, after {last}")
        if outcomes.get(str(index)) != model.writes[index].outcome:
            raise Violated(f"write {index} has no outcome")
        last = index
        row[record.box.offset.x : record.box.end.x] = record.data[0]
    needed = np.zeros(row.shape, np.int64)
    for index in sorted(required):
        box = model.writes[index].box
        needed[box.offset.x : box.end.x] = index
        if outcomes.get(str(index)) != model.writes[index].outcome:
            raise Violated(f"write {index} has no outcome, and must not be lost")
        if recovery.head is None or not recovery.head.unsaved_box.contains(model.writes[index].extension):
            raise Violated(f"the bounding box does not cover write {index}")
        if model.writes[index].revision > recovery.head.revision:
            raise Violated(f"the revision is below that of write {index}")
    if (row < needed).any():
        raise Violated(f"voxels are older than they must be: {row[row < needed]} < {needed[row < needed]}")
    for request_id, outcome in outcomes.items():
        index = int(request_id)
        if index in model.refused:
            raise Violated(f"the refused write {index} has an outcome")
        box = model.writes[index].box
        is_there = (row[box.offset.x : box.end.x] >= index).all()
        if outcome.acknowledgement.durability is Durability.DISK and not is_there:
            raise Violated(f"write {index} has the outcome DISK and is lost")


def _is_whole(stored: StoredWrite, record: WriteRecord, model: Model) -> bool:
    """Whether voxels are those that were appended; where they may be those of a cube file, or newer."""
    index, written = index_of(record), model.writes[index_of(record)]
    if index in model.torn:
        return True
    # Where parts had been linked without a sync, newer voxels were written again with the record after a kill.
    if not stored.is_linked and index not in model.unsynced:
        return np.array_equal(record.data, written.data)
    if record.box != written.box:
        return False
    own = record.data[0] == index
    return bool((record.data[0] >= index).all()) and np.array_equal(record.data[:, own], written.data[:, own])


def run_scenario(
    seed: int, *, lives: int = 3, actions: int = 14, states: int = 40, fault_chance: float = 0.15
) -> Tally:
    """Live, crash in many ways, go on from one of them.

    :raises Violated: a promise was broken; the message has the seed
    """
    rng = random.Random(seed)
    tally = Tally()
    model = Model()
    with (
        tempfile.TemporaryDirectory(dir=_MEMORY if os.path.isdir(_MEMORY) else None) as scratch,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(journal_file, "SIDE_BYTES", SIDE_BYTES)
        patch.setattr(spares, "_wait", lambda: None)  # when they go is not to depend on how fast this is
        root = Path(scratch, "0")
        root.mkdir()
        disk = RecordedDisk(str(root))
        disk.start_from(root)
        for number in range(1, lives + 1):
            first = len(disk.log) + 1
            # The first life of two ends by a kill that leaves everything unsynced in the memory of the machine.
            for _ in range(rng.choice((1, 2))):
                life = Life(disk, model, rng, fault_chance)
                life.run(actions)
                life.end()
                tally.lives += 1
                tally.linked += life.linked
                tally.linked_unsynced += life.linked_unsynced
                tally.retired_unsynced += life.retired_unsynced
                tally.replaced += life.files.replaced
            ends = [rng.randrange(first, len(disk.log) + 1) for _ in range(states)]
            try:
                for at, end in enumerate(ends):
                    into = Path(scratch, f"{number}-{at}")
                    model = _crash(disk, end, into, rng, tally)
                    root = into
            except Exception as error:
                error.add_note(f"seed {seed}")
                raise
            spares.drop()  # the next life is that of another process
            disk = RecordedDisk(str(root))
            disk.start_from(root)
    return tally


def _crash(disk: RecordedDisk, end: int, into: Path, rng: random.Random, tally: Tally) -> Model:
    """Crash at `end` of the log, check, and say what is known then."""
    before = next(step.what for step in reversed(disk.log[:end]) if isinstance(step, Event))
    model: Model = before.copy()
    if rng.random() < 0.3:
        tally.kills += 1
        after_kill(disk, end, into, rng)
        required = model.appended
    else:
        tally.power_losses += 1
        after_power_loss(disk, end, into, rng, rng.choice((0.0, 0.1, 0.5, 0.9, 1.0)))
        required = model.durable
        model.torn |= model.unsynced - model.durable
    recovery = recover(str(into), FORMAT)
    check(recovery, model, row_of(str(into)), required)

    # What the next life starts with: this is on the disk for sure, and nothing else is.
    come_back = {index_of(write) for write in recovery.writes}
    model.retired |= set(model.writes) - come_back
    come_back -= model.torn
    model.maybe.clear()
    model.appended = required | come_back
    model.durable = required | come_back
    return model
