"""What became of each request id, so that a retry is applied at most once.

1. The first request with an id begins an attempt; its outcome is kept for the window after it ended well.
2. A second request with the same id and the same content, while the first is under way, joins it; afterwards it gets
   the same outcome.
3. The same id with other content is an error, whatever the outcome was.
4. A failed attempt is forgotten: it changed nothing, and a retry shall try again.

Who has a durable record of outcomes (the journal of a mag) puts them back with `remember`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from magd.errors import InvalidRequest, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_OUTCOMES: Final = 10_000
"""Outcomes kept at most; beyond it the oldest are forgotten before their time."""


@dataclass(slots=True)
class _Attempt:
    """A request under way."""

    fingerprint: object
    outcome: asyncio.Future[Any]


@dataclass(slots=True)
class _Ended:
    """A request that ended well."""

    fingerprint: object
    result: object
    at: float
    """By the clock of the event loop."""


class Outcomes:
    """The request ids of one window.

    :param window_seconds: how long an outcome is kept after it is known
    """

    def __init__(self, window_seconds: float) -> None:
        self._window = window_seconds
        self._under_way: dict[str, _Attempt] = {}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        """Oldest first."""

    def __len__(self) -> int:
        self._forget_old()
        return len(self._under_way) + len(self._ended)

    def join(self, request_id: str, fingerprint: object) -> asyncio.Future[Any] | None:
        """The outcome of an earlier request with this id, or None if there is none or the id is empty.

        :raises InvalidRequest: REQUEST_ID_REUSED: the earlier one had other content
        """
        self._forget_old()
        attempt = self._under_way.get(request_id) or self._ended.get(request_id)
        if attempt is None:
            return None
        if attempt.fingerprint != fingerprint:
            raise InvalidRequest(
                f"request_id {request_id} was used before for a request with other content",
                reason=Reason.REQUEST_ID_REUSED,
                metadata={"field": "request_id", "value": request_id},
            )
        if isinstance(attempt, _Attempt):
            return attempt.outcome
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        outcome.set_result(attempt.result)
        return outcome

    def begin(self, request_id: str, fingerprint: object, outcome: asyncio.Future[Any]) -> None:
        """Remember an attempt that starts now, and its outcome when it is known. An empty id is not remembered."""
        if not request_id:
            return
        attempt = self._under_way[request_id] = _Attempt(fingerprint, outcome)

        def settle(future: asyncio.Future[Any]) -> None:
            if self._under_way.get(request_id) is not attempt:
                return  # its outcome was put here by `remember`
            del self._under_way[request_id]
            if not future.cancelled() and future.exception() is None:
                now = asyncio.get_running_loop().time()
                self._ended[request_id] = _Ended(attempt.fingerprint, future.result(), now)

        outcome.add_done_callback(settle)

    def remember(self, request_id: str, fingerprint: object, result: object, *, age_seconds: float = 0.0) -> None:
        """Keep an outcome that is known by other ways than the future of its attempt."""
        if not request_id:
            return
        self._under_way.pop(request_id, None)
        self._ended[request_id] = _Ended(fingerprint, result, asyncio.get_running_loop().time() - age_seconds)
        self._ended.move_to_end(request_id)

    @property
    def ended_count(self) -> int:
        """How many outcomes are known."""
        return len(self._ended)

    def ended(self) -> Iterator[tuple[str, object, Any, float]]:
        """The outcomes of the window, oldest first: request id, fingerprint, result, age in seconds; as they are at
        this call. Any thread may go through them."""
        self._forget_old()
        now = asyncio.get_running_loop().time()
        items = list(self._ended.items())
        return ((request_id, ended.fingerprint, ended.result, now - ended.at) for request_id, ended in items)

    def _forget_old(self) -> None:
        horizon = asyncio.get_running_loop().time() - self._window
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if oldest.at > horizon and len(self._ended) <= MAX_OUTCOMES:
                return
            self._ended.popitem(last=False)
