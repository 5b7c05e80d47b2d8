"""The audit finds every disagreement that somebody plants, and names the check."""

import pytest

from domain.errors import Billed
from storage.audit import CHECKS, audit
from tests.storage.books import SILENT, Books

# Each statement plants one lie into the ledger that `a_full_ledger` wrote.
LIES = {
    "an account's grants are its entries": "UPDATE energy_accounts SET granted = granted + 1",
    "an account's charges are its usage rows": "UPDATE ai_usage_logs SET energy_charged = 9 WHERE energy_charged > 0",
    "an account's charges are its entries": "UPDATE energy_entries SET amount = 9 WHERE kind = 'charge'",
    "an account's reservations are its open calls'": "UPDATE calls SET energy_reserved = 9 WHERE energy_reserved > 0",
    "a reservation is released, charged or held": "DELETE FROM energy_entries WHERE kind = 'release'",
    "an envelope's reserved dollars are its open attempts'": "UPDATE budgets SET reserved_usd = 0.01 + 0.000001",
    "an envelope's confirmed dollars are its usage rows'": "UPDATE budgets SET confirmed_usd = 0",
    "an envelope's uncertain dollars are its usage rows'": "UPDATE budgets SET uncertain_usd = 0",
    "a settled call has one settled attempt, a reply, a row and an event": "DELETE FROM replies",
    "an open call has no settled attempt": "UPDATE calls SET state = 'open' WHERE state = 'settled'",
    "a request is charged at most once, and only for its settled attempt": """
        UPDATE ai_usage_logs SET energy_charged = 1 WHERE outcome IN ('duplicate', 'lost')""",
    "an open attempt owns its call": "UPDATE calls SET owner_attempt_id = NULL",
    "an attempt that was or may have been billed has a row": "DELETE FROM ai_usage_logs WHERE outcome = 'failed'",
    "a usage row tells what its attempt cost": "UPDATE call_attempts SET cost_usd = 1 WHERE state = 'duplicate'",
}


@pytest.fixture
def must_agree() -> bool:
    """Not here: these tests plant disagreements."""
    return False


@pytest.fixture
async def a_full_ledger(books: Books) -> Books:
    """Something of every kind: settled, duplicate, lost, failed and open."""
    late, owner = await books.taken_over("won")
    await books.settle(owner)
    await books.settle(late)
    await books.granted("lost", terms=SILENT)
    await books.sweep("lost")
    await books.fail(await books.granted("failed"), Billed.UNKNOWN)
    await books.granted("open")
    assert await books.disagreements() == []
    return books


def test_every_check_has_its_lie():
    assert list(LIES) == list(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
async def test_a_planted_disagreement_is_found(a_full_ledger: Books, check: str):
    assert await a_full_ledger.run(LIES[check]) > 0
    assert check in await a_full_ledger.disagreements()


@pytest.mark.parametrize(
    "lie",
    [
        "DELETE FROM outbox",
        "UPDATE ai_usage_logs SET confirmed = false WHERE outcome = 'settled'",
        "UPDATE call_attempts SET state = 'duplicate' WHERE state = 'settled'",
    ],
)
async def test_each_part_of_a_settled_call_is_missed(a_full_ledger: Books, lie: str):
    assert await a_full_ledger.run(lie) > 0
    check = "a settled call has one settled attempt, a reply, a row and an event"
    assert check in await a_full_ledger.disagreements()


async def test_a_disagreement_says_where_and_by_how_much(a_full_ledger: Books):
    await a_full_ledger.run("UPDATE energy_accounts SET granted = granted + 1")
    async with a_full_ledger.database.transaction() as tx:
        (found,) = await audit(tx)
    assert (found.workspace_id, found.subject, found.expected, found.found) == ("acme", "ann", "100", "101")


async def test_an_audit_of_one_workspace_tells_nothing_of_another(a_full_ledger: Books):
    await a_full_ledger.run("UPDATE energy_accounts SET granted = granted + 1")
    async with a_full_ledger.database.transaction() as tx:
        assert await audit(tx, "globex") == []
        assert len(await audit(tx, "acme")) == 1
