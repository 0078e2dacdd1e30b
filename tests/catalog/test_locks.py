"""Locks between daemons: real processes that hold them."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from magd.catalog.locks import lock_folder, lock_root
from magd.errors import DataLoss, NotAllowed, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HOLDER = """
import sys
from magd.catalog.locks import lock_root
lock = lock_root(sys.argv[1], read_only=sys.argv[2] == "reads")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_daemon(root: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a root."""
    command = [sys.executable, "-c", _HOLDER, str(root), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def outer(tmp_path: Path) -> Path:
    (tmp_path / "a" / "b" / "d").mkdir(parents=True)
    (tmp_path / "a" / "c").mkdir()
    return tmp_path / "a"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("first", "second", "is_refused"),
    [
        (("a", "writes"), ("a", "writes"), True),
        (("a", "writes"), ("a", "reads"), True),
        (("a", "reads"), ("a", "writes"), True),
        (("a", "reads"), ("a", "reads"), False),
        (("a", "writes"), ("a/b", "writes"), True),
        (("a", "writes"), ("a/b", "reads"), True),
        (("a", "writes"), ("a/b/d", "writes"), True),
        (("a/b", "writes"), ("a", "writes"), True),
        (("a/b", "reads"), ("a", "writes"), True),
        (("a/b/d", "writes"), ("a", "writes"), True),
        (("a", "reads"), ("a/b", "reads"), False),
        (("a", "reads"), ("a/b", "writes"), False),
        (("a/b", "writes"), ("a", "reads"), False),
        (("a/b", "writes"), ("a/c", "writes"), False),
        (("a/b", "writes"), ("a/c", "reads"), False),
    ],
)
def test_two_daemons_serve_side_by_side_only_where_the_table_says_so(
    outer: Path, first: tuple[str, str], second: tuple[str, str], is_refused: bool
) -> None:
    before = open_descriptors()
    with another_daemon(outer.parent / first[0], first[1]):
        if is_refused:
            during = open_descriptors()
            with pytest.raises(NotAllowed) as caught:
                lock_root(str(outer.parent / second[0]), read_only=second[1] == "reads")
            assert caught.value.reason is Reason.LOCKED
            assert "another magd serves" in caught.value.message
            assert str(outer) in caught.value.message
            assert open_descriptors() == during
        else:
            lock_root(str(outer.parent / second[0]), read_only=second[1] == "reads").close()
    assert open_descriptors() == before
    # The one before was killed, and nothing of its lock is left.
    with lock_root(str(outer), read_only=False):
        pass
    assert sorted(os.listdir(outer)) == ["b", "c"]


def test_a_root_reached_by_a_link_is_the_same_root(outer: Path) -> None:
    link = outer.parent / "link"
    link.symlink_to(outer / "b")
    with lock_root(str(link), read_only=False), pytest.raises(NotAllowed):
        lock_root(str(outer), read_only=False)


def test_a_folder_is_locked_for_one_writer_or_many_readers(outer: Path) -> None:
    writer = lock_folder(str(outer), shared=False)
    for shared in (True, False):
        with pytest.raises(NotAllowed) as caught:
            lock_folder(str(outer), shared=shared)
        assert caught.value.reason is Reason.LOCKED
    writer.close()
    writer.close()
    with (
        lock_folder(str(outer), shared=True),
        lock_folder(str(outer), shared=True),
        pytest.raises(NotAllowed),
    ):
        lock_folder(str(outer), shared=False)


def test_a_folder_that_cannot_be_opened_is_an_error(outer: Path) -> None:
    with pytest.raises(DataLoss):
        lock_folder(str(outer / "none"), shared=False)
    (outer / "file").write_text("x")
    with pytest.raises(DataLoss):
        lock_folder(str(outer / "file"), shared=False)


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_lock_folders_is_refused_by_name(
    outer: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(NotAllowed, match="not supported") as caught:
        lock_root(str(outer), read_only=False)
    assert caught.value.reason is Reason.LOCKED
    assert caught.value.metadata["file"] == str(outer)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOLCK])
def test_folders_around_the_root_that_cannot_be_locked_are_passed_over(
    outer: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if path != str(outer):
            raise OSError(code, os.strerror(code))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    lock_root(str(outer), read_only=False).close()
