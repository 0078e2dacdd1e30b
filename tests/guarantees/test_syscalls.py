"""A kill at one system call of a protocol leaves things as before or as after it. `scripts/crash_test --every-syscall`
does so at each one; here are those at which the most was seen to depend."""

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
        ("compress", "renameat2", 1),
        ("delete-mag", "rename", 1),
    ],
)
def test_a_protocol_that_is_killed_at_a_system_call_is_done_or_undone(
    victim: SyscallTest, change: str, call: str, number: int
) -> None:
    assert victim.kill_at(CHANGES[change], call, number), "there was no such call"
