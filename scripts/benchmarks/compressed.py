"""Using compressed mags: small writes into them, and reading.

The mag has cube files of 512^3 voxels, uint32, full of segments. Both sides start from the same files.

- Small writes: boxes of 64^3, on no grid, all in one cube file. magd rewrites the file once for many of them;
  `webknossos` (with `allow_unaligned=True`) reads, changes and compresses it anew for each, in many seconds, so that
  one or two of them are measured and not one for each round.
- Reading: boxes of 128^3, in processes that may use one core, or two.
- One voxel every 10 ms, for some seconds: how often is the cube file rewritten?
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

import magd_client
from magd.cubes.mag_files import MagFiles
from magd.geometry import Box
from scripts.benchmarks.clients import Clients, Task
from scripts.benchmarks.measure import MEBIBYTE, Goal, Probe, Results, Sample, Settings, Work
from scripts.benchmarks.volumes import BLOCK_LEN, image_or_segments, quiet, webknossos_library
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.benchmarks.clients import Corner

GROUP: Final = "compressed"
CLIENTS: Final = 8
TOGETHER: Final = 100
"""Writes that share a flush."""
EDGE: Final = 64
READ_EDGE: Final = 128
MAG: Final = ("benchmark", "segmentation", "1")
INTERVAL: Final = 0.01
"""Seconds between two voxels."""


def run(settings: Settings, results: Results) -> None:
    """Measure small writes, reading and rewrites."""
    folder = settings.folder / GROUP
    (folder / "root").mkdir(parents=True)
    compressed = _Compressed(settings, results, folder)
    compressed.make()
    with Clients(CLIENTS) as clients, Daemon(folder / "root", "--log-level", "warning") as daemon:
        # Not in a round: it takes so long that rounds would measure little else.
        for _ in range(1 if settings.is_quick else 2):
            compressed.write_by_webknossos()
        for number in range(settings.rounds + 1):
            compressed.write(clients, daemon, 1)
            compressed.write(clients, daemon, CLIENTS)
            if number == 0:
                results.forget(GROUP, by="magd")
        compressed.write_voxels(daemon, 1.0 if settings.is_quick else 10.0)
    compressed.read()
    compressed.goals()


class _Compressed:
    def __init__(self, settings: Settings, results: Results, folder: Path) -> None:
        self._settings = settings
        self._results = results
        self._folder = folder
        self._edge = settings.edge
        self._voxels, source = image_or_segments("segmentation", self._edge)
        self._random = random.Random(1)
        self._base = Work(
            group=GROUP,
            name="",
            by="magd",
            box=f"{EDGE}^3",
            dtype="uint32",
            size_bytes=EDGE**3 * 4,
            block_len=BLOCK_LEN,
            file_len=self._edge // BLOCK_LEN,
            is_compressed=True,
            data=source,
        )
        self._webknossos = replace(self._base, name="write unaligned", by="webknossos")
        self._rewrites = 0

    @property
    def _mag(self) -> Path:
        return self._folder / "root" / Path(*MAG)

    def make(self) -> None:
        """The mag, and a copy of it for `webknossos` and for reading."""
        with (
            Daemon(self._folder / "root", "--log-level", "warning") as daemon,
            magd_client.connect(daemon.grpc) as client,
        ):
            dataset = client.create_dataset(MAG[0], voxel_size=(11.24, 11.24, 28.0))
            layer = dataset.add_layer(MAG[1], category="segmentation", dtype="uint32")
            mag = layer.add_mag(MAG[2], block_len=BLOCK_LEN, file_len=self._base.file_len, compressed=True)
            mag.write(self._voxels, (0, 0, 0))
            mag.flush()
        shutil.copytree(self._folder / "root" / MAG[0], self._folder / "copy", ignore=shutil.ignore_patterns(".magd"))

    def write_by_webknossos(self) -> None:
        """One box."""
        mag = webknossos_library().Dataset.open(self._folder / "copy").get_layer(MAG[1]).get_mag(MAG[2])
        (corner,) = self._corners(1, 0, 1)
        data = self._voxels[:EDGE, :EDGE, :EDGE]
        with quiet():
            probe = Probe()
            mag.write(data, absolute_offset=corner, allow_unaligned=True)
            self._results.add(self._webknossos, probe.sample())

    def write(self, clients: Clients, daemon: Daemon, number: int) -> None:
        """As many boxes for each client as share a flush, and the flush."""
        tasks = [
            Task(daemon.grpc, MAG, "one by one", True, "process", "uint32", EDGE, corners)
            for corners in (self._corners(TOGETHER, client, number) for client in range(number))
        ]
        whole = Probe(daemon.pid, here=())
        acknowledged, _ = clients.run(tasks, daemon.pid)
        with magd_client.connect(daemon.grpc) as client:
            began = time.perf_counter()
            client.dataset(MAG[0]).layer(MAG[1]).mag(MAG[2]).flush()
            seconds = acknowledged.seconds + time.perf_counter() - began
        flushed = replace(
            whole.sample(acknowledged.boxes, seconds), here_cpu=acknowledged.here_cpu, here_peak=acknowledged.here_peak
        )
        self._results.add(self._work_of(number, "acknowledged"), acknowledged)
        self._results.add(self._work_of(number, "flush included"), flushed)

    def write_voxels(self, daemon: Daemon, seconds: float) -> None:
        """One voxel at a time into one cube file. A rewrite gives it another inode."""
        (path,) = self._mag.glob("z*/y*/x*.wkw")
        inode, self._rewrites, rewritten_bytes, latencies = path.stat().st_ino, 0, 0, []
        with magd_client.connect(daemon.grpc, durability="process") as client:
            mag = client.dataset(MAG[0]).layer(MAG[1]).mag(MAG[2])
            mag.get_info()
            probe = Probe(daemon.pid)
            began = time.perf_counter()
            for number in range(round(seconds / INTERVAL)):
                time.sleep(max(0.0, began + number * INTERVAL - time.perf_counter()))
                at = self._random.randrange(self._edge)
                start = time.perf_counter()
                mag.write(np.full((1, 1, 1), number + 1, np.uint32), (at, at, at))
                latencies.append(time.perf_counter() - start)
                if (now := path.stat()).st_ino != inode:
                    inode, self._rewrites, rewritten_bytes = (
                        now.st_ino,
                        self._rewrites + 1,
                        rewritten_bytes + now.st_size,
                    )
            sample = probe.sample(len(latencies), sum(latencies))
            mag.flush()
        work = replace(
            self._base, name=f"write one voxel every 10 ms for {seconds:g} s", box="1^3", size_bytes=4,
            transport="tcp", durability="process",
        )  # fmt: skip
        self._results.add(work, sample)
        self._results.note(work, f"{self._rewrites} rewrites, {rewritten_bytes / MEBIBYTE:.1f} MiB")

    def read(self) -> None:
        """By processes that may use one core, or two."""
        corners = self._corners(8, 0, 1, min(READ_EDGE, self._edge // 2))
        for cores in (1, 2):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                pairs = pool.submit(
                    read_pairs, str(self._folder / "copy" / MAG[1] / MAG[2]), corners, min(READ_EDGE, self._edge // 2),
                    cores, self._settings.rounds,
                ).result()  # fmt: skip
            for ours, theirs in pairs:
                self._results.add(self._reading(cores, "magd"), ours)
                self._results.add(self._reading(cores, "wkw"), theirs)

    def goals(self) -> None:
        """Compare."""
        slow = self._results.seconds(self._webknossos)
        acknowledged, flushed = "acknowledged", "flush included"

        def eight_to_one(what: str) -> float:
            return self._results.times_as_fast(self._work_of(CLIENTS, what), self._work_of(1, what))

        def to_wkw(cores: int) -> float:
            return self._results.times_as_fast(self._reading(cores, "magd"), self._reading(cores, "wkw"))

        writes = f"{EDGE}^3 unaligned writes into a compressed uint32 mag, cube files of {self._edge}^3, PROCESS"
        against = "webknossos, allow_unaligned=True"
        remark = f"one write of webknossos: {slow:.1f} s"
        read = f"read {self._reading(1, 'magd').box} from a compressed mag, in process"
        for what, other, reach, reached, told in (
            (f"{writes}, 1 client, acknowledged", against, 1000, slow / self._results.seconds(
                self._work_of(1, acknowledged)), remark),
            (f"the same, {TOGETHER} writes and their flush", against, 300, slow / self._results.seconds(
                self._work_of(1, flushed)), remark),
            (f"the same, {CLIENTS} clients at once, total, acknowledged", "1 client", 1.0, eight_to_one(acknowledged),
             ""),
            (f"the same, {CLIENTS} clients at once, total, flush included", "1 client", 1.0, eight_to_one(flushed), ""),
            (f"{read}, 2 cores", "wkw", 1.5, to_wkw(2), ""),
            (f"{read}, 1 core", "wkw", 1.0, to_wkw(1), ""),
        ):  # fmt: skip
            self._results.goals.append(Goal("compressed", GROUP, what, other, reach, reached, remark=told))
        self._results.goals.append(
            Goal(
                "compressed", GROUP, "one voxel every 10 ms for 10 s into one cube file", "rewrites of the file", 3,
                self._rewrites, is_at_most=True, unit="rewrites",
            )
        )  # fmt: skip

    def _work_of(self, clients: int, what: str) -> Work:
        name = f"write unaligned, {what}"
        return replace(self._base, name=name, transport="tcp", durability="process", clients=clients)

    def _reading(self, cores: int, by: str) -> Work:
        edge = min(READ_EDGE, self._edge // 2)
        name = f"read unaligned, {cores} {'core' if cores == 1 else 'cores'}"
        return replace(self._base, name=name, by=by, box=f"{edge}^3", size_bytes=edge**3 * 4)

    def _corners(self, count: int, client: int, clients: int, edge: int = EDGE) -> tuple[Corner, ...]:
        """Anywhere in the part of the cube file that belongs to a client, on no grid of blocks."""
        thickness, far = self._edge // clients, self._edge - edge
        first = min(client * thickness, far)
        last = max((client + 1) * thickness - edge, first)

        def draw(low: int, high: int) -> int:
            at = self._random.randint(low, high)
            return at + 1 if at % BLOCK_LEN == 0 and at < high else at

        return tuple((draw(0, far), draw(0, far), draw(first, last)) for _ in range(count))


def read_pairs(
    folder: str, corners: tuple[Corner, ...], edge: int, cores: int, rounds: int
) -> list[tuple[Sample, Sample]]:
    """Read boxes by magd and by `wkw` in turn, in a process that has not started threads yet.

    :param cores: how many this process may use from now on
    """
    import wkw

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    size = (edge, edge, edge)
    with closing(MagFiles.open(folder, read_only=True)) as files, wkw.Dataset.open(folder) as other:
        pairs = [
            (
                _sample(lambda at: files.read(Box.of(at, size)), corners),
                _sample(lambda at: other.read(at, size), corners),
            )
            for _ in range(rounds + 1)
        ]
    return pairs[1:]


def _sample(call: Callable[[Corner], object], corners: tuple[Corner, ...]) -> Sample:
    probe = Probe()
    for corner in corners:
        call(corner)
    return probe.sample(len(corners))
