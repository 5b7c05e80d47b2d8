"""A labelling run that asks through the batch API of a provider: half price, hours of waiting, leftovers one by one."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from temporalio import workflow

from activities.paid_submissions import PaidSubmissions
from parley import (
    AutoAnalyzeHandle,
    AutoAnalyzeReport,
    Client,
    GivenLabel,
    InvalidInput,
    JobFailed,
    Taxonomy,
)
from parley.cli.billed import read_billed
from parley.domain.auto_analyze.processing import BatchFigures
from parley.domain.errors import Billed, NotFound, ProviderNotConfigured, ProviderUnavailable
from parley.domain.requests import Provider
from parley.providers.anthropic_batches import AnthropicBatches
from parley.providers.batch_api import LineResult
from parley.providers.openai_batches import OpenAIBatches
from parley.storage import auto_analyze as runs
from parley.storage.tables import Attempt, PaidRequest, SubmissionLine
from tests.parts import SimulatorAdmin
from tests.workflows.test_auto_analyze import chats, path, sessions_of, start
from tests.workflows.test_auto_analyze_control import held
from tests.workflows.test_auto_analyze_limits import statistics_of
from workflows.auto_analyze import submissions as processing
from workflows.policies import SUBMISSION_STEP

__all__ = ["path"]
VENDORS = (Provider.OPENAI, Provider.ANTHROPIC)
# USD for a million input and output tokens of a batch; OpenAI's cached tokens cost the same there.
BATCH_RATES = {Provider.OPENAI: ("0.075", "0.3"), Provider.ANTHROPIC: ("0.5", "2.5")}
COUNT = 60
# The first 8 of the 60 sessions are the discovery, and a batch of sessions has 4.
LINES = 13
DAY = 86_400
# Faults of a batch that leave requests to be asked one by one.
FAULTS = [
    (Provider.OPENAI, "batch_rejected"),
    (Provider.ANTHROPIC, "batch_rejected"),
    (Provider.OPENAI, "batch_expired"),
    (Provider.ANTHROPIC, "batch_half"),
    (Provider.OPENAI, "batch_odd_lines"),
]
# After so many a step on a batch gives up.
ATTEMPTS = SUBMISSION_STEP["retry_policy"].maximum_attempts


async def started(client: Client, path: Path, **terms: Any) -> AutoAnalyzeHandle:
    return await start(client, path, chats(COUNT), streams=3, processing="batch", reassign=False, **terms)


async def batch_costs(client: Client) -> Decimal:
    """What the ledger has for the requests in batches."""
    query = (
        select(Attempt)
        .join(SubmissionLine, col(SubmissionLine.attempt_id) == col(Attempt.id))
        .where(col(Attempt.workspace_id) == client.workspace_id)
    )
    async with client.database.transaction() as tx:
        found = (await tx.execute(query)).scalars().all()
    assert all(one.cost_usd is not None and one.cost_usd <= one.upper_bound_usd for one in found)
    return sum((one.cost_usd or Decimal(0) for one in found), Decimal(0))


def billed_costs(billed: list[dict[str, Any]], provider: Provider) -> Decimal:
    given, made = map(Decimal, BATCH_RATES[provider])
    tokens = [given * one["input_tokens"] + made * one["output_tokens"] for one in billed if one["batch"]]
    return sum(tokens, Decimal(0)) / 1_000_000


async def check_books(client: Client, simulator: SimulatorAdmin, provider: Provider, directory: Path) -> None:
    """The ledger agrees with itself and with what the simulator billed, and each request is paid once."""
    billed = await simulator.billed()
    listed = directory / "billed.json"
    listed.write_text(json.dumps(billed))
    assert await client.audit(read_billed(listed)) == []
    assert await batch_costs(client) == billed_costs(billed, provider)
    costs = await client.costs()
    assert costs.uncertain_usd == 0
    assert len(billed) == sum(line.attempts for line in costs.lines)


def figures_of(report: AutoAnalyzeReport) -> BatchFigures:
    figures = statistics_of(report).batch
    assert figures is not None
    return figures


async def history_of(client: Client, job: AutoAnalyzeHandle) -> list[str]:
    """The types of the activities that a run has started."""
    events = (await client.temporal.get_workflow_handle(job.id).fetch_history()).events
    types = (event.activity_task_scheduled_event_attributes.activity_type.name for event in events)
    return [name for name in types if name]


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_run_is_answered_at_half_price(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, provider: Provider
) -> None:
    job = await started(skipping_client, path, provider=provider)
    report = await job.result()
    statistics, figures = statistics_of(report), figures_of(report)
    assert (statistics.labelled, statistics.fallbacks, statistics.warnings) == (COUNT, 0, ())
    assert (figures.submitted, figures.answered, figures.left_over, figures.odd_lines) == (LINES, LINES, 0, 0)
    assert all(session.intent for session in await sessions_of(skipping_client, job))
    await check_books(skipping_client, simulator, provider, path.parent)
    assert figures.saved_usd > 0
    if provider is Provider.ANTHROPIC:
        assert figures.saved_usd == await batch_costs(skipping_client)
    # The streams had nothing left to ask.
    async with skipping_client.database.transaction() as tx:
        paid = (await tx.execute(select(col(PaidRequest.request_id)))).scalars().all()
    assert len([one for one in paid if "/round-" in one]) == LINES


async def test_a_batch_that_takes_hours_leaves_a_short_history(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    await simulator.post("batches", seconds=1.5)
    job = await started(skipping_client, path)
    report = await job.result()
    assert figures_of(report).answered == LINES
    activities = await history_of(skipping_client, job)
    assert activities.count("auto_analyze.submit") == 1
    assert activities.count("auto_analyze.settle_submission") == 1
    # A day of looks, with growing pauses.
    assert 1 < activities.count("auto_analyze.poll_submission") < 170


@pytest.mark.parametrize(("provider", "fault"), FAULTS)
async def test_what_a_batch_leaves_is_asked_one_by_one(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, provider: Provider, fault: str
) -> None:
    await simulator.fault(fault)
    job = await started(skipping_client, path, provider=provider)
    report = await job.result()
    statistics, figures = statistics_of(report), figures_of(report)
    assert (statistics.labelled, statistics.fallbacks) == (COUNT, 0)
    answered = {"batch_half": LINES // 2, "batch_odd_lines": LINES}.get(fault, 0)
    assert (figures.submitted, figures.answered, figures.left_over) == (LINES, answered, LINES - answered)
    assert figures.odd_lines == (3 if fault == "batch_odd_lines" else 0)
    assert any("one by one" in warning for warning in statistics.warnings) == (answered < LINES)
    await check_books(skipping_client, simulator, provider, path.parent)


async def test_a_line_without_a_result_may_be_billed_and_is_asked_again(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    await simulator.fault("batch_missing")
    job = await started(skipping_client, path)
    report = await job.result()
    assert (statistics_of(report).labelled, figures_of(report).left_over) == (COUNT, 1)
    async with skipping_client.database.transaction() as tx:
        failed = (await tx.execute(select(Attempt).where(col(Attempt.state) == "failed"))).scalars().all()
    [without_result] = failed
    assert without_result.billed == "unknown"
    assert (await skipping_client.costs()).uncertain_usd == without_result.upper_bound_usd
    assert await skipping_client.audit() == []


async def test_the_budget_cuts_a_run_into_several_batches(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    job = await started(skipping_client, path, budget_usd="0.010")
    report = await job.result()
    figures = figures_of(report)
    assert (figures.submitted, figures.answered, statistics_of(report).labelled) == (LINES, LINES, COUNT)
    assert (await history_of(skipping_client, job)).count("auto_analyze.settle_submission") > 1
    assert report.costs.confirmed_usd <= Decimal("0.010")
    await check_books(skipping_client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_a_budget_below_one_request_of_a_batch_parks_the_run(
    client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    labels = Taxonomy(labels=(GivenLabel(label="billing dispute"), GivenLabel(label="password reset")), closed=True)
    job = await started(client, path, budget_usd="0.000001", labels=labels)
    await held(job, "budget")
    assert await simulator.requests() == []
    await job.resume(budget_usd=Decimal(1))
    report = await job.result()
    assert (statistics_of(report).labelled, figures_of(report).left_over) == (COUNT, 0)
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_a_person_is_forgotten_while_the_provider_has_the_batch(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    monkeypatch.setattr(processing, "CANCEL_AFTER", timedelta(seconds=20))
    await simulator.post("batches", seconds=DAY)
    job = await started(client, path)
    await submitted(job)
    last = [session.user_id async for session in client.labelled_sessions(job.id) if not session.intent][-1]
    await client.forget_user(last)
    await simulator.post("batches", seconds=0)
    report = await job.result()
    assert (figures_of(report).answered, statistics_of(report).labelled) == (LINES, COUNT)
    assert statistics_of(report).fallbacks == 0
    await check_books(client, simulator, Provider.OPENAI, path.parent)


async def test_a_batch_that_takes_too_long_is_cancelled_and_its_replies_are_taken(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider needs until the third look to stop it."""
    monkeypatch.setattr(processing, "CANCEL_AFTER", timedelta(minutes=10))
    cancel, asked = OpenAIBatches.cancel, list[str]()

    async def cancel_slowly(api: OpenAIBatches, vendor_id: str) -> None:
        asked.append(vendor_id)
        if len(asked) > 2:
            await cancel(api, vendor_id)

    monkeypatch.setattr(OpenAIBatches, "cancel", cancel_slowly)
    job = await half_answered(skipping_client, path, simulator)
    report = await job.result()
    figures = figures_of(report)
    assert (len(asked), len(set(asked))) == (3, 1)
    assert (figures.answered, figures.left_over) == (LINES // 2, LINES - LINES // 2)
    assert statistics_of(report).labelled == COUNT
    await check_books(skipping_client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.parametrize("provider", VENDORS)
async def test_what_a_provider_does_with_a_batch_that_it_does_not_end_stays_uncertain(
    skipping_client: Client,
    path: Path,
    simulator: SimulatorAdmin,
    monkeypatch: pytest.MonkeyPatch,
    provider: Provider,
) -> None:
    monkeypatch.setattr(processing, "CANCEL_AFTER", timedelta(minutes=10))
    asked = list[str]()
    api = OpenAIBatches if provider is Provider.OPENAI else AnthropicBatches

    async def cancel_never(_: object, vendor_id: str) -> None:
        asked.append(vendor_id)

    monkeypatch.setattr(api, "cancel", cancel_never)
    job = await half_answered(skipping_client, path, simulator, provider=provider)
    report = await job.result()
    assert (figures_of(report).answered, statistics_of(report).labelled) == (0, COUNT)
    # Over half an hour, and once more as it is given up.
    assert 3 < len(asked) < 50
    async with skipping_client.database.transaction() as tx:
        failed = (await tx.execute(select(Attempt).where(col(Attempt.state) == "failed"))).scalars().all()
    assert {one.billed for one in failed} == {"unknown"}
    assert (await skipping_client.costs()).uncertain_usd == sum(one.upper_bound_usd for one in failed)
    assert await skipping_client.audit() == []


async def test_a_batch_that_nothing_is_heard_of_is_cancelled_as_it_is_given_up(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No look at it succeeds. What the provider has answered until then is taken."""
    monkeypatch.setattr(processing, "CANCEL_AFTER", timedelta(minutes=10))

    async def unseen(*_: object, **__: object) -> None:
        raise NotFound("the provider says that it has no such batch")

    monkeypatch.setattr(PaidSubmissions, "poll", unseen)
    job = await half_answered(skipping_client, path, simulator)
    report = await job.result()
    assert (figures_of(report).answered, statistics_of(report).labelled) == (LINES // 2, COUNT)
    await check_books(skipping_client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_finishing_waits_half_an_hour_for_the_provider(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    monkeypatch.setattr(processing, "CANCEL_WITHIN", timedelta(seconds=1))

    async def cancel_never(*_: object) -> None:
        return

    monkeypatch.setattr(OpenAIBatches, "cancel", cancel_never)
    job = await half_answered(client, path, simulator)
    await job.finish()
    report = await asyncio.wait_for(job.result(), 60)
    assert (report.status, figures_of(report).answered) == ("completed", 0)
    assert report.costs.uncertain_usd > 0
    assert await client.audit() == []


def unreadable_at_first(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Let so many tries to read the results of a batch fail. Returns the batches of all tries, as they are made."""
    results, read = OpenAIBatches.results, list[str]()

    async def later(api: OpenAIBatches, vendor_id: str) -> AsyncGenerator[LineResult]:
        read.append(vendor_id)
        if len(read) <= times:
            raise ProviderUnavailable("openai", "the file cannot be read now", billed=Billed.NO)
        async for result in results(api, vendor_id):
            yield result

    monkeypatch.setattr(OpenAIBatches, "results", later)
    return read


@pytest.mark.usefixtures("worker")
async def test_replies_that_cannot_be_read_at_once_are_not_given_up(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time to wait for the end is over, for example because no worker ran, and the batch has ended meanwhile."""
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    monkeypatch.setattr(processing, "CANCEL_WITHIN", timedelta(0))
    read = unreadable_at_first(monkeypatch, 1)
    job = await half_answered(client, path, simulator)
    await job.finish()
    report = await asyncio.wait_for(job.result(), 60)
    assert (len(read), figures_of(report).answered) == (2, LINES // 2)
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_finishing_cancels_the_batch_and_keeps_what_is_answered(
    client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    job = await half_answered(client, path, simulator)
    assert (await job.progress()).seconds_left is None
    await job.finish()
    report = await job.result()
    assert (report.status, figures_of(report).answered) == ("completed", LINES // 2)
    assert 0 < statistics_of(report).labelled < COUNT
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_cancelling_a_run_cancels_the_batch_and_keeps_what_is_answered(
    client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    job = await half_answered(client, path, simulator)
    await job.cancel()
    with pytest.raises(JobFailed):
        await job.result()
    report = await job.report()
    assert (report.status, figures_of(report).answered) == ("cancelled", LINES // 2)
    labelled = [one for one in await sessions_of(client, job) if one.intent]
    assert len(labelled) == statistics_of(report).labelled > LINES
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_a_cancelled_run_takes_the_replies_as_soon_as_the_provider_gives_them(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    unreadable_at_first(monkeypatch, ATTEMPTS)
    job = await half_answered(client, path, simulator)
    await job.cancel()
    with pytest.raises(JobFailed):
        await job.result()
    assert figures_of(await job.report()).answered == LINES // 2
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_a_run_that_is_to_finish_in_its_next_segment_takes_the_replies_first(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    is_full, has_ended = Event(), Event()

    def history_is_long() -> bool:
        is_long = is_full.is_set() and workflow.info().continued_run_id is None
        if is_long:
            has_ended.set()
        return is_long

    monkeypatch.setattr(processing, "history_is_long", history_is_long)
    job = await half_answered(client, path, simulator)
    await job.pause()
    is_full.set()
    async with asyncio.timeout(60):
        while not has_ended.is_set():
            await asyncio.sleep(0.1)
    await job.finish()
    report = await job.result()
    assert (report.status, figures_of(report).answered) == ("completed", LINES // 2)
    await check_books(client, simulator, Provider.OPENAI, path.parent)


async def test_a_segment_that_is_full_before_leaves_the_batch_to_the_next_one(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "history_is_long", lambda: workflow.info().continued_run_id is None)
    job = await started(skipping_client, path)
    report = await job.result()
    assert (figures_of(report).answered, statistics_of(report).labelled) == (LINES, COUNT)
    await check_books(skipping_client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_a_run_that_is_cancelled_as_its_next_segment_begins_takes_the_replies(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    is_full, is_planning, replan = Event(), asyncio.Event(), runs.replan

    async def plan_slowly(tx: AsyncSession, workspace_id: str, job_key: str, plan: int, streams: int) -> bool:
        if plan > 1:
            is_planning.set()
            await asyncio.sleep(DAY)
        return await replan(tx, workspace_id, job_key, plan, streams)

    monkeypatch.setattr(runs, "replan", plan_slowly)
    monkeypatch.setattr(
        processing, "history_is_long", lambda: is_full.is_set() and workflow.info().continued_run_id is None
    )
    job = await half_answered(client, path, simulator)
    await job.set_streams(2)
    is_full.set()
    await asyncio.wait_for(is_planning.wait(), 60)
    await job.cancel()
    with pytest.raises(JobFailed):
        await job.result()
    assert figures_of(await job.report()).answered == LINES // 2
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_a_run_that_is_cancelled_before_its_first_batch_begins_ends_at_once(
    client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins = asyncio.Event()

    async def begin_never(*_: object) -> None:
        begins.set()
        await asyncio.sleep(DAY)

    monkeypatch.setattr(PaidSubmissions, "begin", begin_never)
    job = await started(client, path)
    await asyncio.wait_for(begins.wait(), 60)
    await job.cancel()
    with pytest.raises(JobFailed, match="cancelled"):
        await asyncio.wait_for(job.result(), 60)
    report = await job.report()
    assert (report.status, statistics_of(report).labelled > 0) == ("cancelled", True)


async def test_a_key_that_is_removed_while_the_provider_has_a_batch_leaves_its_requests(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "CANCEL_AFTER", timedelta(minutes=10))
    job = await half_answered(skipping_client, path, simulator)

    def without_key(*_: object) -> NoReturn:
        raise ProviderNotConfigured("OPENAI_API_KEY is not set")

    monkeypatch.setattr(PaidSubmissions, "_api", without_key)
    report = await job.result()
    assert (report.status, figures_of(report).answered, statistics_of(report).labelled) == ("completed", 0, COUNT)
    assert report.costs.uncertain_usd > 0


@pytest.mark.usefixtures("worker")
async def test_a_run_ends_where_the_replies_of_its_batch_cannot_be_taken(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    monkeypatch.setattr(processing, "CANCEL_WITHIN", timedelta(seconds=1))

    async def settle_never(*_: object, **__: object) -> NoReturn:
        raise NotFound("there is no such file")

    job = await half_answered(client, path, simulator)
    monkeypatch.setattr(PaidSubmissions, "settle", settle_never)
    await job.cancel()
    with pytest.raises(JobFailed, match="cancelled"):
        await asyncio.wait_for(job.result(), 60)
    report = await job.report()
    assert report.status == "cancelled"
    assert any("no such file" in warning for warning in statistics_of(report).warnings)


async def half_answered(client: Client, path: Path, simulator: SimulatorAdmin, **terms: Any) -> AutoAnalyzeHandle:
    """A run whose requests are in a batch that ends, when it is cancelled, with half of its answers."""
    await simulator.post("batches", seconds=DAY)
    await simulator.fault("batch_half")
    job = await started(client, path, **terms)
    await submitted(job)
    return job


async def submitted(job: AutoAnalyzeHandle) -> None:
    """Wait until the requests are in a batch."""
    async with asyncio.timeout(60):
        while (await job.progress()).batch is None:
            await asyncio.sleep(0.1)


async def test_a_provider_without_a_batch_api_is_refused_before_anything_is_paid(
    skipping_client: Client, path: Path
) -> None:
    with pytest.raises(InvalidInput, match="local has no batch API: use --processing realtime"):
        await started(skipping_client, path, provider=Provider.LOCAL)
