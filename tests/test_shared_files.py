"""Files in memory that two processes share: which are mapped, and what is refused."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magd import shared_files
from magd.shared_files import make_sealed, open_shared, path_of_sealed, shared_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magd.shared_files import SharedFile

SIZE = 40_000
NOBODY = 65534


@pytest.fixture
def sealed() -> Iterator[int]:
    fd = make_sealed("drawn", SIZE)
    yield fd
    os.close(fd)


@pytest.fixture(params=["sealed", "not sealed"])
def ends(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[SharedFile, SharedFile]]:
    """One file, opened twice."""
    if request.param == "sealed":
        fd = make_sealed("drawn", SIZE)
        path = path_of_sealed(fd)
    else:
        path = str(tmp_path / "file")
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, SIZE)
    with closing(shared_file(fd, SIZE)) as one, closing(shared_file(open_shared(path, "drawn"), SIZE)) as other:
        assert one.is_mapped == other.is_mapped == (request.param == "sealed")
        yield one, other


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 9000), st.integers(0, 255)), max_size=8),
    look=st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)),
)
def test_one_end_reads_what_the_other_wrote(
    ends: tuple[SharedFile, SharedFile], steps: list[tuple[int, int, int]], look: tuple[int, int]
) -> None:
    one, other = ends
    expected = np.zeros(SIZE, np.uint8)
    one.write(expected.data, 0)
    for offset, size, value in steps:
        data = np.full(min(size, SIZE - offset), value, np.uint8)
        one.write(data.data, offset)
        expected[offset : offset + len(data)] = data
    start, end = min(look), max(look)
    found = np.empty(end - start, np.uint8)
    other.read_into(found.data, start)
    assert (found == expected[start:end]).all()
    view = other.view(start, end - start)
    assert view is None or (view == expected[start:end]).all()


def test_a_sealed_file_keeps_its_length_and_has_all_of_its_memory(sealed: int) -> None:
    status = os.fstat(sealed)
    assert (status.st_size, stat.S_IMODE(status.st_mode)) == (SIZE, 0o600)
    assert status.st_blocks * 512 >= SIZE
    assert not os.get_inheritable(sealed)
    for size in (0, SIZE - 1, SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(sealed, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_a_file_that_could_be_cut_short_is_not_mapped() -> None:
    fd = os.memfd_create("magd-drawn", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    with closing(shared_file(fd, SIZE)) as file:
        assert not file.is_mapped
        os.ftruncate(fd, 100)
        with pytest.raises(EOFError):
            file.read_into(memoryview(bytearray(200)), 0)


def test_the_file_that_another_process_has_at_the_path_is_refused(sealed: int, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(bytes(SIZE))
    before = len(os.listdir("/proc/self/fd"))
    with open(tmp_path / "precious", "r+b") as other, pytest.raises(OSError, match="and not what is shared as drawn"):
        open_shared(path_of_sealed(other.fileno()), "drawn")
    with pytest.raises(OSError, match="and not what is shared as another"):
        open_shared(path_of_sealed(sealed), "another")
    with pytest.raises(FileNotFoundError):
        open_shared("/proc/self/fd/9999", "drawn")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        open_shared(str(tmp_path / "link"), "drawn")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_takes_the_place_while_it_is_opened_is_refused(
    sealed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious").write_bytes(bytes(SIZE))
    really = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: really(tmp_path / "precious", flags))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="and not what is shared as drawn"):
        open_shared(path_of_sealed(sealed), "drawn")
    assert len(os.listdir("/proc/self/fd")) == before


def can_open(path: str, user: int) -> bool:
    """Whether a process of a user can open a file for reading and writing."""
    child = os.fork()
    if child == 0:
        try:
            if user != os.geteuid():
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            os.open(path, os.O_RDWR)
            os._exit(3)
        except PermissionError:
            os._exit(4)
        finally:
            os._exit(1)
    exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert exit_code in (3, 4)
    return exit_code == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_user_cannot_open_it(sealed: int) -> None:
    os.fchmod(sealed, 0o666)  # the kernel refuses it by the process that made it
    assert can_open(path_of_sealed(sealed), os.geteuid())
    assert not can_open(path_of_sealed(sealed), NOBODY)


def test_a_kernel_that_cannot_be_asked_for_pages_is_good_enough(sealed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_files, "_POPULATE_READ", 9999)
    with closing(shared_file(os.dup(sealed), SIZE)) as file:
        file.write(memoryview(b"x" * SIZE), 0)
        buffer = bytearray(SIZE)
        file.read_into(memoryview(buffer), 0)
    assert buffer == b"x" * SIZE


def test_what_is_freed_is_gone_for_both_ends(ends: tuple[SharedFile, SharedFile]) -> None:
    one, other = ends
    one.write(memoryview(b"x" * SIZE), 0)
    one.free()
    buffer = bytearray(b"y" * SIZE)
    if other.is_mapped:
        other.read_into(memoryview(buffer), 0)
        assert buffer == bytes(SIZE)
    else:
        with pytest.raises(EOFError):
            other.read_into(memoryview(buffer), 0)


def test_memory_that_somebody_holds_outlives_the_file(sealed: int) -> None:
    file = shared_file(os.dup(sealed), SIZE)
    file.write(memoryview(b"hello"), 0)
    view = file.view(0, 5)
    assert view is not None
    file.close()
    assert bytes(view) == b"hello"
