import pytest

from domain.calls import Provider
from domain.routing import Candidate
from domain.session_analysis import (
    Asking,
    Facts,
    PaidStep,
    SessionAnalysisInput,
    Step,
    StepOutcome,
    Strategy,
    ask_again,
    choose_strategy,
    facts,
    workflow_id,
)
from tests.domain.sessions import session, turn


def known(seconds: float = 120, *, tier: str = "pro", previous: int = 0, turns: int = 10, speakers: int = 2) -> Facts:
    return Facts(tier=tier, previous_analyses=previous, duration_seconds=seconds, turns=turns, speakers=speakers)


@pytest.mark.parametrize(
    ("given", "strategy"),
    [
        (known(59.99), Strategy.FAST_PARALLEL),
        (known(60), Strategy.HYBRID),
        (known(300), Strategy.HYBRID),
        (known(300.01), Strategy.COST_OPTIMIZED),
        (known(30, turns=20), Strategy.FAST_PARALLEL),
        (known(30, turns=21), Strategy.HYBRID),
        (known(30, speakers=1), Strategy.FAST_PARALLEL),
        (known(30, speakers=3), Strategy.HYBRID),
        (known(30, tier="free", previous=2), Strategy.FAST_PARALLEL),
        (known(30, tier="free", previous=3), Strategy.CACHED_ANALYSIS),
        (known(3000, tier="free", previous=3), Strategy.CACHED_ANALYSIS),
        (known(3000, tier="pro", previous=99), Strategy.COST_OPTIMIZED),
    ],
    ids=str,
)
def test_the_strategy_follows_length_simplicity_and_tier(given: Facts, strategy: Strategy):
    assert choose_strategy(given).strategy is strategy


@pytest.mark.parametrize("seconds", [59.96, 300.04])
def test_the_reason_does_not_round_a_length_across_the_border(seconds: float):
    assert choose_strategy(known(seconds)).reason.startswith(f"{seconds} s is")


def test_facts_are_read_from_the_session():
    talk = session(turn("Hi.", 0, 1), turn("Yes?", 1, 2, "prospect"), turn("Well.", 2, 3), duration_seconds=61.5)
    assert facts(talk, tier="free", previous_analyses=1) == known(61.5, tier="free", previous=1, turns=3)


def test_the_same_content_has_the_same_workflow_and_another_content_another():
    one = workflow_id("acme", "s-1", "a" * 64)
    assert one == "session-analysis/acme/s-1/aaaaaaaaaaaa"
    others = [
        workflow_id("other", "s-1", "a" * 64),
        workflow_id("acme", "s-2", "a" * 64),
        workflow_id("acme", "s-1", "b" * 64),
        workflow_id("acme", "s-1", "a" * 64, "again"),
    ]
    assert len({one, *others}) == 5


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (StepOutcome(problem="bad"), Asking(ask=2, max_tokens=1000)),
        (StepOutcome(problem="cut", cut=True), Asking(ask=2, max_tokens=2000)),
        (StepOutcome(problem="long", too_long=True), Asking(ask=2, max_tokens=1000, compressed=True)),
    ],
    ids=["malformed", "cut", "too-long"],
)
def test_a_question_is_put_again_in_the_way_that_helps(outcome: StepOutcome, expected: Asking):
    assert ask_again(Asking(max_tokens=1000), outcome) == expected


def test_a_prompt_that_was_too_long_stays_compressed():
    assert ask_again(Asking(compressed=True), StepOutcome(cut=True)).compressed


def test_every_ask_is_a_request_of_its_own_and_the_first_keeps_the_plain_name():
    job = SessionAnalysisInput(workspace_id="w", user_id="u", session_id="s", session_sha256="a" * 64)
    candidate = Candidate(provider=Provider.OPENAI, model="m", simulated=False, reason="")
    step = PaidStep(input=job, job_key="k", workflow_id="w", candidate=candidate)
    again = step.model_copy(update={"asking": ask_again(step.asking, StepOutcome())})
    assert step.request_step(Step.VOICE) == "voice-metrics"
    assert again.request_step(Step.COACHING) == "coaching/ask-2"
