"""Single attempts of calls over grpc.aio: the twin of `magd_client._sync.transport`.

A transport belongs to the event loop of its first call. It knows nothing of retries; what gRPC raises becomes
an error of magd here.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import grpc
import grpc.aio

from magd.errors import Unavailable
from magd_client import fork
from magd_client.address import Address, channel_options
from magd_client.status import error_of_call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
    from contextlib import AbstractContextManager

    from magd.framing import WriteFrame
    from magd_client.methods import Method

T = TypeVar("T")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Transport:
    """One connection to a daemon. Opened by its first call.

    :param name: of the program, for the daemon's log
    """

    def __init__(self, address: Address, name: str | None) -> None:
        self._address = address
        self._name = name
        self._closed = False
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def unary(self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float) -> ResponseT:
        """Send one message, get one.

        :param timeout: seconds
        :raises MagdError: what the daemon answered; Unavailable if it was not reached
        """
        call = self._open().unary_unary(
            method.path, request_serializer=method.serialize, response_deserializer=method.deserialize
        )
        with self._errors():
            return await call(request, timeout=timeout)

    async def upload(
        self,
        method: Method[WriteFrame, ResponseT],
        first: WriteFrame,
        rest: Iterator[WriteFrame],
        timeout: float,
        sent: Callable[[int], None],
    ) -> ResponseT:
        """Send a box: the first message, and the other parts when the daemon has granted them.

        :param rest: empty if the first message is all; then there is no grant to wait for
        :param sent: called with the bytes of each part that gRPC took
        :raises MagdError: what the daemon answered; Unavailable if it was not reached
        """
        call = self._open().stream_unary(
            method.path, request_serializer=method.serialize, response_deserializer=method.deserialize
        )(timeout=timeout)
        ending = _Ending(call)
        try:
            await call.write(first)
            sent(first.decoded_size)
            frame = next(rest, None)
            if frame is not None:
                await call.initial_metadata()
            while frame is not None:
                await call.write(frame)
                sent(frame.decoded_size)
                frame = next(rest, None)
            await call.done_writing()
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            # The call ended before all was sent: refused, broken, or the daemon knows this id. The outcome follows.
            pass
        except BaseException:
            call.cancel()
            raise
        try:
            return await call
        except grpc.aio.AioRpcError as failure:
            raise error_of_call(ending.failure or failure, self._address) from None

    async def download(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT,
        timeout: float,
        receive: Callable[[ResponseT], None],
    ) -> None:
        """Get a stream of bounded length.

        :param receive: called with each message
        :raises MagdError: what the daemon answered; Unavailable if it was not reached
        """
        async with aclosing(self.stream(method, request, timeout)) as responses:
            async for response in responses:
                receive(response)

    async def stream(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float | None
    ) -> AsyncGenerator[ResponseT, None]:
        """Get a stream that may last. Leaving it early cancels the call.

        :param timeout: seconds for the whole stream; None: until it ends
        :raises MagdError: what the daemon answered; Unavailable if it was not reached
        """
        call = self._open().unary_stream(
            method.path, request_serializer=method.serialize, response_deserializer=method.deserialize
        )(request, timeout=timeout)
        try:
            with self._errors():
                async for response in call:
                    yield response
        finally:
            call.cancel()

    def converse(self, method: Method[RequestT, ResponseT]) -> Conversation[RequestT, ResponseT]:
        """Begin a conversation. Whether there is anybody to answer shows when something is asked."""
        call = self._open().stream_stream(
            method.path, request_serializer=method.serialize, response_deserializer=method.deserialize
        )()
        return Conversation(call, self._errors)

    async def close(self) -> None:
        """Close the connection; later calls fail."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            fork.note_async_use()
            await channel.close()

    def _open(self) -> grpc.aio.Channel:
        if self._closed:
            raise RuntimeError("this client is closed")
        fork.note_async_use()
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._address.text, options=channel_options(self._name))
            self._loop = loop
        if loop is not self._loop:
            raise RuntimeError("this client belongs to another event loop: connect once in each")
        return self._channel

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as failure:
            raise error_of_call(failure, self._address) from None


class Conversation(Generic[RequestT, ResponseT]):
    """Questions and answers over one call, which lasts until somebody ends it. One task at a time may use it."""

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[RequestT, ResponseT],
        errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._call = call
        self._errors = errors

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._call.done()

    async def ask(self, request: RequestT, seconds: float) -> ResponseT:
        """Send a message, and wait for the next one.

        :raises Unavailable: there is no answer, or the conversation was ended
        :raises MagdError: what the daemon answered
        """
        try:
            with self._errors():
                async with asyncio.timeout(seconds):
                    await self._call.write(request)
                    response = await self._call.read()
        except (TimeoutError, asyncio.InvalidStateError):
            raise Unavailable("the daemon does not answer") from None
        if response is grpc.aio.EOF:
            raise Unavailable("the daemon has ended the call")
        return cast("ResponseT", response)

    async def tell(self, request: RequestT) -> None:
        """Send a message to which there is no answer. If the call has ended, nobody hears it."""
        try:
            await self._call.write(request)
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass

    async def end(self) -> None:
        """End it."""
        self._call.cancel()


class _Ending:
    """How an upload failed.

    grpc.aio forgets it: when a message cannot be sent because the daemon has ended the call, it replaces the status
    of the call by INTERNAL, before the status has come or after. This keeps the one that came.
    """

    _REPLACED = "Internal error from Core"

    def __init__(self, call: grpc.aio.Call) -> None:
        self.failure: grpc.aio.AioRpcError | None = None
        # Called each time when the status is set, while it is what it was set to.
        call.add_done_callback(self._note)

    def _note(self, call: grpc.aio.Call) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        if self.failure is None and code is not grpc.StatusCode.OK and details != self._REPLACED:
            self.failure = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), _at_once(call.trailing_metadata()), details)


def _at_once(result: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has no reason to wait."""
    try:
        result.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    result.close()
    raise RuntimeError("the status of a call that is done is not there")
