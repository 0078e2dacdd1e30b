"""Rounds of: load a mag, kill its daemon at a random moment, start it again, and check what it promised.

Some daemons are killed once more while they recover. After each kill:

1. The bounding box covers every acknowledged box, before anything else is asked of the daemon.
2. A deep check finds no damage.
3. Everything is read, and the revision asked for. Then each write that had no answer is sent again with its id: its
   acknowledgement has a revision up to that one if it was recorded before the kill, else a later one. What was read
   must be exactly the acknowledged and the recorded writes, in the order of revisions, over what was there before the
   round: a write that is there in part, lost, or laid over a later one shows. Recorded writes come whole from one
   attempt, the others are wholly absent.
4. Revisions agree with real time.
5. After the retries the mag holds exactly all of them.
6. Acknowledged writes are sent again with their ids, also where another write covers them since: each gets the
   outcome it had, and no voxel changes. With other content their ids are refused.

Writes that ask for NONE promise only their bounding box: with them, steps 3 to 6 are replaced by the check that each
voxel holds the value of some write that covers it.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
import time
import traceback
import uuid
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import numpy as np

import magd_client
from magd.geometry import Box, Vec3
from magd.journal.journal_file import SIDE_BYTES
from magd_client import Durability, InvalidRequest, Reason
from tests.guarantees.attempts import DTYPE, Attempt, GuaranteeBroken, Model, Voxels, check_order, within
from tests.guarantees.neighbours import Neighbour
from tests.guarantees.writers import (
    FIRST_CALL_SECONDS,
    RECHUNKED_FILE_LEN,
    Conversion,
    Converter,
    Death,
    Flusher,
    Load,
    Writer,
    run_until_killed,
    send,
)
from tests.support.daemon import MAGD, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from magd_client import Client, Layer, MagHandle, Revision

DATASET: Final = "killed"
LAYER: Final = "values"
BLOCK_LEN: Final = 8
KILLED_AGAIN: Final = 0.3
"""The share of daemons that are killed in their recovery."""
KILLED_AT_WORK: Final = 0.9
"""The share of daemons that have acknowledged something before they are killed."""
OLD_RETRIES: Final = 6
"""Acknowledged writes that are sent again after each kill."""

CONVERSION_SECONDS: Final = 30.0
"""How long a conversion is waited for before the kill."""


MIXES: Final = {
    "disk": (Durability.DISK,),
    "process": (Durability.PROCESS,),
    "mixed": (Durability.DISK, Durability.PROCESS),
    "none": (Durability.NONE, Durability.DISK),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What the rounds are like."""

    compressed: bool = False
    conversions: tuple[Conversion, ...] = ()
    """The mag is converted under load, in one of these ways; each round has a new one."""
    durabilities: tuple[Durability, ...] = (Durability.DISK, Durability.PROCESS)
    seconds: float = 1.0
    """The daemon is killed at most so long after the load has begun."""
    writers: int = 4
    edge: int = 128
    """Of the arena, in voxels."""
    file_len: int = 4
    large: float = 0.04
    """The share of boxes that are nearly as large as the arena, or exactly one cube file."""

    @property
    def promises_voxels(self) -> bool:
        """Whether a kill may lose nothing that was acknowledged."""
        return Durability.NONE not in self.durabilities


@dataclass(slots=True)
class Figures:
    """What happened."""

    kills: int = 0
    in_recoveries: int = 0
    """Of the kills, those of a daemon that had been started after another, and took up its journals."""
    acknowledged: int = 0
    in_batches: int = 0
    """Of the acknowledged ones, those in batches of small boxes..."""
    large: int = 0
    """...and those whose voxels have a side file."""
    unanswered: int = 0
    """Writes under way at a kill..."""
    recorded: int = 0
    """...that were there afterwards, whole..."""
    absent: int = 0
    """...or not at all."""
    old_retries: int = 0
    """Acknowledged writes sent again that got their old outcome and changed nothing."""
    reuses_refused: int = 0
    flushes: int = 0
    changes_of_layers: int = 0
    """Layers beside it that were made, filled, downsampled, renamed or deleted, and acknowledged."""
    conversions_begun: int = 0
    kills_before_exchange: int = 0
    kills_after_exchange: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, field.name)} {field.name.replace('_', ' ')}" for field in fields(self))


class KillTest:
    """A daemon on a folder that is loaded, killed and checked, round by round.

    :param folder: an empty folder with a short path, for the root, the socket and the notes of the writers
    :param seed: draws boxes, durabilities and moments; how threads and processes interleave is not in its hands
    :param command: runs magd; another one for a daemon that is known to be broken

    :ivar figures: what happened so far
    :ivar rounds: that have begun
    """

    def __init__(
        self,
        folder: str,
        setting: Setting,
        seed: int,
        *,
        command: Sequence[str] = MAGD,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.figures = Figures()
        self.rounds = 0
        self._setting = setting
        self._random = random.Random(seed)
        self._folder = folder
        self._root = os.path.join(folder, "root")
        os.mkdir(self._root)
        self._command = command
        self._environment = environment
        self._model = Model.empty(setting.edge)
        self._covered = Box(Vec3(0, 0, 0), Vec3(0, 0, 0))
        self._load = Load(
            DATASET,
            LAYER,
            setting.edge,
            setting.durabilities,
            values=itertools.count(1),
            places_apart=_places_apart(setting.edge),
            cube_len=BLOCK_LEN * setting.file_len,
            large=setting.large,
        )
        self._conversion: Conversion | None = None
        self._last_revision: Revision | None = None
        """The highest with which a write to the mag was acknowledged in the rounds before."""
        self._daemon = self._start()
        with magd_client.connect(self._daemon.grpc) as client:
            layer = client.create_dataset(DATASET, voxel_size=(1, 1, 1)).add_layer(
                LAYER, category="segmentation", dtype="uint32"
            )
            self._add_mag(layer)

    def run_round(self) -> None:
        """Load, kill, start again, check.

        :raises GuaranteeBroken: a promise was not kept
        """
        if self._setting.conversions and self.rounds:
            self._replace_mag()
        if self._setting.conversions:
            self._fill()
        attempts, neighbour = self._load_and_kill()
        if self._random.random() < KILLED_AGAIN:
            self._kill_in_recovery()
        self._daemon = self._start()
        with magd_client.connect(self._daemon.grpc) as client:
            self._check(client, attempts)
            neighbour.check(client)

    def finish(self) -> None:
        """End the daemon as an operator would, and read the cube files without it."""
        with magd_client.connect(self._daemon.grpc) as client:
            folder = self._load.mag(client).get_info().folder
        status = self._daemon.stop()
        if status != 0:
            raise GuaranteeBroken(f"the daemon ended with status {status}\n{self._daemon.log}")
        if self._setting.promises_voxels:
            import wkw  # an oracle that not every platform has

            with wkw.Dataset.open(os.path.join(self._root, DATASET, folder)) as files:
                self._model.check_arena(files.read((0, 0, 0), self._model.arena.shape)[0], "in the cube files", ())
                for box, value in self._model.apart.items():
                    _check_uniform(files.read(tuple(box.offset), tuple(box.size)), box, value, "in the cube files")

    def kill(self) -> None:
        """Leave no process behind."""
        self._daemon.kill()

    @property
    def log(self) -> str:
        """Of the daemon that was started last."""
        return self._daemon.log

    # -- before the kill -----------------------------------------------------------------------------------------------

    def _start(self) -> Daemon:
        return Daemon(
            self._root,
            "--workers",
            "1",
            grpc=f"unix:{self._folder}/socket",
            command=self._command,
            environment=self._environment,
        )

    def _add_mag(self, layer: Layer) -> None:
        self._conversion = self._random.choice(self._setting.conversions or (None,))
        compressed = self._setting.compressed or self._conversion == "decompress"
        layer.add_mag("1", block_len=BLOCK_LEN, file_len=self._setting.file_len, compressed=compressed)

    def _replace_mag(self) -> None:
        with magd_client.connect(self._daemon.grpc) as client:
            self._load.mag(client).delete()
            self._add_mag(client.dataset(DATASET).layer(LAYER))
        self._model, self._last_revision = Model.empty(self._setting.edge), None

    def _fill(self) -> None:
        """Every cube file exists, so that a conversion has something to do."""
        with magd_client.connect(self._daemon.grpc) as client:
            attempt = self._new_attempt(self._model.box)
            send(self._load.mag(client), attempt)
            self._load.mag(client).flush()
        self._model.write(attempt)
        self._covered = self._covered.union(attempt.box)

    def _load_and_kill(self) -> tuple[list[Attempt], Neighbour]:
        setting, death = self._setting, Death()
        address = self._daemon.grpc
        writers = [
            Writer(number, self._random.getrandbits(64), address, self._load, death, self._folder)
            for number in range(setting.writers)
        ]
        flusher = Flusher(self._random.getrandbits(64), address, self._load, death)
        prefix = f"beside-{self.rounds}"
        self.rounds += 1
        neighbour = Neighbour(prefix, self._random.getrandbits(64), address, self._load, death)
        converter = Converter(address, self._load, death, self._conversion) if self._conversion else None
        loaders = [*writers, flusher, neighbour, *([converter] if converter else [])]
        run_until_killed(loaders, death, lambda: self._wait(death, writers, converter), self._daemon.kill)

        attempts = [attempt for writer in writers for attempt in writer.attempts]
        answered = sum(attempt.acknowledgement is not None for attempt in attempts)
        self.figures.kills += 1
        self.figures.acknowledged += answered
        self.figures.in_batches += sum(writer.batched for writer in writers)
        self.figures.large += sum(
            attempt.box.volume * DTYPE.itemsize > SIDE_BYTES
            for attempt in attempts
            if attempt.acknowledgement is not None
        )
        self.figures.unanswered += len(attempts) - answered
        self.figures.flushes += flusher.flushes
        self.figures.changes_of_layers += neighbour.changes
        self.figures.conversions_begun += converter is not None
        return attempts, neighbour

    def _kill_in_recovery(self) -> None:
        """The first flush has a daemon take up what the last one left, and bring it into the files."""
        self._daemon, death = self._start(), Death()
        flusher = Flusher(self._random.getrandbits(64), self._daemon.grpc, self._load, death)
        run_until_killed([flusher], death, lambda: death.pause(self._random.uniform(0.0, 0.4)), self._daemon.kill)
        self.figures.kills += 1
        self.figures.in_recoveries += 1

    def _wait(self, death: Death, writers: Sequence[Writer], converter: Converter | None) -> None:
        """Return at a random moment: of the load; of a conversion also shortly before its end, and after it."""
        seconds = self._setting.seconds
        if self._random.random() < KILLED_AT_WORK:
            self._random.choice(writers).has_begun.wait(FIRST_CALL_SECONDS)
        if converter is not None:
            event = self._random.choice([None, converter.copied, converter.ended])
            if event is not None:
                event.wait(CONVERSION_SECONDS)
                seconds = min(seconds, 0.2)
        death.pause(self._random.uniform(0.0, seconds))

    # -- after it ------------------------------------------------------------------------------------------------------

    def _check(self, client: Client, attempts: Sequence[Attempt]) -> None:
        acknowledged = [attempt for attempt in attempts if attempt.acknowledgement is not None]
        unanswered = [attempt for attempt in attempts if attempt.acknowledgement is None]
        for attempt in acknowledged:
            self._covered = self._covered.union(attempt.box)
            if attempt.known.durability < attempt.durability:
                raise GuaranteeBroken(f"less durable than asked for: {attempt}")
        self._check_bounding_box(client)
        _check_sound(client)
        mag = self._load.mag(client)
        if self._conversion:
            self._check_exchange(mag)
        self._check_revisions(acknowledged)
        if not self._setting.promises_voxels:
            self._take_what_is_there(mag, attempts)
            return

        seen, seen_apart = self._read(mag, attempts)
        revision = mag.get_info().revision
        assert revision is not None, "the mag was read"
        before = self._model
        recorded = self._retry_unanswered(mag, unanswered, revision)
        check_order(attempts)
        self._check_recovered(before, seen, seen_apart, acknowledged, recorded, attempts, revision)
        self._model = before.replay(attempts)
        self._check_all(mag, "after the retries", attempts)
        for attempt in attempts:
            self._covered = self._covered.union(attempt.box)
        self._check_bounding_box(client)

        self._retry_acknowledged(mag, acknowledged, recorded)
        if self._random.random() < 0.5:
            mag.flush()
        self._check_all(mag, "after writes were sent again with their ids", attempts)

    def _check_bounding_box(self, client: Client) -> None:
        box = client.dataset(DATASET).layer(LAYER).get_bounding_box()
        if not (self._covered.is_empty or Box(box.offset, box.size).contains(self._covered)):
            raise GuaranteeBroken(f"the bounding box {box} does not cover {self._covered}, which was acknowledged")

    def _check_revisions(self, acknowledged: Sequence[Attempt]) -> None:
        """Also what a kill has taken, because it promised nothing else, had a revision that nothing else gets."""
        revisions = sorted(attempt.known.revision for attempt in acknowledged)
        if revisions and self._last_revision is not None and revisions[0] <= self._last_revision:
            raise GuaranteeBroken(f"after {self._last_revision} and a kill came {revisions[0]}")
        self._last_revision = max(revisions, default=self._last_revision)

    def _check_exchange(self, mag: MagHandle) -> None:
        info = mag.get_info()
        is_new = {
            "compress": info.compressed,
            "decompress": not info.compressed,
            "rechunk": info.file_len == RECHUNKED_FILE_LEN,
        }
        assert self._conversion is not None, "there is one to check"
        if is_new[self._conversion]:
            self.figures.kills_after_exchange += 1
        else:
            self.figures.kills_before_exchange += 1
        layer_folder = os.path.dirname(os.path.join(self._root, DATASET, info.folder))
        left = [name for name in os.listdir(layer_folder) if ".magd-new" in name]
        if left:
            raise GuaranteeBroken(f"{left} of a conversion that was killed are left in {layer_folder}")

    def _retry_unanswered(self, mag: MagHandle, unanswered: Sequence[Attempt], revision: Revision) -> list[Attempt]:
        """Send them again.

        :param revision: of the mag before
        :return: those that had been recorded before the kill
        """
        recorded = []
        for attempt in self._random.sample(unanswered, len(unanswered)):
            first_sent = attempt.sent
            send(mag, attempt)
            if attempt.known.revision <= revision:
                attempt.sent = first_sent
                recorded.append(attempt)
        self.figures.recorded += len(recorded)
        self.figures.absent += len(unanswered) - len(recorded)
        return recorded

    def _check_recovered(
        self,
        before: Model,
        seen: Voxels,
        seen_apart: Mapping[Box, Voxels],
        acknowledged: Sequence[Attempt],
        recorded: Sequence[Attempt],
        attempts: Sequence[Attempt],
        revision: Revision,
    ) -> None:
        for attempt in acknowledged:
            if attempt.known.revision > revision:
                raise GuaranteeBroken(f"the mag is at {revision} after the kill: {attempt}")
        expected = before.replay([*acknowledged, *recorded])
        expected.check_arena(seen, "after the kill", attempts)
        for box, found in seen_apart.items():
            _check_uniform(found, box, expected.apart.get(box, 0), "after the kill")

    def _retry_acknowledged(self, mag: MagHandle, acknowledged: Sequence[Attempt], recorded: Sequence[Attempt]) -> None:
        """Old ids change nothing, also where another write lies over theirs, and fit no other content."""
        old = self._random.sample(acknowledged, min(OLD_RETRIES, len(acknowledged)))
        for place, attempt in enumerate([*old, *recorded]):
            if place == 0:
                over = self._new_attempt(attempt.box)
                send(mag, over)
                self._model.write(over)
            again = mag.write(
                attempt.data, attempt.box.offset, durability=attempt.durability, request_id=attempt.request_id
            )
            if again != attempt.known:
                raise GuaranteeBroken(f"sent again, it got {again}: {attempt}")
            self.figures.old_retries += 1
            try:
                mag.write(attempt.data + np.uint32(1), attempt.box.offset, request_id=attempt.request_id)
            except InvalidRequest as error:
                if error.reason is not Reason.REQUEST_ID_REUSED:
                    raise
                self.figures.reuses_refused += 1
            else:
                raise GuaranteeBroken(f"its id was taken for other content: {attempt}")

    def _take_what_is_there(self, mag: MagHandle, attempts: Sequence[Attempt]) -> None:
        """Every voxel is from a write that covers it; go on from there."""
        seen, seen_apart = self._read(mag, attempts)
        possible = seen == self._model.arena
        for attempt in attempts:
            if self._model.box.contains(attempt.box):
                place = within(attempt.box)
                possible[place] |= seen[place] == attempt.value
            elif not np.isin(seen_apart[attempt.box], (0, attempt.value)).all():
                raise GuaranteeBroken(f"something else is in its place: {attempt}")
        if not possible.all():
            raise GuaranteeBroken(f"{np.count_nonzero(~possible)} voxels hold values that nobody wrote there")
        self._model.arena = seen

    def _check_all(self, mag: MagHandle, what: str, attempts: Sequence[Attempt]) -> None:
        seen, seen_apart = self._read(mag, attempts)
        self._model.check_arena(seen, what, attempts)
        for box, found in seen_apart.items():
            _check_uniform(found, box, self._model.apart[box], what)

    def _read(self, mag: MagHandle, attempts: Sequence[Attempt]) -> tuple[Voxels, dict[Box, Voxels]]:
        """The arena, and the boxes apart from it that these attempts wrote."""
        arena = self._model.box
        apart = {
            attempt.box: mag.read(attempt.box.offset, attempt.box.size)[0]
            for attempt in attempts
            if not arena.contains(attempt.box)
        }
        return mag.read(arena.offset, arena.size)[0], apart

    def _new_attempt(self, box: Box) -> Attempt:
        request_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        return Attempt(request_id, box, next(self._load.values), self._setting.durabilities[0], time.monotonic())


def setting_of(kind: str, durabilities: tuple[Durability, ...], seconds: float) -> Setting:
    """What the rounds of one kind are like: "raw", "compressed", "compress", or "large": many large boxes over few
    large cube files, which do not exist in the beginning and are replaced later."""
    if kind == "large":
        return Setting(durabilities=durabilities, seconds=seconds, writers=3, edge=160, file_len=16, large=0.4)
    if kind == "compress":
        conversions: tuple[Conversion, ...] = ("compress", "decompress", "rechunk")
        return Setting(conversions=conversions, durabilities=durabilities, seconds=seconds, writers=3, edge=64)
    return Setting(compressed=kind == "compressed", durabilities=durabilities, seconds=seconds)


def kill_rounds(setting: Setting, seed: int, rounds: int) -> tuple[Figures, str]:
    """Some rounds on a root of their own. After a failure the folder is left there.

    :return: what happened, and what was wrong; "" if nothing was
    """
    folder = tempfile.mkdtemp(prefix="magd-kills-")
    test = KillTest(folder, setting, seed)
    try:
        for _ in range(rounds):
            test.run_round()
        test.finish()
    except Exception as error:  # noqa: BLE001  # whatever it is, the figures so far count and others may go on
        text = "".join(traceback.format_exception(error))
        return test.figures, f"{text}\n--- the folder {folder} is left as it is\n--- log of the daemon\n{test.log}"
    finally:
        test.kill()
    shutil.rmtree(folder)
    return test.figures, ""


def _check_sound(client: Client) -> None:
    damage = [
        f"{finding.file}: {finding.message}"
        for progress in client.check(deep=True)
        for finding in progress.findings
        if finding.severity == "damage"
    ]
    if damage:
        raise GuaranteeBroken(f"damage after the kill: {damage}")


def _check_uniform(found: Voxels, box: Box, value: int, what: str) -> None:
    if (found != value).any():
        raise GuaranteeBroken(f"{what}: {box} holds {np.unique(found)[:8]} instead of {value} only")


def _places_apart(edge: int) -> Iterator[Box]:
    """Small boxes ever farther from the origin, over borders of cube files, none over another."""
    for step in itertools.count(1):
        at = edge + 11 * step
        yield Box(Vec3(at, at, at), Vec3(7, 5, 9))
