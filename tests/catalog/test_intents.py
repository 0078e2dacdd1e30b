"""Changes of folders and properties together: cut short anywhere, they are as before or as after, and nothing that
another tool put in the way is touched."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from magd import atomic
from magd.catalog import folders, intents, settling
from magd.catalog.identity import identity_of
from magd.catalog.names import DatasetName
from magd.catalog.root import Root
from magd.cubes.header import BlockType, Header
from magd.errors import AlreadyExists, NotAllowed, Reason
from magd.geometry import Mag
from magd.properties.edits import AddLayer, AddMag, Edit, RemoveLayer, RemoveMag, RenameLayer
from magd.properties.file import PROPERTIES_NAME, PropertiesFile, Snapshot
from magd.properties.model import LayerCategory, VoxelSize
from magd.voxels import VoxelFormat
from tests.support.crashes import crash_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from magd.catalog.intents import Intent
    from magd.properties.forms import JsonObject

ONE, TWO = Mag.of(1), Mag.of(2)
UINT8 = VoxelFormat.of("uint8", 1)
HEADER = Header(UINT8, 32, 4, BlockType.RAW)
NAME = DatasetName("d")


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost time, and decide nothing where no power is lost."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["exchange", "no exchange"])
def has_exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Once with a file system that has the flags of renameat2, once with one that has not."""
    if request.param == "no exchange":
        monkeypatch.setattr(atomic, "_renameat2", lambda source, target, flags: False)
    return bool(request.param == "exchange")


@dataclass(frozen=True)
class SetCubeLength:
    """Stands for whatever sets it."""

    length: int

    def apply(self, tree: JsonObject) -> None:
        tree["dataLayers"][0]["mags"][0]["cubeLength"] = self.length


def dataset(path: Path) -> Path:
    """With a layer "l" that has mag 1 with something in it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    folders.create_dataset_folder(Root(str(path)), "d", VoxelSize(1, 1, 1, "nanometer"))
    home = path / "d"
    mag = home / "l" / "1"
    (mag / ".magd" / "journal").mkdir(parents=True)
    (mag / "header.wkw").write_bytes(HEADER.to_bytes())
    (mag / "data").write_text("one")
    (mag / ".magd" / "journal" / "x").write_text("journal")
    properties(home).save(
        [AddLayer("l", LayerCategory.COLOR, UINT8), AddMag("l", ONE, "./l/1", HEADER.cube_len)],
    )
    return home


def properties(home: Path) -> PropertiesFile:
    return PropertiesFile(str(home / PROPERTIES_NAME))


def tree(home: Path) -> dict[str, str]:
    """Every file with its text, every empty folder and every link; names in the trash without time and chance."""
    found: dict[str, str] = {}
    for place, below, names in os.walk(home):
        for name in [*names, *below]:
            path = os.path.join(place, name)
            shown = os.path.relpath(path, home)
            if shown.startswith(folders.TRASH + "/"):
                parts = shown.split("/")
                shown = "/".join([*parts[:2], parts[2].split("-2")[0], *parts[3:]])
            if os.path.islink(path):
                found[shown] = f"link to {os.readlink(path)}"
            elif name in below:
                if not os.listdir(path) and not shown.startswith(".magd"):
                    found[shown] = "empty"
            else:
                with open(path, "rb") as file:
                    found[shown] = file.read().decode("latin-1")
    return found


@dataclass(frozen=True)
class Change:
    """One kind of change, as the coordinator makes it."""

    intend: Callable[[Path], Intent | None]
    edits: tuple[Edit, ...]

    def carry_out(self, home: Path) -> None:
        intent = self.intend(home)
        assert intent is not None
        settling.begin(str(home), intent)
        now = properties(home).save(self.edits)
        assert settling.settle(str(home), intent, now) == []


def make_layer(home: Path) -> Intent:
    hidden = folders.make_layer_folder(str(home))
    return intents.creation(str(home), layer="m", mag=None, hidden=hidden, folder=str(home / "m"))


def make_mag(home: Path) -> Intent:
    hidden = folders.make_mag_folder(str(home / "l"), TWO, HEADER)
    return intents.creation(str(home), layer="l", mag=TWO, hidden=hidden, folder=str(home / "l" / "2"))


def adopt(home: Path) -> Intent:
    hidden = home / "l" / ".2.magd-new-7-1"
    hidden.mkdir()
    (hidden / "data").write_text("two")
    return intents.creation(str(home), layer="l", mag=TWO, hidden=str(hidden), folder=str(home / "l" / "2"))


def remove_mag(home: Path) -> Intent:
    folder = str(home / "l" / "1")
    return intents.removal(str(home), layer="l", mag=ONE, folder=folder, trash=folders.trash_place(str(home), "1"))


def remove_layer(home: Path) -> Intent:
    trash = folders.trash_place(str(home), "l")
    return intents.removal(str(home), layer="l", mag=None, folder=str(home / "l"), trash=trash)


def rename_layer(home: Path) -> Intent | None:
    return intents.renaming(str(home), old="l", new="m")


def exchange(home: Path) -> Intent:
    hidden = home / "l" / ".1.magd-new-7-1"
    hidden.mkdir()
    (hidden / "header.wkw").write_bytes(Header(UINT8, 32, 2, BlockType.RAW).to_bytes())
    (hidden / "data").write_text("one")
    return intents.exchange(
        str(home), layer="l", mag=ONE, folder=str(home / "l" / "1"), hidden=str(hidden), cube_length=64
    )


ADD_TWO = AddMag("l", TWO, "./l/2", HEADER.cube_len)
CHANGES: Final = {
    "create layer": Change(make_layer, (AddLayer("m", LayerCategory.COLOR, UINT8),)),
    "create mag": Change(make_mag, (ADD_TWO,)),
    "adopt": Change(adopt, (ADD_TWO,)),
    "delete mag": Change(remove_mag, (RemoveMag("l", ONE),)),
    "delete layer": Change(remove_layer, (RemoveLayer("l"),)),
    "rename layer": Change(rename_layer, (RenameLayer("l", "m"),)),
    "exchange": Change(exchange, (SetCubeLength(64),)),
}


@pytest.fixture(params=CHANGES)
def change(request: pytest.FixtureRequest) -> Change:
    return CHANGES[str(request.param)]


def recover(home: Path) -> list[str]:
    """What happens when the dataset is opened."""
    file = properties(home)
    file.recover()
    notes: list[str] = []
    intent = intents.read(str(home))
    if intent is not None:
        notes = settling.settle(str(home), intent, file.save([]))
    for folder in (home, home / "l", home / "m"):
        if folder.exists():
            folders.sweep(str(folder))
    atomic.unlink_if_there(str(home / ".magd-intent.json.new"))
    return notes


def check_view(home: Path) -> None:
    """That a reader finds the data of every mag that the properties list, whatever was cut short."""
    root = Root(str(home.parent), read_only=True)
    now = properties(home).load()
    for layer in now.properties.layers:
        for mag in layer.mags:
            folder = root.mag_folder(NAME, layer, mag)
            assert os.path.exists(os.path.join(folder, "data")) or mag.mag == TWO
            if mag.mag == ONE:
                with open(os.path.join(folder, "data"), encoding="utf-8") as file:
                    assert file.read() == "one"


def before_and_after(path: Path, change: Change) -> tuple[dict[str, str], dict[str, str]]:
    home = dataset(path)
    before = tree(home)
    change.carry_out(home)
    assert recover(home) == []
    after = tree(home)
    assert after != before
    return before, after


def test_a_change_is_made_and_leaves_no_intent(tmp_path: Path, change: Change) -> None:
    _, after = before_and_after(tmp_path / "root", change)
    assert not [name for name in after if "intent" in name or "magd-new" in name or after[name].startswith("link")]


@pytest.mark.usefixtures("has_exchange")
def test_a_crash_at_any_step_leaves_it_as_before_or_as_after_and_so_does_one_in_the_recovery(
    tmp_path: Path, change: Change
) -> None:
    before, after = before_and_after(tmp_path / "root", change)
    seen: set[bool] = set()
    crashes = 0
    for step in range(100):
        for has_happened in (False, True):
            home = dataset(tmp_path / "root")
            with crash_at(step, after=has_happened) as done:
                change.carry_out(home)
            if len(done) <= step:
                assert crashes >= 20
                assert seen == {True, False}
                return
            crashes += 1
            shutil.copytree(home, tmp_path / "copy", symlinks=True)  # a copy elsewhere opens as well
            recover(tmp_path / "copy")
            properties(tmp_path / "copy").load()
            shutil.rmtree(tmp_path / "copy")
            # The recovery dies after some steps, and after some more, until it comes to its end.
            for recovery_step in range(100):
                with crash_at(recovery_step % 7, after=bool(recovery_step % 2)) as done:
                    recover(home)
                if len(done) <= recovery_step % 7:
                    break
            recover(home)
            assert tree(home) in (before, after), (step, has_happened)
            seen.add(tree(home) == after)
    raise AssertionError("it never came to its end")


def test_readers_find_every_listed_mag_after_a_crash_at_any_step(tmp_path: Path, change: Change) -> None:
    step = 0
    while True:
        for has_happened in (False, True):
            home = dataset(tmp_path / "root")
            with crash_at(step, after=has_happened) as done:
                change.carry_out(home)
            if len(done) <= step:
                return
            check_view(home)
        step += 1


def test_a_folder_that_another_tool_made_under_the_same_name_is_not_swallowed(tmp_path: Path) -> None:
    home = dataset(tmp_path / "root")
    intent = remove_mag(home)
    settling.begin(str(home), intent)
    properties(home).save([RemoveMag("l", ONE)])
    shutil.rmtree(home / "l" / "1")
    (home / "l" / "1").mkdir()  # most file systems give it the number of the one before
    (home / "l" / "1" / "theirs").write_text("x")
    (note,) = recover(home)
    assert "stays" in note
    assert (home / "l" / "1" / "theirs").read_text() == "x"
    assert not (home / ".magd-intent.json").exists()


def test_a_new_folder_of_another_tool_is_not_removed_with_a_creation_that_is_undone(tmp_path: Path) -> None:
    home = dataset(tmp_path / "root")
    settling.begin(str(home), make_mag(home))
    shutil.rmtree(home / "l" / "2")
    (home / "l" / "2").mkdir()
    (home / "l" / "2" / "theirs").write_text("x")
    recover(home)
    assert (home / "l" / "2" / "theirs").read_text() == "x"


def test_an_empty_layer_that_was_filled_meanwhile_stays(tmp_path: Path) -> None:
    home = dataset(tmp_path / "root")
    settling.begin(str(home), make_layer(home))
    (home / "m" / "theirs").write_text("x")
    (note,) = recover(home)
    assert "not empty" in note
    assert (home / "m" / "theirs").read_text() == "x"


def test_something_else_under_the_new_name_of_a_layer_stays(tmp_path: Path) -> None:
    home = dataset(tmp_path / "root")
    intent = rename_layer(home)
    assert intent is not None
    settling.begin(str(home), intent)
    properties(home).save([RenameLayer("l", "m")])
    (home / "m").unlink()
    (home / "m").mkdir()
    (note,) = recover(home)
    assert "something else" in note
    assert (home / "l" / "1" / "data").read_text() == "one"
    assert os.listdir(home / "m") == []


def test_a_layer_that_is_a_link_is_renamed_itself(tmp_path: Path) -> None:
    home = dataset(tmp_path / "root")
    (home / "l").rename(home / "elsewhere")
    (home / "l").symlink_to("elsewhere")
    CHANGES["rename layer"].carry_out(home)
    assert os.readlink(home / "m") == "elsewhere"
    assert not os.path.lexists(home / "l")
    check_view(home)


def test_a_layer_without_a_folder_needs_no_intent_and_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    home = dataset(tmp_path / "root")
    assert intents.renaming(str(home), old="none", new="m") is None
    (home / "m").symlink_to("nowhere")
    with pytest.raises(AlreadyExists) as caught:
        intents.renaming(str(home), old="l", new="m")
    assert caught.value.reason is Reason.LAYER_EXISTS


@pytest.mark.parametrize("name", ["2", "m"])
def test_a_name_that_was_taken_meanwhile_is_refused_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    home = dataset(tmp_path / "root")
    intent = make_mag(home) if name == "2" else make_layer(home)
    (home / intent.folder).mkdir()
    with pytest.raises(AlreadyExists) as caught:
        settling.begin(str(home), intent)
    assert caught.value.reason is (Reason.MAG_EXISTS if name == "2" else Reason.LAYER_EXISTS)
    settling.settle(str(home), intent, properties(home).load())
    assert (home / intent.folder).is_dir()
    assert not [path for path in tree(home) if "magd" in path and not path.startswith("l/1/")]


GOOD = {"version": 1, "kind": "create", "layer": "l", "mag": "2", "folder": "l/2", "identity": "x", "hidden": "l/.2"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 10_000,
        json.dumps({}),
        json.dumps({**GOOD, "version": 2}),
        json.dumps({**GOOD, "kind": "destroy"}),
        json.dumps({**GOOD, "more": 1}),
        json.dumps({key: value for key, value in GOOD.items() if key != "hidden"}),
        json.dumps({**GOOD, "mag": 2}),
        json.dumps({**GOOD, "mag": "two"}),
        json.dumps({**GOOD, "identity": ""}),
        json.dumps({**GOOD, "folder": "../l/2"}),
        json.dumps({**GOOD, "folder": "/l/2"}),
        json.dumps({**GOOD, "hidden": "l/../../x"}),
        json.dumps({**GOOD, "hidden": "."}),
    ],
)
def test_an_intent_that_cannot_be_understood_is_told_and_left(tmp_path: Path, text: str) -> None:
    home = dataset(tmp_path / "root")
    (home / intents.INTENT_NAME).write_text(text)
    before = tree(home)
    with pytest.raises(NotAllowed) as caught:
        intents.read(str(home))
    assert caught.value.reason is Reason.CHANGED_ON_DISK
    assert caught.value.metadata["file"] == str(home / intents.INTENT_NAME)
    assert tree(home) == before
    change = make_mag(home)
    with pytest.raises(NotAllowed) as caught:
        settling.begin(str(home), change)
    assert caught.value.reason is Reason.CHANGED_ON_DISK
    assert (home / intents.INTENT_NAME).read_text() == text


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    for change in CHANGES.values():
        home = dataset(tmp_path / "root")
        intent = change.intend(home)
        assert intent is not None
        settling.begin(str(home), intent)
        assert intents.read(str(home)) == intent
    shutil.rmtree(tmp_path / "root" / "d")
    (tmp_path / "root" / "d").mkdir()
    assert intents.read(str(tmp_path / "root" / "d")) is None


def test_properties_from_which_nothing_can_be_told_decide_nothing(tmp_path: Path) -> None:
    home = dataset(tmp_path / "root")
    intent = remove_mag(home)
    settling.begin(str(home), intent)
    path = home / PROPERTIES_NAME
    path.write_text(path.read_text().replace('"mag": [', '"magnification": ['))
    now: Snapshot = properties(home).load()
    before = tree(home)
    with pytest.raises(NotAllowed) as caught:
        settling.settle(str(home), intent, now)
    assert caught.value.reason is Reason.CHANGED_ON_DISK
    assert tree(home) == before


def test_a_mag_elsewhere_in_the_dataset_goes_to_its_trash_and_one_outside_does_not(tmp_path: Path) -> None:
    home = dataset(tmp_path / "root")
    (home / "l" / "1").rename(home / "other")
    trash = folders.trash_place(str(home), "other")
    intent = intents.removal(str(home), layer="l", mag=ONE, folder=str(home / "other"), trash=trash)
    settling.begin(str(home), intent)
    settling.settle(str(home), intent, properties(home).save([RemoveMag("l", ONE)]))
    assert not (home / "other").exists()
    with open(os.path.join(trash, "data"), encoding="utf-8") as file:
        assert file.read() == "one"
    (tmp_path / "outside").mkdir()
    with pytest.raises(NotAllowed) as caught:
        intents.removal(str(home), layer="l", mag=ONE, folder=str(tmp_path / "outside"), trash=trash)
    assert caught.value.reason is Reason.OUTSIDE_ROOT


# -- identity --


def test_a_folder_keeps_its_identity_when_it_is_renamed_and_a_later_one_has_another(tmp_path: Path) -> None:
    seen = set()
    for _ in range(20):
        (tmp_path / "a").mkdir()
        identity = identity_of(str(tmp_path / "a"))
        assert identity
        (tmp_path / "a").rename(tmp_path / "b")
        assert identity_of(str(tmp_path / "b")) == identity
        seen.add(identity)
        (tmp_path / "b").rmdir()
    assert len(seen) == 20 or all(identity.startswith("inode") for identity in seen)


def test_a_link_has_an_identity_of_its_own_and_nothing_has_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert identity_of(str(tmp_path / "link")) != identity_of(str(tmp_path / "a"))
    assert identity_of(str(tmp_path / "none")) == ""
    assert identity_of(str(tmp_path / "none" / "below")) == ""


def test_without_handles_the_number_has_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magd.catalog.identity._handle_of", lambda path: "")
    assert identity_of(str(tmp_path)) == f"inode {os.stat(tmp_path).st_ino}"
