"""What a daemon holds, at one moment and over time."""

from __future__ import annotations

import os
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

_PING_SECONDS: Final = 0.1

_MOST_SLOPE_BYTES_PER_HOUR: Final = 64 << 20
_MOST_GROWTH_SHARE: Final = 0.1
"""Of memory that is resident after the warm-up: memory goes up and down by that much with what clients happen to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A daemon at one moment."""

    seconds: float
    """Since the first sample."""
    resident_bytes: int
    descriptors: int
    threads: int
    journal_bytes: int
    """Of all journals below its root."""
    lag_seconds: float
    """The longest answer, since the last sample, to a call that only the event loop has to do with."""
    median_lag_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.seconds:7.0f} s  {self.resident_bytes / 2**20:7.1f} MiB  {self.descriptors:4} descriptors  "
            f"{self.threads:3} threads  journal {self.journal_bytes / 2**20:6.1f} MiB  "
            f"lag {self.median_lag_seconds * 1e3:5.1f} ms, at most {self.lag_seconds * 1e3:6.1f} ms"
        )


class Lag:
    """Asks for the health of a daemon again and again: its event loop answers that by itself.

    :param ping_seconds: between an answer and the next question
    """

    def __init__(self, address: str, ping_seconds: float = _PING_SECONDS) -> None:
        self._address = address
        self._ping_seconds = ping_seconds
        self._stop = threading.Event()
        self._changing = threading.Lock()
        self._seen: list[float] = []
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)
        self._thread.start()

    def take(self) -> list[float]:
        """What answers took, in seconds, since this was asked last."""
        with self._changing:
            seen, self._seen = self._seen, []
        return seen

    def close(self) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not self._stop.wait(self._ping_seconds):
                started = time.monotonic()
                stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
                with self._changing:
                    self._seen.append(time.monotonic() - started)


def sample(pid: int, root: Path, started: float, lags: Sequence[float]) -> Sample:
    """Look at a daemon.

    :param started: when the first sample was taken, by the clock `time.monotonic`
    """
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Sample(
        seconds=time.monotonic() - started,
        resident_bytes=int(fields["VmRSS"].split()[0]) * 1024,
        descriptors=count_descriptors(pid),
        threads=int(fields["Threads"]),
        journal_bytes=sum(_size(path) for path in root.glob("*/*/*/.magd/journal/*")),
        lag_seconds=max(lags, default=0.0),
        median_lag_seconds=statistics.median(lags) if lags else 0.0,
    )


def count_descriptors(pid: int) -> int:
    """How many descriptors a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def problems(samples: Sequence[Sample]) -> list[str]:
    """What has grown since the warm-up, which is the first third."""
    warm = samples[len(samples) // 3 :]
    half = len(warm) // 2
    if half < 2:
        return ["too few samples for a verdict"]
    before, after = warm[:half], warm[half:]
    found = []
    slope = slope_of([(one.seconds, one.resident_bytes) for one in warm]) * 3600
    middle = statistics.mean(one.resident_bytes for one in before)
    growth = statistics.mean(one.resident_bytes for one in after) - middle
    if slope > _MOST_SLOPE_BYTES_PER_HOUR and growth > middle * _MOST_GROWTH_SHARE:
        found.append(f"memory grows by {slope / 2**20:.0f} MiB an hour")
    for what in ("descriptors", "threads"):
        most = max(getattr(one, what) for one in before)
        least_after = min(getattr(one, what) for one in after)
        if least_after > most:
            found.append(f"{what}: at most {most} before, at least {least_after} in the end")
    return found


def slope_of(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line that fits best."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # it was retired just now
