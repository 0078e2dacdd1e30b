"""Data that is written to its side file while it arrives."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.errors import from_os_error
from magd.geometry import Box
from magd.journal import journal_file, staging
from magd.journal.journal import Journal
from magd.journal.places import journal_folder
from magd.journal.recovery import recover
from magd.journal.staging import Staging
from tests.journal.journal_data import FORMAT, make_head, make_write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.journal.records import WriteRecord

LARGE = Box.of((0, 0, 0), (20, 20, 10))


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 1000)


def begin(folder: Path) -> Journal:
    return Journal.begin(str(folder), recover(str(folder), FORMAT), make_head())


def arrive(staged: Staging, record: WriteRecord, piece: int = 999) -> Staging:
    data = record.data.reshape(-1, order="F").data.cast("B")
    for start in range(0, len(data), piece):
        staged.take(data[start : start + piece])
    return staged


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(journal_folder(str(folder))))


def check_recovered(folder: Path, record: WriteRecord) -> None:
    (write,) = recover(str(folder), FORMAT).writes
    assert write.is_in_side_file
    np.testing.assert_array_equal(write.read().data, record.data)


@pytest.mark.parametrize("sync", [False, True])
def test_the_file_becomes_the_side_file(tmp_path: Path, sync: bool) -> None:
    record = make_write(1, box=LARGE)
    recovery = recover(str(tmp_path), FORMAT)
    staged = arrive(Staging(str(tmp_path), sync=sync), record)  # before the journal is begun
    (name,) = names(tmp_path)
    inode = os.stat(os.path.join(journal_folder(str(tmp_path)), name)).st_ino
    journal = Journal.begin(str(tmp_path), recovery, make_head())
    journal.append(record, staged)
    journal.sync()
    staged.discard()  # not its own any more
    journal.close()
    assert names(tmp_path) == ["0000000000000001.journal", "0000000000000002.side"]
    assert os.stat(os.path.join(journal_folder(str(tmp_path)), "0000000000000002.side")).st_ino == inode
    check_recovered(tmp_path, record)


def test_when_the_mag_is_opened_anew_meanwhile_the_data_is_written_from_memory(tmp_path: Path) -> None:
    record = make_write(1, box=LARGE)
    staged = arrive(Staging(str(tmp_path), sync=False), record)
    journal = begin(tmp_path)  # takes the file for one that a crash left
    journal.append(record, staged)
    journal.close()
    assert names(tmp_path) == ["0000000000000001.journal", "0000000000000002.side"]
    check_recovered(tmp_path, record)


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    staged = arrive(Staging(str(tmp_path), sync=False), make_write(1, box=LARGE))
    assert len(names(tmp_path)) == 1
    staged.discard()
    staged.discard()
    assert names(tmp_path) == []


def test_without_a_folder_there_is_a_checksum_and_no_file(tmp_path: Path) -> None:
    record = make_write(1, box=LARGE)
    with_file, without = Staging(str(tmp_path), sync=False), Staging(None, sync=False)
    assert arrive(with_file, record).checksum == arrive(without, record).checksum
    journal = begin(tmp_path)
    journal.append(record, without)
    journal.close()
    check_recovered(tmp_path, record)


@pytest.mark.parametrize("call", ["open", "pwritev", "rename", "mkdir"])
def test_when_the_file_fails_the_data_is_written_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    record = make_write(1, box=LARGE)
    real = getattr(os, call)
    calls = 0

    def fail(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == (3 if call == "pwritev" else 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **options)

    if call == "rename":
        begin(tmp_path).close()  # which renames too
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        staged = Staging(str(tmp_path), sync=True)
        arrive(staged, record)
        if call == "rename":
            assert staged.adopt([str(tmp_path / "side")]) is None
    assert calls >= 1
    journal = Journal.begin(str(tmp_path), recover(str(tmp_path), FORMAT), make_head(2))
    journal.append(make_write(1, epoch=2, box=LARGE), staged)
    journal.sync()
    journal.close()
    assert not [name for name in names(tmp_path) if name.endswith("staged")]
    check_recovered(tmp_path, record)


def test_a_disk_that_is_too_full_for_all_of_it_gets_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def allocate(fd: int, offset: int, size: int, file: str) -> None:
        asked.append(size)
        raise from_os_error(OSError(errno.ENOSPC, "full"), file)

    monkeypatch.setattr(staging, "allocate", allocate)
    staged = Staging(str(tmp_path), sync=False, expected_bytes=12_345)
    assert asked == [12_345]
    assert names(tmp_path) == []
    record = make_write(1, box=LARGE)
    arrive(staged, record)
    assert names(tmp_path) == []
    with closing(begin(tmp_path)) as journal:
        journal.append(record, staged)
    check_recovered(tmp_path, record)


@pytest.mark.parametrize("sync", [False, True])
def test_the_disk_begins_while_data_arrives_if_it_has_to_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(staging, "start_writeback", lambda fd, offset, size: begun.append(fd))
    staged = Staging(str(tmp_path), sync=sync)
    record = make_write(1, box=LARGE)
    arrive(staged, record, piece=1000)
    assert len(begun) == (record.data.nbytes // 1000 if sync else 0)
    staged.discard()


def test_when_the_folder_was_exchanged_the_data_is_written_from_memory(tmp_path: Path) -> None:
    record = make_write(1, box=LARGE)
    mag = tmp_path / "mag"
    mag.mkdir()
    staged = arrive(Staging(str(mag), sync=False), record)
    mag.rename(tmp_path / "old")
    mag.mkdir()
    journal = begin(mag)
    journal.append(record, staged)
    journal.close()
    check_recovered(mag, record)
    assert len(names(tmp_path / "old")) == 1, "the next start would remove it"
    shutil.rmtree(tmp_path / "old")


def test_other_data_than_that_of_the_record_is_refused(tmp_path: Path) -> None:
    staged = arrive(Staging(str(tmp_path), sync=False), make_write(1, box=LARGE))
    journal = begin(tmp_path)
    with pytest.raises(ValueError, match="bytes of data arrived"):
        journal.append(make_write(1), staged)
    staged.discard()
    journal.close()


def test_an_append_that_fails_leaves_no_side_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_write(1, box=LARGE)
    journal = begin(tmp_path)
    staged = arrive(Staging(str(tmp_path), sync=False), record)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(journal_file, "write_all", fail)
        with pytest.raises(Exception, match="space"):
            journal.append(record, staged)
    staged.discard()
    assert names(tmp_path) == ["0000000000000001.journal"]
    journal.close()
