"""Several clients write boxes into one mag, while it is flushed or compressed.

In the half of the arena with small x everything is written to DISK: there the mag must hold exactly the writes that
were acknowledged, and of the others each whole or not at all. In the other half some boxes ask for PROCESS only. Of
those a power loss may leave any voxels, but never under a DISK write that came later.

After a power loss:

1. Everything is read, and the revision asked for. Each DISK write that began before the cut and had no acknowledgement
   is sent again with its id: if it gets the acknowledgement of the recording it was there, else it gets a new revision,
   and was not.
2. What was read is compared with the acknowledged writes and those that were there, in the order of revisions.
3. The bounding box is around them; some acknowledged writes are sent again, and change nothing.
4. A deep check finds no damage.
5. When the daemon has stopped, plain `wkw` reads the same from the files, and the properties are JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

import magd_client
from magd.geometry import ORIGIN, Box, Vec3
from magd_client import Durability
from tests.guarantees.attempts import DTYPE, Attempt, GuaranteeBroken, Model, within
from tests.powerloss.workload import NEVER, Checked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magd_client import Client, MagHandle
    from tests.guarantees.attempts import Voxels

DATASET: Final = "boxes"
LAYER: Final = "values"
OLD_IDS: Final = 6
"""Acknowledged writes that are sent again after each power loss."""


@dataclass(slots=True, eq=False)
class Sent:
    """A write with the positions of the log that belong to it."""

    attempt: Attempt
    began: int = NEVER
    """When it was about to be sent."""
    ended: int = NEVER
    """When its acknowledgement had come."""
    durable: int = NEVER
    """From when on a power loss must not take it."""

    def send(self, mag: MagHandle, position: Callable[[], int]) -> None:
        """Send it."""
        attempt = self.attempt
        self.began = position()
        attempt.acknowledgement = mag.write(
            attempt.data, attempt.box.offset, durability=attempt.durability, request_id=attempt.request_id
        )
        self.ended = position()
        if attempt.durability is Durability.DISK:
            self.durable = self.ended


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    arena: Vec3
    """The size of the box of voxels, at the origin, in which most boxes lie."""
    block_len: int
    file_len: int
    writers: int
    draw: Callable[[random.Random], Box]
    """Draws a box in the arena."""


def draw_small(rng: random.Random) -> Box:
    """Any box in the arena of `SMALL`, mostly a small one."""
    kind = rng.random()
    arena = SMALL.arena
    longest = 12 if kind < 0.7 else arena.x // 2 if kind < 0.95 else arena.x
    return box_within(rng, arena, Vec3(*(rng.randint(1, longest) for _ in range(3))))


def box_within(rng: random.Random, arena: Vec3, size: Vec3) -> Box:
    """A box of a size, anywhere in the arena."""
    return Box(Vec3(*(rng.randint(0, all_ - extent) for all_, extent in zip(arena, size, strict=True))), size)


SMALL: Final = Scale(Vec3(64, 64, 64), block_len=8, file_len=4, writers=3, draw=draw_small)


class Boxes:
    """A workload.

    :param kind: "raw", "compressed", or "compress": a raw mag that is compressed in place meanwhile
    :param writes: of each of the writers
    """

    def __init__(self, kind: str, seed: int, writes: int, scale: Scale = SMALL) -> None:
        self._kind = kind
        self._scale = scale
        self._random = random.Random(seed)
        self._values = itertools.count(1)
        self._places = itertools.count(max(scale.arena) + 5, 11)
        self._base = Model(np.zeros(tuple(scale.arena), DTYPE, order="F"))
        self._fill = self._new(self._base.box, Durability.DISK) if kind == "compress" else None
        self._plans = [[self._draw() for _ in range(writes)] for _ in range(scale.writers)]
        self._compressed_at = NEVER
        self._is_shown: Voxels = self._base.arena

    def prepare(self, client: Client) -> None:
        """See Workload."""
        layer = client.create_dataset(DATASET, voxel_size=(1, 1, 1)).add_layer(
            LAYER, category="segmentation", dtype="uint32"
        )
        mag = layer.add_mag(
            "1",
            block_len=self._scale.block_len,
            file_len=self._scale.file_len,
            compressed=self._kind == "compressed",
        )
        if self._fill is not None:
            self._fill.send(mag, lambda: 0)
            mag.flush()
            self._base.write(self._fill.attempt)

    def act(self, address: str, position: Callable[[], int]) -> None:
        """See Workload."""
        done = threading.Event()

        def use(work: Callable[[MagHandle], None]) -> None:
            with magd_client.connect(address) as client:
                work(_mag(client))

        def write(mag: MagHandle, plan: Sequence[Sent]) -> None:
            for sent in plan:
                sent.send(mag, position)

        with ThreadPoolExecutor(self._scale.writers + 2) as threads:
            others = [threads.submit(use, lambda mag: self._flush(mag, position, done))]
            if self._kind == "compress":
                others.append(threads.submit(use, lambda mag: self._compress(mag, position)))
            writers = [threads.submit(use, partial(write, plan=plan)) for plan in self._plans]
            wait(writers)
            done.set()
        for future in (*writers, *others):
            future.result()

    def acknowledged(self) -> Sequence[int]:
        """See Workload."""
        cuts = [sent.durable for plan in self._plans for sent in plan if sent.durable < NEVER]
        return [*cuts, self._compressed_at] if self._compressed_at < NEVER else cuts

    def check(self, client: Client, cut: int) -> Checked:
        """See Workload."""
        begun = [sent for plan in self._plans for sent in plan if sent.began < cut]
        kept = [sent.attempt for sent in begun if sent.durable <= cut]
        open_ = [sent.attempt for sent in begun if sent.durable > cut]
        mag = _mag(client)
        seen = mag.read(ORIGIN, self._scale.arena)[0]
        apart = {
            a.box: mag.read(a.box.offset, a.box.size)[0] for a in kept + open_ if not self._base.box.contains(a.box)
        }
        compressed = mag.get_info().compressed
        if compressed != (self._kind == "compressed") and self._kind != "compress":
            raise GuaranteeBroken(f"the mag is {'compressed' if compressed else 'raw'}")
        if self._compressed_at <= cut and not compressed:
            raise GuaranteeBroken("the mag is not compressed, which was acknowledged")

        unanswered = [attempt for attempt in open_ if attempt.durability is Durability.DISK]
        recorded = [attempt for attempt in unanswered if self._was_there(mag, attempt)]
        soft = [attempt for attempt in open_ if attempt.durability is not Durability.DISK]
        self._compare(seen, [*kept, *recorded], soft)
        expected = self._base.replay([*kept, *recorded])
        for box, found in apart.items():
            if (found != expected.apart.get(box, 0)).any():
                raise GuaranteeBroken(
                    f"{box} holds {np.unique(found)[:8]} instead of {expected.apart.get(box, 0)} only"
                )

        shown = client.dataset(DATASET).layer(LAYER).get_bounding_box()
        for attempt in [*kept, *recorded]:
            if not Box(shown.offset, shown.size).contains(attempt.box):
                raise GuaranteeBroken(f"the bounding box {shown} does not cover {attempt}")
        old_ids = self._send_again(mag, kept)
        check_sound(client)
        self._is_shown = mag.read(ORIGIN, self._scale.arena)[0]
        return Checked(len(kept), len(recorded), len(unanswered) - len(recorded), old_ids)

    def check_files(self, root: str) -> None:
        """See Workload."""
        import wkw  # an oracle that not every platform has

        with open(os.path.join(root, DATASET, "datasource-properties.json"), encoding="utf-8") as file:
            (layer,) = json.load(file)["dataLayers"]
        with wkw.Dataset.open(
            os.path.join(root, DATASET, LAYER, layer["mags"][0].get("path", "1").rpartition("/")[2])
        ) as files:
            if (files.read((0, 0, 0), tuple(self._scale.arena))[0] != self._is_shown).any():
                raise GuaranteeBroken("the files do not hold what the daemon has shown")

    # -- writing -------------------------------------------------------------------------------------------------------

    def _draw(self) -> Sent:
        if self._random.random() < 0.06:
            at = next(self._places)
            return self._new(Box(Vec3(at, at, at), Vec3(7, 5, 9)), Durability.DISK)
        box = self._scale.draw(self._random)
        may_be_lost = box.offset.x >= self._scale.arena.x // 2 and self._random.random() < 0.6
        return self._new(box, Durability.PROCESS if may_be_lost else Durability.DISK)

    def _new(self, box: Box, durability: Durability) -> Sent:
        request_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        return Sent(Attempt(request_id, box, next(self._values), durability, sent=0.0))

    def _flush(self, mag: MagHandle, position: Callable[[], int], done: threading.Event) -> None:
        """Now and then; what was acknowledged before is durable after it, unless it was only applied."""
        rng = random.Random(self._random.getrandbits(64))
        while not done.wait(rng.uniform(0.0, 0.1)):
            before = [sent for plan in self._plans for sent in plan if sent.ended < NEVER]
            if rng.random() < 0.4:
                mag.flush("applied")
                continue
            mag.flush("files" if rng.random() < 0.6 else "disk")
            now = position()
            for sent in before:
                sent.durable = min(sent.durable, now)

    def _compress(self, mag: MagHandle, position: Callable[[], int]) -> None:
        mag.compress().wait()
        self._compressed_at = position()

    # -- checking ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _was_there(mag: MagHandle, attempt: Attempt) -> bool:
        before = mag.get_info().revision
        assert before is not None, "the mag was read"
        again = _send_again(mag, attempt)
        if again.revision > before:
            return False  # also if it is the revision of the recording: that epoch may not have begun on the disk
        if again != attempt.known:
            raise GuaranteeBroken(f"sent again, it got {again}: {attempt}")
        return True

    def _send_again(self, mag: MagHandle, kept: Sequence[Attempt]) -> int:
        newest = sorted(kept, key=lambda attempt: attempt.known.revision)[-OLD_IDS // 2 :]
        others = self._random.sample(kept, min(OLD_IDS // 2, len(kept)))
        again = {attempt.value: attempt for attempt in [*newest, *others]}
        for attempt in again.values():
            got = _send_again(mag, attempt)
            if got != attempt.known:
                raise GuaranteeBroken(f"sent again, it got {got}: {attempt}")
        return len(again)

    def _compare(self, seen: Voxels, solid: Sequence[Attempt], soft: Sequence[Attempt]) -> None:
        """Each voxel is as the solid writes say, or from a soft one that no solid one followed."""
        expected = self._base.replay(solid)
        order = {a.value: at for at, a in enumerate(sorted([*solid, *soft], key=lambda a: a.known.revision), 1)}
        newest = np.zeros(seen.shape, np.int32)
        for attempt in sorted(solid, key=lambda attempt: order[attempt.value]):
            if self._base.box.contains(attempt.box):
                newest[within(attempt.box)] = order[attempt.value]
        for attempt in soft:
            place = within(attempt.box)
            is_its = (seen[place] == attempt.value) & (newest[place] < order[attempt.value])
            expected.arena[place] = np.where(is_its, attempt.value, expected.arena[place])
        expected.check_arena(seen, "after the power loss", [*solid, *soft])


def check_sound(client: Client) -> None:
    """That a deep check finds no damage.

    :raises GuaranteeBroken: it does
    """
    damage = [
        f"{finding.file}: {finding.message}"
        for progress in client.check(deep=True)
        for finding in progress.findings
        if finding.severity == "damage"
    ]
    if damage:
        raise GuaranteeBroken(f"damage after the power loss: {damage}")


def _mag(client: Client) -> MagHandle:
    return client.dataset(DATASET).layer(LAYER).mag("1")


def _send_again(mag: MagHandle, attempt: Attempt) -> magd_client.Acknowledgement:
    return mag.write(attempt.data, attempt.box.offset, durability=attempt.durability, request_id=attempt.request_id)
