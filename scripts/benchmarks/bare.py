"""What gRPC moves on this machine with nothing behind it: a server of its own, without protobuf.

    python -m scripts.benchmarks.bare ADDRESS

It prints its address. `Sink` throws a stream away, `Source` makes one up, in messages of 1 MiB and with malloc pinned
as in the daemon; `Empty` answers nothing, whatever the call carries.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from magd import malloc
from magd.rpc.admission import PART_BYTES, server_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.voxels import VoxelArray

_HEAD: Final = b"\xa2\x06\x80\x80\x40"
"""Stands before the data of a part in a message of the protos: field 100, 1 MiB."""


class BareServer:
    """A client of the server.

    :ivar pid: of the server
    """

    def __init__(self, channel: grpc.Channel, pid: int) -> None:
        self.pid: Final = pid
        self._sink: Any = channel.stream_unary("/benchmark/Sink")
        self._source: Any = channel.unary_stream("/benchmark/Source")
        self._empty: Any = channel.unary_unary("/benchmark/Empty")

    def pour(self, data: VoxelArray) -> None:
        """Send all bytes of an array that lies in Fortran order."""
        view = data.reshape(-1, order="F").view("u1").data
        self._sink(b"".join((_HEAD, view[at : at + PART_BYTES])) for at in range(0, len(view), PART_BYTES))

    def drain(self, size_bytes: int) -> None:
        """Take some bytes."""
        for _ in self._source(str(size_bytes).encode()):
            pass

    def call(self, data: bytes = b"") -> None:
        """Ask for nothing.

        :param data: that the call carries
        """
        self._empty(data)


@contextmanager
def bare_server(address: str) -> Iterator[BareServer]:
    """Start the server, and connect to it.

    :param address: HOST:PORT, of which the port may be 0, or unix:PATH
    """
    command = [sys.executable, "-m", "scripts.benchmarks.bare", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with grpc.insecure_channel(
                process.stdout.readline().strip(), options=[("grpc.max_receive_message_length", -1)]
            ) as channel:
                yield BareServer(channel, process.pid)
        finally:
            process.terminate()


async def _serve(address: str) -> None:
    malloc.pin_thresholds()
    part = os.urandom(PART_BYTES)

    async def sink(requests: Any, context: Any) -> bytes:
        del context
        async for _ in requests:
            pass
        return b""

    async def source(request: bytes, context: Any) -> None:
        for at in range(0, int(request), PART_BYTES):
            await context.write(b"".join((_HEAD, part[: int(request) - at])))

    async def empty(request: bytes, context: Any) -> bytes:
        del request, context
        return b""

    server = grpc.aio.server(options=server_options())
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Sink": grpc.stream_unary_rpc_method_handler(sink),
        "Source": grpc.unary_stream_rpc_method_handler(source),
        "Empty": grpc.unary_unary_rpc_method_handler(empty),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmark", handlers),))
    port = server.add_insecure_port(address)
    await server.start()
    print(address if address.startswith("unix:") else f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
