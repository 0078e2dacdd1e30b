"""Making, moving and exchanging folders: what they leave when all goes well, and when the process dies."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from magd import atomic
from magd.catalog import folders
from magd.catalog.locks import lock_folder
from magd.catalog.names import DatasetName
from magd.catalog.root import Root
from magd.cubes.header import BlockType, Header
from magd.errors import AlreadyExists, DataLoss, InternalError, NotAllowed, Reason
from magd.geometry import Mag
from magd.properties.file import PROPERTIES_NAME, PropertiesFile
from magd.properties.model import VoxelSize
from magd.voxels import VoxelFormat
from tests.support.crashes import crash_everywhere

SIZE = VoxelSize(11.24, 11.24, 28.0, "nanometer")
HEADER = Header(VoxelFormat.of("uint8", 1), 32, 32, BlockType.RAW)
MAG = Mag.of("2-2-1")


@pytest.fixture(params=["exchange", "no exchange"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Once with a file system that has the flags of renameat2, once with one that has not."""
    if request.param == "no exchange":
        monkeypatch.setattr(atomic, "_renameat2", lambda source, target, flags: False)
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def fresh(folder: Path) -> Root:
    """An empty root folder in place of whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return Root(str(folder))


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text, and every empty folder."""
    found: dict[str, str] = {}
    for place, below, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            found[str(file.relative_to(folder))] = file.read_bytes().decode("latin-1")
        if not below and not names and place != str(folder):
            found[os.path.relpath(place, folder)] = "empty"
    return found


# -- datasets --


@pytest.mark.usefixtures("both_ways")
def test_a_dataset_is_made_once_and_leaves_nothing_else(folder: Path) -> None:
    root = Root(str(folder))
    assert folders.create_dataset_folder(root, "a", SIZE) == str(folder / "a")
    assert list(tree(folder)) == [f"a/{PROPERTIES_NAME}"]
    assert PropertiesFile(root.properties_path(DatasetName("a"))).load().properties.voxel_size == SIZE
    before = tree(folder)
    with pytest.raises(AlreadyExists) as caught:
        folders.create_dataset_folder(root, "a", SIZE)
    assert caught.value.reason is Reason.DATASET_EXISTS
    assert tree(folder) == before
    assert os.listdir(folder) == ["a"]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("what", ["folder", "file", "dangling link"])
def test_a_dataset_does_not_replace_anything_of_its_name(folder: Path, what: str) -> None:
    if what == "folder":
        (folder / "a").mkdir()
    elif what == "file":
        (folder / "a").write_text("x")
    else:
        (folder / "a").symlink_to("nowhere")
    with pytest.raises(AlreadyExists):
        folders.create_dataset_folder(Root(str(folder)), "a", SIZE)
    assert os.listdir(folder) == ["a"]


@pytest.mark.usefixtures("both_ways")
def test_a_crash_at_any_step_leaves_no_dataset_or_a_whole_one(folder: Path) -> None:
    seen: set[bool] = set()

    def check(root: Root) -> None:
        names = list(root.dataset_names())
        assert names in ([], ["a"])
        seen.add(bool(names))
        if names:
            PropertiesFile(root.properties_path(DatasetName("a"))).load()
        folders.sweep(root.path)
        assert os.listdir(root.path) == names

    crashes = crash_everywhere(
        lambda: fresh(folder), lambda root: folders.create_dataset_folder(root, "a", SIZE), check
    )
    assert crashes >= 12
    assert seen == {True, False}


# -- layers and mags --


def test_the_folder_of_a_layer_is_made_or_taken(folder: Path) -> None:
    assert folders.create_layer_folder(str(folder), "color") == str(folder / "color")
    (folder / "color" / "1").mkdir()
    assert folders.create_layer_folder(str(folder), "color") == str(folder / "color")
    (folder / "file").write_text("x")
    with pytest.raises(AlreadyExists) as caught:
        folders.create_layer_folder(str(folder), "file")
    assert caught.value.reason is Reason.LAYER_EXISTS


def test_no_layer_is_made_in_a_link_out_of_the_dataset(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "a").mkdir()
    (folder / "a" / "color").symlink_to(folder / "other")
    with pytest.raises(NotAllowed) as caught:
        folders.create_layer_folder(str(folder / "a"), "color")
    assert caught.value.reason is Reason.OUTSIDE_ROOT


def make_and_place(layer: Path, mag: Mag = MAG) -> Path:
    made = folders.make_mag_folder(str(layer), mag, HEADER)
    folders.place(made, str(layer / mag.name), Reason.MAG_EXISTS)
    return layer / mag.name


@pytest.mark.usefixtures("both_ways")
def test_a_mag_is_made_under_its_short_name_with_a_header(folder: Path) -> None:
    made = make_and_place(folder, Mag.of((2, 2, 2)))
    assert made == folder / "2"
    assert Header.parse((folder / "2" / "header.wkw").read_bytes(), file="f") == HEADER
    assert list(tree(folder)) == ["2/header.wkw"]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("name", ["2", "2-2-2"])
@pytest.mark.parametrize("what", ["data", "header only", "empty folder", "link", "file"])
def test_a_mag_never_takes_the_place_of_anything(folder: Path, name: str, what: str) -> None:
    if what in ("data", "header only", "empty folder"):
        (folder / name).mkdir()
    if what == "data":
        (folder / name / "z0" / "y0").mkdir(parents=True)
        (folder / name / "z0" / "y0" / "x0.wkw").write_text("voxels")
    if what in ("data", "header only"):
        (folder / name / "header.wkw").write_text("header")
    elif what == "link":
        (folder / "elsewhere").mkdir()
        (folder / name).symlink_to(folder / "elsewhere")
    elif what == "file":
        (folder / name).write_text("x")
    before = tree(folder)
    with pytest.raises(AlreadyExists) as caught:
        make_and_place(folder, Mag.of(2))
    assert caught.value.reason is Reason.MAG_EXISTS
    assert tree(folder) == before


@pytest.mark.usefixtures("both_ways")
def test_what_took_the_place_of_a_mag_meanwhile_stays(folder: Path) -> None:
    made = folders.make_mag_folder(str(folder), MAG, HEADER)
    (folder / MAG.name).mkdir()
    with pytest.raises(AlreadyExists) as caught:
        folders.place(made, str(folder / MAG.name), Reason.MAG_EXISTS)
    assert caught.value.reason is Reason.MAG_EXISTS
    assert os.listdir(folder / MAG.name) == []


@pytest.mark.usefixtures("both_ways")
def test_a_crash_at_any_step_leaves_no_mag_or_one_with_its_header(folder: Path) -> None:
    seen: set[bool] = set()

    def check(root: Root) -> None:
        folders.sweep(root.path)
        expected = HEADER.to_bytes().decode("latin-1")
        assert tree(folder) in ({}, {"2-2-1/header.wkw": expected})
        seen.add(bool(tree(folder)))

    assert crash_everywhere(lambda: fresh(folder), lambda _: make_and_place(folder), check) >= 10
    assert seen == {True, False}


def test_a_crash_while_a_layer_is_made_leaves_nothing_or_an_empty_folder(folder: Path) -> None:
    def act(_: Root) -> None:
        folders.place(folders.make_layer_folder(str(folder)), str(folder / "color"), Reason.LAYER_EXISTS)

    def check(root: Root) -> None:
        folders.sweep(root.path)
        assert tree(folder) in ({}, {"color": "empty"})

    assert crash_everywhere(lambda: fresh(folder), act, check) >= 6


# -- trash --


def test_a_dataset_goes_to_the_trash_of_the_root_with_all_in_it(folder: Path) -> None:
    root = Root(str(folder))
    (folder / "a" / "color" / "1").mkdir(parents=True)
    (folder / "a" / "color" / "1" / "x").write_text("1")
    place = folders.trash(root, str(folder / "a"))
    assert re.fullmatch(r".magd/trash/a-\d{8}T\d{6}Z-[0-9a-f]{8}", place)
    assert tree(folder) == {f"{place}/color/1/x": "1"}
    assert list(root.dataset_names()) == []


def test_the_parts_of_a_dataset_go_to_its_own_trash(folder: Path) -> None:
    (folder / "color" / "1").mkdir(parents=True)
    (folder / "color" / "1" / "x").write_text("1")
    place = folders.trash_place(str(folder), "1")
    assert re.fullmatch(rf"{re.escape(str(folder))}/.magd/trash/1-\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}}", place)
    folders.move_to_trash(str(folder / "color" / "1"), place, str(folder))
    assert tree(folder) == {"color": "empty", f"{os.path.relpath(place, folder)}/x": "1"}


def test_the_same_name_can_be_thrown_away_again_and_again_and_may_be_long(folder: Path) -> None:
    root = Root(str(folder))
    name = "ä" * 127
    for _ in range(3):
        (folder / name).mkdir()
        folders.trash(root, str(folder / name))
    assert len(os.listdir(folder / ".magd" / "trash")) == 3


def test_a_link_is_thrown_away_and_not_what_it_leads_to(folder: Path) -> None:
    (folder / "b" / "color" / "1").mkdir(parents=True)
    (folder / "a").symlink_to(folder / "b")
    place = folders.trash(Root(str(folder)), str(folder / "a"))
    assert (folder / place).is_symlink()
    assert (folder / "b" / "color" / "1").is_dir()


def test_what_is_missing_cannot_be_thrown_away(folder: Path) -> None:
    with pytest.raises(DataLoss) as caught:
        folders.trash(Root(str(folder)), str(folder / "none"))
    assert caught.value.metadata["errno"] == "ENOENT"


def test_a_crash_while_throwing_away_leaves_the_folder_in_one_place(folder: Path) -> None:
    def prepare() -> Root:
        root = fresh(folder)
        (folder / "a").mkdir()
        (folder / "a" / "x").write_text("x")
        return root

    def check(_: Root) -> None:
        files = [name for name, text in tree(folder).items() if text != "empty"]
        assert len(files) == 1
        assert files[0] == "a/x" or files[0].startswith(".magd/trash/a-")

    assert crash_everywhere(prepare, lambda root: folders.trash(root, str(folder / "a")), check) >= 10


# -- exchange --


def two_mags(folder: Path) -> Path:
    layer = folder / "color"
    shutil.rmtree(layer, ignore_errors=True)
    for name, text in (("1", "old"), (".1.magd-new-7-1", "new")):
        (layer / name).mkdir(parents=True)
        (layer / name / "x").write_text(text)
    return layer


def exchange(layer: Path) -> None:
    folders.exchange_mag_folders(str(layer / "1"), str(layer / ".1.magd-new-7-1"))


@pytest.mark.usefixtures("both_ways")
def test_an_exchange_swaps_the_two_folders(folder: Path) -> None:
    layer = two_mags(folder)
    exchange(layer)
    assert tree(layer) == {"1/x": "new", ".1.magd-new-7-1/x": "old"}
    folders.recover_exchange(live=str(layer / "1"))
    folders.sweep(str(layer))
    assert tree(layer) == {"1/x": "new"}


@pytest.mark.usefixtures("both_ways")
def test_a_crash_at_any_step_of_an_exchange_leaves_one_of_the_two(folder: Path) -> None:
    seen: set[str] = set()

    def check(layer: Path) -> None:
        folders.recover_exchange(live=str(layer / "1"))
        found = tree(layer)["1/x"]
        seen.add(found)
        folders.sweep(str(layer))
        assert tree(layer) == {"1/x": found}

    assert crash_everywhere(lambda: two_mags(folder), exchange, check) >= 6
    assert seen == {"old", "new"}


def test_a_crash_at_any_step_of_the_recovery_itself_can_be_recovered(folder: Path) -> None:
    for names in ((".1.magd-old",), (".1.magd-old", "1")):

        def prepare(names: tuple[str, ...] = names) -> Path:
            layer = two_mags(folder)
            shutil.rmtree(layer / "1")
            for name in names:
                (layer / name).mkdir()
                (layer / name / "x").write_text(name)
            return layer

        def check(layer: Path, names: tuple[str, ...] = names) -> None:
            folders.recover_exchange(live=str(layer / "1"))
            folders.sweep(str(layer))
            assert tree(layer) == {"1/x": names[-1]}

        assert crash_everywhere(prepare, lambda layer: folders.recover_exchange(live=str(layer / "1")), check)


def test_an_exchange_under_way_elsewhere_is_not_recovered(folder: Path) -> None:
    layer = two_mags(folder)
    with lock_folder(str(layer / "1"), shared=False):
        os.rename(layer / "1", layer / ".1.magd-old")
        before = tree(layer)
        folders.recover_exchange(live=str(layer / "1"))
        assert tree(layer) == before


def test_an_exchange_that_the_system_refuses_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = two_mags(folder)
    before = tree(layer)

    def fail(a: str, b: str) -> bool:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(atomic, "exchange", fail)
    with pytest.raises(DataLoss):
        exchange(layer)
    assert tree(layer) == before


# -- removing --


def test_only_temporaries_of_magd_are_removed(folder: Path) -> None:
    for name in ("1", ".1", ".magd", ".rechunk-1234", "magd-new-1", "x.magd-new-1", "."):
        (folder / name).mkdir(exist_ok=True)
        with pytest.raises(InternalError):
            folders.remove_tree(str(folder / name))
        assert (folder / name).is_dir()
    folders.sweep(str(folder))
    assert sorted(os.listdir(folder)) == [".1", ".magd", ".rechunk-1234", "1", "magd-new-1", "x.magd-new-1"]


def test_a_temporary_is_removed_without_following_links(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "x").write_text("x")
    (folder / ".1.magd-new-1").mkdir()
    (folder / ".1.magd-new-1" / "link").symlink_to(folder / "data")
    (folder / ".2.magd-new-1").symlink_to(folder / "data")
    folders.sweep(str(folder))
    folders.remove_tree(str(folder / ".3.magd-new-gone"))
    assert tree(folder) == {"data/x": "x"}


def test_a_linked_layer_is_not_swept(folder: Path) -> None:
    (folder / "b" / ".1.magd-new-1").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "b")
    folders.sweep(str(folder / "link"))
    assert (folder / "b" / ".1.magd-new-1").is_dir()


def test_a_file_is_no_temporary_of_ours(folder: Path) -> None:
    (folder / ".magd-new-1").write_text("x")
    folders.sweep(str(folder))
    assert tree(folder) == {".magd-new-1": "x"}
