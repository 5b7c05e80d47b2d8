"""Request an answer: fall back to other candidates, wait out rate limits, condense a prompt that is too long.

Written against `Engine`, so that the workflow `Generate`, the inline mode, conversations and phone calls run the same
code.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

from activities.generate.deciding import GenerateDecisions as Decisions
from activities.generate.paid_steps import GeneratePaidSteps as PaidSteps
from parley.domain.errors import (
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
    GenerateResult,
    Job,
    OnRateLimit,
    PrepareOutcome,
    Prompt,
    Refusal,
    Refused,
)
from parley.domain.generate.quality import ScoreInput, cheapest
from parley.domain.requests import Finish, Provider
from parley.domain.routing import Candidate
from workflows.fallback import Engine, NoProviderServed, first_success
from workflows.policies import FIRST_RATE_LIMIT, LONGEST_RATE_LIMIT, LONGEST_UNASKED_PAUSE

MAX_ASKS = 3
REASON_CHARACTERS = 150
REFUSALS = {
    InsufficientEnergy.__name__: Refused.INSUFFICIENT_ENERGY,
    BudgetExhausted.__name__: Refused.BUDGET_EXHAUSTED,
    ContextTooLong.__name__: Refused.CONTEXT_TOO_LONG,
    ContentFiltered.__name__: Refused.CONTENT_FILTERED,
}
RAISE_AT_ONCE = frozenset({ContextTooLong.__name__, EmptyReply.__name__})


class GenerateRun:
    """One run of `Generate`, from the decisions to the record of its end.

    scoring: the grading to start after it. cost_usd: what a run without a result has cost.
    """

    def __init__(
        self,
        engine: Engine,
        job: Job,
        *,
        prepared: PrepareOutcome | None = None,
        on_prepared: Callable[[], None] | None = None,
    ) -> None:
        """Begin a run.

        Args:
            prepared: what was decided already.
            on_prepared: called when the key is known to be that of this request, before anything is paid.
        """
        self._engine, self._job, self._on_prepared = engine, job, on_prepared
        self._is_prepared, self._prepared = prepared is not None, prepared or PrepareOutcome()
        self.scoring: ScoreInput | None = None
        self.cost_usd = Decimal(0)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Who may serve it, the best first; none where nothing had to be requested."""
        return self._prepared.candidates

    async def result(self) -> GenerateResult:
        """Decide what to send to which providers, request the answer, record how it ended. A refusal is a result.

        Raises:
            ApplicationError: typed after the `ParleyError` that stopped it; `ProviderUnavailable` lists what was tried.
            CancelledError: it was cancelled. Results that were paid for stay stored.
        """
        try:
            return await self._answer()
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            if is_superseded(error):
                raise
            return await self._end(error)

    async def _answer(self) -> GenerateResult:
        if not self._is_prepared:
            self._prepared = await self._engine.decide(Decisions.prepare, self._job, summary="budget, cache, routing")
        if self._on_prepared is not None:
            self._on_prepared()
        if self._prepared.result is not None:
            return self._prepared.result
        if self._prepared.prompt is not None:
            self._job = self._job.with_prompt(self._prepared.prompt)
        result = await Answering(self._engine, self._job, self._prepared).run()
        if self._prepared.serving.score_quality and result.meta.finish is not Finish.CANCELLED:
            self.scoring = self._scoring()
        return result

    async def _end(self, error: BaseException) -> GenerateResult:
        """Record how the generation ended. Returns a refusal or a stale answer; else raises the error."""
        step = end_step(self._job, self._prepared, error)
        ended = await self._engine.decide(Decisions.end, step, summary="record how it ended")
        if ended.result is None or step.outcome == "cancelled":
            self.cost_usd = ended.cost_usd
            raise error
        return ended.result

    def _scoring(self) -> ScoreInput:
        generate_input = self._job.input
        return ScoreInput(
            workspace_id=generate_input.workspace_id,
            user_id=generate_input.user_id,
            prospect_id=generate_input.prospect_id,
            request_id=self._job.request_id,
            prompt=generate_input.prompt,
            candidate=cheapest(self._prepared.candidates),
        )


class Answering:
    """The paid part of one generation, from the outcome of `prepare` to the answer."""

    def __init__(self, engine: Engine, job: Job, prepared: PrepareOutcome) -> None:
        self._engine, self._job = engine, job
        self._serving, self._summary = prepared.serving, prepared.summary
        self._condense_first = prepared.condense
        self._candidates: Sequence[Candidate] = prepared.candidates
        self._condensed: Prompt | None = prepared.condensed
        self._may_condense = True
        self._ask, self._empty, self._attempts = prepared.first_ask, 0, 0
        self._last_ask = prepared.first_ask + MAX_ASKS - 1
        self._is_first = prepared.is_first
        self._last_candidate: Candidate | None = None
        self._last_failure = ""
        # After the next rate limit of a model, at least. Over all rounds of the candidates.
        self._next_pauses: dict[tuple[Provider, str], timedelta] = {}

    async def run(self) -> GenerateResult:
        """Request replies until one follows the response schema.

        Raises:
            ApplicationError: typed after the `ParleyError` that stopped it; `ProviderUnavailable` lists what was tried.
        """
        if self._condense_first:
            await self._condense_if_possible()
        while True:
            try:
                outcome = await self._ask_candidates()
            except ApplicationError as error:
                await self._change_course(error)
                continue
            if outcome.result is not None:
                return outcome.result
            if self._ask >= self._last_ask:
                message = f"no answer follows the schema: {outcome.problem}"
                raise ApplicationError(message, type=MalformedReply.__name__)
            self._ask += 1

    async def _change_course(self, error: ApplicationError) -> None:
        """Condense the prompt, or continue with the candidates that may still serve; else raise the error."""
        if error.type == BudgetExhausted.__name__ and (cheaper := self._cheaper_candidates()):
            self._candidates = cheaper
            return
        if error.type == EmptyReply.__name__ and self._ask < self._last_ask:
            self._ask, self._empty = self._ask + 1, self._empty + 1
            return
        if error.type != ContextTooLong.__name__:
            raise error
        if self._may_condense and await self._condense_if_affordable():
            self._ask += 1
            return
        # Another model may have a larger context window.
        others = tuple(one for one in self._candidates if one != self._last_candidate)
        if not others:
            raise error
        self._candidates = others

    def _cheaper_candidates(self) -> tuple[Candidate, ...]:
        """Candidates that may fit the budget where the last one did not: concurrent requests used it up."""
        bound = (self._last_candidate and self._last_candidate.upper_bound_usd) or Decimal(0)
        return tuple(one for one in self._candidates if (one.upper_bound_usd or Decimal(0)) < bound)

    async def _ask_candidates(self) -> AskOutcome:
        wait_limit = timedelta(seconds=self._job.input.wait_limit_seconds)
        return await first_success(
            self._engine, self._candidates, self._ask_one, wait_limit=wait_limit, raise_at_once=RAISE_AT_ONCE
        )

    async def _ask_one(self, candidate: Candidate) -> AskOutcome:
        """Call one candidate. Where the policy says so, wait out its rate limit."""
        candidate, deadline = self._with_last_failure(candidate), self._engine.waits_until(LONGEST_RATE_LIMIT)
        while True:
            try:
                return await self._engine.run_step(
                    PaidSteps.ask,
                    self._ask_step(candidate),
                    candidate,
                    summary=f"{candidate.provider.value} {candidate.model}: {candidate.reason}",
                )
            except ApplicationError as error:
                pause = self._rate_limit_pause(candidate, error)
                if pause is None or self._engine.now() + pause > deadline:
                    if error.type != ContextTooLong.__name__:
                        self._last_failure = error.message[:REASON_CHARACTERS]
                    raise
                self._engine.report_waiting(error.message, pause)
                await self._engine.sleep(pause)

    def _ask_step(self, candidate: Candidate) -> AskStep:
        self._attempts += 1
        return AskStep(
            job=self._job.with_prompt(self._condensed) if self._condensed else self._job,
            serving=self._serving,
            candidate=candidate,
            ask=self._ask,
            empty=self._empty,
            is_first=self._is_first and self._attempts == 1,
            condensed=self._condensed is not None,
        )

    def _with_last_failure(self, candidate: Candidate) -> Candidate:
        """The candidate, with a reason that names the earlier failure of another."""
        self._last_candidate = candidate
        if not self._last_failure:
            return candidate
        return candidate.model_copy(update={"reason": f"{candidate.reason}, after {self._last_failure}"})

    def _rate_limit_pause(self, candidate: Candidate, error: ApplicationError) -> timedelta | None:
        """The wait that a rate limit requires; None for another error, or if the policy prefers another model.

        It grows with each rate limit of the candidate, also where the provider asks for no wait or a short one:
        otherwise the requests of ten minutes would fill the workflow's history.
        """
        if error.type != RateLimited.__name__ or self._serving.on_rate_limit is not OnRateLimit.WAIT:
            return None
        model = (candidate.provider, candidate.model)
        shortest = self._next_pauses.get(model, FIRST_RATE_LIMIT)
        self._next_pauses[model] = min(shortest * 2, LONGEST_UNASKED_PAUSE)
        asked = timedelta(seconds=float(error.details[0])) if error.details else timedelta(0)
        return max(asked, shortest)

    async def _condense_if_possible(self) -> bool:
        """Condense a prompt that is too long. If that fails, which the history shows, it is sent whole."""
        with suppress(ApplicationError):
            return await self._condense()
        return False

    async def _condense_if_affordable(self) -> bool:
        """Condense a prompt that was refused as too long. Without a provider or the budget for it, nothing changes.

        Raises:
            ApplicationError: an error that another model would not help with.
        """
        try:
            return await self._condense()
        except ApplicationError as error:
            if not isinstance(error, NoProviderServed) and error.type != BudgetExhausted.__name__:
                raise
            return False

    async def _condense(self) -> bool:
        """Condense the earlier part of the prompt, on the cheapest candidate; returns whether the prompt changed."""
        candidates = cheapest_first(self._candidates)
        outcome = await first_success(self._engine, candidates, self._condense_on, wait_limit=timedelta(0))
        if outcome.prompt in (None, self._condensed):
            return False
        self._condensed, self._may_condense = outcome.prompt, False
        return True

    async def _condense_on(self, candidate: Candidate) -> CondenseOutcome:
        self._attempts += 1
        step = CondenseStep(job=self._job, serving=self._serving, candidate=candidate, summary=self._summary)
        summary = f"condense on {candidate.provider.value} {candidate.model}"
        return await self._engine.run_step(PaidSteps.condense, step, candidate, summary=summary)


def cheapest_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates for a summary, by the most that they may cost."""
    return sorted(candidates, key=lambda one: one.upper_bound_usd or Decimal(0))


def is_superseded(error: BaseException) -> bool:
    """Whether another run of the same job makes the answer: that one records how it ends."""
    return isinstance(error, ApplicationError) and error.type == StreamSuperseded.__name__


def end_step(job: Job, prepared: PrepareOutcome, error: BaseException) -> EndStep:
    """How to record a generation that ended with an error: as refused, failed or cancelled."""
    kind = (error.type if isinstance(error, ApplicationError) else type(error).__name__) or ""
    message = str(getattr(error, "message", error))
    refusal = Refusal(code=REFUSALS[kind], message=message) if kind in REFUSALS else None
    outcome: Literal["refused", "failed", "cancelled"] = "refused" if refusal else "failed"
    return EndStep(
        job=job,
        serving=prepared.serving,
        refusal=refusal,
        reason=kind,
        outcome="cancelled" if is_cancelled_exception(error) else outcome,
        candidates=prepared.candidates,
        may_be_stale=kind == ProviderUnavailable.__name__,
    )
