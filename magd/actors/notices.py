"""What an operator should know of mags, for as long as the daemon runs: also of those that nobody uses any more."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magd.catalog.names import MagName

MAX_KEPT: Final = 20
"""Of each mag, the latest."""

log = structlog.get_logger(__name__)


class Notices:
    """The warnings about the mags of one root."""

    def __init__(self) -> None:
        self._of: defaultdict[MagName, dict[str, None]] = defaultdict(dict)

    def add(self, mag: MagName, text: str) -> None:
        """Keep a warning, and log it."""
        log.warning(text, mag=str(mag))
        kept = self._of[mag]
        kept.pop(text, None)
        kept[text] = None
        if len(kept) > MAX_KEPT:
            del kept[next(iter(kept))]

    def of(self, mag: MagName) -> tuple[str, ...]:
        """The warnings about a mag, oldest first."""
        return tuple(self._of[mag]) if mag in self._of else ()

    def others(self, mags: Iterable[MagName]) -> list[MagName]:
        """Mags with warnings that are none of these."""
        return sorted(self._of.keys() - set(mags), key=str)
