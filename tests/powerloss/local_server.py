"""magd in this process, on one root after the other: thousands of states are opened, and each start of a daemon would
cost more than all that is done with it.

It is the storage and the gRPC edge of a daemon, on a unix socket. Only the processes that compress are missing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

import structlog
from prometheus_client import CollectorRegistry

import magd_client
from magd.actors.storage import Storage
from magd.actors.types import StorageConfig
from magd.catalog.locks import lock_root
from magd.catalog.root import Root
from magd.compression.pool import CompressionPool
from magd.rpc.addresses import UnixPath
from magd.rpc.admission import EdgeConfig
from magd.rpc.server import rpc_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from magd_client import Client

_CONFIG: Final = StorageConfig(budget_bytes=256 << 20, io_threads=2, disk_reserve_bytes=0)


class LocalServer:
    """A context manager; inside of it, `serving` may be used again and again.

    :param folder: for the sockets; its path is short
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._count = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._pool = CompressionPool(workers=1)  # never started: it would refuse a job

    def __enter__(self) -> Self:
        # What a recovery has to say about a power loss is no news here.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        structlog.reset_defaults()

    @contextmanager
    def serving(self, root: str) -> Iterator[Client]:
        """Serve a root. Leaving the context stops as a daemon does: everything is in the files then.

        :raises MagdError: it cannot be served
        """
        self._count += 1
        socket = os.path.join(self._folder, f"s{self._count}")
        started: Future[None] = Future()
        stop = asyncio.Event()
        ended = asyncio.run_coroutine_threadsafe(self._serve(root, socket, started, stop), self._loop)
        ended.add_done_callback(lambda future: _pass_on(future, started))
        started.result()
        try:
            with magd_client.connect(f"unix:{socket}") as client:
                yield client
        finally:
            self._loop.call_soon_threadsafe(stop.set)
            ended.result()

    async def _serve(self, root_path: str, socket: str, started: Future[None], stop: asyncio.Event) -> None:
        root = Root(root_path)
        with lock_root(root.path, read_only=False):
            async with (
                Storage(root, _CONFIG, self._pool) as storage,
                rpc_server(storage, UnixPath(socket), EdgeConfig(), CollectorRegistry()) as rpc,
            ):
                rpc.set_serving()
                started.set_result(None)
                await stop.wait()


def _pass_on(ended: Future[None], started: Future[None]) -> None:
    """A server that cannot start ends without having started: whoever waits for the start gets the error."""
    if not started.done():
        started.set_exception(ended.exception() or AssertionError("the server has ended before it was ready"))
