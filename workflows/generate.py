"""`Generate`: one answer of an LLM, within budget, from the first provider that can give it."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.generate.calls import GenerateCalls as Calls
    from activities.generate.decisions import GenerateDecisions as Decisions
    from parley import visibility
    from parley.domain.errors import (
        BudgetExhausted,
        ContextTooLong,
        InsufficientEnergy,
        InvalidInput,
        MalformedReply,
        ParleyError,
        ProviderUnavailable,
        RateLimited,
    )
    from parley.domain.generate.contract import (
        WORKFLOW,
        Asked,
        AskStep,
        Condensed,
        CondenseStep,
        Ended,
        EndStep,
        GenerateInput,
        GenerateResult,
        Job,
        OnRateLimit,
        Prepared,
        Prompt,
        Refusal,
        Refused,
        Serving,
    )
    from parley.domain.generate.quality import WORKFLOW as SCORE_QUALITY
    from parley.domain.generate.quality import ScoreInput, cheapest
    from parley.domain.generate.quality import workflow_id as scoring_id
    from parley.domain.queues import provider_queue
    from parley.domain.routing import Candidate
    from workflows.policies import ANSWER_STEP, LOCAL_STEP, LONGEST_RATE_LIMIT
    from workflows.providers_in_turn import in_turn

MAX_ASKS = 3
REASON_CHARACTERS = 150
REFUSALS = {
    InsufficientEnergy.__name__: Refused.INSUFFICIENT_ENERGY,
    BudgetExhausted.__name__: Refused.BUDGET_EXHAUSTED,
    ContextTooLong.__name__: Refused.CONTEXT_TOO_LONG,
}


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class Generate:
    """Decide whom to ask, ask, and write down what became of it."""

    @workflow.run
    async def run(self, asked: GenerateInput | None = None) -> GenerateResult:
        """Answer. A refusal is a result; cancelling keeps what is paid for.

        Raises:
            InvalidInput: the workflow was started without input.
            ApplicationError: typed after the `ParleyError` that stopped it; `ProviderUnavailable` says what was tried.
        """
        if asked is None:
            raise InvalidInput("Generate needs a GenerateInput", where="input")
        visibility.record_owner(asked.workspace_id, WORKFLOW)
        self._job = Job(
            input=asked,
            job_key=workflow.info().first_execution_run_id,
            workflow_id=workflow.info().workflow_id,
            started_at=workflow.now(),
        )
        self._prepared, self._ask, self._tries = Prepared(), 1, 0
        self._condensed: Prompt | None = None
        self._may_condense, self._charged = True, False
        self._asked: Candidate | None = None
        self._failed = ""
        try:
            result = await self._generate()
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            result = await self._stand_in(error)
        if not result.success:
            visibility.record(visibility.STATUS, "refused")
        return result

    async def _generate(self) -> GenerateResult:
        self._prepared = await workflow.execute_local_activity_method(
            Decisions.prepare, self._job, summary="budget, cache, routing", **LOCAL_STEP
        )
        if self._prepared.result is not None:
            return self._prepared.result
        if self._prepared.prompt is not None:
            self._job = self._job.asking(self._prepared.prompt)
        self._condensed = self._prepared.condensed
        candidates = self._prepared.candidates
        if self._prepared.condense:
            await self._condense_if_possible(candidates)
        result = await self._answered(candidates)
        if self._serving.score_quality:
            await self._have_scored()
        return result

    @property
    def _serving(self) -> Serving:
        return self._prepared.serving

    async def _answered(self, candidates: Sequence[Candidate]) -> GenerateResult:
        """Ask until the answer follows the schema. A prompt that is too long is condensed once."""
        while True:
            try:
                asked = await self._ask_in_turn(candidates)
            except ApplicationError as error:
                candidates = await self._mended(error, candidates)
                continue
            if asked.result is not None:
                return asked.result
            self._charged = True
            if self._ask >= MAX_ASKS:
                raise ApplicationError(f"no answer follows the schema: {asked.problem}", type=MalformedReply.__name__)
            self._ask += 1

    async def _mended(self, error: ApplicationError, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Whom to ask instead, or for less. Raises the error where neither would help."""
        if error.type == BudgetExhausted.__name__ and (cheaper := self._cheaper(candidates)):
            return cheaper
        if error.type != ContextTooLong.__name__:
            raise error
        if self._may_condense and await self._condense(candidates):
            self._ask += 1
            return candidates
        # Another model may have more room.
        others = tuple(one for one in candidates if one != self._asked)
        if not others:
            raise error
        return others

    async def _ask_in_turn(self, candidates: Sequence[Candidate]) -> Asked:
        async def attempt(candidate: Candidate) -> Asked:
            self._asked, self._tries = candidate, self._tries + 1
            step = AskStep(
                job=self._job.asking(self._condensed) if self._condensed else self._job,
                serving=self._serving,
                candidate=self._with_what_failed(candidate),
                ask=self._ask,
                energy=0 if self._charged else self._serving.energy,
                is_first=self._tries == 1,
                condensed=self._condensed is not None,
            )
            try:
                return await self._unless_limited(step)
            except ActivityError as error:
                self._failed = str(getattr(error.cause, "message", error.cause))[:REASON_CHARACTERS]
                raise

        patience = timedelta(seconds=self._job.input.patience_seconds)
        return await in_turn(candidates, attempt, patience=patience, parked=self._parked)

    def _with_what_failed(self, candidate: Candidate) -> Candidate:
        """Why this model? Also because another one failed."""
        if not self._failed:
            return candidate
        return candidate.model_copy(update={"reason": f"{candidate.reason}, after {self._failed}"})

    async def _unless_limited(self, step: AskStep) -> Asked:
        """One candidate's try. Where the policy says so, being asked to wait is waited out, and holds no worker."""
        deadline = workflow.now() + LONGEST_RATE_LIMIT
        while True:
            try:
                return await workflow.execute_activity_method(
                    Calls.ask,
                    step,
                    task_queue=provider_queue(step.candidate.provider),
                    summary=f"{step.candidate.provider.value} {step.candidate.model}: {step.candidate.reason}"[:200],
                    **ANSWER_STEP,
                )
            except ActivityError as error:
                cause = error.cause
                if not isinstance(cause, ApplicationError):
                    raise
                if cause.type == ContextTooLong.__name__:
                    raise cause from None
                pause = self._pause(cause)
                if pause is None or workflow.now() + pause > deadline:
                    raise
                self._parked(str(cause.message), pause)
                await workflow.sleep(pause)
                step = step.model_copy(update={"is_first": False})

    def _pause(self, cause: ApplicationError) -> timedelta | None:
        """How long a rate limit asks to wait, where it is to be waited out."""
        waits = self._serving.on_rate_limit is OnRateLimit.WAIT
        if cause.type != RateLimited.__name__ or not waits:
            return None
        return timedelta(seconds=float(cause.details[0]) if cause.details else 1.0)

    async def _condense_if_possible(self, candidates: Sequence[Candidate]) -> None:
        """Condense a long prompt as the policy wants it; one that cannot be condensed now is sent as it is."""
        try:
            await self._condense(candidates)
        except ApplicationError as error:
            workflow.logger.info("not condensed: %s", error)

    async def _condense(self, candidates: Sequence[Candidate]) -> bool:
        """Condense the earlier part of the prompt; whether there is now another one to send."""

        async def attempt(candidate: Candidate) -> Condensed:
            self._tries += 1
            return await workflow.execute_activity_method(
                Calls.condense,
                CondenseStep(job=self._job, serving=self._serving, candidate=candidate, kept=self._prepared.kept),
                task_queue=provider_queue(candidate.provider),
                summary=f"condense on {candidate.provider.value} {candidate.model}",
                **ANSWER_STEP,
            )

        cheapest_first = sorted(candidates, key=lambda one: one.upper_bound_usd or Decimal(0))
        done = await in_turn(cheapest_first, attempt, patience=timedelta(0), parked=self._parked)
        if done.prompt in (None, self._condensed):
            return False
        self._condensed, self._may_condense = done.prompt, False
        return True

    async def _have_scored(self) -> None:
        """Have the answer graded by a workflow of its own, which is not waited for. The answer stands anyway."""
        asked, request_id = self._job.input, self._job.request_id
        wanted = ScoreInput(
            workspace_id=asked.workspace_id,
            user_id=asked.user_id,
            prospect_id=asked.prospect_id,
            request_id=request_id,
            prompt=asked.prompt,
            candidate=cheapest(self._prepared.candidates),
        )
        try:
            await workflow.start_child_workflow(
                SCORE_QUALITY,
                wanted,
                id=scoring_id(asked.workspace_id, request_id),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=visibility.plain(f"{asked.action} for {asked.user_id}"[:200]),
            )
        except (WorkflowAlreadyStartedError, FailureError, asyncio.CancelledError) as problem:
            workflow.logger.info("not graded: %s", problem)

    def _cheaper(self, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """Those that may still fit where the one just asked did not: others were faster to the money."""
        bound = (self._asked and self._asked.upper_bound_usd) or Decimal(0)
        return tuple(one for one in candidates if (one.upper_bound_usd or Decimal(0)) < bound)

    async def _stand_in(self, error: BaseException) -> GenerateResult:
        """What to answer in place of an answer; the error, where there is nothing."""
        cancelled = is_cancelled_exception(error)
        kind = (error.type if isinstance(error, ApplicationError) else type(error).__name__) or ""
        message = getattr(error, "message", str(error))
        refusal = Refusal(code=REFUSALS[kind], message=message) if kind in REFUSALS else None
        outcome: Literal["refused", "failed", "cancelled"] = "refused" if refusal else "failed"
        ended: Ended = await workflow.execute_local_activity_method(
            Decisions.end,
            EndStep(
                job=self._job,
                serving=self._serving,
                refusal=refusal,
                reason=kind,
                outcome="cancelled" if cancelled else outcome,
                candidates=self._prepared.candidates,
                may_be_stale=kind == ProviderUnavailable.__name__,
            ),
            summary="write down how it ended",
            **LOCAL_STEP,
        )
        if ended.result is None or cancelled:
            visibility.record(visibility.STATUS, "cancelled" if cancelled else "failed")
            raise error
        return ended.result

    def _parked(self, tried: str, pause: timedelta) -> None:
        workflow.set_current_details(f"waiting {pause.total_seconds():.0f} s: {visibility.plain(tried)}")
