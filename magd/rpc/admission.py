"""What the gRPC edge lets in: sizes of messages, streams of one connection, and how slow a client may be.

Memory for boxes is leased from the budget of the storage before any data is read, and with it what gRPC will
hold for their streams. What is here bounds the rest: gRPC keeps messages of calls that wait for their lease;
their size, the flow-control window of a stream and the number of calls bound it. A client that neither sends nor
takes a part for a while, or does so slower than the minimum rate, loses its call, and the memory leased for it
becomes free.

A client is a connection. Over TCP its address names it. Over a unix socket all have the same; there it may name itself,
as ours does, by a word `client/ID` in its user agent. One that is not named counts as one of its own for each call.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd.errors import InvalidRequest, TooSlow

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Of one message to the daemon."""
PART_BYTES: Final = 1024 * 1024
"""Of the parts the daemon sends. Smaller ones cost more time per byte, larger ones hold more memory."""

STREAM_BYTES: Final = 3 * 1024 * 1024
"""What gRPC holds for a stream of parts beside the box: a window that it reads ahead, or what the client has not taken
yet, and the part it puts together. Leased with the box."""


def stream_cost(size_bytes: int) -> int:
    """What gRPC holds for a box that travels in parts; nothing worth counting for one that is a single part.

    :param size_bytes: of the box
    """
    return STREAM_BYTES if size_bytes > PART_BYTES else 0


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """The settings of the gRPC edge."""

    stall_seconds: float = 30.0
    """How long a client may neither send nor take a message of a stream."""
    min_rate_bytes_per_second: int = 64 * 1024
    """The slowest a client may send or take a box."""
    max_calls: int = 1024
    """Calls under way at once, those that wait included. Each may have gRPC hold a message and a window for it."""

    def __post_init__(self) -> None:
        for name in ("stall_seconds", "min_rate_bytes_per_second", "max_calls"):
            value = getattr(self, name)
            if not value > 0:
                raise InvalidRequest(f"{name} {value} is not above 0", metadata={"field": name, "value": value})


def server_options() -> list[tuple[str, int]]:
    """The options of the gRPC server, each with its reason."""
    return [
        # Without this two daemons share one port, and each gets half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # Bit 0 is "identity": a compressed message could unpack to any size, and voxels gain nothing.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Per connection.
        ("grpc.max_concurrent_streams", 256),
        # What gRPC reads ahead of us on each stream. With its own estimate of the network a parked upload
        # costs some ten times as much.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 1024 * 1024),
        ("grpc.max_metadata_size", 16 * 1024),
        # A connection whose other end vanished is noticed within 40 seconds.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients that ping every 20 seconds are welcome; gRPC's default closes their connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def client_of(peer: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Which client a call comes from; empty if that is not known.

    :param peer: where from, as gRPC says it
    :param metadata: what was sent with the call
    """
    if not peer.startswith("unix"):
        return peer
    agent = next((str(value) for key, value in metadata if key == "user-agent"), "")
    return next((word for word in agent.split() if word.startswith("client/")), "")


class Pace:
    """How slow one box may travel.

    At each time t after the start at least (t - stall_seconds) * rate bytes must have moved, and no part may
    take longer than stall_seconds.
    """

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        self._moved = 0

    def moved(self, size_bytes: int) -> None:
        """Count a part that has moved."""
        self._moved += size_bytes

    def deadline(self) -> float:
        """When the next part must have moved at the latest, by the clock of the event loop."""
        return min(self._clock() + self._config.stall_seconds, self._rate_deadline())

    def check(self) -> None:
        """Look whether it has been fast enough so far.

        :raises TooSlow: it has not
        """
        if self._clock() > self._rate_deadline():
            raise self.too_slow()

    def too_slow(self) -> TooSlow:
        """The error for a client that missed the deadline."""
        seconds = self._clock() - self._started
        rate, pause = self._config.min_rate_bytes_per_second, self._config.stall_seconds
        return TooSlow(
            f"the client moved {self._moved} bytes of the box in {seconds:.1f} s; at least {rate} bytes per "
            f"second are expected, and no pause of {pause:g} s",
            metadata={"limit": self._config.min_rate_bytes_per_second},
        )

    def _rate_deadline(self) -> float:
        allowed = self._config.stall_seconds + self._moved / self._config.min_rate_bytes_per_second
        return self._started + allowed
