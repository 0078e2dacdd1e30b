"""Looking for damage while the daemon works. The check takes no turn in any schedule, so it holds up nobody."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Final

from magd.catalog.checking import check_root

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from magd.actors.threads import Threads
    from magd.catalog.names import ResourceName
    from magd.catalog.root import Root
    from magd.cubes.check import CheckedFile, Finding

FILES_AT_ONCE: Final = 256
REPORT_SECONDS: Final = 0.5


async def check(
    root: Root, threads: Threads, resource: ResourceName | None, *, deep: bool
) -> AsyncIterator[tuple[list[Finding], int, int]]:
    """Check a resource and all below it.

    :return: findings since the last item, files checked so far, files damaged so far; the last item has the totals
    :raises NotFound: there is no such dataset, layer or mag
    """
    files = check_root(root, resource, deep=deep)
    checked = damaged = 0
    while some := await threads.run(_take, files):
        checked += sum(file.is_cube_file for file in some)
        damaged += sum(file.is_damaged for file in some)
        yield [finding for file in some for finding in file.findings], checked, damaged
    yield [], checked, damaged


def _take(files: Iterator[CheckedFile]) -> list[CheckedFile]:
    """As many files as are checked in a moment; none at the end."""
    until = time.monotonic() + REPORT_SECONDS
    taken = list(islice(files, 1))
    while taken and len(taken) < FILES_AT_ONCE and time.monotonic() < until:
        more = list(islice(files, 1))
        if not more:
            break
        taken += more
    return taken
