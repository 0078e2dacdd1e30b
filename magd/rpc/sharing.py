"""Shared memory at the edge: leasing it to clients, and sending what was read through it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from magd.errors import Unimplemented
from magd.rpc.from_proto import invalid
from magd.rpc.parts import flat
from magd.v1 import volume_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from magd.actors.budget import Lease
    from magd.actors.regions import Regions, Uses
    from magd.actors.types import Place, Slab

QUIET_SECONDS: Final = 60.0
"""How long a stream stays whose client has no region and asks for none. It can begin another one."""


async def share_memory(
    regions: Regions, requests: AsyncIterator[volume_pb2.ShareMemoryRequest]
) -> AsyncIterator[volume_pb2.ShareMemoryResponse]:
    """Lease regions to one client, until its stream ends.

    :raises Unimplemented: this daemon shares no memory
    :raises InvalidRequest: a size that no region has, or a region that is not the client's
    """
    if not regions.limit_bytes:
        raise Unimplemented(
            "this daemon shares no memory: it does so on a unix socket, unless it is told not to",
            metadata={"field": "method"},
        )
    with regions.sharer() as sharer:
        while True:
            try:
                async with asyncio.timeout(None if sharer.has_leased else QUIET_SECONDS):
                    request = await anext(requests)
            except (StopAsyncIteration, TimeoutError):
                return
            match request.WhichOneof("action"):
                case "lease_bytes":
                    file = await sharer.lease(request.lease_bytes)
                    if file is None:
                        yield volume_pb2.ShareMemoryResponse()
                    else:
                        yield volume_pb2.ShareMemoryResponse(
                            region=file.name, path=file.path, size_bytes=file.size_bytes
                        )
                case "release":
                    sharer.release(request.release)
                case _:
                    raise invalid("action", "", "one of lease_bytes and release must be set")


class Room:
    """Where a box that is read goes, each slab at its place in it.

    :param shared: what the request names
    :param lease: of the read
    :raises InvalidRequest: it is not leased, or has no such range
    """

    def __init__(self, shared: volume_pb2.SharedMemory, uses: Uses, lease: Lease) -> None:
        self._range = uses.range(shared.region, shared.offset, shared.size)
        self._range.keep(lease)
        self._lease = lease
        self._given = 0
        self.place: Final[Place] = self._range.place
        """For who reads, so that a slab is there already when it comes."""

    async def put(self, slab: Slab) -> volume_pb2.SharedMemory | None:
        """See to it that the next slab is there.

        :return: where it is; None: there is no room for it
        """
        start, size = self._given, slab.data.nbytes
        self._given += size
        if self._given > len(self._range):
            return None
        if not slab.is_placed:
            await self._range.write(flat(slab.data).data, start, self._lease)
        return volume_pb2.SharedMemory(region=self._range.name, offset=self._range.offset + start, size=size)
