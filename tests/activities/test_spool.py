"""Paid requests that are sent while the database is down: each is booked once when it is back, at what it cost."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from activities.paid_call import PaidCalls
from parley.domain.budgets import Period
from parley.domain.errors import BudgetExhausted, ProviderNotConfigured, ProviderUnavailable, Unreachable
from parley.domain.pricing import upper_bound
from parley.domain.requests import ChatReply, Provider, Reply, fingerprint
from parley.settings import Settings
from parley.storage import ledger
from parley.storage.database import Database
from parley.storage.ledger import Charge, Claim, Offer
from parley.storage.spool import Spool, SpooledAttempt
from parley.storage.tables import Attempt, Generation
from tests.activities.asking import ANTHROPIC, CHAT, OPENAI, RATES, make, started
from tests.activities.conftest import Opener
from tests.activities.proxy import DatabaseProxy
from tests.parts import SimulatorAdmin
from tests.storage.ledger_fixture import JOB, NOTHING, PRICE, STEP, TERMS, USER, WORKSPACE, LedgerFixture

ACCOUNT: dict[str, Any] = {
    "workspace_id": WORKSPACE,
    "user_id": USER,
    "job_key": JOB,
    "workflow_id": "workflow",
    "request_id": f"{JOB}/{STEP}",
    "action": "coaching",
    "energy": PRICE,
}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", ANTHROPIC.bound * 3)


async def informed(calls: PaidCalls) -> PaidCalls:
    """A process that has read the workspace's configuration."""
    with suppress(ProviderNotConfigured):
        await calls.ping(WORKSPACE, Provider.LOCAL)
    return calls


@pytest.fixture
async def paid_calls(open_calls: Opener, database: Database, settings: Settings) -> PaidCalls:
    return await informed(open_calls(database, settings))


@pytest.fixture
async def far_calls(open_calls: Opener, proxy: DatabaseProxy, settings: Settings) -> PaidCalls:
    """A process whose database is down."""
    calls = await informed(open_calls(proxy.database, settings))
    proxy.cut()
    return calls


async def send(calls: PaidCalls, spool: Spool) -> Reply:
    charge = Charge(**ACCOUNT)
    return (await calls.make_without_ledger(spool, charge, CHAT, ANTHROPIC.provider, ANTHROPIC.model)).reply


def interrupted() -> SpooledAttempt:
    """The attempt of a process that died while its request was sent."""
    bound, rates = upper_bound(ANTHROPIC.provider, ANTHROPIC.model, CHAT, RATES)
    offer = Offer(
        provider=ANTHROPIC.provider, model=ANTHROPIC.model, simulated=True, upper_bound_usd=bound, rates=rates
    )
    charge = Charge(**{**ACCOUNT, "request_id": f"{JOB}/{STEP}/spooled/1", "result_id": f"{JOB}/{STEP}"})
    return SpooledAttempt(
        attempt_id=uuid4(), charge=charge, fingerprint=fingerprint(CHAT), offer=offer, sent_at=datetime.now(UTC)
    )


async def test_is_answered_at_once_and_booked_when_the_database_is_back(
    far_calls: PaidCalls, spool: Spool, proxy: DatabaseProxy, books: LedgerFixture, simulator: SimulatorAdmin
):
    reply = await send(far_calls, spool)
    assert isinstance(reply, ChatReply)
    assert reply.text
    with pytest.raises(Unreachable):
        await far_calls.book_spooled(spool)
    proxy.restore()
    assert [await far_calls.book_spooled(spool) for _ in range(2)] == [1, 0]
    (counted,) = await simulator.requests()
    (row,) = await books.rows()
    assert (row.cost_usd, row.energy_charged) == (ANTHROPIC.cost(counted), PRICE)
    assert await books.events() == ["ai_generation_completed"]
    assert spool.attempts() == []


async def test_a_process_that_does_not_know_the_workspace_sends_nothing(
    open_calls: Opener, database: Database, settings: Settings, spool: Spool, simulator: SimulatorAdmin
):
    """It could use the fleet's key for a workspace with its own, or send text that the workspace masks."""
    with pytest.raises(ProviderNotConfigured, match="configuration cannot be read"):
        await send(open_calls(database, settings), spool)
    assert await simulator.requests() == []


async def test_of_a_process_that_died_may_have_cost_its_upper_bound(
    paid_calls: PaidCalls, spool: Spool, books: LedgerFixture
):
    file = spool.open(interrupted())
    assert await paid_calls.book_spooled(spool) == 0  # its process lives
    file.close()
    assert await paid_calls.book_spooled(spool) == 1
    (row,) = await books.rows()
    assert (row.confirmed, row.cost_usd, row.energy_charged) == (False, ANTHROPIC.bound, 0)


async def test_an_attempt_that_cannot_be_booked_holds_no_other_back(
    paid_calls: PaidCalls, spool: Spool, books: LedgerFixture, caplog: pytest.LogCaptureFixture
):
    bad, good = interrupted(), interrupted()
    unstorable = bad.charge.model_copy(update={"user_id": "a\x00b"})
    for attempt in bad.model_copy(update={"charge": unstorable}), good:
        spool.open(attempt).close()
    assert await paid_calls.book_spooled(spool) == 1
    assert [row.id for row in await books.all(Attempt)] == [good.attempt_id]
    assert [one.attempt_id for one in spool.attempts()] == [bad.attempt_id]
    assert f"attempt {bad.attempt_id} of the spool cannot be booked" in caplog.text


async def test_that_failed_is_booked_as_failed(
    far_calls: PaidCalls, spool: Spool, proxy: DatabaseProxy, books: LedgerFixture, simulator: SimulatorAdmin
):
    await simulator.fault("cut")
    with pytest.raises(ProviderUnavailable):
        await send(far_calls, spool)
    proxy.restore()
    assert await far_calls.book_spooled(spool) == 1
    assert [one.state for one in await books.all(Attempt)] == ["failed"]


@pytest.mark.parametrize("is_paid_before", [True, False])
async def test_is_charged_once_beside_a_request_that_the_ledger_has(
    is_paid_before: bool, paid_calls: PaidCalls, spool: Spool, books: LedgerFixture
):
    if is_paid_before:
        await make(paid_calls)
    await send(paid_calls, spool)
    assert await paid_calls.book_spooled(spool) == 1
    if not is_paid_before:
        await make(paid_calls, step="again", result_id=f"{JOB}/{STEP}")
    assert sorted(row.energy_charged for row in await books.rows()) == [0, PRICE]


@pytest.mark.parametrize("is_claimed_before", [True, False])
async def test_is_charged_once_beside_a_request_that_ends_after_it(
    is_claimed_before: bool, paid_calls: PaidCalls, spool: Spool, books: LedgerFixture, simulator: SimulatorAdmin
):
    """The database was lost after the claim of the request, or was back before it."""
    await simulator.gate(closed=True, provider="openai")
    late = started(paid_calls, OPENAI) if is_claimed_before else None
    await simulator.requests(at_least=int(is_claimed_before))
    await send(paid_calls, spool)
    assert await paid_calls.book_spooled(spool) == 1
    late = late or started(paid_calls, OPENAI)
    await simulator.gate(closed=False, provider="openai")
    await late
    assert sorted(row.energy_charged for row in await books.rows()) == [0, PRICE]


async def test_the_first_request_of_a_user_is_charged(paid_calls: PaidCalls, spool: Spool, books: LedgerFixture):
    """An account is opened with the first request, and the ledger has seen none of this user."""
    charge = Charge(**{**ACCOUNT, "user_id": "new"})
    await paid_calls.make_without_ledger(spool, charge, CHAT, ANTHROPIC.provider, ANTHROPIC.model)
    assert await paid_calls.book_spooled(spool) == 1
    (row,) = await books.rows()
    assert row.energy_charged == PRICE


async def test_a_generation_costs_also_what_was_booked_later(paid_calls: PaidCalls, spool: Spool, books: LedgerFixture):
    """Its row was written before the database was lost."""
    asked = {name: ACCOUNT[name] for name in ("workspace_id", "user_id", "job_key", "workflow_id", "action")}
    async with books.database.transaction() as tx:
        tx.add(Generation(**asked, request_id=f"{JOB}/generate", fingerprint="f", outcome="cancelled"))
    await send(paid_calls, spool)
    assert await paid_calls.book_spooled(spool) == 1
    (generation,) = await books.all(Generation)
    (row,) = await books.rows()
    assert generation.cost_usd == row.cost_usd > 0


async def test_a_process_that_dies_while_it_books_leaves_it_to_the_next(
    paid_calls: PaidCalls, spool: Spool, books: LedgerFixture
):
    await send(paid_calls, spool)
    (spooled,) = spool.attempts()
    claim = Claim(spooled.charge, spooled.fingerprint, spooled.offer, TERMS, spooled.attempt_id)
    async with books.database.transaction() as tx:
        await ledger.adopt(tx, claim, spooled.sent_at)
    assert [one.state for one in await books.all(Attempt)] == ["open"]
    assert await paid_calls.book_spooled(spool) == 1
    assert [one.state for one in await books.all(Attempt)] == ["settled"]


async def test_the_cap_is_that_of_all_attempts_together(far_calls: PaidCalls, spool: Spool, simulator: SimulatorAdmin):
    ended = await asyncio.gather(*(send(far_calls, spool) for _ in range(4)), return_exceptions=True)
    assert [type(one) for one in ended if isinstance(one, Exception)] == [BudgetExhausted]
    assert len(await simulator.requests()) == 3


async def test_a_cap_does_not_hide_what_was_spent(paid_calls: PaidCalls, spool: Spool, books: LedgerFixture):
    await send(paid_calls, spool)
    await books.cap(Period.DAY, NOTHING)
    assert await paid_calls.book_spooled(spool) == 1
    (row,) = await books.rows()
    assert row.cost_usd > 0
    with pytest.raises(BudgetExhausted):
        await make(paid_calls, step="next")


async def test_a_line_that_was_not_written_whole_is_passed_over(
    paid_calls: PaidCalls, spool: Spool, books: LedgerFixture, tmp_path: Path
):
    spool.open(interrupted()).close()
    (path,) = (tmp_path / "spool").glob("*.jsonl")
    with path.open("ab") as opened:
        opened.write(b'{"attempt_id": "half of')
    assert path.stat().st_mode & 0o077 == 0
    assert await paid_calls.book_spooled(spool) == 1
    (row,) = await books.rows()
    assert not row.confirmed


async def test_a_directory_that_cannot_be_written_sends_nothing(
    far_calls: PaidCalls, tmp_path: Path, simulator: SimulatorAdmin
):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(Unreachable, match="spool"):
        await send(far_calls, Spool(tmp_path / "file", Decimal(1)))
    assert await simulator.requests() == []
