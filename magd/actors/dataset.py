"""The properties actor of a dataset: the only writer of its datasource-properties.json.

1. It locks the dataset's folder for as long as it lives, so that no second magd serves it.
2. Every change of the properties is a message. Extensions of bounding boxes that wait together become one save.
3. Before each change it looks whether others edited the file, and takes their edits in: what we change are operations
   on the freshest file, not states.
4. Extensions that it acknowledged are remembered. Where another program writes back a box it had read before, the
   extensions are applied again: a bounding box never shrinks by accident. For that it also looks at the file every
   some seconds without being asked, and before it ends.
5. It never awaits a mag actor; mag actors await it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import structlog

from magd.actors.actor import Actor, Envelope
from magd.actors.opening import tidy_dataset
from magd.catalog.locks import FolderLock, lock_folder
from magd.errors import MagdError, NotAllowed, NotFound, Reason
from magd.geometry import BoundingBox
from magd.properties.edits import Edit, ExpectLayerEtag, ExtendBoundingBox
from magd.properties.file import PropertiesFile, Snapshot
from magd.properties.memory import BoundingBoxMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magd.actors.threads import Threads
    from magd.catalog.names import DatasetName
    from magd.catalog.root import Root

LOOK_SECONDS: Final = 5.0
"""How often it looks whether others have written over an extension, while nobody asks for the properties."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refresh:
    """Look at the file on disk."""


@dataclass(frozen=True, slots=True)
class Extend:
    """Make sure that a layer's bounding box contains this one."""

    layer: str
    bounding_box: BoundingBox


@dataclass(frozen=True, slots=True)
class Change:
    """Apply edits, all or none."""

    edits: tuple[Edit, ...]
    etag: str = ""
    """Refuse unless the dataset, or `layer` if it is given, has this etag."""
    layer: str | None = None


Message: TypeAlias = Refresh | Extend | Change


class DatasetActor(Actor[Message]):
    """The properties of one dataset."""

    def __init__(
        self,
        name: DatasetName,
        root: Root,
        threads: Threads,
        *,
        mailbox_size: int,
        on_change: Callable[[Snapshot], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(str(name), mailbox_size=mailbox_size, on_end=on_end)
        self._dataset = name
        self._root = root
        self._threads = threads
        self._on_change = on_change
        self._memory = BoundingBoxMemory()
        self._file: PropertiesFile | None = None
        self._snapshot: Snapshot | None = None
        self._trouble = ""
        """Why the last look was in vain; empty if it was not."""

    # -- for callers ---------------------------------------------------------------------------------------------

    async def current(self) -> Snapshot:
        """The properties as they are on disk now."""
        return cast("Snapshot", await self.ask(Refresh()))

    def known_now(self) -> Snapshot | None:
        """As `known`, or None if nobody has looked yet."""
        return self._snapshot

    async def known(self) -> Snapshot:
        """The properties as they were when last looked at: at least every change made through this actor."""
        return self._snapshot if self._snapshot is not None else await self.current()

    async def extend(self, layer: str, bounding_box: BoundingBox) -> None:
        """Make sure that a layer's bounding box contains this one, on disk, before returning."""
        snapshot = await self.known()
        known = snapshot.properties.layer(layer)
        if known is None or not known.bounding_box.contains(bounding_box):
            await self.ask(Extend(layer, bounding_box))

    async def change(self, edits: Sequence[Edit], *, etag: str = "", layer: str | None = None) -> Snapshot:
        """Apply edits, all or none.

        :raises Conflict: ETAG_MISMATCH
        """
        return cast("Snapshot", await self.ask(Change(tuple(edits), etag, layer)))

    # -- the task ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        lock = await self._threads.run(self._open)
        try:
            while True:
                try:
                    envelope = await self._receive(None if self._memory.is_empty else LOOK_SECONDS)
                except TimeoutError:
                    await self._look(lock)
                    continue
                if envelope is None:
                    break
                batch = [envelope]
                while (more := self._receive_waiting()) is not None:
                    batch.append(more)
                await self._work_through(batch)
            if not self._memory.is_empty:
                await self._look(lock)
        finally:
            lock.close()

    def _open(self) -> FolderLock:
        folder = self._root.dataset_folder(self._dataset)
        lock = lock_folder(folder, shared=self._root.read_only)
        try:
            self._file = PropertiesFile(self._root.properties_path(self._dataset), root=self._root.path)
            if not self._root.read_only:
                self._file.recover()
            self._snapshot = self._file.load()
            if not self._root.read_only:
                tidy_dataset(self._root, self._dataset, self._snapshot.properties)
        except BaseException:
            lock.close()
            raise
        return lock

    async def _look(self, lock: FolderLock) -> None:
        """Bring back what others have written over. What is in the way of that is logged once."""
        try:
            result = await self._threads.run(self._do_if_there, lock)
        except MagdError as error:
            if error.message != self._trouble:
                log.warning("properties cannot be looked at", dataset=str(self._dataset), error=error.message)
            self._trouble = error.message
            return
        self._trouble = ""
        if result is not None and result.changed:
            self._on_change(result.snapshot)

    async def _work_through(self, batch: Sequence[Envelope[Message]]) -> None:
        extends: list[Envelope[Message]] = []
        for envelope in batch:
            if isinstance(envelope.message, Extend):
                extends.append(envelope)
                continue
            await self._answer(extends)
            extends = []
            await self._answer([envelope])
        await self._answer(extends)

    async def _answer(self, envelopes: Sequence[Envelope[Message]]) -> None:
        """Do one thing for one message, or for several extensions at once."""
        if not envelopes:
            return
        try:
            result = await self._threads.run(self._do, [envelope.message for envelope in envelopes])
        except MagdError as error:
            if len(envelopes) > 1:
                # One of them names a layer that is gone; it alone shall fail.
                for envelope in envelopes:
                    await self._answer([envelope])
                return
            envelopes[0].reject(error)
            if isinstance(error, NotFound) and error.reason is Reason.DATASET_NOT_FOUND:
                self.close()  # the folder is gone; what takes its name is another dataset
            return
        if result.changed:
            self._on_change(result.snapshot)
        for envelope in envelopes:
            envelope.resolve(result.snapshot)

    # -- in a thread, one call at a time ---------------------------------------------------------------------------

    def _do_if_there(self, lock: FolderLock) -> _Outcome | None:
        """Refresh, unless another dataset has the name by now, or none."""
        return self._do([Refresh()]) if lock.holds(self._root.dataset_folder(self._dataset)) else None

    def _do(self, messages: Sequence[Message]) -> _Outcome:
        before = self._snapshot
        snapshot = self._refresh()
        match messages[0]:
            case Change(edits, etag, layer):
                if etag and layer is not None:
                    edits = (ExpectLayerEtag(layer, etag), *edits)
                snapshot = self._save(edits, expected_etag=etag if etag and layer is None else None)
            case Extend():
                boxes: dict[str, BoundingBox] = {}
                for message in messages:
                    extend = cast("Extend", message)
                    boxes[extend.layer] = boxes.get(extend.layer, BoundingBox.empty()).union(extend.bounding_box)
                snapshot = self._save([ExtendBoundingBox(layer, box) for layer, box in boxes.items()])
            case Refresh():
                pass
        return _Outcome(snapshot, changed=before is None or before.etag != snapshot.etag)

    def _refresh(self) -> Snapshot:
        file, snapshot = self._opened()
        if not file.changed(snapshot):
            return snapshot
        by_others = file.load()
        if by_others.etag != snapshot.etag:
            lost = self._memory.missing(by_others.properties)
            if lost and not self._root.read_only:
                by_others = file.save(lost)
                log.warning("another program wrote a smaller bounding box: it is enlarged", dataset=str(self._dataset))
            self._memory.forget_gone(by_others.properties)
        self._snapshot = by_others
        return by_others

    def _save(self, edits: Sequence[Edit], *, expected_etag: str | None = None) -> Snapshot:
        if self._root.read_only:
            raise NotAllowed(f"{self._dataset} is served read-only", reason=Reason.READ_ONLY)
        file, _ = self._opened()
        # What is remembered goes first: others may write between the look at the file and the save. If they do, it
        # stays remembered, and is laid over their file once more than needed.
        saved = file.save([self._memory.edit(), *edits], expected_etag=expected_etag)
        self._memory.note(edits)
        self._snapshot = saved
        return saved

    def _opened(self) -> tuple[PropertiesFile, Snapshot]:
        assert self._file is not None, "the actor receives after it has opened"
        assert self._snapshot is not None, "the actor receives after it has opened"
        return self._file, self._snapshot


@dataclass(frozen=True, slots=True)
class _Outcome:
    snapshot: Snapshot
    changed: bool
