"""The ledger's operations for tests: one workspace, one user and one job unless a test says otherwise."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlmodel import SQLModel

from parley.domain.budgets import Period
from parley.domain.errors import Billed
from parley.domain.pricing import Rates, cost
from parley.domain.requests import ChatReply, Finish, Provider, Usage
from parley.storage import budgets, energy, ledger
from parley.storage.audit import audit
from parley.storage.breaker import BreakerTerms
from parley.storage.database import Database
from parley.storage.ledger import Charge, Claim, Failure, Granted, Held, Offer, Settled, Settlement, Terms
from parley.storage.tables import (
    Attempt,
    Budget,
    EnergyAccount,
    EnergyEntry,
    OutboxEvent,
    PaidRequest,
    UsageLog,
    utc_now,
)

WORKSPACE, USER, JOB, STEP = "acme", "ann", "job", "step"
PRICE = 10
BOUND = Decimal("0.010000")
RATES = Rates(source="a price list", input=Decimal(1), cached_input=Decimal("0.1"), output=Decimal(5))
USAGE = Usage(input_tokens=1000, cached_input_tokens=400, output_tokens=200)
COST = Decimal("0.001640")  # 600 at $1, 400 at $0.10 and 200 at $5 a million
NOTHING = Decimal(0)

TERMS = Terms(
    lease_seconds=60,
    reservation_seconds=3600,
    breaker=BreakerTerms(failures=3, open_seconds=60, probe_seconds=60),
)
# The lease expires as soon as it is granted.
EXPIRED = replace(TERMS, lease_seconds=0)


def reply(text: str = "well said", *, usage: Usage = USAGE, model: str = "vendor/model-1") -> ChatReply:
    return ChatReply(text=text, finish=Finish.STOP, usage=usage, model=model)


class LedgerFixture:
    """Every operation in a separate transaction, as a paid call makes them."""

    def __init__(self, database: Database, workspace: str = WORKSPACE) -> None:
        self.database, self.workspace = database, workspace

    async def open(
        self, *, energy_granted: int = 100, cap: Decimal | None = None, user: str = USER, job: str = JOB
    ) -> "LedgerFixture":
        """An account and an envelope to claim on."""
        async with self.database.transaction() as tx:
            await energy.open_account(tx, self.workspace, user, starting_energy=energy_granted)
            await budgets.open_envelope(tx, self.workspace, budgets.job_scope(job), cap)
        return self

    async def claim(
        self,
        step: str = STEP,
        *,
        attempt_id: UUID | None = None,
        terms: Terms = TERMS,
        bound: Decimal = BOUND,
        provider: Provider = Provider.ANTHROPIC,
        job: str = JOB,
        fingerprint: str = "what was asked",
        supersedes: UUID | None = None,
        joint_id: UUID | None = None,
        **changes: Any,
    ) -> Settled | Held | Granted:
        account: dict[str, Any] = {
            "workspace_id": self.workspace,
            "request_id": f"{job}/{step}",
            "job_key": job,
            "user_id": USER,
            "action": "coaching",
            "energy": PRICE,
            "workflow_id": "workflow",
        }
        offer = Offer(provider=provider, model="model-1", simulated=True, upper_bound_usd=bound, rates=RATES)
        charge = Charge(**{**account, **changes})
        async with self.database.transaction() as tx:
            claim = Claim(charge, fingerprint, offer, terms, attempt_id or uuid4(), supersedes, joint_id)
            return await ledger.claim(tx, claim)

    async def granted(self, step: str = STEP, **terms: Any) -> UUID:
        claimed = await self.claim(step, **terms)
        assert isinstance(claimed, Granted), claimed
        return claimed.attempt_id

    async def taken_over(self, step: str = STEP) -> tuple[UUID, UUID]:
        """A request whose first lease expired: the lost attempt and the next one."""
        return await self.granted(step, terms=EXPIRED), await self.granted(step)

    async def settle(self, attempt_id: UUID, answer: ChatReply | None = None, rates: Rates = RATES) -> Settled:
        answer = answer or reply()
        known = cost(answer.usage, rates) if answer.usage.is_known and rates.exact else None
        async with self.database.transaction() as tx:
            settlement = Settlement(self.workspace, attempt_id, answer, known, rates)
            return await ledger.settle(tx, settlement)

    async def settle_jointly(self, *attempt_ids: UUID, costs: Sequence[Decimal | None] = ()) -> list[Settled]:
        """Settle attempts that were sent as one. They are given in the order of their request ids."""
        known = costs or [COST] * len(attempt_ids)
        async with self.database.transaction() as tx:
            settlements = [
                Settlement(self.workspace, attempt_id, reply(), cost_usd, RATES)
                for attempt_id, cost_usd in zip(attempt_ids, known, strict=True)
            ]
            return await ledger.settle_jointly(tx, settlements)

    async def fail(
        self,
        attempt_id: UUID,
        billed: Billed = Billed.NO,
        *,
        detail: str = "it went wrong",
        trips_breaker: bool = False,
        **counted: Any,
    ) -> None:
        failure = Failure("SomeError", detail, billed, trips_breaker=trips_breaker, **counted)
        async with self.database.transaction() as tx:
            await ledger.fail(tx, self.workspace, attempt_id, failure, TERMS)

    async def renew(self, attempt_id: UUID, seconds: float = 60) -> bool:
        async with self.database.transaction() as tx:
            return await ledger.renew(tx, self.workspace, attempt_id, seconds)

    async def sweep(self, step: str = STEP, job: str = JOB) -> bool:
        async with self.database.transaction() as tx:
            return await ledger.end_stale(tx, self.workspace, f"{job}/{step}")

    async def all(self, table: type[SQLModel], order: str | None = None, **wanted: Any) -> Sequence[Any]:
        query = select(table).where(*(getattr(table, name) == value for name, value in wanted.items()))
        if order:
            query = query.order_by(getattr(table, order))
        async with self.database.transaction() as tx:
            return (await tx.execute(query)).scalars().all()

    async def request(self, step: str = STEP, job: str = JOB) -> PaidRequest:
        (found,) = await self.all(PaidRequest, request_id=f"{job}/{step}")
        return found

    async def attempts(self, step: str = STEP) -> Sequence[Attempt]:
        return await self.all(Attempt, "number", request_id=f"{JOB}/{step}")

    async def states(self, step: str = STEP) -> list[str]:
        return [attempt.state for attempt in await self.attempts(step)]

    async def row(self, attempt_id: UUID) -> UsageLog:
        (found,) = await self.all(UsageLog, attempt_id=attempt_id)
        return found

    async def rows(self) -> Sequence[UsageLog]:
        return await self.all(UsageLog, "created_at")

    async def events(self) -> list[str]:
        return [event.kind for event in await self.all(OutboxEvent, "id")]

    async def movements(self) -> list[tuple[str, int]]:
        """What happened to the user's energy since the grant."""
        return [(entry.kind, entry.amount) for entry in await self.all(EnergyEntry, "id")][1:]

    async def energy(self, user: str = USER) -> tuple[int, int]:
        """Charged and reserved."""
        (account,) = await self.all(EnergyAccount, workspace_id=self.workspace, user_id=user)
        return account.charged, account.reserved

    async def dollars(self, job: str = JOB) -> tuple[Decimal, Decimal, Decimal]:
        """Reserved, confirmed and uncertain."""
        (found,) = await self.all(Budget, workspace_id=self.workspace, scope=budgets.job_scope(job))
        return found.reserved_usd, found.confirmed_usd, found.uncertain_usd

    async def cap(self, period: Period, usd: Decimal | None) -> None:
        async with self.database.transaction() as tx:
            await budgets.set_cap(tx, self.workspace, period, usd)

    async def day(self, moment: datetime | None = None) -> tuple[Decimal, Decimal, Decimal]:
        """Reserved, confirmed and uncertain of the workspace's day."""
        scope = budgets.day_scope(moment or utc_now())
        (found,) = await self.all(Budget, workspace_id=self.workspace, scope=scope)
        return found.reserved_usd, found.confirmed_usd, found.uncertain_usd

    async def run(self, statement: str, **values: Any) -> int:
        """Change rows without the ledger."""
        async with self.database.transaction() as tx:
            return (await tx.execute(text(statement), values)).rowcount

    async def disagreements(self) -> list[str]:
        async with self.database.transaction() as tx:
            return [found.check for found in await audit(tx)]


@pytest.fixture
async def books(database: Database) -> LedgerFixture:
    return await LedgerFixture(database).open()


@pytest.fixture
def must_agree() -> bool:
    """Overridden where a test leaves the ledger in disagreement on purpose."""
    return True


@pytest.fixture
async def database(database: Database, must_agree: bool) -> AsyncIterator[Database]:
    """The test's own database. Whatever the test did, the ledger must agree with itself afterwards."""
    yield database
    if must_agree:
        async with database.transaction() as tx:
            assert await audit(tx) == []
