"""The actors of a schedule: each operation as a paid call, the sweeper, the purge or an operator makes it.

Every operation is the product's own code. An actor repeats a transaction whose outcome it does not know, as a paid call
does, unless it dies with its session.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.costs import BilledAttempt
from parley.domain.errors import Billed, BreakerOpen, BudgetExhausted, InsufficientEnergy, Unreachable
from parley.domain.generate.contract import GenerateInput, Job, Prompt, Serving
from parley.domain.pricing import Rates
from parley.domain.requests import ChatReply, Finish, Message, Provider, Usage
from parley.storage import budgets, cache, corrections, energy, generations, ledger, refill, summaries, sweep
from parley.storage.breaker import BreakerTerms
from parley.storage.budgets import Envelope
from parley.storage.ledger import Charge, Failure, Granted, Held, Offer, OnEnd, Settled, Settlement, Terms
from tests.ledger_checker import schedules
from tests.ledger_checker.invariants import VIOLATION
from tests.ledger_checker.schedules import ANSWERED, LEASE_SECONDS, RESERVATION_SECONDS, Operation, Outcome
from tests.ledger_checker.sessions import Session

T = TypeVar("T")
# Two workspaces with the same ids of everything, so that a query without its workspace mixes them.
WORKSPACES = ("acme", "bolt")
USERS = ("ann", "bob")
PRICE = 10
STARTING_ENERGY = {"ann": 2 * PRICE, "bob": 3 * PRICE}
DAILY_ENERGY = {"free": 2 * PRICE}
BOUND = Decimal("0.010000")
COSTS = {
    Outcome.CHEAP: BOUND / 4,
    Outcome.AT_BOUND: BOUND,
    Outcome.ABOVE: 3 * BOUND,
    Outcome.UNCOUNTED: None,
    Outcome.REFUSED: Decimal(0),
    Outcome.CUT: None,
    Outcome.BILLED: BOUND / 8,
}
BILLED = {Outcome.REFUSED: Billed.NO, Outcome.CUT: Billed.UNKNOWN, Outcome.BILLED: Billed.YES}
PROVIDERS = (Provider.OPENAI, Provider.ANTHROPIC)
RATES = Rates(source="a price list", input=Decimal(1), cached_input=Decimal("0.1"), output=Decimal(5))
USAGE = Usage(input_tokens=1000, output_tokens=200)
TERMS = Terms(
    lease_seconds=LEASE_SECONDS,
    reservation_seconds=RESERVATION_SECONDS,
    breaker=BreakerTerms(failures=3, open_seconds=30, probe_seconds=LEASE_SECONDS),
)
DEADLOCK = "40P01"
# Lets the triggers know what a claim supersedes.
SUPERSEDES = text("SELECT set_config('checker.superseded', :attempt, true)")
REFUSALS = (BreakerOpen, BudgetExhausted, InsufficientEnergy)


class Violation(AssertionError):
    """An invariant does not hold."""


class Died(Exception):
    """The actor died with its session, in the middle of an operation."""


@dataclass(frozen=True)
class Request:
    """A paid request of a job. `repeats`: the step whose result it repeats; `is_free`: its job's other requests pay."""

    step: str
    job: int
    user: str
    repeats: str | None = None
    is_free: bool = False


REQUESTS = (
    Request("ask-1", job=0, user="ann"),
    Request("ask-2", job=0, user="ann", repeats="ask-1"),
    Request("ask-1", job=1, user="bob"),
    Request("condense/room", job=1, user="bob", is_free=True),
)
# The first job's envelope is small.
ENVELOPES = (Envelope(cap_usd=3 * BOUND), Envelope(cap_usd=None))


@dataclass(frozen=True)
class Try:
    """An attempt that was granted, and what the provider does with it."""

    workspace: str
    request: Request
    attempt_id: UUID
    outcome: Outcome
    bounds: int
    number: int

    @property
    def is_answered(self) -> bool:
        return self.outcome in ANSWERED

    @property
    def cost_usd(self) -> Decimal | None:
        """What the provider's counts cost."""
        cost = COSTS[self.outcome]
        return None if cost is None else self.bounds * cost

    @property
    def reply(self) -> ChatReply:
        return ChatReply(text=f"reply {self.number}", finish=Finish.STOP, usage=USAGE, model="vendor/model-1")

    @property
    def billed(self) -> BilledAttempt | None:
        """Its place in the provider's list; None if it was not billed."""
        if self.outcome in (Outcome.REFUSED, Outcome.CUT):
            return None
        # The list has true counts where the reply did not.
        cost = self.bounds * BOUND / 2 if self.cost_usd is None else self.cost_usd
        return BilledAttempt(source=f"line {self.number}", attempt_id=self.attempt_id, cost_usd=cost)


@dataclass
class World:
    """What all actors of a schedule share. `admin`: a connection that does not take turns."""

    admin: psycopg.AsyncConnection[Any]
    beginning: datetime
    tries: list[Try] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    claims: int = 0
    # The reply that a request was given first: every later one must be the same.
    replies: dict[tuple[str, str], UUID] = field(default_factory=dict)

    def job(self, workspace: str, number: int) -> Job:
        prompt = Prompt(messages=(Message(role="user", content="How do I sound?"),))
        asked = GenerateInput(workspace_id=workspace, user_id=USERS[number], action="ai_message", prompt=prompt)
        return Job.of(asked, f"{workspace}/{number}", self.beginning)

    def request_id(self, workspace: str, request: Request, step: str | None = None) -> str:
        return f"{self.job(workspace, request.job).job_key}/generate/{step or request.step}"

    def known(self, attempt: int) -> Try | None:
        """An attempt that was granted, counted back from the newest."""
        return self.tries[-1 - attempt % len(self.tries)] if self.tries else None

    async def now(self) -> datetime:
        return (await self.select("SELECT moment FROM checker.clock"))[0]

    async def select(self, statement: str, *values: Any) -> list[Any]:
        """The first column of a query's rows. It takes no turn, and sees what is committed."""
        cursor = await self.admin.execute(statement.encode(), values or None)
        return [row[0] for row in await cursor.fetchall()]

    async def has_ended_attempt(self, workspace: str, request_id: str) -> bool:
        found = "SELECT 1 FROM attempts WHERE (workspace_id, request_id) = (%s, %s) AND state <> 'open' LIMIT 1"
        return bool(await self.select(found, workspace, request_id))

    def must_be_the_reply(self, workspace: str, request_id: str, settled: Settled) -> None:
        first = self.replies.setdefault((workspace, request_id), settled.attempt_id)
        if settled.attempt_id != first:
            raise Violation(f"{request_id} was answered by {first}, and then by {settled.attempt_id}")


class Actor:
    """One worker or operator with its own session. It does its operations one after the other."""

    def __init__(self, world: World, session: Session) -> None:
        self._world, self._session = world, session
        self._operations: dict[type[Any], Callable[[Any], Awaitable[None]]] = {
            schedules.Claim: self._claim,
            schedules.End: self._end,
            schedules.Call: self._call,
            schedules.CallJointly: self._call_jointly,
            schedules.Cut: self._cut,
            schedules.Recover: self._recover,
            schedules.Renew: self._renew,
            schedules.SetCap: self._set_cap,
            schedules.Wait: self._wait,
            schedules.Sweep: self._sweep,
            schedules.Purge: self._purge,
            schedules.Refill: self._refill,
            schedules.Grant: self._grant,
            schedules.Reconcile: self._reconcile,
        }

    async def work(self, operations: tuple[Operation, ...]) -> None:
        """Do the operations. A refusal or the actor's death ends one operation, and the next one follows.

        Raises:
            Violation: an invariant does not hold.
        """
        for operation in operations:
            if self._session.is_over:
                return
            try:
                await self._operations[type(operation)](operation)
            except REFUSALS:
                self._world.counts["refusals"] += 1
            except Died:
                self._world.counts["died"] += 1
            except Violation:
                raise
            except Exception as error:
                raise Violation(f"{operation} raises {type(error).__name__}: {error}") from error

    async def _transact(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """One transaction, repeated while its outcome is unknown.

        Raises:
            Died: the session was lost, and the actor died with it.
            Violation: the transaction broke an invariant, or was the victim of a deadlock.
        """
        while True:
            self._session.dies = False
            try:
                async with self._session.database.transaction() as tx:
                    return await work(tx)
            except Unreachable as error:
                cause: Any = getattr(error.__cause__, "orig", error.__cause__)
                if getattr(cause, "sqlstate", None) == VIOLATION:
                    raise Violation(cause.diag.message_primary) from None
                if getattr(cause, "sqlstate", None) == DEADLOCK:
                    raise Violation(f"a deadlock: {cause.diag.message_detail}") from None
                if self._session.dies:
                    raise Died from error

    async def _granted(self, operation: schedules.Claim) -> Try | None:
        """Claim a request. None if it is settled, or another attempt holds its lease."""
        world, request, workspace = self._world, REQUESTS[operation.request], WORKSPACES[operation.workspace]
        request_id = world.request_id(workspace, request)
        first = world.request_id(workspace, request, request.repeats)
        superseded = self._superseded(operation)
        continues = superseded is not None and superseded.request.step == request.repeats
        if request.repeats and not continues and not await world.has_ended_attempt(workspace, first):
            return None  # a result is asked for again only after an attempt of its first request has ended, or ends now
        world.claims += 1
        number = world.claims
        job = world.job(workspace, request.job)
        charge = Charge(
            workspace_id=workspace,
            user_id=request.user,
            job_key=job.job_key,
            workflow_id=job.workflow_id,
            request_id=request_id,
            result_id=None if request.is_free else first,
            action="ai_message",
            energy=0 if request.is_free else PRICE,
            envelope=ENVELOPES[request.job],
        )
        offer = Offer(
            provider=PROVIDERS[operation.provider],
            model="model-1",
            simulated=True,
            upper_bound_usd=operation.bounds * BOUND,
            rates=RATES,
        )
        supersedes = superseded.attempt_id if superseded else None
        claim = ledger.Claim(charge, job.fingerprint, offer, TERMS, UUID(int=number), supersedes)

        async def make(tx: AsyncSession) -> Settled | Held | Granted:
            if supersedes:
                await tx.execute(SUPERSEDES, {"attempt": str(supersedes)})
            return await ledger.claim(tx, claim)

        claimed = await self._transact(make)
        world.counts[f"claims: {type(claimed).__name__.lower()}"] += 1
        world.counts["claims that supersede"] += superseded is not None and isinstance(claimed, Granted)
        if isinstance(claimed, Settled):
            world.must_be_the_reply(workspace, request_id, claimed)
        if not isinstance(claimed, Granted):
            return None
        granted = Try(workspace, request, claimed.attempt_id, operation.outcome, operation.bounds, number)
        world.tries.append(granted)
        return granted

    def _superseded(self, operation: schedules.Claim) -> Try | None:
        """The attempt that a claim supersedes: one of the same job, at the same request or one before it."""
        earlier = self._world.known(operation.supersedes) if operation.supersedes is not None else None
        if earlier is None or earlier.workspace != WORKSPACES[operation.workspace]:
            return None
        place = REQUESTS.index(earlier.request)
        is_before = place <= operation.request and earlier.request.job == REQUESTS[operation.request].job
        return earlier if is_before else None

    async def _claim(self, operation: schedules.Claim) -> None:
        await self._granted(operation)

    async def _call(self, operation: schedules.Call) -> None:
        granted = await self._granted(operation.claim)
        if granted:
            await self._finish(granted, trips_breaker=operation.trips_breaker)

    async def _end(self, operation: schedules.End) -> None:
        attempt = self._world.known(operation.attempt)
        if attempt:
            await self._finish(attempt, trips_breaker=operation.trips_breaker)

    async def _call_jointly(self, operation: schedules.CallJointly) -> None:
        other = replace(operation.claim, request=operation.other, supersedes=None)
        claims = [operation.claim, other] if other.request != operation.claim.request else [operation.claim]
        granted = [attempt for one in claims if (attempt := await self._granted(one))]
        if len(granted) == 2 and all(attempt.is_answered for attempt in granted):
            await self._settle_all(sorted(granted, key=lambda one: self._world.request_id(one.workspace, one.request)))
            return
        for attempt in granted:
            await self._finish(attempt, trips_breaker=False)

    async def _finish(self, attempt: Try, *, trips_breaker: bool) -> None:
        if attempt.is_answered:
            await self._settle(attempt)
            return
        failure = Failure(
            "ProviderUnavailable",
            "it went wrong",
            BILLED[attempt.outcome],
            trips_breaker=trips_breaker,
            cost_usd=attempt.cost_usd,
        )
        await self._fail(attempt, failure)

    async def _cut(self, operation: schedules.Cut) -> None:
        attempt = self._world.known(operation.attempt)
        if attempt and (attempt.is_answered or attempt.outcome is Outcome.CUT):
            await self._fail(attempt, Failure("ProviderUnavailable", "no answer", Billed.UNKNOWN, trips_breaker=True))

    async def _recover(self, operation: schedules.Recover) -> None:
        earlier = self._world.known(operation.attempt)
        if earlier is None:
            return
        workspace, request = WORKSPACES.index(earlier.workspace), REQUESTS.index(earlier.request)
        granted = await self._granted(schedules.Claim(workspace, request, Outcome.REFUSED, bounds=1, provider=0))
        if granted and earlier.is_answered:
            await self._settle(earlier, withdraws=granted.attempt_id)

    async def _settle(self, attempt: Try, withdraws: UUID | None = None) -> None:
        """Settle an attempt's reply; then record the answer, or the summary, as the steps of `Generate` do."""
        settlement = self._settlement(attempt, withdraws)
        settled = await self._transact(lambda tx: ledger.settle(tx, settlement))
        self._world.counts["settles"] += 1
        await self._record(attempt, settled)

    async def _settle_all(self, attempts: list[Try]) -> None:
        """Settle the replies of attempts in one transaction, in the order of their request ids."""
        settlements = [self._settlement(attempt) for attempt in attempts]
        settled = await self._transact(lambda tx: ledger.settle_jointly(tx, settlements))
        self._world.counts["joint settles"] += 1
        for attempt, one in zip(attempts, settled, strict=True):
            await self._record(attempt, one)

    def _settlement(self, attempt: Try, withdraws: UUID | None = None) -> Settlement:
        return Settlement(
            attempt.workspace,
            attempt.attempt_id,
            attempt.reply,
            attempt.cost_usd,
            RATES,
            withdraws=withdraws,
            on_end=self._on_end(attempt),
        )

    async def _record(self, attempt: Try, settled: Settled) -> None:
        """Record the answer, or the summary, as the steps of `Generate` do."""
        workspace = attempt.workspace
        self._world.must_be_the_reply(workspace, self._world.request_id(workspace, attempt.request), settled)
        job = self._world.job(workspace, attempt.request.job)

        async def record(tx: AsyncSession) -> None:
            await budgets.lock(tx, workspace, budgets.job_scope(job.job_key))
            cost_usd, _ = await generations.totals(tx, workspace, job.job_key)
            known = {"outcome": "completed", "attempt_id": settled.attempt_id, "cost_usd": cost_usd}
            if not await generations.record(tx, generations.row(job, Serving(), **known)):
                await generations.record_cost(tx, workspace, job.job_key)

        async def store(tx: AsyncSession) -> None:
            await summaries.store(tx, workspace, "a" * 64, 2, settled.attempt_id)

        await self._transact(store if attempt.request.is_free else record)

    async def _fail(self, attempt: Try, failure: Failure) -> None:
        on_end = self._on_end(attempt)
        await self._transact(
            lambda tx: ledger.fail(tx, attempt.workspace, attempt.attempt_id, failure, TERMS, on_end=on_end)
        )
        self._world.counts["fails"] += 1

    def _on_end(self, attempt: Try) -> OnEnd:
        job_key = self._world.job(attempt.workspace, attempt.request.job).job_key
        return lambda tx: generations.record_cost(tx, attempt.workspace, job_key)

    async def _renew(self, operation: schedules.Renew) -> None:
        attempt = self._world.known(operation.attempt)
        if attempt:
            await self._transact(lambda tx: ledger.renew(tx, attempt.workspace, attempt.attempt_id, LEASE_SECONDS))
            self._world.counts["renewals"] += 1

    async def _set_cap(self, operation: schedules.SetCap) -> None:
        workspace = WORKSPACES[operation.workspace]
        usd = None if operation.bounds is None else operation.bounds * BOUND
        await self._transact(lambda tx: budgets.set_cap(tx, workspace, operation.period, usd))
        self._world.counts["cap changes"] += 1

    async def _wait(self, operation: schedules.Wait) -> None:
        passed = timedelta(seconds=operation.seconds)
        await self._world.admin.execute("UPDATE checker.clock SET moment = moment + %s", (passed,))

    async def _sweep(self, _: schedules.Sweep) -> None:
        stale = await self._transact(lambda tx: sweep.stale_requests(tx, limit=100))
        for found in stale:

            async def end(
                tx: AsyncSession, workspace: str = found.workspace_id, request: str = found.request_id
            ) -> bool:
                return await ledger.end_stale(tx, workspace, request)

            self._world.counts["swept"] += await self._transact(end)
        self._world.counts["sweeps"] += 1

    async def _purge(self, _: schedules.Purge) -> None:
        """Delete all that a purge may delete, however young."""
        now = await self._world.now()
        for purge in (cache.purge, summaries.purge, generations.purge_prompts):

            async def delete(tx: AsyncSession, purge: Callable[..., Awaitable[int]] = purge) -> int:
                return await purge(tx, now, limit=100)

            await self._transact(delete)
        self._world.counts["purges"] += 1

    async def _refill(self, operation: schedules.Refill) -> None:
        await self._transact(lambda tx: refill.top_up(tx, DAILY_ENERGY, key=f"day {operation.day}", page=100))
        self._world.counts["refills"] += 1

    async def _grant(self, operation: schedules.Grant) -> None:
        user, key = USERS[operation.user], f"gift {operation.key}"
        await self._transact(lambda tx: energy.grant(tx, WORKSPACES[0], user, PRICE, key=key))
        self._world.counts["grants"] += 1

    async def _reconcile(self, operation: schedules.Reconcile) -> None:
        workspace, until = WORKSPACES[operation.workspace], await self._world.now() + timedelta(seconds=1)
        listed = [attempt.billed for attempt in self._world.tries if attempt.workspace == workspace]
        billed = [line for line in listed if line]
        for found in await self._transact(lambda tx: corrections.find(tx, workspace, billed, until)):

            async def apply(tx: AsyncSession, found: Any = found) -> bool:
                return await corrections.apply(tx, workspace, found)

            self._world.counts["reconciled"] += await self._transact(apply)
