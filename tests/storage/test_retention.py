"""The purge of old jobs leaves what their rows add up to, and nothing that is needed loses its rows."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.ledger_rows import fill
from parley.domain.auto_analyze.taxonomy import GivenLabel, Taxonomy
from parley.domain.costs import Costs
from parley.domain.errors import Billed
from parley.storage import outbox, paid_requests, retention, taxonomies, usage
from parley.storage.audit import audit
from parley.storage.database import Database
from parley.storage.ledger import Held
from parley.storage.retention import RESULTS, Old
from parley.storage.tables import (
    Attempt,
    AutoLabel,
    AutoMerge,
    AutoRun,
    AutoSession,
    Budget,
    CachedAnswer,
    ConversationSummary,
    EnergyEntry,
    Generation,
    JournaledReply,
    OutboxEvent,
    PaidRequest,
    Recording,
    StoredAnalysis,
    StoredSession,
    StoredTaxonomy,
    UsageLog,
    utc_now,
)
from tests.storage.ledger_fixture import BOUND, COST, EXPIRED, PRICE, USER, LedgerFixture

LEDGER = (PaidRequest, Attempt, JournaledReply, UsageLog)
DAY = timedelta(days=1)
# After every request and reservation of a test.
LATER = 2 * DAY


def old(*running: str, after: timedelta = LATER) -> Old:
    return Old(utc_now() + after, running)


async def purge(books: LedgerFixture, what: Old, limit: int = 1000) -> int:
    """Delete the old requests; after each batch, the ledger must agree with itself."""
    deleted, last = 0, None
    while True:
        async with books.database.transaction() as tx:
            page = await retention.purge_requests(tx, what, after=last, limit=limit)
        assert await books.disagreements() == []
        deleted, last = deleted + page.deleted, page.last
        if last is None:
            return deleted


async def purge_results(books: LedgerFixture, what: Old, limit: int = 2) -> dict[str, int]:
    deleted = dict.fromkeys(RESULTS, 0)
    for table in RESULTS:
        count = limit
        while count == limit:
            async with books.database.transaction() as tx:
                count = await retention.purge_results(tx, table, what, limit=limit)
            deleted[table] += count
    return {table: count for table, count in deleted.items() if count}


async def costs(books: LedgerFixture, **narrowed: Any) -> Costs:
    async with books.database.transaction() as tx:
        return await usage.costs(tx, books.workspace, **narrowed)


async def save(books: LedgerFixture, *rows: Any) -> None:
    async with books.database.transaction() as tx:
        tx.add_all(rows)


async def every_state(books: LedgerFixture) -> None:
    """Requests of one job with a settled, duplicate, lost and failed attempt."""
    late, owner = await books.taken_over("won")
    await books.settle(owner)
    await books.settle(late)
    await books.granted("lost", terms=EXPIRED)
    await books.sweep("lost")
    await books.fail(await books.granted("failed"), Billed.UNKNOWN)
    await books.fail(await books.granted("refused"), Billed.NO)


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_old_requests_are_deleted_and_their_sums_remain(books: LedgerFixture, limit: int):
    await every_state(books)
    before, day = await costs(books), await books.day()
    assert await purge(books, old(), limit) == 4
    assert [len(await books.all(table)) for table in (*LEDGER, EnergyEntry)] == [0, 0, 0, 0, 1]
    assert await costs(books) == before
    assert await books.day() == day == (0, 2 * COST, 2 * BOUND)
    assert await books.energy() == (PRICE, 0)
    assert [budget.scope[:4] for budget in await books.all(Budget)] == ["day:"]


async def test_a_request_that_is_purged_in_the_middle_of_a_claim_is_claimed_again(
    books: LedgerFixture, monkeypatch: pytest.MonkeyPatch
):
    await books.settle(await books.granted())
    lock = paid_requests.lock

    async def lock_after_purge(tx: AsyncSession, workspace_id: str, request_id: str):
        monkeypatch.undo()
        assert await purge(books, old()) == 1
        return await lock(tx, workspace_id, request_id)

    monkeypatch.setattr(paid_requests, "lock", lock_after_purge)
    assert await books.claim() == Held(0)
    await books.open()
    await books.settle(await books.granted())


async def test_totals_of_a_day_add_up_over_purges(books: LedgerFixture):
    for step in ("one", "two"):
        await books.settle(await books.granted(step))
        await purge(books, old())
        await books.open()
    assert (await costs(books)).lines[0].attempts == 2
    assert (await costs(books)).confirmed_usd == 2 * COST
    assert (await costs(books, since=utc_now() - DAY)).confirmed_usd == 2 * COST
    assert (await costs(books, since=utc_now() + LATER)).lines == ()
    assert (await costs(books, user_id=USER)).lines == ()


async def test_a_job_stays_whole_while_one_of_its_requests_is_new(books: LedgerFixture):
    await books.settle(await books.granted("early"))
    await books.settle(await books.granted("late"))
    await books.run(
        "UPDATE paid_requests SET expires_at = expires_at + interval '3 days' WHERE request_id LIKE '%late'"
    )
    assert await purge(books, old(), limit=1) == 0
    assert await purge(books, old(after=4 * DAY), limit=1) == 2


async def test_the_rows_of_a_running_workflow_stay(books: LedgerFixture):
    await books.settle(await books.granted())
    assert await purge(books, old("workflow")) == 0
    assert await purge(books, old("another")) == 1


async def test_an_open_request_stays(books: LedgerFixture):
    await books.granted()
    assert await purge(books, old()) == 0


async def test_requests_that_another_transaction_holds_are_skipped(books: LedgerFixture):
    for step in ("held", "free"):
        await books.settle(await books.granted(step))
    async with books.database.transaction() as tx:
        await tx.execute(text("SELECT 1 FROM paid_requests WHERE request_id = 'job/held' FOR UPDATE"))
        assert await purge(books, old()) == 1
    assert await purge(books, old()) == 1


async def test_another_workspace_has_its_own_totals(books: LedgerFixture):
    other = await LedgerFixture(books.database, "globex").open()
    for one in (books, other):
        await one.settle(await one.granted())
    assert await purge(books, old()) == 2
    assert (await costs(books)).confirmed_usd == (await costs(other)).confirmed_usd == COST


def generation(books: LedgerFixture, job: str, **fields: Any) -> Generation:
    row: dict[str, Any] = {"workflow_id": "w", "user_id": USER, "action": "ai_message", "outcome": "completed"}
    row |= {"job_key": job, "request_id": f"{job}/generate", "fingerprint": "asked"}
    return Generation(workspace_id=books.workspace, **row | fields)


def own(books: LedgerFixture, attempt: UUID) -> Generation:
    return generation(books, "job", attempt_id=attempt, cost_usd=COST)


def given_from_the_cache(books: LedgerFixture, attempt: UUID) -> Generation:
    return generation(books, "another", attempt_id=attempt, cached="exact")


def cached(books: LedgerFixture, attempt: UUID) -> CachedAnswer:
    same = dict.fromkeys(("key", "provider", "model", "action", "user_id", "context_sha256", "question"), "x")
    return CachedAnswer(
        workspace_id=books.workspace,
        simulated=True,
        attempt_id=attempt,
        reply={},
        cost_usd=COST,
        expires_at=utc_now(),
        **same,
    )


def summary(books: LedgerFixture, attempt: UUID) -> ConversationSummary:
    return ConversationSummary(workspace_id=books.workspace, sha256="x", messages=3, attempt_id=attempt)


@pytest.mark.parametrize("naming", [own, given_from_the_cache, cached, summary])
async def test_a_reply_stays_while_a_row_names_it(books: LedgerFixture, naming: Callable[[LedgerFixture, UUID], Any]):
    attempt = (await books.settle(await books.granted())).attempt_id
    row = naming(books, attempt)
    await save(books, row)
    assert await purge(books, old()) == 0
    await books.run(f"DELETE FROM {type(row).__tablename__}")
    assert await purge(books, old()) == 1


async def test_a_generation_is_deleted_before_its_requests(books: LedgerFixture):
    attempt = (await books.settle(await books.granted())).attempt_id
    await save(books, own(books, attempt), generation(books, "running", workflow_id="running", outcome="failed"))
    assert await purge_results(books, old("running", after=-DAY)) == {}
    assert await purge_results(books, old("running")) == {"generations": 1}
    assert await purge(books, old("running")) == 1
    assert await purge_results(books, old()) == {"generations": 1}


def analysis(books: LedgerFixture, job: str, **fields: Any) -> StoredAnalysis:
    content = {"session_id": "s", "session_sha256": "a", "recording_sha256": "b", "user_id": USER}
    return StoredAnalysis(workspace_id=books.workspace, job_key=job, workflow_id=job, **content | fields)


async def test_analyses_are_deleted_and_then_the_sessions_that_none_names(books: LedgerFixture):
    await save(
        books,
        *(analysis(books, job) for job in ("one", "two", "three")),
        StoredSession(workspace_id="acme", session_id="s", sha256="a", user_id=USER, payload={}),
        Recording(workspace_id="acme", sha256="b", seconds=Decimal(1), audio=b"x"),
        StoredSession(workspace_id="globex", session_id="s", sha256="a", user_id=USER, payload={}),
    )
    assert await purge_results(books, old(after=-DAY)) == {}
    assert await purge_results(books, old("two")) == {"session_analyses": 2, "sessions": 1}
    assert await purge_results(books, old()) == {"session_analyses": 1, "sessions": 1, "recordings": 1}


async def test_given_labels_are_deleted_when_no_run_has_them(books: LedgerFixture):
    """Labels that are given again, or that a kept run may pass on to a fork, stay."""
    for workspace, taxonomy in (("acme", "old"), ("acme", "running"), ("globex", "running"), ("acme", "again")):
        await save(books, StoredTaxonomy(workspace_id=workspace, taxonomy_id=taxonomy, labels=[]))
    run = {"workspace_id": "acme", "dataset_id": "d", "user_id": USER}
    for job in ("old", "running"):
        await save(books, AutoRun(**run, job_key=job, workflow_id=job, settings={"taxonomy": job}))
    given = Taxonomy(labels=(GivenLabel(label="parcel"),))
    await save(books, StoredTaxonomy(workspace_id="acme", taxonomy_id=given.id, labels=[]))
    await books.run("UPDATE taxonomies SET created_at = created_at - interval '9 days'")
    await books.run("UPDATE auto_runs SET created_at = created_at - interval '9 days'")
    async with books.database.transaction() as tx:
        await taxonomies.store(tx, "acme", given)
    found = await purge_results(books, old("running", after=-DAY))
    assert found == {"auto_runs": 1, "taxonomies": 3}
    left = {(one.workspace_id, one.taxonomy_id) for one in await books.all(StoredTaxonomy)}
    assert left == {("acme", "running"), ("acme", given.id)}


async def test_a_run_is_deleted_with_its_parts(books: LedgerFixture):
    for job in ("old", "running"):
        same = {"workspace_id": "acme", "job_key": job}
        await save(
            books,
            AutoRun(**same, workflow_id=job, dataset_id="d", user_id=USER, settings={}),
            *(AutoSession(**same, ordinal=number, position=number) for number in range(5)),
            AutoLabel(**same, kind="intent", label="refund", first_round=0),
            AutoMerge(**same, kind="intent", level=0, label="refund", canonical="refund"),
        )
    gone = {"auto_sessions": 5, "auto_labels": 1, "auto_merges": 1, "auto_runs": 1}
    assert await purge_results(books, old("running", after=-DAY)) == {}
    assert await purge_results(books, old("running")) == gone
    assert {run.job_key for run in await books.all(AutoRun)} == {"running"}
    assert await purge_results(books, old()) == gone


async def purge_events(books: LedgerFixture, before: datetime, *, waiting: bool = True) -> int:
    async with books.database.transaction() as tx:
        await outbox.mark_purged(tx, before)
    async with books.database.transaction() as tx:
        return await outbox.purge(tx, before, waiting=waiting, limit=1000)


async def test_old_events_are_deleted_and_the_audit_does_not_miss_them(books: LedgerFixture):
    for step in ("one", "two"):
        await books.settle(await books.granted(step))
    assert await purge_events(books, utc_now() - DAY) == 0
    assert await purge_events(books, utc_now() + DAY) == 2
    assert await books.all(OutboxEvent) == []


async def test_an_event_that_waits_for_a_delivery_stays(books: LedgerFixture):
    for step in ("delivered", "abandoned", "waiting"):
        await books.settle(await books.granted(step))
    async with books.database.transaction() as tx:
        delivered, abandoned, _ = await outbox.claim_due(tx, limit=3, hold_seconds=60)
        await outbox.delivered(tx, delivered)
        await outbox.put_off(tx, abandoned, None, "HTTP 500")
    assert await purge_events(books, utc_now() + DAY, waiting=False) == 2
    assert await purge_events(books, utc_now() + DAY) == 1


async def mark(books: LedgerFixture, before: datetime) -> None:
    async with books.database.transaction() as tx:
        await outbox.mark_purged(tx, before)


class TestMissing:
    """These tests leave the ledger in disagreement."""

    @pytest.fixture
    def must_agree(self) -> bool:
        return False

    async def test_a_missing_event_of_after_the_purge_is_found(self, books: LedgerFixture):
        await purge_events(books, utc_now())
        await mark(books, utc_now() - DAY)
        await books.settle(await books.granted())
        assert await books.disagreements() == []
        await books.run("DELETE FROM outbox")
        async with books.database.transaction() as tx:
            (found,) = await audit(tx)
        assert found.found == "1/1/1/0"
        await mark(books, utc_now() + DAY)
        assert await books.disagreements() == []
        await mark(books, utc_now() - DAY)
        assert await books.disagreements() == [], "a mark never moves back"


async def test_a_purge_of_many_jobs_takes_those_before_its_time(database: Database):
    """Of 400 requests in 500 days, half of them generations, three quarters are older than 125 days."""
    books = LedgerFixture(database)
    async with database.transaction() as tx:
        await fill(tx, 400, oldest=500 * DAY)
    what = old(after=-125 * DAY)
    assert (await purge_results(books, what, limit=1000))["generations"] in (149, 150)
    deleted = await purge(books, what, limit=150)
    kept = await books.all(PaidRequest)
    assert len(kept) == 400 - deleted
    # A job of several requests stays whole until its newest request is old.
    assert {one.job_key for one in kept if one.expires_at < what.before} <= {
        one.job_key for one in kept if one.expires_at >= what.before
    }
