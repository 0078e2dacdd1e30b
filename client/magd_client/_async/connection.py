"""A connection: single attempts made into calls that are retried and have a deadline."""

from __future__ import annotations

import weakref
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from magd.errors import Busy, Unavailable
from magd.v1 import maintenance_pb2
from magd_client import answers, convert, fork, methods
from magd_client._async.sharing import Sharing
from magd_client._async.transport import Transport
from magd_client._async.twins import sleep
from magd_client.regions import SHARED_BYTES
from magd_client.retry import LONG_TIMEOUT_SECONDS, Attempts
from magd_client.status import is_unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from magd_client.address import Address
    from magd_client.convert import FlushLevel
    from magd_client.info import ServerInfo
    from magd_client.methods import Method
    from magd_client.settings import Settings

T = TypeVar("T")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


def new_request_id() -> str:
    """The id of a change, by which the daemon knows a retry from a second change."""
    return str(uuid4())


async def all_pages(page: Callable[[str], Awaitable[tuple[list[T], str]]]) -> list[T]:
    """Everything that a paged listing has.

    :param page: gets the page of a token; returns its entries and the token of the next, empty at the end
    """
    entries, token = await page("")
    while token:
        more, token = await page(token)
        entries.extend(more)
    return entries


class Connection:
    """What every handle holds. Pickled, it is address and settings; handles that are unpickled in one process
    share a connection.
    """

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address: Final = address
        self.settings: Final = settings
        self.transport: Final = Transport(address, settings.name)
        self._sharing = Sharing(self.transport)
        self._reached = False
        self._server_info: ServerInfo | None = None

    def __reduce__(self) -> tuple[Callable[[Address, Settings], Connection], tuple[Address, Settings]]:
        return _revive, (self.address, self.settings)

    async def call(self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float | None) -> ResponseT:
        """Send one message and get one, with retries.

        :param timeout: seconds for all attempts together; None: the connection's default
        :raises MagdError: what the last attempt met
        """
        return await self.retry(lambda seconds: self.transport.unary(method, request, seconds), timeout=timeout)

    async def retry(self, attempt: Callable[[float], Awaitable[T]], *, timeout: float | None) -> T:
        """Make attempts until one succeeds, or fails for good.

        :param attempt: called with the seconds it has
        :param timeout: seconds for all attempts together; None: the connection's default
        :raises MagdError: what the last attempt met
        """
        attempts = self._attempts(timeout)
        while True:
            try:
                result = await attempt(attempts.remaining())
            except (Unavailable, Busy) as error:
                self._reached = self._reached or not is_unreachable(error)
                pause = attempts.pause_after(error, reached=self._reached)
                if pause is None:
                    raise
            else:
                self._reached = True
                return result
            await sleep(pause)

    async def stream(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float | None
    ) -> AsyncGenerator[ResponseT, None]:
        """Get a stream. It is retried until its first message has come; what fails later is raised.

        :param timeout: seconds for the whole stream; None: an hour
        :raises MagdError: what the daemon answered; Unavailable if it was not reached
        """
        attempts = self._attempts(LONG_TIMEOUT_SECONDS if timeout is None else timeout)
        while True:
            begun = False
            try:
                call = self.transport.stream(method, request, attempts.remaining())
                async with aclosing(call) as responses:
                    async for response in responses:
                        begun = self._reached = True
                        yield response
            except (Unavailable, Busy) as error:
                pause = None if begun else attempts.pause_after(error, reached=self._reached)
                if pause is None:
                    raise
            else:
                return
            await sleep(pause)

    async def flush(self, name: str, level: FlushLevel, timeout: float | None) -> None:
        """Bring everything acknowledged below a resource to the disk.

        :param name: of the resource; empty: everything
        :param timeout: seconds; None: an hour
        """
        request = maintenance_pb2.FlushRequest(name=name, level=convert.flush_level_to_proto(level))
        await self.call(methods.FLUSH, request, LONG_TIMEOUT_SECONDS if timeout is None else timeout)

    async def get_server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Ask what the daemon is."""
        response = await self.call(methods.GET_SERVER_INFO, maintenance_pb2.GetServerInfoRequest(), timeout)
        self._server_info = answers.server_info(response)
        return self._server_info

    async def max_box_bytes(self) -> int:
        """The daemon's limit of one box, asked for once."""
        return (await self._known_server_info()).limits.max_box_bytes

    async def compresses_parts(self) -> bool:
        """Whether the bytes of boxes are compressed on their way."""
        encoding = self.settings.encoding
        wanted = encoding == "lz4" or (encoding == "auto" and not self.address.is_on_this_machine)
        return wanted and "lz4" in (await self._known_server_info()).capabilities

    async def batches_one_box(self) -> bool:
        """Whether a box that fits into one message is written and read fastest as a batch of one."""
        return "one_box" in (await self._known_server_info()).capabilities

    async def shareable_bytes(self, size_bytes: int) -> int:
        """How many bytes of a box may go through shared memory; 0: none."""
        if not (self.settings.shared_memory and self.address.is_unix_socket and size_bytes >= SHARED_BYTES):
            return 0
        # One client gets at most half.
        return min(size_bytes, (await self._known_server_info()).limits.shared_memory_bytes // 2)

    def sharing(self) -> Sharing:
        """Shared memory of this process."""
        with fork.lock():
            if self._sharing.epoch != fork.epoch():
                self._sharing = Sharing(self.transport)
            return self._sharing

    async def _known_server_info(self) -> ServerInfo:
        return self._server_info or await self.get_server_info()

    async def close(self) -> None:
        """Close it; later calls fail."""
        await self.sharing().close()
        await self.transport.close()

    def _attempts(self, timeout: float | None) -> Attempts:
        settings = self.settings
        return Attempts(settings.retry, settings.timeout if timeout is None else timeout)


_revived: weakref.WeakValueDictionary[tuple[Address, Settings], Connection] = weakref.WeakValueDictionary()


def _revive(address: Address, settings: Settings) -> Connection:
    with fork.lock():
        connection = _revived.get((address, settings))
        if connection is None:
            connection = _revived[address, settings] = Connection(address, settings)
        return connection
