"""Compressing mags in place: magd through its pool against webknossos, on the same data; and what others notice of it.

1. In each round every mag is compressed from a fresh raw copy, by magd and by webknossos in turn. magd is a daemon, and
   what is timed is the call of a client until the operation has ended: everything is on the disk then. webknossos gets
   as many processes as magd has workers, and what it wrote is synced in its time too.
2. A client writes boxes of 64^3 into the mag, every 20 ms, while it is compressed, and as many while nothing else goes
   on.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final

import magd_client
from scripts.benchmarks.clients import Clients, Task, grid
from scripts.benchmarks.measure import MEBIBYTE, Goal, Probe, Results, Sample, Settings, Work, family
from scripts.benchmarks.volumes import (
    BLOCK_LEN,
    bytes_of_cube_files,
    image_or_segments,
    quiet,
    webknossos_library,
    webknossos_mag,
)
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from pathlib import Path

    from magd_client.info import OperationInfo
    from scripts.benchmarks.volumes import Category

GROUP: Final = "compression"
WORKERS: Final = 2
DATASET: Final = "benchmark"
SPEED: Final[dict[Category, float]] = {"color": 8.0, "segmentation": 4.0}
SIZE: Final = 1.03
"""Of the files of magd by those of webknossos, at most."""
WRITE_EDGE: Final = 64
INTERVAL: Final = 0.02
"""Seconds between two writes of the client that others are."""


def run(settings: Settings, results: Results) -> None:
    """Measure the speed, and what a client notices."""
    for category in SPEED:
        _Compression(settings, results, category).run()
    _measure_latency(settings, results)


class _Compression:
    """One layer."""

    def __init__(self, settings: Settings, results: Results, category: Category) -> None:
        self._settings = settings
        self._results = results
        self._category = category
        self._folder = settings.folder / f"{GROUP}-{category}"
        # Eight cube files, so that webknossos has work for each of its processes.
        self._edge = settings.edge if category == "segmentation" or settings.is_quick else 2 * settings.edge
        self._file_len = self._edge // BLOCK_LEN // 2
        voxels, source = image_or_segments(category, self._edge)
        mag = webknossos_mag(
            self._folder / "original" / DATASET, category, voxels.dtype.name, self._file_len, self._edge,
            category=category,
        )  # fmt: skip
        mag.write(voxels, absolute_offset=(0, 0, 0))
        self._work = Work(
            group=GROUP,
            name="compress in place",
            by="magd",
            box=f"{self._edge}^3",
            dtype=voxels.dtype.name,
            size_bytes=voxels.nbytes,
            block_len=BLOCK_LEN,
            file_len=self._file_len,
            data=source,
        )
        image_or_segments.cache_clear()

    def run(self) -> None:
        """All rounds, and what came of them."""
        ours = replace(self._work, transport="tcp", durability="disk")
        theirs = replace(self._work, by="webknossos")
        sizes: dict[Work, int] = {}
        for _ in range(min(2, self._settings.rounds)):
            for work in (ours, theirs):
                root = self._folder / "root"
                shutil.copytree(self._folder / "original", root)
                os.sync()
                if work is ours:
                    sample, hold = self._by_magd(root)
                    told = f"longest hold {hold * 1000:.0f} ms"
                else:
                    sample, alone = self._by_webknossos(root)
                    told = f"{alone:.1f} s without sync"
                self._results.add(work, sample)
                sizes[work] = bytes_of_cube_files(root / DATASET / self._category / "1")
                self._results.note(work, f"{sizes[work] / MEBIBYTE:.1f} MiB in files; {told}")
                shutil.rmtree(root)
        shutil.rmtree(self._folder)
        what = f"in-place compression of {self._category}, {self._work.box} {self._work.dtype}, auto"
        against = "webknossos MagView.compress"
        speed = self._results.times_as_fast(ours, theirs)
        size = sizes[ours] / sizes[theirs]
        self._results.goals += [
            Goal("compressed", GROUP, what, against, SPEED[self._category], speed, remark=self._work.data),
            Goal("compressed", GROUP, "the same, size of the files", against, SIZE, size, is_at_most=True),
        ]

    def _by_magd(self, root: Path) -> tuple[Sample, float]:
        with (
            Daemon(root, "--workers", str(WORKERS), "--log-level", "warning") as daemon,
            magd_client.connect(daemon.grpc) as client,
        ):
            mag = client.dataset(DATASET).layer(self._category).mag("1")
            mag.get_info()
            probe = Probe(daemon.pid)
            info = mag.compress().wait()
            return probe.sample(), _hold_seconds(info)

    def _by_webknossos(self, root: Path) -> tuple[Sample, float]:
        from cluster_tools import get_executor  # type: ignore[import-untyped]

        mag = webknossos_library().Dataset.open(root / DATASET).get_layer(self._category).get_mag("1")
        with get_executor("multiprocessing", max_workers=WORKERS) as executor, quiet():
            list(executor.map(abs, range(WORKERS)))  # its processes are started
            probe = Probe(here=family(os.getpid()))
            mag.compress(executor=executor)
            alone = probe.sample().seconds
            os.sync()
            return probe.sample(), alone


def _measure_latency(settings: Settings, results: Results) -> None:
    """Writes of one client into a mag, with and without a compression of it."""
    folder = settings.folder / "latency"
    edge = settings.edge
    voxels, source = image_or_segments("segmentation", edge)
    base = Work(
        group=GROUP,
        name="",
        by="magd",
        box=f"{WRITE_EDGE}^3",
        dtype="uint32",
        size_bytes=WRITE_EDGE**3 * 4,
        block_len=BLOCK_LEN,
        file_len=edge // BLOCK_LEN // 2,
        durability="process",
        transport="tcp",
        data=source,
    )
    original = webknossos_mag(
        folder / DATASET, "segmentation", "uint32", base.file_len, edge, category="segmentation"
    )  # fmt: skip
    original.write(voxels, absolute_offset=(0, 0, 0))
    slowest: list[float] = []
    holds: list[float] = []
    with (
        Clients(1) as clients,
        Daemon(folder, "--workers", str(WORKERS), "--log-level", "warning") as daemon,
        magd_client.connect(daemon.grpc) as client,
    ):
        mag = client.dataset(DATASET).layer("segmentation").mag("1")
        for number in range(min(2, settings.rounds)):
            if number > 0:
                mag.decompress().wait()
            mag.flush()
            with ThreadPoolExecutor(1) as thread:
                operation = mag.compress()
                ended = thread.submit(operation.wait)
                during: list[float] = []
                while not ended.done():
                    during += _write_some(clients, daemon, base, "while it is compressed", results)
                holds.append(_hold_seconds(ended.result()))
            mag.decompress().wait()
            mag.flush()
            alone: list[float] = []
            while len(alone) < len(during):
                alone += _write_some(clients, daemon, base, "while nothing else goes on", results)
            slowest.append(_percentile(during, 99) / _percentile(alone, 99))
            for name, latencies in (("while it is compressed", during), ("while nothing else goes on", alone)):
                told = ", ".join(f"p{share} {_percentile(latencies, share) * 1000:.1f} ms" for share in (50, 99))
                results.note(replace(base, name=f"write one by one {name}"), told)
    remark = f"longest hold {max(holds) * 1000:.0f} ms"
    results.goals.append(
        Goal(
            "compressed", GROUP, "p99 of 64^3 writes, PROCESS, into a mag that is compressed", "without compression",
            3.0, median(slowest), is_at_most=True, remark=remark,
        )
    )  # fmt: skip
    shutil.rmtree(folder)


def _write_some(clients: Clients, daemon: Daemon, base: Work, name: str, results: Results) -> list[float]:
    """Writes of half a second or so, and what each took."""
    count = min(25, (base.file_len * BLOCK_LEN // WRITE_EDGE) ** 3)
    corners = grid(WRITE_EDGE, base.file_len * BLOCK_LEN, count)
    mag = (DATASET, "segmentation", "1")
    task = Task(daemon.grpc, mag, "one by one", True, "process", "uint32", WRITE_EDGE, corners, interval=INTERVAL)
    sample, (done,) = clients.run([task], daemon.pid)
    # The time between two boxes is no work.
    results.add(replace(base, name=f"write one by one {name}"), replace(sample, seconds=sum(done.latencies)))
    return list(done.latencies)


def _hold_seconds(info: OperationInfo) -> float:
    assert info.statistics is not None
    return info.statistics.longest_hold_seconds


def _percentile(values: list[float], share: int) -> float:
    return quantiles(values, n=100, method="inclusive")[share - 1] if len(values) > 1 else values[0]
