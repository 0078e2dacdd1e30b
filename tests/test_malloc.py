"""Memory that is kept between boxes, and given back. Each case in a process of its own: it cannot be undone."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from magd import malloc

FAULTS = """
import resource, numpy as np
from magd import malloc
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(24 << 20, np.uint8)[::4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="pins the malloc of glibc")
def test_memory_that_was_freed_is_used_again_without_a_page_fault() -> None:
    first, second = run(FAULTS + "assert malloc.pin_thresholds({})\nfaults()\nprint(faults(), faults())").split()
    assert int(first) < 100
    assert int(second) < 100


@pytest.mark.skipif(sys.platform != "linux", reason="pins the malloc of glibc")
def test_what_one_thread_has_freed_another_one_uses() -> None:
    script = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from magd import malloc
import numpy as np
assert malloc.pin_thresholds({})
count = 6
all_there = Barrier(count)
with ThreadPoolExecutor(count) as threads:
    list(threads.map(lambda _: all_there.wait(), range(count)))
    before = malloc.resident_bytes()
    for _ in range(10 * count):
        threads.submit(np.ones, 24 << 20, np.uint8).result()
print(malloc.resident_bytes() - before)
"""
    assert int(run(script)) < 40 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_given_back_when_asked_for() -> None:
    script = """
from magd import malloc
import numpy as np
assert malloc.pin_thresholds({})
array = np.ones(100 << 20, np.uint8)
stays = bytes(1 << 20)
del array
held = malloc.resident_bytes()
malloc.give_back()
print(held - malloc.resident_bytes())
"""
    assert int(run(script)) > 90 << 20


@pytest.mark.parametrize(
    ("environ", "is_set"),
    [
        ({}, False),
        ({"MALLOC_ARENA_MAX": "2"}, True),
        ({"MALLOC_MMAP_THRESHOLD_": "131072"}, True),
        ({"MALLOC_TRIM_THRESHOLD_": ""}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, True),
        ({"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2"}, False),
    ],
)
def test_what_the_operator_has_set_stays(environ: dict[str, str], is_set: bool) -> None:
    assert malloc.is_set_by_operator(environ) is is_set
    if is_set:
        assert malloc.pin_thresholds(environ) is False


async def test_memory_is_given_back_once_after_a_while_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = [100 << 20]
    given_back: list[int] = []
    looked = 0

    def give_back() -> None:
        given_back.append(looked)
        resident[0] = 110 << 20

    def is_idle() -> bool:
        nonlocal looked
        looked += 1
        if looked == 2:
            resident[0] = 200 << 20  # work between two looks
        if looked == 9:
            done.set_result(None)
        return looked != 3

    monkeypatch.setattr(malloc, "give_back", give_back)
    monkeypatch.setattr(malloc, "resident_bytes", lambda: resident[0])
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(malloc.give_back_when_idle(is_idle, seconds=0))
    await done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert given_back == [5]
