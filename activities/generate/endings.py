"""How a generation ends: with a reply that was paid for, answered from the cache, or refused. Each is a row."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from activities import metrics
from parley.domain.generate.contract import Cached, GenerateResult, Job, Prompt, Refusal, Serving
from parley.domain.generate.results import answered, chat_reply, meta_of, read
from parley.storage import cache, generations, ledger
from parley.storage.cache import Hit
from parley.storage.ledger import Settled


def from_reply(job: Job, serving: Serving, settled: Settled, value: Any, **known: Any) -> GenerateResult:
    """An answer that was paid for. `known`: whatever else there is to say of it."""
    reply = chat_reply(settled.reply)
    told = {
        "usage": reply.usage,
        "provider": settled.provider,
        "model": settled.model,
        "answered_by": reply.model,
        "simulated": settled.simulated,
        "finish": reply.finish,
        "energy_charged": settled.energy_charged,
        "energy_left": settled.energy_left,
        **known,
    }
    return answered(reply, value, meta_of(job, serving).model_copy(update=told))


async def settled_before(tx: AsyncSession, job: Job, serving: Serving) -> GenerateResult | None:
    """The answer of a generation that only seems to have failed: whoever settled it was gone before saying so."""
    workspace_id = job.input.workspace_id
    attempt_id = await generations.answered_by(tx, workspace_id, job.request_id)
    settled = await ledger.settled_by(tx, workspace_id, attempt_id) if attempt_id else None
    if settled is None:
        return None
    value, _ = read(settled.reply, await generations.load_prompt(tx, workspace_id, job.input.prompt))
    cost, attempts = await generations.totals(tx, workspace_id, job.job_key)
    told = {"cost_usd": cost, "attempts": attempts, "reason": "its reply was settled before it could be told"}
    return from_reply(job, serving, settled, value, **told)


async def from_cache(
    tx: AsyncSession, job: Job, serving: Serving, prompt: Prompt, hit: Hit, how: Cached, energy_left: int | None
) -> GenerateResult:
    """Give an answer again: it costs nothing, and says what it saved."""
    row = generations.row(job, serving, outcome="completed", cached=how.value, attempt_id=hit.attempt_id)
    row.provider, row.model, row.saved_usd = hit.provider.value, hit.model, hit.cost_usd
    if await generations.record_without_call(tx, row):
        metrics.generation(row.outcome, row.cached)
        await cache.used(tx, job.input.workspace_id, hit)
    value, _ = read(hit.reply, prompt)
    told = {
        "saved_usd": hit.cost_usd,
        "provider": hit.provider,
        "model": hit.model,
        "answered_by": hit.reply.model,
        "simulated": hit.simulated,
        "finish": hit.reply.finish,
        "cached": how,
        "reason": f"an answer from the cache ({how.value})",
        "energy_left": energy_left,
    }
    return answered(hit.reply, value, meta_of(job, serving).model_copy(update=told))


async def refused(
    tx: AsyncSession, job: Job, serving: Serving, refusal: Refusal, energy_left: int | None
) -> GenerateResult:
    """A refusal is a result. What was tried before it has cost what it has cost."""
    row = generations.row(job, serving, outcome="refused", reason=refusal.code.value)
    row.cost_usd, attempts = await generations.totals(tx, job.input.workspace_id, job.job_key)
    if await generations.record_without_call(tx, row):
        metrics.generation(row.outcome, row.cached)
    told = {"energy_left": energy_left, "cost_usd": row.cost_usd, "attempts": attempts}
    return GenerateResult(success=False, refusal=refusal, meta=meta_of(job, serving).model_copy(update=told))
