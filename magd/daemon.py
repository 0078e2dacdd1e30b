"""The daemon: what it is made of, in which order it starts, and in which order it stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from magd.actors.types import StorageConfig


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """Every setting of a daemon. The defaults serve one machine."""

    root: str
    """The folder whose datasets are served."""
    grpc: str = "127.0.0.1:7733"
    """HOST:PORT or unix:PATH. Port 0 picks a free one."""
    http: str | None = "127.0.0.1:7734"
    """HOST:PORT of health, readiness and metrics; None: not served."""
    insecure: bool = False
    """Allow addresses that other machines can reach, although nothing is encrypted and nobody has to log in."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """What lies behind the edges: read_only, memory, durability, threads, workers."""
    stall_seconds: float = 30.0
    """How long a client may neither send nor take a message of a stream."""
    min_rate_bytes_per_second: int = 64 * 1024
    """The slowest a client may send or take a box."""
    grace_seconds: float = 30.0
    """How long calls under way may take to finish when the daemon stops."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
