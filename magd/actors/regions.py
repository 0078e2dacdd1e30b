"""Shared memory for the large boxes of clients on the same machine: which region is whose, and how much there may be.

1. A client that has a stream for it is a sharer. It leases regions, and gives them back.
2. A region that was given back is kept for the same sharer for some seconds, since a new one costs as much time as
   sending a quarter of its bytes. No other sharer ever gets it: the first one may still have its file open.
3. All regions together have at most `limit_bytes`, those of one sharer half of it, and all of it is taken from the
   budget for boxes. Where there is not so much, regions that nobody leases go first. If that is not enough, the answer
   is at once that there is none: shared memory only saves time, and nobody waits for it.
4. When calls wait for the budget, regions that nobody leases go.
5. A call that uses a region keeps it until it ends. A region that is given back meanwhile, or whose sharer has gone, is
   removed when its last call ends, and is never leased again: the bytes of the call that was left must not come to lie
   in the box of the next one.
6. The memory of a region that its client has given back is freed with it, although the client may have kept it mapped.
   Where the client has only gone, it may still be reading the answer of a call: it frees what it has open itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

import structlog

from magd.actors.region_files import open_place
from magd.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    from magd.actors.budget import Lease, MemoryBudget
    from magd.actors.region_files import RegionFile, RegionPlace
    from magd.actors.threads import Threads

GRAIN_BYTES: Final = 1 << 20
"""Sizes of regions are multiples of this."""
KEPT_SECONDS: Final = 10.0
"""How long a region is kept that nobody leases."""

log = structlog.get_logger(__name__)


class _Region:
    def __init__(self, file: RegionFile, sharer: Sharer, lease: Lease) -> None:
        self.file: Final = file
        self.sharer: Final = sharer
        self.lease: Final = lease
        self.is_leased = True
        self.is_given_back = False
        """By its client; one that was taken back is neither."""
        self.users = 0
        self.end_of_rest: asyncio.TimerHandle | None = None


class Regions:
    """The shared memory of a daemon.

    :param budget: that all regions are taken from
    :param limit_bytes: of all regions together; 0: there are none
    :param parent: of the folder for their files; empty: none is needed, as far as the system can
    """

    def __init__(self, budget: MemoryBudget, threads: Threads, *, limit_bytes: int, parent: str = "") -> None:
        self._budget = budget
        self.threads: Final = threads
        # Half of it is a size that a region can have.
        self._limit_bytes = limit_bytes // (2 * GRAIN_BYTES) * (2 * GRAIN_BYTES)
        self._parent = parent
        self._place: RegionPlace | None = None
        self._regions: dict[str, _Region] = {}
        self._bytes = 0
        """Of all regions, those included that are being made or removed."""
        self._removals: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Find a place for them. Without one there is no shared memory, which the log says."""
        if not self._limit_bytes:
            return
        try:
            self._place = await self.threads.run(open_place, self._parent)
        except OSError as error:
            log.warning("no shared memory: its folder cannot be made", error=str(error))

    async def close(self) -> None:
        """Close the place. All sharers have gone, and no call is under way."""
        while self._removals:
            await asyncio.wait(self._removals)
        place, self._place = self._place, None
        if place is not None:
            await self.threads.run(place.close)

    @property
    def limit_bytes(self) -> int:
        """Of all regions together; 0: there are none."""
        return self._limit_bytes if self._place is not None else 0

    @property
    def used_bytes(self) -> int:
        """Of all regions that there are."""
        return self._bytes

    def sharer(self) -> Sharer:
        """A client; leaving its context takes its regions back."""
        return Sharer(self)

    def uses(self) -> Uses:
        """The regions that one call uses; leaving its context ends the use."""
        return Uses(self)

    def drop_idle(self) -> None:
        """Remove the regions that nobody leases."""
        for region in [region for region in self._regions.values() if _is_idle(region)]:
            self.remove(region)

    async def make(self, sharer: Sharer, size_bytes: int) -> _Region | None:
        """A new region, leased to a sharer; None if there is no memory for it.

        :param size_bytes: a multiple of `GRAIN_BYTES`
        """
        place = self._place
        if place is None or size_bytes > self._limit_bytes // 2:
            return None
        if not self._has_room(sharer, size_bytes):
            self.drop_idle()
            if self._removals:
                await asyncio.wait(self._removals)
        lease = self._budget.take_at_once(size_bytes) if self._has_room(sharer, size_bytes) else None
        if lease is None:
            return None
        self._count(sharer, size_bytes)
        making = self.threads.start(place.make, size_bytes)
        try:
            file = await asyncio.shield(making)
        except OSError as error:
            self._count(sharer, -size_bytes)
            lease.release()
            log.warning("no shared memory", path=place.path, error=str(error))
            return None
        except asyncio.CancelledError:
            making.add_done_callback(lambda made: self._forget(made, sharer, lease, size_bytes))
            raise
        region = self._regions[file.name] = _Region(file, sharer, lease)
        return region

    def find(self, name: str) -> _Region:
        """A region that is leased.

        :raises InvalidRequest: it is not
        """
        region = self._regions.get(name)
        if region is None or not region.is_leased:
            raise InvalidRequest(
                f"shared_memory: region {name!r} is not leased, or not any more",
                metadata={"field": "shared_memory", "value": name},
            )
        return region

    def idle_of(self, sharer: Sharer, size_bytes: int) -> _Region | None:
        """The smallest region of at least so many bytes that is kept for a sharer."""
        fit = (
            region
            for region in self._regions.values()
            if region.sharer is sharer and _is_idle(region) and region.file.size_bytes >= size_bytes
        )
        return min(fit, key=lambda region: region.file.size_bytes, default=None)

    def give_back(self, region: _Region) -> None:
        """End a lease."""
        region.is_leased, region.is_given_back = False, True
        if region.users:
            return  # who uses it last removes it
        loop = asyncio.get_running_loop()
        region.end_of_rest = loop.call_later(KEPT_SECONDS, self.remove, region)

    def lease_again(self, region: _Region) -> None:
        """Lease a region that was kept."""
        region.is_leased, region.is_given_back = True, False
        if region.end_of_rest is not None:
            region.end_of_rest.cancel()

    def end_use(self, region: _Region) -> None:
        """One call less uses it."""
        region.users -= 1
        if not region.users and not region.is_leased:
            self.remove(region)

    def remove_all_of(self, sharer: Sharer) -> None:
        """Take the regions of a sharer back."""
        for region in [region for region in self._regions.values() if region.sharer is sharer]:
            region.is_leased = False
            if not region.users:
                self.remove(region)

    def remove(self, region: _Region) -> None:
        """Remove a region that nobody uses."""
        if region.end_of_rest is not None:
            region.end_of_rest.cancel()
        del self._regions[region.file.name]
        self._remove_file(region.file, region.sharer, region.lease, free=region.is_given_back)

    def _remove_file(self, file: RegionFile, sharer: Sharer, lease: Lease, *, free: bool) -> None:
        # In a thread: giving memory back to the system takes a while.
        removal = self.threads.start(file.remove, free=free)
        self._removals.add(removal)

        def note(removal: asyncio.Future[None]) -> None:
            self._removals.discard(removal)
            self._count(sharer, -file.size_bytes)
            lease.release()
            if (error := removal.exception()) is not None:
                log.warning("a region of shared memory is left", path=file.path, error=str(error))

        removal.add_done_callback(note)

    def _forget(self, made: asyncio.Future[RegionFile], sharer: Sharer, lease: Lease, size_bytes: int) -> None:
        """Remove a region whose sharer went while it was made."""
        if made.exception() is None:
            self._remove_file(made.result(), sharer, lease, free=True)
        else:
            self._count(sharer, -size_bytes)
            lease.release()

    def _has_room(self, sharer: Sharer, size_bytes: int) -> bool:
        return (
            sharer.used_bytes + size_bytes <= self._limit_bytes // 2 and self._bytes + size_bytes <= self._limit_bytes
        )

    def _count(self, sharer: Sharer, size_bytes: int) -> None:
        self._bytes += size_bytes
        sharer.used_bytes += size_bytes


class Sharer:
    """A client that leases regions. A context manager: leaving it takes them back.

    :ivar used_bytes: of its regions, those included that are kept for it
    """

    def __init__(self, regions: Regions) -> None:
        self.used_bytes = 0
        self._regions = regions
        self._leased: dict[str, _Region] = {}

    @property
    def has_leased(self) -> bool:
        """Whether it has a region now."""
        return bool(self._leased)

    async def lease(self, size_bytes: int) -> RegionFile | None:
        """Lease a region.

        :param size_bytes: that it has to have at least
        :return: None: there is no memory for it now
        :raises InvalidRequest: a size that no region can have
        """
        if size_bytes < 1:
            raise InvalidRequest(
                f"lease_bytes {size_bytes} is below 1", metadata={"field": "lease_bytes", "value": size_bytes}
            )
        region = self._regions.idle_of(self, size_bytes)
        if region is not None:
            self._regions.lease_again(region)
        else:
            rounded = -(-size_bytes // GRAIN_BYTES) * GRAIN_BYTES
            region = await self._regions.make(self, rounded)
            if region is None:
                return None
        self._leased[region.file.name] = region
        return region.file

    def release(self, name: str) -> None:
        """Give a region back.

        :raises InvalidRequest: it was not leased to this client
        """
        region = self._leased.pop(name, None)
        if region is None:
            raise InvalidRequest(
                f"release: region {name!r} is not leased to this client", metadata={"field": "release", "value": name}
            )
        self._regions.give_back(region)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leased.clear()
        self._regions.remove_all_of(self)


class Uses:
    """The regions that one call uses. A context manager: leaving it ends the use, but for work that still runs."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._used: dict[str, _Region] = {}

    def range(self, name: str, offset: int, size_bytes: int) -> Range:
        """A range of a region, to read or to write.

        :raises InvalidRequest: the region is not leased, or has no such range
        """
        region = self._used.get(name)
        if region is None:
            region = self._regions.find(name)
            region.users += 1
            self._used[name] = region
        if offset < 0 or size_bytes < 0 or offset + size_bytes > region.file.size_bytes:
            raise InvalidRequest(
                f"shared_memory: {size_bytes} bytes from {offset} on do not lie in the {region.file.size_bytes} bytes "
                f"of region {name!r}",
                metadata={
                    "field": "shared_memory",
                    "value": f"{offset}+{size_bytes}",
                    "limit": region.file.size_bytes,
                },
            )
        return Range(self, region, offset, size_bytes)

    def start(
        self, region: _Region, function: Callable[[memoryview, int], None], buffer: memoryview, offset: int
    ) -> asyncio.Future[None]:
        """Have a thread do something with a region, which is used until it is done."""
        work = self._regions.threads.start(function, buffer, offset)
        region.users += 1

        def note(work: asyncio.Future[None]) -> None:
            work.exception()  # is heard of by who still waits for it
            self.end(region)

        work.add_done_callback(note)
        return work

    def end(self, region: _Region) -> None:
        """Work of the call uses a region no more."""
        self._regions.end_use(region)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for region in self._used.values():
            self._regions.end_use(region)
        self._used.clear()


class Range:
    """A range of a region that a call uses. Its length is its size in bytes.

    :ivar name: of the region
    :ivar offset: of its first byte
    """

    def __init__(self, uses: Uses, region: _Region, offset: int, size_bytes: int) -> None:
        self.name: Final = region.file.name
        self.offset: Final = offset
        self._uses = uses
        self._region = region
        self._size_bytes = size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def keep(self, lease: Lease) -> None:
        """Have the region used until a lease is given back, also when the call has ended by then."""
        region = self._region
        region.users += 1
        lease.when_released(lambda: self._uses.end(region))

    def place(self, start: int, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        """The memory of a part of it; None if it has no such part, or is not mapped. The client can change it at any
        moment. To be used while the region is."""
        if start + size_bytes > self._size_bytes:
            return None
        return self._region.file.view(self.offset + start, size_bytes)

    async def read_into(self, buffer: memoryview, start: int, lease: Lease) -> None:
        """Have a thread fill a buffer. Cancelling this does not stop the thread.

        :param start: in the range
        :param lease: of the buffer; held until the thread is done
        :raises InvalidRequest: the client has cut the file of the region short
        """
        await self._run(self._region.file.read_into, buffer, self.offset + start, lease)

    async def write(self, data: memoryview, start: int, lease: Lease) -> None:
        """Have a thread write some bytes; else as `read_into`.

        :raises DiskFull, DataLoss: the client has given away the memory of the file, and there is no other
        """
        await self._run(self._region.file.write, data, self.offset + start, lease)

    async def _run(
        self, function: Callable[[memoryview, int], None], buffer: memoryview, offset: int, lease: Lease
    ) -> None:
        work = self._uses.start(self._region, function, buffer, offset)
        lease.keep_until(work)
        await asyncio.shield(work)


def _is_idle(region: _Region) -> bool:
    return not region.is_leased and not region.users
