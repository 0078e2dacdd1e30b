"""What `scripts/soak` does, once magd is installed."""

from __future__ import annotations

import argparse
import random
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.soak.load import Load
from tests.soak.samples import Lag, problems, sample, slope_of
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.samples import Sample


def main(arguments: Sequence[str]) -> int:
    """Run a daemon under load, and print how it does.

    :return: the exit status: 1 if contents were wrong or something has grown
    """
    given = _parse(arguments)
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with (
        TemporaryDirectory(prefix="magd-soak-", dir=given.folder) as folder,
        Daemon(folder, "--idle-seconds", "5", "--flush-seconds", "2", "--log-level", "warning") as daemon,
    ):
        load = Load(daemon.grpc, Path(folder), seed)
        try:
            with closing(Lag(daemon.grpc)) as lag:
                load.start()
                samples = _watch(daemon, Path(folder), load, lag, given.minutes * 60, given.every)
                counts = load.counts
                load.end()
        except AssertionError:
            print(f"BROKEN; the log of the daemon:\n{daemon.log}", flush=True)
            raise
    return _verdict(samples, f"{counts.writes} writes, {counts.reads} checked reads, {counts.bytes_moved >> 20} MiB")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Uses one daemon for a long time with many kinds of clients: does it hold more and more?",
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="(default: %(default)g)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="draws what clients do; printed")
    parser.add_argument("--folder", help="where to put the data (default: where temporary files go)")
    return parser.parse_args(arguments)


def _watch(daemon: Daemon, root: Path, load: Load, lag: Lag, seconds: float, every: float) -> list[Sample]:
    started = time.monotonic()
    samples: list[Sample] = []
    while (left := started + seconds - time.monotonic()) > 0 and not load.has_failed():
        time.sleep(min(left, every))
        samples.append(sample(daemon.pid, root, started, lag.take()))
        print(samples[-1], flush=True)
    return samples


def _verdict(samples: Sequence[Sample], done: str) -> int:
    warm = samples[len(samples) // 3 :]
    print(f"{done}; every read was right")
    if len(warm) > 1:
        slope = slope_of([(one.seconds, one.resident_bytes) for one in warm]) * 3600 / 2**20
        print(f"memory after the warm-up: {slope:+.1f} MiB an hour")
    found = problems(samples)
    print("\n".join(found) or "nothing grows")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
