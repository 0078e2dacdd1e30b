"""The memory of the process: kept from one box to the next while there is work, given back when there is none.

glibc takes large pieces of memory from the kernel one by one and gives each back as soon as it is free. The kernel
clears every page of a new piece, which costs more than copying into it. So:

1. At the start of the daemon both thresholds that decide this are pinned: up to a GiB comes out of memory that the
   process has, and freed memory stays with it. Either one alone would do the opposite: it freezes the other.
2. All threads share one pool of memory. Otherwise each keeps what it has freed for itself, and together they keep many
   times of what is in use.
3. Who starts the daemon may have decided otherwise: with any setting of malloc in the environment nothing is pinned.
4. When the budget has been unused for a while, and the process is larger than when memory was last given back, all that
   is free is given back.

What is kept is never more than what was in use at once, so it stays inside of the same budget. With another libc than
glibc nothing here does anything.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

IDLE_SECONDS: Final = 10.0
"""How long the budget is unused before memory is given back."""
GROWN_BYTES: Final = 32 << 20
"""Less than this is not worth giving back."""

_M_TRIM_THRESHOLD: Final = -1  # of mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_TRIM_BYTES: Final = 2**31 - 1
_MMAP_BYTES: Final = (1 << 30, 32 << 20)
"""Before version 2.35, glibc takes no more than the second."""

_log = structlog.get_logger("magd.malloc")


def pin_thresholds(environ: Mapping[str, str] = os.environ) -> bool:
    """Have malloc keep what is freed, for all threads. Call it once, at the start of a process.

    :param environ: of the process
    :return: whether it does so now
    """
    if is_set_by_operator(environ) or not _is_glibc():
        return False
    libc = ctypes.CDLL(None)
    mapped = any(libc.mallopt(_M_MMAP_THRESHOLD, size) for size in _MMAP_BYTES)
    return mapped and bool(libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES) and libc.mallopt(_M_ARENA_MAX, 1))


def is_set_by_operator(environ: Mapping[str, str]) -> bool:
    """Whether the environment says how malloc shall behave."""
    return "glibc.malloc." in environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") and value for name, value in environ.items()
    )


def give_back() -> None:
    """Give free memory back to the kernel, that of reference cycles too. Takes time: to be called in a thread."""
    gc.collect()
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


async def give_back_when_idle(is_idle: Callable[[], bool], *, seconds: float = IDLE_SECONDS) -> None:
    """Give memory back whenever there has been nothing to do for a while. Until it is cancelled.

    :param is_idle: whether there is nothing to do now
    """
    least, was_idle = resident_bytes(), False
    while True:
        await asyncio.sleep(seconds)
        before, now_idle = resident_bytes(), is_idle()
        if was_idle and now_idle and before > least + GROWN_BYTES:
            await asyncio.to_thread(give_back)
            least = resident_bytes()
            _log.debug("memory given back", before_bytes=before, after_bytes=least)
        was_idle = now_idle


def resident_bytes() -> int:
    """The memory of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _is_glibc() -> bool:
    try:
        return "CS_GNU_LIBC_VERSION" in os.confstr_names and bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, OSError, ValueError):
        return False
