"""The audit finds every disagreement planted in the ledger and names the check."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from parley.domain.costs import BilledAttempt
from parley.domain.errors import Billed
from parley.domain.requests import Provider
from parley.storage.audit import BILLED_CHECKS, CHECKS, audit, audit_billed
from parley.storage.tables import Attempt, Generation
from tests.storage.ledger_fixture import BOUND, COST, EXPIRED, JOB, USAGE, USER, LedgerFixture

# For each check, a statement that makes the ledger of `a_full_ledger` disagree with it.
PLANTED = {
    "an account's grants are its entries": "UPDATE energy_accounts SET granted = granted + 1",
    "an account's charges are its usage rows": "UPDATE ai_usage_logs SET energy_charged = 9 WHERE energy_charged > 0",
    "an account's charges are its entries": "UPDATE energy_entries SET amount = 9 WHERE kind = 'charge'",
    "an account's reservations are its open requests'": (
        "UPDATE paid_requests SET energy_reserved = 9 WHERE energy_reserved > 0"
    ),
    "a reservation is released, charged or held": "DELETE FROM energy_entries WHERE kind = 'release'",
    "an envelope's reserved dollars are its open attempts'": "UPDATE budgets SET reserved_usd = 0.01 + 0.000001",
    "an envelope's confirmed dollars are its usage rows'": "UPDATE budgets SET confirmed_usd = 0",
    "an envelope's uncertain dollars are its usage rows'": "UPDATE budgets SET uncertain_usd = 0",
    "a settled request has one settled attempt, a reply, a row and an event": "DELETE FROM replies",
    "a settled attempt is the one that settled its request": """
        UPDATE attempts SET state = 'settled' WHERE state = 'duplicate'""",
    "a joint request has one provider and model, and one attempt at each of its requests": """
        UPDATE attempts SET joint_id = '00000000-0000-4000-8000-000000000000'""",
    "a duplicate attempt is of a settled request": "UPDATE paid_requests SET state = 'open' WHERE state = 'settled'",
    "a result is charged at most once, and only for a settled attempt": """
        UPDATE ai_usage_logs SET energy_charged = 1 WHERE outcome IN ('duplicate', 'lost')""",
    "an open attempt owns its request": "UPDATE paid_requests SET owner_attempt_id = NULL",
    "an attempt that was or may have been billed has a row": "DELETE FROM ai_usage_logs WHERE outcome = 'failed'",
    "a usage row has its attempt's cost": "UPDATE attempts SET cost_usd = 1 WHERE state = 'duplicate'",
    "a day's envelope is what its attempts cost": "UPDATE budgets SET reserved_usd = 0 WHERE scope LIKE 'day:%'",
    "an attempt costs at most its upper bound": "UPDATE attempts SET upper_bound_usd = 0 WHERE state = 'settled'",
    "an envelope is within its cap": "UPDATE budgets SET cap_usd = 0.000001 WHERE scope = 'job:job'",
    "a workspace's spending is within its caps": """
        INSERT INTO spending_caps (workspace_id, period, cap_usd, updated_at)
        VALUES ('acme', 'week', 0.000001, now() - interval '1 day')""",
    "an answered generation names the attempt that answered": """
        UPDATE generations SET attempt_id = gen_random_uuid() WHERE cached = 'exact'""",
    "a generation costs what its attempts cost": "UPDATE generations SET cost_usd = 0.000001 WHERE cached = 'exact'",
}
DAYS = "a day's envelope is what its attempts cost"


@pytest.fixture
def must_agree() -> bool:
    """False: these tests plant disagreements."""
    return False


@pytest.fixture
async def a_full_ledger(books: LedgerFixture) -> LedgerFixture:
    """A ledger with an attempt of every state: settled, duplicate, lost, failed and open."""
    late, owner = await books.taken_over("won")
    await books.settle(owner)
    await books.settle(late)
    await books.granted("lost", terms=EXPIRED)
    await books.sweep("lost")
    await books.fail(await books.granted("failed"), Billed.UNKNOWN)
    await books.granted("open")
    await generated(books, "asked", attempt_id=owner, cost_usd=2 * COST, job_key=JOB)
    await generated(books, "cached", attempt_id=owner, cached="exact", saved_usd=COST)
    await generated(books, "refused", outcome="refused", reason="insufficient_energy")
    assert await books.disagreements() == []
    return books


async def generated(books: LedgerFixture, request_id: str, **fields: Any) -> None:
    row: dict[str, Any] = {"workflow_id": "w", "user_id": USER, "action": "ai_message", "outcome": "completed"}
    row |= {"job_key": request_id, "fingerprint": "asked"}
    async with books.database.transaction() as tx:
        tx.add(Generation(workspace_id=books.workspace, request_id=request_id, **row | fields))


def test_every_check_has_a_planted_disagreement():
    assert list(PLANTED) == list(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
async def test_a_planted_disagreement_is_found(a_full_ledger: LedgerFixture, check: str):
    assert await a_full_ledger.run(PLANTED[check]) > 0
    assert check in await a_full_ledger.disagreements()


@pytest.mark.parametrize(
    "planted",
    [
        "DELETE FROM outbox",
        "UPDATE ai_usage_logs SET confirmed = false WHERE outcome = 'settled'",
        "UPDATE attempts SET state = 'duplicate' WHERE state = 'settled'",
        "UPDATE attempts SET request_id = 'job/lost', number = 9 WHERE state = 'settled'",
    ],
)
async def test_each_missing_part_of_a_settlement_is_found(a_full_ledger: LedgerFixture, planted: str):
    assert await a_full_ledger.run(planted) > 0
    check = "a settled request has one settled attempt, a reply, a row and an event"
    assert check in await a_full_ledger.disagreements()


async def test_a_disagreement_names_its_place_and_amount(a_full_ledger: LedgerFixture):
    await a_full_ledger.run("UPDATE energy_accounts SET granted = granted + 1")
    async with a_full_ledger.database.transaction() as tx:
        (found,) = await audit(tx)
    assert (found.workspace_id, found.subject, found.expected, found.found) == ("acme", "ann", "100", "101")


async def test_an_audit_of_one_workspace_shows_nothing_of_another(a_full_ledger: LedgerFixture):
    await a_full_ledger.run("UPDATE energy_accounts SET granted = granted + 1")
    async with a_full_ledger.database.transaction() as tx:
        assert await audit(tx, "globex") == []
        assert len(await audit(tx, "acme")) == 1


@pytest.mark.parametrize(
    "planted",
    [
        "UPDATE budgets SET confirmed_usd = confirmed_usd + 0.000001 WHERE scope LIKE 'day:%'",
        "UPDATE budgets SET uncertain_usd = 0 WHERE scope LIKE 'day:%'",
        "UPDATE budgets SET scope = 'day:2026-01-31' WHERE scope LIKE 'day:%'",
        "UPDATE attempts SET started_at = started_at - interval '1 day' WHERE state = 'lost'",
        "DELETE FROM budgets WHERE scope LIKE 'day:%'",
    ],
)
async def test_each_account_of_a_day_and_each_day_is_compared(a_full_ledger: LedgerFixture, planted: str):
    assert await a_full_ledger.run(planted) > 0
    assert DAYS in await a_full_ledger.disagreements()


@pytest.mark.parametrize(
    "planted",
    [
        "UPDATE generations SET attempt_id = NULL WHERE request_id = 'asked'",
        "UPDATE generations SET attempt_id = (SELECT id FROM attempts WHERE state = 'failed') WHERE cached = ''",
        "UPDATE generations SET attempt_id = gen_random_uuid() WHERE outcome = 'refused'",
        "UPDATE generations SET workspace_id = 'globex' WHERE request_id = 'asked'",
    ],
)
async def test_an_answer_comes_from_a_settled_attempt_of_its_workspace(a_full_ledger: LedgerFixture, planted: str):
    assert await a_full_ledger.run(planted) > 0
    assert "an answered generation names the attempt that answered" in await a_full_ledger.disagreements()


async def test_a_day_that_disagrees_is_reported_with_all_three_accounts(a_full_ledger: LedgerFixture):
    await a_full_ledger.run("UPDATE budgets SET uncertain_usd = 1 WHERE scope LIKE 'day:%'")
    async with a_full_ledger.database.transaction() as tx:
        (found,) = await audit(tx)
    assert found.subject.startswith("day:20")
    assert [Decimal(usd) for usd in found.expected.split(" / ")] == [BOUND, 2 * COST, 2 * BOUND]
    assert [Decimal(usd) for usd in found.found.split(" / ")] == [BOUND, 2 * COST, 1]


# The provider's side of `a_full_ledger`: what it billed, each with its cost and its tokens.


@pytest.fixture
async def billed(a_full_ledger: LedgerFixture) -> list[BilledAttempt]:
    """A list that agrees. It bills lost and failed attempts as well, and one that is still open."""
    attempts: Sequence[Attempt] = await a_full_ledger.all(Attempt, "started_at")
    return [
        BilledAttempt(
            source=f"line {line}",
            attempt_id=attempt.id,
            cost_usd=COST,
            input_tokens=USAGE.input_tokens,
            output_tokens=USAGE.output_tokens,
            audio_seconds=Decimal(0),
        )
        for line, attempt in enumerate(attempts, 1)
    ]


async def compared(books: LedgerFixture, billed: Sequence[BilledAttempt], workspace: str | None = None) -> list[str]:
    async with books.database.transaction() as tx:
        return [found.check for found in await audit_billed(tx, workspace or books.workspace, billed)]


def altered(listed: list[BilledAttempt], line: int, **changes: Any) -> list[BilledAttempt]:
    """The list with changed fields of the attempt at `line`."""
    return [*listed[:line], listed[line].model_copy(update=changes), *listed[line + 1 :]]


# The attempts in the order in which `a_full_ledger` made them.
DUPLICATE, SETTLED, LOST, FAILED, OPEN = range(5)
ABOVE_BOUND = {"cost_usd": BOUND + Decimal("0.000001")}
PLANTED_IN_LIST: dict[str, Callable[[list[BilledAttempt]], list[BilledAttempt]]] = {
    "what was billed is in the ledger": lambda billed: altered(billed, SETTLED, attempt_id=uuid4()),
    "what was billed is not recorded as free": lambda billed: billed,  # the test changes the ledger instead
    "what is confirmed was billed": lambda billed: billed[:SETTLED] + billed[SETTLED + 1 :],
    "what was billed costs what the ledger says": lambda billed: altered(billed, DUPLICATE, cost_usd=2 * COST),
    "what was billed counts what the ledger says": lambda billed: altered(billed, SETTLED, output_tokens=201),
    "what was billed and never answered is within its bound": lambda billed: altered(billed, LOST, **ABOVE_BOUND),
}
AS_FREE = "UPDATE attempts SET billed = 'no' WHERE state = 'failed'"


def test_every_check_against_a_list_has_a_planted_disagreement():
    assert list(PLANTED_IN_LIST) == list(BILLED_CHECKS)


async def test_a_complete_list_agrees_and_an_empty_one_has_no_disagreement(
    a_full_ledger: LedgerFixture, billed: list[BilledAttempt]
):
    assert await compared(a_full_ledger, billed) == []
    assert await compared(a_full_ledger, []) == []


@pytest.mark.parametrize("check", BILLED_CHECKS)
async def test_a_list_that_disagrees_is_found(a_full_ledger: LedgerFixture, billed: list[BilledAttempt], check: str):
    if check == "what was billed is not recorded as free":
        assert await a_full_ledger.run(AS_FREE) == 1
    assert check in await compared(a_full_ledger, PLANTED_IN_LIST[check](billed))


@pytest.mark.parametrize(
    "planted",
    [{"input_tokens": 999}, {"output_tokens": 0}, {"audio_seconds": Decimal("0.5")}],
)
async def test_every_count_is_compared(
    a_full_ledger: LedgerFixture, billed: list[BilledAttempt], planted: dict[str, Any]
):
    assert await compared(a_full_ledger, altered(billed, SETTLED, **planted)) == [
        "what was billed counts what the ledger says"
    ]


async def test_a_list_may_have_only_costs_or_only_tokens(a_full_ledger: LedgerFixture, billed: list[BilledAttempt]):
    tokens = {"input_tokens": None, "output_tokens": None, "audio_seconds": None}
    assert await compared(a_full_ledger, [row.model_copy(update=tokens) for row in billed]) == []
    assert await compared(a_full_ledger, [row.model_copy(update={"cost_usd": None}) for row in billed]) == []
    rounded = altered(billed, SETTLED, cost_usd=COST + Decimal("0.0000004"))
    assert await compared(a_full_ledger, rounded) == []


async def test_a_listed_attempt_that_was_not_billed_costs_nothing(
    a_full_ledger: LedgerFixture, billed: list[BilledAttempt]
):
    check = "what is confirmed was billed"
    assert await compared(a_full_ledger, altered(billed, SETTLED, billed=False)) == [check]
    unlisted = altered(billed, LOST, billed=False)
    assert await compared(a_full_ledger, altered(unlisted, FAILED, billed=False)) == []


async def test_a_settled_attempt_that_cost_nothing_need_not_be_listed(
    a_full_ledger: LedgerFixture, billed: list[BilledAttempt]
):
    """A stream whose readers left before its request was sent."""
    unlisted = billed[:SETTLED] + billed[SETTLED + 1 :]
    assert await compared(a_full_ledger, unlisted) == ["what is confirmed was billed"]
    free = f"UPDATE attempts SET cost_usd = 0 WHERE id = '{billed[SETTLED].attempt_id}'"
    assert await a_full_ledger.run(free) == 1
    assert await compared(a_full_ledger, unlisted) == []


async def test_a_list_is_complete_between_its_ends_for_its_own_providers(
    a_full_ledger: LedgerFixture, billed: list[BilledAttempt]
):
    """Attempts of another provider, or from before or after the list, are not compared with it."""
    assert await compared(a_full_ledger, billed[SETTLED:]) == [], "the duplicate was made before the list begins"
    assert await compared(a_full_ledger, billed[LOST:]) == []
    await a_full_ledger.settle(await a_full_ledger.granted("elsewhere", provider=Provider.OPENAI))
    await a_full_ledger.run("UPDATE attempts SET started_at = (SELECT min(started_at) FROM attempts)"
                            " + interval '1 microsecond' WHERE provider = 'openai'")  # fmt: skip
    assert await compared(a_full_ledger, billed) == []


async def test_a_listed_row_without_an_attempt_is_reported_by_its_place(a_full_ledger: LedgerFixture):
    stray = BilledAttempt(source="line 7", input_tokens=1)
    async with a_full_ledger.database.transaction() as tx:
        (found,) = await audit_billed(tx, "acme", [stray])
    assert (found.workspace_id, found.subject, found.found) == ("acme", "line 7", "unknown")


async def test_of_a_shared_list_a_workspace_sees_only_its_own_rows(
    a_full_ledger: LedgerFixture, billed: list[BilledAttempt]
):
    wrong = altered(billed, SETTLED, cost_usd=Decimal(9), output_tokens=9)
    assert await compared(a_full_ledger, wrong, "globex") == []
    assert len(await compared(a_full_ledger, wrong)) == 2
