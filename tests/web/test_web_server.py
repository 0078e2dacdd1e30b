"""The HTTP port: health, readiness, metrics, and the page for people."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from magd.acknowledgement import Revision
from magd.actors.types import MagState, MagStatus, OperationInfo, OperationProgress, OperationState, Status
from magd.catalog.names import MagName
from magd.geometry import Mag
from magd.web.metrics import add_daemon_metrics, running_operations
from magd.web.server import web_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from magd.actors.storage import Storage


def mag_status(layer: str, state: MagState, *, queue: int = 0, running: int = 0) -> MagStatus:
    return MagStatus(
        name=MagName("brain", layer, Mag.of(1)),
        state=state,
        reason="the disk is <full>" if state is MagState.READ_ONLY else "",
        queue=queue,
        running=running,
        revision=Revision(1, 2),
        unsynced_bytes=100,
        operation="",
        writes=3,
        reads=4,
    )


def operation(number: int, state: OperationState, *, done: int, total: int) -> OperationInfo:
    return OperationInfo(
        name=f"operations/boot-{number}",
        kind="compress",
        resource="datasets/brain/layers/color/mags/1",
        state=state,
        progress=OperationProgress(files_done=done, files_total=total),
        result="",
        failure=None,
        created_at=0.0,
        ended_at=None,
    )


@dataclass
class StatusOnly:
    """The part of a storage that the pages read."""

    now: Status = field(
        default_factory=lambda: Status(
            mags=(
                mag_status("color", MagState.SERVING, queue=2, running=1),
                mag_status("<b>labels</b>", MagState.READ_ONLY, queue=3),
            ),
            budget_used_bytes=10,
            budget_bytes=1000,
            budget_waiting=4,
            operations_running=2,
            uptime_seconds=12.0,
            pool_workers=2,
            pool_workers_replaced=5,
        )
    )
    operations: list[OperationInfo] = field(default_factory=list)

    def status(self) -> Status:
        return self.now

    def list_operations(self, *, resource: str, limit: int, after: str | None) -> list[OperationInfo]:
        names = [each.name for each in self.operations]
        start = 0 if after is None else names.index(after) + 1
        return self.operations[start : start + limit]

    def as_storage(self) -> Storage:
        return cast("Storage", self)


@dataclass
class Site:
    """The pages, served."""

    session: aiohttp.ClientSession
    url: str
    storage: StatusOnly
    problems: dict[str, str | None]

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(f"{self.url}{path}") as response:
            return response.status, await response.text()


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    storage = StatusOnly()
    registry = CollectorRegistry()
    add_daemon_metrics(registry, storage.as_storage())
    problems: dict[str, str | None] = {"grpc": None, "storage": None}
    checks = {name: lambda name=name: problems[name] for name in problems}
    async with (
        web_server(storage.as_storage(), "127.0.0.1", 0, registry, checks) as port,
        aiohttp.ClientSession() as session,
    ):
        yield Site(session, f"http://127.0.0.1:{port}", storage, problems)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as site:
        yield site


async def test_healthz_says_that_the_process_is_alive(site: Site) -> None:
    site.problems["grpc"] = "not serving"
    assert await site.get("/healthz") == (200, "ok\n")


async def test_readyz_names_its_checks_when_asked_and_when_one_fails(site: Site) -> None:
    assert await site.get("/readyz") == (200, "ready\n")
    trouble = [f"[!]{mag.name} read-only: the disk is <full>" for mag in site.storage.status().mags if mag.reason]
    assert len(trouble) == 1, "one of the mags is in trouble, and the daemon is ready all the same"
    shown = ["[+]grpc ok", "[+]storage ok", *trouble, "ready"]
    assert await site.get("/readyz?verbose") == (200, "\n".join(shown) + "\n")
    site.problems["storage"] = "draining"
    shown = ["[+]grpc ok", "[-]storage draining", *trouble, "not ready"]
    assert await site.get("/readyz") == (503, "\n".join(shown) + "\n")


async def test_metrics_show_what_the_storage_does(site: Site) -> None:
    site.storage.operations = [
        operation(3, OperationState.RUNNING, done=3, total=10),
        operation(2, OperationState.SUCCEEDED, done=7, total=7),
        operation(1, OperationState.PENDING, done=0, total=5),
    ]
    status, text = await site.get("/metrics")
    assert status == 200
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    expected = {
        ("magd_mags", "serving"): 1,
        ("magd_mags", "read-only"): 1,
        ("magd_mags", "failed"): 0,
        ("magd_queue_depth",): 5,
        ("magd_requests_running",): 1,
        ("magd_unsynced_bytes",): 200,
        ("magd_budget_bytes",): 1000,
        ("magd_budget_used_bytes",): 10,
        ("magd_budget_waiting",): 4,
        ("magd_uptime_seconds",): 12,
        ("magd_pool_workers",): 2,
        ("magd_pool_workers_replaced_total",): 5,
        ("magd_operations_running",): 2,
        ("magd_operation_files",): 15,
        ("magd_operation_files_done",): 3,
    }
    assert expected.items() <= samples.items()
    assert samples["process_resident_memory_bytes",] > 0


async def test_metrics_are_read_anew_each_time(site: Site) -> None:
    assert "magd_budget_used_bytes 10.0" in (await site.get("/metrics"))[1]
    site.storage.now = replace(site.storage.now, budget_used_bytes=11)
    assert "magd_budget_used_bytes 11.0" in (await site.get("/metrics"))[1]


async def test_no_metric_has_the_name_of_a_mag(site: Site) -> None:
    assert "brain" not in (await site.get("/metrics"))[1]


def test_running_operations_are_found_on_every_page() -> None:
    storage = StatusOnly()
    storage.operations = [
        operation(number, OperationState.RUNNING if number == 1 else OperationState.FAILED, done=0, total=1)
        for number in range(2500, 0, -1)
    ]
    assert [each.name for each in running_operations(storage.as_storage())] == ["operations/boot-1"]


async def test_the_page_links_the_others_and_escapes_what_it_shows(site: Site) -> None:
    site.storage.operations = [operation(1, OperationState.RUNNING, done=3, total=10)]
    status, page = await site.get("/")
    assert status == 200
    for path in ("/readyz?verbose", "/healthz", "/metrics"):
        assert f'href="{path}"' in page
        assert (await site.get(path))[0] == 200
    assert "&lt;b&gt;labels&lt;/b&gt;" in page
    assert "the disk is &lt;full&gt;" in page
    assert "<b>" not in page
    assert "operations/boot-1" in page


async def test_a_taken_port_is_an_error(site: Site) -> None:
    port = int(site.url.rpartition(":")[2])
    with pytest.raises(OSError, match="address already in use"):
        async with web_server(site.storage.as_storage(), "127.0.0.1", port, CollectorRegistry(), {}):
            pytest.fail("two servers share a port")
