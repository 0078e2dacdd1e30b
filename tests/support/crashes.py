"""Crashes between any two changes of the file system, without a process to kill.

The functions that change files are replaced by ones that count. At the chosen one a `Crash` is raised, before
or after it took effect, and from then on every one of them raises: nothing that would run only in a living
process, such as the removal of a temporary, can change the files any more.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from magd import atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHANGES = ("write", "fsync", "unlink", "rename", "symlink", "mkdir", "rmdir", "fchmod")


class Crash(BaseException):
    """The process is dead."""


@contextmanager
def crash_at(step: int, *, after: bool) -> Iterator[list[str]]:
    """Crash at the change with this number, counted from 0.

    :param after: when the change has happened, instead of before
    :return: the names of the changes so far; more than `step` of them if it came to the crash
    """
    done: list[str] = []

    def counted(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            number = len(done)
            done.append(name)
            if number > step or (number == step and not after):
                raise Crash
            result = change(*arguments, **options)
            if number == step:
                raise Crash
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _CHANGES:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        patch.setattr(atomic, "_renameat2", counted("renameat2", atomic._renameat2))
        try:
            yield done
        except Crash:
            pass


def crash_everywhere(prepare: Callable[[], Any], act: Callable[[Any], Any], check: Callable[[Any], None]) -> int:
    """Crash at every change of `act`, before and after it; each time from a fresh start, and with a check at
    the end.

    :return: the number of crashes
    """
    step = 0
    crashes = 0
    while True:
        for after in (False, True):
            subject = prepare()
            with crash_at(step, after=after) as done:
                act(subject)
            if len(done) <= step:
                return crashes
            crashes += 1
            check(subject)
        step += 1
