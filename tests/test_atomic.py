"""Changes of folders that happen as a whole, on this file system and on one that lacks the flags."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import pytest

from magd import atomic

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def lacks_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system call answers what a file system without the flags answers."""

    def renameat2(*_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    class Library:
        pass

    library = Library()
    library.renameat2 = renameat2  # type: ignore[attr-defined]
    monkeypatch.setattr(atomic, "_libc", library)


def test_two_names_are_exchanged(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("x")
    folder.mkdir()
    assert atomic.exchange(str(file), str(folder))
    assert file.is_dir()
    assert folder.read_text() == "x"


def test_an_exchange_with_a_missing_name_is_an_error_and_no_missing_feature(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with pytest.raises(FileNotFoundError):
        atomic.exchange(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "a").read_text() == "a"


@pytest.mark.usefixtures("lacks_flags")
def test_a_file_system_that_cannot_exchange_says_so_and_changes_nothing(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    assert not atomic.exchange(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "a").read_text() == "a"


def test_a_c_library_without_the_call_is_like_a_file_system_without_the_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_libc", object())
    assert not atomic.exchange(str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize("flags", ["has", "lacks"])
def test_a_rename_replaces_nothing(tmp_path: Path, request: pytest.FixtureRequest, flags: str) -> None:
    if flags == "lacks":
        request.getfixturevalue("lacks_flags")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("source")
    target.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        atomic.rename_no_replace(str(source), str(target))
    target.unlink()
    atomic.rename_no_replace(str(source), str(target))
    assert target.read_text() == "source"
    with pytest.raises(FileNotFoundError):
        atomic.rename_no_replace(str(source), str(tmp_path / "other"))


def test_a_new_file_is_not_written_over_another(tmp_path: Path) -> None:
    path = tmp_path / "file"
    state = atomic.write_new_file(str(path), b"abc")
    assert path.read_bytes() == b"abc"
    assert os.path.samestat(state, path.stat())
    with pytest.raises(FileExistsError):
        atomic.write_new_file(str(path), b"other")
    assert path.read_bytes() == b"abc"
