"""What a check of a mag finds, and that it finds nothing in a sound one."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from magd.cubes.check import CheckedFile, Finding, check_layer_folder, check_mag
from magd.cubes.compressed import JumpTable
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.header import BlockType
from magd.cubes.mag_files import MagFiles
from magd.errors import NotFound, Reason
from magd.geometry import Box
from tests.cubes.oracle import make_header, some_voxels, wkw_write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=[BlockType.RAW, BlockType.LZ4HC], ids=["raw", "compressed"])
def mag(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A mag with cube files x0 to x2."""
    return make_mag(tmp_path, request.param)


def make_mag(tmp_path: Path, block_type: BlockType) -> Path:
    header = make_header("uint16", block_type=block_type)
    box = Box.of((0, 0, 0), (48, 16, 16))
    with MagFiles.create(str(tmp_path / "1"), header) as files:
        files.write(box, some_voxels(header, box.size, seed=1))
    return tmp_path / "1"


def findings(mag: Path, *, deep: bool = False) -> list[Finding]:
    return [finding for checked in check_mag(str(mag), deep=deep) for finding in checked.findings]


def only_finding(mag: Path, *, deep: bool = False) -> Finding:
    (finding,) = findings(mag, deep=deep)
    return finding


def test_a_sound_mag_has_no_findings_and_every_file_is_counted(mag: Path) -> None:
    before = sorted(mag.rglob("*"))
    for deep in (False, True):
        assert list(check_mag(str(mag), deep=deep)) == [
            CheckedFile("header.wkw", False, ()),
            *(CheckedFile(f"z0/y0/x{x}.wkw", True, ()) for x in range(3)),
        ]
    assert sorted(mag.rglob("*")) == before


def test_a_mag_that_wkw_wrote_is_sound(tmp_path: Path) -> None:
    for block_type in BlockType:
        header = make_header("int64", 2, block_type=block_type)
        wkw_write(tmp_path / block_type.name, header, some_voxels(header, header.cube_size))
        assert findings(tmp_path / block_type.name, deep=True) == []


def test_a_missing_header_is_damage_and_the_cube_files_are_still_checked(mag: Path) -> None:
    (mag / "header.wkw").unlink()
    os.truncate(mag / "z0/y0/x1.wkw", 3)
    assert [(finding.file, finding.severity) for finding in findings(mag)] == [
        ("header.wkw", "damage"),
        ("z0/y0/x1.wkw", "damage"),
    ]


def test_a_damaged_header_is_damage(mag: Path) -> None:
    (mag / "header.wkw").write_bytes(b"WKW")
    assert only_finding(mag).file == "header.wkw"
    assert "3 of the 16 bytes" in only_finding(mag).message


@pytest.mark.parametrize("size", [0, 10, 16, 60])
def test_a_truncated_cube_file_is_damage(mag: Path, size: int) -> None:
    os.truncate(mag / "z0/y0/x1.wkw", size)
    finding = only_finding(mag)
    assert (finding.file, finding.severity) == ("z0/y0/x1.wkw", "damage")
    damaged = [checked.file for checked in check_mag(str(mag), deep=False) if checked.is_damaged]
    assert damaged == ["z0/y0/x1.wkw"]


def test_another_layout_than_that_of_the_mag_is_damage(mag: Path) -> None:
    (mag / "header.wkw").write_bytes(make_header("uint32").to_bytes())
    assert [(finding.file, finding.severity) for finding in findings(mag)] == [
        (f"z0/y0/x{x}.wkw", "damage") for x in range(3)
    ]
    assert "uint16" in findings(mag)[0].message
    assert "uint32" in findings(mag)[0].message


@pytest.mark.parametrize(("own", "other"), [(BlockType.RAW, BlockType.LZ4HC), (BlockType.LZ4, BlockType.RAW)])
def test_cube_files_of_the_other_kind_are_noted(tmp_path: Path, own: BlockType, other: BlockType) -> None:
    mag = make_mag(tmp_path, own)
    (mag / "header.wkw").write_bytes(make_header("uint16", block_type=other).to_bytes())
    assert [(finding.file, finding.severity) for finding in findings(mag)] == [
        (f"z0/y0/x{x}.wkw", "note") for x in range(3)
    ]
    assert own.name in findings(mag)[0].message


def test_a_damaged_jump_table_is_damage(tmp_path: Path) -> None:
    mag = make_mag(tmp_path, BlockType.LZ4)
    path = mag / "z0/y0/x1.wkw"
    content = bytearray(path.read_bytes())
    content[16 + 8 * 9 : 16 + 8 * 10] = struct.pack("<Q", 2**40)
    path.write_bytes(content)
    assert only_finding(mag).severity == "damage"
    assert "block 9 " in only_finding(mag).message


def test_bad_blocks_are_found_by_a_deep_check_and_each_is_told(tmp_path: Path) -> None:
    mag = make_mag(tmp_path, BlockType.LZ4)
    path = mag / "z0/y0/x1.wkw"
    content = bytearray(path.read_bytes())
    with OpenCubeFile.open(str(path)) as file:
        table = JumpTable(file)
        for index in (3, 40):
            length = table.end(index) - table.start(index)
            content[table.start(index) : table.end(index)] = b"\xff" * length
    path.write_bytes(content)
    assert findings(mag) == []
    found = findings(mag, deep=True)
    assert [(finding.file, finding.severity) for finding in found] == [("z0/y0/x1.wkw", "damage")] * 2
    assert "block 3 " in found[0].message
    assert "block 40 " in found[1].message


def test_bytes_after_the_last_block_are_noted(mag: Path) -> None:
    with (mag / "z0/y0/x1.wkw").open("ab") as file:
        file.write(b"more")
    assert only_finding(mag) == Finding("z0/y0/x1.wkw", "note", "4 bytes follow the last block")


def test_what_other_tools_left_and_what_is_not_named_like_a_cube_file_is_noted(mag: Path) -> None:
    for path in ("z0/y0/x0.wkw_tmp", "z0/y0/x00.wkw", "z0/y0/notes.txt"):
        (mag / path).write_bytes(b"")
    assert {(finding.file, finding.severity) for finding in findings(mag)} == {
        ("z0/y0/x0.wkw_tmp", "note"),
        ("z0/y0/x00.wkw", "note"),
    }


def test_links_and_files_in_the_place_of_folders_are_damage(mag: Path) -> None:
    (mag / "z1").symlink_to("z0")
    (mag / "z0/y1").write_bytes(b"")
    (mag / "z0/y0/x9.wkw").symlink_to("x0.wkw")
    assert {(finding.file, finding.severity) for finding in findings(mag)} == {
        ("z1", "damage"),
        ("z0/y1", "damage"),
        ("z0/y0/x9.wkw", "damage"),
    }


def test_a_mag_that_does_not_exist_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        list(check_mag(str(tmp_path / "nowhere"), deep=False))
    assert caught.value.reason is Reason.MAG_NOT_FOUND


def test_an_interrupted_compression_of_webknossos_is_noted_for_the_layer(tmp_path: Path) -> None:
    (tmp_path / "color/1").mkdir(parents=True)
    assert check_layer_folder(str(tmp_path / "color")) == []
    (tmp_path / "color/.rechunk-1b2c").mkdir()
    (finding,) = check_layer_folder(str(tmp_path / "color"))
    assert (finding.file, finding.severity) == (".rechunk-1b2c", "note")
    with pytest.raises(NotFound) as caught:
        check_layer_folder(str(tmp_path / "nowhere"))
    assert caught.value.reason is Reason.LAYER_NOT_FOUND
