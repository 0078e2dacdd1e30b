"""Python's search for reference cycles, so that it does not take a third of the time of small boxes.

Python looks for cycles whenever some hundred more objects were made than given up, and ever so often among all objects
there are. A daemon that keeps the outcomes of ten thousand writes, and loads modules with a hundred thousand objects,
would walk through all of them again and again, with the event loop standing still, and find nothing. So:

1. When the daemon is ready, what there is by then is left out for ever.
2. The search comes after more new objects, and comes to the older ones less often.
3. What holds the data of boxes does not rely on it: an error that is kept lets go of its frames (see
   `MagdError.let_go`).
"""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (20_000, 20, 20)
"""New objects before the youngest are searched; searches of these before the next older ones, twice."""


def search_less() -> None:
    """From now on. Call it once, in the process of a daemon that is ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
