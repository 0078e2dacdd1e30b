"""Saving datasource-properties.json beside programs that write it at the same time, and through crashes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from magd import atomic
from magd.errors import AlreadyExists, Conflict, DataLoss, DiskFull, NotAllowed, NotFound, Reason
from magd.geometry import BoundingBox, Vec3
from magd.properties import file as file_module
from magd.properties.edits import (
    AddLayer,
    ExtendBoundingBox,
    RemoveLayer,
    SetBoundingBox,
    SetDefaultViewConfiguration,
    apply_edits,
)
from magd.properties.file import PROPERTIES_NAME, PropertiesFile
from magd.properties.model import LayerCategory, VoxelSize
from magd.properties.tree import new_dataset_tree
from magd.voxels import VoxelFormat
from tests.support.crashes import crash_everywhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD_NANOSECONDS = 10_000_000_000


def box(*numbers: int) -> BoundingBox:
    return BoundingBox(Vec3(*numbers[:3]), Vec3(*numbers[3:]))


EXTEND = ExtendBoundingBox("a", box(0, 0, 0, 4, 4, 4))


def a_tree() -> dict[str, Any]:
    tree = new_dataset_tree("d", VoxelSize(1.0, 1.0, 2.0, "nanometer"))
    return apply_edits(tree, [AddLayer("a", LayerCategory.COLOR, VoxelFormat.of("uint8", 1))])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / PROPERTIES_NAME
    path.write_text(json.dumps(a_tree()))
    return path


@pytest.fixture(params=["exchange", "no exchange"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Once with a file system that can exchange names, once with one that cannot."""
    if request.param == "no exchange":
        monkeypatch.setattr(atomic, "_renameat2", lambda source, target, flags: False)
    return str(request.param)


def make_old(path: Path) -> None:
    """Give a file a modification time that lies some seconds back."""
    then = time.time_ns() - OLD_NANOSECONDS
    os.utime(path, ns=(then, then))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def extent(path: Path) -> BoundingBox:
    return PropertiesFile(str(path)).load().properties.layers[0].bounding_box


def files_beside(path: Path) -> list[str]:
    return sorted(set(os.listdir(path.parent)) - {path.name})


def edit_as_others_do(path: Path, change: Callable[[Any], None]) -> None:
    """Read, change, truncate and write in place, as the webknossos package does."""
    tree = read(path)
    change(tree)
    path.write_text(json.dumps(tree))


def between_read_and_exchange(monkeypatch: pytest.MonkeyPatch, *others: Callable[[], None]) -> list[int]:
    """Let others act just before an exchange: the first of them before the first, and so on."""
    real_exchange = atomic.exchange
    waiting = list(others)
    acted: list[int] = []

    def act() -> None:
        if waiting:
            acted.append(len(acted))
            waiting.pop(0)()

    def exchange(a: str, b: str) -> bool:
        act()
        return real_exchange(a, b)

    monkeypatch.setattr(atomic, "exchange", exchange)
    return acted


# -- saving alone --


@pytest.mark.usefixtures("both_ways")
def test_a_save_changes_the_file_and_leaves_nothing_beside_it(path: Path) -> None:
    file = PropertiesFile(str(path))
    before = file.load()
    after = file.save([EXTEND])
    assert after.properties.layers[0].bounding_box == box(0, 0, 0, 4, 4, 4)
    assert after.etag != before.etag
    assert read(path) == after.tree
    loaded = PropertiesFile(str(path)).load()
    assert (loaded.etag, loaded.stamp, loaded.tree) == (after.etag, after.stamp, after.tree)
    assert files_beside(path) == []
    assert before.properties.layers[0].bounding_box.is_empty


@pytest.mark.usefixtures("both_ways")
def test_unknown_keys_and_their_order_are_kept(path: Path) -> None:
    tree = {"zeta": {"y": 1, "x": [None, 1.5, "µ\ud83d\ude00"]}, **a_tree(), "alpha": 12345678901234567890}
    tree["dataLayers"][0]["custom"] = {"b": 1, "a": 2}
    path.write_text(json.dumps(tree))
    PropertiesFile(str(path)).save([EXTEND])
    saved = read(path)
    assert list(saved) == list(tree)
    assert list(saved["dataLayers"][0]) == list(tree["dataLayers"][0])
    expected = apply_edits(tree, [EXTEND])
    assert json.dumps(saved) == json.dumps(expected)


def test_an_edit_without_effect_does_not_touch_the_file(path: Path) -> None:
    file = PropertiesFile(str(path))
    before = os.stat(path)[:7]  # without the times of access, which reading changes
    modified = os.stat(path).st_mtime_ns
    snapshot = file.save([ExtendBoundingBox("a", BoundingBox.empty())])
    assert os.stat(path)[:7] == before
    assert os.stat(path).st_mtime_ns == modified
    assert snapshot.etag == file.load().etag


def test_a_new_file_has_the_mode_of_the_old_one(path: Path) -> None:
    path.chmod(0o640)
    PropertiesFile(str(path)).save([EXTEND])
    assert path.stat().st_mode & 0o7777 == 0o640


def test_an_edit_that_is_not_possible_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(NotFound):
        PropertiesFile(str(path)).save([EXTEND, RemoveLayer("none")])
    assert path.read_bytes() == before
    assert files_beside(path) == []


def test_an_etag_that_is_not_that_of_the_file_refuses_the_save(path: Path) -> None:
    file = PropertiesFile(str(path))
    etag = file.load().etag
    after = file.save([EXTEND], expected_etag=etag)
    with pytest.raises(Conflict) as caught:
        file.save([SetDefaultViewConfiguration(None, {})], expected_etag=etag)
    assert caught.value.reason is Reason.ETAG_MISMATCH
    assert caught.value.metadata == {"value": etag, "current": after.etag}


# -- beside others --


def test_an_edit_of_others_between_read_and_exchange_is_merged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def others() -> None:
        edit_as_others_do(path, lambda tree: tree.update(theirs=1))

    acted = between_read_and_exchange(monkeypatch, others)
    after = PropertiesFile(str(path)).save([EXTEND])
    assert acted == [0]
    assert read(path) == after.tree
    assert after.tree["theirs"] == 1
    assert extent(path) == box(0, 0, 0, 4, 4, 4)
    assert files_beside(path) == []


def test_others_that_replace_the_file_by_rename_are_merged_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def others() -> None:
        new = path.with_name("new")
        new.write_text(json.dumps({**read(path), "theirs": 1}))
        new.rename(path)

    between_read_and_exchange(monkeypatch, others)
    PropertiesFile(str(path)).save([EXTEND])
    assert read(path)["theirs"] == 1
    assert extent(path) == box(0, 0, 0, 4, 4, 4)


def test_edits_of_others_before_several_exchanges_are_all_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(key: str) -> Callable[[], None]:
        return lambda: edit_as_others_do(path, lambda tree: tree.update({key: 1}))

    # The second acts before the exchange that puts the first one's file back: it has seen ours only.
    acted = between_read_and_exchange(monkeypatch, other("first"), other("second"), other("third"))
    PropertiesFile(str(path)).save([EXTEND])
    assert acted == [0, 1, 2]
    assert read(path)["third"] == 1
    assert extent(path) == box(0, 0, 0, 4, 4, 4)
    assert files_beside(path) == []


def test_a_program_that_is_still_writing_goes_on_writing_into_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = json.dumps({**read(path), "theirs": 1})
    writer: list[Any] = []

    def truncate() -> None:
        writer.append(path.open("w"))

    def finish(_: float) -> None:
        if not writer[0].closed:
            writer[0].write(theirs)
            writer[0].close()

    between_read_and_exchange(monkeypatch, truncate)
    # While it waits for a file that is JSON again the other program goes on.
    monkeypatch.setattr(time, "sleep", finish)
    PropertiesFile(str(path)).save([EXTEND])
    assert read(path)["theirs"] == 1
    assert extent(path) == box(0, 0, 0, 4, 4, 4)
    assert files_beside(path) == []


def test_without_exchange_an_edit_of_others_before_the_look_is_merged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def others_then_no_exchange(a: str, b: str) -> bool:
        calls.append(1)
        if len(calls) == 1:
            edit_as_others_do(path, lambda tree: tree.update(theirs=1))
        return False

    monkeypatch.setattr(atomic, "exchange", others_then_no_exchange)
    PropertiesFile(str(path)).save([EXTEND])
    assert len(calls) == 2
    assert read(path)["theirs"] == 1
    assert extent(path) == box(0, 0, 0, 4, 4, 4)
    assert files_beside(path) == []


def test_a_file_that_others_write_all_the_time_is_given_up_without_loss(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = iter(range(10_000))

    def others() -> None:
        edit_as_others_do(path, lambda tree: tree.update(theirs=next(count)))

    between_read_and_exchange(monkeypatch, *[others] * 1000)
    with pytest.raises(Conflict) as caught:
        PropertiesFile(str(path)).save([EXTEND])
    assert caught.value.reason is Reason.CHANGED_ON_DISK
    assert "theirs" in read(path)
    assert files_beside(path) == []


def test_an_etag_refuses_the_save_also_when_others_write_in_between(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PropertiesFile(str(path))
    etag = file.load().etag
    between_read_and_exchange(monkeypatch, lambda: edit_as_others_do(path, lambda tree: tree.update(theirs=1)))
    with pytest.raises(Conflict) as caught:
        file.save([SetBoundingBox("a", box(0, 0, 0, 1, 1, 1))], expected_etag=etag)
    assert caught.value.reason is Reason.ETAG_MISMATCH
    assert read(path)["theirs"] == 1
    assert extent(path).is_empty


_ANOTHER_PROGRAM = """
import json, os, sys
path = sys.argv[1]
for number in range(int(sys.argv[2])):
    with open(path) as file:
        tree = json.load(file)  # always whole: fails if a save ever shows half of a file
    tree["theirs"] = number
    with open(path + ".theirs", "w") as file:
        json.dump(tree, file)
    os.rename(path + ".theirs", path)
"""


def test_a_program_that_writes_all_the_time_loses_no_edit_and_never_sees_half_a_file(path: Path) -> None:
    file = PropertiesFile(str(path))
    edits, saves = 100, 0
    with subprocess.Popen([sys.executable, "-c", _ANOTHER_PROGRAM, str(path), str(edits)]) as program:
        while program.poll() is None:
            try:
                file.save([ExtendBoundingBox("a", box(0, 0, 0, saves + 1, 1, 1))])
            except Conflict:
                pass  # others were faster ten times in a row; nothing is lost by that
            saves += 1
    assert program.returncode == 0
    assert saves > 0
    assert read(path)["theirs"] == edits - 1
    assert files_beside(path) == []


# -- noticing others --


def test_a_file_that_nobody_touched_has_not_changed(path: Path) -> None:
    make_old(path)
    file = PropertiesFile(str(path))
    snapshot = file.load()
    assert not snapshot.is_fresh
    assert not file.changed(snapshot)
    assert not file.changed(file.save([EXTEND]))


def test_another_file_another_time_and_no_file_are_changes(path: Path) -> None:
    make_old(path)
    file = PropertiesFile(str(path))
    snapshot = file.load()
    edit_as_others_do(path, lambda tree: tree.update(theirs=1))
    assert file.changed(snapshot)
    path.unlink()
    assert file.changed(snapshot)


def test_a_change_that_leaves_size_and_time_is_noticed_while_the_file_is_fresh(path: Path) -> None:
    file = PropertiesFile(str(path))
    snapshot = file.save([SetDefaultViewConfiguration(None, {"zoom": 1})])
    state = path.stat()
    text = path.read_text()
    with path.open("r+") as others:
        others.write(text.replace('"zoom": 1', '"zoom": 2'))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.changed(snapshot)


def test_a_fresh_file_is_read_until_its_time_proves_something(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PropertiesFile(str(path))
    snapshot = file.load()
    assert snapshot.is_fresh
    assert not file.changed(snapshot)
    later = time.time_ns() + OLD_NANOSECONDS
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert not file.changed(snapshot)
    monkeypatch.setattr(file, "_read", pytest.fail)
    assert not file.changed(snapshot)


# -- files that cannot be used --


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"dataLayers": []}',
    ],
    ids=["empty", "cut", "list", "binary", "deep", "long number", "no scale"],
)
@pytest.mark.usefixtures("both_ways")
def test_a_file_that_cannot_be_understood_is_never_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    make_old(path)
    file = PropertiesFile(str(path))
    for call in (file.load, lambda: file.save([EXTEND])):
        with pytest.raises(NotAllowed) as caught:
            call()
        assert caught.value.reason is Reason.INVALID_PROPERTIES
        assert caught.value.metadata["file"] == str(path)
    assert path.read_bytes() == content
    assert files_beside(path) == []


def test_a_file_that_is_being_written_is_read_again_a_few_times(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = path.read_text()
    path.write_text(text[:20])
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            path.write_text(text)

    monkeypatch.setattr(time, "sleep", sleep)
    PropertiesFile(str(path)).load()
    assert len(pauses) == 3
    path.write_text(text[:20])
    with pytest.raises(NotAllowed):
        PropertiesFile(str(path)).load()
    assert sum(pauses[3:]) < 0.5
    make_old(path)
    del pauses[:]
    with pytest.raises(NotAllowed):
        PropertiesFile(str(path)).load()
    assert pauses == []


def test_a_file_that_is_too_large_is_not_read(path: Path) -> None:
    with path.open("r+b") as large:
        large.truncate(file_module.MAX_PROPERTIES_BYTES + 1)
    make_old(path)
    with pytest.raises(NotAllowed, match="more than"):
        PropertiesFile(str(path)).load()


def test_a_missing_file_is_no_dataset(tmp_path: Path) -> None:
    file = PropertiesFile(str(tmp_path / PROPERTIES_NAME))
    for call in (file.load, lambda: file.save([EXTEND])):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.reason is Reason.DATASET_NOT_FOUND


def test_a_pipe_or_a_folder_in_place_of_the_file_is_refused(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(NotAllowed):
        PropertiesFile(str(path)).load()
    path.unlink()
    path.mkdir()
    with pytest.raises(NotAllowed):
        PropertiesFile(str(path)).save([EXTEND])


@pytest.mark.usefixtures("both_ways")
def test_a_linked_file_is_written_where_it_is(path: Path) -> None:
    real = path.parent / "elsewhere" / "real.json"
    real.parent.mkdir()
    path.rename(real)
    path.symlink_to(real)
    file = PropertiesFile(str(path))
    file.recover()
    after = file.save([EXTEND])
    assert path.is_symlink()
    assert read(real) == after.tree
    assert not file.changed(after)
    assert os.listdir(real.parent) == ["real.json"]


def test_a_link_out_of_the_root_is_refused(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.json"
    path.rename(outside)
    path.symlink_to(outside)
    file = PropertiesFile(str(path))
    for call in (file.load, lambda: file.save([EXTEND])):
        with pytest.raises(NotAllowed) as caught:
            call()
        assert caught.value.reason is Reason.OUTSIDE_ROOT
    assert PropertiesFile(str(path), root=str(outside.parent.parent)).load().properties.layers


# -- creating --


@pytest.mark.usefixtures("both_ways")
def test_a_file_is_created_once(tmp_path: Path) -> None:
    path = tmp_path / PROPERTIES_NAME
    snapshot = PropertiesFile(str(path)).create(a_tree())
    assert read(path) == snapshot.tree
    assert PropertiesFile(str(path)).load().etag == snapshot.etag
    with pytest.raises(AlreadyExists) as caught:
        PropertiesFile(str(path)).create(a_tree())
    assert caught.value.reason is Reason.DATASET_EXISTS
    assert files_beside(path) == []


# -- errors of the system --


@pytest.mark.parametrize("failing", ["write", "fsync", "fchmod"])
def test_a_save_that_the_system_refuses_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    before = path.read_bytes()
    real = getattr(os, failing)

    def fail(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, failing, fail)
    file = PropertiesFile(str(path))
    with pytest.raises(DiskFull):
        file.save([EXTEND])
    assert path.read_bytes() == before
    assert files_beside(path) == []
    monkeypatch.setattr(os, failing, real)
    file.save([EXTEND])
    assert extent(path) == box(0, 0, 0, 4, 4, 4)


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    after = PropertiesFile(str(path)).save([EXTEND])
    assert read(path) == after.tree


def test_after_a_failed_sync_of_the_folder_the_next_save_writes_the_file_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PropertiesFile(str(path))
    real = atomic.fsync_folder

    def fail(folder: str) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(atomic, "fsync_folder", fail)
    with pytest.raises(DataLoss):
        file.save([EXTEND])
    monkeypatch.setattr(atomic, "fsync_folder", real)
    inode = path.stat().st_ino
    snapshot = file.save([EXTEND])
    assert path.stat().st_ino != inode
    assert extent(path) == box(0, 0, 0, 4, 4, 4)
    inode = path.stat().st_ino
    assert file.save([EXTEND]).etag == snapshot.etag
    assert path.stat().st_ino == inode


def test_what_is_right_already_is_synced_once_before_it_counts_as_saved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PropertiesFile(str(path)).save([EXTEND])
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    # Another process may have been killed between its exchange and its sync.
    file = PropertiesFile(str(path))
    file.save([EXTEND])
    assert synced == [str(path), str(path.parent)]
    file.save([EXTEND])
    assert len(synced) == 2


# -- crashes --


def test_a_crash_at_any_step_of_a_save_leaves_the_old_or_the_new_file(tmp_path: Path, both_ways: str) -> None:
    old = json.dumps(a_tree())
    new = apply_edits(a_tree(), [EXTEND])
    seen: set[str] = set()

    def prepare() -> Path:
        path = tmp_path / PROPERTIES_NAME
        path.write_text(old)
        return path

    def check(path: Path) -> None:
        found = read(path)
        assert found in (json.loads(old), new)
        seen.add("old" if found == json.loads(old) else "new")
        file = PropertiesFile(str(path))
        file.recover()
        assert read(path) == found
        assert files_beside(path) == []
        assert file.save([EXTEND]).tree == new

    crashes = crash_everywhere(prepare, lambda path: PropertiesFile(str(path)).save([EXTEND]), check)
    assert crashes >= 10
    assert seen == {"old", "new"}


def test_a_crash_at_any_step_of_a_save_loses_no_edit_of_others(tmp_path: Path) -> None:
    theirs = {**a_tree(), "theirs": 1}
    path = tmp_path / PROPERTIES_NAME
    acted: list[int] = []

    def prepare() -> None:
        path.write_text(json.dumps(a_tree()))
        acted.clear()

    def act(_: None) -> None:
        inner = atomic.exchange

        def exchange(a: str, b: str) -> bool:
            if not acted:
                acted.append(1)
                # Not by the functions that crash: this is another process.
                with path.open("w") as others:
                    others.write(json.dumps(theirs))
            return inner(a, b)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(atomic, "exchange", exchange)
            PropertiesFile(str(path)).save([EXTEND])

    def check(_: None) -> None:
        file = PropertiesFile(str(path))
        file.recover()
        assert files_beside(path) == []
        before = theirs if acted else a_tree()
        assert read(path) in (before, apply_edits(before, [EXTEND]))
        assert file.save([EXTEND]).tree == apply_edits(before, [EXTEND])

    assert crash_everywhere(prepare, act, check) >= 20


def test_recovery_puts_back_what_a_save_displaced_and_had_not_read(path: Path) -> None:
    ours = json.dumps(apply_edits(a_tree(), [EXTEND]))
    theirs = json.dumps({**a_tree(), "theirs": 1})
    for torn in (theirs, theirs[:30]):
        path.write_text(ours)
        etag = PropertiesFile(str(path)).load().etag
        beside = path.with_name(f".{PROPERTIES_NAME}.magd-{'0' * 32}-{etag}-12345678")
        beside.write_text(torn)
        PropertiesFile(str(path)).recover()
        # What is not JSON is a file that its writer never finished, and is not put in place of one that is.
        assert path.read_text() == (theirs if torn == theirs else ours)
        assert files_beside(path) == []


def test_recovery_touches_nothing_that_is_not_provably_ours(path: Path) -> None:
    for name in (f".{PROPERTIES_NAME}.swp", f"{PROPERTIES_NAME}.bak", f".{PROPERTIES_NAME}.magd-1", ".magd"):
        path.with_name(name).write_text("x")
    before = files_beside(path)
    PropertiesFile(str(path)).recover()
    assert files_beside(path) == before
