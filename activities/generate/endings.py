"""How a generation ends without a paid call of its own: answered from the cache, or refused. Each is a row."""

from sqlalchemy.ext.asyncio import AsyncSession

from activities import metrics
from domain.generate.contract import Cached, GenerateResult, Job, Prompt, Refusal, Serving
from domain.generate.results import answered, meta_of, read
from storage import cache, generations
from storage.cache import Hit


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
