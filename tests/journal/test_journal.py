"""A journal in use: what is appended is recovered; checkpoints, epochs, and what is refused."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.errors import DataLoss, InvalidRequest, NotAllowed
from magd.geometry import BoundingBox, Box
from magd.journal import journal_file
from magd.journal.journal import Journal
from magd.journal.places import journal_folder, journal_path
from magd.journal.records import FileFormat, Outcome
from magd.journal.recovery import recover
from magd.voxels import VoxelFormat
from tests.journal.journal_data import FORMAT, MAG, VOXELS, make_head, make_write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.journal.recovery import Recovery


@pytest.fixture(autouse=True)
def small_side_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 1000)


LARGE = Box.of((0, 0, 0), (8, 8, 8))


def begin(mag: Path, epoch: int = 1) -> Journal:
    return Journal.begin(str(mag), recover(str(mag), FORMAT), make_head(epoch))


def files_of(mag: Path) -> list[str]:
    return sorted(os.listdir(journal_folder(str(mag))))


def values(recovery: Recovery) -> list[int]:
    found = []
    for stored in recovery.writes:
        record = stored.read()
        assert record.data.shape == (2, *record.box.size)
        assert record.data.dtype == VOXELS.dtype
        assert record.data.flags.f_contiguous
        assert (record.data == record.data.flat[0]).all()
        found.append(int(record.data.flat[0]))
    return found


def test_a_mag_without_a_journal_has_nothing_to_recover_and_looking_leaves_no_trace(tmp_path: Path) -> None:
    recovery = recover(str(tmp_path), FORMAT)
    assert recovery.head is None
    assert recovery.writes == ()
    assert not recovery.power_was_lost
    assert list(tmp_path.iterdir()) == []


def test_what_was_appended_is_recovered_in_order_with_all_it_said(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    records = [make_write(1), make_write(2, box=LARGE, durability=Durability.PROCESS), make_write(3)]
    numbers = [journal.append(record) for record in records]
    assert numbers == [2, 3, 4]
    assert journal.durable == 1
    assert journal.sync() == 4 == journal.durable
    journal.close()

    recovery = recover(str(tmp_path), FORMAT)
    assert [write.number for write in recovery.writes] == numbers
    assert [write.is_in_side_file for write in recovery.writes] == [False, True, False]
    for record, stored in zip(records, recovery.writes, strict=True):
        found = stored.read()
        assert (found.request_id, found.fingerprint, found.box, found.extension, found.durability) == (
            (record.request_id, record.fingerprint, record.box, record.extension, record.durability)
        )
        assert (found.revision, found.unix_time) == (record.revision, record.unix_time)
        np.testing.assert_array_equal(found.data, record.data)
    assert recovery.head is not None
    assert recovery.head.revision == Revision(1, 3)
    assert recovery.head.outcomes == tuple(record.outcome for record in records)
    assert recovery.head.unsaved_box == LARGE.union(Box.of((3, 0, 0), (4, 3, 2))).in_mag_1(MAG)
    assert not recovery.power_was_lost
    assert recovery.notes == ()


def test_looking_at_a_journal_changes_nothing(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append(make_write(1, box=LARGE))
    journal.close()
    before = {name: os.stat(os.path.join(journal_folder(str(tmp_path)), name)) for name in files_of(tmp_path)}
    recover(str(tmp_path), FORMAT)
    after = {name: os.stat(os.path.join(journal_folder(str(tmp_path)), name)) for name in files_of(tmp_path)}
    assert {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in before.items()} == {
        name: (stat.st_ino, stat.st_mtime_ns) for name, stat in after.items()
    }


def begin_again(mag: Path, epoch: int) -> Journal:
    recovery = recover(str(mag), FORMAT)
    assert recovery.head is not None
    return Journal.begin(str(mag), recovery, make_head(epoch, outcomes=recovery.head.outcomes))


def test_a_new_epoch_goes_into_a_new_file_and_old_ones_stay_until_they_are_retired(tmp_path: Path) -> None:
    first = begin(tmp_path, 1)
    first.append(make_write(1))
    first.append(make_write(2, box=LARGE))
    first.sync()
    first.append(make_write(3))
    first.close()
    second = begin_again(tmp_path, 2)
    second.append(make_write(1, epoch=2, value=7))
    assert values(recover(str(tmp_path), FORMAT)) == [1, 2, 3, 7]
    assert files_of(tmp_path) == ["0000000000000001.journal", "0000000000000002.journal", "0000000000000003.side"]
    second.retire(second.old_files)
    assert files_of(tmp_path) == ["0000000000000002.journal"]
    found = recover(str(tmp_path), FORMAT)
    assert values(found) == [3, 7], "3 was not known to be on the disk, so the second epoch has written it again"
    assert found.head is not None
    assert [outcome.request_id for outcome in found.head.outcomes] == [
        "request-1-1",
        "request-1-2",
        "request-1-3",
        "request-2-1",
    ]
    second.close()


def test_what_was_not_known_to_be_on_the_disk_is_so_when_a_new_epoch_has_begun(tmp_path: Path) -> None:
    first = begin(tmp_path, 1)
    for counter in (1, 2, 3):
        first.append(make_write(counter, box=LARGE, durability=Durability.PROCESS))
    first.close()
    second = begin_again(tmp_path, 2)
    assert second.durable == second.last_number == 8
    second.append(make_write(1, epoch=2, value=4))
    second.close()
    folder = journal_folder(str(tmp_path))
    # The first attempts are void: whether they are there does not matter any more.
    for name in ("0000000000000002.side", "0000000000000004.side"):
        os.unlink(os.path.join(folder, name))
    assert values(recover(str(tmp_path), FORMAT)) == [1, 2, 3, 4]
    with open(os.path.join(folder, "0000000000000001.journal"), "r+b") as file:
        file.truncate(os.path.getsize(os.path.join(folder, "0000000000000001.journal")) - 10)
    assert values(recover(str(tmp_path), FORMAT)) == [1, 2, 3, 4]
    os.unlink(os.path.join(folder, "0000000000000007.side"))
    with pytest.raises(DataLoss, match="record 7, which was on the disk") as lost:
        recover(str(tmp_path), FORMAT)
    assert lost.value.metadata["file"].endswith("0000000000000002.journal")


def test_an_epoch_has_to_be_above_the_one_before(tmp_path: Path) -> None:
    begin(tmp_path, 4).close()
    recovery = recover(str(tmp_path), FORMAT)
    with pytest.raises(ValueError, match="epoch 4 is not above 4"):
        Journal.begin(str(tmp_path), recovery, make_head(4))


def test_a_checkpoint_forgets_voxels_and_keeps_what_the_head_says(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append(make_write(1, durability=Durability.PROCESS))
    journal.append(make_write(2, box=LARGE, durability=Durability.PROCESS))
    size_before = journal.size_bytes
    outcome = Outcome("old", 5, Acknowledgement(Revision(1, 2), Durability.DISK), 1.5)
    old = journal.rotate(
        make_head(1, 2, outcomes=(outcome,), unsaved_box=BoundingBox(LARGE.offset, LARGE.size), closed=False)
    )
    assert journal.size_bytes < size_before
    assert journal.durable == 1, "what holds only PROCESS records is not synced by a checkpoint"
    journal.append(make_write(3))
    assert values(recover(str(tmp_path), FORMAT)) == [1, 2, 3]
    journal.retire(old)
    assert journal.durable == 4
    assert [name for name in files_of(tmp_path) if not name.endswith(".staged")] == ["0000000000000002.journal"]
    recovery = recover(str(tmp_path), FORMAT)
    assert values(recovery) == [3]
    assert recovery.head is not None
    assert [known.request_id for known in recovery.head.outcomes] == ["old", "request-1-3"]
    assert recovery.head.unsaved_box.contains(BoundingBox(LARGE.offset, LARGE.size))
    journal.close()


def test_a_checkpoint_syncs_what_is_promised_to_be_on_the_disk(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    number = journal.append(make_write(1, durability=Durability.DISK))
    journal.rotate(make_head(1, 1))
    assert journal.durable == number
    journal.close()


def test_a_sync_covers_the_file_before_a_checkpoint_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = begin(tmp_path)
    journal.append(make_write(1, durability=Durability.PROCESS))
    journal.rotate(make_head(1, 1))
    synced: list[str] = []
    real = os.fdatasync

    def note(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", note)
    journal.append(make_write(2))
    assert journal.sync() == 4
    assert synced == ["0000000000000001.journal", "0000000000000002.journal"]
    synced.clear()
    assert journal.sync() == 4
    assert synced == [], "what is on the disk is not synced again"
    journal.close()


def test_an_extension_is_taken_from_the_newest_head_and_what_follows_it(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append(make_write(1))
    journal.rotate(make_head(1, 1))  # somebody has saved it, and shrunk the bounding box since
    inside = replace(make_write(2), extension=BoundingBox.empty())
    journal.append(inside)
    journal.close()
    recovery = recover(str(tmp_path), FORMAT)
    assert len(recovery.writes) == 2
    assert recovery.head is not None
    assert recovery.head.unsaved_box.is_empty


def test_a_second_outcome_of_an_id_replaces_the_first(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    for counter, request_id in ((1, "a"), (2, "b"), (3, "a"), (4, "")):
        journal.append(make_write(counter, request_id=request_id))
    journal.close()
    recovery = recover(str(tmp_path), FORMAT)
    assert recovery.head is not None
    assert [(o.request_id, o.acknowledgement.revision.counter) for o in recovery.head.outcomes] == [("b", 2), ("a", 3)]


OTHER_FORMATS = [
    replace(FORMAT, voxels=VoxelFormat.of("uint16", 1)),
    replace(FORMAT, voxels=VoxelFormat.of("int16", 2)),
    replace(FORMAT, block_len=16),
    replace(FORMAT, file_len=16),
    replace(FORMAT, block_type=2),
]


@pytest.mark.parametrize("other", OTHER_FORMATS, ids=str)
def test_a_journal_is_not_applied_to_other_files(tmp_path: Path, other: FileFormat) -> None:
    journal = begin(tmp_path)
    journal.append(make_write(1))
    journal.close()
    with pytest.raises(DataLoss, match="it is for cube files of") as refused:
        recover(str(tmp_path), other)
    assert refused.value.metadata["file"].endswith("0000000000000001.journal")


@pytest.mark.parametrize("other", OTHER_FORMATS, ids=str)
@pytest.mark.parametrize("closed", [False, True])
def test_a_journal_with_nothing_to_apply_does_not_stand_in_the_way_of_other_files(
    tmp_path: Path, other: FileFormat, closed: bool
) -> None:
    journal = begin(tmp_path)
    journal.append(make_write(1))
    journal.retire(journal.rotate(make_head(1, 1, outcomes=(make_write(1).outcome,), closed=closed)))
    journal.close()
    before = recover(str(tmp_path), FORMAT)
    recovery = recover(str(tmp_path), other)
    assert recovery.head is not None
    assert before.head is not None
    assert recovery.head.format == other
    assert recovery.head.revision == Revision(1, 1), "a condition on a revision of before must not hold by mistake"
    assert recovery.head.outcomes == before.head.outcomes
    assert recovery.head.generation == before.head.generation + 1
    assert not recovery.writes
    assert not recovery.files
    (note,) = recovery.notes
    assert "is discarded" in note
    # The next epoch is for the files that are there now, and takes the old one away.
    after = Journal.begin(str(tmp_path), recovery, make_head(2, format=other))
    number = after.append(make_write(1, epoch=2, voxels=other.voxels))
    after.close()
    assert number > before.next_number
    (write,) = recover(str(tmp_path), other).writes
    assert write.revision == Revision(2, 1)
    assert all(not os.path.exists(file.path) for file in before.files)
    with pytest.raises(DataLoss, match="it is for cube files of"):
        recover(str(tmp_path), FORMAT)


def test_an_extension_that_is_not_saved_or_a_torn_end_keeps_a_journal_from_being_discarded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    box = Box.of((0, 0, 0), (9, 9, 9)).in_mag_1(MAG)
    Journal.begin(str(tmp_path / "a"), recover(str(tmp_path / "a"), FORMAT), make_head(1, unsaved_box=box)).close()
    (tmp_path / "b").mkdir()
    begin(tmp_path / "b").close()
    with open(journal_path(journal_folder(str(tmp_path / "b")), 1), "ab") as file:
        file.write(b"the beginning of a record")
    for name in "ab":
        with pytest.raises(DataLoss, match="it is for cube files of"):
            recover(str(tmp_path / name), OTHER_FORMATS[0])


def test_a_file_of_another_incarnation_among_them_is_damage(tmp_path: Path) -> None:
    begin(tmp_path, 1).close()
    recovery = recover(str(tmp_path), FORMAT)
    Journal.begin(str(tmp_path), recovery, make_head(2, incarnation="ab" * 16)).close()
    with pytest.raises(DataLoss, match="another incarnation"):
        recover(str(tmp_path), FORMAT)


def test_a_power_loss_is_reported_unless_the_journal_was_closed(tmp_path: Path) -> None:
    other_boot = "11111111-2222-3333-4444-555555555555"
    journal = Journal.begin(str(tmp_path), recover(str(tmp_path), FORMAT), make_head(1, boot=other_boot))
    assert recover(str(tmp_path), FORMAT).power_was_lost, "records may have been lost without a trace"
    journal.rotate(make_head(1, boot=other_boot, closed=True))
    assert not recover(str(tmp_path), FORMAT).power_was_lost
    journal.append(make_write(1))
    assert recover(str(tmp_path), FORMAT).power_was_lost
    journal.close()


def test_a_machine_that_does_not_say_which_run_it_is_may_have_lost_power(tmp_path: Path) -> None:
    Journal.begin(str(tmp_path), recover(str(tmp_path), FORMAT), make_head(1, boot="")).close()
    assert recover(str(tmp_path), FORMAT).power_was_lost


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    before = journal.size_bytes
    with pytest.raises(ValueError, match="is not a box"):
        journal.append(replace(make_write(1), data=make_write(1).data[:, 1:]))
    with pytest.raises(ValueError, match="is not a box"):
        journal.append(replace(make_write(1), data=make_write(1).data.astype("uint32")))
    with pytest.raises(ValueError, match="epoch"):
        journal.append(make_write(1, epoch=2))
    with pytest.raises(ValueError, match="epoch"):
        journal.rotate(make_head(2))
    with pytest.raises(InvalidRequest, match="too long") as refused:
        journal.append(make_write(1, request_id="x" * 70_000))
    assert refused.value.metadata["field"] == "request_id"
    assert journal.size_bytes == before
    assert journal.append(make_write(1)) == 2
    journal.close()


def test_data_in_another_order_is_written_as_voxels_lie_in_a_box(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    data = np.arange(2 * 4 * 3 * 2, dtype="uint16").reshape(2, 4, 3, 2)  # C order
    journal.append(replace(make_write(1), data=data))
    journal.close()
    np.testing.assert_array_equal(recover(str(tmp_path), FORMAT).writes[0].read().data, data)


def test_files_that_nothing_names_are_removed_when_a_new_epoch_begins(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append(make_write(1, box=LARGE))
    journal.close()
    folder = journal_folder(str(tmp_path))
    for name in ("0000000000000009.side", "0000000000000002.journal.new", "0123456789012345.staged", "notes.txt"):
        with open(os.path.join(folder, name), "w") as file:
            file.write("left")
    second = begin_again(tmp_path, 2)
    assert files_of(tmp_path) == [
        "0000000000000001.journal",
        "0000000000000002.side",
        "0000000000000003.journal",
        "0000000000000011.side",
        "notes.txt",
    ]
    assert second.append(make_write(1, epoch=2)) == 12, "no number is used a second time"
    second.close()


def test_a_retired_file_that_comes_back_does_not_count_and_is_removed(tmp_path: Path) -> None:
    """Its removal did not reach the disk: an older write must not be applied over newer ones that are retired too."""
    journal = begin(tmp_path)
    journal.append(make_write(1))
    first = os.path.join(journal_folder(str(tmp_path)), "0000000000000001.journal")
    with open(first, "rb") as file:
        content = file.read()
    journal.rotate(make_head(1, 1))
    journal.append(make_write(2))
    journal.retire(journal.rotate(make_head(1, 2)))
    journal.append(make_write(3))
    journal.retire(journal.rotate(make_head(1, 3)))
    journal.close()
    with open(first, "wb") as file:
        file.write(content)
    recovery = recover(str(tmp_path), FORMAT)
    assert recovery.writes == ()
    assert recovery.leftovers == (first,)
    Journal.begin(str(tmp_path), recovery, make_head(2)).close()
    assert files_of(tmp_path) == ["0000000000000004.journal", "0000000000000005.journal"]


def test_a_record_that_was_cut_off_does_not_count_when_it_comes_back(tmp_path: Path) -> None:
    """The cut was in the memory of the machine when the next epoch began, and did not reach the disk."""
    journal = begin(tmp_path)
    journal.append(make_write(1))
    first = os.path.join(journal_folder(str(tmp_path)), "0000000000000001.journal")
    size = os.path.getsize(first)
    journal.append(make_write(2))
    journal.close()
    with open(first, "r+b") as file:
        content = file.read()
        file.truncate(size)
    second = begin_again(tmp_path, 2)
    second.append(make_write(1, epoch=2, value=7))
    second.sync()
    second.append(make_write(2, epoch=2, value=8))
    second.close()
    with open(first, "wb") as file:
        file.write(content)
    assert values(recover(str(tmp_path), FORMAT)) == [1, 7, 8]


def test_many_unsynced_side_files_do_not_keep_as_many_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "MAX_UNSYNCED_SIDE_FILES", 4)
    journal = begin(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for counter in range(1, 20):
        journal.append(make_write(counter, box=LARGE, durability=Durability.PROCESS))
        assert len(os.listdir("/proc/self/fd")) <= before + 4
    journal.close()
    assert values(recover(str(tmp_path), FORMAT)) == list(range(1, 20))


def test_a_closed_journal_takes_nothing_and_holds_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    journal = begin(tmp_path)
    journal.append(make_write(1, box=LARGE, durability=Durability.PROCESS))
    journal.rotate(make_head(1, 1))
    journal.append(make_write(2, box=LARGE, durability=Durability.PROCESS))
    journal.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(NotAllowed, match="closed"):
        journal.append(make_write(3))
    with pytest.raises(NotAllowed, match="closed"):
        journal.sync()
    with pytest.raises(NotAllowed, match="closed"):
        journal.rewrite(make_head(1, 2), {})
    journal.close()


def test_syncs_of_other_threads_cover_what_was_appended_before_they_began(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    appended = 1
    done = threading.Event()
    failures: list[str] = []

    def keep_syncing() -> None:
        while not done.is_set():
            before = appended
            if journal.sync() < before:
                failures.append(f"{before} was appended")

    threads = [threading.Thread(target=keep_syncing) for _ in range(3)]
    for thread in threads:
        thread.start()
    for counter in range(1, 201):
        box = LARGE if counter % 7 == 0 else None
        appended = journal.append(make_write(counter, box=box, durability=Durability.PROCESS))
        if counter % 50 == 0:
            old = journal.rotate(make_head(1, counter))
            if counter % 100 == 0:
                journal.retire(old)
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert journal.sync() == journal.last_number
    journal.close()
    assert values(recover(str(tmp_path), FORMAT)) == []
