"""Outcomes of requests in the HEAD of a journal file, so that they outlive the files before it, and the actor."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from magd.journal.records import Head, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.actors.outcomes import Outcomes


def with_outcomes(head: Head, outcomes: Outcomes) -> Callable[[], Head]:
    """Makes a head with the outcomes of now, in whatever thread and later: there may be thousands."""
    now, ended = time.time(), outcomes.ended()

    def make() -> Head:
        return replace(
            head,
            outcomes=tuple(
                Outcome(request_id, fingerprint, acknowledgement, now - age)
                for request_id, fingerprint, acknowledgement, age in ended
                if isinstance(fingerprint, int)
            ),
        )

    return make


def remember_outcomes(outcomes: Outcomes, head: Head) -> None:
    """Take up the outcomes of a head that was recovered."""
    now = time.time()
    for outcome in head.outcomes:
        age = max(0.0, now - outcome.unix_time)
        outcomes.remember(outcome.request_id, outcome.fingerprint, outcome.acknowledgement, age_seconds=age)
