"""What a check says about a root, without and with a repair: damage names the file, notes are for what is left, and
only what magd itself left goes away."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.catalog import folders, intents, leftovers, settling
from magd.catalog.checking import check_root
from magd.catalog.locks import lock_folder
from magd.catalog.names import DatasetName, LayerName, MagName
from magd.catalog.root import Root
from magd.cubes.header import BlockType, Header
from magd.cubes.mag_files import MagFiles
from magd.geometry import Box, Mag
from magd.journal.journal import Journal
from magd.journal.places import journal_folder, journal_path
from magd.journal.records import FileFormat
from magd.journal.recovery import recover
from magd.properties.edits import AddLayer, AddMag, RemoveMag
from magd.properties.file import PROPERTIES_NAME, PropertiesFile
from magd.properties.model import LayerCategory, VoxelSize
from magd.voxels import VoxelFormat
from tests.journal.journal_data import make_head, make_write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE = Mag.of(1)
UINT8 = VoxelFormat.of("uint8", 1)
HEADER = Header(UINT8, 8, 2, BlockType.RAW)
FORMAT = FileFormat(UINT8, 8, 2, BlockType.RAW)
NAME = DatasetName("d")
MAG = MagName("d", "l", ONE)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """With a dataset d, its layer l, and in that a mag 1 with one cube file."""
    (tmp_path / "root").mkdir()
    root = Root(str(tmp_path / "root"))
    home = folders.create_dataset_folder(root, "d", VoxelSize(1, 1, 1, "nanometer"))
    mag = os.path.join(folders.create_layer_folder(home, "l"), "1")
    with MagFiles.create(mag, HEADER) as files:
        files.write(Box.of((0, 0, 0), (16, 16, 16)), np.ones((1, 16, 16, 16), "uint8", order="F"))
    PropertiesFile(root.properties_path(NAME)).save(
        [AddLayer("l", LayerCategory.COLOR, UINT8), AddMag("l", ONE, "./l/1", HEADER.cube_len)]
    )
    return root


def path_of(root: Root, *parts: str) -> str:
    return os.path.join(root.path, "d", *parts)


def found(root: Root, resource: DatasetName | LayerName | MagName | None = None, **how: bool) -> dict[str, str]:
    """File and severity of all that a check finds."""
    files = check_root(root, resource, deep=True, **how)
    return {finding.file: finding.severity for file in files for finding in file.findings}


def begin_journal(root: Root, *, writes: int = 0) -> Journal:
    mag = path_of(root, "l", "1")
    journal = Journal.begin(mag, recover(mag, FORMAT), make_head(1, format=FORMAT))
    for counter in range(1, writes + 1):
        journal.append(make_write(counter, voxels=UINT8))
        journal.sync()  # the next record declares it to be on the disk
    return journal


def journal_file(root: Root) -> str:
    return journal_path(journal_folder(path_of(root, "l", "1")), 1)


def test_there_is_nothing_to_say_about_a_sound_dataset(root: Root) -> None:
    begin_journal(root).close()
    before = sorted(os.walk(root.path))
    for served in (False, True):
        assert found(root, is_served=served) == {}
    assert sorted(os.walk(root.path)) == before


# -- damage --


def test_a_record_that_was_on_the_disk_and_is_damaged_is_damage_of_the_journal_file(root: Root) -> None:
    begin_journal(root, writes=3).close()
    mag = path_of(root, "l", "1")
    (first, _, _) = recover(mag, FORMAT).writes
    with open(first.data_path, "r+b") as file:
        file.seek(first.data_offset)
        file.write(b"\xff")
    where = os.path.relpath(first.path, root.path)
    for served in (False, True):
        assert found(root, is_served=served) == {where: "damage"}
        assert found(root, MAG, is_served=served) == {where: "damage"}


def test_a_torn_end_of_a_journal_is_what_a_crash_leaves(root: Root) -> None:
    begin_journal(root).close()
    with open(journal_file(root), "ab") as file:
        file.write(b"the beginning of a record")
    assert found(root) == {}


def test_a_journal_without_a_head_is_damage(root: Root) -> None:
    begin_journal(root).close()
    os.truncate(journal_file(root), 10)
    assert found(root) == {os.path.relpath(journal_file(root), root.path): "damage"}


def test_a_journal_with_writes_for_other_cube_files_is_damage_and_one_without_is_left_over(root: Root) -> None:
    begin_journal(root, writes=1).close()
    header = path_of(root, "l", "1", "header.wkw")
    shutil.rmtree(path_of(root, "l", "1", "z0"))
    with open(header, "wb") as file:
        file.write(replace(HEADER, block_type=BlockType.LZ4).to_bytes())
    assert found(root) == {os.path.relpath(journal_file(root), root.path): "damage"}
    shutil.rmtree(path_of(root, "l", "1", ".magd"))
    begin_journal(root).close()
    assert found(root) == {os.path.relpath(journal_file(root), root.path): "note"}


def test_a_journal_file_that_vanishes_while_it_is_read_is_no_damage(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanished(folder: str, format: FileFormat) -> None:  # noqa: A002
        raise FileNotFoundError(folder)

    begin_journal(root).close()
    monkeypatch.setattr("magd.catalog.checking.recover", vanished)
    assert found(root, is_served=True) == {}


def test_an_intent_that_cannot_be_understood_is_damage_and_names_its_file(root: Root) -> None:
    with open(path_of(root, intents.INTENT_NAME), "w", encoding="utf-8") as file:
        file.write("{}")
    assert found(root) == {"d/.magd-intent.json": "damage"}
    assert found(root, MAG) == {}


@pytest.mark.parametrize("header", [replace(HEADER, file_len=4), replace(HEADER, voxels=VoxelFormat.of("int8", 1))])
def test_a_header_that_says_other_than_the_properties_is_damage(root: Root, header: Header) -> None:
    shutil.rmtree(path_of(root, "l", "1", "z0"))
    with open(path_of(root, "l", "1", "header.wkw"), "wb") as file:
        file.write(header.to_bytes())
    assert found(root) == {"d/l/1/header.wkw": "damage"}


@pytest.mark.parametrize("target", ["nowhere", "/etc"])
@pytest.mark.parametrize("place", ["", "l", "l/1", "l/1/header.wkw", "l/1/z0", "l/1/z0/y0", "l/1/z0/y0/x0.wkw"])
def test_links_that_lead_nowhere_or_out_are_found(root: Root, place: str, target: str) -> None:
    path = os.path.join(root.path, "d", place).rstrip("/")
    os.rename(path, os.path.join(os.path.dirname(root.path), "away"))
    os.symlink(target, path)
    severities = set(found(root).values())
    # A link in the root to some other folder is no dataset, and nobody said that it is one.
    assert severities == ({"damage"} if place else {"note"} if target == "nowhere" else set())


def test_properties_that_cannot_be_read_are_damage(root: Root) -> None:
    with open(path_of(root, PROPERTIES_NAME), "w", encoding="utf-8") as file:
        file.write("{")
    assert found(root) == {f"d/{PROPERTIES_NAME}": "damage"}


# -- notes --


def test_what_other_tools_left_is_told_and_a_repair_does_not_touch_it(root: Root) -> None:
    theirs = {
        "l/.rechunk-1234/1/header.wkw": "d/l/.rechunk-1234",
        "l/1/z0/y0/x1.wkw_tmp": "d/l/1/z0/y0/x1.wkw_tmp",
        "l/1/z0/y0/.x1.wkw.swp": "d/l/1/z0/y0/.x1.wkw.swp",
        "l/1/header.wkw~": "d/l/1/header.wkw~",
        "l/2/header.wkw": "d/l/2",
        "l/4-4-2/header.wkw": "d/l/4-4-2",
        "other/1/header.wkw": "d/other",
    }
    for place in theirs:
        os.makedirs(os.path.dirname(path_of(root, place)), exist_ok=True)
        with open(path_of(root, place), "wb") as file:
            file.write(HEADER.to_bytes())
    os.makedirs(path_of(root, "meshes", "1"))  # nothing says that this is a mag
    os.makedirs(path_of(root, "l", "8"))
    expected = dict.fromkeys(theirs.values(), "note")
    assert found(root) == expected
    assert remove(root) == []
    assert found(root) == expected


def test_a_mag_that_is_listed_with_a_path_elsewhere_is_not_told_as_unlisted(root: Root) -> None:
    os.rename(path_of(root, "l", "1"), path_of(root, "l", "2"))
    file = PropertiesFile(root.properties_path(NAME))
    file.save([RemoveMag("l", ONE)])
    file.save([AddMag("l", ONE, "./l/2", HEADER.cube_len)])
    assert found(root) == {}


def test_writes_that_wait_in_a_journal_are_told_when_no_daemon_is_there(root: Root) -> None:
    begin_journal(root, writes=2).close()
    (note,) = [finding for file in check_root(root, None, deep=False) for finding in file.findings]
    assert (note.file, note.severity) == ("d/l/1/.magd/journal", "note")
    assert note.message.startswith("2 committed writes")
    assert found(root, is_served=True) == {}
    assert remove(root) == []
    assert len(recover(path_of(root, "l", "1"), FORMAT).writes) == 2


def test_a_change_that_was_cut_short_is_told_and_left_by_a_repair(root: Root) -> None:
    home = path_of(root)
    hidden = folders.make_mag_folder(path_of(root, "l"), Mag.of(2), HEADER)
    intent = intents.creation(home, layer="l", mag=Mag.of(2), hidden=hidden, folder=path_of(root, "l", "2"))
    settling.begin(home, intent)
    os.mkdir(path_of(root, "l", ".1.magd-new-1"))  # the intent may name it: it stays as well
    for served in (False, True):
        assert found(root, is_served=served) == {
            "d/.magd-intent.json": "note",
            "d/l/2": "note",
            "d/l/.1.magd-new-1": "note",
        }
    assert remove(root) == []


# -- repair --


def remove(root: Root, *, is_quiet: bool = True) -> list[str]:
    removed = leftovers.remove_from_root(root)
    removed += leftovers.remove_from_dataset(root, NAME, is_served=False, is_quiet=is_quiet)
    for mag in leftovers.mags_of(root, NAME):
        removed += leftovers.remove_from_mag(root, mag)
    return sorted(removed)


def leave_everything(root: Root) -> list[str]:
    """Leave one of each, and say what it is, relative to the root."""
    begin_journal(root).close()
    mag = path_of(root, "l", "1")
    os.makedirs(os.path.join(mag, ".magd", "tmp"), exist_ok=True)
    files = [
        f".{PROPERTIES_NAME}.magd-{'0' * 32}-{'1' * 32}-01234567",
        ".magd-intent.json.new",
        "l/1/.magd/tmp/cube-0123456789abcdef.tmp",
        "l/1/.magd/journal/0000000000000007.journal.new",
        "l/1/.magd/journal/0000000000000009.side",
    ]
    for file in files:
        with open(path_of(root, file), "wb") as opened:
            opened.write(b"x")
    made = [".magd-new-0123456789abcdef", "l/.1.magd-new-7-1"]
    for folder in made:
        os.makedirs(path_of(root, folder, "z0"))
    os.mkdir(os.path.join(root.path, ".magd-new-fedcba9876543210"))
    return sorted([".magd-new-fedcba9876543210", *(f"d/{name}" for name in [*files, *made])])


def test_a_repair_removes_what_magd_left_and_nothing_else(root: Root) -> None:
    def everything() -> set[str]:
        return {os.path.join(place, name) for place, below, names in os.walk(root.path) for name in [*below, *names]}

    begin_journal(root).close()
    shutil.rmtree(path_of(root, "l", "1", ".magd"))
    left = leave_everything(root)
    assert sorted(found(root)) == left
    assert set(found(root).values()) == {"note"}
    before = everything()
    assert remove(root) == left
    assert found(root) == {}
    gone = {os.path.relpath(path, root.path) for path in before - everything()}
    assert all(path in left or os.path.dirname(path) in left for path in gone)
    assert os.path.exists(journal_file(root)), "it has the revision and the ids of the mag"
    assert remove(root) == []


def test_a_repair_passes_over_what_is_in_use_or_in_the_making(root: Root) -> None:
    left = leave_everything(root)
    with lock_folder(path_of(root, "l", "1"), shared=True):
        removed = remove(root, is_quiet=False)
    assert not [path for path in removed if path.startswith("d/l/")]
    assert "d/.magd-new-0123456789abcdef" not in removed
    assert set(remove(root)) | set(removed) == set(left)


def test_a_repair_touches_nothing_in_a_mag_that_is_damaged(root: Root) -> None:
    leave_everything(root)
    os.truncate(journal_file(root), 10)
    before = sorted(os.listdir(path_of(root, "l", "1", ".magd", "journal")))
    assert leftovers.remove_from_mag(root, MAG) == []
    assert sorted(os.listdir(path_of(root, "l", "1", ".magd", "journal"))) == before


@pytest.mark.parametrize(
    "name", [MagName("d", "none", ONE), MagName("d", "l", Mag.of(2)), MagName("none", "l", ONE)], ids=str
)
def test_there_is_nothing_to_remove_from_what_does_not_exist(root: Root, name: MagName) -> None:
    assert leftovers.remove_from_mag(root, name) == []


@pytest.mark.parametrize(
    ("resource", "count"), [(NAME, 1), (LayerName("d", "l"), 1), (MAG, 1), (LayerName("d", "x"), 0)], ids=str
)
def test_a_repair_can_be_for_a_part(root: Root, resource: DatasetName | LayerName | MagName, count: int) -> None:
    assert leftovers.mags_of(root, resource) == [MAG] * count


def test_a_link_in_place_of_a_layer_is_not_swept(root: Root, tmp_path: Path) -> None:
    make: Callable[[str], None] = os.mkdir
    os.rename(path_of(root, "l"), path_of(root, "elsewhere"))
    os.symlink("elsewhere", path_of(root, "l"))
    make(path_of(root, "elsewhere", ".1.magd-new-1"))
    assert remove(root) == []
    assert os.path.isdir(path_of(root, "elsewhere", ".1.magd-new-1"))
