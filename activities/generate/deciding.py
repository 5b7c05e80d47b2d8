"""The free steps of `Generate`: decide before anything is paid, and record a generation that ends without an answer.

Both are local activities: they run in the workflow's own task, and only read and write the database.
"""

from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from activities.candidates import Candidates
from activities.configuration import Configurations
from activities.metrics import Metrics
from parley.domain.budgets import least_left_usd
from parley.domain.configuration import Configuration, Credentials
from parley.domain.errors import IdempotencyConflict, NotFound
from parley.domain.generate.caching import context_sha256, question
from parley.domain.generate.condensing import StoredSummary, may_use_summary, prefix_hashes
from parley.domain.generate.contract import (
    Cached,
    CachePolicy,
    EndOutcome,
    EndStep,
    GenerateResult,
    Job,
    PrepareOutcome,
    Prompt,
    Refusal,
    Refused,
    Serving,
    chat_request,
)
from parley.domain.generate.planning import Balance, Gathered, Plan, RenderedRequest, plan, render_request
from parley.domain.generate.policy import Policy
from parley.domain.generate.replies import answered, chat_reply, initial_meta, read_answer
from parley.domain.requests import CHAT_PROVIDERS, Finish, Provider, Usage
from parley.storage import breaker, budgets, cache, configuration, energy, generations, ledger, summaries
from parley.storage.cache import Hit
from parley.storage.database import Database
from parley.storage.driver import atomic, fetch_together
from parley.storage.ledger import Settled
from parley.storage.tables import Generation, utc_now

ANSWERED_BEFORE = "its key was answered before"
CONTINUED = "the stream of the answer broke: it was continued by a further request"
UNREPORTED = "the reply of an earlier attempt was settled, but the worker stopped before it reported the reply"


class GenerateDecisions:
    """`policy` and `starting_energy` come from the worker's settings. A new user is granted `starting_energy`."""

    def __init__(
        self, database: Database, candidates: Candidates, policy: Policy, starting_energy: int, metrics: Metrics
    ) -> None:
        self._database, self._candidates, self._metrics = database, candidates, metrics
        self._policy, self._starting_energy = policy, starting_energy
        self._routes = policy.routes(candidates.models)
        self._configurations = Configurations()

    @activity.defn(name="generate.prepare")
    @boundary
    async def prepare(self, job: Job) -> PrepareOutcome:
        """Render the prompt, look for a cached answer, and choose the candidates: read, plan, write.

        The configuration is read first: the rendered prompt depends on it, and the cache key depends on the rendered
        prompt. What was answered before under the same key is returned again; a reply that was paid for and not judged
        is judged first.
        """
        return await self.decide(job)

    async def decide(self, job: Job, prompt: Prompt | None = None) -> PrepareOutcome:
        """What `prepare` does. `prompt`: the job's prompt in full, where the caller has it."""
        workspace_id, user_id = job.input.workspace_id, job.input.user_id
        async with self._database.reads() as tx:
            before, glance, caps, waits = await fetch_together(
                tx,
                generations.known(job),
                configuration.look(workspace_id, user_id),
                budgets.caps(workspace_id),
                breaker.waits(workspace_id),
            )
            earlier = await generations.earlier(tx, job, before)
            answer = await _recorded_answer(tx, job, earlier.row, reason=ANSWERED_BEFORE)
            if answer is not None and (earlier.is_first or answer.meta.cached is not Cached.STALE):
                return PrepareOutcome(result=answer)
            loaded = await self._configurations.get(tx, workspace_id, user_id, glance)
            balance = await self._balance(tx, job, loaded.configuration, least_left_usd(caps), earlier.energy)
            prompt = prompt or await generations.load_prompt(tx, workspace_id, job.input.prompt)
            gathered = Gathered(
                configuration=loaded.configuration, warnings=loaded.warnings, prompt=prompt, balance=balance
            )
            request = render_request(job, gathered, self._policy, self._routes)
            if not earlier.is_first:
                async with atomic(tx):
                    answer = await self._earlier_answer(tx, job, request.serving, reason=ANSWERED_BEFORE)
                if answer is not None:
                    return PrepareOutcome(result=answer)
            credentials = gathered.configuration.credentials
            hit, how = await self._cached_answer(tx, request, credentials)
            summary = None if hit else await self._stored_summary(tx, request, credentials)
        energy_left = gathered.balance.energy
        if hit is not None:
            async with self._database.transaction() as tx:
                result = await self._from_cache(tx, job, request.serving, request.prompt, hit, how, energy_left)
            return PrepareOutcome(result=result)
        decided = plan(
            request,
            gathered.balance,
            summary,
            self._candidates.statuses(credentials, waits),
            rates=self._candidates.rates,
            policy=self._policy,
            today=utc_now().date(),
        )
        if decided.refusal is not None:
            async with self._database.transaction() as tx:
                result = await self._refused(tx, job, decided.serving, decided.refusal, energy_left)
            return PrepareOutcome(result=result)
        async with self._database.transaction() as tx:
            outcome = await _for_history(tx, job, request.prompt, decided, summary)
        return outcome.model_copy(update={"first_ask": earlier.first_ask, "is_first": earlier.is_first})

    @activity.defn(name="generate.end")
    @boundary
    async def end(self, step: EndStep) -> EndOutcome:
        """Record how a generation without an answer ended. An expired answer may be returned instead, marked as stale.

        If a reply was settled but not reported to the workflow, the result is its answer.
        """
        job, serving = step.job, step.serving
        workspace_id = job.input.workspace_id
        if step.reason == IdempotencyConflict.__name__:
            # The key, and so the row, belongs to the other request.
            return EndOutcome()
        async with self._database.transaction() as tx:
            answer = await self._earlier_answer(tx, job, serving, reason=UNREPORTED)
            if answer is not None:
                return EndOutcome(result=answer, cost_usd=answer.meta.cost_usd)
            account = await energy.account(tx, workspace_id, job.input.user_id)
            energy_left = energy.available(account) if account else None
            if step.refusal is not None:
                return EndOutcome(result=await self._refused(tx, job, serving, step.refusal, energy_left))
            stale = await self._stale_answer(tx, step, energy_left)
            if stale is not None:
                return EndOutcome(result=stale)
            row = generations.row(job, serving, outcome=step.outcome, reason=step.reason)
            row.cost_usd, _ = await generations.totals(tx, workspace_id, job.job_key)
            if await generations.record_without_call(tx, row):
                self._metrics.generation_ended(row.outcome, row.cached)
        return EndOutcome(cost_usd=row.cost_usd)

    # What was paid for before.

    async def _earlier_answer(
        self, tx: AsyncSession, job: Job, serving: Serving, *, reason: str
    ) -> GenerateResult | None:
        """The answer that was given under the generation's key, or was paid for and not given; None without one.

        Settlements need the lock that it takes. An attempt that settled before it is judged here and is in the totals;
        one that settles later updates the cost of the row. A paid answer is preferred to an expired one.
        """
        await budgets.lock(tx, job.input.workspace_id, budgets.job_scope(job.job_key))
        row = await generations.find(tx, job.input.workspace_id, job.request_id)
        is_final = row is not None and row.outcome == "completed" and row.cached != Cached.STALE
        settled = None if is_final else await self._settled_answer(tx, job, serving)
        return settled or await _recorded_answer(tx, job, row, reason=reason)

    async def _settled_answer(self, tx: AsyncSession, job: Job, serving: Serving) -> GenerateResult | None:
        """The answer in the last settled reply, which is recorded here: its worker stopped before it did.

        Raises:
            NotFound: its content was removed.
        """
        workspace_id = job.input.workspace_id
        attempt_id = await generations.last_reply(tx, workspace_id, job.job_key)
        settled = await ledger.settled_by(tx, workspace_id, attempt_id) if attempt_id else None
        if settled is None:
            return None
        _require_content(job, settled)
        prompt = await generations.load_prompt(tx, workspace_id, job.input.prompt)
        value, problem = read_answer(settled.reply, prompt)
        if problem:
            return None
        known = await counts_of(tx, job, settled)
        if await generations.record(tx, answered_row(job, serving, settled, known["cost_usd"])):
            self._metrics.generation_ended("completed", "")
        if serving.cache is not CachePolicy.OFF:
            await cache.store(tx, job.input, serving, chat_request(job.input, prompt), settled)
        return result_of(job, serving, settled, value, **known, reason=UNREPORTED)

    # What `prepare` reads.

    async def _balance(
        self, tx: AsyncSession, job: Job, stored: Configuration, left_usd: Decimal | None, paid_energy: int
    ) -> Balance:
        """What the user and the workspace have left. A new user is granted the starting energy."""
        workspace_id, profile = job.input.workspace_id, stored.profile
        if "tier" in profile.model_fields_set:
            return Balance(tier=profile.tier, energy=profile.energy, left_usd=left_usd, paid_energy=paid_energy)
        # The account and its grant are one transaction: a concurrent request must not see an account without energy.
        async with atomic(tx):
            account = await energy.open_account(
                tx, workspace_id, job.input.user_id, starting_energy=self._starting_energy
            )
        left = energy.available(account)
        return Balance(tier=account.tier, energy=left, left_usd=left_usd, paid_energy=paid_energy)

    async def _cached_answer(
        self, tx: AsyncSession, request: RenderedRequest, credentials: Credentials
    ) -> tuple[Hit | None, Cached]:
        """A cached answer, if the policy allows one.

        It is used only if it comes from the source that would answer now: the provider, or the simulator in its place.
        """
        serving, models = request.serving, request.cached_models
        if serving.cache is CachePolicy.OFF:
            return None, Cached.NO
        workspace_id = request.input.workspace_id
        hit, how = await cache.find(tx, workspace_id, serving.cache_key, models), Cached.EXACT
        if hit is None and serving.cache is CachePolicy.SIMILAR:
            asker = (workspace_id, request.input.user_id, request.input.action)
            sent = request.chat_request
            hit = await cache.find_similar(tx, *asker, context_sha256(sent), question(sent), models)
            how = Cached.SIMILAR
        if hit is None:
            return None, Cached.NO
        simulated = self._candidates.is_simulated(hit.provider, credentials.of(hit.provider))
        return (hit, how) if hit.simulated == simulated else (None, Cached.NO)

    async def _stored_summary(
        self, tx: AsyncSession, request: RenderedRequest, credentials: Credentials
    ) -> StoredSummary | None:
        """The stored summary of a long prompt's beginning.

        It is used only if it comes from a source that would answer now, as a cached answer.
        """
        if not may_use_summary(request.prompt, request.condense_above_tokens):
            return None
        answering = self._answering(credentials)
        return await summaries.find(tx, request.input.workspace_id, prefix_hashes(request.prompt.messages), answering)

    def _answering(self, credentials: Credentials) -> list[tuple[Provider, bool]]:
        """Each chat provider, with whether the simulator answers in its place now."""
        return [
            (provider, self._candidates.is_simulated(provider, credentials.of(provider))) for provider in CHAT_PROVIDERS
        ]

    # Results without a paid request in this step.

    async def _stale_answer(self, tx: AsyncSession, step: EndStep, energy_left: int | None) -> GenerateResult | None:
        """An expired answer. The simulator's are not used once there is a key."""
        if not step.may_be_stale or step.serving.cache is CachePolicy.OFF:
            return None
        workspace_id, user_id = step.job.input.workspace_id, step.job.input.user_id
        credentials = (await self._configurations.get(tx, workspace_id, user_id)).configuration.credentials
        models = [(candidate.provider, candidate.model) for candidate in step.candidates]
        answering = self._answering(credentials)
        stale = await cache.find_stale(tx, workspace_id, step.serving.cache_key, models, answering)
        if stale is None:
            return None
        prompt = await generations.load_prompt(tx, workspace_id, step.job.input.prompt)
        return await self._from_cache(tx, step.job, step.serving, prompt, stale, Cached.STALE, energy_left)

    async def _from_cache(
        self,
        tx: AsyncSession,
        job: Job,
        serving: Serving,
        prompt: Prompt,
        hit: Hit,
        how: Cached,
        energy_left: int | None,
    ) -> GenerateResult:
        """Record a generation with a cached answer, and return it.

        The answer costs nothing; the cost is that of attempts before it. `saved_usd` is the answer's original cost.
        """
        row = generations.row(job, serving, outcome="completed", cached=how.value, attempt_id=hit.attempt_id)
        row.provider, row.model, row.saved_usd = hit.provider.value, hit.model, hit.cost_usd
        row.cost_usd, attempts = await generations.totals(tx, job.input.workspace_id, job.job_key)
        if await generations.record_without_call(tx, row):
            self._metrics.generation_ended(row.outcome, row.cached)
            await cache.used(tx, job.input.workspace_id, hit)
        value, _ = read_answer(hit.reply, prompt)
        details = {
            "cost_usd": row.cost_usd,
            "attempts": attempts,
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
        return answered(job, hit.reply, value, initial_meta(job, serving).model_copy(update=details))

    async def _refused(
        self, tx: AsyncSession, job: Job, serving: Serving, refusal: Refusal, energy_left: int | None
    ) -> GenerateResult:
        """Record a refusal and return it. Its cost includes the job's earlier attempts."""
        row = generations.row(job, serving, outcome="refused", reason=refusal.code.value)
        row.cost_usd, attempts = await generations.totals(tx, job.input.workspace_id, job.job_key)
        if await generations.record_without_call(tx, row):
            self._metrics.generation_ended(row.outcome, row.cached)
        finish = Finish.REFUSED if refusal.code is Refused.CONTENT_FILTERED else None
        details = {"energy_left": energy_left, "cost_usd": row.cost_usd, "attempts": attempts, "finish": finish}
        return GenerateResult(
            success=False, refusal=refusal, meta=initial_meta(job, serving).model_copy(update=details)
        )


async def _for_history(
    tx: AsyncSession, job: Job, prompt: Prompt, decided: Plan, summary: StoredSummary | None
) -> PrepareOutcome:
    """The plan for the workflow's history. Long prompts are stored in the database, and the plan refers to them."""
    stored = await generations.for_history(tx, job, prompt)
    condensed = decided.condensed and await generations.for_history(tx, job, decided.condensed)
    return PrepareOutcome(
        candidates=decided.candidates,
        prompt=stored,
        serving=decided.serving,
        condense=decided.condense,
        condensed=condensed,
        summary=summary.reference if summary else None,
    )


async def _recorded_answer(tx: AsyncSession, job: Job, row: Generation | None, *, reason: str) -> GenerateResult | None:
    """The answer that is recorded for a generation, and why it is returned; None without one.

    Raises:
        NotFound: its content was removed.
    """
    if row is None or row.outcome != "completed" or row.attempt_id is None:
        return None
    settled = await ledger.settled_by(tx, row.workspace_id, row.attempt_id)
    if settled is None:
        return None
    _require_content(job, settled)
    value, _ = read_answer(settled.reply, await generations.load_prompt(tx, row.workspace_id, job.input.prompt))
    details = await counts_of(tx, job, settled) | {"cost_usd": row.cost_usd, "reason": reason}
    if row.cached:
        details |= {"cached": Cached(row.cached), "saved_usd": row.saved_usd, "usage": Usage(), "energy_charged": 0}
        details |= {"prompt_cache_saved_usd": Decimal(0)}
    serving = Serving(template=row.template, experiment=row.experiment, arm=row.arm)
    return result_of(job, serving, settled, value, **details)


def _require_content(job: Job, settled: Settled) -> None:
    """Refuse an answer of which only the counts are left: it would be an empty success."""
    if chat_reply(settled.reply).forgotten:
        raise NotFound(
            f"the answer of {job.workflow_id!r} was removed, as its user asked or by the workspace's content_days: "
            "use another key to request a new one"
        )


def answered_row(job: Job, serving: Serving, settled: Settled, cost_usd: Decimal) -> Generation:
    """The row of a generation with an answer that was paid for."""
    row = generations.row(job, serving, outcome="completed", attempt_id=settled.attempt_id)
    row.provider, row.model, row.cost_usd = settled.provider.value, settled.model, cost_usd
    row.tokens_total = settled.reply.usage.total_tokens
    return row


async def counts_of(tx: AsyncSession, job: Job, settled: Settled) -> dict[str, Any]:
    """What all attempts of a generation have cost, and their number; the usage of those that made its answer."""
    workspace_id, reply = job.input.workspace_id, chat_reply(settled.reply)
    cost_usd, attempts = await generations.totals(tx, workspace_id, job.job_key)
    usage = await generations.usage(tx, workspace_id, job.job_key, reply)
    return {"cost_usd": cost_usd, "attempts": attempts, "usage": usage}


def result_of(job: Job, serving: Serving, settled: Settled, value: Any, **details: Any) -> GenerateResult:
    """The result for an answer that was paid for. `details`: further fields of its `Meta`."""
    reply = chat_reply(settled.reply)
    known = {
        "usage": reply.usage,
        "provider": settled.provider,
        "model": settled.model,
        "answered_by": reply.model,
        "simulated": settled.simulated,
        "finish": reply.finish,
        "prompt_cache_saved_usd": settled.prompt_cache_saved_usd,
        "energy_charged": settled.energy_charged,
        "energy_left": settled.energy_left,
        **details,
    }
    if reply.continues:
        known["warnings"] = (*serving.warnings, CONTINUED)
    return answered(job, reply, value, initial_meta(job, serving).model_copy(update=known))
