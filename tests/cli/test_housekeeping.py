"""Events, alerts and the refill on the command line."""

import io
import json
from datetime import UTC, date, datetime

import pytest

from parley import Client
from parley.domain.housekeeping import Week
from parley.storage import alerts, outbox
from parley.storage.database import Database
from parley.storage.tables import EnergyEntry, JournaledReply, OutboxEvent
from tests.cli.command import Run
from tests.storage.ledger_fixture import COST, USER, LedgerFixture


@pytest.fixture
async def books(database: Database) -> LedgerFixture:
    """A workspace with one delivered and one abandoned event."""
    books = await LedgerFixture(database, "default").open(energy_granted=11)
    await books.settle(await books.granted("one"))
    await books.fail(await books.granted("two", energy=1))
    async with database.transaction() as tx:
        arrived, abandoned = await outbox.claim_due(tx, limit=2, hold_seconds=60)
        await outbox.delivered(tx, arrived)
        await outbox.put_off(tx, abandoned, None, "HTTP 500")
    return books


async def test_events_are_listed_with_the_state_of_their_delivery(parley: Run, books: LedgerFixture) -> None:
    ran = await parley("events")
    assert ran.code == 0
    newest, oldest = [line for line in ran.out.splitlines() if "ai_generation" in line]
    assert all(word in newest for word in ("ai_generation_failed", "abandoned", "HTTP 500"))
    assert all(word in oldest for word in ("ai_generation_completed", "delivered"))


async def test_undelivered_events_are_listed_as_json(parley: Run, books: LedgerFixture) -> None:
    ran = await parley("events", "--undelivered", "--json")
    (event,) = json.loads(ran.out)
    assert (event["kind"], event["state"], event["tries"]) == ("ai_generation_failed", "abandoned", 1)
    assert event["payload"]["user_id"] == "ann"


async def test_an_event_that_was_abandoned_is_retried(parley: Run, books: LedgerFixture) -> None:
    (row,) = await books.all(OutboxEvent, kind="ai_generation_failed")
    assert (await parley("events", "--retry", str(row.id))).code == 0
    (event,) = json.loads((await parley("events", "--undelivered", "--json")).out)
    assert (event["state"], event["tries"]) == ("waiting", 0)


async def test_a_missing_event_is_refused_in_one_line(parley: Run, books: LedgerFixture) -> None:
    (arrived,) = await books.all(OutboxEvent, kind="ai_generation_completed")
    for number, workspace in ((arrived.id, "default"), (10_000, "default"), (arrived.id + 1, "globex")):
        ran = await parley("events", "--retry", str(number), "--workspace", workspace)
        assert (ran.code, ran.out, len(ran.err.strip().splitlines())) == (2, "", 1)
        assert f"no undelivered event {number}" in ran.err


async def test_an_empty_workspace_has_no_events_and_no_alerts(parley: Run) -> None:
    assert "no events" in (await parley("events", "-w", "empty")).out
    assert "no alerts" in (await parley("alerts", "-w", "empty")).out
    assert json.loads((await parley("alerts", "-w", "empty", "--json")).out) == []


async def test_alerts_are_listed(parley: Run, books: LedgerFixture) -> None:
    week = Week(monday=date(2026, 11, 16))
    await books.run("UPDATE ai_usage_logs SET created_at = :at", at=datetime(2026, 11, 18, tzinfo=UTC))
    async with books.database.transaction() as tx:
        await alerts.raise_alerts(tx, week, COST / 2)
    assert "2026-W47" in (await parley("alerts")).out
    (alert,) = json.loads((await parley("alerts", "--json")).out)
    assert (alert["period"], alert["spent_usd"], alert["uncertain_usd"]) == ("2026-W47", str(COST), "0.000000")


@pytest.mark.usefixtures("worker")
async def test_the_refill_runs_now_and_prints_its_totals(parley: Run, books: LedgerFixture, client: Client) -> None:
    ran = await parley("energy", "refill", "--json")
    done = json.loads(ran.out)
    assert (ran.code, done["users"], done["energy"], done["skipped"]) == (0, 1, 19, 0)
    assert "0 energy to 0 users" in (await parley("energy", "refill")).out
    assert [entry.amount for entry in await books.all(EnergyEntry, "id", kind="grant")] == [11, 19]


async def test_a_user_is_forgotten_after_a_confirmation(
    parley: Run, books: LedgerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    refused = await parley("forget", USER)
    assert (refused.code, "nothing was changed" in refused.err) == (1, True), refused.err
    assert (await parley("forget", USER, "--json")).code == 2
    assert await books.all(JournaledReply)
    ran = await parley("forget", USER, "--yes", "--json")
    assert (ran.code, json.loads(ran.out)) == (0, {"attempts": 1, "replies": 1})
    assert (await parley("forget", USER, "--yes")).out == "removed: nothing; the ledger is unchanged\n"
    assert await books.disagreements() == []
