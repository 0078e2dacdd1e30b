"""Whatever moment the process or the machine dies at, and whatever call fails: the promises of the journal hold.

The lives, crashes and promises are in `crash_scenarios`. Each control takes one precaution away; if no promise breaks
then, the lives are too quiet to prove anything.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from magd.acknowledgement import Durability
from magd.errors import DataLoss
from magd.journal import format as record_format
from magd.journal import journal, journal_file, places, recovery
from magd.journal.journal import Journal
from magd.journal.journal_file import JournalFile
from magd.journal.part_staging import PartStaging
from magd.journal.staging import Staging
from tests.journal.crash_scenarios import CUBE_LEN, CubeFiles, Life, Violated, run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from magd.geometry import Box
    from magd.journal.journal import OldFiles
    from magd.journal.records import Head
    from magd.journal.recovery import Recovery

SCENARIOS = int(os.environ.get("MAGD_JOURNAL_SCENARIOS", "30"))
"""Each has three lives and 120 crashes."""


@pytest.mark.timeout(0)
def test_no_crash_breaks_a_promise_with_and_without_failing_calls() -> None:
    crashes = linked = unsynced = replaced = retired = 0
    for seed in range(SCENARIOS):
        tally = run_scenario(seed, fault_chance=0.15 if seed % 3 else 0.0)
        crashes += tally.kills + tally.power_losses
        linked += tally.linked
        unsynced += tally.linked_unsynced
        replaced += tally.replaced
        retired += tally.retired_unsynced
    assert linked > unsynced > SCENARIOS // 3
    assert replaced > SCENARIOS
    assert retired > SCENARIOS // 3
    assert crashes == SCENARIOS * 3 * 40


def _without_syncs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JournalFile, "_sync", lambda self: None)


def _without_syncs_of_side_files(patch: pytest.MonkeyPatch) -> None:
    real = JournalFile._sync

    def forget_sides(self: JournalFile) -> None:
        sides, self._unsynced_sides = self._unsynced_sides, []
        for side in sides:
            os.close(side.fd)
        real(self)

    patch.setattr(JournalFile, "_sync", forget_sides)


def _without_syncs_of_the_folder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal_file, "fsync_folder", lambda path: None)


def _without_writing_again_what_was_recovered(patch: pytest.MonkeyPatch) -> None:
    real = Journal.begin

    def begin(mag_folder: str, recovery: Recovery, head: Head) -> Journal:
        kept = tuple((first, last) for first, last in recovery.void if first <= recovery.durable)
        return real(mag_folder, replace(recovery, durable=recovery.next_number - 1, void=kept), head)

    patch.setattr(Journal, "begin", begin)


def _without_a_sync_before_a_checkpoint(patch: pytest.MonkeyPatch) -> None:
    real = Journal.rotate

    def rotate(self: Journal, head: Any) -> OldFiles:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Journal, "sync", lambda self: self.durable)
            return real(self, head)

    patch.setattr(Journal, "rotate", rotate)


def _with_a_sync_of_the_newest_file_only(patch: pytest.MonkeyPatch) -> None:
    real = Journal.sync

    def sync(self: Journal) -> int:
        files = [(old, old.file) for old in self._old]
        for old, _ in files:
            old.file = None
        try:
            return real(self)
        finally:
            for old, file in files:
                old.file = file

    patch.setattr(Journal, "sync", sync)


def _with_names_before_contents(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal_file, "new_journal_path", places.journal_path)


def _with_old_files_removed_newest_first(patch: pytest.MonkeyPatch) -> None:
    def retire(self: Journal, old_files: OldFiles) -> None:
        for old in [old for old in reversed(self._old) if old.path in old_files.paths]:
            self._remove(old)

    patch.setattr(Journal, "retire", retire)


def _without_cutting_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JournalFile, "_cut_back", lambda self: None)


def _without_declaring_numbers_void(patch: pytest.MonkeyPatch) -> None:
    real = record_format.encode_head
    patch.setattr(journal_file, "encode_head", lambda start: real(replace(start, void=())))


def _with_a_second_sync_after_one_that_failed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "_break", lambda self, error: None)


def _without_outcomes_of_records(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recovery, "_merge", lambda newest, writes: newest.start.head)


def _with_a_staged_file_that_could_not_be_synced(patch: pytest.MonkeyPatch) -> None:
    real = Staging.discard

    def discard(self: Staging) -> None:
        if not isinstance(sys.exception(), OSError) or not self.size_bytes:
            real(self)

    patch.setattr(Staging, "discard", discard)


def _without_marks_of_linked_parts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal, "linked_path", lambda folder, number: os.devnull)


def _with_marks_that_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    real = Journal.link

    def link(self: Journal, numbers: Collection[int], *, unsynced: Collection[int] = ()) -> dict[int, tuple[str, ...]]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(journal, "fsync_folder", lambda path: None)
            return real(self, numbers, unsynced=unsynced)

    patch.setattr(Journal, "link", link)


def _with_parts_linked_before_they_are_synced(patch: pytest.MonkeyPatch) -> None:
    real = Journal.link

    def link(self: Journal, numbers: Collection[int], *, unsynced: Collection[int] = ()) -> dict[int, tuple[str, ...]]:
        durable, self._durable = self._durable, self._last_number
        try:
            return real(self, numbers)
        finally:
            self._durable = durable

    patch.setattr(Journal, "link", link)
    patch.setattr(Life, "_sync_before_link", lambda self, number: None)


def _with_older_voxels_in_parts_that_replaced_cube_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Life, "_boxes_in_parts_after", lambda self, write: [])


def _with_parts_in_place_of_cube_files_that_have_other_voxels(patch: pytest.MonkeyPatch) -> None:
    real = CubeFiles.link

    def link(self: CubeFiles, box: Box, paths: Sequence[str], *, synced: bool) -> bool:
        return real(self, box.aligned_outward(CUBE_LEN), paths, synced=synced)

    patch.setattr(CubeFiles, "link", link)


def _with_unsynced_parts_marked_as_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal, "unsynced_path", places.linked_path)


def _with_unsynced_parts_that_have_no_mark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal, "unsynced_path", lambda folder, number: os.devnull)


def _with_unsynced_parts_without_a_header_on_the_disk(patch: pytest.MonkeyPatch) -> None:
    real = PartStaging._prepare

    def prepare(self: PartStaging) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(os, "fdatasync", lambda fd: None)
            real(self)

    patch.setattr(PartStaging, "_prepare", prepare)


def _with_unsynced_parts_in_place_of_cube_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Life, "_needs_no_sync", lambda self, record: record.durability is Durability.PROCESS)


def _without_a_sync_of_cube_files_that_were_promised(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Life, "_must_sync", lambda self, indices: False)


@pytest.mark.parametrize(
    "take_away",
    [
        _without_syncs,
        _without_syncs_of_side_files,
        _without_syncs_of_the_folder,
        _without_writing_again_what_was_recovered,
        _without_a_sync_before_a_checkpoint,
        _with_a_sync_of_the_newest_file_only,
        _with_names_before_contents,
        _with_old_files_removed_newest_first,
        _without_cutting_back,
        _without_declaring_numbers_void,
        _with_a_second_sync_after_one_that_failed,
        _without_outcomes_of_records,
        _with_a_staged_file_that_could_not_be_synced,
        _without_marks_of_linked_parts,
        _with_marks_that_are_not_synced,
        _with_parts_linked_before_they_are_synced,
        _with_older_voxels_in_parts_that_replaced_cube_files,
        _with_parts_in_place_of_cube_files_that_have_other_voxels,
        _with_unsynced_parts_marked_as_synced,
        _with_unsynced_parts_that_have_no_mark,
        _with_unsynced_parts_without_a_header_on_the_disk,
        _with_unsynced_parts_in_place_of_cube_files,
        _without_a_sync_of_cube_files_that_were_promised,
    ],
    ids=lambda control: control.__name__.strip("_").replace("_", " "),
)
def test_control_a_promise_breaks(
    take_away: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(monkeypatch)
    with pytest.raises((Violated, DataLoss, AssertionError)):
        _run_many(range(1000, 1060))


def _run_many(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, fault_chance=0.25)
