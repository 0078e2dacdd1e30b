"""What the storage is doing, as metrics that are read when somebody asks for them.

Nothing here has a label per dataset or mag: their number has no bound. Who wants to know about one mag asks
for the status over gRPC.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from magd.actors.types import MagState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from magd.actors.storage import Storage
    from magd.actors.types import OperationInfo

_OPERATIONS_AT_ONCE = 1000


class StorageCollector(Collector):
    """Reads the metrics of a storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def describe(self) -> list[Metric]:
        """Nothing: so that registering it does not read the storage."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        status = self._storage.status()
        mags = GaugeMetricFamily("magd_mags", "Mags in use, by state.", labels=["state"])
        by_state = Counter(mag.state for mag in status.mags)
        for state in MagState:
            mags.add_metric([state], by_state[state])
        yield mags
        yield _gauge("magd_queue_depth", "Requests that wait for their turn.", sum(m.queue for m in status.mags))
        yield _gauge("magd_requests_running", "Requests that mags are working on.", sum(m.running for m in status.mags))
        yield _gauge(
            "magd_unsynced_bytes",
            "Acknowledged bytes that a power loss could take.",
            sum(m.unsynced_bytes for m in status.mags),
        )
        yield _gauge("magd_budget_bytes", "Memory for boxes under way.", status.budget_bytes)
        yield _gauge("magd_budget_used_bytes", "Of it, taken now.", status.budget_used_bytes)
        yield _gauge("magd_budget_waiting", "Calls that wait for memory.", status.budget_waiting)
        yield _gauge("magd_uptime_seconds", "Since the storage started.", status.uptime_seconds)
        yield _gauge("magd_pool_workers", "Processes that compress.", status.pool_workers)
        replaced = CounterMetricFamily("magd_pool_workers_replaced", "Of them, died and were replaced.")
        replaced.add_metric([], status.pool_workers_replaced)
        yield replaced
        yield _gauge("magd_operations_running", "Operations that have not ended.", status.operations_running)
        running = list(running_operations(self._storage))
        yield _gauge(
            "magd_operation_files",
            "Cube files of the operations that have not ended.",
            sum(operation.progress.files_total for operation in running),
        )
        yield _gauge(
            "magd_operation_files_done",
            "Of them, done.",
            sum(operation.progress.files_done for operation in running),
        )


def running_operations(storage: Storage) -> Iterator[OperationInfo]:
    """The operations that have not ended, newest first."""
    after: str | None = None
    while True:
        operations = storage.list_operations(resource="", limit=_OPERATIONS_AT_ONCE, after=after)
        yield from (operation for operation in operations if not operation.state.has_ended)
        if len(operations) < _OPERATIONS_AT_ONCE:
            return
        after = operations[-1].name


def add_daemon_metrics(registry: CollectorRegistry, storage: Storage) -> None:
    """Add the metrics of the storage and of the process."""
    registry.register(StorageCollector(storage))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)
