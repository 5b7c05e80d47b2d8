"""What `Generate` decides before anything is paid, and writes down when nobody answered: database steps only."""

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities import metrics
from activities.boundary import boundary
from activities.candidates import CHAT_PROVIDERS, Candidates
from activities.configuration import Configurations
from activities.generate.endings import from_cache, refused, settled_before
from parley.domain.configuration import Configuration, Credentials
from parley.domain.generate.caching import context_sha256, question
from parley.domain.generate.condensing import Summary, beginnings, shortened, worth_a_look
from parley.domain.generate.contract import (
    Cached,
    CachePolicy,
    Ended,
    EndStep,
    GenerateInput,
    GenerateResult,
    Job,
    Prepared,
    Prompt,
    Serving,
    chat_request,
)
from parley.domain.generate.decision import (
    Purse,
    decide,
    models_for,
    retirement_warnings,
    routes_for,
    wish_for,
    wish_warnings,
)
from parley.domain.generate.policy import ActionPolicy
from parley.domain.generate.rendering import rendered, with_preferences
from parley.domain.requests import ChatRequest, Provider
from parley.domain.routing import allowed
from parley.settings import Settings
from parley.storage import budgets, cache, energy, generations, summaries
from parley.storage.cache import Hit
from parley.storage.database import Database
from parley.storage.tables import utc_now


class GenerateDecisions:
    """Local activities: they run in the workflow's own task."""

    def __init__(self, database: Database, candidates: Candidates, settings: Settings) -> None:
        self._database, self._candidates = database, candidates
        self._policy = settings.policy()
        self._routes = self._policy.routes(candidates.models)
        self._configurations = Configurations()
        self._starting_energy = settings.starting_energy

    @activity.defn(name="generate.prepare")
    @boundary
    async def prepare(self, job: Job) -> Prepared:
        """Render the prompt, look for an answer given before, and choose whom to ask."""
        workspace_id = job.input.workspace_id
        async with self._database.transaction() as tx:
            loaded = await self._configurations.get(tx, workspace_id, job.input.user_id)
            configuration = loaded.configuration
            asked = with_preferences(job.input, configuration)
            action = self._policy.of_action(asked.action)
            prompt, serving = rendered(
                asked,
                await generations.load_prompt(tx, workspace_id, asked.prompt),
                self._policy,
                configuration,
                request_id=job.request_id,
                warnings=loaded.warnings,
            )
            request, purse = chat_request(asked, prompt), await self._purse(tx, job, configuration)
            routes = routes_for(asked, self._routes)
            wish = wish_for(asked, action, purse, job.request_id)
            serving = serving.model_copy(update={"warnings": (*serving.warnings, *wish_warnings(routes, wish))})
            hit, how = await self._hit(tx, asked, request, serving, models_for(routes, wish), configuration)
            if hit is not None:
                return Prepared(result=await from_cache(tx, job, serving, prompt, hit, how, purse.energy))
            summary = await self._summary(tx, workspace_id, prompt, action, configuration.credentials)
            shorter = shortened(prompt, action.condense_above_tokens, summary)
            sent = chat_request(asked, shorter.prompt or prompt)
            models = [(route.provider, route.model) for route in allowed(routes, wish)]
            facts = await self._candidates.facts(tx, models, sent, configuration.credentials)
            candidates, refusal = decide(action, routes, facts, purse, wish)
            if refusal is not None:
                return Prepared(result=await refused(tx, job, serving, refusal, purse.energy))
            stored = await generations.for_history(tx, workspace_id, prompt)
            condensed = shorter.prompt and await generations.for_history(tx, workspace_id, shorter.prompt)
        retired = retirement_warnings(self._policy, candidates, utc_now().date())
        return Prepared(
            candidates=candidates,
            prompt=stored,
            serving=serving.model_copy(update={"warnings": (*serving.warnings, *retired)}),
            condense=shorter.condense,
            condensed=condensed,
            kept=summary.kept if summary else None,
        )

    @activity.defn(name="generate.end")
    @boundary
    async def end(self, step: EndStep) -> Ended:
        """Write down how a generation ended that nobody answered; an expired answer may stand in, marked.

        One that was answered, unheard, gets its answer.
        """
        async with self._database.transaction() as tx:
            # A call that still ends changes what this has cost before we look, or finds our row.
            await budgets.lock(tx, step.job.input.workspace_id, budgets.job_scope(step.job.job_key))
            answer = await settled_before(tx, step.job, step.serving)
            if answer is not None:
                return Ended(result=answer)
            left = await self._energy_left(tx, step.job)
            if step.refusal is not None:
                return Ended(result=await refused(tx, step.job, step.serving, step.refusal, left))
            stale = await self._stale(tx, step, left)
            if stale is not None:
                return Ended(result=stale)
            row = generations.row(step.job, step.serving, outcome=step.outcome, reason=step.reason)
            row.cost_usd, _ = await generations.totals(tx, step.job.input.workspace_id, step.job.job_key)
            if await generations.record_without_call(tx, row):
                metrics.generation(row.outcome, row.cached)
        return Ended()

    async def _purse(self, tx: AsyncSession, job: Job, configuration: Configuration) -> Purse:
        """What the user and the workspace have left; whoever is seen for the first time is granted the first energy."""
        workspace_id, profile = job.input.workspace_id, configuration.profile
        left = await budgets.left(tx, workspace_id, utc_now())
        if "tier" in profile.model_fields_set:
            return Purse(tier=profile.tier, energy=profile.energy, left_usd=left)
        starting = self._starting_energy
        account = await energy.open_account(tx, workspace_id, job.input.user_id, starting_energy=starting)
        return Purse(tier=account.tier, energy=energy.available(account), left_usd=left)

    async def _energy_left(self, tx: AsyncSession, job: Job) -> int | None:
        account = await energy.account(tx, job.input.workspace_id, job.input.user_id)
        return energy.available(account) if account else None

    async def _hit(
        self,
        tx: AsyncSession,
        asked: GenerateInput,
        request: ChatRequest,
        serving: Serving,
        models: list[tuple[Provider, str]],
        configuration: Configuration,
    ) -> tuple[Hit | None, Cached]:
        """An answer that was given before, if the policy allows one. A simulator's is none once there is a key."""
        if serving.cache is CachePolicy.OFF:
            return None, Cached.NO
        hit, how = await cache.find(tx, asked.workspace_id, serving.cache_key, models), Cached.EXACT
        if hit is None and serving.cache is CachePolicy.SIMILAR:
            who = (asked.workspace_id, asked.user_id, asked.action)
            hit = await cache.find_similar(tx, *who, context_sha256(request), question(request), models)
            how = Cached.SIMILAR
        if hit is None or hit.simulated != self._candidates.is_simulated(
            hit.provider, configuration.credentials.of(hit.provider)
        ):
            return None, Cached.NO
        return hit, how

    async def _summary(
        self, tx: AsyncSession, workspace_id: str, prompt: Prompt, action: ActionPolicy, credentials: Credentials
    ) -> Summary | None:
        """The summary kept of a long prompt's beginning. A simulator's is none once there is a key."""
        if not worth_a_look(prompt, action.condense_above_tokens):
            return None
        given_by = [(one, self._candidates.is_simulated(one, credentials.of(one))) for one in CHAT_PROVIDERS]
        return await summaries.find(tx, workspace_id, beginnings(prompt.messages), given_by)

    async def _stale(self, tx: AsyncSession, step: EndStep, energy_left: int | None) -> GenerateResult | None:
        if not step.may_be_stale or step.serving.cache is CachePolicy.OFF:
            return None
        workspace_id = step.job.input.workspace_id
        models = [(one.provider, one.model) for one in step.candidates]
        stale = await cache.find_stale(tx, workspace_id, step.serving.cache_key, models)
        if stale is None:
            return None
        prompt = await generations.load_prompt(tx, workspace_id, step.job.input.prompt)
        return await from_cache(tx, step.job, step.serving, prompt, stale, Cached.STALE, energy_left)
