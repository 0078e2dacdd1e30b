"""Clients that load a mag until its daemon dies.

Each runs in a thread, with a connection of its own. None of them retries: what had no answer when the daemon died is
to be looked at before it is sent again. An error while the daemon lives is a failure of the test.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import magd_client
from magd.geometry import Box, Vec3
from magd_client import Durability, MagdError, RetryPolicy
from tests.guarantees.attempts import Attempt, GuaranteeBroken, Notes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from magd_client import Client, MagHandle, Operation

NEVER_AGAIN: Final = RetryPolicy(first_seconds=1e9, max_seconds=1e9)
"""Waits longer before a second attempt than any call may last, so there is none."""

FIRST_CALL_SECONDS: Final = 30.0
RECHUNKED_FILE_LEN: Final = 2
"""In blocks; what a conversion to other lengths gives cube files."""
BATCHES: Final = 0.1
"""Of what a writer does, the share that is a batch of small boxes."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the writers of one round do."""

    dataset: str
    layer: str
    edge: int
    """Of the arena, in voxels."""
    durabilities: tuple[Durability, ...]
    values: Iterator[int]
    """Never one twice; shared by all writers."""
    places_apart: Iterator[Box]
    """Boxes outside of the arena that extend the bounding box; never one twice."""
    cube_len: int
    """Edge of a cube file, in voxels."""
    large: float = 0.04
    """The share of boxes that are nearly all there is, or exactly one cube file."""

    def mag(self, client: Client) -> MagHandle:
        """The mag, over a connection."""
        return client.dataset(self.dataset).layer(self.layer).mag("1")


class Death:
    """The moment after which a call may fail: the daemon was killed."""

    def __init__(self) -> None:
        self._has_come = threading.Event()

    @property
    def has_come(self) -> bool:
        """Whether it was killed."""
        return self._has_come.is_set()

    def come(self) -> None:
        """It was killed."""
        self._has_come.set()

    def explains_failure(self) -> bool:
        """Whether a call that failed just now failed because of it: the news may be on its way."""
        return self._has_come.wait(5.0)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond it."""
        self._has_come.wait(seconds)


class Loader(threading.Thread):
    """A thread that uses the daemon until it dies."""

    def __init__(self, name: str, address: str, load: Load, death: Death) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: BaseException | None = None
        self._address = address
        self._load = load
        self._death = death

    def run(self) -> None:
        """Use it."""
        try:
            with magd_client.connect(self._address, timeout=FIRST_CALL_SECONDS, retry=NEVER_AGAIN) as client:
                while not self._death.has_come:
                    self._act(client)
        except MagdError as error:
            if not self._death.explains_failure():
                self.failure = error
        except BaseException as error:  # noqa: BLE001  # the test raises it
            self.failure = error

    def _act(self, client: Client) -> None:
        raise NotImplementedError


class Writer(Loader):
    """Writes random boxes, one after the other, and now and then some in a batch."""

    def __init__(self, number: int, seed: int, address: str, load: Load, death: Death, folder: str) -> None:
        super().__init__(f"writer {number}", address, load, death)
        self.attempts: list[Attempt] = []
        self.has_begun = threading.Event()
        """Something was acknowledged."""
        self.batched = 0
        """Boxes in batches that were acknowledged."""
        self._random = random.Random(seed)
        self._notes = Notes(open(os.path.join(folder, f"writer-{number}.jsonl"), "a", encoding="utf-8"))  # noqa: SIM115

    def run(self) -> None:
        """Write until the daemon dies."""
        super().run()
        self.has_begun.set()  # nobody should wait for what will not happen any more
        self._notes.close()

    def _act(self, client: Client) -> None:
        mag = self._load.mag(client)
        mag.get_info()  # a handle knows the mag once it was asked; what follows is one call each
        while not self._death.has_come:
            if self._random.random() < BATCHES:
                self._write_batch(mag)
                continue
            attempt = self._new_attempt(self._draw_box(), self._random.choice(self._load.durabilities))
            send(mag, attempt)
            self._notes.acknowledged(attempt)
            self.has_begun.set()

    def _write_batch(self, mag: MagHandle) -> None:
        """Small boxes in few messages. Those that overlap take effect in the order of the calls."""
        durability = self._random.choice(self._load.durabilities)
        boxes = [self._draw_small() for _ in range(self._random.randint(2, 16))]
        attempts = [self._new_attempt(box, durability) for box in boxes]
        outcomes = []
        try:
            with mag.batch(durability=durability) as batch:
                for attempt in attempts:
                    attempt.sent = time.monotonic()
                    outcomes.append(batch.write(attempt.data, attempt.box.offset, request_id=attempt.request_id))
        finally:
            # Also of a batch that was cut short: what has an acknowledgement was promised.
            for attempt, outcome in zip(attempts, outcomes, strict=False):
                if outcome.is_known and outcome.error is None:
                    attempt.acknowledged = time.monotonic()
                    attempt.acknowledgement = outcome.result()
                    self.batched += 1
                    self._notes.acknowledged(attempt)
        for earlier, later in itertools.combinations(attempts, 2):
            if earlier.box.intersects(later.box) and earlier.known.revision > later.known.revision:
                raise GuaranteeBroken(f"in a batch this came first:\n  {earlier}\n  {later}")

    def _new_attempt(self, box: Box, durability: Durability) -> Attempt:
        request_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        attempt = Attempt(request_id, box, next(self._load.values), durability, sent=time.monotonic())
        self.attempts.append(attempt)
        self._notes.attempted(attempt)
        return attempt

    def _draw_box(self) -> Box:
        kind, edge = self._random.random(), self._load.edge
        if self._random.random() < self._load.large:
            # In a large arena these have files of their own in the journal, and the latter ones become cube files.
            if self._load.cube_len <= edge and self._random.random() < 0.4:
                return Box(Vec3.full(0), Vec3.full(self._load.cube_len))
            return self._draw(edge * 7 // 8, edge)
        if kind < 0.04:
            return next(self._load.places_apart)
        if kind < 0.75:
            return self._draw_small()
        return self._draw(1, edge // 2 if kind < 0.96 else edge)

    def _draw_small(self) -> Box:
        return self._draw(1, self._load.edge // 6)

    def _draw(self, shortest: int, longest: int) -> Box:
        size = Vec3(*(self._random.randint(shortest, longest) for _ in range(3)))
        return Box(Vec3(*(self._random.randint(0, self._load.edge - extent) for extent in size)), size)


class Flusher(Loader):
    """Flushes at random moments: each flush into the files is a checkpoint, and in a compressed mag a rewrite."""

    def __init__(self, seed: int, address: str, load: Load, death: Death) -> None:
        super().__init__("flusher", address, load, death)
        self._random = random.Random(seed)
        self.flushes = 0

    def _act(self, client: Client) -> None:
        self._death.pause(self._random.uniform(0.0, 0.2))
        if not self._death.has_come:
            self._load.mag(client).flush(self._random.choices(("files", "applied", "disk"), (4, 3, 3))[0])
            self.flushes += 1


Conversion = Literal["compress", "decompress", "rechunk"]
"""What puts other files in place of those of a mag."""


def convert(mag: MagHandle, conversion: Conversion) -> Operation:
    """Begin a conversion in place."""
    match conversion:
        case "compress":
            return mag.compress()
        case "decompress":
            return mag.decompress()
        case "rechunk":
            return mag.rechunk(file_len=RECHUNKED_FILE_LEN)


class Converter(Loader):
    """Converts the mag once, in place."""

    def __init__(self, address: str, load: Load, death: Death, conversion: Conversion) -> None:
        super().__init__("converter", address, load, death)
        self._conversion: Conversion = conversion
        self.copied = threading.Event()
        """Every cube file was copied once: what writers touched since is left, and the exchange of the folders."""
        self.ended = threading.Event()

    def run(self) -> None:
        """Convert."""
        super().run()
        # Nobody should wait for what will not happen any more.
        self.copied.set()
        self.ended.set()

    def _act(self, client: Client) -> None:
        operation = convert(self._load.mag(client), self._conversion)
        for info in operation.follow():
            if info.progress.files_total and info.progress.files_done >= info.progress.files_total:
                self.copied.set()
        operation.wait()
        self.ended.set()
        self._death.pause(FIRST_CALL_SECONDS)


def send(mag: MagHandle, attempt: Attempt) -> None:
    """Make an attempt, and note its acknowledgement in it."""
    attempt.sent = time.monotonic()
    acknowledgement = mag.write(
        attempt.data, attempt.box.offset, durability=attempt.durability, request_id=attempt.request_id
    )
    attempt.acknowledged = time.monotonic()
    attempt.acknowledgement = acknowledgement


def run_until_killed(
    loaders: Sequence[Loader], death: Death, wait: Callable[[], None], kill: Callable[[], None]
) -> None:
    """Let them work, kill the daemon, and wait until they have noticed.

    :param wait: returns when it is to be killed
    :raises AssertionError: one of them failed while the daemon lived
    """
    for loader in loaders:
        loader.start()
    wait()
    kill()
    death.come()
    for loader in loaders:
        loader.join(60.0)
    for loader in loaders:
        if loader.is_alive():
            raise AssertionError(f"{loader.name} still waits for the daemon that was killed")
        if loader.failure is not None:
            raise AssertionError(f"{loader.name} failed while the daemon lived") from loader.failure
