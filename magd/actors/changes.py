"""How folders and properties are changed together.

1. Changes run one at a time for each dataset, as tasks of the daemon: a client that goes away does not stop one half
   way.
2. The same request id again gives the same outcome.
3. What changes folders and properties lays down an intent first (`magd.catalog.settling`). Cut short at any point, by
   an error or a crash, it is finished if the properties were changed and undone if not: at once after an error, else
   when the dataset is opened next, or before the next change.
"""

from __future__ import annotations

import asyncio
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, cast

import structlog

from magd.actors.opening import settle
from magd.actors.outcomes import Outcomes
from magd.catalog import intents, settling
from magd.errors import Conflict, InternalError, MagdError, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from magd.actors.operations import Operations
    from magd.actors.registry import Registry
    from magd.actors.threads import Threads
    from magd.catalog.intents import Intent
    from magd.catalog.names import DatasetName
    from magd.catalog.root import Root
    from magd.properties.edits import Edit
    from magd.properties.file import Snapshot

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Changes:
    """Turns of datasets, and what a change does in one.

    :param group: runs the changes
    """

    def __init__(
        self,
        root: Root,
        threads: Threads,
        registry: Registry,
        operations: Operations,
        group: asyncio.TaskGroup,
        *,
        request_id_window_seconds: float,
    ) -> None:
        self._root = root
        self._threads = threads
        self._registry = registry
        self._operations = operations
        self._group = group
        self._outcomes = Outcomes(request_id_window_seconds)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        """By the name of a dataset, which need not exist. One that nobody has or waits for goes."""

    async def once(self, request_id: str, dataset: str, fingerprint: object, work: Callable[[], Awaitable[T]]) -> T:
        """Do something to a dataset once for this request id, after what was begun before, to its end.

        :param fingerprint: what the request asks for; another one with the same id is refused
        """
        outcome = self._outcomes.join(request_id, fingerprint)
        if outcome is None:
            outcome = asyncio.get_running_loop().create_future()
            self._outcomes.begin(request_id, fingerprint, outcome)
            self._group.create_task(self._in_turn(dataset, work, outcome))
        return cast("T", await asyncio.shield(outcome))

    async def _in_turn(self, dataset: str, work: Callable[[], Awaitable[T]], outcome: asyncio.Future[T]) -> None:
        lock = self._locks.setdefault(dataset, asyncio.Lock())
        try:
            async with lock:
                outcome.set_result(await work())
        except MagdError as error:
            outcome.set_exception(error)
        except Exception as error:  # the border of the task: a bug must not end the daemon
            log.exception("change failed", dataset=dataset)
            outcome.set_exception(InternalError(f"{dataset}: {error!r}", metadata={"dataset": dataset}))
        finally:
            if not outcome.done():
                outcome.cancel()
            elif not outcome.cancelled():
                outcome.exception()  # the caller may be gone; nobody has to be told then

    @asynccontextmanager
    async def carry_out(self, dataset: DatasetName, intent: Intent) -> AsyncIterator[None]:
        """Lay down an intent; the properties are saved inside; then the folders are brought in line with them."""
        folder = await self._threads.run(self._root.dataset_folder, dataset)
        try:
            await self._threads.run(settling.begin, folder, intent)
            yield
            await self._settle_now(dataset, folder, intent)
        except Exception:
            # Whatever the error was, folders and properties shall agree again.
            try:
                await self._settle_now(dataset, folder, intent)
            except MagdError as error:
                log.warning("change not settled", dataset=str(dataset), error=error.message)
            raise

    async def _settle_now(self, dataset: DatasetName, folder: str, intent: Intent) -> None:
        # A change of nothing: after a save that failed it writes the properties once more.
        now = await self.save(dataset, [])
        for note in await self._threads.run(settling.settle, folder, intent, now):
            log.warning("found while settling a change", dataset=str(dataset), note=note)

    async def settle_what_is_left(self, dataset: DatasetName) -> None:
        """Settle what an earlier change could not, because of an error.

        :raises MagdError: it still cannot be settled; nothing further is to be changed
        """
        folder = await self._threads.run(self._root.dataset_folder, dataset)
        if await self._threads.run(intents.read, folder) is None:
            return
        self.refuse_if_busy(str(dataset))
        async with self._registry.holding(str(dataset)):
            await self._threads.run(settle, self._root, dataset)

    async def save(self, dataset: DatasetName, edits: Sequence[Edit]) -> Snapshot:
        """Change the properties.

        :return: what they are now
        """
        return await self._registry.with_dataset(dataset, lambda actor: actor.change(edits))

    def refuse_if_busy(self, resource: str) -> None:
        """Check that no operation runs on a resource, a part of it, or on what it is a part of.

        :raises Conflict: one does
        """
        running = self._operations.running(resource)
        if running is not None:
            raise Conflict(
                f"{running.name} runs on {running.resource}; cancel it or wait",
                reason=Reason.OPERATION_IN_PROGRESS,
                metadata={"operation": running.name},
            )
