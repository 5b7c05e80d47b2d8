"""The one door to money: claim, call, settle. docs/paid-call.md tells the protocol, this file follows it.

1. claim   one transaction: a settled request returns its journaled reply; a live lease is waited for, never
           raced; else the lease is taken, a silent owner's attempt ends as lost, the breaker is asked, and the
           most that the call can cost is reserved.
2. call    the provider, under the attempt's id, renewing the lease all the while.
3. settle  one transaction: reply, usage row, event and charge. First writer wins.

Once the request is on its way, neither cancellation nor SIGTERM interrupts it: it is paid for, so it is kept.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.failpoints import Failpoints
from domain.calls import Model, Provider, Reply, Request, Usage, fingerprint
from domain.errors import Billed, ProviderError, ProviderNotConfigured, ProviderUnavailable, UnpricedModel, Unreachable
from domain.pricing import ConfiguredRates, Rates, cost, rates_for, upper_bound
from domain.routing import Option
from providers.registry import Providers
from settings import Settings
from storage import breaker, ledger
from storage.breaker import BreakerTerms
from storage.database import Database
from storage.ledger import CallIdentity, Failure, Granted, Held, Offer, Settled, Terms

LEASE_POLL_SECONDS = 0.5
RECONNECT_SECONDS = 0.5
T = TypeVar("T")


class Payer(Model):
    """On whose account a step of a job is made. `energy`: what the user is charged for a result."""

    workspace_id: str
    user_id: str
    prospect_id: str | None = None
    job_key: str
    workflow_id: str
    request_id: str
    action: str
    energy: int


class PaidCalls:
    """Everything that costs money goes through `make`."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._providers = Providers(settings)
        self._failpoints = Failpoints(settings.parley_failpoints)
        self._timeout = settings.provider_timeout_seconds
        self._patience = settings.settle_patience_seconds
        self._rates = ConfiguredRates.of(settings)
        self._terms = Terms(
            lease_seconds=settings.lease_seconds,
            reservation_seconds=settings.reservation_seconds,
            breaker=BreakerTerms(
                failures=settings.breaker_failures,
                open_seconds=settings.breaker_open_seconds,
                probe_seconds=settings.provider_timeout_seconds + settings.lease_seconds,
            ),
        )

    async def make(self, payer: Payer, request: Request, provider: Provider, model: str) -> Settled:
        """Have `request` answered once, whatever happens in between.

        Raises:
            UnpricedModel, ProviderNotConfigured: before anything is reserved.
            InsufficientEnergy, BudgetExhausted, BreakerOpen, IdempotencyConflict: nothing was paid.
            ProviderError: the attempt is recorded as failed, with what it may have cost.
        """
        who = CallIdentity(**payer.model_dump(), fingerprint=fingerprint(request))
        try:
            offer = self._offer(request, provider, model)
        except (UnpricedModel, ProviderNotConfigured):
            # The price list or the keys may have changed since; what was paid for then is still there.
            if settled := await self._persist(partial(ledger.journaled, who=who)):
                return settled
            raise
        self._failpoints.reach("claiming")
        claimed = await self._claim(who, offer)
        if isinstance(claimed, Settled):
            return claimed
        work = self._call_and_settle(who.workspace_id, claimed.attempt_id, request, offer)
        return await _to_the_end(asyncio.create_task(work))

    async def options(self, providers: tuple[Provider, ...], models: dict[Provider, str]) -> list[Option]:
        """What is known now about each provider as a way to serve a call. Costs nothing."""
        async with self._database.transaction() as tx:
            return [await self._option(tx, provider, models.get(provider)) for provider in providers]

    async def close(self) -> None:
        await self._providers.close()

    async def _option(self, tx: AsyncSession, provider: Provider, model: str | None) -> Option:
        access = self._providers.access(provider)
        if access is None:
            return Option(provider=provider, model=model or "", configured=False)
        name = model or access.model
        view = await breaker.look(tx, provider)
        return Option(
            provider=provider,
            model=name,
            configured=True,
            price=self._price(provider, name),
            simulated=access.simulated,
            breaker_wait=view.wait_seconds,
        )

    def _price(self, provider: Provider, model: str) -> Decimal | None:
        try:
            rates = rates_for(provider, model, self._rates)
        except UnpricedModel:
            return None
        return rates.input + rates.output

    def _offer(self, request: Request, provider: Provider, model: str) -> Offer:
        bound, rates = upper_bound(provider, model, request, self._rates)
        self._providers.adapter(provider)
        access = self._providers.access(provider)
        simulated = access is not None and access.simulated
        return Offer(provider=provider, model=model, simulated=simulated, bound_usd=bound, rates=rates)

    async def _claim(self, who: CallIdentity, offer: Offer) -> Settled | Granted:
        """Claim the request, waiting out another owner's lease: its reply may arrive."""
        while True:
            claim = partial(ledger.claim, who=who, offer=offer, terms=self._terms, attempt_id=uuid4())
            claimed = await self._persist(claim)
            if not isinstance(claimed, Held):
                return claimed
            await asyncio.sleep(min(claimed.wait_seconds, LEASE_POLL_SECONDS))

    async def _call_and_settle(self, workspace_id: str, attempt_id: UUID, request: Request, offer: Offer) -> Settled:
        async with self._lease_renewed(workspace_id, attempt_id):
            self._failpoints.reach("claimed")
            try:
                reply = await self._call(request, offer, attempt_id)
            except ProviderError as error:
                await self._fail(workspace_id, attempt_id, error, offer)
                raise
            self._failpoints.reach("called")
            settled = await self._settle(workspace_id, attempt_id, reply, offer)
        self._failpoints.reach("settled")
        return settled

    async def _call(self, request: Request, offer: Offer, attempt_id: UUID) -> Reply:
        """One call within the timeout. What no adapter foresaw is an outage that may have been billed."""
        name = offer.provider.value
        try:
            # The SDK's own timeout comes first where it works: it knows whether anything was sent.
            async with asyncio.timeout(self._timeout + 1):
                return await self._providers.adapter(offer.provider).call(request, offer.model, str(attempt_id))
        except TimeoutError:
            raise ProviderUnavailable(name, f"no answer within {self._timeout:.0f} s") from None
        except ProviderError:
            raise
        except Exception as error:  # the ledger must learn of it, whatever it was
            activity.logger.exception("unforeseen error from %s", name)
            raise ProviderUnavailable(name, f"unforeseen {type(error).__name__}", billed=Billed.UNKNOWN) from error

    async def _settle(self, workspace_id: str, attempt_id: UUID, reply: Reply, offer: Offer) -> Settled:
        cost_usd, rates = self._counted(offer, reply.usage)

        async def settle(tx: AsyncSession) -> Settled:
            settled = await ledger.settle(tx, workspace_id, attempt_id, reply, cost_usd, rates)
            self._failpoints.reach("settling")
            return settled

        return await self._persist(settle)

    async def _fail(self, workspace_id: str, attempt_id: UUID, error: ProviderError, offer: Offer) -> None:
        failure = Failure(
            error_type=error.code,
            detail=error.detail,
            billed=error.billed,
            trips_breaker=error.trips_breaker,
        )
        if error.usage:
            cost_usd, rates = self._counted(offer, error.usage)
            failure = replace(failure, usage=error.usage, cost_usd=cost_usd, rates=rates)

        async def fail(tx: AsyncSession) -> None:
            await ledger.fail(tx, workspace_id, attempt_id, failure, self._terms)

        await self._persist(fail)

    def _counted(self, offer: Offer, usage: Usage) -> tuple[Decimal, Rates]:
        """What the provider charges for what it counted. The bound's rates may be those of a longer prompt."""
        rates = rates_for(offer.provider, offer.model, self._rates, usage.input_tokens)
        return cost(usage, rates), rates

    async def _persist(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """One transaction, tried again while the database is away: the reply waits in memory meanwhile.

        Every ledger operation is safe to repeat when it is unknown whether its commit arrived.
        """
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                async with self._database.transaction() as tx:
                    return await work(tx)
            except Unreachable as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                activity.logger.warning("the ledger waits: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)

    @asynccontextmanager
    async def _lease_renewed(self, workspace_id: str, attempt_id: UUID) -> AsyncGenerator[None]:
        renewal = asyncio.create_task(self._renew(workspace_id, attempt_id))
        try:
            yield
        finally:
            renewal.cancel()

    async def _renew(self, workspace_id: str, attempt_id: UUID) -> None:
        """Losing the lease changes nothing here: our reply may still come first, or be counted as a duplicate."""
        while True:
            await asyncio.sleep(self._terms.lease_seconds / 3)
            try:
                async with self._database.transaction() as tx:
                    await ledger.renew(tx, workspace_id, attempt_id, self._terms.lease_seconds)
            except Unreachable as error:
                activity.logger.warning("lease not renewed: %s", error)


async def _to_the_end(work: asyncio.Task[Settled]) -> Settled:
    """Wait for paid work although we are cancelled: what was paid for is settled, and returned."""
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            activity.logger.info("cancelled during a paid call: it is finished and settled first")
    return work.result()
