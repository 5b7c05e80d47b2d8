"""An operator controls a labelling run: pause, resume, raise the budget, finish before the end."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from parley import AutoAnalyzeHandle, AutoAnalyzeProgress, Client, InvalidInput, JobFailed, NotFound
from parley.domain.auto_analyze.contract import AutoAnalyzeResult, DiscoveryTerms
from parley.domain.budgets import Period
from parley.storage import auto_analyze as runs
from parley.storage import budgets
from tests.parts import SimulatorAdmin, reset_to_start
from tests.workflows.test_auto_analyze import chats, path, results_of, sessions_of, start
from tests.workflows.test_auto_analyze_limits import statistics_of
from workflows.auto_analyze import job as workflow

pytestmark = pytest.mark.usefixtures("worker")
__all__ = ["path"]


async def held(job: AutoAnalyzeHandle, why: str) -> AutoAnalyzeProgress:
    """The progress of a run once it is held."""
    async with asyncio.timeout(60):
        while (progress := await job.progress()).held != why:
            await asyncio.sleep(0.1)
    return progress


async def settled(client: Client, job: AutoAnalyzeHandle) -> int:
    """How many sessions are labelled, once the run has no stream and no activity open."""
    async with asyncio.timeout(60):
        while True:
            found = (await client.temporal.get_workflow_handle(job.id).describe()).raw_description
            if (
                not found.pending_children
                and not found.pending_activities
                and not found.HasField("pending_workflow_task")
            ):
                return sum(bool(one.original_intent) for one in await sessions_of(client, job))
            await asyncio.sleep(0.1)


class TestPause:
    async def test_a_paused_run_sends_nothing_and_goes_on_with_the_same_labels(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        whole = await start(client, path, chats(120), streams=3, run_name="whole")
        await whole.result()
        before = len(await simulator.requests())
        job = await start(client, path, chats(120), streams=3, run_name="paused")
        await simulator.requests(at_least=before + 8)
        assert (await job.pause()).held == "paused"
        labelled = await settled(client, job)
        assert 0 < labelled < 120
        sent = len(await simulator.requests())
        assert (await held(job, "paused")).note == "paused"
        assert await settled(client, job) == labelled
        assert len(await simulator.requests()) == sent
        assert (await job.resume()).held == ""
        report = await job.result()
        assert statistics_of(report).labelled == 120
        assert await results_of(client, job) == await results_of(client, whole)
        assert await client.audit() == []

    async def test_a_run_that_is_paused_in_its_discovery_waits_there(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("slow", provider="openai", times=None, hold=0.3)
        job = await start(client, path, chats(40), streams=2)
        await simulator.requests(at_least=1)
        await job.pause()
        assert await settled(client, job) < 40
        await simulator.reset()
        await job.resume()
        assert statistics_of(await job.result()).labelled == 40

    async def test_a_pause_in_the_last_round_of_the_discovery_changes_no_label(
        self, client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terms = DiscoveryTerms(target_percentage=60, least_percentage=10, min_sessions=8, max_sessions=60)
        measure, measured, sent = runs.discovered_labels, list[str](), list[int]()

        is_last = asyncio.Event()

        async def measure_and_hold(tx: AsyncSession, workspace_id: str, job_key: str) -> Any:
            measured.append(job_key)
            if job_key != measured[0] and measured.count(job_key) == measured.count(measured[0]) - 1:
                await simulator.gate(closed=True, provider="openai")
                sent.append(len(await simulator.requests()))
                is_last.set()
            return await measure(tx, workspace_id, job_key)

        monkeypatch.setattr(runs, "discovered_labels", measure_and_hold)
        whole = await start(client, path, chats(100), streams=2, discovery=terms, run_name="whole")
        discovered = statistics_of(await whole.result()).discovery_sessions
        assert discovered < 60  # it ends early
        job = await start(client, path, chats(100), streams=2, discovery=terms, run_name="paused")
        await asyncio.wait_for(is_last.wait(), 60)
        await simulator.requests(at_least=sent[0] + 1)
        await job.pause()
        await simulator.gate(closed=False, provider="openai")
        await settled(client, job)
        await job.resume()
        assert statistics_of(await job.result()).discovery_sessions == discovered
        assert await results_of(client, job) == await results_of(client, whole)


class TestStreams:
    async def test_other_streams_take_over_at_a_round_that_has_not_begun(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        job = await start(client, path, chats(160), streams=3, sessions_per_stream=4)
        await simulator.requests(at_least=16)
        with pytest.raises(InvalidInput, match="streams"):
            await job.set_streams(65)
        assert (await job.set_streams(1)).streams == 1
        statistics = statistics_of(await job.result())
        assert (statistics.labelled, statistics.fallbacks) == (160, 0)
        by_round: dict[int, set[int]] = {}
        for one in await sessions_of(client, job):
            if one.round is not None and one.stream is not None:
                by_round.setdefault(one.round, set()).add(one.stream)
        assert max(by_round) == statistics.rounds
        assert {stream for streams in by_round.values() for stream in streams} == {1, 2, 3}
        assert by_round[statistics.rounds] == {1}
        assert len(await simulator.billed()) == len((await client.attempts(job.job_key, limit=500)).attempts)
        with pytest.raises(NotFound, match="does not run"):
            await job.set_streams(2)
        assert await client.audit() == []

    async def test_more_streams_share_what_is_left_also_of_a_run_without_bound(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("slow", provider="openai", times=None, hold=0.2)
        job = await start(client, path, chats(120), streams=1, max_staleness=None)
        await simulator.requests(at_least=6)
        await job.set_streams(4)
        await simulator.reset()
        assert statistics_of(await job.result()).labelled == 120
        assert {one.stream for one in await sessions_of(client, job)} == {None, 1, 2, 3, 4}
        assert await client.audit() == []


class TestBudget:
    async def test_a_used_up_budget_parks_the_run_until_it_is_raised(self, client: Client, path: Path) -> None:
        job = await start(client, path, chats(60), budget_usd="0.003")
        progress = await held(job, "budget")
        assert "of the job's budget is left" in progress.note
        assert progress.cost_usd <= Decimal("0.003")
        with pytest.raises(InvalidInput, match=r"\$0\.0001, of which \$0\.\d+ is set aside .* less than what is spent"):
            await job.resume(budget_usd=Decimal("0.0001"))
        with pytest.raises(InvalidInput, match="budget_usd"):
            await job.resume(budget_usd=Decimal(-1))
        assert (await job.resume(budget_usd=Decimal(1))).budget_usd == 1
        report = await job.result()
        assert (statistics_of(report).labelled, statistics_of(report).fallbacks) == (60, 0)
        assert await client.audit() == []

    async def test_a_run_that_a_cap_of_the_workspace_holds_goes_on_when_the_cap_has_room(
        self, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workflow, "TRY_AGAIN_AFTER", timedelta(seconds=0.5))
        await client.set_cap(Period.DAY, Decimal("0.003"))
        job = await start(client, path, chats(60))
        progress = await held(job, "budget")
        assert "of the day's $0.003" in progress.note
        await client.set_cap(Period.DAY, Decimal(5))
        report = await job.result()
        assert (statistics_of(report).labelled, statistics_of(report).fallbacks) == (60, 0)
        assert await client.audit() == []

    async def test_a_budget_below_one_request_parks_the_run_before_anything_is_paid(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        job = await start(client, path, chats(60), budget_usd="0.000001")
        progress = await held(job, "budget")
        assert (progress.sessions_done, progress.cost_usd) == (0, 0)
        assert await simulator.requests() == []
        assert (await job.resume(budget_usd=Decimal("0.000002"))).budget_usd == Decimal("0.000002")
        await held(job, "budget")
        await job.resume(budget_usd=Decimal(1))
        assert statistics_of(await job.result()).labelled == 60
        assert await client.audit() == []

    async def test_a_run_that_finishes_with_a_budget_below_one_request_has_no_labels(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        job = await start(client, path, chats(20), budget_usd="0.000001")
        await held(job, "budget")
        await job.finish()
        report = await job.result()
        assert (report.status, statistics_of(report).labelled, report.labels) == ("completed", 0, ())
        assert report.costs.confirmed_usd + report.costs.uncertain_usd == 0
        assert await simulator.requests() == []
        assert await client.audit() == []

    async def test_a_run_that_finishes_with_its_budget_merges_with_what_was_set_aside(
        self, client: Client, path: Path
    ) -> None:
        job = await start(client, path, chats(60), budget_usd="0.004")
        await held(job, "budget")
        assert (await job.finish()).finishing
        report = await job.result()
        statistics = statistics_of(report)
        assert 0 < statistics.labelled < 60
        assert (report.status, statistics.unmerged_chunks) == ("completed", 0)
        assert statistics.warnings[-1].startswith(f"{60 - statistics.labelled} sessions have no labels")
        assert all(one.intent for one in await sessions_of(client, job) if one.original_intent)
        assert report.costs.confirmed_usd <= Decimal("0.004")
        assert await client.audit() == []

    async def test_a_run_that_has_cost_more_than_its_budget_finishes_without_merging(
        self, client: Client, path: Path
    ) -> None:
        job = await start(client, path, chats(60), budget_usd="0.004")
        await held(job, "budget")
        async with client.database.transaction() as tx:
            # As where a provider bills more than the upper bound of a request.
            await budgets.move(tx, client.workspace_id, budgets.job_scope(job.job_key), confirmed=Decimal("0.004"))
        await job.finish()
        report = await job.result()
        assert report.status == "completed"
        assert any("stay unmerged" in warning for warning in statistics_of(report).warnings)
        assert all(one.intent for one in await sessions_of(client, job) if one.original_intent)

    async def test_a_parked_run_fails_after_its_wait_limit_and_takes_no_update(
        self, client: Client, path: Path
    ) -> None:
        job = await start(client, path, chats(60), budget_usd="0.002", wait_limit_seconds=1)
        with pytest.raises(JobFailed) as failed:
            await job.result()
        assert failed.value.reason == "BudgetExhausted"
        with pytest.raises(NotFound, match="does not run"):
            await job.resume(budget_usd=Decimal(1))


async def test_a_run_that_is_asked_to_finish_labels_no_further_session(
    client: Client, path: Path, simulator: SimulatorAdmin
) -> None:
    job = await start(client, path, chats(200), streams=3)
    await simulator.requests(at_least=8)
    await job.finish()
    report = await job.result()
    assert report.status == "completed"
    assert 0 < statistics_of(report).labelled < 200
    assert await client.audit() == []


class TestReset:
    async def test_a_run_that_is_reset_while_its_streams_work_goes_on(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        whole = await start(client, path, chats(120), streams=3, run_name="whole")
        await whole.result()
        before = len(await simulator.requests())
        await simulator.fault("slow", provider="openai", times=None, hold=0.3)
        job = await start(client, path, chats(120), streams=3, run_name="reset")
        await simulator.requests(at_least=before + 15)
        again = await (await reset_to_start(client.temporal, job.id, AutoAnalyzeResult)).result()
        assert again.statistics is not None
        assert (again.statistics.labelled, again.statistics.fallbacks) == (120, 0)
        assert await results_of(client, job) == await results_of(client, whole)
        assert await client.audit() == []
