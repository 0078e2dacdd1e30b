"""Looking for damage while the daemon works. The check takes no turn in any schedule, so it holds up nobody.

A repair goes before it: it removes what magd itself left behind, one dataset after the other, each in a turn of the
coordinator. What is in use is passed over.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog

from magd.catalog.checking import check_root
from magd.catalog.names import DatasetName
from magd.errors import MagdError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from magd.actors.coordinator import Coordinator
    from magd.actors.threads import Threads
    from magd.catalog.names import ResourceName
    from magd.catalog.root import Root
    from magd.cubes.check import CheckedFile, Finding

log = structlog.get_logger(__name__)

FILES_AT_ONCE: Final = 256
REPORT_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class CheckStep:
    """What a check has come to. Files are relative to the root."""

    findings: tuple[Finding, ...]
    """Since the step before."""
    files_checked: int
    files_damaged: int
    removed: tuple[str, ...] = ()
    """Since the step before."""


async def check(root: Root, threads: Threads, resource: ResourceName | None, *, deep: bool) -> AsyncIterator[CheckStep]:
    """Check a resource and all below it.

    :return: steps; the last one has the totals
    :raises NotFound: there is no such dataset, layer or mag
    """
    files = check_root(root, resource, deep=deep, is_served=True)
    checked = damaged = 0
    while some := await threads.run(_take, files):
        checked += sum(file.is_cube_file for file in some)
        damaged += sum(file.is_damaged for file in some)
        yield CheckStep(tuple(finding for file in some for finding in file.findings), checked, damaged)
    yield CheckStep((), checked, damaged)


async def remove_leftovers(
    root: Root, threads: Threads, coordinator: Coordinator, resource: ResourceName | None
) -> AsyncIterator[CheckStep]:
    """Remove what magd left behind in a resource and all below it.

    :return: a step for each dataset in which there was something
    :raises NotFound: there is no such dataset
    :raises MagdError: a dataset that was asked for cannot be opened, or something could not be removed
    """
    names = [resource.dataset] if resource is not None else await threads.run(lambda: list(root.dataset_names()))
    for dataset in names:
        scope = DatasetName(dataset) if resource is None else resource
        try:
            removed = await coordinator.changes.once("", dataset, (), partial(coordinator.remove_leftovers, scope))
        except MagdError as error:
            if resource is not None:
                raise
            log.warning("dataset not repaired", dataset=dataset, error=error.message)
            continue
        if removed:
            yield CheckStep((), 0, 0, tuple(removed))


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
