"""The daemon: what it is made of, in which order it starts, and in which order it stops.

1. Check the settings, and whether the addresses are free.
2. Lock the root, so that no other daemon serves it.
3. Start the processes that compress. They are spawned before gRPC starts its threads.
4. Start the storage.
5. Start the edges. Health says NOT_SERVING.
6. Say that it is ready: in health, in /readyz, and in one line on stdout.
7. Wait until somebody asks it to stop.
8. Say that it is not ready any more, refuse new calls, and let those under way finish.
9. Steps 5 to 2 backwards: the storage finishes what it has accepted, the processes end, the lock is released.

The context managers of `run` are steps 2 to 5 in this order, so that leaving them is step 9.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

import structlog
from prometheus_client import CollectorRegistry

from magd import garbage, malloc
from magd.actors.storage import Storage
from magd.actors.types import StorageConfig
from magd.catalog.locks import lock_root
from magd.catalog.root import Root
from magd.compression.pool import CompressionPool, default_workers
from magd.errors import InvalidRequest, MagdError, NotAllowed
from magd.rpc.addresses import HostPort, UnixPath, check_free, parse_address
from magd.rpc.admission import EdgeConfig
from magd.rpc.server import RpcServer, rpc_server
from magd.web.metrics import add_daemon_metrics
from magd.web.server import Check, web_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

CANNOT_START: Final = 2
"""The exit status of a daemon that could not start."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger("magd")


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """Every setting of a daemon. The defaults serve one machine."""

    root: str
    """The folder whose datasets are served."""
    grpc: str = "127.0.0.1:7733"
    """HOST:PORT or unix:PATH. Port 0 picks a free one."""
    http: str | None = "127.0.0.1:7734"
    """HOST:PORT of health, readiness and metrics; None: not served."""
    insecure: bool = False
    """Allow addresses that other machines can reach. Nothing is encrypted, and nobody has to log in."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """What lies behind the edges: read_only, memory, durability, threads, workers."""
    shared_memory_bytes: int | None = None
    """Shared memory for clients, if `grpc` is a unix socket; None: a quarter of the budget; 0: none."""
    stall_seconds: float = 30.0
    """How long a client may neither send nor take a message of a stream."""
    min_rate_bytes_per_second: int = 64 * 1024
    """The slowest a client may send or take a box."""
    max_calls: int = 1024
    """Calls under way at once; more are refused."""
    grace_seconds: float = 30.0
    """How long calls under way may take to finish when the daemon stops."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a daemon listens, with the ports that were picked."""

    grpc: str
    http: str | None

    def __str__(self) -> str:
        return f"magd ready grpc={self.grpc}" + (f" http={self.http}" if self.http else "")


async def run(config: DaemonConfig, *, shutdown: Awaitable[object], on_ready: Callable[[Ready], object]) -> None:
    """Serve a root until `shutdown` is done, then stop without losing anything that was acknowledged.

    :param on_ready: called once, when calls are taken
    :raises MagdError: it cannot start; nothing was changed. It may come in an ExceptionGroup
    """
    grpc = _address(config, config.grpc, field="grpc")
    http = None if config.http is None else _http_address(config, config.http)
    edge = EdgeConfig(config.stall_seconds, config.min_rate_bytes_per_second, config.max_calls)
    root = Root(config.root, read_only=config.storage.read_only)
    registry = CollectorRegistry()

    with lock_root(root.path, read_only=root.read_only):
        async with (
            _pool(config.storage.pool_workers, config.storage.max_cpu) as pool,
            Storage(root, _storage_config(config, grpc), pool) as storage,
            rpc_server(storage, grpc, edge, registry) as rpc,
            _web(storage, http, registry, rpc) as web,
            _giving_memory_back(storage),
        ):
            add_daemon_metrics(registry, storage)
            rpc.set_serving()
            ready = Ready(str(rpc.address), None if web is None else str(web))
            _log.info("ready", root=root.path, read_only=root.read_only, grpc=ready.grpc, http=ready.http)
            on_ready(ready)
            await shutdown
            _log.info("stopping", grace_seconds=config.grace_seconds)
            await rpc.drain(config.grace_seconds)
    _log.info("stopped")


def serve(config: DaemonConfig) -> int:
    """Serve a root until SIGTERM or SIGINT. The ready line goes to stdout, the log to stderr.

    A second signal ends the process at once, as a crash would.

    :return: the exit status: 0 after a stop that was asked for, `CANNOT_START` with one line on stderr if it
        could not start
    """
    _set_up_log(config)
    if not malloc.pin_thresholds():
        _log.info("malloc is left as it is: the environment sets it, or it is not that of glibc")
    status = 0
    try:
        asyncio.run(_run_until_signal(config))
    except* MagdError as group:
        for error in _leaves(group):
            sys.stderr.write(f"magd: error: {error} [{error.reason}]\n")
        status = CANNOT_START
    return status


async def _run_until_signal(config: DaemonConfig) -> None:
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        asked.set_result(None)
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            # The kernel acts on the next one, even if the event loop is stuck.
            signal.signal(number, signal.SIG_DFL)

    def announce(ready: Ready) -> None:
        garbage.search_less()
        sys.stdout.write(f"{ready}\n")
        sys.stdout.flush()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    await run(config, shutdown=asked, on_ready=announce)


@asynccontextmanager
async def _pool(workers: int, share: float) -> AsyncIterator[CompressionPool]:
    # Starting and closing wait for processes; signals are to be heard meanwhile.
    pool = CompressionPool(workers or default_workers(share), share)
    await asyncio.to_thread(pool.start)
    try:
        yield pool
    finally:
        await asyncio.to_thread(pool.close)


@asynccontextmanager
async def _web(
    storage: Storage, address: HostPort | None, registry: CollectorRegistry, rpc: RpcServer
) -> AsyncIterator[HostPort | None]:
    if address is None:
        yield None
        return
    checks: dict[str, Check] = {
        "grpc": lambda: None if rpc.is_serving else "not serving",
        "storage": lambda: "draining" if storage.is_draining else None,
    }
    async with web_server(storage, address.host, address.port, registry, checks) as port:
        yield HostPort(address.host, port)


@asynccontextmanager
async def _giving_memory_back(storage: Storage) -> AsyncIterator[None]:
    task = asyncio.create_task(malloc.give_back_when_idle(lambda: storage.budget.used_bytes == 0), name="memory")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _storage_config(config: DaemonConfig, grpc: HostPort | UnixPath) -> StorageConfig:
    if not isinstance(grpc, UnixPath):
        return config.storage
    given = config.shared_memory_bytes
    return replace(config.storage, shared_memory_bytes=config.storage.budget_bytes // 4 if given is None else given)


def _address(config: DaemonConfig, text: str, *, field: str) -> HostPort | UnixPath:
    address = parse_address(text, field=field)
    if isinstance(address, HostPort) and not address.is_local and not config.insecure:
        raise NotAllowed(
            f"{field} address {address} can be reached from other machines, but nothing is encrypted and "
            "nobody has to log in: whoever reaches it can change and delete data. Use 127.0.0.1 or "
            "unix:PATH, or add --insecure if the network is trusted",
            metadata={"field": field, "value": address},
        )
    check_free(address, field=field)
    return address


def _http_address(config: DaemonConfig, text: str) -> HostPort:
    address = _address(config, text, field="http")
    if isinstance(address, HostPort):
        return address
    raise InvalidRequest(f"http {text!r}: expected HOST:PORT", metadata={"field": "http", "value": text})


def _leaves(group: BaseExceptionGroup[MagdError]) -> Iterator[MagdError]:
    for error in group.exceptions:
        if isinstance(error, MagdError):
            yield error
        else:
            yield from _leaves(error)


def _set_up_log(config: DaemonConfig) -> None:
    """Everything goes to stderr in one format, also what libraries log."""
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    is_json = config.log_format == "json"
    facts: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if is_json
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=[*facts, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=facts,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("magd").setLevel(level)
