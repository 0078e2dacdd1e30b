"""Side files that are kept for the next large write."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.atomic import unlink_if_there
from magd.geometry import Box
from magd.journal import journal_file, spares
from magd.journal.journal import Journal
from magd.journal.places import journal_folder
from magd.journal.recovery import recover
from magd.journal.space import require_space
from magd.journal.spares import Spares
from magd.journal.staging import Staging
from tests.journal.journal_data import FORMAT, make_head, make_write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.journal.records import WriteRecord

SHORT, MIDDLE, LONG = (Box.of((0, 0, 0), (20, 20, z)) for z in (5, 10, 15))


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 1000)
    yield
    spares.spares.drop()


def begin(mag: Path) -> Journal:
    return Journal.begin(str(mag), recover(str(mag), FORMAT), make_head())


def staged_of(mag: Path, record: WriteRecord) -> Staging:
    staged = Staging(str(mag), sync=False, expected_bytes=record.data.nbytes)
    data = record.data.reshape(-1, order="F").data.cast("B")
    for start in range(0, len(data), 999):
        staged.take(data[start : start + 999])
    return staged


def checkpoint(journal: Journal, counter: int, *, closed: bool = False) -> None:
    journal.retire(journal.rotate(make_head(1, counter, closed=closed)))


def inodes(mag: Path, kind: str) -> list[int]:
    return [entry.inode() for entry in os.scandir(journal_folder(str(mag))) if entry.name.rpartition(".")[2] == kind]


def files(folder: Path, *sizes: int) -> list[str]:
    paths = [str(folder / f"{number:016}.side") for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        with open(path, "wb") as file:
            file.write(b"x" * size)
    return paths


def wait_for(kept: Spares) -> None:
    """Wait until what is to be removed now has been."""
    while kept._leaving:
        timer = kept._timer
        if timer is not None:
            timer.join()
    with kept._removing:
        pass


# -- in a journal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [SHORT, MIDDLE, LONG])
def test_the_next_large_write_writes_over_a_side_file_that_is_not_needed_any_more(tmp_path: Path, box: Box) -> None:
    with closing(begin(tmp_path)) as journal:
        journal.append(make_write(1, box=MIDDLE), staged_of(tmp_path, make_write(1, box=MIDDLE)))
        inode = inodes(tmp_path, "side")
        checkpoint(journal, 1)
        assert (inodes(tmp_path, "side"), inodes(tmp_path, "staged")) == ([], inode)
        record = make_write(2, box=box)
        journal.append(record, staged_of(tmp_path, record))
        assert (inodes(tmp_path, "side"), inodes(tmp_path, "staged")) == (inode, [])
        other = make_write(3, box=box)
        journal.append(other, staged_of(tmp_path, other))  # there is no second one
    writes = recover(str(tmp_path), FORMAT).writes
    for write, expected in zip(writes, (record, other), strict=True):
        np.testing.assert_array_equal(write.read().data, expected.data)
        assert os.path.getsize(write.data_path) == expected.data.nbytes


def test_after_a_crash_a_kept_file_is_removed(tmp_path: Path) -> None:
    with closing(begin(tmp_path)) as journal:
        journal.append(make_write(1, box=MIDDLE))
        checkpoint(journal, 1)
        journal.append(make_write(2))
    assert len(inodes(tmp_path, "staged")) == 1
    recovery = recover(str(tmp_path), FORMAT)
    assert [write.read().data.flat[0] for write in recovery.writes] == [2]
    journal = Journal.begin(str(tmp_path), recovery, make_head(2))
    assert inodes(tmp_path, "staged") == []
    # It is as if the new process had kept nothing.
    record = make_write(1, epoch=2, box=MIDDLE)
    journal.append(record, staged_of(tmp_path, record))
    journal.close()
    (_, write) = recover(str(tmp_path), FORMAT).writes
    np.testing.assert_array_equal(write.read().data, record.data)


def test_after_a_crash_over_a_kept_file_the_records_before_are_whole(tmp_path: Path) -> None:
    with closing(begin(tmp_path)) as journal:
        journal.append(make_write(1, box=MIDDLE))
        checkpoint(journal, 1)
        journal.append(make_write(2, box=MIDDLE))
        staged_of(tmp_path, make_write(3, box=LONG))  # has no record yet
    (write,) = recover(str(tmp_path), FORMAT).writes
    np.testing.assert_array_equal(write.read().data, make_write(2, box=MIDDLE).data)


def test_what_was_recovered_is_not_kept(tmp_path: Path) -> None:
    with closing(begin(tmp_path)) as journal:
        journal.append(make_write(1, box=MIDDLE))
        journal.sync()
        journal.append(make_write(2))  # says that the first one is on the disk: it is not written again
    with closing(Journal.begin(str(tmp_path), recover(str(tmp_path), FORMAT), make_head(2))) as journal:
        assert len(inodes(tmp_path, "side")) == 1
        journal.retire(journal.old_files)
        assert (inodes(tmp_path, "side"), inodes(tmp_path, "staged")) == ([], [])


def test_a_journal_that_ends_keeps_nothing(tmp_path: Path) -> None:
    with closing(begin(tmp_path)) as journal:
        journal.append(make_write(1, box=MIDDLE))
        checkpoint(journal, 1)
        journal.append(make_write(2, box=MIDDLE))
        assert len(inodes(tmp_path, "staged")) == 1
        checkpoint(journal, 2, closed=True)
    assert len(os.listdir(journal_folder(str(tmp_path)))) == 1


def test_a_full_disk_gets_them_back_before_a_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = files(tmp_path, 1000)
    spares.spares.keep(path)

    class Disk:
        f_frsize = 1
        f_blocks = 10**6

        def __init__(self, _: str) -> None:
            self.f_bavail = 100 if os.listdir(tmp_path) else 1100

    monkeypatch.setattr(os, "statvfs", Disk)
    require_space(str(tmp_path), 50, 0)
    assert len(os.listdir(tmp_path)) == 1
    require_space(str(tmp_path), 500, 100)
    assert os.listdir(tmp_path) == []


# -- by themselves -----------------------------------------------------------------------------------------------------


def test_there_are_only_so_many(tmp_path: Path) -> None:
    kept = Spares(most_files=2)
    for path in files(tmp_path, 1, 2, 3):
        kept.keep(path)
    wait_for(kept)
    assert sorted(entry.stat().st_size for entry in os.scandir(tmp_path)) == [2, 3], "the oldest goes first"
    assert kept.drop()
    assert not kept.drop()


def test_there_are_only_so_many_bytes(tmp_path: Path) -> None:
    kept = Spares(most_bytes=10)
    for path in files(tmp_path, 4, 11, 5, 3):
        kept.keep(path)
    wait_for(kept)
    assert sorted(entry.stat().st_size for entry in os.scandir(tmp_path)) == [3, 5]
    kept.drop()


def test_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    kept = Spares()
    for path in files(tmp_path, 3, 9, 6):
        kept.keep(path)
    found = [kept.take(str(tmp_path), 5) for _ in range(4)]
    assert [os.path.getsize(path) for path in found if path] == [6, 9, 3]
    assert found[-1] is None
    assert not kept.drop()


def journal_of(dataset: Path, layer: str) -> Path:
    folder = Path(journal_folder(str(dataset / layer / "1")))
    folder.mkdir(parents=True)
    return folder


def test_a_file_moves_to_another_mag_of_its_dataset_and_to_no_other_dataset(tmp_path: Path) -> None:
    color, labels = journal_of(tmp_path / "a", "color"), journal_of(tmp_path / "a", "labels")
    other = journal_of(tmp_path / "b", "color")
    kept = Spares()
    for path in files(color, 5, 7):
        kept.keep(path)
    assert kept.take(str(other), 5) is None
    assert os.listdir(other) == []
    taken = kept.take(str(labels), 7)
    assert taken is not None
    assert (os.path.dirname(taken), os.path.getsize(taken)) == (str(labels), 7)
    kept.drop(str(color))
    assert (os.listdir(color), len(os.listdir(labels))) == ([], 1), "it belongs to the other mag now"
    assert kept.take(str(labels), 7) is None
    assert not kept.drop()


def test_a_file_that_cannot_be_moved_goes_and_another_one_is_taken(tmp_path: Path) -> None:
    gone, there, here = (journal_of(tmp_path, name) for name in ("gone", "there", "here"))
    kept = Spares()
    kept.keep(files(gone, 5)[0])
    kept.keep(files(there, 6)[0])
    shutil.rmtree(gone)
    path = kept.take(str(here), 5)
    assert path is not None
    assert os.path.getsize(path) == 6
    wait_for(kept)
    assert not kept.drop()


def test_each_folder_is_emptied_alone(tmp_path: Path) -> None:
    kept = Spares()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        kept.keep(files(tmp_path / name, 5)[0])
    kept.drop(str(tmp_path / "a"))
    assert (os.listdir(tmp_path / "a"), len(os.listdir(tmp_path / "b"))) == ([], 1)
    kept.drop()


def test_who_empties_a_folder_waits_for_what_is_being_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Spares(most_files=0)
    unlink = unlink_if_there
    begun, go_on = threading.Event(), threading.Event()

    def slowly(path: str) -> None:
        begun.set()
        assert go_on.wait(30)
        unlink(path)

    monkeypatch.setattr(spares, "unlink_if_there", slowly)
    kept.keep(files(tmp_path, 5)[0])
    assert begun.wait(30)
    dropping = threading.Thread(target=kept.drop, args=(str(tmp_path),))
    dropping.start()
    dropping.join(0.05)
    assert dropping.is_alive()
    go_on.set()
    dropping.join()
    assert os.listdir(tmp_path) == []


def test_they_are_kept_for_a_moment_only(tmp_path: Path) -> None:
    kept = Spares(kept_seconds=0.001)
    for path in files(tmp_path, 1, 2):
        kept.keep(path)
    while (timer := kept._timer) is not None:
        timer.join()
    wait_for(kept)
    assert os.listdir(tmp_path) == []
    assert not kept.drop()


def test_a_file_that_is_gone_is_not_missed(tmp_path: Path) -> None:
    spares.spares.keep(str(tmp_path / "0000000000000001.side"))
    record = make_write(1, box=MIDDLE)
    with closing(begin(tmp_path)) as journal:
        journal.append(record, staged_of(tmp_path, record))
        checkpoint(journal, 1)
        (name,) = (name for name in os.listdir(journal_folder(str(tmp_path))) if name.endswith(".staged"))
        os.unlink(os.path.join(journal_folder(str(tmp_path)), name))
        journal.append(record, staged_of(tmp_path, record))
        assert len(inodes(tmp_path, "side")) == 1
