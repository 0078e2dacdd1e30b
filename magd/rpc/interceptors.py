"""What happens around every call of magd's services, in one place.

1. While the daemon drains, or has as many calls as it may, a call is refused before anything of it is read.
2. Messages are parsed here, so that bytes that are no message get a clear status and every byte is counted.
3. The handler runs. It knows nothing of statuses: it raises errors of `magd.errors`.
4. A message of a response that the client does not take in time ends the handler.
5. However it ends, the client gets a status:
   - an error of magd by the table in `magd.rpc.errors`;
   - any other exception is a bug: INTERNAL with the id under which the log has it, and nothing of its text;
   - a cancellation that does not come from the client (something that the handler awaited was cancelled) is
     an error too. gRPC would send nothing for it, and the client would wait for ever.
6. One line in the log, and the metrics. A call that carries outcomes of boxes goes well where boxes fail. They are
   counted and logged all the same: what is wrong with a file is not to be known to its client alone.

The standard services (health, reflection) are not wrapped: they have no errors of ours, and health answers to
the end.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from magd.actors.budget import CLIENT
from magd.errors import Busy, InternalError, InvalidRequest, MagdError, Reason, TooSlow, Unavailable
from magd.rpc.admission import client_of
from magd.rpc.errors import STATUS_KEY, answer_of, box_errors, code_of_box, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from magd.rpc.admission import EdgeConfig
    from magd.rpc.metrics import CallMetrics
    from magd.v1 import volume_pb2

PREFIX: Final = "/magd.v1."

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
MessageT = TypeVar("MessageT")

_KINDS: Final = {  # by whether requests and responses are streams
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
SLOW_SECONDS: Final = 1.0
"""Calls that move boxes and last no longer are for those who want to see everything: there may be thousands a second,
and the metrics count them."""
_BOXES: Final = "VolumeService/"
_OUR_FAULT: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS})

_log = structlog.get_logger("magd.rpc")


class Call:
    """One call: its id, and what it has moved so far."""

    def __init__(self, method: str, peer: str, metrics: CallMetrics) -> None:
        # No secret: only so that lines of the log and answers can be told apart.
        self.id: Final = f"{random.getrandbits(64):016x}"
        self.method: Final = method
        self.peer: Final = peer
        self.started: Final = time.perf_counter()
        self.received = 0
        self.sent = 0
        self.failed_boxes = 0
        self.box_failure: volume_pb2.BoxError | None = None
        """The first of them, or the first that no client can be blamed for."""
        self.scope = asyncio.timeout(None)
        """Expires at the moment the call has to end because the daemon drains."""
        self._metrics: Final = metrics

    def parse(self, parser: Callable[[bytes], MessageT], data: bytes) -> MessageT:
        """Count and parse a message.

        :raises InvalidRequest: these bytes are no such message
        """
        self.received += len(data)
        try:
            return parser(data)
        except DecodeError as error:
            raise InvalidRequest(
                f"{len(data)} bytes are not a message of {self.method}",
                metadata={"field": "message", "value": f"{len(data)} bytes"},
            ) from error

    def pack(self, serializer: Callable[[MessageT], bytes], message: MessageT) -> bytes:
        """Serialize a message, and count it with the boxes in it that failed."""
        data = serializer(message)
        self.sent += len(data)
        for failure in box_errors(message):
            self._note_failed(failure)
        return data

    def _note_failed(self, failure: volume_pb2.BoxError) -> None:
        code = code_of_box(failure)
        self._metrics.box_failed(self.method, code.name)
        self.failed_boxes += 1
        first = self.box_failure
        if first is None or (code in _OUR_FAULT and code_of_box(first) not in _OUR_FAULT):
            self.box_failure = failure


class Requests(Generic[MessageT]):
    """The messages of a request stream, parsed as they are asked for."""

    def __init__(self, call: Call, parser: Callable[[bytes], MessageT], raw: AsyncIterator[bytes]) -> None:
        self._call = call
        self._parser = parser
        self._raw = raw

    def __aiter__(self) -> AsyncIterator[MessageT]:
        return self

    async def __anext__(self) -> MessageT:
        return self._call.parse(self._parser, await anext(self._raw))


class Calls(grpc.aio.ServerInterceptor):
    """All calls of magd's services.

    :param end_at_drain: the methods (`Service/Method`) whose streams wait for something to happen. A drain
        ends them; other calls may finish
    """

    def __init__(self, config: EdgeConfig, metrics: CallMetrics, *, end_at_drain: frozenset[str]) -> None:
        self._config = config
        self._metrics = metrics
        self._end_at_drain = end_at_drain
        self._running: set[Call] = set()
        self._none_runs = asyncio.Event()
        self._none_runs.set()
        self._draining = False

    @property
    def running(self) -> int:
        """Calls under way."""
        return len(self._running)

    def drain(self) -> None:
        """From now on refuse every call, and end the streams that wait for something to happen."""
        self._draining = True
        now = asyncio.get_running_loop().time()
        for call in self._running:
            if call.method in self._end_at_drain:
                call.scope.reschedule(now)

    async def wait_until_none_runs(self) -> None:
        """Wait for the end of the calls under way."""
        await self._none_runs.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # gRPC answers a method that does not exist itself.
        if handler is None or not method.startswith(PREFIX):
            return handler
        return self._wrap(method.removeprefix(PREFIX), handler)

    def _wrap(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        behavior = getattr(handler, kind)
        parser: Any = handler.request_deserializer
        serializer: Any = handler.response_serializer

        async def one_for_one(raw: Any, context: Context) -> Any:
            async def work(call: Call) -> bytes:
                return call.pack(serializer, await behavior(call.parse(parser, raw), context))

            return await self._answered(method, context, work)

        @asynccontextmanager
        async def requests(call: Call, raw: Any) -> AsyncIterator[Any]:
            if not handler.request_streaming:
                yield call.parse(parser, raw)
                return
            # Closed at once: what the garbage collector closes later may find no event loop any more.
            async with aclosing(aiter(raw)) as messages:
                yield Requests(call, parser, messages)

        async def one_response(raw: Any, context: Context) -> Any:
            async def work(call: Call) -> bytes:
                async with requests(call, raw) as request:
                    return call.pack(serializer, await behavior(request, context))

            return await self._answered(method, context, work)

        async def many_responses(raw: Any, context: Context) -> None:
            async def work(call: Call) -> None:
                async with requests(call, raw) as request, aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        await self._send(context, call.pack(serializer, response))

            await self._answered(method, context, work)

        # Without serializers gRPC hands bytes through, in both directions.
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        one = one_response if handler.request_streaming else one_for_one
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(many_responses if handler.response_streaming else one)
        return wrapped

    async def _answered(self, method: str, context: Context, work: Callable[[Call], Awaitable[Any]]) -> Any:
        """Do the work of a call, and see to it that the client is told how it ended.

        What the work held must be free before the client is told, since that may take the client long, and is leased no
        more: so this is no context manager, whose frames keep the traceback of an error while they wait.
        """
        call = Call(method, context.peer(), self._metrics)
        self._metrics.began(method)
        error: MagdError | None = None
        """None if nobody is left to answer to."""
        try:
            self._refuse_if_draining()
            self._refuse_if_full()
            CLIENT.set(client_of(call.peer, context.invocation_metadata() or ()))
            async with call.scope:
                with self._counted(call):
                    result = await work(call)
                    self._record(call, grpc.StatusCode.OK)
                    return result
        except asyncio.CancelledError:
            if not _was_cancelled_from_outside():
                _log.exception("what a call waited for was cancelled", id=call.id, method=method)
                error = Unavailable(
                    "the work was stopped before its end; it is not known whether it took effect",
                    reason=Reason.OUTCOME_UNKNOWN,
                )
        except grpc.aio.InternalError:
            pass  # gRPC cannot send any more: the client has gone
        except MagdError as raised:
            raised.let_go()
            error = raised
        except Exception as raised:  # noqa: BLE001  # here is where bugs end, so that nothing of them travels
            error = _shutting_down() if call.scope.expired() else _bug(call, raised)

        if error is None:
            self._record(call, grpc.StatusCode.CANCELLED)
            raise asyncio.CancelledError
        return await self._tell(call, context, error)

    async def _tell(self, call: Call, context: Context, error: MagdError) -> NoReturn:
        """End a call with an error: raises what gRPC wants to have raised."""
        if isinstance(error, InternalError):
            error = InternalError(
                error.message, reason=error.reason, metadata={**error.metadata, "request_id": call.id}
            )
        code = answer_of(type(error)).code
        self._record(call, code, error)
        status = status_of(error)
        try:
            # Behind a message that the client does not take, this waits for the client, or for the end of its
            # connection or of the server.
            await context.abort(code, status.message, ((STATUS_KEY, status.SerializeToString()),))
        except grpc.aio.InternalError as gone:
            raise asyncio.CancelledError from gone
        raise AssertionError("an abort raises")

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise _shutting_down()

    def _refuse_if_full(self) -> None:
        if len(self._running) >= self._config.max_calls:
            raise Busy(f"{len(self._running)} calls are under way already", retry_after=1.0)

    @contextmanager
    def _counted(self, call: Call) -> Iterator[None]:
        self._running.add(call)
        self._none_runs.clear()
        try:
            yield
        finally:
            self._running.discard(call)
            if not self._running:
                self._none_runs.set()

    async def _send(self, context: Context, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._config.stall_seconds):
                await context.write(data)
        except TimeoutError:
            raise TooSlow(
                f"the client took nothing for {self._config.stall_seconds:g} s",
                metadata={"limit": f"{self._config.stall_seconds:g} s"},
            ) from None

    def _record(self, call: Call, code: grpc.StatusCode, error: MagdError | None = None) -> None:
        seconds = time.perf_counter() - call.started
        self._metrics.ended(call.method, code.name, seconds=seconds, received=call.received, sent=call.sent)
        facts: dict[str, object] = {}
        codes = {code}
        if (failure := call.box_failure) is not None:
            facts = {"failed_boxes": call.failed_boxes, "reason": failure.reason, "error": failure.message}
            codes.add(code_of_box(failure))
        if error is not None:
            facts |= {"reason": str(error.reason), "error": error.message}
        if codes & _OUR_FAULT:
            level = logging.ERROR
        elif codes == {grpc.StatusCode.OK} and seconds < SLOW_SECONDS and call.method.startswith(_BOXES):
            level = logging.DEBUG
        else:
            level = logging.INFO
        _log.log(
            level,
            "call",
            id=call.id,
            method=call.method,
            peer=call.peer,
            code=code.name,
            seconds=round(seconds, 6),
            bytes_in=call.received,
            bytes_out=call.sent,
            **facts,
        )


def _shutting_down() -> Unavailable:
    return Unavailable("the daemon is shutting down", reason=Reason.SHUTTING_DOWN)


def _bug(call: Call, raised: Exception) -> InternalError:
    _log.error("a call failed in a way that nobody foresaw", id=call.id, method=call.method, exc_info=raised)
    return InternalError(f"internal error; the daemon's log has it under {call.id}")


def _was_cancelled_from_outside() -> bool:
    """Whether gRPC cancelled this call, because the client left or the grace of a stop ran out."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
