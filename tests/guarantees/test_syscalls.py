"""A kill at one system call of a protocol leaves things as before or as after it, and so does an error. With
`scripts/crash_test --every-syscall` that is done at each one; here are some on which much depends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.guarantees.changes import CHANGES
from tests.guarantees.syscalls import SyscallTest, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyscallTest]:
    """One daemon after the other, for all tests here."""
    if why_not():
        pytest.skip(why_not())
    folder: Path = tmp_path_factory.mktemp("syscalls")
    test = SyscallTest(str(folder))
    yield test
    test.close()


@pytest.mark.parametrize(
    ("change", "call", "number"),
    [
        ("write-raw", "fdatasync", 1),
        ("write-raw", "pwrite64", 5),
        ("write-compressed", "renameat", 3),
        ("write-large", "rename", 1),
        ("replace-large", "linkat", 1),
        ("replace-large", "renameat", 1),
        ("compress", "renameat2", 1),
        ("decompress", "renameat2", 1),
        ("rechunk", "renameat2", 1),
        ("rechunk", "rename", 1),
        ("delete-mag", "rename", 1),
    ],
)
def test_a_protocol_that_is_killed_at_a_system_call_is_done_or_undone(
    victim: SyscallTest, change: str, call: str, number: int
) -> None:
    assert victim.kill_at(CHANGES[change], call, number), "there was no such call"


@pytest.mark.parametrize(
    ("change", "call", "number", "error", "then_kill"),
    [
        ("write-raw", "pwritev2", 1, "ENOSPC", False),
        ("write-raw", "fdatasync", 1, "EIO", False),
        ("write-raw", "fdatasync", 1, "EIO", True),
        ("write-raw", "pwrite64", 7, "EIO", True),
        ("write-compressed", "renameat", 3, "EIO", False),
        ("write-large", "rename", 1, "EIO", True),
        ("replace-large", "linkat", 2, "ENOSPC", False),
        ("replace-large", "renameat", 1, "EIO", True),
        ("write-compressed", "pwrite64", 9, "ENOSPC", False),
        ("rename-layer", "write", 1, "ENOSPC", False),
        ("rename-layer", "renameat2", 2, "EIO", False),
        ("rename-layer", "fsync", 3, "EIO", False),
    ],
)
def test_a_system_call_that_fails_leaves_a_protocol_done_or_undone_and_the_daemon_at_work(
    victim: SyscallTest, change: str, call: str, number: int, error: str, then_kill: bool
) -> None:
    assert victim.fail_at(CHANGES[change], call, number, error, then_kill=then_kill), "there was no such call"
