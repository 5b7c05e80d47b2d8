"""What a caller writes in the transaction that settles its reply."""

from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.testing import ActivityEnvironment

from activities.paid_call import PaidCalls
from parley.domain.errors import ProviderUnavailable
from parley.domain.requests import Reply
from parley.storage.driver import defer
from parley.storage.ledger import Charge, Settled
from tests.activities.asking import ANTHROPIC, CHAT
from tests.parts import SimulatorAdmin
from tests.storage.ledger_fixture import JOB, PRICE, STEP, USER, WORKSPACE, LedgerFixture

WRITE = text(
    "INSERT INTO auto_merges (workspace_id, job_key, kind, level, label, canonical) VALUES ('', '', '', 0, '', '')"
)
FAIL = text("SELECT 1 / 0")
OnReply = Callable[[AsyncSession, Reply], Awaitable[None]]


async def make(paid_calls: PaidCalls, on_reply: OnReply) -> Settled:
    charge = Charge(
        workspace_id=WORKSPACE,
        user_id=USER,
        job_key=JOB,
        workflow_id="workflow",
        request_id=f"{JOB}/{STEP}",
        action="coaching",
        energy=PRICE,
    )

    async def call() -> Settled:
        return await paid_calls.make(charge, CHAT, ANTHROPIC.provider, ANTHROPIC.model, on_reply=on_reply)

    return await ActivityEnvironment().run(call)


async def written(books: LedgerFixture) -> int:
    async with books.database.transaction() as tx:
        return (await tx.execute(text("SELECT count(*) FROM auto_merges"))).scalar_one()


async def writes(tx: AsyncSession, _: Reply) -> None:
    await tx.execute(WRITE)


async def test_it_is_committed_with_the_reply_and_not_written_again(
    books: LedgerFixture, paid_calls: PaidCalls
) -> None:
    await books.open()
    settled = await make(paid_calls, writes)
    assert (settled.has_followed, await written(books)) == (True, 1)
    again = await make(paid_calls, writes)
    assert (again, again.has_followed, await written(books)) == (settled, False, 1)


async def test_it_is_written_with_the_reply_of_a_later_attempt(
    books: LedgerFixture, paid_calls: PaidCalls, simulator: SimulatorAdmin
) -> None:
    await books.open()
    await simulator.fault("server_error")
    with pytest.raises(ProviderUnavailable):
        await make(paid_calls, writes)
    assert await written(books) == 0
    settled = await make(paid_calls, writes)
    assert (settled.has_followed, await written(books)) == (True, 1)


@pytest.mark.parametrize("fails_at", ["once", "its statement", "the commit"])
async def test_a_reply_is_settled_without_it_if_it_cannot_be_written(
    fails_at: str, books: LedgerFixture, paid_calls: PaidCalls, simulator: SimulatorAdmin
) -> None:
    """A reply that is paid for is never lost for what follows from it."""

    async def fails(tx: AsyncSession, reply: Reply) -> None:
        await writes(tx, reply)
        if fails_at == "once":
            raise RuntimeError
        if fails_at == "its statement":
            await tx.execute(FAIL)
        await defer(tx, FAIL, {})

    await books.open()
    settled = await make(paid_calls, fails)
    assert (settled.has_followed, await written(books)) == (False, 0)
    assert settled.cost_usd > 0
    assert len(await simulator.requests()) == 1
