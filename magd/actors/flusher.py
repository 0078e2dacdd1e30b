"""Bringing committed boxes from the overlay into the cube files of a mag.

1. A commit wakes it. In a raw mag it begins at once, or after a moment if there is little to do, that small writes one
   after the other share its work. In a compressed one each cube file that is touched has to be rewritten, so it waits
   until the oldest entry has a certain age, that many writes share a rewrite; or until there is much to do, memory is
   short, or somebody asks.
2. Large boxes over cube files that are missing, or wholly in the box, are not written, if nothing is in the way: the
   files they arrived in become the cube files.
3. It applies the other entries that are there, all in one go, in a thread: each cube file is written once, however many
   of them touch it. Reads go on: they paint the entries over whatever the files hold meanwhile. Of recovered entries,
   those before one with parts leave out the cube files that it covers, which may be its parts (see `journal.parts`).
4. It drops the entries that are in the files now; their memory is given back.
5. An entry that cannot be applied (a damaged cube file, a full disk) stays, and with it later ones that overlap it:
   they are committed, and reads see them. The others go on. It tries again after a while; until it succeeds, the mag
   says what is wrong.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from magd.errors import MagdError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from magd.actors.threads import Threads
    from magd.cubes.mag_files import MagFiles
    from magd.journal.overlay import Entry, Overlay

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 1.0
MUCH_BYTES: Final = 64 << 20
"""With so much in the overlay it waits no longer."""
FEW_BYTES: Final = 4 << 20
"""With less in the overlay of a raw mag it waits a moment for more. Where one small write follows the other, a flush
for each would take a good part of the time of the next one."""
GATHER_SECONDS: Final = 0.02
"""The moment."""
READ_AT_ONCE_BYTES: Final = 64 << 20
"""Of recovered entries, whose voxels are in the journal, so much is read before it is applied."""


class Flusher:
    """Brings the overlay of one mag into its files.

    :param files: the files of the mag as they are now
    :param on_applied: called with entries that are in the files now and in the overlay no more
    :param link: makes the files that entries arrived in cube files, and says which entries are in the cube files now
    :param age_seconds: how old an entry may get in a compressed mag
    """

    def __init__(
        self,
        name: str,
        overlay: Overlay,
        threads: Threads,
        files: Callable[[], MagFiles],
        link: Callable[[Sequence[Entry]], Awaitable[Sequence[Entry]]],
        *,
        age_seconds: float,
        on_applied: Callable[[Sequence[Entry]], None],
    ) -> None:
        self._name = name
        self._overlay = overlay
        self._threads = threads
        self._files = files
        self._link = link
        self._age_seconds = age_seconds
        self._on_applied = on_applied
        self._wanted = asyncio.Event()
        self._urgent = asyncio.Event()
        self._at_work = asyncio.Lock()
        self._stopped = False
        self.stuck = ""
        """Why some committed boxes do not get into the files; empty while they do."""

    def wake(self) -> None:
        """There is something new in the overlay."""
        self._wanted.set()
        if self._overlay.size_bytes >= MUCH_BYTES:
            self.hurry()

    def hurry(self) -> None:
        """Wait for no further writes."""
        self._urgent.set()

    def stop(self) -> None:
        """Have `run` end after what it is doing. It must not be cancelled: its thread would go on, and what it applies
        late would lie over what others apply meanwhile."""
        self._stopped = True
        self._wanted.set()
        self.hurry()

    async def run(self) -> None:
        """Flush until it is stopped."""
        while True:
            await self._wanted.wait()
            if not self._stopped:
                await self._gather()
            if self._stopped:
                return
            self._wanted.clear()
            self._urgent.clear()
            try:
                await self.flush()
            except MagdError:
                await self._pause(RETRY_SECONDS)
                self._wanted.set()

    async def flush(self) -> None:
        """Bring everything that is in the overlay now into the files.

        :raises MagdError: some of it could not be applied, and is still in the overlay
        """
        async with self._at_work:
            entries = self._overlay.all()
            linked = await self._link(entries)
            if linked:
                self._drop(linked)
                entries = tuple(entry for entry in entries if entry not in set(linked))
            if not entries:
                return
            applied, error = await self._threads.run(self._apply, entries)
            self._drop(applied)
            if error is None:
                self.stuck = ""
                return
            if self.stuck != error.message:
                log.error("committed boxes do not get into the cube files", mag=self._name, error=error.message)
            self.stuck = error.message
            raise error

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Inside the context nothing is brought into the files."""
        async with self._at_work:
            yield

    def _drop(self, entries: Sequence[Entry]) -> None:
        self._overlay.drop(entries)
        self._on_applied(entries)

    async def _gather(self) -> None:
        """Let further writes come."""
        if self._files().header.block_type.is_compressed:
            await self._pause(self._age_seconds)
        elif self._overlay.size_bytes < FEW_BYTES:
            await self._pause(GATHER_SECONDS)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._urgent.wait()
        except TimeoutError:
            pass

    def _apply(self, entries: Sequence[Entry]) -> tuple[list[Entry], MagdError | None]:
        applied: list[Entry] = []
        left: list[Entry] = []
        first_error: MagdError | None = None
        in_parts = {entry for entry in entries if entry.has_parts}
        for some in _bounded(entries):
            # What lies over an entry that is left stays with it: else the older one would be painted over the newer.
            todo = [entry for entry in some if not any(entry.box.intersects(older.box) for older in left)]
            in_parts.difference_update(todo)  # among themselves, the order of the boxes tells
            later = [entry.box for entry in in_parts]
            try:
                written = self._files().write_many([(entry.box, entry.data) for entry in todo], later=later)
            except MagdError as error:  # one of them cannot be read from the journal
                left.extend(some)
                first_error = first_error or error
                continue
            done = {entry for entry, is_in_files in zip(todo, written.in_files, strict=True) if is_in_files}
            applied.extend(entry for entry in some if entry in done)
            left.extend(entry for entry in some if entry not in done)
            first_error = first_error or written.error
        return applied, first_error


def _bounded(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries in their order, in groups that take only so much memory beyond what they take already."""
    group: list[Entry] = []
    size_bytes = 0
    for entry in entries:
        if not entry.is_in_memory:
            size_bytes += entry.size_bytes
            if size_bytes > READ_AT_ONCE_BYTES and group:
                yield group
                group, size_bytes = [], entry.size_bytes
        group.append(entry)
    if group:
        yield group
