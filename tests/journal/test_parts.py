"""Records whose data is in files that can become cube files."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.atomic import unlink_if_there
from magd.errors import DataLoss
from magd.geometry import Box
from magd.journal import format as record_format
from magd.journal import journal as journal_module
from magd.journal import journal_file, scan
from magd.journal.journal import Journal
from magd.journal.part_staging import PartStaging, can_become_cube_files
from magd.journal.parts import header_of, read_layers
from magd.journal.places import journal_folder, linked_path
from magd.journal.records import FileFormat, WriteRecord
from magd.journal.recovery import recover
from tests.journal.journal_data import VOXELS, make_head, make_write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

FORMAT = FileFormat(VOXELS, block_len=8, file_len=2, block_type=1)
BOX = Box.of((3, 5, 7), (20, 21, 11))


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 1000)


def appended(folder: Path, *, bytes_at_a_time: int = 777) -> tuple[Journal, WriteRecord, int]:
    """A journal with one record in parts."""
    journal = Journal.begin(str(folder), recover(str(folder), FORMAT), make_head(format=FORMAT))
    record = make_write(1, box=BOX)
    header = header_of(FORMAT)
    assert header is not None
    staging = PartStaging(str(folder), BOX, header, sync=True)
    staging.attach(record.data)
    data = record.data.reshape(-1, order="F").view(np.uint8).data
    for start in range(0, len(data), bytes_at_a_time):
        staging.take(data[start : start + bytes_at_a_time])
    return journal, record, journal.append(record, staging)


@pytest.mark.parametrize("bytes_at_a_time", [1, 777, 5000, 1 << 20])
def test_the_voxels_of_a_record_come_back_from_its_parts(tmp_path: Path, bytes_at_a_time: int) -> None:
    journal, record, number = appended(tmp_path, bytes_at_a_time=bytes_at_a_time)
    assert journal.has_parts(number)
    journal.close()
    (found,) = recover(str(tmp_path), FORMAT).writes
    assert len(found.parts) == 8
    np.testing.assert_array_equal(found.read().data, record.data)


def test_a_record_whose_parts_and_marks_go_while_it_is_read_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it is in the cube files by then, and its journal file is retired."""
    journal, record, number = appended(tmp_path)
    journal.sync()
    (parts,) = journal.link([number]).values()
    journal.close()
    (found,) = recover(str(tmp_path), FORMAT).writes
    with open(parts[0], "r+b") as cube_file:
        cube_file.seek(-1, os.SEEK_END)
        cube_file.write(b"\xff")

    def read_and_remove(*arguments: Any) -> Iterator[Any]:
        yield from read_layers(*arguments)
        for path in (*parts, *found.mark_paths):
            unlink_if_there(path)

    monkeypatch.setattr(scan, "read_layers", read_and_remove)
    assert found.read().data.shape == record.data.shape
    assert not found.is_linked


def test_parts_may_be_linked_only_when_the_record_is_on_the_disk(tmp_path: Path) -> None:
    journal, _, number = appended(tmp_path)
    assert journal.link([number]) == {}
    journal.sync()
    assert len(journal.link([number])[number]) == 8
    old = journal.rotate(make_head(format=FORMAT))
    journal.retire(old)
    assert not journal.has_parts(number)
    journal.close()
    assert [name.rpartition(".")[2] for name in os.listdir(journal_folder(str(tmp_path)))] == ["journal"]


def test_marks_whose_names_did_not_get_to_the_disk_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, record, number = appended(tmp_path)
    journal.sync()
    mark = linked_path(journal_folder(str(tmp_path)), number)

    def fail(folder: str) -> None:
        assert os.path.exists(mark)
        raise OSError(errno.EIO, os.strerror(errno.EIO), folder)

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "fsync_folder", fail)
        assert journal.link([number]) == {}
    assert journal.broken
    assert not os.path.exists(mark), "a later sync of the folder would prove nothing for this name"
    journal.rewrite(make_head(format=FORMAT), {number: record})
    assert len(journal.link([number])[number]) == 8
    journal.close()


def test_parts_that_were_written_again_from_memory_are_not_linked(tmp_path: Path) -> None:
    journal, record, number = appended(tmp_path)
    journal._break(DataLoss("it fails"))
    journal.rewrite(make_head(format=FORMAT), {number: record})
    assert journal.durable >= number
    assert journal.link([number]) == {}
    journal.close()


def test_a_part_that_was_changed_is_damage_until_it_is_marked_as_linked(tmp_path: Path) -> None:
    journal, record, number = appended(tmp_path)
    journal.close()
    (found,) = recover(str(tmp_path), FORMAT).writes
    with open(found.parts[0], "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xee")
    assert not recover(str(tmp_path), FORMAT).writes
    with pytest.raises(DataLoss, match="damaged"):
        found.read()
    with open(linked_path(journal_folder(str(tmp_path)), number), "wb"):
        pass
    (found,) = recover(str(tmp_path), FORMAT).writes
    assert (found.read().data != record.data).sum() == 1


@pytest.mark.parametrize("is_marked", [False, True])
def test_a_record_without_all_of_its_parts_does_not_count(tmp_path: Path, is_marked: bool) -> None:
    journal, _, number = appended(tmp_path)
    journal.sync()
    if is_marked:
        journal.link([number])
    journal.close()
    (found,) = recover(str(tmp_path), FORMAT).writes
    os.unlink(found.parts[3])
    assert not recover(str(tmp_path), FORMAT).writes


def test_a_mark_and_parts_without_a_record_are_leftovers(tmp_path: Path) -> None:
    journal, _, number = appended(tmp_path)
    journal.sync()
    journal.link([number])
    journal.close()
    for name in os.listdir(journal_folder(str(tmp_path))):
        if name.endswith(".journal"):
            os.unlink(os.path.join(journal_folder(str(tmp_path)), name))
    assert len(recover(str(tmp_path), FORMAT).leftovers) == 9


def test_a_journal_of_version_1_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_format, "VERSION", 1)
    journal = Journal.begin(str(tmp_path), recover(str(tmp_path), FORMAT), make_head(format=FORMAT))
    record = make_write(1, box=BOX)
    journal.append(record)
    journal.close()
    monkeypatch.undo()
    (found,) = recover(str(tmp_path), FORMAT).writes
    np.testing.assert_array_equal(found.read().data, record.data)


@pytest.mark.parametrize("sync", [True, False])
def test_only_boxes_over_few_raw_cube_files_that_are_missing_or_covered_get_parts(tmp_path: Path, sync: bool) -> None:
    header = header_of(FORMAT)
    assert header is not None

    def worth_it(box: Box) -> bool:
        return can_become_cube_files(str(tmp_path), header, box, sync=sync)

    assert worth_it(BOX)
    assert not worth_it(Box.of((0, 0, 0), (40, 40, 20)))
    assert header_of(FileFormat(VOXELS, block_len=8, file_len=2, block_type=2)) is None
    assert header_of(FileFormat(VOXELS, block_len=0, file_len=2, block_type=1)) is None
    (tmp_path / "z0" / "y0").mkdir(parents=True)
    (tmp_path / "z0" / "y0" / "x1.wkw").write_bytes(b"")
    assert not worth_it(BOX)
    # One that is there is replaced by what was synced; to sync only for that would take too long.
    assert worth_it(Box.of((16, 0, 0), (16, 16, 16))) is sync
    assert worth_it(Box.of((3, 0, 0), (29, 16, 16))) is sync
    assert worth_it(Box.of((3, 0, 0), (13, 16, 16)))
    assert not worth_it(Box.of((3, 0, 0), (28, 16, 16)))
