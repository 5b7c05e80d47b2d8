"""The side effects of `Generate`: decide before anything is paid, ask, condense, write down how it ended."""

from datetime import UTC, date, datetime
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities import metrics
from activities.boundary import boundary
from activities.configuration import Configurations, Loaded
from activities.paid_call import PaidCalls, Payer
from domain.calls import ChatRequest, Message, Provider
from domain.configuration import variables
from domain.generate.caching import cache_key, context_sha256, question
from domain.generate.compression import compressed, summary_request, to_compress
from domain.generate.contract import (
    Asked,
    AskStep,
    Cached,
    CachePolicy,
    Compressed,
    CompressStep,
    Ended,
    EndStep,
    GenerateInput,
    GenerateResult,
    Job,
    Prepared,
    Prompt,
    Refusal,
    Serving,
    chat_request,
)
from domain.generate.decision import (
    Purse,
    decide,
    is_sampled,
    models_for,
    retirement_warnings,
    routes_for,
    wish_for,
)
from domain.generate.experiments import arm
from domain.generate.parsing import check_schema
from domain.generate.policy import ActionPolicy, Policy
from domain.generate.prompts import render, template
from domain.generate.results import answered, chat_reply, meta_of, read
from domain.routing import Candidate, dropped_parameters
from settings import Settings
from storage import budgets, cache, energy, generations
from storage.cache import Hit
from storage.database import Database
from storage.ledger import AlsoSettle, Settled
from storage.tables import utc_now

Models = list[tuple[Provider, str]]


class GenerateActivities:
    """Activities of one worker, on its database and its providers."""

    def __init__(self, database: Database, paid_calls: PaidCalls, settings: Settings) -> None:
        self._database, self._paid_calls = database, paid_calls
        self._policy: Policy = settings.policy()
        self._candidates = paid_calls.candidates
        self._routes = self._policy.routes(self._candidates.models)
        self._configurations = Configurations()
        self._starting_energy = settings.starting_energy

    @activity.defn(name="generate.prepare")
    @boundary
    async def prepare(self, job: Job) -> Prepared:
        """Render the prompt, look for an answer given before, and choose whom to ask: nothing is paid."""
        workspace_id = job.input.workspace_id
        async with self._database.transaction() as tx:
            loaded = await self._configurations.get(tx, workspace_id, job.input.user_id)
            asked = _with_settings(job.input, loaded)
            action = self._policy.of_action(asked.action)
            given = await generations.load_prompt(tx, workspace_id, asked.prompt)
            prompt, serving = self._rendered(job.request_id, asked, action, given, loaded)
            request = chat_request(asked, prompt)
            serving = serving.model_copy(update={"cache_key": cache_key(workspace_id, request)})
            purse = await self._purse(tx, job, loaded)
            routes = routes_for(asked, self._routes)
            wish = wish_for(asked, action, purse, job.request_id)
            hit, how = await self._hit(tx, asked, request, serving, models_for(routes, wish))
            if hit is not None:
                return Prepared(result=await self._cached(tx, job, serving, prompt, hit, how, purse.energy))
            models = [(route.provider, route.model) for route in routes]
            facts = await self._candidates.facts(tx, models, request, loaded.configuration.credentials)
            candidates, refusal = decide(action, routes, facts, purse, wish)
            if refusal is not None:
                return Prepared(result=await self._refused(tx, job, serving, refusal, purse.energy))
            await budgets.open_envelope(tx, workspace_id, budgets.job_scope(job.job_key), action.max_cost_usd)
            kept = prompt if prompt.is_short else await generations.save_prompt(tx, workspace_id, prompt)
        retired = retirement_warnings(self._policy, candidates, _today())
        return Prepared(
            candidates=candidates,
            prompt=kept,
            serving=serving.model_copy(update={"warnings": (*serving.warnings, *retired)}),
            compress=_is_long(request, action) and to_compress(request.messages) is not None,
        )

    @activity.defn(name="generate.ask")
    @boundary
    async def ask(self, step: AskStep) -> Asked:
        """One paid request. The answer is kept with what it cost, in one transaction."""
        prompt = await self._prompt(step.job)
        request = chat_request(step.job.input, prompt)

        async def keep(tx: AsyncSession, settled: Settled) -> None:
            if not read(settled.reply, prompt)[1]:
                await self._keep(tx, step, request, settled)

        settled = await self._make(step.job, step.request_id, step.candidate, request, step.energy, also=keep)
        value, problem = read(settled.reply, prompt)
        if problem:
            return Asked(problem=problem)
        metrics.generation("completed", "")
        return Asked(result=await self._result(step, request, settled, value))

    @activity.defn(name="generate.compress")
    @boundary
    async def compress(self, step: CompressStep) -> Compressed:
        """Condense all but the system prompt and the last messages, in a paid request of its own."""
        prompt = await self._prompt(step.job)
        split = to_compress(prompt.messages)
        if split is None:
            return Compressed()
        settled = await self._make(step.job, step.request_id, step.candidate, summary_request(split), energy=0)
        condensed = prompt.model_copy(update={"messages": compressed(split, chat_reply(settled.reply).text)})
        if condensed.is_short:
            return Compressed(prompt=condensed)
        async with self._database.transaction() as tx:
            return Compressed(prompt=await generations.save_prompt(tx, step.job.input.workspace_id, condensed))

    @activity.defn(name="generate.end")
    @boundary
    async def end(self, step: EndStep) -> Ended:
        """Write down how a generation ended that nobody answered; an expired answer may stand in, marked."""
        workspace_id = step.job.input.workspace_id
        async with self._database.transaction() as tx:
            left = await self._energy_left(tx, step.job)
            if step.refusal is not None:
                return Ended(result=await self._refused(tx, step.job, step.serving, step.refusal, left))
            models = [(one.provider, one.model) for one in step.candidates]
            if step.may_be_stale and step.serving.cache is not CachePolicy.OFF:
                stale = await cache.find_stale(tx, workspace_id, step.serving.cache_key, models)
                if stale is not None:
                    prompt = await generations.load_prompt(tx, workspace_id, step.job.input.prompt)
                    answered = await self._cached(tx, step.job, step.serving, prompt, stale, Cached.STALE, left)
                    return Ended(result=answered)
            row = generations.row(step.job, step.serving, outcome=step.outcome, reason=step.reason)
            row.cost_usd, _ = await generations.totals(tx, workspace_id, step.job.job_key)
            await generations.record_without_call(tx, row)
        metrics.generation(row.outcome, row.cached)
        return Ended()

    def _rendered(
        self, request_id: str, asked: GenerateInput, action: ActionPolicy, given: Prompt, loaded: Loaded
    ) -> tuple[Prompt, Serving]:
        """The prompt with its template before it, and the terms that it is served on."""
        if given.response_schema is not None:
            check_schema(given.response_schema)
        experiment, chosen = self._template(asked, action, loaded)
        messages = given.messages
        if chosen:
            system = render(template(chosen), variables(loaded.configuration))
            messages = (Message(role="system", content=system), *messages)
        return given.model_copy(update={"messages": messages}), Serving(
            energy=action.energy,
            cache=asked.cache or action.cache,
            cache_seconds=action.cache_seconds,
            on_rate_limit=asked.on_rate_limit or action.on_rate_limit,
            template=template(chosen).id if chosen else "",
            experiment=experiment,
            arm=chosen if experiment else "",
            warnings=loaded.warnings,
            score_quality=is_sampled(action.quality_sample, request_id),
        )

    def _template(self, asked: GenerateInput, action: ActionPolicy, loaded: Loaded) -> tuple[str, str]:
        """The experiment, if any, and the template: the request's own before an experiment's arm before defaults."""
        if asked.template:
            return "", asked.template
        of_action = [name for name, one in self._policy.experiment.items() if one.action == asked.action]
        name = asked.experiment or next(iter(of_action), "")
        if name:
            return name, arm(name, self._policy.experiment_named(name), asked.user_id)
        return "", action.template or loaded.configuration.ai_settings.template or ""

    async def _purse(self, tx: AsyncSession, job: Job, loaded: Loaded) -> Purse:
        """What the user and the workspace have left; whoever is seen for the first time is granted the first energy."""
        workspace_id, user_id = job.input.workspace_id, job.input.user_id
        profile = loaded.configuration.profile
        left = await budgets.left(tx, workspace_id, utc_now())
        if "tier" in profile.model_fields_set:
            return Purse(tier=profile.tier, energy=profile.coins, left_usd=left)
        account = await energy.open_account(tx, workspace_id, user_id, starting_energy=self._starting_energy)
        return Purse(tier=account.tier, energy=energy.available(account), left_usd=left)

    async def _energy_left(self, tx: AsyncSession, job: Job) -> int | None:
        account = await energy.account(tx, job.input.workspace_id, job.input.user_id)
        return energy.available(account) if account else None

    async def _hit(
        self, tx: AsyncSession, asked: GenerateInput, request: ChatRequest, serving: Serving, models: Models
    ) -> tuple[Hit | None, Cached]:
        """An answer that was given before, if the policy allows one."""
        if serving.cache is CachePolicy.OFF:
            return None, Cached.NO
        exact = await cache.find(tx, asked.workspace_id, serving.cache_key, models)
        if exact is not None or serving.cache is CachePolicy.EXACT:
            return exact, Cached.EXACT
        context, said = context_sha256(request), question(request)
        who = (asked.workspace_id, asked.user_id, asked.action)
        return await cache.find_similar(tx, *who, context, said, models), Cached.SIMILAR

    async def _cached(
        self, tx: AsyncSession, job: Job, serving: Serving, prompt: Prompt, hit: Hit, how: Cached, left: int | None
    ) -> GenerateResult:
        """Give an answer again: it costs nothing, is a row, and says what it saved."""
        row = generations.row(job, serving, outcome="completed", cached=how.value, attempt_id=hit.attempt_id)
        row.provider, row.model, row.saved_usd = hit.provider.value, hit.model, hit.cost_usd
        if await generations.record_without_call(tx, row):
            metrics.generation(row.outcome, row.cached)
            await cache.used(tx, job.input.workspace_id, hit)
        value, _ = read(hit.reply, prompt)
        meta = meta_of(job, serving).model_copy(
            update={
                "saved_usd": hit.cost_usd,
                "provider": hit.provider,
                "model": hit.model,
                "answered_by": hit.reply.model,
                "simulated": hit.simulated,
                "finish": hit.reply.finish,
                "cached": how,
                "reason": f"an answer from the cache ({how.value})",
                "energy_left": left,
            }
        )
        return answered(hit.reply, value, meta)

    async def _refused(
        self, tx: AsyncSession, job: Job, serving: Serving, refusal: Refusal, left: int | None
    ) -> GenerateResult:
        row = generations.row(job, serving, outcome="refused", reason=refusal.code.value)
        row.cost_usd, attempts = await generations.totals(tx, job.input.workspace_id, job.job_key)
        if await generations.record_without_call(tx, row):
            metrics.generation(row.outcome, row.cached)
        meta = meta_of(job, serving).model_copy(
            update={"energy_left": left, "cost_usd": row.cost_usd, "attempts": attempts}
        )
        return GenerateResult(success=False, refusal=refusal, meta=meta)

    async def _keep(self, tx: AsyncSession, step: AskStep, request: ChatRequest, settled: Settled) -> None:
        """Within the settling transaction: the generation's row, and the answer for the next one who asks."""
        serving, asked = step.serving, step.job.input
        cost, _ = await self._totals(tx, step, settled)
        row = generations.row(step.job, serving, outcome="completed", attempt_id=settled.attempt_id)
        row.provider, row.model, row.cost_usd = settled.provider.value, settled.model, cost
        row.tokens_total = settled.reply.usage.total_tokens
        await generations.record(tx, row)
        if serving.cache is not CachePolicy.OFF:
            await cache.keep(tx, asked, serving, request, settled)

    async def _result(self, step: AskStep, request: ChatRequest, settled: Settled, value: object) -> GenerateResult:
        cost, attempts = settled.cost_usd, 1
        if not _is_only_try(step):
            async with self._database.transaction() as tx:
                cost, attempts = await self._totals(tx, step, settled)
        asked_others = (settled.provider, settled.model) != (step.candidate.provider, step.candidate.model)
        meta = meta_of(step.job, step.serving).model_copy(
            update={
                "usage": settled.reply.usage,
                "cost_usd": cost,
                "attempts": attempts,
                "provider": settled.provider,
                "model": settled.model,
                "answered_by": settled.reply.model,
                "simulated": settled.simulated,
                "finish": chat_reply(settled.reply).finish,
                "reason": "its reply came first" if asked_others else step.candidate.reason,
                "energy_charged": settled.energy_charged,
                "energy_left": settled.energy_left,
                "compressed": step.compressed,
                "dropped": dropped_parameters(settled.provider, settled.model, request),
            }
        )
        return answered(chat_reply(settled.reply), value, meta)

    async def _totals(self, tx: AsyncSession, step: AskStep, settled: Settled) -> tuple[Decimal, int]:
        """What the whole generation has cost, and in how many attempts."""
        if _is_only_try(step):
            return settled.cost_usd, 1
        return await generations.totals(tx, step.job.input.workspace_id, step.job.job_key)

    async def _prompt(self, job: Job) -> Prompt:
        if job.input.prompt.sha256 is None:
            return job.input.prompt
        async with self._database.transaction() as tx:
            return await generations.load_prompt(tx, job.input.workspace_id, job.input.prompt)

    async def _make(
        self,
        job: Job,
        request_id: str,
        candidate: Candidate,
        request: ChatRequest,
        energy: int,
        also: AlsoSettle | None = None,
    ) -> Settled:
        payer = Payer(
            workspace_id=job.input.workspace_id,
            user_id=job.input.user_id,
            prospect_id=job.input.prospect_id,
            job_key=job.job_key,
            workflow_id=job.workflow_id,
            request_id=request_id,
            action=job.input.action,
            energy=energy,
        )
        return await self._paid_calls.make(payer, request, candidate.provider, candidate.model, also=also)


def _is_only_try(step: AskStep) -> bool:
    return step.is_first and activity.info().attempt == 1


def _with_settings(asked: GenerateInput, loaded: Loaded) -> GenerateInput:
    """The user's own preferences, where the request names none."""
    prefers = loaded.configuration.ai_settings
    if asked.provider or asked.model or not (prefers.provider or prefers.model):
        return asked
    return asked.model_copy(update={"provider": prefers.provider, "model": prefers.model})


def _today() -> date:
    return datetime.now(UTC).date()


def _is_long(request: ChatRequest, action: ActionPolicy) -> bool:
    limit = action.compress_above_tokens
    return limit is not None and sum(len(message.content.encode()) for message in request.messages) > 4 * limit
