"""What a client was told once, for all its calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from magd.acknowledgement import Durability
from magd_client.retry import DEFAULT_TIMEOUT_SECONDS, RetryPolicy


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults of a client's calls. Picklable: handles carry it to other processes."""

    durability: Durability = Durability.DISK
    """Of writes."""
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    """Seconds for one call with all its attempts; boxes get more, by their size."""
    name: str | None = None
    """Of the program that uses the client, for the daemon's log."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """How long to wait between attempts."""
