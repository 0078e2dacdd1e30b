"""Every call of the system that the journal makes fails once: what the caller is told is true.

For each operation and each of its calls: an error that says nothing was written is followed by the same operation,
and it works; one that says the outcome is unknown leaves a broken journal, which a rewrite mends. At any time a new
recovery finds everything that was appended.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from magd.acknowledgement import Durability
from magd.errors import DataLoss, DiskFull, MagdError, NotAllowed, Reason, Unavailable
from magd.geometry import Box
from magd.journal import journal_file
from magd.journal.journal import Journal
from magd.journal.places import journal_folder
from magd.journal.recovery import recover
from tests.journal.journal_data import FORMAT, make_head, make_write
from tests.journal.recorded_disk import RecordedDisk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from magd.journal.records import WriteRecord

LARGE = Box.of((0, 0, 0), (8, 8, 8))
FAULTS = (errno.EIO, errno.ENOSPC, 0)


class Lab:
    """A journal with two old writes, one of them not synced, and a disk whose calls can fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.disk = RecordedDisk(self.folder)
        self.in_memory: dict[int, WriteRecord] = {}
        self.counter = 0
        self.values: list[int] = []
        with self.disk.recording():
            self.journal = Journal.begin(self.folder, recover(self.folder, FORMAT), make_head())
            self.append()
            self.journal.sync()
            self.append(large=True)
        self.disk.calls.clear()

    def attempt(self, operation: Callable[[Lab], None]) -> MagdError | None:
        """Perform an operation, and say how it failed."""
        try:
            operation(self)
        except MagdError as error:
            return error
        finally:
            self.disk.faults = {}
        return None

    def append(self, *, large: bool = False) -> None:
        record = make_write(self.counter + 1, box=LARGE if large else None, durability=Durability.PROCESS)
        self.in_memory[self.journal.append(record)] = record
        self.counter += 1
        self.values.append(self.counter)

    def recovered(self) -> list[int]:
        return [int(write.read().data.flat[0]) for write in recover(self.folder, FORMAT).writes]


def append_small(lab: Lab) -> None:
    lab.append()


def append_large(lab: Lab) -> None:
    lab.append(large=True)


def sync(lab: Lab) -> None:
    assert lab.journal.sync() == lab.journal.last_number


def rotate(lab: Lab) -> None:
    lab.journal.rotate(make_head(1, lab.counter))


def rewrite(lab: Lab) -> None:
    lab.journal.rewrite(make_head(1, lab.counter), {})


@pytest.fixture(autouse=True)
def small_side_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 1000)


def calls_of(operation: Callable[[Lab], None], folder: Path) -> list[str]:
    folder.mkdir()
    lab = Lab(folder)
    with lab.disk.recording():
        operation(lab)
    lab.journal.close()
    return lab.disk.calls


@pytest.mark.parametrize("operation", [append_small, append_large, sync, rotate, rewrite])
def test_a_call_that_fails_is_told_truly_and_mended(tmp_path: Path, operation: Callable[[Lab], None]) -> None:
    calls = calls_of(operation, tmp_path / "first")
    assert calls, "it changes something"
    descriptors = len(os.listdir("/proc/self/fd"))
    for at, name in enumerate(calls):
        for code in FAULTS:
            if code == 0 and name != "pwritev":
                continue
            folder = tmp_path / f"{at}-{code}"
            folder.mkdir()
            lab = Lab(folder)
            before = list(lab.values)
            lab.disk.faults[at] = code
            with lab.disk.recording():
                error = lab.attempt(operation)
                assert error is None or code, "a short write is no failure"
                if isinstance(error, Unavailable):
                    assert error.reason is Reason.OUTCOME_UNKNOWN
                    assert lab.journal.broken
                    assert set(before) <= set(lab.recovered())
                    with pytest.raises(NotAllowed):
                        lab.append()
                    lab.journal.rewrite(make_head(1, lab.counter), dict(list(lab.in_memory.items())[:1]))
                elif error is not None:
                    assert isinstance(error, DiskFull if code == errno.ENOSPC else DataLoss)
                    assert error.metadata["file"].startswith(lab.folder)
                    assert lab.recovered() == before
                    assert not lab.journal.broken
                    operation(lab)
                assert not lab.journal.broken
                lab.append(large=True)
                assert lab.recovered() == lab.values
                assert lab.journal.sync() == lab.journal.durable
            assert lab.recovered() == lab.values
            lab.journal.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("operation", [append_small, append_large, rotate])
def test_two_calls_that_fail_in_a_row_are_told_truly_and_mended(
    tmp_path: Path, operation: Callable[[Lab], None]
) -> None:
    calls = calls_of(operation, tmp_path / "first")
    outcomes = set()
    for at in range(len(calls)):
        for distance in range(1, 4):
            folder = tmp_path / f"{at}-{distance}"
            folder.mkdir()
            lab = Lab(folder)
            before = list(lab.values)
            lab.disk.faults |= {at: errno.EIO, at + distance: errno.EIO}
            with lab.disk.recording():
                error = lab.attempt(operation)
                outcomes.add(type(error))
                assert set(before) <= set(lab.recovered())
                assert bool(lab.journal.broken) == isinstance(error, Unavailable)
                if lab.journal.broken:
                    lab.journal.rewrite(make_head(1, lab.counter), {})
                lab.append()
            assert lab.recovered() == lab.values
            lab.journal.close()
    assert Unavailable in outcomes


def test_a_rewrite_that_fails_can_be_tried_until_it_succeeds(tmp_path: Path) -> None:
    calls = calls_of(rewrite, tmp_path / "first")
    folder = tmp_path / "second"
    folder.mkdir()
    lab = Lab(folder)
    with lab.disk.recording():
        lab.disk.faults = {0: errno.EIO}
        with pytest.raises(Unavailable):
            lab.journal.sync()
        for at in range(len(calls)):
            lab.disk.faults = {len(lab.disk.calls) + at: errno.EIO}
            error = lab.attempt(rewrite)
            assert isinstance(error, Unavailable) == bool(lab.journal.broken)
            assert lab.recovered() == lab.values
        assert lab.journal.broken, "the last of the calls is made anew with each attempt"
        lab.journal.rewrite(make_head(1, lab.counter), lab.in_memory)
        lab.append()
        old = lab.journal.rotate(make_head(1, lab.counter))
        lab.journal.retire(old)
    assert lab.recovered() == []
    lab.journal.close()
    assert sum(name.endswith(".journal") for name in os.listdir(journal_folder(lab.folder))) == 1


def test_removing_files_that_fails_can_be_tried_again(tmp_path: Path) -> None:
    def lab_with_old_files(folder: Path) -> Lab:
        folder.mkdir()
        lab = Lab(folder)
        with lab.disk.recording():
            rotate(lab)
            lab.append(large=True)
            rotate(lab)
            lab.append()
        lab.disk.calls.clear()
        return lab

    lab = lab_with_old_files(tmp_path / "first")
    with lab.disk.recording():
        lab.journal.retire(lab.journal.old_files)
    assert lab.recovered() == [4]
    lab.journal.close()
    for at, name in enumerate(lab.disk.calls):
        lab = lab_with_old_files(tmp_path / str(at))
        lab.disk.faults[at] = errno.EIO
        with lab.disk.recording():
            error = lab.attempt(lambda lab: lab.journal.retire(lab.journal.old_files))
            assert (error is None) == (name == "rename"), "a side file that cannot be kept is removed"
            assert isinstance(error, Unavailable) == (name in ("fsync", "open"))
            found = lab.recovered()
            assert found == lab.values[-len(found) :], "older ones go first"
            kept = [4]
            if lab.journal.broken:
                with pytest.raises(NotAllowed):
                    lab.journal.retire(lab.journal.old_files)
                lab.journal.rewrite(make_head(1, lab.counter), {})
                kept = found  # written again with what is newer
            lab.journal.retire(lab.journal.old_files)
            assert lab.recovered() == kept
        lab.journal.close()


def test_a_file_that_could_not_be_removed_is_synced_like_the_others(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with lab.disk.recording():
        old = lab.journal.rotate(make_head(1, lab.counter))
        lab.disk.calls.clear()
        lab.disk.faults[0] = errno.EIO
        assert isinstance(lab.attempt(lambda lab: lab.journal.retire(old)), DataLoss)
        lab.append()
        lab.disk.calls.clear()
        assert lab.journal.sync() == lab.journal.last_number
        assert lab.disk.calls == ["fdatasync", "open", "fsync", "fdatasync", "fdatasync"], (
            "side file, its name, both files"
        )
    lab.journal.close()


def test_an_epoch_that_could_not_begin_is_found_or_not_and_the_next_one_begins(tmp_path: Path) -> None:
    def begin(lab: Lab, epoch: int) -> Journal:
        return Journal.begin(lab.folder, recover(lab.folder, FORMAT), make_head(epoch))

    def closed_lab(folder: Path) -> Lab:
        folder.mkdir()
        lab = Lab(folder)
        lab.journal.close()
        return lab

    lab = closed_lab(tmp_path / "first")
    with lab.disk.recording():
        begin(lab, 2).close()
    calls = [(at, name) for at, name in enumerate(lab.disk.calls)]
    assert {"open", "pwritev", "fdatasync", "rename", "fsync"} <= {name for _, name in calls}
    for at, name in calls:
        for code in FAULTS[: 3 if name == "pwritev" else 2]:
            lab = closed_lab(tmp_path / f"{at}-{code}")
            lab.disk.faults[at] = code
            with lab.disk.recording():
                error = lab.attempt(lambda lab: begin(lab, 2).close())
                assert (error is None) == (code == 0)
                assert error is None or isinstance(error, DiskFull | DataLoss | Unavailable)
                assert lab.recovered() == lab.values
                journal = begin(lab, 3)
                assert journal.durable == journal.last_number
            assert lab.recovered() == lab.values
            journal.close()


def test_a_journal_that_cannot_be_read_is_an_error_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path)
    lab.journal.close()

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("preadv", "fstat", "listdir"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(DataLoss) as failed:
                recover(lab.folder, FORMAT)
            assert failed.value.reason is Reason.IO_ERROR
            assert failed.value.metadata["file"].startswith(journal_folder(lab.folder))
