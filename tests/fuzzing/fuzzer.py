"""Runs a target on many inputs, and says which of them it did not stand.

1. Every case of the corpus is run, and every case that the target itself begins with, whatever time that takes.
2. Then cases are drawn, and mutated by the target, until the time or the number is used up.
3. A case fails if the target raises: it knows which errors are right. A case that takes more processor time than
   `DEADLINE_SECONDS` fails too. Before a case runs it is written to the folder of findings, so that one that takes
   the whole process down is there afterwards.
4. A finding is made smaller as long as it fails in the same place, and written to the folder.
5. In the end the process must not hold more descriptors than after the first cases, nor much more memory.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import xxhash

from tests.fuzzing.cases import Case, corpus_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType, TracebackType

DEADLINE_SECONDS: Final = 10.0
"""Of processor time, for one case."""
MOST_GROWTH_BYTES: Final = 64 << 20
"""Of resident memory, from the end of the warm-up on."""

_WARM_UP_CASES: Final = 300
_SMALLER_TRIES: Final = 400
_SAME_PLACE_FRAMES: Final = 2
_FRAMES_SHOWN: Final = 20


class Hang(Exception):
    """A case took too long."""


class Broken(AssertionError):
    """A target did what it must never do."""


class Target(Protocol):
    """What is fuzzed. A context manager; entered once."""

    name: str

    def begin_with(self) -> Sequence[Case]:
        """Cases to start from; most of them without a fault."""

    def mutate(self, case: Case, random: random.Random) -> Case:
        """A case like this one."""

    def run(self, case: Case) -> None:
        """Run one case. Whatever it raises is a finding."""

    def rest(self) -> None:
        """Let go of what is only kept for the next case."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that failed."""

    case: Case
    error: str
    """With its traceback."""


@dataclass(slots=True)
class Report:
    """What came of a run."""

    target: str
    cases: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    descriptors_grown: int = 0
    memory_grown: int = 0
    """In bytes."""

    @property
    def problems(self) -> list[str]:
        """All that is wrong, in words."""
        problems = [finding.error for finding in self.findings]
        if self.descriptors_grown > 0:
            problems.append(f"{self.target}: {self.descriptors_grown} descriptors more than after the first cases")
        if self.memory_grown > MOST_GROWTH_BYTES:
            problems.append(f"{self.target}: {self.memory_grown >> 20} MiB more memory than after the first cases")
        return problems

    def __str__(self) -> str:
        rate = self.cases / max(self.seconds, 1e-9)
        return (
            f"{self.target}: {self.cases} cases in {self.seconds:.0f} s ({rate:.0f}/s), "
            f"{len(self.findings)} findings, descriptors {self.descriptors_grown:+}, "
            f"memory {self.memory_grown / 2**20:+.1f} MiB"
        )


def fuzz(
    target: Target,
    seed: int,
    *,
    seconds: float = float("inf"),
    cases: int | None = None,
    findings: Path | None = None,
    most_findings: int = 5,
) -> Report:
    """Fuzz a target.

    :param seconds: when to end
    :param cases: how many to draw at most; None: as many as there is time for
    :param findings: a folder for cases that fail
    :param most_findings: end when there are so many different ones
    """
    randomness = random.Random(seed)
    report, started = Report(target.name), time.monotonic()
    places: set[str] = set()
    with target:
        pool = [*target.begin_with(), *corpus_of(target.name).values()]
        baseline = _held(target)
        for case in _cases(target, pool, randomness):
            drawn = report.cases - len(pool)
            if drawn >= 0 and (time.monotonic() - started > seconds or (cases is not None and drawn >= cases)):
                break
            failure = _run(target, case, findings)
            report.cases += 1
            if failure is not None and _place(failure) not in places:
                places.add(_place(failure))
                smaller = _smaller(target, case, _place(failure))
                finding = Finding(smaller, "".join(traceback.format_exception(failure, limit=-_FRAMES_SHOWN)))
                report.findings.append(finding)
                if findings is not None:
                    _write(findings, target.name, finding)
                if len(report.findings) >= most_findings:
                    break
            if report.cases == len(pool) + _WARM_UP_CASES:
                baseline = _held(target)
        after = _held(target)
    report.seconds = time.monotonic() - started
    report.descriptors_grown, report.memory_grown = after[0] - baseline[0], after[1] - baseline[1]
    return report


def _cases(target: Target, pool: Sequence[Case], random: random.Random) -> Iterator[Case]:
    yield from pool
    while True:
        case = random.choice(pool)
        for _ in range(random.choice((1, 1, 2, 3))):
            case = target.mutate(case, random)
        yield case


def _run(target: Target, case: Case, findings: Path | None = None) -> Exception | None:
    current = None if findings is None else findings / f"{target.name}-running.json"
    if current is not None:
        current.write_text(case.to_json("it was running when the fuzzer ended"))
    try:
        with _deadline():
            target.run(case)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what the fuzzer looks for
        return error
    finally:
        if current is not None:
            current.unlink()
    return None


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise `Hang` in the middle of what takes too long. By processor time: the machine may have other work."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"still running after {DEADLINE_SECONDS:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, DEADLINE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _place(error: Exception) -> str:
    """Where an error comes from: its class, and the innermost lines."""
    if isinstance(error.__cause__, Exception):
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)[-_SAME_PLACE_FRAMES:]
    return f"{type(error).__name__} {[(frame.filename, frame.lineno) for frame in frames]}"


def _smaller(target: Target, case: Case, place: str) -> Case:
    """A smaller case that fails in the same place."""
    tries = 0
    found = True
    while found and tries < _SMALLER_TRIES:
        found = False
        for candidate in _cuts(case):
            tries += 1
            failure = _run(target, candidate)
            if failure is not None and _place(failure) == place:
                case, found = candidate, True
                break
            if tries >= _SMALLER_TRIES:
                break
    return case


def _cuts(case: Case) -> Iterator[Case]:
    """Cases with less in them, the boldest cuts first."""
    if len(case.pieces) > 1:
        for index in range(len(case.pieces)):
            yield Case(case.kind, case.pieces[:index] + case.pieces[index + 1 :])
    for index, piece in enumerate(case.pieces):
        length = len(piece) // 2
        while length:
            for start in range(0, len(piece), length):
                yield case.with_piece(index, piece[:start] + piece[start + length :])
            length //= 2


def _held(target: Target) -> tuple[int, int]:
    """The descriptors and the resident bytes of this process, when it has nothing to do."""
    target.rest()
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(os.listdir("/proc/self/fd")), resident


def _write(folder: Path, target: str, finding: Finding) -> None:
    name = f"{target}-{xxhash.xxh3_64_hexdigest(repr(finding.case).encode())}"
    (folder / f"{name}.json").write_text(finding.case.to_json(finding.error.strip().splitlines()[-1]))
    (folder / f"{name}.txt").write_text(finding.error)
