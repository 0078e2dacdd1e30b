"""What was promised holds after a power loss, on a recorded disk with ext4. The long form is scripts/crash_test.

Everything runs in processes with namespaces of their own, so that nothing stays mounted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.powerloss.mounts import isolated, memory_folder, why_not
from tests.powerloss.runs import WORKLOADS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "a disk can be recorded")

HOLD = """
import sys
from tests.powerloss.recording import RecordedDisk
with RecordedDisk(sys.argv[1]):
    print(next(line.split()[0] for line in open("/proc/mounts") if sys.argv[1] in line and "ext4" in line), flush=True)
    sys.stdin.read()
"""


def run_isolated(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        isolated(sys.executable, "-m", *arguments), cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("workload", list(WORKLOADS))
def test_what_was_acknowledged_is_there_after_a_power_loss_and_the_rest_is_whole_or_absent(workload: str) -> None:
    done = run_isolated("tests.powerloss.runs", "--workloads", workload, "--states", "10", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"in all: 10 states .* (\d+) acknowledged changes checked.* 0 states broken", done.stdout)
    assert counts is not None, done.stdout
    assert int(counts[1]) > 0


@pytest.mark.parametrize("what", ["nothing is ever synced", "the names in folders are never synced"])
def test_a_program_that_keeps_a_promise_only_while_the_power_lasts_is_noticed(what: str) -> None:
    done = run_isolated("tests.powerloss.broken", "--only", what, "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"noticed: {what}" in done.stdout


def test_a_library_that_never_syncs_is_seen_to_lose_what_it_acknowledged() -> None:
    done = run_isolated("tests.powerloss.peers", "--peers", "wkw", "--states", "10", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    row = [cell.strip() for cell in done.stdout.splitlines()[-1].split("|")[1:-1]]
    name, states, with_losses, read, lost = row[:5]
    assert (name, states) == ("wkw", "10")
    assert 0 < int(with_losses) <= 10
    assert 0 < int(lost) <= int(read)


def test_nothing_stays_mounted_when_a_run_is_killed() -> None:
    with tempfile.TemporaryDirectory(prefix="magd-power-", dir=memory_folder()) as folder:
        process = subprocess.Popen(
            isolated(sys.executable, "-c", HOLD, folder),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            device = process.stdout.readline().strip()
            assert is_on_recorded_disk(device)
            process.kill()
        deadline = time.monotonic() + 30.0
        while is_on_recorded_disk(device):
            assert time.monotonic() < deadline, f"{device} is still there"
            os.sched_yield()


def is_on_recorded_disk(device: str) -> bool:
    """Whether a loop device is on the file of a recorded disk, mounted somewhere or not."""
    try:
        backing = Path("/sys/block", os.path.basename(device), "loop/backing_file").read_text(encoding="utf-8")
    except OSError:
        return False
    return backing.strip().endswith("/disk")
