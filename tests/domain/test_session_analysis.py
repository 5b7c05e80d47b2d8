import pytest
from pydantic import ValidationError

from parley.domain.requests import Provider
from parley.domain.routing import Candidate
from parley.domain.session_analysis import (
    Facts,
    PaidStep,
    SessionAnalysisInput,
    Step,
    StepOutcome,
    Strategy,
    Variant,
    choose_strategy,
    facts,
    first_variant,
    next_variant,
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


def test_the_workflow_id_identifies_the_analysis():
    job = SessionAnalysisInput(workspace_id="acme", user_id="u", session_id="s-1", session_sha256="a" * 64)
    one = workflow_id(job)
    assert one.startswith("session-analysis/acme/s-1/")
    for same in ({"wait": False}, {"rubric": "sales@1"}):
        assert workflow_id(job.model_copy(update=same)) == one
    differences = (
        {"workspace_id": "other"},
        {"session_id": "s-2"},
        {"session_sha256": "b" * 64},
        {"recording_sha256": "c" * 64},
        {"rubric": "support@1"},
        {"rubric": "sales@2"},
        {"provider": Provider.OPENAI},
        {"provider": Provider.OPENAI, "model": "gpt-4o"},
    )
    others = [workflow_id(job.model_copy(update=changes)) for changes in differences]
    assert len({one, workflow_id(job, "again"), *others}) == 2 + len(differences)


@pytest.mark.parametrize(
    "asked", [{"model": "gpt-4o"}, {"provider": "elevenlabs"}, {"wait_limit_seconds": 10**12}], ids=str
)
def test_an_invalid_input_is_refused(asked: dict[str, object]):
    with pytest.raises(ValidationError):
        SessionAnalysisInput(workspace_id="w", user_id="u", session_id="s", session_sha256="a", **asked)


def test_a_validation_error_does_not_quote_the_input():
    with pytest.raises(ValidationError) as refused:
        SessionAnalysisInput.model_validate({"workspace_id": {"text": "my card is 4111"}})
    assert "4111" not in str(refused.value)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (StepOutcome(problem="bad"), Variant(ask=2, max_tokens=1000)),
        (StepOutcome(problem="cut", cut=True), Variant(ask=2, max_tokens=2000)),
        (StepOutcome(problem="long", too_long=True), Variant(ask=2, max_tokens=1000, transcript_tokens=4000)),
    ],
    ids=["malformed", "cut", "too-long"],
)
def test_the_next_variant_depends_on_the_problem(outcome: StepOutcome, expected: Variant):
    assert next_variant(Variant(max_tokens=1000), outcome) == expected


def test_an_excerpt_stays_one_and_has_half_of_its_tokens_where_it_is_too_long():
    assert next_variant(Variant(transcript_tokens=3000), StepOutcome(cut=True)).transcript_tokens == 3000
    assert next_variant(Variant(transcript_tokens=3000), StepOutcome(too_long=True)).transcript_tokens == 1500
    assert next_variant(Variant(transcript_tokens=600), StepOutcome(too_long=True)).transcript_tokens == 500


def test_only_the_strategy_that_saves_cost_reads_an_excerpt_at_first():
    job = SessionAnalysisInput(workspace_id="w", user_id="u", session_id="s", session_sha256="a", transcript_tokens=900)
    assert first_variant(Strategy.COST_OPTIMIZED, job).transcript_tokens == 900
    assert first_variant(Strategy.HYBRID, job).transcript_tokens is None


def test_every_repetition_has_its_own_request_id():
    job = SessionAnalysisInput(workspace_id="w", user_id="u", session_id="s", session_sha256="a" * 64)
    candidate = Candidate(provider=Provider.OPENAI, model="m", simulated=False, reason="")
    step = PaidStep(input=job, job_key="k", workflow_id="w", candidate=candidate)
    again = step.model_copy(update={"variant": next_variant(step.variant, StepOutcome())})
    assert step.request_step(Step.VOICE) == "voice-metrics"
    assert again.request_step(Step.COACHING) == "coaching/ask-2"
