"""Shared memory of one connection, for large boxes of a daemon on the same machine.

1. The first box that is large enough begins a conversation with the daemon, which leases regions and takes them back.
2. Each attempt of a call borrows a region: it is leased before, and given back after. Its file may be kept for the next
   time.
3. Whatever is amiss, there is just no region, and the call goes through gRPC: the daemon has no memory for one, it has
   ended the conversation, its file cannot be opened (by another user, or in another container). After several troubles
   one after the other, this connection does without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from magd.errors import MagdError, Unavailable
from magd.v1 import volume_pb2
from magd_client import fork, methods
from magd_client._async.twins import Lock
from magd_client.regions import RegionFiles

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    from magd_client._async.transport import Conversation, Transport
    from magd_client.regions import Region

    Lessor: TypeAlias = Conversation[volume_pb2.ShareMemoryRequest, volume_pb2.ShareMemoryResponse]

MOST_TROUBLES: Final = 3
"""One after the other, after which a connection does without shared memory."""
LEASE_SECONDS: Final = 5.0
"""How long a daemon may take for what it should answer at once."""


class Sharing:
    """What a connection borrows from. Belongs to one process."""

    def __init__(self, transport: Transport) -> None:
        self.epoch: Final = fork.epoch()
        self._transport = transport
        self._lock = Lock()
        self._conversation: Lessor | None = None
        self._files = RegionFiles()
        self._lessors: dict[str, Lessor] = {}
        """Of the regions that are leased now, by their names."""
        self._troubles = 0

    def borrow(self, size_bytes: int, seconds: float) -> Borrowed:
        """A region for one attempt, as a context.

        :param size_bytes: that it has to have at least; 0: none is wanted
        :param seconds: that the attempt has
        """
        return Borrowed(self, size_bytes, seconds)

    def note_trouble(self) -> None:
        """Say that a region was of no use."""
        self._troubles += 1

    def note_success(self) -> None:
        """Say that one was."""
        self._troubles = 0

    async def lease(self, size_bytes: int, seconds: float) -> Region | None:
        """Lease a region; None if there is none."""
        if not size_bytes or self._troubles >= MOST_TROUBLES:
            return None
        try:
            conversation, leased = await self._ask(size_bytes, min(seconds, LEASE_SECONDS))
        except Unavailable:
            return None  # the call itself finds out for how long
        except MagdError:
            self.note_trouble()
            return None
        if not leased.region:
            return None
        try:
            region = self._files.open(leased)
        except OSError:
            self.note_trouble()
            await self._give_back(conversation, leased.region)
            return None
        self._lessors[region.name] = conversation
        return region

    async def release(self, region: Region) -> None:
        """Give a region back."""
        conversation = self._lessors.pop(region.name)
        self._files.give_back(region, keep=not conversation.has_ended)
        await self._give_back(conversation, region.name)

    async def close(self) -> None:
        """End the conversation, and with it every lease."""
        conversation, self._conversation = self._conversation, None
        self._files.close()
        if conversation is not None:
            await conversation.end()

    async def _ask(self, size_bytes: int, seconds: float) -> tuple[Lessor, volume_pb2.ShareMemoryResponse]:
        async with self._lock:
            conversation = self._conversation
            if conversation is None or conversation.has_ended:
                self._files.close()
                conversation = self._conversation = self._transport.converse(methods.SHARE_MEMORY)
            try:
                request = volume_pb2.ShareMemoryRequest(lease_bytes=size_bytes)
                return conversation, await conversation.ask(request, seconds)
            except BaseException:
                # The answer may still come; it must not be taken for that of the next question.
                await self.close()
                raise

    async def _give_back(self, conversation: Lessor, name: str) -> None:
        async with self._lock:
            if not conversation.has_ended:  # at its end it took everything back
                await conversation.tell(volume_pb2.ShareMemoryRequest(release=name))


class Borrowed:
    """A region for one attempt. Its context is the region, or None."""

    def __init__(self, sharing: Sharing, size_bytes: int, seconds: float) -> None:
        self._sharing = sharing
        self._size_bytes = size_bytes
        self._seconds = seconds
        self._region: Region | None = None

    async def __aenter__(self) -> Region | None:
        self._region = await self._sharing.lease(self._size_bytes, self._seconds)
        return self._region

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        region, self._region = self._region, None
        if region is not None:
            await self._sharing.release(region)
