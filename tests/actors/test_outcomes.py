"""Request ids: applied at most once, joined while under way, refused with other content."""

from __future__ import annotations

import asyncio

import pytest

from magd.actors import outcomes as module
from magd.actors.outcomes import Outcomes
from magd.errors import DataLoss, InvalidRequest, Reason


def future() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


async def test_a_retry_joins_what_is_under_way_and_gets_its_outcome_later() -> None:
    outcomes, first = Outcomes(60), future()
    assert outcomes.join("a", 1) is None
    outcomes.begin("a", 1, first)
    assert outcomes.join("a", 1) is first
    first.set_result("done")
    await asyncio.sleep(0)
    again = outcomes.join("a", 1)
    assert again is not None
    assert again.result() == "done"


async def test_the_same_id_with_other_content_is_refused() -> None:
    outcomes, first = Outcomes(60), future()
    outcomes.begin("a", 1, first)
    for _ in range(2):  # under way, and done
        with pytest.raises(InvalidRequest) as refused:
            outcomes.join("a", 2)
        assert refused.value.reason is Reason.REQUEST_ID_REUSED
        assert refused.value.metadata == {"field": "request_id", "value": "a"}
        if not first.done():
            first.set_result("done")
            await asyncio.sleep(0)


async def test_a_failed_attempt_is_forgotten_so_that_a_retry_tries_again() -> None:
    outcomes, first = Outcomes(60), future()
    outcomes.begin("a", 1, first)
    first.set_exception(DataLoss("disk"))
    first.exception()
    await asyncio.sleep(0)
    assert outcomes.join("a", 1) is None
    assert len(outcomes) == 0


async def test_an_empty_id_is_not_remembered() -> None:
    outcomes = Outcomes(60)
    outcomes.begin("", 1, future())
    assert outcomes.join("", 1) is None
    assert len(outcomes) == 0


async def test_outcomes_are_forgotten_after_the_window_but_not_while_under_way() -> None:
    outcomes, ended, running = Outcomes(0.0), future(), future()
    outcomes.begin("ended", 1, ended)
    outcomes.begin("running", 1, running)
    ended.set_result("done")
    await asyncio.sleep(0.001)
    assert outcomes.join("ended", 2) is None
    assert outcomes.join("running", 1) is running


async def test_the_oldest_go_first_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OUTCOMES", 2)
    outcomes = Outcomes(60)
    for number in range(4):
        attempt = future()
        outcomes.begin(str(number), 1, attempt)
        attempt.set_result("done")
        await asyncio.sleep(0)
    assert len(outcomes) == 2
    assert outcomes.join("3", 1) is not None
    assert outcomes.join("0", 1) is None
