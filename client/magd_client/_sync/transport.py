"""Single attempts of calls over grpc: the twin of `magd_client._async.transport`.

Safe for use by several threads, and in a forked child (see `magd_client.fork`). It knows nothing of retries;
what gRPC raises becomes an error of magd here.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import closing, contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import grpc

from magd.errors import Cancelled, MagdError, Unavailable
from magd_client import fork
from magd_client.address import Address, channel_options
from magd_client.status import error_of_call

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    from magd.framing import WriteFrame
    from magd_client.methods import Method

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_END_SECONDS: Final = 1.0
"""What a call that is cancelled takes at most to end."""


class Transport:
    """One connection to a daemon. Opened by its first call, and anew in a forked child.

    :param name: of the program, for the daemon's log
    """

    def __init__(self, address: Address, name: str | None) -> None:
        self._address = address
        self._name = name
        self._closed = False
        self._channel: tuple[int, grpc.Channel] | None = None

    def unary(self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float) -> ResponseT:
        """Send one message, get one.

        :param timeout: seconds
        :raises MagdError: what the daemon answered; Unavailable if it was not reached
        """
        with fork.call(), self._errors():
            call = self._open().unary_unary(
                method.path, request_serializer=method.serialize, response_deserializer=method.deserialize
            )
            return call(request, timeout=timeout)

    def upload(
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
        upload = _Upload(first, rest, sent)
        with fork.call(), self._errors():
            call = self._open().stream_unary(
                method.path, request_serializer=method.serialize, response_deserializer=method.deserialize
            )
            if upload.is_single:
                return call(upload.messages(), timeout=timeout)
            running = call.future(upload.messages(), timeout=timeout)
            try:
                # Comes with the grant, and also when the call has ended without one.
                running.initial_metadata()
                upload.granted.set()
                return running.result()
            finally:
                upload.granted.set()
                running.cancel()

    def download(
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
        with fork.call(), closing(self.stream(method, request, timeout)) as responses:
            for response in responses:
                receive(response)

    def stream(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float | None
    ) -> Generator[ResponseT, None, None]:
        """Get a stream that may last. Leaving it early cancels the call.

        :param timeout: seconds for the whole stream; None: until it ends
        :raises MagdError: what the daemon answered; Unavailable if it was not reached
        """
        call = self._open().unary_stream(
            method.path, request_serializer=method.serialize, response_deserializer=method.deserialize
        )(request, timeout=timeout)
        try:
            with self._errors():
                yield from call
        finally:
            call.cancel()

    def converse(self, method: Method[RequestT, ResponseT]) -> Conversation[RequestT, ResponseT]:
        """Begin a conversation. Whether there is anybody to answer shows when something is asked."""
        with fork.call():
            start = self._open().stream_stream(
                method.path, request_serializer=method.serialize, response_deserializer=method.deserialize
            )
            conversation = Conversation(start, self._errors)
            fork.end_before(conversation)
            return conversation

    def close(self) -> None:
        """Close the connection; later calls fail."""
        with fork.lock():
            self._closed = True
            opened, self._channel = self._channel, None
        if opened is None:
            return
        epoch, channel = opened
        if epoch == fork.epoch():
            channel.close()
        else:
            fork.abandon(channel)

    def _open(self) -> grpc.Channel:
        opened = self._channel
        if opened is not None and opened[0] == fork.epoch():
            return opened[1]
        with fork.lock():
            if self._closed:
                raise RuntimeError("this client is closed")
            opened = self._channel
            if opened is not None and opened[0] == fork.epoch():
                return opened[1]
            fork.note_use()
            if opened is not None:
                fork.abandon(opened[1])
            channel = grpc.insecure_channel(self._address.text, options=channel_options(self._name))
            self._channel = (fork.epoch(), channel)
            return channel

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as failure:
            raise error_of_call(failure, self._address) from None


class Conversation(Generic[RequestT, ResponseT]):
    """Questions and answers over one call, which lasts until somebody ends it, or the process forks. One thread at a
    time may use it.

    :param start: begins the call
    """

    def __init__(
        self,
        start: grpc.StreamStreamMultiCallable[RequestT, ResponseT],
        errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._errors = errors
        self._ended = ended = threading.Event()
        # gRPC takes messages in a thread of its own, which waits here. It must not keep this object alive.
        self._outbox: SimpleQueue[RequestT | None] = SimpleQueue()
        outbox = self._outbox
        self._call: Any = start(_messages(outbox))

        def end() -> None:
            ended.set()
            outbox.put(None)

        if not self._call.add_callback(end):
            end()
        self._end_with_this = weakref.finalize(self, self._call.cancel)

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._ended.is_set()

    def ask(self, request: RequestT, seconds: float) -> ResponseT:
        """Send a message, and wait for the next one.

        :raises Unavailable: there is no answer, or the conversation was ended
        :raises MagdError: what the daemon answered
        """
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._call.cancel()

        with fork.call():
            timer = threading.Timer(seconds, give_up)
            timer.start()
            try:
                self._outbox.put(request)
                with self._errors():
                    response: ResponseT = next(self._call)
                    return response
            except (StopIteration, MagdError) as error:
                if is_late.is_set() or isinstance(error, StopIteration | Cancelled):
                    raise Unavailable("the daemon does not answer, or the call was ended") from None
                raise
            finally:
                timer.cancel()
                timer.join()

    def tell(self, request: RequestT) -> None:
        """Send a message to which there is no answer. If the call has ended, nobody hears it."""
        self._outbox.put(request)

    def end(self) -> None:
        """End it, and wait until gRPC has heard of it."""
        self._end_with_this()
        self._ended.wait(_END_SECONDS)


def _messages(outbox: SimpleQueue[RequestT | None]) -> Iterator[RequestT]:
    while (message := outbox.get()) is not None:
        yield message


class _Upload:
    """The messages of one box. gRPC takes them in a thread of its own, which waits for the grant."""

    def __init__(self, first: WriteFrame, rest: Iterator[WriteFrame], sent: Callable[[int], None]) -> None:
        self._first = first
        self._next = next(rest, None)
        self._rest = rest
        self._sent = sent
        self.is_single = self._next is None
        self.granted = threading.Event()

    def messages(self) -> Iterator[WriteFrame]:
        yield self._first
        self._sent(self._first.decoded_size)
        if self._next is None:
            return
        self.granted.wait()
        frame: WriteFrame | None = self._next
        while frame is not None:
            yield frame
            self._sent(frame.decoded_size)
            frame = next(self._rest, None)
