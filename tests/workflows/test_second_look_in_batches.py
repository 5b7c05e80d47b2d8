"""The second look of a run with batches: half price, hours of waiting, and what a batch leaves one by one."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from temporalio import workflow

from activities.auto_analyze import runs
from parley import AutoAnalyzeHandle, Client, JobFailed
from parley.domain.auto_analyze.contract import Aspect, AutoAnalyzeResult, DiscoveryTerms, Phase
from parley.domain.errors import Billed, NotFound, ProviderUnavailable
from parley.domain.requests import Provider
from parley.providers.batch_api import Limits, LineResult
from parley.providers.openai_batches import OpenAIBatches
from parley.storage import paid_requests, reassignments
from parley.storage.tables import Attempt, SubmissionLine
from tests.parts import SimulatorAdmin, reset_to_start
from tests.workflows.test_auto_analyze import path, sessions_of, start
from tests.workflows.test_auto_analyze_control import held
from tests.workflows.test_auto_analyze_limits import statistics_of
from tests.workflows.test_batch_processing import (
    ATTEMPTS,
    DAY,
    FAULTS,
    VENDORS,
    batch_costs,
    check_books,
    figures_of,
    history_of,
    submitted,
)
from tests.workflows.test_reassignment import changed, mixed, requests_of
from workflows.auto_analyze import reassignment
from workflows.auto_analyze import submissions as processing

__all__ = ["path"]
COUNT = 120
# All sessions are the discovery, so that the second look alone asks in batches.
ALL = DiscoveryTerms(min_sessions=COUNT, max_sessions=COUNT)
# The second look at sessions by themselves has two batches, of 80 and 40 sessions.
LAST = 1
ONE_BY_ONE = "requests of a batch are asked one by one"


async def started(client: Client, path: Path, count: int = COUNT, **terms: Any) -> AutoAnalyzeHandle:
    terms = {"discovery": ALL, "processing": "batch", "streams": 2} | terms
    return await start(client, path, mixed(count), **terms)


async def lines_of_looks(client: Client) -> int:
    """How many requests of the second look are in a batch and answered there."""
    query = (
        select(col(Attempt.request_id))
        .join(SubmissionLine, col(SubmissionLine.attempt_id) == col(Attempt.id))
        .where(col(Attempt.workspace_id) == client.workspace_id, col(Attempt.state) == "settled")
    )
    async with client.database.transaction() as tx:
        return len([one for one in (await tx.execute(query)).scalars() if "/reassignment/" in one])


@pytest.mark.parametrize("provider", VENDORS)
async def test_it_is_answered_at_half_price(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, provider: Provider
) -> None:
    usual = await started(skipping_client, path, provider=provider, processing="realtime", run_name="usual")
    one_by_one = statistics_of(await usual.result())
    assert await lines_of_looks(skipping_client) == 0
    job = await started(skipping_client, path, provider=provider)
    report = await job.result()
    statistics, figures = statistics_of(report), figures_of(report)
    looks = [one for one in await requests_of(skipping_client, "reassignment") if one.startswith(report.job_key)]
    assert figures.submitted == figures.answered == len(looks) == await lines_of_looks(skipping_client) > 1
    assert (figures.left_over, statistics.warnings) == (0, ())
    assert statistics.looked_at == one_by_one.looked_at > 0
    assert statistics.reassigned == one_by_one.reassigned > 0
    assert await sessions_of(skipping_client, job) == await sessions_of(skipping_client, usual)
    assert statistics.tokens_by_phase[Phase.REASSIGNMENT] == one_by_one.tokens_by_phase[Phase.REASSIGNMENT]
    assert figures.saved_usd > 0
    await check_books(skipping_client, simulator, provider, path.parent)
    # Near copies alone are looked at one by one: there are none.
    assert (await history_of(skipping_client, job)).count("auto_analyze.reassign") == 1


async def test_it_follows_the_batches_of_the_streams(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    job = await started(skipping_client, path, discovery=DiscoveryTerms(min_sessions=8, max_sessions=8))
    report = await job.result()
    figures = figures_of(report)
    assert figures.submitted == figures.answered > await lines_of_looks(skipping_client) > 0
    assert statistics_of(report).labelled == COUNT
    assert (await history_of(skipping_client, job)).count("auto_analyze.submit") == 2
    await check_books(skipping_client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.parametrize(("provider", "fault"), FAULTS)
async def test_what_a_batch_leaves_is_asked_one_by_one(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, provider: Provider, fault: str
) -> None:
    whole = await started(skipping_client, path, provider=provider, run_name="whole")
    figures = figures_of(await whole.result())
    await simulator.fault(fault)
    job = await started(skipping_client, path, provider=provider, run_name="left")
    report = await job.result()
    statistics, left = statistics_of(report), figures_of(report)
    answered = {"batch_half": figures.submitted // 2, "batch_odd_lines": figures.submitted}.get(fault, 0)
    assert (left.submitted, left.answered) == (figures.submitted, answered)
    assert left.left_over == left.submitted - answered
    assert any(ONE_BY_ONE in warning for warning in statistics.warnings) == (answered < left.submitted)
    assert statistics.looked_at == statistics_of(await whole.report()).looked_at
    assert await sessions_of(skipping_client, job) == await sessions_of(skipping_client, whole)
    await check_books(skipping_client, simulator, provider, path.parent)


async def test_a_worker_that_fails_as_it_takes_replies_counts_each_once(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to each line saves half of its price, which is what it costs."""
    whole = await started(skipping_client, path, run_name="whole", provider=Provider.ANTHROPIC)
    looked_at = statistics_of(await whole.result()).looked_at
    complete, completed = reassignments.complete, list[int]()

    async def fails_once(tx: AsyncSession, workspace_id: str, job_key: str, number: int) -> None:
        completed.append(number)
        if number == LAST and completed.count(LAST) == 1:
            raise RuntimeError("the worker fails after it has stored the first ones")
        await complete(tx, workspace_id, job_key, number)

    monkeypatch.setattr(reassignments, "complete", fails_once)
    job = await started(skipping_client, path, run_name="failing", provider=Provider.ANTHROPIC)
    report = await job.result()
    assert (
        figures_of(report).saved_usd == await batch_costs(skipping_client) - figures_of(await whole.report()).saved_usd
    )
    near_copies = LAST + 1
    assert (completed.count(LAST), {*completed}) == (2, {*range(LAST + 1), near_copies})
    assert statistics_of(report).looked_at == looked_at
    assert await sessions_of(skipping_client, job) == await sessions_of(skipping_client, whole)
    await check_books(skipping_client, simulator, Provider.ANTHROPIC, path.parent)


async def test_what_is_looked_at_in_two_batches_is_counted_once(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is settled after the second one, since its results are cut."""
    whole = await (await started(skipping_client, path, run_name="whole")).result()
    monkeypatch.setattr(OpenAIBatches, "limits", Limits(lines=2, bytes=1_000_000))
    results, read = OpenAIBatches.results, list[str]()

    async def cut_results(api: OpenAIBatches, vendor_id: str) -> AsyncGenerator[LineResult]:
        read.append(vendor_id)
        async for result in results(api, vendor_id):
            yield result
        if vendor_id == read[0] and read.count(vendor_id) <= ATTEMPTS:
            raise ProviderUnavailable("openai", "the results are cut", billed=Billed.NO)

    monkeypatch.setattr(OpenAIBatches, "results", cut_results)
    report = await (await started(skipping_client, path, run_name="cut")).result()
    assert (read.count(read[0]), len({*read})) == (ATTEMPTS + 1, 2)
    assert figures_of(report).answered == figures_of(whole).answered
    assert statistics_of(report).looked_at == statistics_of(whole).looked_at
    await check_books(skipping_client, simulator, Provider.OPENAI, path.parent)


async def test_a_line_without_a_result_stays_uncertain_and_is_asked_again(
    skipping_client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    await simulator.fault("batch_missing")
    job = await started(skipping_client, path)
    report = await job.result()
    assert figures_of(report).left_over == 1
    assert report.costs.uncertain_usd > 0
    assert len(await requests_of(skipping_client, "reassignment")) == figures_of(report).submitted
    assert await skipping_client.audit() == []


async def bounds_of_looks(client: Client) -> list[Decimal]:
    """What the requests of the second look may cost at most."""
    query = select(Attempt).where(col(Attempt.workspace_id) == client.workspace_id)
    async with client.database.transaction() as tx:
        found = (await tx.execute(query)).scalars().all()
    return [one.upper_bound_usd for one in found if "/reassignment/" in one.request_id]


async def with_left(client: Client, job: AutoAnalyzeHandle, left: Decimal) -> None:
    """Wait until the labels of a run are to be reviewed, leave it so much of its budget, and approve them."""
    await held(job, "review")
    await job.resume(budget_usd=(await job.report()).costs.confirmed_usd + left)
    await job.approve()


@pytest.mark.usefixtures("worker")
async def test_a_budget_that_is_used_up_leaves_sessions_with_their_labels(
    client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    """The run completes: the second look does not park it."""
    job = await started(client, path, review=True)
    await with_left(client, job, Decimal("0.000001"))
    report = await job.result()
    statistics = statistics_of(report)
    assert (report.status, statistics.labelled, statistics.reassigned) == ("completed", COUNT, 0)
    assert statistics.warnings[-1] == "some sessions keep their intent: the budget is used up"
    assert await requests_of(client, "reassignment") == []
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_the_budget_cuts_it_into_several_batches(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    whole = await (await started(client, path, run_name="whole")).result()
    job = await started(client, path, run_name="cut", review=True)
    await with_left(client, job, 2 * max(await bounds_of_looks(client)))
    report = await job.result()
    assert figures_of(report).answered == figures_of(whole).answered > 2
    assert (await history_of(client, job)).count("auto_analyze.settle_submission") > 1
    assert statistics_of(report).looked_at == statistics_of(whole).looked_at
    assert statistics_of(report).warnings == ()
    await check_books(client, simulator, Provider.OPENAI, path.parent)


async def decisions_of(client: Client) -> int:
    """Of how many sessions the replies of the second look decide."""
    decided = 0
    for name in await requests_of(client, "reassignment"):
        async with client.database.reads() as tx:
            try:
                _, reply, *_ = await paid_requests.journaled(tx, client.workspace_id, name)
            except NotFound:
                continue
        decided += len(json.loads(reply["text"])["sessions"])
    return decided


async def half_answered(client: Client, path: Path, simulator: SimulatorAdmin, **terms: Any) -> AutoAnalyzeHandle:
    """A run whose second look is in a batch that ends, when it is cancelled, with half of its answers."""
    await simulator.post("batches", seconds=DAY)
    await simulator.fault("batch_half")
    job = await started(client, path, **terms)
    await submitted(job)
    assert (await job.progress()).phase is Phase.REASSIGNMENT
    return job


@pytest.mark.usefixtures("worker")
async def test_finishing_cancels_the_batch_and_applies_what_is_answered(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of what is to be looked at together is answered."""
    monkeypatch.setitem(runs.SESSIONS_AT_ONCE, Aspect.ALONE, COUNT)
    job = await half_answered(client, path, simulator)
    await job.finish()
    report = await job.result()
    statistics, figures = statistics_of(report), figures_of(report)
    assert (report.status, statistics.labelled, figures.answered) == ("completed", COUNT, figures.submitted // 2)
    assert len(await requests_of(client, "reassignment")) == figures.submitted
    assert statistics.reassigned == len(changed(await sessions_of(client, job)))
    assert statistics.looked_at == await decisions_of(client) > 0
    assert "auto_analyze.reassign" not in await history_of(client, job)
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_cancelling_the_run_cancels_the_batch_and_counts_what_is_answered(
    client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    job = await half_answered(client, path, simulator)
    await job.cancel()
    with pytest.raises(JobFailed):
        await job.result()
    report = await job.report()
    figures = figures_of(report)
    assert (report.status, figures.answered) == ("cancelled", figures.submitted // 2)
    assert await batch_costs(client) > 0
    assert changed(await sessions_of(client, job)) == []
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_a_pause_settles_what_is_open_and_asks_nothing_one_by_one(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    job = await half_answered(client, path, simulator)
    await job.pause()
    await simulator.post("batches", seconds=0)
    async with asyncio.timeout(60):
        while not ((figures := (await job.progress()).batch) and figures.answered):
            await asyncio.sleep(0.1)
    assert (await held(job, "paused")).phase is Phase.REASSIGNMENT
    assert "auto_analyze.reassign" not in await history_of(client, job)
    await job.resume()
    report = await job.result()
    assert figures_of(report).left_over > 0
    assert "auto_analyze.reassign" in await history_of(client, job)
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_the_next_segment_goes_on_with_the_open_batch_and_its_leftovers(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    whole = await (await started(client, path, run_name="whole")).result()

    def is_full() -> bool:
        state = workflow.instance()._state
        has_begun = state.submissions.open or state.next_reassignment
        return bool(has_begun) and workflow.info().get_current_history_length() > 10 and not seen()

    runs = set[str]()

    def seen() -> bool:
        """Of the first runs, each is full as soon as it has begun with its second look."""
        if len(runs) < 2:
            runs.add(workflow.info().run_id)
        return workflow.info().run_id not in runs

    monkeypatch.setattr(processing, "history_is_long", is_full)
    monkeypatch.setattr(reassignment, "history_is_long", is_full)
    await simulator.fault("batch_half")
    job = await started(client, path, run_name="segments")
    report = await job.result()
    described = await client.temporal.get_workflow_handle(job.id).describe()
    assert described.run_id != report.job_key
    assert statistics_of(report).looked_at == statistics_of(whole).looked_at
    assert statistics_of(report).reassigned == statistics_of(whole).reassigned
    assert figures_of(report).left_over > 0
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_a_run_that_is_reset_counts_the_same(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    await simulator.fault("batch_half")
    job = await started(client, path)
    report = await job.result()
    assert figures_of(report).left_over > 0
    again = await (await reset_to_start(client.temporal, job.id, AutoAnalyzeResult)).result()
    assert again.statistics is not None
    first = statistics_of(report)
    assert (again.statistics.looked_at, again.statistics.reassigned) == (first.looked_at, first.reassigned)
    assert again.statistics.batch == first.batch
    await check_books(client, simulator, Provider.OPENAI, path.parent)


@pytest.mark.usefixtures("worker")
async def test_a_person_is_forgotten_while_the_provider_has_the_batch(
    client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "SHORTEST_PAUSE", timedelta(seconds=0.2))
    await simulator.post("batches", seconds=DAY)
    job = await started(client, path)
    await submitted(job)
    user = [session.user_id async for session in client.labelled_sessions(job.id)][-1]
    await client.forget_user(user)
    await simulator.post("batches", seconds=0)
    report = await job.result()
    figures = figures_of(report)
    assert (report.status, figures.answered, figures.left_over) == ("completed", figures.submitted, 0)
    await check_books(client, simulator, Provider.OPENAI, path.parent)
