"""WKW folders as sources, against datasets that `wkw` wrote."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magd.cli.failures import CommandError, MissingExtra
from magd.cli.importing.command import targets_of
from magd.cli.importing.open import NamedSource, Opened, SourceOptions, open_sources
from magd.cli.importing.source import VoxelSizeInUnit
from magd.cli.names import parse
from magd.errors import DataLoss
from magd.geometry import ORIGIN, Box, Mag, Vec3

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.data import SampleMag

    Open = Callable[[str | os.PathLike[str]], Opened]


@pytest.fixture
def open_at() -> Iterator[Open]:
    """Open sources, which are closed when the test ends."""
    opened: list[Opened] = []

    def open_and_note(path: str | os.PathLike[str]) -> Opened:
        opened.append(open_sources(str(path), SourceOptions()))
        return opened[-1]

    yield open_and_note
    for one in opened:
        one.close()


def check(named: NamedSource, expected: SampleMag) -> None:
    info = named.source.info
    assert (info.offset, info.size) == (Vec3.of(expected.offset), Vec3.of(expected.size))
    np.testing.assert_array_equal(named.source.read(Box(ORIGIN, info.size)), expected.data)
    cut = Box.of((3, 5, 7), (40, 30, 20))
    np.testing.assert_array_equal(named.source.read(cut), expected.data[:, 3:43, 5:35, 7:27])


def test_a_dataset_is_all_mags_of_all_layers(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]], open_at: Open
) -> None:
    folder, expected = sample
    opened = open_at(folder)
    assert opened.left_out == []
    found = {(named.layer, str(named.mag)): named for named in opened.sources}
    assert found.keys() == expected.keys()
    for key, mag in expected.items():
        check(found[key], mag)
    assert {named.source.info.category for named in opened.sources if named.layer == "color"} == {"color"}
    ids = [named.source.info.largest_segment_id for named in opened.sources if named.layer == "segmentation"]
    assert ids[0] is not None


def test_the_voxel_size_is_that_of_the_mag(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]], open_at: Open
) -> None:
    (named,) = open_at(sample[0] / "color" / "4-4-2").sources
    size = named.source.info.voxel_size
    assert isinstance(size, VoxelSizeInUnit)
    assert size.factor == pytest.approx((44.96, 44.96, 56.0))
    assert size.unit == "nanometer"


def test_a_layer_is_its_mags(sample: tuple[Path, dict[tuple[str, str], SampleMag]], open_at: Open) -> None:
    opened = open_at(sample[0] / "segmentation")
    assert [(named.layer, str(named.mag)) for named in opened.sources] == [
        ("segmentation", "1"),
        ("segmentation", "2-2-1"),
        ("segmentation", "4-4-2"),
    ]


def test_a_mag_is_itself(sample: tuple[Path, dict[tuple[str, str], SampleMag]], open_at: Open) -> None:
    folder, expected = sample
    (named,) = open_at(f"{folder}/color/2-2-1/").sources
    assert (named.layer, named.mag) == ("color", Mag.of((2, 2, 1)))
    check(named, expected["color", "2-2-1"])


def test_a_mag_outside_of_a_dataset_goes_as_far_as_its_cube_files(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]], tmp_path: Path, open_at: Open
) -> None:
    folder, expected = sample
    shutil.copytree(folder / "color" / "1", tmp_path / "copied")
    (named,) = open_at(tmp_path / "copied").sources
    assert (named.layer, named.mag) == (None, None)
    info = named.source.info
    whole = expected["color", "1"]
    assert all(length % 512 == 0 for length in (*info.offset, *info.size))
    start = Vec3.of(whole.offset) - info.offset
    np.testing.assert_array_equal(named.source.read(Box(start, Vec3.of(whole.size))), whole.data)
    assert "as far as its cube files go" in info.notes[0]


def test_what_cannot_be_imported_is_left_out_with_a_word(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]], tmp_path: Path, open_at: Open
) -> None:
    shutil.copytree(sample[0], tmp_path / "sample")
    properties = tmp_path / "sample" / "datasource-properties.json"
    tree: dict[str, Any] = json.loads(properties.read_text())
    tree["dataLayers"][0]["dataFormat"] = "zarr3"
    tree["dataLayers"].append({**tree["dataLayers"][1], "name": "empty"})
    tree["dataLayers"][2]["boundingBox"] = {"topLeft": [-1, -1, -1], "width": -1, "height": -1, "depth": -1}
    properties.write_text(json.dumps(tree))
    opened = open_at(tmp_path / "sample")
    assert {named.layer for named in opened.sources} == {"segmentation"}
    assert [text.split(" is left out: ")[0] for text in opened.left_out] == ["layer color", "layer empty"]
    with pytest.raises(CommandError, match="nothing to import; layer color is left out"):
        open_at(tmp_path / "sample" / "color")


def test_a_damaged_mag_is_an_error_that_names_the_file(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]], tmp_path: Path, open_at: Open
) -> None:
    shutil.copytree(sample[0], tmp_path / "sample")
    header = tmp_path / "sample" / "color" / "1" / "header.wkw"
    header.write_bytes(b"WKW?" + header.read_bytes()[4:])
    with pytest.raises(DataLoss, match=r"header\.wkw"):
        open_at(tmp_path / "sample" / "color" / "1")


def test_a_folder_that_the_properties_do_not_name_is_refused(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]], tmp_path: Path, open_at: Open
) -> None:
    shutil.copytree(sample[0], tmp_path / "sample")
    (tmp_path / "sample" / "other").mkdir()
    with pytest.raises(CommandError, match="no such layer"):
        open_at(tmp_path / "sample" / "other")


def test_without_the_server_extra_the_install_line_is_shown(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]], monkeypatch: pytest.MonkeyPatch, open_at: Open
) -> None:
    modules = __import__("sys").modules
    for name in [name for name in modules if name.startswith("magd.cubes.")]:
        monkeypatch.delitem(modules, name)
    monkeypatch.setitem(modules, "lz4", None)
    monkeypatch.setitem(modules, "lz4.block", None)
    with pytest.raises(MissingExtra, match=r'pip install "magd\[server\]"'):
        open_at(sample[0])


def test_targets_keep_layers_and_mags_that_are_left_open(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]], open_at: Open
) -> None:
    dataset, layer = open_at(sample[0]).sources, open_at(sample[0] / "color").sources
    assert [str(target) for target in targets_of(parse("new"), dataset)][:2] == ["new/color/1", "new/color/2-2-1"]
    assert [str(target) for target in targets_of(parse("new/em"), layer)] == [
        "new/em/1",
        "new/em/2-2-1",
        "new/em/4-4-2",
    ]
    assert [str(target) for target in targets_of(parse("new/em/2"), layer[:1])] == ["new/em/2"]
    for text, sources in (("new/em", dataset), ("new/em/1", layer)):
        with pytest.raises(CommandError, match="mags would go to"):
            targets_of(parse(text), sources)
    bare = [NamedSource(layer[0].source)]
    assert [str(target) for target in targets_of(parse("new/em"), bare)] == ["new/em/1"]
    with pytest.raises(CommandError, match="give it as new/LAYER"):
        targets_of(parse("new"), bare)
