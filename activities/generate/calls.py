"""The paid steps of `Generate`: ask for an answer, condense a prompt that is too long."""

from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities import metrics
from activities.boundary import boundary
from activities.generate.endings import from_reply
from activities.paid_call import PaidCalls
from parley.domain.generate.condensing import (
    ROOM_TOKENS,
    beginnings,
    condensed,
    resumed,
    room_tokens,
    split_to_condense,
    summary_request,
    told,
)
from parley.domain.generate.contract import (
    Asked,
    AskStep,
    CachePolicy,
    Condensed,
    CondenseStep,
    GenerateResult,
    Job,
    Prompt,
    chat_request,
)
from parley.domain.generate.results import chat_reply, read
from parley.domain.requests import ChatRequest, Message
from parley.domain.routing import dropped_parameters
from parley.storage import cache, generations, summaries
from parley.storage.budgets import Envelope
from parley.storage.database import Database
from parley.storage.ledger import Charge, OnWon, Settled


class GenerateCalls:
    """Activities on a provider's queue, each with at most one paid request."""

    def __init__(self, database: Database, paid_calls: PaidCalls) -> None:
        self._database, self._paid_calls = database, paid_calls

    @activity.defn(name="generate.ask")
    @boundary
    async def ask(self, step: AskStep) -> Asked:
        """Ask for the answer. It is kept with what it cost, in one transaction."""
        prompt = await self._prompt(step.job)
        request = chat_request(step.job.input, prompt)

        async def keep(tx: AsyncSession, settled: Settled) -> None:
            if read(settled.reply, prompt)[1]:
                await generations.record_cost(tx, step.job)
            else:
                await _keep(tx, step, request, settled)

        settled = await self._make(step, step.request_id, request, step.energy, on_won=keep)
        value, problem = read(settled.reply, prompt)
        if problem:
            return Asked(problem=problem)
        metrics.generation("completed", "")
        return Asked(result=await self._result(step, request, settled, value))

    @activity.defn(name="generate.condense")
    @boundary
    async def condense(self, step: CondenseStep) -> Condensed:
        """Condense all but the system prompt and the last messages, in a paid request of its own.

        The summary is kept for later turns of the conversation.
        """
        workspace_id = step.job.input.workspace_id
        async with self._database.transaction() as tx:
            prompt = await generations.load_prompt(tx, workspace_id, step.job.input.prompt)
            summary = await summaries.load(tx, workspace_id, step.kept) if step.kept else None
        split = split_to_condense(prompt.messages, summary)
        if split is None:
            known = resumed(prompt.messages, summary) if summary else None
            return Condensed(prompt=await self._stored(workspace_id, prompt, known) if known else None)

        async def keep(tx: AsyncSession, settled: Settled) -> None:
            await generations.record_cost(tx, step.job)
            if told(chat_reply(settled.reply)):
                hashes = beginnings(prompt.messages)
                await summaries.keep(tx, workspace_id, hashes[-1], len(hashes), settled.attempt_id)

        room = room_tokens(step.candidate.model)
        # A model with less room is asked for less, which is another request.
        request_id = step.request_id if room == ROOM_TOKENS else f"{step.request_id}-{room}"
        request = summary_request(split, room)
        settled = await self._make(step, request_id, request, energy=0, on_won=keep)
        text = told(chat_reply(settled.reply))
        # A refused continuation is no reason to forget what is on record.
        messages = resumed(prompt.messages, summary) if summary and not text else condensed(split, text)
        return Condensed(prompt=await self._stored(workspace_id, prompt, messages))

    async def _stored(self, workspace_id: str, prompt: Prompt, messages: tuple[Message, ...]) -> Prompt:
        """The prompt with other messages, as a history may hold it."""
        async with self._database.transaction() as tx:
            return await generations.for_history(tx, workspace_id, prompt.model_copy(update={"messages": messages}))

    async def _prompt(self, job: Job) -> Prompt:
        if job.input.prompt.sha256 is None:
            return job.input.prompt
        async with self._database.transaction() as tx:
            return await generations.load_prompt(tx, job.input.workspace_id, job.input.prompt)

    async def _make(
        self, step: AskStep | CondenseStep, request_id: str, request: ChatRequest, energy: int, *, on_won: OnWon
    ) -> Settled:
        job, candidate = step.job, step.candidate
        charge = Charge(
            workspace_id=job.input.workspace_id,
            user_id=job.input.user_id,
            prospect_id=job.input.prospect_id,
            job_key=job.job_key,
            workflow_id=job.workflow_id,
            request_id=request_id,
            action=job.input.action,
            energy=energy,
            envelope=Envelope(cap_usd=step.serving.max_cost_usd),
        )

        async def on_other_end(tx: AsyncSession) -> None:
            await generations.record_cost(tx, job)

        whom = (candidate.provider, candidate.model)
        return await self._paid_calls.make(charge, request, *whom, on_won=on_won, on_other_end=on_other_end)

    async def _result(self, step: AskStep, request: ChatRequest, settled: Settled, value: Any) -> GenerateResult:
        cost, attempts = settled.cost_usd, 1
        if not _is_only_try(step, settled):
            async with self._database.transaction() as tx:
                cost, attempts = await _totals(tx, step, settled)
        another = (settled.provider, settled.model) != (step.candidate.provider, step.candidate.model)
        told = {
            "cost_usd": cost,
            "attempts": attempts,
            "reason": "its reply came first" if another else step.candidate.reason,
            "condensed": step.condensed,
            "dropped": dropped_parameters(settled.provider, settled.model, request),
        }
        return from_reply(step.job, step.serving, settled, value, **told)


async def _keep(tx: AsyncSession, step: AskStep, request: ChatRequest, settled: Settled) -> None:
    """Within the settling transaction: the generation's row, and the answer for the next one who asks."""
    row = generations.row(step.job, step.serving, outcome="completed", attempt_id=settled.attempt_id)
    row.provider, row.model = settled.provider.value, settled.model
    row.cost_usd, _ = await _totals(tx, step, settled)
    row.tokens_total = settled.reply.usage.total_tokens
    if not await generations.record(tx, row):
        await generations.record_cost(tx, step.job, row.tokens_total)
    if step.serving.cache is not CachePolicy.OFF:
        await cache.keep(tx, step.job.input, step.serving, request, settled)


async def _totals(tx: AsyncSession, step: AskStep, settled: Settled) -> tuple[Decimal, int]:
    """What the whole generation has cost, and in how many attempts."""
    if _is_only_try(step, settled):
        return settled.cost_usd, 1
    return await generations.totals(tx, step.job.input.workspace_id, step.job.job_key)


def _is_only_try(step: AskStep, settled: Settled) -> bool:
    return step.is_first and settled.is_only_attempt
