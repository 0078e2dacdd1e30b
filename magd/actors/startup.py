"""Recovering what a crash left, without waiting for somebody to ask for it.

Each mag recovers when it is opened, so nothing is ever served that is not whole. But programs that read the files
directly should find in them what was acknowledged, also in a mag that nobody opens again. So a daemon that starts goes
through all datasets, one after the other in the background. It opens those in which a change was cut short, which
settles it, and then looks at the journal of every mag, and brings what is in it into the files.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from magd.actors.dataset import DatasetActor
from magd.actors.opening import format_of, header_of
from magd.catalog.intents import intent_path
from magd.catalog.names import DatasetName, MagName
from magd.errors import MagdError
from magd.journal.recovery import recover
from magd.properties.file import PropertiesFile

if TYPE_CHECKING:
    from magd.actors.registry import Registry
    from magd.actors.threads import Threads
    from magd.catalog.root import Root

log = structlog.get_logger(__name__)


async def recover_unopened(root: Root, threads: Threads, registry: Registry) -> None:
    """Open every mag whose journal has writes or an extension that may not be in the files."""
    names = await threads.run(lambda: list(root.dataset_names()))
    for dataset in names:
        await _settle(root, threads, registry, DatasetName(dataset))
        for name in await threads.run(_unfinished, root, DatasetName(dataset)):
            if registry.is_draining:
                return
            try:
                # To its end before the next one: what was recovered is in memory until it is in the cube files.
                await registry.with_mag(name, lambda actor: actor.flush())
            except MagdError as error:
                log.warning("mag not recovered", mag=str(name), error=error.message)
            else:
                log.info("recovered", mag=str(name))


async def _settle(root: Root, threads: Threads, registry: Registry, dataset: DatasetName) -> None:
    try:
        folder = await threads.run(root.dataset_folder, dataset)
        if not registry.is_draining and await threads.run(os.path.lexists, intent_path(folder)):
            await registry.with_dataset(dataset, DatasetActor.current)
    except MagdError as error:
        log.warning("dataset not recovered", dataset=str(dataset), error=error.message)


def _unfinished(root: Root, dataset: DatasetName) -> list[MagName]:
    found: list[MagName] = []
    try:
        properties = PropertiesFile(root.properties_path(dataset), root=root.path).load().properties
    except MagdError:
        return found  # asking for the dataset says what is wrong
    for layer in properties.layers:
        for mag in layer.mags:
            try:
                folder = root.mag_folder(dataset, layer, mag)
                recovery = recover(folder, format_of(header_of(folder)))
            except MagdError:
                continue  # not served, or damaged: asking for the mag says so
            head = recovery.head
            if recovery.writes or (head is not None and not head.unsaved_box.is_empty):
                found.append(MagName(dataset.dataset, layer.name, mag.mag))
    return found
