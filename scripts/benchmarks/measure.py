"""What a benchmark measures, and how: works, samples of them, and goals that compare two of them.

1. A group does each of its works once in a round, one after the other, so that a slow moment of the machine meets all
   of them alike. A first round, which is not counted, warms up.
2. A `Probe` takes the time of a work, the CPU time of this side and of the other one, and the peak of their memory: the
   kernel is told to forget the peaks before. A peak of several processes is the sum of theirs, so rather too high; in
   this process it has the data of the benchmark in it.
3. A row of the results has the medians over the rounds.
4. A comparison is the median over the rounds of the quotients within a round.
5. Before a work with a large box, memory is taken from the system and given back, for arrays and for files. A virtual
   machine may have given the memory that it does not use to its host; it then takes five times as long to write the
   first bytes into a page, and whoever came first after a pause would pay for that.
"""

from __future__ import annotations

import mmap
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MEBIBYTE: Final = 1 << 20

LARGE_BYTES: Final = 16 << 20
"""Of a box, from which on memory is made ready for it."""
READY_BOXES: Final = 2
"""Memory for so many boxes: in this process and the other one; in the journal and the cube files."""
MOST_READY_BYTES: Final = 512 << 20
READY_PIECE_BYTES: Final = 4 << 20
"""The kernel takes larger pages for larger pieces."""

Durability: TypeAlias = Literal["none", "process", "disk"]
Table: TypeAlias = Literal["daemon", "engine", "compressed"]
"""Where a goal is shown: the way through the daemon, cube files in one process, compressed mags."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is done, by whom, to what."""

    group: str
    name: str
    by: str
    """"magd", or what it is compared with."""
    box: str
    """Its extent in voxels, as text."""
    dtype: str
    size_bytes: int
    """Voxels of one box; 0 for calls without any."""
    block_len: int
    file_len: int
    durability: Durability | None = None
    """None for what gives no promise, and for reads."""
    transport: str = ""
    """Empty for what happens in this process."""
    order: Literal["F", "C"] = "F"
    is_compressed: bool = False
    clients: int = 1
    data: str = "synthetic"


@dataclass(frozen=True, slots=True)
class Sample:
    """One work in one round."""

    seconds: float
    boxes: int
    here_cpu: float
    """Seconds, of this process and of clients."""
    there_cpu: float
    """Seconds, of a server and its children."""
    here_peak: int
    there_peak: int


@dataclass(frozen=True, slots=True)
class Row:
    """One work over all rounds, as it is shown and stored."""

    work: Work
    rounds: int
    seconds: float
    """For one box, median."""
    here_cpu_ms_per_mib: float
    there_cpu_ms_per_mib: float
    here_peak_bytes: int
    there_peak_bytes: int
    note: str

    @property
    def megabytes_per_second(self) -> float:
        """10^6 bytes of voxels a second."""
        return self.work.size_bytes / self.seconds / 1e6


@dataclass(frozen=True, slots=True)
class Goal:
    """What a work is to reach, and what it did."""

    table: Table
    group: str
    work: str
    against: str
    reach: float
    reached: float | None
    """None if it could not be measured; the remark says why."""
    is_at_most: bool = False
    unit: str = "times"
    remark: str = ""

    @property
    def is_reached(self) -> bool:
        """Whether the figure is good enough."""
        if self.reached is None:
            return False
        return self.reached <= self.reach if self.is_at_most else self.reached >= self.reach


@dataclass(slots=True)
class Results:
    """Everything that was measured in one run.

    :ivar goals: in the order in which they are shown
    """

    goals: list[Goal] = field(default_factory=list)
    _samples: dict[Work, list[Sample]] = field(default_factory=dict)
    _notes: dict[Work, str] = field(default_factory=dict)

    def add(self, work: Work, sample: Sample) -> None:
        """Note a work of the round that is under way."""
        self._samples.setdefault(work, []).append(sample)

    def note(self, work: Work, text: str) -> None:
        """Say more about a work; the last text stays."""
        self._notes[work] = text

    def forget(self, group: str, by: str | None = None) -> None:
        """The round that warms up is over.

        :param by: only what was done by this; None: all
        """
        for work in [work for work in self._samples if work.group == group and by in (None, work.by)]:
            del self._samples[work]

    def samples(self, work: Work) -> Sequence[Sample]:
        """One for each round.

        :raises KeyError: the work was not done
        """
        return self._samples[work]

    def compare_memory(self, group: str, budget_bytes: int) -> None:
        """The goal that the daemon kept its budget, in all that it did in a group."""
        peak = max(row.there_peak_bytes for row in self.rows() if (row.work.group, row.work.by) == (group, "magd"))
        remark = f"peak {peak / MEBIBYTE:.0f} MiB with all libraries, budget {budget_bytes / MEBIBYTE:.0f} MiB"
        what = f"memory of the daemon and its workers, group {group}"
        reached = peak / budget_bytes
        self.goals.append(Goal("daemon", group, what, "its budget", 1.0, reached, is_at_most=True, remark=remark))

    def seconds(self, work: Work) -> float:
        """For one box, median.

        :raises KeyError: the work was not done
        """
        return median(one.seconds / one.boxes for one in self._samples[work])

    def times_as_fast(self, work: Work, other: Work) -> float:
        """The time that another work takes for a box by that of this one; above 1 this one is faster.

        :raises KeyError: one of them was not done
        """
        pairs = zip(self._samples[work], self._samples[other], strict=True)
        return median((theirs.seconds / theirs.boxes) / (ours.seconds / ours.boxes) for ours, theirs in pairs)

    def rows(self) -> list[Row]:
        """All works, in the order in which they were done first."""
        return [self._row(work, samples) for work, samples in self._samples.items()]

    def _row(self, work: Work, samples: list[Sample]) -> Row:
        def per_mib(seconds: list[float]) -> float:
            return median(seconds) * 1000 / (work.size_bytes / MEBIBYTE) if work.size_bytes else 0.0

        return Row(
            work=work,
            rounds=len(samples),
            seconds=self.seconds(work),
            here_cpu_ms_per_mib=per_mib([one.here_cpu / one.boxes for one in samples]),
            there_cpu_ms_per_mib=per_mib([one.there_cpu / one.boxes for one in samples]),
            here_peak_bytes=max(one.here_peak for one in samples),
            there_peak_bytes=max(one.there_peak for one in samples),
            note=self._notes.get(work, ""),
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured.

    :ivar folder: for data; on the disk to measure
    :ivar sockets: a folder whose name is short enough for sockets in it
    :ivar edge: of large boxes, in voxels
    :ivar file_len: of mags, in blocks of 32^3, where a work does not need another one
    :ivar seconds: for repeated calls in each round, about
    :ivar is_quick: as little as shows that everything runs
    """

    folder: Path
    sockets: Path
    edge: int = 512
    file_len: int = 32
    rounds: int = 5
    seconds: float = 1.0
    is_quick: bool = False


class Probe:
    """Measures from when it is made, or last `restart`ed.

    :param there: a server; None if all happens on this side
    :param here: the processes of this side that work; children of theirs do not count
    """

    def __init__(self, there: int | None = None, here: Sequence[int] | None = None) -> None:
        self._there = there
        self._here = [os.getpid()] if here is None else here
        self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        there = self._family()
        for pid in (*self._here, *there):
            _forget_peak(pid)
        self._here_cpu = sum(map(_cpu_seconds, self._here))
        self._there_cpu = sum(map(_cpu_seconds, there))
        self._began = time.perf_counter()

    def sample(self, boxes: int = 1, seconds: float | None = None) -> Sample:
        """What was until now. More may be taken later.

        :param boxes: how many were read or written
        :param seconds: what it took, if that is known better
        """
        elapsed = time.perf_counter() - self._began
        there = self._family()
        return Sample(
            seconds=elapsed if seconds is None else seconds,
            boxes=boxes,
            here_cpu=sum(map(_cpu_seconds, self._here)) - self._here_cpu,
            there_cpu=sum(map(_cpu_seconds, there)) - self._there_cpu,
            here_peak=sum(map(_peak_bytes, self._here)),
            there_peak=sum(map(_peak_bytes, there)),
        )

    def _family(self) -> list[int]:
        return [] if self._there is None else family(self._there)


@contextmanager
def measured(results: Results, work: Work, settings: Settings, *, there: int | None = None) -> Iterator[None]:
    """Note what happens inside as one box of a work."""
    make_memory_ready(work, settings)
    probe = Probe(there)
    yield
    results.add(work, probe.sample())


def make_memory_ready(work: Work, settings: Settings) -> None:
    """To be called before a work with a large box begins."""
    size = min(READY_BOXES * work.size_bytes, MOST_READY_BYTES)
    if work.size_bytes < LARGE_BYTES:
        return
    with mmap.mmap(-1, size) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        pages = np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE]
        pages[:] = 1
        del pages  # the memory cannot be given back while there is a view of it
    with TemporaryFile(dir=settings.folder, buffering=0) as file:
        piece = bytes(READY_PIECE_BYTES)
        for _ in range(0, size, len(piece)):
            file.write(piece)


def family(pid: int) -> list[int]:
    """A process, and what it and its children have started and not yet ended."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting.extend(int(child) for child in children.read_text().split())
            except FileNotFoundError:
                continue  # the thread has ended
    return found


def _cpu_seconds(pid: int) -> float:
    """All threads, in the precision of the scheduler."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's number for the CPU clock of a process
    except OSError:
        return 0.0  # it has ended


def _forget_peak(pid: int) -> None:
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return  # it has ended; or the kernel does not let us, and the peak is that since its start


def _peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) * 1024 if found else 0
