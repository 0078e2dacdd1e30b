"""The HTTP server, for operators and their machines.

/         a page for people /healthz  200 while the process is alive /readyz   200 if every check is fine,
else 503. With ?verbose, or when one is not, a line for each: `[+]storage ok` /metrics  Prometheus

It changes nothing and shows no voxels.
"""

# ruff: noqa: ARG002  # aiohttp gives every handler its request

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeAlias

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from magd.web.status_page import status_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from prometheus_client import CollectorRegistry

    from magd.actors.storage import Storage

Check: TypeAlias = "Callable[[], str | None]"
"""Says what is wrong, or None if nothing is."""


class Pages:
    """The handlers.

    :param checks: what has to be fine for the daemon to be ready, by name
    """

    def __init__(self, storage: Storage, registry: CollectorRegistry, checks: Mapping[str, Check]) -> None:
        self._storage = storage
        self._registry = registry
        self._checks = checks

    async def index(self, request: web.Request) -> web.Response:
        """The page for people."""
        return web.Response(text=status_page(self._storage, version("magd")), content_type="text/html")

    async def healthz(self, request: web.Request) -> web.Response:
        """Alive."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Ready, or why not."""
        problems = {name: check() for name, check in self._checks.items()}
        is_ready = not any(problems.values())
        lines = [f"[-]{name} {why}" if why else f"[+]{name} ok" for name, why in problems.items()]
        # A mag that is in trouble does not keep the others from being served.
        lines += [f"[!]{mag.name} {mag.state}: {mag.reason}" for mag in self._storage.status().mags if mag.reason]
        shown = lines if "verbose" in request.query or not is_ready else []
        return web.Response(
            text="\n".join([*shown, "ready" if is_ready else "not ready"]) + "\n",
            status=200 if is_ready else 503,
        )

    async def metrics(self, request: web.Request) -> web.Response:
        """Every metric of the registry."""
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@asynccontextmanager
async def web_server(
    storage: Storage, host: str, port: int, registry: CollectorRegistry, checks: Mapping[str, Check]
) -> AsyncIterator[int]:
    """Serve the pages for as long as the context lasts.

    :param port: 0 picks a free one
    :return: the port it listens on
    :raises OSError: the address is taken
    """
    pages = Pages(storage, registry, checks)
    app = web.Application()
    app.add_routes(
        [
            web.get("/", pages.index),
            web.get("/healthz", pages.healthz),
            web.get("/readyz", pages.readyz),
            web.get("/metrics", pages.metrics),
        ]
    )
    # Nothing here takes long, so nothing is worth waiting for when it stops.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
