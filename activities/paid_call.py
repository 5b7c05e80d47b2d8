"""The paid call: claim, call, settle. Only this module calls providers. docs/paid-call.md specifies the protocol.

1. claim   one transaction: a settled request returns its journaled reply; while another attempt holds the lease,
           the claim waits; else it takes the lease, ends an expired owner's attempt as lost, checks the breaker, and
           reserves the upper bound of the call's cost.
2. call    the provider, under the attempt's id, while the lease is renewed.
3. settle  one transaction: reply, usage row, event and charge. The first writer wins.

Once the request is sent, neither cancellation nor SIGTERM interrupts it: it is paid for, so its reply is stored.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from activities.failpoints import Failpoints, Point
from activities.logs import step_logger
from activities.metrics import Metrics
from activities.streams import ReplyStream
from activities.workspaces import CallTerms, Workspaces
from parley.domain.errors import (
    Billed,
    EmptyReply,
    MalformedReply,
    ParleyError,
    ProviderError,
    ProviderNotConfigured,
    ProviderUnavailable,
    ReplyLost,
    StreamSuperseded,
    UnpricedModel,
    Unreachable,
)
from parley.domain.joint import shares_of_amount, shares_of_usage
from parley.domain.masking import masked
from parley.domain.pricing import ConfiguredRates, Rates, counted_cost, rates_for, upper_bound
from parley.domain.requests import (
    ChatReply,
    ChatRequest,
    Finish,
    Provider,
    Reply,
    Request,
    Usage,
    longest_seconds,
    request_id,
)
from parley.domain.requests import fingerprint as fingerprint_of
from parley.domain.streaming import TextDelta, ToolCallDelta
from parley.providers.protocol import Adapter
from parley.providers.registry import Providers
from parley.settings import Settings
from parley.storage import energy, generations, ledger, paid_requests
from parley.storage.breaker import BreakerTerms
from parley.storage.database import Database, retry_while_unreachable
from parley.storage.ledger import (
    Charge,
    Claim,
    Failure,
    Granted,
    Held,
    Offer,
    OnEnd,
    OnReply,
    Settled,
    Settlement,
    Terms,
    Unanswered,
)
from parley.storage.spool import Outcome, Spool, SpooledAttempt, SpoolFile

LEASE_POLL_SECONDS = 0.5
# How long the listing of stored replies may take before the call is made instead.
LISTING_SECONDS, LISTING_POLL_SECONDS = 5.0, 0.5
PING_SECONDS = 10.0
# The failpoint that a stream reaches after so many deltas.
STREAM_POINTS: dict[int, Point] = {1: "first_token", 5: "mid_text"}
# Of a spooled attempt whose process ended before its outcome was written.
ENDED_EARLY = Failure(
    "ProcessEnded", "the process ended before the reply was spooled", Billed.UNKNOWN, trips_breaker=False
)
# Two attempts at one answer: the newer one does not know what the older one pays, so that one must pay nothing.
SUPERSEDED = Failure(
    error_type=StreamSuperseded.__name__,
    detail="a newer attempt of the stream makes the answer",
    billed=Billed.NO,
    trips_breaker=False,
    cost_usd=Decimal(0),
)
# Of a joint request that ended before all of its members were claimed.
NOT_SENT = Failure("NotSent", "the request was not sent", billed=Billed.NO, trips_breaker=False, cost_usd=Decimal(0))
T = TypeVar("T")

log = step_logger(__name__)


@dataclass(frozen=True)
class _Work:
    """A granted paid call: the request, its price, and what is written in the transaction that ends an attempt."""

    workspace_id: str
    workflow_id: str
    request_id: str
    action: str
    request: Request
    offer: Offer
    adapter: Adapter
    on_end: OnEnd | None
    on_reply: OnReply | None
    stream: ReplyStream | None

    @classmethod
    def of(
        cls,
        charge: Charge,
        request: Request,
        offer: Offer,
        adapter: Adapter,
        *,
        on_end: OnEnd | None = None,
        on_reply: OnReply | None = None,
        stream: ReplyStream | None = None,
    ) -> Self:
        names = (charge.workspace_id, charge.workflow_id, charge.request_id, charge.action)
        return cls(*names, request, offer, adapter, on_end, on_reply, stream)


def breaker_terms(settings: Settings) -> BreakerTerms:
    """When the breakers of providers open. A probe may take as long as a request, and the lease of a lost one."""
    return BreakerTerms(
        failures=settings.breaker_failures,
        open_seconds=settings.breaker_open_seconds,
        probe_seconds=settings.provider_timeout_seconds + settings.lease_seconds,
    )


@dataclass(frozen=True)
class MemberRequest:
    """A request that may be sent together with others, and the account that it is booked on."""

    charge: Charge
    request: ChatRequest


@dataclass(frozen=True)
class _Member:
    """A granted request of a joint request. `place`: among those that were asked for."""

    place: int
    work: _Work
    attempt_id: UUID


@dataclass(frozen=True)
class Joint:
    """How requests become one, and how its reply becomes theirs.

    join: makes one request of those at the given places. divide: makes so many replies of the reply, in the order of
    the places; it must not fail, since the reply is paid for.
    """

    join: Callable[[Sequence[int]], ChatRequest]
    divide: Callable[[ChatReply, int], Sequence[ChatReply]]


class SpooledReply(NamedTuple):
    """A reply that was made without the ledger. `cost_usd`: None where it is not known."""

    reply: Reply
    cost_usd: Decimal | None


class PaidCalls:
    """All paid requests go through `make` and `make_jointly`."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        workspaces: Workspaces,
        providers: Providers,
        metrics: Metrics | None = None,
    ) -> None:
        self._database, self._metrics = database, metrics or Metrics()
        self._workspaces, self._providers = workspaces, providers
        self._failpoints = Failpoints(settings.failpoints)
        self._timeout = settings.provider_timeout_seconds
        self._starting_energy = settings.starting_energy
        self._settle_seconds = settings.settle_timeout_seconds
        self._provider_stores_replies = settings.openai_store
        self._recovery_seconds = settings.openai_recovery_seconds
        self._rates = ConfiguredRates.of(settings)
        self._terms = Terms(
            lease_seconds=settings.lease_seconds,
            reservation_seconds=settings.reservation_seconds,
            breaker=breaker_terms(settings),
        )

    async def make(  # noqa: PLR0913 - what is written with the reply, and its stream
        self,
        charge: Charge,
        request: Request,
        provider: Provider,
        model: str,
        *,
        fingerprint: str | None = None,
        on_end: OnEnd | None = None,
        on_reply: OnReply | None = None,
        stream: ReplyStream | None = None,
    ) -> Settled:
        """Get the one reply to a request: its settled reply if there is one, else by a call to the provider.

        Args:
            request: what the workspace masks is replaced in it before it is sent, and never in the fingerprint.
            fingerprint: of what is asked, where a repetition may send it in other words; default: of `request`.
            on_end: writes in the transaction that ends an attempt: both are committed, or neither. The reply is judged
                by the caller, after it is stored.
            on_reply: writes what follows from the reply in the transaction that settles it, which saves one. If it
                fails, the reply is settled without it. It is called only for a reply that this attempt receives and
                that the request gets, and again if the transaction is repeated. Where the result's `has_followed` is
                false, the caller writes it.
            stream: takes the reply to its readers while it is made. An earlier attempt for it, which may not send any
                more, is superseded: see `Claim`.

        Raises:
            UnpricedModel, ProviderNotConfigured: nothing was reserved.
            InsufficientEnergy, BudgetExhausted, BreakerOpen, IdempotencyConflict: nothing was paid.
            ProviderError: the attempt is recorded as failed, with what it may have cost.
            StreamSuperseded: a newer attempt of the stream is paid in its place. Nothing was sent, or the request was
                stopped, and what it may have cost is recorded.
            ReplyLost: the attempt's end could not be recorded; when its lease expires, its upper bound becomes
                uncertain cost.
        """
        workspace_id, sha256 = charge.workspace_id, fingerprint or fingerprint_of(request)
        terms = await self._retried(partial(self._workspaces.terms_of, workspace_id))
        sent = masked(request, terms.masked)
        try:
            offer, adapter = await self._offer(sent, provider, model, terms)
        except (UnpricedModel, ProviderNotConfigured):
            # Prices or keys may have changed since an earlier attempt was settled: its reply is still stored.
            known = {"workspace_id": workspace_id, "request_id": charge.request_id, "fingerprint": sha256}
            if settled := await self._persist(partial(ledger.journaled, **known)):
                return settled
            raise
        await self._failpoints.reach("claiming", charge.workflow_id)
        claimed = await self._claim(charge, sha256, offer, stream.supersedes if stream else None)
        if isinstance(claimed, Settled):
            return claimed
        work = _Work.of(charge, sent, offer, adapter, on_end=on_end, on_reply=on_reply, stream=stream)
        try:
            return await _uninterrupted(asyncio.create_task(self._work(work, claimed)))
        except Unreachable as error:
            raise ReplyLost(str(error)) from error

    async def make_jointly(
        self, asked: Sequence[MemberRequest], joint: Joint, provider: Provider, model: str
    ) -> list[Settled | ParleyError]:
        """Get the one reply to each of several requests of a workspace, by one call to the provider.

        Each request is claimed, charged and settled by itself, and reserves what it could cost alone. The cost of the
        call is shared in proportion. A request that is refused or has its reply already is not part of the call; a
        request that is left alone is sent as it is.

        Args:
            asked: the requests with their accounts, each with a request id of its own.

        Returns:
            For each request its reply, or the error that `make` would raise.

        Raises:
            UnpricedModel, ProviderNotConfigured: nothing was reserved.
            ReplyLost: the ends of the attempts could not be recorded.
        """
        terms = await self._retried(partial(self._workspaces.terms_of, asked[0].charge.workspace_id))
        # In the order in which their settlement locks them.
        ordered = sorted(enumerate(asked), key=lambda entry: entry[1].charge.request_id)
        ends: dict[int, Settled | ParleyError] = {}
        members: list[_Member] = []
        joint_id = uuid4()
        async with AsyncExitStack() as leases:
            try:
                for place, one in ordered:
                    sent = masked(one.request, terms.masked)
                    work = _Work.of(one.charge, sent, *await self._offer(sent, provider, model, terms))
                    claimed = await self._claim_or_refusal(one, work.offer, joint_id)
                    if not isinstance(claimed, Granted):
                        ends[place] = claimed
                        continue
                    members.append(_Member(place, work, claimed.attempt_id))
                    await leases.enter_async_context(self._lease_renewed(work, claimed.attempt_id))
            except BaseException:  # also cancelled: a claim may wait for long
                await _uninterrupted(asyncio.create_task(self._give_back(members)))
                raise
            if not members:
                return [ends[place] for place in range(len(asked))]
            whole = members[0].work
            if len(members) > 1:
                request = joint.join([member.place for member in members])
                whole = replace(whole, request=masked(request, terms.masked))
            try:
                called = self._called_jointly(whole, joint_id, members, joint)
                ends |= await _uninterrupted(asyncio.create_task(called))
            except Unreachable as error:
                raise ReplyLost(str(error)) from error
        return [ends[place] for place in range(len(asked))]

    async def _claim_or_refusal(
        self, one: MemberRequest, offer: Offer, joint_id: UUID
    ) -> Settled | Granted | ParleyError:
        """Claim a member of a joint request. What refuses it is returned: the others are not refused with it.

        Raises:
            Unreachable: the database is down, and the whole step is repeated.
        """
        await self._failpoints.reach("claiming", one.charge.workflow_id)
        try:
            return await self._claim(one.charge, fingerprint_of(one.request), offer, joint_id=joint_id)
        except Unreachable:
            raise
        except ParleyError as refusal:
            return refusal

    async def _give_back(self, members: Sequence[_Member]) -> None:
        """End attempts that were not sent. Where that fails, their leases expire, with uncertain cost."""
        for member in members:
            try:
                await self._fail(member.work, member.attempt_id, NOT_SENT)
            except Exception as error:  # noqa: BLE001 - what ended the step is raised, not this
                log.warning("attempt %s was not sent, and cannot be ended: %s", member.attempt_id, error)

    async def _called_jointly(
        self, whole: _Work, joint_id: UUID, members: Sequence[_Member], joint: Joint
    ) -> dict[int, Settled | ParleyError]:
        """Call the provider once, and end each member's attempt. `whole`: what is sent."""
        await self._failpoints.reach("claimed", whole.workflow_id)
        clock = asyncio.get_running_loop()
        started = clock.time()
        try:
            reply = await self._call(whole, joint_id)
        except ProviderError as error:
            await self._failpoints.reach("called", whole.workflow_id)
            failures = _shared_failures(self._failure(error, whole.offer), members)
            for member, failure in zip(members, failures, strict=True):
                await self._fail(member.work, member.attempt_id, failure)
                self._count(member.work, "failed", failure.usage, failure.cost_usd, clock.time() - started)
            return {member.place: error for member in members}
        assert isinstance(reply, ChatReply)  # noqa: S101 - it answers a request of this kind
        await self._failpoints.reach("called", whole.workflow_id)
        seconds = clock.time() - started
        settlements = self._shared_settlements(whole, members, joint, reply)

        async def settle(tx: AsyncSession) -> list[Settled]:
            settled = await ledger.settle_jointly(tx, settlements)
            await self._failpoints.reach("settling", whole.workflow_id)
            return settled

        settled = await self._persist(settle)
        for member, one, end in zip(members, settlements, settled, strict=True):
            outcome = "settled" if end.attempt_id == member.attempt_id else "duplicate"
            self._count(member.work, outcome, one.reply.usage, one.cost_usd, seconds)
        await self._failpoints.reach("settled", whole.workflow_id)
        return {member.place: end for member, end in zip(members, settled, strict=True)}

    def _shared_settlements(
        self, whole: _Work, members: Sequence[_Member], joint: Joint, reply: ChatReply
    ) -> list[Settlement]:
        """Each member's reply and its share of the cost."""
        bounds = [member.work.offer.upper_bound_usd for member in members]
        cost_usd, rates = self._counted(whole.offer, reply.usage)
        costs = _shares_of_cost(cost_usd, bounds)
        replies = joint.divide(reply, len(members)) if len(members) > 1 else [reply]
        return [
            Settlement(whole.workspace_id, member.attempt_id, one.model_copy(update={"usage": usage}), cost, rates)
            for member, one, usage, cost in zip(
                members, replies, shares_of_usage(reply.usage, bounds), costs, strict=True
            )
        ]

    async def make_without_ledger(
        self,
        spool: Spool,
        charge: Charge,
        request: Request,
        provider: Provider,
        model: str,
        *,
        stream: ReplyStream | None = None,
    ) -> SpooledReply:
        """Get a reply while the database is down: by an attempt in the spool, which `book_spooled` books later.

        It is a paid request of its own, beside `charge.request_id`, for the same result: the user is charged for one of
        them. No cap, breaker or balance can be read: the spool's cap is the only one. The workspace's keys and masking
        are those that this process read last.

        Args:
            stream: takes the reply to its readers while it is made.

        Raises:
            UnpricedModel, ProviderNotConfigured: nothing was sent; the latter also where this process has not read the
                workspace's configuration.
            BudgetExhausted: it would exceed the spool's cap; nothing was sent.
            Unreachable: the spool cannot be written; nothing was sent.
            ProviderError: the attempt failed; what it may have cost is in the spool.
        """
        terms = self._workspaces.remembered(charge.workspace_id, provider)
        sent = masked(request, terms.masked)
        offer, adapter = await self._offer(sent, provider, model, terms)
        attempt_id = uuid4()
        own = {"request_id": request_id(charge.request_id, "spooled", attempt_id.hex)}
        charge = charge.model_copy(update={**own, "result_id": charge.result_id or charge.request_id})
        spooled = SpooledAttempt(
            attempt_id=attempt_id,
            charge=charge,
            fingerprint=fingerprint_of(request),
            offer=offer,
            sent_at=datetime.now(UTC),
        )
        work = _Work.of(charge, sent, offer, adapter, stream=stream)
        file = await asyncio.to_thread(spool.open, spooled)
        return await _uninterrupted(asyncio.create_task(self._spooled(work, file)))

    async def _spooled(self, work: _Work, file: SpoolFile) -> SpooledReply:
        try:
            reply = await self._call(work, file.spooled.attempt_id)
            reply = await _recorded(work.stream, reply)
            cost_usd, rates = self._counted(work.offer, reply.usage)
            await _end(file, Outcome(reply=reply, cost_usd=cost_usd, rates=rates))
        except ProviderError as error:
            await _end(file, Outcome(failure=self._failure(error, work.offer)))
            raise
        finally:
            file.close()
        return SpooledReply(reply, cost_usd)

    async def book_spooled(self, spool: Spool) -> int:
        """Book the attempts of the spool whose processes have ended or are done with them; returns how many.

        Idempotent. An attempt without an outcome is booked as one that may have cost its upper bound. One that cannot
        be booked is logged and stays in the spool, where it counts against the cap; those after it are booked.

        Raises:
            Unreachable: the database is still down.
        """
        booked = 0
        for file in spool.pending():
            try:
                await self._book(file.spooled)
            except Unreachable:
                raise
            except Exception:
                log.exception("attempt %s of the spool cannot be booked", file.spooled.attempt_id)
                continue
            file.delete()
            booked += 1
        return booked

    async def _book(self, spooled: SpooledAttempt) -> None:
        claim = Claim(spooled.charge, spooled.fingerprint, spooled.offer, self._terms, spooled.attempt_id)
        workspace_id, outcome = spooled.charge.workspace_id, spooled.outcome or Outcome(failure=ENDED_EARLY)

        async def on_end(tx: AsyncSession) -> None:
            await generations.record_cost(tx, workspace_id, spooled.charge.job_key)

        async with self._database.transaction() as tx:
            if spooled.charge.energy:
                # This may be the first request of a user: the ledger has no account for it.
                granted = self._starting_energy
                await energy.open_account(tx, workspace_id, spooled.charge.user_id, starting_energy=granted)
            await ledger.adopt(tx, claim, spooled.sent_at)
        async with self._database.transaction() as tx:
            if outcome.reply is None:
                failure = outcome.failure or ENDED_EARLY
                await ledger.fail(tx, workspace_id, spooled.attempt_id, failure, self._terms, on_end=on_end)
                return
            rates = outcome.rates or spooled.offer.rates
            settlement = Settlement(
                workspace_id, spooled.attempt_id, outcome.reply, outcome.cost_usd, rates, on_end=on_end
            )
            await ledger.settle(tx, settlement)

    async def settle_received(
        self, workspace_id: str, attempt_id: UUID, reply: ChatReply, *, on_end: OnEnd | None = None
    ) -> Settled:
        """Settle an attempt with the reply that its worker received, and could not settle before it died.

        Idempotent. If the request has another reply by now, that one is returned.

        Raises:
            NotFound: the workspace has no such attempt.
            ReplyLost: the database stayed unreachable.
        """

        async def settle(tx: AsyncSession) -> Settled:
            attempt = (await paid_requests.lock_with_attempt(tx, workspace_id, attempt_id)).attempt
            offer = Offer(
                provider=Provider(attempt.provider),
                model=attempt.model,
                simulated=attempt.simulated,
                upper_bound_usd=attempt.upper_bound_usd,
                rates=Rates.model_validate(attempt.rates),
            )
            earlier = Unanswered(attempt_id, attempt.model, offer.rates)
            cost_usd, rates = self._counted_of(earlier, offer, reply.usage)
            return await ledger.settle(tx, Settlement(workspace_id, attempt_id, reply, cost_usd, rates, on_end=on_end))

        try:
            return await _uninterrupted(asyncio.create_task(self._persist(settle)))
        except Unreachable as error:
            raise ReplyLost(str(error)) from error

    async def ping(self, workspace_id: str, provider: Provider) -> float:
        """Send a provider a free request, with the key of the workspace's calls; returns the duration in seconds.

        Raises:
            ProviderNotConfigured: the provider has no key and no address.
            ProviderError: the provider does not answer, or refuses the key.
        """
        await self._providers.load(provider)
        adapter = self._providers.adapter(provider, (await self._workspaces.terms_of(workspace_id)).key_of(provider))
        clock = asyncio.get_running_loop()
        started = clock.time()
        try:
            async with asyncio.timeout(PING_SECONDS):
                await adapter.ping()
        except TimeoutError:
            raise ProviderUnavailable(provider.value, f"no answer within {PING_SECONDS:.0f} s") from None
        return clock.time() - started

    async def _offer(self, request: Request, provider: Provider, model: str, terms: CallTerms) -> tuple[Offer, Adapter]:
        """The offer, and the adapter: with the workspace's own key, where it has one."""
        reference = terms.key_of(provider)
        bound, rates = upper_bound(provider, model, request, self._rates)
        await self._providers.load(provider)
        adapter = self._providers.adapter(provider, reference)
        access = self._providers.access(provider, reference)
        offer = Offer(
            provider=provider,
            model=model,
            simulated=access is not None and access.simulated,
            shares_key=reference is None,
            upper_bound_usd=bound,
            rates=rates,
        )
        return offer, adapter

    async def _claim(
        self,
        charge: Charge,
        fingerprint: str,
        offer: Offer,
        supersedes: UUID | None = None,
        joint_id: UUID | None = None,
    ) -> Settled | Granted:
        """Claim the request. While another attempt holds the lease, wait, since its reply may arrive."""
        while True:
            claim = Claim(charge, fingerprint, offer, self._terms, uuid4(), supersedes, joint_id)
            claimed = await self._persist(partial(ledger.claim, request_claim=claim))
            if not isinstance(claimed, Held):
                return claimed
            await asyncio.sleep(min(claimed.wait_seconds, LEASE_POLL_SECONDS))

    async def _work(self, work: _Work, claimed: Granted) -> Settled:
        async with self._lease_renewed(work, claimed.attempt_id):
            await self._failpoints.reach("claimed", work.workflow_id)
            if work.stream and not await work.stream.claimed(work.request_id, str(claimed.attempt_id)):
                await self._fail(work, claimed.attempt_id, SUPERSEDED)
                raise StreamSuperseded(SUPERSEDED.detail)
            settled = await self._recovered(work, claimed) or await self._called(work, claimed.attempt_id)
        await self._failpoints.reach("settled", work.workflow_id)
        return settled

    async def _called(self, work: _Work, attempt_id: UUID) -> Settled:
        clock = asyncio.get_running_loop()
        started = clock.time()
        try:
            reply = await self._call(work, attempt_id)
        except ProviderError as error:
            await self._failpoints.reach("called", work.workflow_id)
            failure = self._failure(error, work.offer)
            await self._fail(work, attempt_id, failure)
            self._count(work, "failed", failure.usage, failure.cost_usd, clock.time() - started)
            raise
        seconds = clock.time() - started
        if work.stream:
            await self._failpoints.reach("last_token", work.workflow_id)
        reply = await _recorded(work.stream, reply)
        await self._failpoints.reach("called", work.workflow_id)
        counted = self._counted(work.offer, reply.usage)
        settled = await self._settle(work, attempt_id, reply, counted)
        outcome = "settled" if settled.attempt_id == attempt_id else "duplicate"
        self._count(work, outcome, reply.usage, counted[0], seconds)
        return settled

    async def _recovered(self, work: _Work, claimed: Granted) -> Settled | None:
        """The reply to an earlier attempt, if the provider stores replies: then the request is not paid again."""
        is_stored = self._provider_stores_replies and work.offer.provider is Provider.OPENAI
        if not (is_stored and isinstance(work.request, ChatRequest)):  # only completions are stored
            return None
        deadline = asyncio.get_running_loop().time() + self._recovery_seconds
        for earlier in claimed.unanswered:
            attempt_id = earlier.attempt_id
            reply = await self._stored_reply(work, attempt_id, deadline)
            if reply is not None:
                paid = replace(work, offer=work.offer.model_copy(update={"model": earlier.model}))
                counted = self._counted_of(earlier, paid.offer, reply.usage)
                reply = await _recorded(work.stream, reply)
                settled = await self._settle(work, attempt_id, reply, counted, withdraws=claimed.attempt_id)
                outcome = "recovered" if settled.attempt_id == attempt_id else "duplicate"
                self._count(paid, outcome, reply.usage, counted[0], None)
                return settled
        return None

    async def _stored_reply(self, work: _Work, attempt_id: UUID, deadline: float) -> Reply | None:
        """Look until the deadline: a reply may appear in the provider's listing some seconds late."""
        while True:
            try:
                async with asyncio.timeout(LISTING_SECONDS):
                    reply = await work.adapter.recover(str(attempt_id))
            except Exception as error:  # noqa: BLE001 - after any error the call itself can still be made
                log.warning("cannot look for a lost reply: %s", error or type(error).__name__)
                return None
            if reply is not None or asyncio.get_running_loop().time() > deadline:
                return reply
            await asyncio.sleep(LISTING_POLL_SECONDS)

    async def _call(self, work: _Work, attempt_id: UUID) -> Reply:
        """One call within the timeout. An error that no adapter expects is an outage that may have been billed."""
        name, timeout = work.offer.provider.value, longest_seconds(work.request, self._timeout, work.offer.provider)
        try:
            # The SDK's own timeout is shorter, since its error says whether the request was sent.
            async with asyncio.timeout(timeout + 1) as limit:
                if work.stream:
                    return await self._streamed(work, work.stream, attempt_id, limit)
                return await work.adapter.call(work.request, work.offer.model, str(attempt_id))
        except TimeoutError:
            raise ProviderUnavailable(name, f"no answer within {timeout:.0f} s") from None
        except (ProviderError, StreamSuperseded):
            raise
        except Exception as error:  # the ledger records every error
            log.exception("unexpected error from %s", name)
            raise ProviderUnavailable(name, f"unexpected {type(error).__name__}", billed=Billed.UNKNOWN) from error

    async def _streamed(self, work: _Work, stream: ReplyStream, attempt_id: UUID, limit: asyncio.Timeout) -> Reply:
        """The reply in deltas; what was received of it, if the readers leave and the request is to be cancelled.

        limit: is renewed with each delta, since a long reply takes longer than a provider may be silent.
        """
        leaving = asyncio.create_task(stream.cancelled())
        await asyncio.sleep(0)
        if leaving.done():  # before anything was sent: nothing is billed
            return stream.received(work.offer.model, Finish.CANCELLED, Usage())
        superseding = asyncio.create_task(stream.superseded())
        receiving = asyncio.create_task(self._received(work, stream, attempt_id, limit))
        try:
            await asyncio.wait({receiving, leaving, superseding}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                return receiving.result()
            # The connection is closed: vendors stop, and bill what they have made. They do not report how much.
            await _stopped(receiving)
            if superseding.done():  # the newer claim has recorded this attempt as lost, at its upper bound
                raise StreamSuperseded(SUPERSEDED.detail)
            return stream.received(work.offer.model, Finish.CANCELLED, Usage(is_known=False))
        except EmptyReply as error:
            if not (stream.before and error.is_complete):
                raise
            # Nothing was missing: the stream broke after the last word.
            return stream.received(work.offer.model, Finish.STOP, error.usage or Usage(is_known=False))
        finally:
            leaving.cancel()
            superseding.cancel()
            await _stopped(receiving)

    async def _received(self, work: _Work, stream: ReplyStream, attempt_id: UUID, limit: asyncio.Timeout) -> Reply:
        """Send each delta. Returns the whole reply, which comes last."""
        clock, sent = asyncio.get_running_loop(), 0
        async with aclosing(work.adapter.stream(work.request, work.offer.model, str(attempt_id))) as parts:
            async for part in parts:
                limit.reschedule(clock.time() + self._timeout + 1)
                if not isinstance(part, (TextDelta, ToolCallDelta)):
                    return part
                if stream.add(part):
                    sent += 1
                    if sent in STREAM_POINTS:
                        await self._failpoints.reach(STREAM_POINTS[sent], work.workflow_id)
        raise MalformedReply(work.offer.provider.value, "the stream ended without its reply")

    async def _settle(
        self,
        work: _Work,
        attempt_id: UUID,
        reply: Reply,
        counted: tuple[Decimal | None, Rates],
        *,
        withdraws: UUID | None = None,
    ) -> Settled:
        cost_usd, rates = counted
        settlement = Settlement(
            work.workspace_id,
            attempt_id,
            reply,
            cost_usd,
            rates,
            withdraws=withdraws,
            on_end=work.on_end,
            on_reply=work.on_reply,
        )

        async def settle(tx: AsyncSession, settlement: Settlement) -> Settled:
            settled = await ledger.settle(tx, settlement)
            await self._failpoints.reach("settling", work.workflow_id)
            return settled

        try:
            return await self._persist(partial(settle, settlement=settlement))
        except Unreachable:
            raise
        except Exception:
            if settlement.on_reply is None:
                raise
            log.exception("what follows from a reply is not written with it")
            return await self._persist(partial(settle, settlement=replace(settlement, on_reply=None)))

    async def _fail(self, work: _Work, attempt_id: UUID, failure: Failure) -> None:
        async def fail(tx: AsyncSession) -> None:
            await ledger.fail(tx, work.workspace_id, attempt_id, failure, self._terms, on_end=work.on_end)
            await self._failpoints.reach("settling", work.workflow_id)

        await self._persist(fail)
        await self._failpoints.reach("settled", work.workflow_id)

    def _failure(self, error: ProviderError, offer: Offer) -> Failure:
        failure = Failure(
            error_type=error.code,
            detail=error.detail,
            billed=error.billed,
            trips_breaker=error.trips_breaker,
        )
        if error.usage is None:
            return replace(failure, cost_usd=Decimal(0) if error.billed is Billed.NO else None)
        cost_usd, rates = self._counted(offer, error.usage)
        return replace(failure, usage=error.usage, cost_usd=cost_usd, rates=rates)

    def _counted(self, offer: Offer, usage: Usage) -> tuple[Decimal | None, Rates]:
        """The cost of what the provider counted. The upper bound may use the rates of a longer prompt."""
        rates = rates_for(offer.provider, offer.model, self._rates, usage.input_tokens, usage.price_class)
        return counted_cost(usage, rates), rates

    def _counted_of(self, earlier: Unanswered, offer: Offer, usage: Usage) -> tuple[Decimal | None, Rates]:
        """The cost of an earlier attempt's reply, by the price list of that attempt. `offer`: with its model."""
        try:
            counted = self._counted(offer, usage)
        except UnpricedModel:
            counted = None
        if counted and counted[1].source == earlier.rates.source:
            return counted
        # The attempt has the rates of one price class. Those of another class are not known any more.
        is_exact = usage.price_class == earlier.rates.price_class
        rates = earlier.rates.model_copy(update={"price_class": usage.price_class, "exact": is_exact})
        return counted_cost(usage, rates), rates

    async def _persist(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """One transaction of the ledger, whose operations are idempotent. A reply stays in memory meanwhile."""
        return await self._database.retried(work, seconds=self._settle_seconds)

    async def _retried(self, work: Callable[[], Awaitable[T]]) -> T:
        """Retry while the database is unreachable or has a transient error. Nothing is sent to a provider meanwhile."""
        return await retry_while_unreachable(work, seconds=self._settle_seconds)

    @asynccontextmanager
    async def _lease_renewed(self, work: _Work, attempt_id: UUID) -> AsyncGenerator[None]:
        renewal = asyncio.create_task(self._renew(work, attempt_id))
        try:
            yield
        finally:
            renewal.cancel()

    async def _renew(self, work: _Work, attempt_id: UUID) -> None:
        """Renew the lease until the call ends, after any error: the next try may succeed.

        A request that lost its lease goes on: its reply may still win, or is counted as a duplicate. That of a stream
        stops: only the newest attempt reaches the readers.
        """
        while True:
            await asyncio.sleep(self._terms.lease_seconds / 3)
            try:
                async with self._database.transaction() as tx:
                    is_held = await ledger.renew(tx, work.workspace_id, attempt_id, self._terms.lease_seconds)
                if work.stream and not is_held:
                    work.stream.supersede()
            except Exception as error:  # noqa: BLE001 - the renewal must not end before the call
                log.warning("lease not renewed: %s", error)

    def _count(self, work: _Work, outcome: str, usage: Usage, cost_usd: Decimal | None, seconds: float | None) -> None:
        """Report an attempt to the metrics. An unknown cost may be as much as was reserved."""
        offer, confirmed = work.offer, cost_usd is not None
        spent = offer.upper_bound_usd if cost_usd is None else cost_usd
        if spent > offer.upper_bound_usd:
            self._metrics.cost_above_bound(offer.provider, offer.model, spent - offer.upper_bound_usd)
            log.warning(
                "a reply of %s %s cost $%s, above its upper bound of $%s",
                offer.provider.value,
                offer.model,
                spent,
                offer.upper_bound_usd,
            )
        self._metrics.attempt_ended(
            offer.provider, offer.model, work.action, outcome, spent, usage, seconds, confirmed=confirmed
        )


def _shares_of_cost(cost_usd: Decimal | None, bounds: Sequence[Decimal]) -> Sequence[Decimal | None]:
    """Each member's share of a call's cost. An unknown cost stays unknown: each keeps its bound."""
    return [None] * len(bounds) if cost_usd is None else shares_of_amount(cost_usd, bounds)


def _shared_failures(failure: Failure, members: Sequence[_Member]) -> list[Failure]:
    """Each member's share of a failed call, which counts once for the breaker."""
    bounds = [member.work.offer.upper_bound_usd for member in members]
    cost_usd, usages = failure.cost_usd, shares_of_usage(failure.usage, bounds)
    costs = _shares_of_cost(cost_usd, bounds)
    return [
        replace(failure, usage=usage, cost_usd=cost, trips_breaker=failure.trips_breaker and place == 0)
        for place, (usage, cost) in enumerate(zip(usages, costs, strict=True))
    ]


async def _recorded(stream: ReplyStream | None, reply: Reply) -> Reply:
    """The reply as it is settled: where it continues a stream, with the text before it."""
    return await stream.complete(reply) if stream and isinstance(reply, ChatReply) else reply


async def _end(file: SpoolFile, outcome: Outcome) -> None:
    """Write how a spooled attempt ended. A full disk does not take the reply from its caller."""
    try:
        await asyncio.to_thread(file.end, outcome)
    except OSError as error:
        log.warning("the outcome of attempt %s was not spooled: %s", file.spooled.attempt_id, error.strerror)


async def _stopped(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait for its end. Its error, if it has one, is of no interest any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def _uninterrupted(work: asyncio.Task[T]) -> T:
    """Wait for paid work also while cancelled: what was paid for is settled and returned."""
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            log.info("cancelled during a paid call: the call is finished and settled first")
    return work.result()
