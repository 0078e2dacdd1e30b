"""An error is never read as zeros: whatever is wrong with a file or on the way to it is an error that names it."""

from __future__ import annotations

import errno
import os
import resource
import struct
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.cubes import raw
from magd.cubes.compressed import JumpTable
from magd.cubes.cube_file import OpenCubeFile
from magd.cubes.descriptors import POOL
from magd.cubes.header import HEADER_BYTES, BlockType
from magd.cubes.mag_files import MagFiles
from magd.errors import Busy, DataLoss, DiskFull, NotAllowed, Reason
from magd.geometry import Box
from tests.cubes.oracle import make_header, some_voxels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


CUBE = Box.of((0, 0, 0), (16, 16, 16))
BOTH = Box.of((0, 0, 0), (32, 16, 16))
INSIDE = Box.of((5, 6, 7), (2, 3, 4))
TABLE_BYTES = 8 * 64


@pytest.fixture(params=[BlockType.RAW, BlockType.LZ4], ids=["raw", "compressed"])
def cold(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MagFiles]:
    """A mag with two cube files of 16^3 voxels side by side on x. None was looked up yet."""
    with make_mag(tmp_path, request.param) as files:
        yield files


@pytest.fixture(params=[False, True], ids=["cold", "warm"])
def files(request: pytest.FixtureRequest, cold: MagFiles) -> MagFiles:
    """The same; in one of two cases both are open, with all that was read of them."""
    if request.param:
        cold.read(BOTH)
    return cold


@pytest.fixture
def cold_compressed(tmp_path: Path) -> Iterator[MagFiles]:
    with make_mag(tmp_path, BlockType.LZ4) as files:
        yield files


@pytest.fixture(params=[False, True], ids=["cold", "warm"])
def compressed(request: pytest.FixtureRequest, cold_compressed: MagFiles) -> MagFiles:
    if request.param:
        cold_compressed.read(BOTH)
    return cold_compressed


def make_mag(tmp_path: Path, block_type: BlockType) -> MagFiles:
    with MagFiles.create(str(tmp_path / "1"), make_header("uint16", block_type=block_type)) as files:
        files.write(BOTH, some_voxels(files.header, BOTH.size, seed=1))
        files.sync()
    return MagFiles.open(str(tmp_path / "1"))


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The first cube file."""
    return tmp_path / "1/z0/y0/x0.wkw"


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return tmp_path / "1/z0/y0/x1.wkw"


def assert_refused(files: MagFiles, path: Path, reason: Reason = Reason.CORRUPT_CUBE_FILE) -> None:
    """Reads and writes that touch the file fail and name it; the write has not changed the other file either."""
    others = [other for other in path.parent.parent.rglob("*.wkw") if other != path and other.is_file()]
    before = {other: other.read_bytes() for other in others}
    for call in (lambda: files.read(BOTH), lambda: files.write(BOTH, np.full((1, *BOTH.size), 9, np.uint16))):
        with pytest.raises((DataLoss, NotAllowed), match=path.name) as caught:
            call()
        assert caught.value.reason is reason
        assert caught.value.metadata["file"] == str(path)
    assert {other: other.read_bytes() for other in others} == before


def patch(path: Path, position: int, data: bytes) -> None:
    before = path.stat()
    changed = bytearray(path.read_bytes())
    changed[position : position + len(data)] = data
    path.write_bytes(changed)
    # Later than the clock of the file system may have been able to tell.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, 100])
def test_a_truncated_file_is_damage(files: MagFiles, second: Path, size: int) -> None:
    os.truncate(second, size)
    assert_refused(files, second)


def test_a_file_that_lacks_its_last_byte_is_damage(files: MagFiles, second: Path) -> None:
    os.truncate(second, second.stat().st_size - 1)
    assert_refused(files, second)


def test_a_file_that_shrinks_after_it_was_opened_is_damage(files: MagFiles, second: Path) -> None:
    with OpenCubeFile.open(str(second)) as file:
        os.truncate(second, HEADER_BYTES + 7)
        read = read_table if file.header.block_type.is_compressed else read_first_block
        with pytest.raises(DataLoss, match="too early"):
            read(file)


def read_table(file: OpenCubeFile) -> None:
    JumpTable(file)


def read_first_block(file: OpenCubeFile) -> None:
    raw.read_run(file, 0, np.empty((1, 4, 4, 8), np.uint8))


def test_a_raw_file_that_is_one_hole_is_sound(tmp_path: Path) -> None:
    header = make_header("uint16")
    with make_mag(tmp_path, BlockType.RAW) as files:
        path = tmp_path / "1/z0/y0/x1.wkw"
        path.write_bytes(header.of_cube_file().to_bytes())
        os.truncate(path, header.raw_file_bytes)
        assert not files.read(Box.of((16, 0, 0), (16, 16, 16))).any()


@pytest.mark.parametrize("position", [0, 3, 5, 6, 7])
def test_a_header_with_a_bad_byte_is_damage(files: MagFiles, second: Path, position: int) -> None:
    patch(second, position, b"\xff")
    assert_refused(files, second)


@pytest.mark.parametrize(
    ("dtype", "channels", "block_len", "file_len"),
    [("int16", 1, 4, 4), ("uint8", 2, 4, 4), ("uint16", 1, 2, 8), ("uint16", 1, 8, 2), ("uint16", 1, 4, 2)],
)
def test_a_file_of_another_layout_than_its_mag_is_damage(
    files: MagFiles, second: Path, dtype: str, channels: int, block_len: int, file_len: int
) -> None:
    other = replace(make_header(dtype, channels, block_len, file_len), block_type=files.header.block_type)
    patch(second, 0, other.of_cube_file().to_bytes())
    assert_refused(files, second)


def test_a_file_whose_first_block_starts_in_its_header_is_damage(files: MagFiles, second: Path) -> None:
    patch(second, 8, struct.pack("<Q", 8))
    assert_refused(files, second)


def test_something_else_than_a_file_is_damage(files: MagFiles, second: Path) -> None:
    second.unlink()
    os.mkfifo(second)
    assert_refused(files, second)


def test_a_folder_in_the_place_of_a_file_is_an_error(files: MagFiles, second: Path) -> None:
    second.unlink()
    second.mkdir()
    with pytest.raises(DataLoss, match=r"x1\.wkw"):
        files.read(BOTH)
    with pytest.raises(DataLoss, match=r"x1\.wkw"):
        files.write(BOTH, np.zeros((1, *BOTH.size), np.uint16))


def test_a_file_in_the_place_of_a_folder_is_an_error(files: MagFiles, tmp_path: Path) -> None:
    os.rename(tmp_path / "1/z0", tmp_path / "1/away")
    (tmp_path / "1/z0").write_bytes(b"")
    for call in (lambda: files.read(CUBE), lambda: files.write(CUBE, np.zeros((1, *CUBE.size), np.uint16))):
        with pytest.raises(DataLoss, match="z0") as caught:
            call()
        assert caught.value.reason is Reason.IO_ERROR
        assert caught.value.metadata["errno"] == "ENOTDIR"


def test_a_folder_or_file_that_does_not_exist_reads_as_zeros(cold: MagFiles, first: Path) -> None:
    first.unlink()
    assert not cold.read(CUBE).any()
    assert not cold.read(Box.of((0, 100, 0), (4, 4, 4))).any()
    assert not cold.read(Box.of((0, 0, 100), (4, 4, 4))).any()


def test_a_mag_whose_folder_was_removed_does_not_read_as_zeros(files: MagFiles, tmp_path: Path) -> None:
    for path in sorted((tmp_path / "1").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "1").rmdir()
    for call in (lambda: files.read(CUBE), lambda: files.write(CUBE, np.zeros((1, *CUBE.size), np.uint16))):
        with pytest.raises(DataLoss) as caught:
            call()
        assert caught.value.reason is Reason.CHANGED_ON_DISK


@pytest.mark.parametrize("link", ["z0", "z0/y0", "z0/y0/x1.wkw"])
@pytest.mark.parametrize("leads", ["outside", "inside", "nowhere"])
def test_a_symbolic_link_is_not_followed(cold: MagFiles, tmp_path: Path, link: str, leads: str) -> None:
    path = tmp_path / "1" / link
    target = {"outside": tmp_path / "target", "inside": tmp_path / "1/target", "nowhere": tmp_path / "nowhere"}[leads]
    path.rename(target if leads != "nowhere" else tmp_path / "away")
    path.symlink_to(target)
    assert_refused(cold, path, Reason.OUTSIDE_ROOT)
    with pytest.raises(NotAllowed, match="symbolic link"):
        cold.read(BOTH)


def test_a_link_in_the_place_of_the_temporaries_is_not_followed(files: MagFiles, tmp_path: Path) -> None:
    (tmp_path / "1/.magd/tmp").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "1/.magd/tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotAllowed, match=r"\.magd/tmp"):
        files.write(Box.of((0, 0, 50), (1, 1, 1)), np.ones((1, 1, 1, 1), np.uint16))
    with pytest.raises(NotAllowed, match=r"\.magd/tmp"):
        MagFiles.open(str(tmp_path / "1"))
    assert os.listdir(tmp_path / "elsewhere") == []


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open so many descriptors, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Descriptors that others closed leave holes below the highest one: they are filled first.
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    filling = [os.open("/dev/null", os.O_RDONLY)]
    while filling[-1] <= highest:
        filling.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (filling[-1] + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filling:
            os.close(descriptor)


def test_running_out_of_descriptors_is_an_error_that_says_so_and_may_pass(cold: MagFiles) -> None:
    POOL.close_idle()
    # The walk to a cube file holds two at a time, at each of its steps.
    for too_few in (0, 1):
        with descriptors_left(too_few), pytest.raises(Busy, match="descriptors") as caught:
            cold.read(BOTH)
        assert caught.value.metadata["errno"] == "EMFILE"
        assert caught.value.metadata["file"].startswith(cold.folder)
        assert caught.value.retry_after
    # One more for each of the two that stay open.
    with descriptors_left(4):
        assert cold.read(BOTH).any()


def test_files_that_are_open_without_use_are_closed_when_descriptors_are_scarce(cold: MagFiles, tmp_path: Path) -> None:
    expected = cold.read(BOTH)
    with MagFiles.open(str(tmp_path / "1"), read_only=True) as other:
        POOL.close_idle()
        other.read(BOTH)
        with descriptors_left(1):
            np.testing.assert_array_equal(cold.read(BOTH), expected)


def test_a_file_that_was_written_and_not_synced_is_not_closed_when_descriptors_are_scarce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closed it would not hear that the kernel could not write it."""
    with make_mag(tmp_path, BlockType.RAW) as files:
        files.write(CUBE, np.ones((1, *CUBE.size), np.uint16))
        written = {os.readlink(f"/proc/self/fd/{fd}") for fd in open_descriptors()}
        POOL.close_idle()
        assert str(tmp_path / "1/z0/y0/x0.wkw") in written & {
            os.readlink(f"/proc/self/fd/{fd}") for fd in open_descriptors()
        }
        synced: list[str] = []
        monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
        files.sync()
        assert synced == [str(tmp_path / "1/z0/y0/x0.wkw")]


def open_descriptors() -> list[int]:
    with os.scandir("/proc/self/fd") as entries:
        names = [entry.name for entry in entries]
    return [int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")]


def test_a_damaged_header_wkw_is_an_error(files: MagFiles, tmp_path: Path) -> None:
    for content in (b"", b"WKW", b"\0" * 16):
        (tmp_path / "1/header.wkw").write_bytes(content)
        with pytest.raises(DataLoss, match=r"header\.wkw"):
            MagFiles.open(str(tmp_path / "1"))
    (tmp_path / "1/header.wkw").unlink()
    (tmp_path / "1/header.wkw").mkdir()
    with pytest.raises(DataLoss, match=r"header\.wkw"):
        MagFiles.open(str(tmp_path / "1"))


def test_a_failing_read_is_an_error(files: MagFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "as if the disk had failed")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DataLoss) as caught:
        files.read(CUBE)
    assert caught.value.reason is Reason.IO_ERROR
    assert caught.value.metadata == {"file": f"{files.folder}/z0/y0/x0.wkw", "errno": "EIO"}


def test_short_reads_and_writes_are_continued(files: MagFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv, pwrite, pwritev, copy = os.preadv, os.pwrite, os.pwritev, os.copy_file_range
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:33]], offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:31], offset))
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: pwritev(fd, [buffers[0], buffers[1][:31]], offset))
    monkeypatch.setattr(os, "copy_file_range", lambda s, t, count, so, to: copy(s, t, min(count, 29), so, to))
    data = some_voxels(files.header, INSIDE.size, seed=9)
    expected = files.read(BOTH)
    expected[:, 5:7, 6:9, 7:11] = data
    files.write(INSIDE, data)
    np.testing.assert_array_equal(files.read(BOTH), expected)


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "mkdir", "rename"])
def test_a_full_disk_is_said_so_and_leaves_no_temporary(
    files: MagFiles, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A new cube file needs all of these calls; nothing of it may be seen when one of them fails."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "as if the disk were full")

    box = Box.of((0, 64, 64), (4, 4, 4))
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(DiskFull):
            files.write(box, np.ones((1, 4, 4, 4), np.uint16))
    assert os.listdir(f"{files.folder}/.magd/tmp") == []
    assert not files.read(box).any()
    assert len(list(files.cube_files())) == 2
    files.write(box, np.ones((1, 4, 4, 4), np.uint16))
    assert files.read(box).all()


# What only compressed cube files have.


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (0, 0),  # ends before it starts
        (0, HEADER_BYTES + TABLE_BYTES),  # is empty
        (5, 2**63),  # beyond all files
        (5, 2**64 - 1),
        (63, 2**40),  # beyond the end of this one
        (5, HEADER_BYTES + TABLE_BYTES + 1),  # before the one before it
    ],
)
def test_a_jump_table_that_cannot_be_right_is_damage(
    compressed: MagFiles, second: Path, entry: int, value: int
) -> None:
    patch(second, HEADER_BYTES + 8 * entry, struct.pack("<Q", value))
    assert_refused(compressed, second)


@pytest.mark.parametrize(("entry", "like"), [(0, -1), (5, 4), (5, 3)])
def test_blocks_that_are_empty_or_end_before_they_start_are_damage_also_where_all_are_short(
    compressed: MagFiles, second: Path, entry: int, like: int
) -> None:
    """Short enough that none of the others becomes too long."""
    compressed.write(BOTH, np.zeros((1, *BOTH.size), np.uint16))
    compressed.read(BOTH)
    end = block_place(second, like)[1] if like >= 0 else HEADER_BYTES + TABLE_BYTES
    patch(second, HEADER_BYTES + 8 * entry, struct.pack("<Q", end))
    assert_refused(compressed, second)


def test_a_jump_table_with_a_block_too_long_to_be_one_is_damage(compressed: MagFiles, second: Path) -> None:
    """All positions lie in the file and ascend, and still no LZ4 block of 128 bytes takes 10,000."""
    size = second.stat().st_size
    with second.open("ab") as file:
        file.write(bytes(10_000))
    patch(second, HEADER_BYTES + TABLE_BYTES - 8, struct.pack("<Q", size + 10_000))
    assert_refused(compressed, second)


def block_place(path: Path, index: int) -> tuple[int, int]:
    with OpenCubeFile.open(str(path)) as file:
        table = JumpTable(file)
        return table.start(index), table.end(index)


@pytest.mark.parametrize("encoded", [b"\xff" * 40, b"\0", b"\x10a", bytes([0x1F, 7, 1, 0, 255, 255])])
def test_a_block_that_cannot_be_decoded_is_damage_only_where_it_is_needed(
    cold_compressed: MagFiles, first: Path, encoded: bytes
) -> None:
    """Block 0 of the first file, the voxels below (4, 4, 4)."""
    compressed = cold_compressed
    before = some_voxels(compressed.header, BOTH.size, seed=1)
    start, end = block_place(first, 0)
    patch(first, start, encoded[: end - start].ljust(end - start, b"\xff"))
    corner = Box.of((3, 3, 3), (2, 2, 2))
    with pytest.raises(DataLoss, match="block 0") as caught:
        compressed.read(corner)
    assert caught.value.metadata["file"] == str(first)
    # Neither a read nor a write of others decodes it.
    beside = Box.of((4, 0, 0), (28, 16, 16))
    np.testing.assert_array_equal(compressed.read(beside), before[:, 4:])
    compressed.write(INSIDE, np.ones((1, *INSIDE.size), np.uint16))
    assert compressed.read(INSIDE).all()
    # A write that would have to keep a part of it is refused, and one that replaces it repairs it.
    with pytest.raises(DataLoss, match="block 0"):
        compressed.write(corner, np.ones((1, 2, 2, 2), np.uint16))
    compressed.write(Box.of((0, 0, 0), (4, 4, 4)), np.ones((1, 4, 4, 4), np.uint16))
    assert (compressed.read(Box.of((0, 0, 0), (4, 4, 4))) == 1).all()


def test_damage_in_the_last_of_many_compressed_files_leaves_the_others_as_they_were(
    cold_compressed: MagFiles, first: Path, second: Path
) -> None:
    compressed = cold_compressed
    before = first.read_bytes()
    start, end = block_place(second, 0)
    patch(second, start, b"\xff" * (end - start))
    with pytest.raises(DataLoss, match=r"x1\.wkw"):
        compressed.write(Box.of((0, 0, 0), (18, 16, 16)), np.ones((1, 18, 16, 16), np.uint16))
    assert first.read_bytes() == before
    assert os.listdir(f"{compressed.folder}/.magd/tmp") == []
