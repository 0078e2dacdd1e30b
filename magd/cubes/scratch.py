"""Memory that a thread uses for a moment, again and again.

Half a MiB that is taken from the system and given back for each run of blocks costs as much as to copy it: its pages
are zeroed and mapped anew each time.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
import numpy.typing as npt

KEPT_BYTES: Final = 1 << 20
"""What a thread keeps of it. More is made for the moment."""


class Scratch(threading.local):
    """Memory for one purpose: each thread has its own."""

    def __init__(self) -> None:
        self._kept: npt.NDArray[np.uint8] | None = None

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """So many bytes, not set, until this thread takes some again."""
        if size > KEPT_BYTES:
            return np.empty(size, dtype=np.uint8)
        if self._kept is None:
            self._kept = np.empty(KEPT_BYTES, dtype=np.uint8)
        return self._kept[:size]
