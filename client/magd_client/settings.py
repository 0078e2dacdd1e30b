"""What a client was told once, for all its calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from magd.acknowledgement import Durability
from magd_client.retry import DEFAULT_TIMEOUT_SECONDS, RetryPolicy

Encoding: TypeAlias = Literal["auto", "raw", "lz4"]
""""raw": as they are; "lz4": compressed where that pays; "auto": that, if the daemon is on another machine."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults of a client's calls. Picklable: handles carry it to other processes."""

    durability: Durability = Durability.DISK
    """Of writes."""
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    """Seconds for one call with all its attempts; boxes get more, by their size."""
    encoding: Encoding = "auto"
    """How the bytes of boxes travel."""
    shared_memory: bool = True
    """Whether large boxes go through shared memory where the daemon offers it."""
    name: str | None = None
    """Of the program that uses the client, for the daemon's log."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """How long to wait between attempts."""
