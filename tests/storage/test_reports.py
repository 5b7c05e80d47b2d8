"""Reports: every figure agrees with the ledger's rows of one workspace within the time span, in UTC."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.errors import Billed, NotFound
from parley.domain.generate.contract import GenerateInput, Job, Prompt, Serving
from parley.domain.recommendations import recommend
from parley.domain.reports import Feedback, Span, TimeSeries
from parley.domain.requests import Message, Provider, Usage
from parley.storage import generations, reports
from parley.storage.database import Database
from parley.storage.tables import Generation
from tests.storage.ledger_fixture import (
    BOUND,
    COST,
    EXPIRED,
    NOTHING,
    PRICE,
    RATES,
    USAGE,
    USER,
    LedgerFixture,
    reply,
)

NOW = datetime(2026, 11, 26, 15, 30, tzinfo=UTC)  # a Thursday
MONTH = Span(since=NOW - timedelta(days=30), until=NOW)


@pytest.fixture
def must_agree() -> bool:
    """These tests move rows to other days."""
    return False


@pytest.fixture
async def books(database: Database) -> LedgerFixture:
    return await LedgerFixture(database).open(energy_granted=1000)


async def read(
    books: LedgerFixture, report: Any, span: Span = MONTH, workspace: str | None = None, **terms: Any
) -> Any:
    async with books.database.transaction() as tx:
        return await report(tx, workspace or books.workspace, span, **terms)


async def at(books: LedgerFixture, attempt_id: UUID, moment: datetime, seconds: float = 1.0) -> None:
    """Move an attempt and its cost to another time."""
    ended = moment + timedelta(seconds=seconds)
    times = {"id": attempt_id, "started": moment, "ended": ended}
    await books.run("UPDATE attempts SET started_at = :started, ended_at = :ended WHERE id = :id", **times)
    times.pop("ended")
    await books.run("UPDATE ai_usage_logs SET created_at = :started WHERE attempt_id = :id", **times)


async def settled(books: LedgerFixture, step: str, moment: datetime = NOW - timedelta(hours=1), **terms: Any) -> UUID:
    seconds = terms.pop("seconds", 1.0)
    attempt = await books.granted(step, **terms)
    await books.settle(attempt)
    await at(books, attempt, moment, seconds)
    return attempt


async def failed(books: LedgerFixture, step: str, billed: Billed, moment: datetime = NOW - timedelta(hours=1)) -> None:
    attempt = await books.granted(step)
    await books.fail(attempt, billed)
    await at(books, attempt, moment)


async def generated(books: LedgerFixture, request_id: str, *, latency_ms: int = 0, **fields: Any) -> None:
    ended_at = NOW - timedelta(hours=1)
    row: dict[str, Any] = {
        "workspace_id": books.workspace,
        "job_key": request_id,
        "fingerprint": "asked",
        "workflow_id": "w",
        "user_id": USER,
        "action": "ai_message",
        "outcome": "completed",
        "started_at": ended_at - timedelta(milliseconds=latency_ms),
        "created_at": ended_at,
    }
    async with books.database.transaction() as tx:
        tx.add(Generation(request_id=request_id, **row | fields))


class TestSpending:
    async def test_a_day_begins_at_midnight_utc_and_an_empty_one_is_a_line(self, books: LedgerFixture):
        await settled(books, "late", datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC))
        await settled(books, "early", datetime(2026, 11, 24, 0, 0, 0, tzinfo=UTC))
        await failed(books, "unknown", Billed.UNKNOWN, datetime(2026, 11, 26, 15, tzinfo=UTC))
        found = await read(books, reports.daily, Span(since=datetime(2026, 11, 23, 22, tzinfo=UTC), until=NOW))
        days = {line.day.day: (line.attempts, line.confirmed_usd, line.uncertain_usd) for line in found.lines}
        nothing = (0, NOTHING, NOTHING)
        assert days == {23: (1, COST, NOTHING), 24: (1, COST, NOTHING), 25: nothing, 26: (1, NOTHING, BOUND)}
        assert (found.total.confirmed_usd, found.total.uncertain_usd) == (2 * COST, BOUND)

    async def test_the_first_day_is_a_whole_one(self, books: LedgerFixture):
        await settled(books, "one", datetime(2026, 11, 25, 1, tzinfo=UTC))
        found = await read(books, reports.daily, Span(since=datetime(2026, 11, 25, 12, tzinfo=UTC), until=NOW))
        assert found.span.since == datetime(2026, 11, 25, tzinfo=UTC)
        assert [line.attempts for line in found.lines] == [1, 0]

    async def test_days_are_in_utc_although_the_database_has_another_time_zone(self, books: LedgerFixture):
        await settled(books, "one", datetime(2026, 11, 25, 23, 30, tzinfo=UTC))
        async with books.database.transaction() as tx:
            await tx.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
            found = await reports.daily(tx, books.workspace, MONTH)
        assert {line.day: line.attempts for line in found.lines}[date(2026, 11, 25)] == 1

    async def test_a_week_is_an_iso_week(self, books: LedgerFixture):
        await settled(books, "sunday", datetime(2026, 11, 22, 23, 59, tzinfo=UTC))
        await settled(books, "monday", datetime(2026, 11, 23, 0, 0, tzinfo=UTC))
        found = await read(books, reports.weekly, Span(since=NOW - timedelta(days=14), until=NOW))
        assert [(line.week, line.monday.day, line.attempts) for line in found.lines] == [
            ("2026-W46", 9, 0),
            ("2026-W47", 16, 1),
            ("2026-W48", 23, 1),
        ]

    async def test_users_are_sorted_by_cost_with_the_total_of_all(self, books: LedgerFixture):
        for user, requests in (("zoe", 3), ("cal", 2), ("bob", 1)):
            await books.open(user=user, job=user)
            for number in range(requests):
                await settled(books, f"{number}", job=user, user_id=user)
        found = await read(books, reports.users, limit=2)
        assert [(line.user_id, line.attempts, line.confirmed_usd) for line in found.lines] == [
            ("zoe", 3, 3 * COST),
            ("cal", 2, 2 * COST),
        ]
        assert (found.users, found.total.confirmed_usd, found.total.energy_charged) == (3, 6 * COST, 6 * PRICE)

    async def test_actions_have_the_average_of_confirmed_costs(self, books: LedgerFixture):
        await settled(books, "one", action="expensive")
        await settled(books, "two", action="expensive")
        await failed(books, "three", Billed.UNKNOWN)
        found = await read(books, reports.actions)
        assert [(line.action, line.confirmed_usd, line.uncertain_usd, line.average_usd) for line in found.lines] == [
            ("coaching", NOTHING, BOUND, None),
            ("expensive", 2 * COST, NOTHING, COST),
        ]

    async def test_tokens_are_counted_over_calls_that_were_counted(self, books: LedgerFixture):
        await settled(books, "one")
        await settled(books, "two")
        await failed(books, "three", Billed.UNKNOWN)
        (line,) = (await read(books, reports.tokens)).lines
        assert (line.action, line.attempts, line.tokens_prompt, line.tokens_cached) == ("coaching", 2, 2000, 800)
        assert (line.prompt_per_attempt, line.completion_per_attempt) == (USAGE.input_tokens, USAGE.output_tokens)

    async def test_what_a_prompt_cache_saved_is_less_what_writing_to_it_cost(self, books: LedgerFixture):
        await settled(books, "read")
        rates = RATES.model_copy(update={"cache_write": Decimal("1.25")})
        written = await books.granted("written")
        usage = Usage(input_tokens=1000, cache_write_tokens=400)
        await books.settle(written, reply(usage=usage), rates)
        await at(books, written, NOW - timedelta(hours=1))
        await failed(books, "lost", Billed.UNKNOWN)
        found = await read(books, reports.actions)
        # 400 tokens read at $0.10 in place of $1 a million, and 400 written at $1.25.
        assert found.total.prompt_cache_saved_usd == Decimal("0.00036") - Decimal("0.0001")
        (line,) = found.lines
        assert line.prompt_cache_saved_usd == found.total.prompt_cache_saved_usd
        assert (await read(books, reports.summary)).total.prompt_cache_saved_usd == line.prompt_cache_saved_usd

    async def test_what_the_simulator_counted_is_marked(self, books: LedgerFixture):
        await settled(books, "simulated")
        real = await settled(books, "real")
        await books.run("UPDATE ai_usage_logs SET simulated = false WHERE attempt_id = :id", id=real)
        (line,) = (await read(books, reports.actions)).lines
        assert (line.attempts, line.simulated_attempts, line.confirmed_usd, line.simulated_usd) == (
            2,
            1,
            2 * COST,
            COST,
        )


class TestModels:
    async def test_latency_is_of_the_replies_and_errors_are_of_all_that_ended(self, books: LedgerFixture):
        for number in range(1, 11):
            await settled(books, f"settled {number}", seconds=number)
        await failed(books, "refused", Billed.NO)
        await books.granted("lost", terms=EXPIRED)
        await books.sweep("lost")
        await books.run("UPDATE attempts SET started_at = :then WHERE state = 'lost'", then=NOW - timedelta(days=1))
        await books.granted("open")
        (line,) = (await read(books, reports.models)).lines
        assert (line.provider, line.model, line.attempts.ended, line.attempts.settled) == (
            "anthropic",
            "model-1",
            12,
            10,
        )
        assert line.attempts.error_rate == pytest.approx(2 / 12, abs=1e-4)
        assert (line.attempts.average_seconds, line.attempts.p95_seconds) == (5.5, pytest.approx(9.55))

    async def test_what_was_withdrawn_before_it_was_sent_does_not_count_for_the_provider(self, books: LedgerFixture):
        await settled(books, "one")
        for step, error in (("two", "Withdrawn"), ("three", "StreamSuperseded")):
            await failed(books, step, Billed.NO)
            of_step = {"error": error, "like": f"%{step}"}
            await books.run("UPDATE attempts SET error_type = :error WHERE request_id LIKE :like", **of_step)
        await failed(books, "four", Billed.NO)
        found = await read(books, reports.models)
        assert [(line.attempts.ended, line.attempts.failed) for line in found.lines] == [(2, 1)]
        assert [(error.error, error.count) for error in found.errors] == [("SomeError", 1)]
        (serving,) = (await read(books, reports.evidence)).servings
        assert (serving.ended, serving.errors) == (2, 1)

    async def test_errors_are_counted_by_kind(self, books: LedgerFixture):
        await failed(books, "one", Billed.NO)
        await failed(books, "two", Billed.NO)
        await books.granted("lost", terms=EXPIRED)
        await books.sweep("lost")
        await books.run("UPDATE attempts SET started_at = :then WHERE state = 'lost'", then=NOW - timedelta(days=1))
        found = await read(books, reports.models)
        assert [(error.error, error.count) for error in found.errors] == [("SomeError", 2), ("lost", 1)]

    async def test_cost_is_divided_among_models_also_if_some_never_answered(self, books: LedgerFixture):
        for step in ("one", "two", "three"):
            await settled(books, step)
        await settled(books, "four", provider=Provider.OPENAI)
        attempt = await books.granted("five", provider=Provider.LOCAL)
        await books.fail(attempt, Billed.NO)
        await at(books, attempt, NOW - timedelta(hours=1))
        found = await read(books, reports.models)
        assert [(line.provider, line.cost_share, line.spend.attempts) for line in found.lines] == [
            ("anthropic", 0.75, 3),
            ("openai", 0.25, 1),
            ("local", 0.0, 0),
        ]
        assert (found.attempts.ended, found.attempts.failed, found.total.attempts) == (5, 1, 4)


class TestRequests:
    async def test_a_summary_counts_requests_refusals_and_hits(self, books: LedgerFixture):
        attempt = await settled(books, "asked")
        for number, how in enumerate(("", "", "exact", "similar", "stale")):
            terms = {"cached": how, "saved_usd": COST if how else NOTHING, "latency_ms": 100 * number}
            await generated(books, f"completed {number}", attempt_id=attempt, **terms)
        await generated(books, "refused", outcome="refused", reason="budget_exhausted", latency_ms=9999)
        await generated(books, "failed", outcome="failed", reason="ProviderUnavailable")
        await generated(books, "cancelled", outcome="cancelled")
        found = await read(books, reports.summary)
        requests = found.requests
        assert (requests.total, requests.completed, requests.refused, requests.failed) == (8, 5, 1, 1)
        assert (requests.cache_hit_rate, requests.cached_stale, requests.saved_usd) == (0.4, 1, 3 * COST)
        assert (requests.average_ms, requests.p95_ms) == (200, pytest.approx(380))
        assert requests.error_rate == pytest.approx(1 / 6, abs=1e-4)
        assert found.reasons == {"ProviderUnavailable": 1, "budget_exhausted": 1}
        assert (found.total.confirmed_usd, found.providers) == (COST, {"anthropic": 1.0})

    async def test_without_requests_rates_are_unknown_and_not_zero(self, books: LedgerFixture):
        found = await read(books, reports.summary)
        assert (found.requests.total, found.requests.cache_hit_rate, found.requests.error_rate) == (0, None, None)
        assert (found.attempts.ended, found.attempts.error_rate, found.attempts.average_seconds) == (0, None, None)
        assert (found.models, found.errors, found.total.confirmed_usd) == ((), (), 0)

    async def test_arms_are_compared_by_all_their_figures(self, books: LedgerFixture):
        for number in range(4):
            rating = (Feedback.GOOD, Feedback.GOOD, Feedback.BAD, None)[number]
            await generated(
                books,
                f"a {number}",
                experiment="tone",
                arm="casual",
                cost_usd=COST,
                latency_ms=100 * number,
                feedback=rating and rating.value,
                quality=Decimal("0.5") if number else None,
            )
        await generated(books, "b", experiment="tone", arm="technical", outcome="failed")
        await generated(books, "none", cost_usd=COST)
        casual, technical = (await read(books, reports.experiments)).lines
        assert (casual.arm, casual.requests, casual.cost_usd, casual.average_ms) == ("casual", 4, 4 * COST, 150)
        assert (casual.good, casual.bad, casual.graded, casual.quality) == (2, 1, 3, 0.5)
        assert (technical.arm, technical.error_rate, technical.quality, technical.good_interval) == (
            "technical",
            1.0,
            None,
            None,
        )

    async def test_latency_does_not_depend_on_the_clock_of_the_worker(
        self, books: LedgerFixture, monkeypatch: pytest.MonkeyPatch
    ):
        asked_at = datetime.now(UTC)
        monkeypatch.setattr(generations, "utc_now", lambda: asked_at + timedelta(days=30), raising=False)
        asked = GenerateInput(
            workspace_id=books.workspace,
            user_id=USER,
            action="ai_message",
            prompt=Prompt(messages=(Message(role="user", content="How do I sound?"),)),
        )
        row = generations.row(Job.of(asked, "w", asked_at), Serving(), outcome="completed")
        async with books.database.transaction() as tx:
            assert await generations.record(tx, row)
        span = Span(since=asked_at - timedelta(days=1), until=asked_at + timedelta(days=40))
        requests = (await read(books, reports.summary, span)).requests
        assert requests.completed == 1
        assert requests.p95_ms < 60_000


class TestFeedback:
    async def test_a_later_rating_replaces_an_earlier_one(self, books: LedgerFixture):
        await generated(books, "request")
        for rating in (Feedback.BAD, Feedback.GOOD):
            async with books.database.transaction() as tx:
                await generations.rate(tx, books.workspace, "request", rating)
        requests = (await read(books, reports.summary)).requests
        assert (requests.good, requests.bad) == (1, 0)

    async def test_an_unknown_request_is_named(self, books: LedgerFixture):
        with pytest.raises(NotFound, match="'no such request'"):
            async with books.database.transaction() as tx:
                await generations.rate(tx, books.workspace, "no such request", Feedback.GOOD)


class TestOverTime:
    async def test_a_step_has_its_costs_requests_attempts_and_models_and_an_empty_one_is_a_line(
        self, books: LedgerFixture
    ):
        await settled(books, "one", NOW - timedelta(hours=2, minutes=15), seconds=1.5)
        await failed(books, "two", Billed.NO, NOW - timedelta(hours=2, minutes=20))
        await generated(books, "asked", latency_ms=200)
        found = await over_time(books, Span(since=NOW - timedelta(hours=3), until=NOW), timedelta(hours=1))
        begins = [line.begins for line in found.lines]
        assert begins == [NOW.replace(hour=hour, minute=0) for hour in (12, 13, 14, 15)]
        empty, busy, asked, last = found.lines
        assert (empty.spend, empty.requests, empty.attempts, empty.models) == (
            last.spend,
            last.requests,
            last.attempts,
            {},
        )
        assert (busy.spend.confirmed_usd, busy.spend.tokens_prompt) == (COST, USAGE.input_tokens)
        assert (busy.attempts.error_rate, busy.attempts.p95_seconds) == (0.5, 1.5)
        assert list(busy.models.values()) == [2]
        assert (asked.requests.completed, asked.requests.p95_ms) == (1, 200)

    async def test_a_day_begins_at_midnight_utc_although_the_database_has_another_time_zone(self, books: LedgerFixture):
        await settled(books, "late", datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC))
        async with books.database.transaction() as tx:
            await tx.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
            span = Span(since=datetime(2026, 11, 24, 12, tzinfo=UTC), until=NOW)
            found = await reports.over_time(tx, books.workspace, span, timedelta(days=1))
        assert [(line.begins.day, line.spend.attempts) for line in found.lines] == [(24, 1), (25, 0), (26, 0)]


async def over_time(books: LedgerFixture, span: Span, step: timedelta) -> TimeSeries:
    async with books.database.transaction() as tx:
        return await reports.over_time(tx, books.workspace, span, step)


async def daily_slices(tx: AsyncSession, workspace_id: str, span: Span) -> TimeSeries:
    return await reports.over_time(tx, workspace_id, span, timedelta(days=1))


REPORTS = [
    daily_slices,
    reports.summary,
    reports.daily,
    reports.weekly,
    reports.users,
    reports.actions,
    reports.tokens,
    reports.models,
    reports.experiments,
    reports.evidence,
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.__name__)
async def test_a_report_has_only_its_workspace_and_its_time_span(books: LedgerFixture, report: Any):
    empty = await read(books, report)
    moments = (MONTH.since - timedelta(days=8), MONTH.until)
    for place, moment in enumerate(moments):
        attempt = await settled(books, f"outside {place}", moment)
        await generated(books, f"outside {place}", created_at=moment, attempt_id=attempt, experiment="tone", arm="a")
    assert await read(books, report) == empty, "outside of the span"
    attempt = await settled(books, "inside")
    await generated(books, "inside", attempt_id=attempt, experiment="tone", arm="a")
    assert await read(books, report) != empty
    assert await read(books, report, workspace="globex") == empty, "another workspace's"


async def test_evidence_reports_how_each_model_served_each_kind_of_work(books: LedgerFixture):
    await settled(books, "one")
    await settled(books, "two")
    await failed(books, "three", Billed.UNKNOWN)
    await settled(books, "four", action="other")
    coaching, other = (await read(books, reports.evidence)).servings
    assert (coaching.action, coaching.ended, coaching.errors, coaching.attempts) == ("coaching", 3, 1, 2)
    assert (coaching.paid_usd, coaching.spent_usd, coaching.uncertain_usd) == (2 * COST, 2 * COST + BOUND, BOUND)
    assert (coaching.tokens_prompt, coaching.tokens_completion) == (2000, 400)
    assert (other.action, other.rates and other.rates.output) == ("other", 5)


async def test_rates_of_a_batch_are_not_those_of_a_model_that_is_asked_instead(books: LedgerFixture):
    in_batch = 'UPDATE attempts SET rates = rates || \'{"price_class": "batch", "output": "2.5"}\' WHERE id = :id'
    await settled(books, "one", NOW - timedelta(hours=2))
    await books.run(in_batch, id=await settled(books, "two"))
    await books.run(in_batch, id=await settled(books, "three", action="in batches alone"))
    coaching, batches = (await read(books, reports.evidence)).servings
    assert (coaching.rates and coaching.rates.output, batches.rates) == (5, None)


async def test_evidence_counts_prompts_that_repeat_within_an_hour(books: LedgerFixture):
    noon = datetime(2026, 11, 26, 12, 10, tzinfo=UTC)
    moments = [noon, noon + timedelta(minutes=20), noon + timedelta(minutes=40), noon + timedelta(hours=2)]
    for number, moment in enumerate(moments):
        attempt = await settled(books, f"{number}", moment)
        await generated(books, f"{number}", created_at=moment, attempt_id=attempt, cost_usd=COST)
    different = await settled(books, "different", noon, fingerprint="another prompt")
    await generated(books, "different", created_at=noon, attempt_id=different, cost_usd=COST)
    (seen,) = (await read(books, reports.evidence)).repetitions
    assert (seen.requests, seen.repeats, seen.repeats_usd, seen.hits) == (5, 2, 2 * COST, 0)
    await generated(books, "hit", created_at=noon, attempt_id=different, cached="exact", saved_usd=COST)
    (seen,) = (await read(books, reports.evidence)).repetitions
    assert (seen.requests, seen.repeats, seen.hits) == (6, 2, 1)


async def test_recommendations_use_the_ledgers_rows(books: LedgerFixture):
    await books.open(energy_granted=1000, job="many", user="bob")
    for number in range(20):
        attempt = await settled(books, f"{number}", job="many", user_id="bob")
        await generated(books, f"{number}", attempt_id=attempt, cost_usd=COST)
    (made,) = recommend(await read(books, reports.evidence))
    assert (made.rule, made.saves_usd, made.simulated) == ("enable-cache", 19 * COST, True)
