"""Looking for damage in mags while the daemon works on them.

The check opens files by itself and takes no turn in the schedule, so it holds up nobody. Files are replaced as a whole,
never half visible; only where a mag's files are exchanged during its check would old and new be compared with each
other, and then the findings about that mag are dropped and it is checked again.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Final

from magd.actors.events import is_within
from magd.actors.threads import Threads
from magd.catalog.names import DatasetName, MagName
from magd.catalog.root import Root
from magd.cubes.check import Finding, check_mag
from magd.errors import MagdError
from magd.journal import head as heads
from magd.properties.file import PropertiesFile

FILES_AT_ONCE: Final = 64
"""Files between two reports."""
