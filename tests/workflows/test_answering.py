"""The answering loop on an engine in memory: no Temporal, no database, no provider. Time passes only by `sleep`."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    BudgetExhausted,
    ContentFiltered,
    ContextTooLong,
    EmptyReply,
    InsufficientEnergy,
    MalformedReply,
    ParleyError,
    ProviderUnavailable,
    RateLimited,
    StreamSuperseded,
)
from parley.domain.generate.contract import (
    AskOutcome,
    AskStep,
    CondenseOutcome,
    CondenseStep,
    EndStep,
    GenerateInput,
    GenerateResult,
    Job,
    Meta,
    OnRateLimit,
    PrepareOutcome,
    Prompt,
    Refused,
    Serving,
    chat_request,
)
from parley.domain.requests import Message, Provider
from parley.domain.routing import Candidate
from workflows.answering import MAX_ASKS, Answering, end_step
from workflows.fallback import NoProviderServed
from workflows.policies import LONGEST_RATE_LIMIT

START = datetime(2026, 1, 1, tzinfo=UTC)
PROMPT = Prompt(messages=(Message(role="user", content="hello"),))
SHORT = Prompt(messages=(Message(role="user", content="in short: hello"),))
BIG = Candidate(
    provider=Provider.ANTHROPIC, model="big", simulated=True, reason="first choice", upper_bound_usd=Decimal("0.1")
)
SMALL = Candidate(
    provider=Provider.OPENAI, model="small", simulated=True, reason="fallback 1", upper_bound_usd=Decimal("0.01")
)


def failure(error: type[ParleyError], message: str = "failed", *details: Any) -> ApplicationError:
    """A step's failure, as every engine raises it."""
    return ApplicationError(message, *details, type=error.__name__)


def answer(content: str = "hi") -> AskOutcome:
    return AskOutcome(result=GenerateResult(success=True, content=content, meta=Meta(request_id="job/generate")))


class MemoryEngine:
    """Runs steps by a script: for each step, the outcome or the error. The last one repeats."""

    def __init__(self, *, ask: list[Any], condense: list[Any] | None = None) -> None:
        self._script: dict[str, list[Any]] = {"ask": ask, "condense": condense or []}
        self._now = START
        self.steps: list[AskStep | CondenseStep] = []
        self.pauses: list[float] = []
        self.reasons: list[str] = []

    def now(self) -> datetime:
        return self._now

    async def sleep(self, pause: timedelta) -> None:
        self._now += pause

    def report_waiting(self, reason: str, pause: timedelta) -> None:
        self.reasons.append(reason)
        self.pauses.append(pause.total_seconds())

    def waits_until(self, limit: timedelta) -> datetime:
        return self._now + limit

    async def run_step(
        self, activity: Callable[[Any, Any], Awaitable[Any]], step: Any, candidate: Candidate, *, summary: str
    ) -> Any:
        assert candidate.model in summary
        self.steps.append(step)
        script = self._script[activity.__name__]
        outcome = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @property
    def asks(self) -> list[AskStep]:
        return [step for step in self.steps if isinstance(step, AskStep)]

    @property
    def models(self) -> list[str]:
        """What was called, in order: `ask` or `condense`, and the model."""
        kinds = {AskStep: "ask", CondenseStep: "condense"}
        return [f"{kinds[type(step)]} {step.candidate.model}" for step in self.steps]


def job(*, wait_limit_seconds: int = 0) -> Job:
    given = GenerateInput(workspace_id="acme", user_id="ann", prompt=PROMPT, wait_limit_seconds=wait_limit_seconds)
    return Job(input=given, job_key="job", workflow_id="workflow", fingerprint="asked", started_at=START)


def prepared(**changes: Any) -> PrepareOutcome:
    return PrepareOutcome(**{"candidates": (BIG, SMALL), "prompt": PROMPT, "serving": Serving(energy=2), **changes})


async def answered(engine: MemoryEngine, *, wait_limit_seconds: int = 0, **changes: Any) -> GenerateResult:
    return await Answering(engine, job(wait_limit_seconds=wait_limit_seconds), prepared(**changes)).run()


async def failed(engine: MemoryEngine, **terms: Any) -> ApplicationError:
    with pytest.raises(ApplicationError) as caught:
        await answered(engine, **terms)
    return caught.value


class TestFallback:
    async def test_the_first_candidate_answers(self):
        engine = MemoryEngine(ask=[answer()])
        assert (await answered(engine)).content == "hi"
        [step] = engine.asks
        assert (step.candidate, step.request_id, step.is_first) == (BIG, "job/generate/ask-1", True)

    @pytest.mark.parametrize("error", [ProviderUnavailable, AuthenticationFailed, BadRequest, MalformedReply])
    async def test_the_next_candidate_follows_a_failure_and_names_it(self, error: type[ParleyError]):
        engine = MemoryEngine(ask=[failure(error, "anthropic: broken"), answer()])
        await answered(engine)
        assert engine.models == ["ask big", "ask small"]
        assert engine.asks[1].candidate.reason == "fallback 1, after anthropic: broken"
        assert [step.request_id for step in engine.asks] == ["job/generate/ask-1"] * 2
        assert [step.is_first for step in engine.asks] == [True, False]

    async def test_if_every_candidate_fails_the_error_lists_them(self):
        error = await failed(MemoryEngine(ask=[failure(ProviderUnavailable, "down")]))
        assert isinstance(error, NoProviderServed)
        assert error.type == ProviderUnavailable.__name__
        assert error.message == "no provider could serve: down (big); down (small)"

    async def test_the_loop_waits_for_the_end_of_an_outage_within_the_limit(self):
        down = failure(ProviderUnavailable, "down")
        engine = MemoryEngine(ask=[down, down, down, down, answer()])
        await answered(engine, wait_limit_seconds=100)
        assert engine.pauses == [30, 60]
        assert engine.reasons == ["down (big); down (small)"] * 2

    async def test_beyond_the_limit_the_outage_is_the_result(self):
        engine = MemoryEngine(ask=[failure(ProviderUnavailable, "down")])
        await failed(engine, wait_limit_seconds=89)
        assert engine.pauses == [30]

    async def test_a_refused_request_is_not_waited_for(self):
        engine = MemoryEngine(ask=[failure(BadRequest, "no")])
        assert isinstance(error := await failed(engine, wait_limit_seconds=1000), NoProviderServed)
        assert error.refused
        assert engine.pauses == []

    async def test_an_error_of_the_user_is_raised_at_once(self):
        engine = MemoryEngine(ask=[failure(InsufficientEnergy, "empty")])
        assert (await failed(engine)).type == InsufficientEnergy.__name__
        assert engine.models == ["ask big"]


class TestRateLimit:
    async def test_after_a_short_rate_limit_the_same_candidate_is_asked_again(self):
        engine = MemoryEngine(ask=[failure(RateLimited, "slow down", 7.0), failure(RateLimited, "slow down"), answer()])
        await answered(engine)
        assert engine.models == ["ask big"] * 3
        assert engine.pauses == [7, 2]
        assert [step.is_first for step in engine.asks] == [True, False, False]

    @pytest.mark.parametrize("asked", [(), (0.0,), (0.25,)])
    async def test_pauses_grow_while_a_rate_limit_lasts_however_short_the_provider_says(self, asked: tuple[float, ...]):
        engine = MemoryEngine(ask=[failure(RateLimited, "slow down", *asked)])
        await failed(engine, candidates=(BIG,))
        assert engine.pauses == [1, 2, 4, 8, 16, 32, *[60] * 8]

    async def test_a_longer_wait_that_the_provider_says_is_kept(self):
        limited = failure(RateLimited, "slow down", 90.0)
        engine = MemoryEngine(ask=[limited, limited, answer()])
        await answered(engine)
        assert engine.pauses == [90, 90]

    async def test_pauses_grow_for_each_candidate_and_over_the_rounds(self):
        engine = MemoryEngine(ask=[failure(RateLimited, "slow down", 0.0)])
        await failed(engine, wait_limit_seconds=2000)
        first = [1, 2, 4, 8, 16, 32, *[60] * 8]
        assert engine.pauses[: 2 * len(first)] == first * 2
        # Between the rounds is the pause of an outage.
        assert engine.pauses[2 * len(first) :] == [30, *[60] * 20]

    async def test_a_long_rate_limit_leads_to_the_next_candidate(self):
        limited = failure(RateLimited, "slow down", LONGEST_RATE_LIMIT.total_seconds() + 1)
        engine = MemoryEngine(ask=[limited, answer()])
        await answered(engine)
        assert (engine.models, engine.pauses) == (["ask big", "ask small"], [])

    async def test_the_policy_may_prefer_a_cheaper_model(self):
        engine = MemoryEngine(ask=[failure(RateLimited, "slow down", 7.0), answer()])
        await answered(engine, serving=Serving(on_rate_limit=OnRateLimit.CHEAPER))
        assert (engine.models, engine.pauses) == (["ask big", "ask small"], [])


class TestBudget:
    async def test_if_the_budget_is_used_up_meanwhile_a_cheaper_candidate_is_tried(self):
        engine = MemoryEngine(ask=[failure(BudgetExhausted, "used up"), answer()])
        await answered(engine)
        assert engine.models == ["ask big", "ask small"]

    async def test_without_a_cheaper_candidate_the_budget_is_exhausted(self):
        engine = MemoryEngine(ask=[failure(BudgetExhausted, "used up")])
        assert (await failed(engine)).type == BudgetExhausted.__name__
        assert engine.models == ["ask big", "ask small"]


class TestALaterRun:
    async def test_it_continues_with_the_request_that_an_earlier_run_under_the_key_left_open(self):
        engine = MemoryEngine(ask=[AskOutcome(problem="mood is missing")])
        assert (await failed(engine, first_ask=3, is_first=False)).type == MalformedReply.__name__
        assert [step.request_id for step in engine.asks] == [f"job/generate/ask-{ask}" for ask in (3, 4, 5)]
        assert not any(step.is_first for step in engine.asks)


class TestEmpty:
    async def test_a_reply_without_text_is_asked_for_again_with_more_room(self):
        engine = MemoryEngine(ask=[failure(EmptyReply, "no text"), answer()])
        await answered(engine)
        assert engine.models == ["ask big", "ask big"]
        assert [step.request_id for step in engine.asks] == ["job/generate/ask-1", "job/generate/ask-2"]
        asked = [chat_request(step.job.input, PROMPT, step.empty).max_tokens for step in engine.asks]
        assert asked == [1000, 4000]

    async def test_after_the_last_reply_without_text_it_fails(self):
        engine = MemoryEngine(ask=[failure(EmptyReply, "no text")])
        error = await failed(engine, wait_limit_seconds=1000)
        assert (error.type, len(engine.asks), engine.pauses) == (EmptyReply.__name__, MAX_ASKS, [])

    def test_the_room_has_a_limit(self):
        assert chat_request(job().input, PROMPT, 20).max_tokens == 128_000


class TestFilter:
    async def test_the_next_candidate_follows_a_content_filter(self):
        engine = MemoryEngine(ask=[failure(ContentFiltered, "filtered"), answer()])
        await answered(engine)
        assert engine.models == ["ask big", "ask small"]

    async def test_if_every_filter_refuses_the_request_is_refused(self):
        error = await failed(MemoryEngine(ask=[failure(ContentFiltered, "filtered")]), wait_limit_seconds=1000)
        step = ended(error)
        assert step.refusal and (step.outcome, step.refusal.code) == ("refused", Refused.CONTENT_FILTERED)

    async def test_a_filter_and_an_outage_are_an_outage(self):
        engine = MemoryEngine(ask=[failure(ContentFiltered, "filtered"), failure(ProviderUnavailable, "down")])
        assert (await failed(engine)).type == ProviderUnavailable.__name__


class TestSchema:
    async def test_a_reply_that_breaks_the_schema_is_requested_again_without_a_charge(self):
        engine = MemoryEngine(ask=[AskOutcome(problem="mood is missing"), answer()])
        await answered(engine)
        assert [step.request_id for step in engine.asks] == ["job/generate/ask-1", "job/generate/ask-2"]
        assert [step.result_id for step in engine.asks] == ["job/generate/ask-1"] * 2

    async def test_after_the_last_reply_that_breaks_the_schema_it_fails(self):
        engine = MemoryEngine(ask=[AskOutcome(problem="mood is missing")])
        error = await failed(engine)
        assert (error.type, len(engine.asks)) == (MalformedReply.__name__, MAX_ASKS)
        assert error.message == "no answer follows the schema: mood is missing"


class TestCondensing:
    async def test_a_prompt_that_is_too_long_is_condensed_once_on_the_cheapest_candidate(self):
        engine = MemoryEngine(
            ask=[failure(ContextTooLong), answer()],
            condense=[CondenseOutcome(prompt=SHORT)],
        )
        await answered(engine)
        assert engine.models == ["ask big", "condense small", "ask big"]
        last = engine.asks[-1]
        assert (last.job.input.prompt, last.condensed, last.request_id) == (SHORT, True, "job/generate/ask-2")

    async def test_a_condensed_prompt_that_is_still_too_long_goes_to_another_candidate(self):
        engine = MemoryEngine(
            ask=[failure(ContextTooLong), failure(ContextTooLong), answer()],
            condense=[CondenseOutcome(prompt=SHORT)],
        )
        await answered(engine)
        assert engine.models == ["ask big", "condense small", "ask big", "ask small"]

    async def test_a_prompt_that_cannot_be_condensed_goes_to_another_candidate_and_then_fails(self):
        engine = MemoryEngine(ask=[failure(ContextTooLong)], condense=[CondenseOutcome()])
        assert (await failed(engine)).type == ContextTooLong.__name__
        assert engine.models == ["ask big", "condense small", "ask small", "condense small"]

    @pytest.mark.parametrize("error", [ContextTooLong, EmptyReply, ProviderUnavailable])
    async def test_if_a_prompt_that_is_too_long_cannot_be_condensed_now_another_candidate_gets_it(
        self, error: type[ParleyError]
    ):
        engine = MemoryEngine(ask=[failure(ContextTooLong), answer()], condense=[failure(error)])
        await answered(engine)
        assert engine.models == ["ask big", "condense small", "condense big", "ask small"]

    async def test_without_the_budget_to_condense_another_candidate_gets_it(self):
        engine = MemoryEngine(ask=[failure(ContextTooLong), answer()], condense=[failure(BudgetExhausted)])
        await answered(engine)
        assert engine.models == ["ask big", "condense small", "ask small"]

    async def test_without_the_budget_to_condense_and_another_candidate_the_prompt_is_too_long(self):
        engine = MemoryEngine(ask=[failure(ContextTooLong)], condense=[failure(BudgetExhausted)])
        assert (await failed(engine, candidates=(BIG,))).type == ContextTooLong.__name__

    @pytest.mark.parametrize("error", [InsufficientEnergy, StreamSuperseded])
    async def test_another_error_of_condensing_is_raised(self, error: type[ParleyError]):
        engine = MemoryEngine(ask=[failure(ContextTooLong), answer()], condense=[failure(error)])
        assert (await failed(engine)).type == error.__name__

    async def test_a_prompt_that_is_long_for_the_policy_is_condensed_first(self):
        engine = MemoryEngine(ask=[answer()], condense=[failure(ProviderUnavailable), CondenseOutcome(prompt=SHORT)])
        await answered(engine, condense=True)
        assert engine.models == ["condense small", "condense big", "ask big"]
        assert (engine.asks[0].condensed, engine.asks[0].is_first) == (True, False)

    async def test_if_condensing_fails_the_whole_prompt_is_sent(self):
        engine = MemoryEngine(ask=[answer()], condense=[failure(BudgetExhausted)])
        await answered(engine, condense=True)
        assert engine.models == ["condense small", "ask big"]
        assert (engine.asks[0].job.input.prompt, engine.asks[0].condensed) == (PROMPT, False)


def ended(error: BaseException) -> EndStep:
    return end_step(job(), prepared(), error)


class TestEnd:
    def test_errors_that_the_caller_can_act_on_are_refusals(self):
        step = ended(failure(BudgetExhausted, "nothing is left"))
        assert step.refusal and (step.outcome, step.refusal.code) == ("refused", Refused.BUDGET_EXHAUSTED)
        assert step.refusal.message == "nothing is left"

    def test_after_an_outage_an_expired_answer_may_be_returned(self):
        step = ended(NoProviderServed([(BIG, failure(ProviderUnavailable, "down"))]))
        assert (step.outcome, step.reason, step.may_be_stale) == ("failed", "ProviderUnavailable", True)
        assert not ended(failure(MalformedReply)).may_be_stale
