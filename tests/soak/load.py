"""Clients that use a daemon for a long time, each on a connection of its own, and check everything they read.

A writer owns a part of a mag and has a copy of it in memory. The parts meet inside of blocks and of cube files, so what
one writer does, done wrongly, is seen by its neighbour. Besides them: one that makes datasets, compresses and deletes
them; one that flushes; watchers that come and go; clients that vanish in the middle of a box.
"""

from __future__ import annotations

import itertools
import random
import shutil
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np
import numpy.typing as npt

import magd_client
from magd.geometry import Box, Vec3
from magd.v1 import types_pb2, volume_pb2, volume_pb2_grpc
from magd_client import Durability

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from magd_client import Client, MagHandle

DATASET: Final = "soak"
MAGS: Final = {"raw": ("uint8", False), "compressed": ("uint32", True)}
"""Layers: their dtype, and whether they are compressed."""
BLOCK_LEN: Final = 32
FILE_LEN: Final = 4

_PART: Final = Vec3(75, 150, 90)
_WRITERS_PER_MAG: Final = 2
_LEVELS: Final = (Durability.PROCESS, Durability.PROCESS, Durability.DISK, Durability.NONE)
_PAUSE_SECONDS: Final = 0.2
_END_SECONDS: Final = 120.0


class WrongVoxels(AssertionError):
    """What was read is not what was written."""


@dataclass(slots=True)
class Counts:
    """What was done so far. One thread counts at a time in each field."""

    writes: int = 0
    reads: int = 0
    bytes_moved: int = 0


class Worker(threading.Thread):
    """A client that does one thing again and again until it is told to stop."""

    def __init__(self, name: str, address: str, seed: int, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: BaseException | None = None
        self.counts = Counts()
        self.turns = 0
        self.random = random.Random(seed)
        self.address = address
        self.stop = stop

    def run(self) -> None:
        """Connect, and work until the stop."""
        try:
            with magd_client.connect(self.address, timeout=_END_SECONDS) as client:
                self.begin(client)
                while not self.stop.is_set():
                    self.turn(client)
                    self.turns += 1
                self.end(client)
        except BaseException as error:  # noqa: BLE001  # whoever started it raises it
            self.failure = error
            self.stop.set()

    def begin(self, client: Client) -> None:
        """Before the first turn."""

    def turn(self, client: Client) -> None:
        """Do it once."""
        raise NotImplementedError

    def end(self, client: Client) -> None:
        """After the last turn."""


class Part:
    """A part of a mag that only one client writes, and what is in it."""

    def __init__(self, mag: MagHandle, offset: Vec3, voxels: npt.NDArray[Any], counts: Counts) -> None:
        self._mag = mag
        self._offset = offset
        self._voxels = voxels
        self._counts = counts

    def write(self, random: random.Random, durability: Durability) -> None:
        """Write a random box of it: mostly a small one."""
        box = self._draw(random)
        start, end = box.offset, box.end
        data = np.asfortranarray(_draw_voxels(random, box.size, self._voxels.dtype))
        self._mag.write(data, tuple(box.offset + self._offset), durability=durability)
        self._voxels[start.x : end.x, start.y : end.y, start.z : end.z] = data
        self._counts.writes += 1
        self._counts.bytes_moved += data.nbytes

    def check(self, random: random.Random) -> None:
        """Read a random box of it."""
        self._check(self._draw(random))

    def check_all(self) -> None:
        """Read all of it."""
        self._check(Box(Vec3(0, 0, 0), Vec3.of(self._voxels.shape)))

    def _check(self, box: Box) -> None:
        start, end = box.offset, box.end
        seen = self._mag.read(tuple(box.offset + self._offset), tuple(box.size))[0]
        wanted = self._voxels[start.x : end.x, start.y : end.y, start.z : end.z]
        if not np.array_equal(seen, wanted):
            different = np.argwhere(seen != wanted)
            raise WrongVoxels(f"{self._mag!r}: {len(different)} voxels of {box} differ, the first {different[0]}")
        self._counts.reads += 1
        self._counts.bytes_moved += seen.nbytes

    def _draw(self, random: random.Random) -> Box:
        extents = self._voxels.shape
        longest = [extent if random.random() < 0.1 else min(extent, 24) for extent in extents]
        size = Vec3(*(random.randint(1, most) for most in longest))
        offset = (random.randint(0, extent - length) for extent, length in zip(extents, size, strict=True))
        return Box(Vec3(*offset), size)


class Writer(Worker):
    """Writes and reads its part of a mag that is always there."""

    def __init__(self, number: int, layer: str, voxels: npt.NDArray[Any], *arguments: Any) -> None:
        super().__init__(f"writer {number} of {layer}", *arguments)
        self._layer = layer
        self._offset = Vec3(number * _PART.x + 7, 5, 3)
        self._voxels = voxels

    def begin(self, client: Client) -> None:
        mag = client.dataset(DATASET).layer(self._layer).mag("1")
        self._part = Part(mag, self._offset, self._voxels, self.counts)
        self._part.check_all()

    def turn(self, client: Client) -> None:
        self._part.write(self.random, self.random.choice(_LEVELS))
        self._part.check(self.random)

    def end(self, client: Client) -> None:
        self._part.check_all()


class Changer(Worker):
    """Makes a dataset, writes it, compresses it while it writes on, and deletes it."""

    def __init__(self, root: Path, *arguments: Any) -> None:
        super().__init__("changer", *arguments)
        self._root = root

    def turn(self, client: Client) -> None:
        dataset = client.create_dataset(f"passing-{self.turns % 7}", voxel_size=(1, 1, 1))
        layer = dataset.add_layer("layer", category="segmentation", dtype="uint16")
        mag = layer.add_mag("1", block_len=BLOCK_LEN, file_len=2)
        part = Part(mag, Vec3(3, 2, 1), np.zeros((100, 90, 80), np.uint16), self.counts)
        for _ in range(5):
            part.write(self.random, Durability.PROCESS)
        operation = mag.compress()
        for _ in range(5):
            part.write(self.random, Durability.PROCESS)
        operation.wait(timeout=_END_SECONDS)
        part.check_all()
        trash = dataset.delete()
        # Nobody else empties it.
        shutil.rmtree(self._root / trash)
        self.stop.wait(_PAUSE_SECONDS)


class Flusher(Worker):
    """Flushes everything now and then."""

    def turn(self, client: Client) -> None:
        self.stop.wait(self.random.uniform(0, 10 * _PAUSE_SECONDS))
        client.dataset(DATASET).flush("files" if self.random.random() < 0.7 else "disk")


class Watcher(Worker):
    """Watches until some events have come, leaves, and comes again."""

    def turn(self, client: Client) -> None:
        with client.watch(client.dataset(DATASET) if self.random.random() < 0.5 else None) as events:
            for _ in itertools.islice(events, self.random.randrange(50)):
                if self.stop.is_set():
                    return


class Vanisher(Worker):
    """Begins to write a box, or to read one, and closes the connection in the middle."""

    def turn(self, client: Client) -> None:
        begun, gone = threading.Event(), threading.Event()
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub: Any = volume_pb2_grpc.VolumeServiceStub(channel)
            if self.random.random() < 0.5:
                call = stub.WriteBox.future(_half_a_box(begun, gone))
                begun.wait(_END_SECONDS)
            else:
                call = stub.ReadBox(volume_pb2.ReadBoxRequest(name=_name("raw"), box=_proto(Box(_APART, _LARGE))))
                next(iter(call))
            if self.random.random() < 0.5:
                call.cancel()
        gone.set()
        self.stop.wait(_PAUSE_SECONDS)


def _half_a_box(begun: threading.Event, gone: threading.Event) -> Iterator[volume_pb2.WriteBoxRequest]:
    yield volume_pb2.WriteBoxRequest(
        name=_name("raw"),
        box=_proto(Box(_APART, _LARGE)),
        data_type=types_pb2.DATA_TYPE_UINT8,
        num_channels=1,
        data=bytes([9]) * (_LARGE.volume // 2),
    )
    begun.set()
    # The stream does not end before the connection: that would be a box with half of its bytes.
    gone.wait(_END_SECONDS)


_APART: Final = Vec3(7, 5, 120)
"""Behind the parts of the writers: nothing may ever be written there."""
_LARGE: Final = Vec3(128, 128, 64)


class Load:
    """All clients of one daemon. They can be stopped and started again, and go on with what is there."""

    def __init__(self, address: str, root: Path, seed: int) -> None:
        self._address = address
        self._root = root
        self._seed = itertools.count(seed * 1000)
        self._voxels = {
            (layer, number): np.zeros(tuple(_PART), dtype)
            for layer, (dtype, _) in MAGS.items()
            for number in range(_WRITERS_PER_MAG)
        }
        self._workers: list[Worker] = []
        self._stop = threading.Event()
        with magd_client.connect(address) as client:
            dataset = client.create_dataset(DATASET, voxel_size=(1, 1, 1))
            for layer, (dtype, compressed) in MAGS.items():
                made = dataset.add_layer(layer, category="color", dtype=dtype)
                made.add_mag("1", block_len=BLOCK_LEN, file_len=FILE_LEN, compressed=compressed)

    def start(self) -> None:
        """Let them work."""
        self._stop = stop = threading.Event()

        def common() -> tuple[str, int, threading.Event]:
            return self._address, next(self._seed), stop

        self._workers = [
            *(Writer(number, layer, voxels, *common()) for (layer, number), voxels in self._voxels.items()),
            Changer(self._root, *common()),
            Flusher("flusher", *common()),
            Watcher("watcher", *common()),
            Vanisher("vanisher", *common()),
        ]
        for worker in self._workers:
            worker.start()

    def has_failed(self) -> bool:
        """Whether one of them has."""
        return any(worker.failure is not None for worker in self._workers)

    def end(self) -> None:
        """Have them end, and each check all that it has written.

        :raises AssertionError: one of them has failed, or does not end
        """
        self._stop.set()
        # Somebody has to wake up the watchers.
        with magd_client.connect(self._address) as client:
            mag = client.dataset(DATASET).layer("raw").mag("1")
            for worker in self._workers:
                while worker.is_alive() and isinstance(worker, Watcher):
                    mag.write(np.ones((1, 1, 1), np.uint8), tuple(_APART - Vec3(0, 0, 1)), durability="none")
                    worker.join(_PAUSE_SECONDS)
                worker.join(_END_SECONDS)
            apart = mag.read(tuple(_APART), tuple(_LARGE))
        for worker in self._workers:
            if worker.failure is not None:
                raise AssertionError(f"{worker.name} failed") from worker.failure
            if worker.is_alive():
                raise AssertionError(f"{worker.name} does not end")
        if apart.any():
            raise WrongVoxels("a part of a box was written by a client that vanished")

    @property
    def counts(self) -> Counts:
        """What all of them have done since the last start."""
        total = Counts()
        for worker in self._workers:
            total.writes += worker.counts.writes
            total.reads += worker.counts.reads
            total.bytes_moved += worker.counts.bytes_moved
        return total

    def turns(self) -> Iterable[tuple[str, int]]:
        """What each of them has done, for people."""
        return [(worker.name, worker.turns) for worker in self._workers]


def _draw_voxels(random: random.Random, size: Vec3, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Noise, or stretches that compress, or one value."""
    generator = np.random.default_rng(random.getrandbits(64))
    most = int(np.iinfo(dtype).max)
    match random.randrange(3):
        case 0:
            return generator.integers(0, most, tuple(size), dtype, endpoint=True)
        case 1:
            cells = generator.integers(0, most, tuple(-(-extent // 8) for extent in size), dtype, endpoint=True)
            grown: npt.NDArray[Any] = cells.repeat(8, 0).repeat(8, 1).repeat(8, 2)
            return grown[: size.x, : size.y, : size.z]
        case _:
            return np.full(tuple(size), random.randint(0, min(most, 255)), dtype)


def _name(layer: str) -> str:
    return f"datasets/{DATASET}/layers/{layer}/mags/1"


def _proto(box: Box) -> types_pb2.Box:
    def vec3(value: Vec3) -> types_pb2.Vec3:
        return types_pb2.Vec3(x=value.x, y=value.y, z=value.z)

    return types_pb2.Box(offset=vec3(box.offset), size=vec3(box.size))
