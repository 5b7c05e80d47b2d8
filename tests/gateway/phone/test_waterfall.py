"""What a phone call's page makes of a turn: what was heard of its answer, and where its time went."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from gateway.console.waterfall import Heard, Mark, heard_of, waterfall_of
from parley.client.attempts import AttemptReport
from parley.domain.conversation.contract import Ended
from parley.domain.phone.contract import PhoneTurn

BEGAN = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)


def after(ms: float) -> datetime:
    return BEGAN + timedelta(milliseconds=ms)


def turn(**known: Any) -> PhoneTurn:
    given = {"answer": "It costs $20. Anything else?", "outcome": Ended.COMPLETED, "reason": "", **known}
    return PhoneTurn(turn_id="t", number=1, text="Hi", request_id="r", created_at=BEGAN, **given)


def attempt(begins: float, ends: float | None, state: str = "settled") -> AttemptReport:
    return AttemptReport(
        attempt_id=uuid4(),
        step="ask-1",
        number=1,
        provider="openai",
        model="gpt-4o-mini",
        answered_by="",
        simulated=True,
        state=state,
        error="",
        message="",
        tokens_prompt=0,
        tokens_completion=0,
        cost_usd=None,
        confirmed=False,
        upper_bound_usd=Decimal(0),
        energy_charged=0,
        started_at=after(begins),
        ended_at=None if ends is None else after(ends),
    )


@pytest.mark.parametrize(
    ("heard", "shown"),
    [
        (None, Heard("It costs $20. Anything else?", "")),
        ("", Heard("", "It costs $20. Anything else?")),
        ("It costs $20.", Heard("It costs $20.", "Anything else?")),
        ("It costs $20. Anything else?", Heard("It costs $20. Anything else?", "")),
        ("It costs twenty", Heard("It costs twenty", "It costs $20. Anything else?")),
    ],
)
def test_what_was_not_heard_is_cut(heard: str | None, shown: Heard):
    assert heard_of(turn(heard=heard, ended_at=after(900))) == shown


def test_of_an_answer_that_was_never_whole_what_was_heard_is_shown():
    cancelled = turn(answer=None, outcome=Ended.CANCELLED, heard="It costs", ended_at=after(900))
    assert heard_of(cancelled) == Heard("It costs", "")


def test_each_attempt_is_a_stage_and_one_without_an_end_is_none():
    answered = turn(response_ms=700, ended_at=after(1200))
    drawn = waterfall_of(answered, [attempt(100, 300, "failed"), attempt(400, 1100), attempt(500, None)])
    assert [(stage.name, stage.state, stage.begins, stage.ends) for stage in drawn.stages] == [
        ("Until a model is asked", "wait", 0, 100),
        ("openai gpt-4o-mini", "failed", 100, 300),
        ("openai gpt-4o-mini", "settled", 400, 1100),
        ("Until its first text is sent", "first", 0, 700),
        ("Until its last text is made", "rest", 700, 1200),
    ]
    assert drawn.ends == 1200


def test_an_answer_of_the_cache_has_no_attempt_and_a_turn_that_waits_has_no_stage():
    assert [one.state for one in waterfall_of(turn(response_ms=40, ended_at=after(30)), ()).stages] == ["first"]
    waiting = waterfall_of(turn(answer=None, outcome=None, ended_at=None), ())
    assert (waiting.stages, waiting.marks, waiting.ends) == ((), (), 0.0)


def test_what_was_said_meanwhile_is_what_was_measured():
    late = turn(response_ms=4000, filler_ms=1507, template_ms=3012, ended_at=after(4900))
    assert waterfall_of(late, ()).marks == (Mark("filler", 1507), Mark("template", 3012))
    assert waterfall_of(turn(response_ms=4000, ended_at=after(4900)), ()).marks == ()


def test_the_first_token_has_a_stage_of_its_own():
    measured = turn(first_token_ms=640, response_ms=690, ended_at=after(650))
    assert [(one.state, one.ends) for one in waterfall_of(measured, ()).stages] == [("token", 640), ("first", 690)]
