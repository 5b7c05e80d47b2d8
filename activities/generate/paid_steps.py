"""The paid steps of `Generate` and `ScoreQuality`: request an answer, condense a long prompt, grade an answer."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from activities.generate.deciding import answered_row, counts_of, result_of
from activities.metrics import Metrics
from activities.paid_call import LEASE_POLL_SECONDS, PaidCalls
from activities.streams import ReplyStream
from parley.domain.capabilities import dropped_parameters
from parley.domain.generate.condensing import (
    ROOM_TOKENS,
    prefix_hashes,
    room_tokens,
    split_to_condense,
    summary_request,
    summary_text,
    with_stored_summary,
    with_summary,
)
from parley.domain.generate.continuing import continuing
from parley.domain.generate.contract import (
    AskOutcome,
    AskStep,
    CachePolicy,
    CondenseOutcome,
    CondenseStep,
    GenerateResult,
    Job,
    Prompt,
    chat_request,
)
from parley.domain.generate.policy import Policy
from parley.domain.generate.quality import ACTION, ScoreResult, ScoreStep, grading_request, read_grade
from parley.domain.generate.replies import chat_reply, read_answer
from parley.domain.requests import ChatRequest, Message
from parley.storage import budgets, cache, generations, ledger, paid_requests, summaries
from parley.storage.budgets import Envelope
from parley.storage.database import Database
from parley.storage.ledger import Charge, OnEnd, Settled
from parley.streams.hub import SinkSource


class GeneratePaidSteps:
    """Activities on a provider's queue, each with at most one paid request."""

    def __init__(self, database: Database, paid_calls: PaidCalls, metrics: Metrics, sinks: SinkSource) -> None:
        self._database, self._paid_calls, self._metrics, self._sinks = database, paid_calls, metrics, sinks

    @activity.defn(name="generate.ask")
    @boundary
    async def ask(self, step: AskStep) -> AskOutcome:
        """Request an answer. A valid one is recorded and cached after its reply is settled: judging it may fail."""
        prompt = await self._prompt(step.job)
        request = chat_request(step.job.input, prompt, step.empty)
        async with self._streaming(step, prompt) as stream:
            settled = await self._answer(step, request, stream)
            value, problem = read_answer(settled.reply, prompt)
            if problem:
                return AskOutcome(problem=problem)
            if stream:
                stream.send_rest(chat_reply(settled.reply))
                step = step.model_copy(update={"is_first": step.is_first and stream.is_first})
            async with self._database.transaction() as tx:
                await _record_answer(tx, step, request, settled)
        self._metrics.generation_ended("completed", "")
        return AskOutcome(result=await self._result(step, request, settled, value))

    @asynccontextmanager
    async def _streaming(self, step: AskStep, prompt: Prompt) -> AsyncGenerator[ReplyStream | None]:
        """Open the stream of the answer, if its readers want one."""
        target = step.job.input.stream
        if target is None:
            yield None
            return
        sink = self._sinks(step.job.input.workspace_id, step.job.workflow_id, target)
        scheduled_at = activity.info().scheduled_time if activity.in_activity() else None
        holds_text = prompt.response_schema is not None
        stream = await ReplyStream.open(sink, holds_text=holds_text, scheduled_at=scheduled_at)
        try:
            yield stream
        finally:
            if stream:
                await stream.close()

    async def _answer(self, step: AskStep, request: ChatRequest, stream: ReplyStream | None) -> Settled:
        """The reply to the question: from the ledger, from an attempt that died after it was received, or paid for."""
        if stream is None or stream.is_first:
            return await self._make(step, step.request_id, request, result_id=step.result_id, stream=stream)
        if step.broken and stream.attempt > step.broken + 1:
            # After the attempt that broke, the server has started the step again too: that attempt may be at work.
            await self._until_ended(step, stream.supersedes)
        settled = await self._received_before(step, stream)
        if settled is not None:
            return settled
        request_id = step.request_id
        # The request of a worker that died is not waited for.
        if stream.before or await self._is_open(step, stream.supersedes):
            request_id = step.further_request_id(stream.attempt, stream.before)
        request = continuing(request, stream.before)
        return await self._make(step, request_id, request, result_id=step.result_id, stream=stream)

    async def _received_before(self, step: AskStep, stream: ReplyStream) -> Settled | None:
        """The reply that an earlier attempt of the stream received. It is settled, if that attempt could not."""
        workspace_id, attempt_id = step.job.input.workspace_id, stream.supersedes
        # A reply of which nothing was delivered may have been judged, and asked for again.
        if attempt_id is None or not (stream.before or step.is_for(stream.paid_request_id)):
            return None
        if stream.reply is not None:
            settled = await self._paid_calls.settle_received(
                workspace_id, attempt_id, stream.reply, on_end=_record_cost(step.job)
            )
        else:
            settled = await self._settled_before(step.job, attempt_id)
        return settled if settled and stream.agrees_with(settled.reply) else None

    async def _settled_before(self, job: Job, attempt_id: UUID) -> Settled | None:
        """The reply that an attempt of the stream settled, or the last one that any attempt settled."""
        workspace_id = job.input.workspace_id
        async with self._database.transaction() as tx:
            settled = await ledger.settled_by(tx, workspace_id, attempt_id)
            last = None if settled else await generations.last_reply(tx, workspace_id, job.job_key)
            return await ledger.settled_by(tx, workspace_id, last) if last else settled

    async def _until_ended(self, step: AskStep, attempt_id: UUID | None) -> None:
        """Wait until an attempt at the provider has ended, or its worker lets the lease expire."""
        while attempt_id is not None:
            async with self._database.transaction() as tx:
                wait_seconds = await paid_requests.held_seconds(tx, step.job.input.workspace_id, attempt_id)
            if not wait_seconds:
                return
            await asyncio.sleep(min(wait_seconds, LEASE_POLL_SECONDS))

    async def _is_open(self, step: AskStep, attempt_id: UUID | None) -> bool:
        """Whether an earlier attempt still holds its request: its worker died, or is cut off from the readers."""
        if attempt_id is None:
            return False
        async with self._database.transaction() as tx:
            found = await paid_requests.attempt(tx, step.job.input.workspace_id, attempt_id)
        return found is not None and found.state == "open"

    @activity.defn(name="generate.condense")
    @boundary
    async def condense(self, step: CondenseStep) -> CondenseOutcome:
        """Condense all but the system prompt and the last messages; the summary is stored for later turns."""
        workspace_id = step.job.input.workspace_id
        async with self._database.transaction() as tx:
            prompt = await generations.load_prompt(tx, workspace_id, step.job.input.prompt)
            summary = await summaries.load(tx, workspace_id, step.summary) if step.summary else None
        split = split_to_condense(prompt.messages, summary)
        if split is None:
            known = with_stored_summary(prompt.messages, summary) if summary else None
            return CondenseOutcome(prompt=await self._stored(step.job, prompt, known) if known else None)
        room = room_tokens(step.candidate.model)
        # A model with less room gets a shorter request, which is a separate paid request.
        request_id = step.request_id() if room == ROOM_TOKENS else step.request_id(f"room-{room}")
        settled = await self._make(step, request_id, summary_request(split, room))
        text = summary_text(chat_reply(settled.reply))
        if text:
            hashes = prefix_hashes(prompt.messages)
            async with self._database.transaction() as tx:
                await summaries.store(tx, workspace_id, hashes[-1], len(hashes), settled.attempt_id)
        # If the model refuses to continue a stored summary, that one stays valid.
        known = summary if not text else None
        messages = with_stored_summary(prompt.messages, known) if known else with_summary(split, text)
        return CondenseOutcome(prompt=await self._stored(step.job, prompt, messages))

    async def _stored(self, job: Job, prompt: Prompt, messages: tuple[Message, ...]) -> Prompt:
        """The prompt with these messages, as a history holds it."""
        async with self._database.transaction() as tx:
            return await generations.for_history(tx, job, prompt.model_copy(update={"messages": messages}))

    async def _prompt(self, job: Job) -> Prompt:
        if job.input.prompt.sha256 is None:
            return job.input.prompt
        async with self._database.reads() as tx:
            return await generations.load_prompt(tx, job.input.workspace_id, job.input.prompt)

    async def _make(
        self,
        step: AskStep | CondenseStep,
        request_id: str,
        request: ChatRequest,
        *,
        result_id: str | None = None,
        stream: ReplyStream | None = None,
    ) -> Settled:
        """Make the paid request. `result_id`: what the user is charged for; without it the request is free."""
        job, candidate = step.job, step.candidate
        charge = Charge(
            workspace_id=job.input.workspace_id,
            user_id=job.input.user_id,
            prospect_id=job.input.prospect_id,
            job_key=job.job_key,
            workflow_id=job.workflow_id,
            request_id=request_id,
            result_id=result_id,
            action=job.input.action,
            energy=step.serving.energy if result_id else 0,
            envelope=Envelope(cap_usd=step.serving.max_cost_usd),
        )

        # A template or a summary that changed since an earlier run under the key does not make it another request.
        settled = await self._paid_calls.make(
            charge,
            request,
            candidate.provider,
            candidate.model,
            fingerprint=job.fingerprint,
            on_end=_record_cost(job),
            stream=stream,
        )
        if stream:
            stream.check(settled.reply, settled.provider.value)
        return settled

    async def _result(self, step: AskStep, request: ChatRequest, settled: Settled, value: Any) -> GenerateResult:
        known: dict[str, Any] = {"cost_usd": settled.cost_usd, "attempts": 1}
        if not _is_only_attempt(step, settled):
            async with self._database.transaction() as tx:
                known = await counts_of(tx, step.job, settled)
        is_candidate = (settled.provider, settled.model) == (step.candidate.provider, step.candidate.model)
        return result_of(
            step.job,
            step.serving,
            settled,
            value,
            **known,
            reason=step.candidate.reason if is_candidate else "its reply came first",
            condensed=step.condensed,
            dropped=dropped_parameters(settled.provider, settled.model, request),
        )


def _record_cost(job: Job) -> OnEnd:
    """The generation's row includes the cost of each attempt, also of one that ends after it."""

    async def on_end(tx: AsyncSession) -> None:
        await generations.record_cost(tx, job.input.workspace_id, job.job_key)

    return on_end


class QualityPaidSteps:
    """An activity on a provider's queue. All grading of a workspace's day shares the policy's budget."""

    def __init__(self, database: Database, paid_calls: PaidCalls, policy: Policy) -> None:
        self._database, self._paid_calls = database, paid_calls
        self._daily_usd = policy.quality_budget_usd_per_day

    @activity.defn(name="quality.score")
    @boundary
    async def score(self, step: ScoreStep) -> ScoreResult:
        """Request a grade. It is written after its reply is settled. The user is not charged."""
        scored = step.input
        async with self._database.transaction() as tx:
            prompt = await generations.load_prompt(tx, scored.workspace_id, scored.prompt)
            answer = await generations.answer(tx, scored.workspace_id, scored.request_id)

        charge = Charge(
            workspace_id=scored.workspace_id,
            user_id=scored.user_id,
            prospect_id=scored.prospect_id,
            job_key=step.job_key,
            workflow_id=step.workflow_id,
            request_id=step.request_id,
            action=ACTION,
            energy=0,
            envelope=Envelope(cap_usd=self._daily_usd),
        )
        given = Message(role="assistant", content=answer.text, tool_calls=answer.tool_calls)
        request, grader = grading_request(prompt, given.transcript), scored.candidate
        settled = await self._paid_calls.make(charge, request, grader.provider, grader.model)
        result = read_grade(settled.reply).model_copy(update={"cost_usd": settled.cost_usd})
        if result.score is not None:
            async with self._database.transaction() as tx:
                await generations.grade(tx, scored.workspace_id, scored.request_id, result.score)
        return result


async def _record_answer(tx: AsyncSession, step: AskStep, request: ChatRequest, settled: Settled) -> None:
    """The generation's row and the cache entry. Idempotent, for a worker that dies before it and asks again."""
    if _is_only_attempt(step, settled):
        await generations.defer_record(tx, answered_row(step.job, step.serving, settled, settled.cost_usd))
    else:
        await _record_among_attempts(tx, step, settled)
    if step.serving.cache is not CachePolicy.OFF:
        await cache.store(tx, step.job.input, step.serving, request, settled)


async def _record_among_attempts(tx: AsyncSession, step: AskStep, settled: Settled) -> None:
    """The row of a generation with several attempts."""
    workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
    # Attempts that end at the same time either are in the totals below, or update the row that is written here.
    await budgets.lock(tx, workspace_id, budgets.job_scope(job_key))
    cost_usd, _ = await generations.totals(tx, workspace_id, job_key)
    if not await generations.record(tx, answered_row(step.job, step.serving, settled, cost_usd)):
        await generations.record_cost(tx, workspace_id, job_key)


def _is_only_attempt(step: AskStep, settled: Settled) -> bool:
    return step.is_first and settled.is_only_attempt
