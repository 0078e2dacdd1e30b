"""Counters of calls. Labels are bounded: methods are those of the protos, codes those of gRPC."""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class CallMetrics:
    """What the gRPC edge counts.

    :param registry: where the metrics appear
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        calls = Counter(
            "magd_rpc_calls",
            "Calls that ended, by method and gRPC code.",
            ["method", "code"],
            registry=registry,
        )
        failed_boxes = Counter(
            "magd_rpc_failed_boxes",
            "Boxes that failed in calls that carry outcomes of boxes, by method and gRPC code.",
            ["method", "code"],
            registry=registry,
        )
        seconds = Histogram(
            "magd_rpc_seconds",
            "How long calls took, from the first message to the status.",
            ["method"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=registry,
        )
        running = Gauge("magd_rpc_running", "Calls under way, by method.", ["method"], registry=registry)
        received = Counter(
            "magd_rpc_received_bytes",
            "Bytes of messages from clients, by method.",
            ["method"],
            registry=registry,
        )
        sent = Counter("magd_rpc_sent_bytes", "Bytes of messages to clients, by method.", ["method"], registry=registry)
        # To look up labels takes longer than to count.
        self._calls = cache(calls.labels)
        self._failed_boxes = cache(failed_boxes.labels)
        self._seconds = cache(seconds.labels)
        self._running = cache(running.labels)
        self._received = cache(received.labels)
        self._sent = cache(sent.labels)

    def began(self, method: str) -> None:
        """Count a call that begins."""
        self._running(method).inc()

    def ended(self, method: str, code: str, *, seconds: float, received: int, sent: int) -> None:
        """Count a call that has ended; `received` and `sent` in bytes of its messages."""
        self._running(method).dec()
        self._calls(method, code).inc()
        self._seconds(method).observe(seconds)
        self._received(method).inc(received)
        self._sent(method).inc(sent)

    def box_failed(self, method: str, code: str) -> None:
        """Count a box whose outcome is an error. The call that has it may go well."""
        self._failed_boxes(method, code).inc()
