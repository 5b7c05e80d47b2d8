"""Short sessions of free users share one request for coaching, on real parts."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from temporalio.client import Client as TemporalClient
from temporalio.testing import WorkflowEnvironment

from parley import AnalysisHandle, AnalysisReport, Backend, Client
from parley.domain.budgets import Period
from parley.domain.errors import JobFailed
from parley.domain.joint import MOST_MEMBERS
from parley.domain.pricing import Rates, cost
from parley.domain.requests import Usage
from parley.domain.session_analysis import COACHING_ACTION, ENERGY
from parley.settings import Settings
from parley.storage.database import Database
from parley.testing import SimulatorAdmin
from tests.parts import TEST_TIMEOUT_SECONDS, running_workers, until
from tests.short_sessions import listed, short
from worker import ROLES
from workflows import collector, policies

COACHING = ENERGY[COACHING_ACTION]
SHARES = text("""
    SELECT t.joint_id, t.state, t.cost_usd, t.upper_bound_usd, r.job_key, t.rates
    FROM attempts t JOIN paid_requests r USING (workspace_id, request_id) WHERE t.workspace_id = :workspace""")


@pytest.fixture
async def collecting(temporal: TemporalClient, database: Database, settings: Settings) -> AsyncIterator[None]:
    """Workers that let short sessions wait for each other for a second."""
    waiting = settings.model_copy(update={"collect_seconds": 1.0})
    async with running_workers(temporal, database, waiting):
        yield


async def analysed(client: Client, count: int, **how: Any) -> list[AnalysisReport]:
    jobs = [await client.analyze(short(number), **how) for number in range(count)]
    return list(await asyncio.gather(*(job.result() for job in jobs)))


async def attempts(client: Client) -> list[Any]:
    async with client.database.transaction() as tx:
        return list((await tx.execute(SHARES, {"workspace": client.workspace_id})).all())


def processed(reports: list[AnalysisReport]) -> bool:
    return all(report.analysis is not None and report.analysis.coaching.processed for report in reports)


@pytest.mark.usefixtures("collecting")
class TestSharing:
    async def test_five_sessions_share_a_request_and_its_cost(self, client: Client, simulator: SimulatorAdmin) -> None:
        reports = await analysed(client, 5)
        assert processed(reports)
        [billed] = await simulator.billed()
        shares = await attempts(client)
        assert {str(share.joint_id) for share in shares} == {billed["attempt_id"]}
        usage = Usage(input_tokens=billed["input_tokens"], output_tokens=billed["output_tokens"])
        assert sum(share.cost_usd for share in shares) == cost(usage, Rates.model_validate(shares[0].rates))
        assert all(Decimal(0) < share.cost_usd < share.upper_bound_usd for share in shares)
        for report in reports:
            [own] = [share for share in shares if share.job_key == report.job_key]
            assert report.costs.confirmed_usd == own.cost_usd
            assert report.costs.energy_charged == COACHING
            [attempt] = (await client.attempts(report.job_key)).attempts
            assert (attempt.joint_id, attempt.cost_usd) == (own.joint_id, own.cost_usd)
        assert await client.audit() == []
        assert await client.audit(listed(await simulator.requests())) == []

    async def test_each_session_gets_its_own_coaching(self, client: Client) -> None:
        questions = ["What do you use today?", "Buy it.", "How does it work? What does it cost you?"]
        jobs = [await client.analyze(short(number, said)) for number, said in enumerate(questions)]
        reports = await asyncio.gather(*(job.result() for job in jobs))
        skills = [skill for report in reports if report.analysis for skill in report.analysis.coaching.skills]
        assert [skill.score for skill in skills if skill.id == "questioning_skills"] == [30, 10, 50]

    async def test_a_session_that_is_left_alone_is_sent_as_it_is(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        [report] = await analysed(client, 1)
        assert processed([report])
        assert len(await simulator.billed()) == 1
        assert await client.audit(listed(await simulator.requests())) == []

    async def test_a_long_run_continues_as_new_with_those_that_wait(
        self, client: Client, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(collector, "REQUESTS_PER_RUN", 1)
        assert processed(await analysed(client, 7))
        assert len(await simulator.billed()) == 2
        last = await client.temporal.get_workflow_handle(collector_of(client)).describe()
        assert last.raw_description.workflow_execution_info.first_run_id != last.run_id
        assert await client.audit() == []

    async def test_paying_users_and_other_workspaces_share_nothing(
        self, backend: Backend, client: Client, simulator: SimulatorAdmin
    ) -> None:
        other = backend.client(f"workspace-{uuid4().hex[:8]}")
        await client.set_tier("user-1", "pro")
        jobs = [await client.analyze(short(0)), await client.analyze(short(1)), await other.analyze(short(2))]
        assert processed(list(await asyncio.gather(*(job.result() for job in jobs))))
        assert len(await simulator.billed()) == 3
        [paying] = [share for share in await attempts(client) if share.job_key == jobs[1].job_key]
        assert paying.joint_id is None

    async def test_a_failed_request_is_repeated_alone_under_new_ids(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("bad_request", times=1)
        reports = await analysed(client, 3)
        assert processed(reports)
        assert len(await simulator.billed()) == 3
        assert [report.costs.energy_charged for report in reports] == [COACHING] * 3
        alone = [share for share in await attempts(client) if share.joint_id is None]
        assert [share.state for share in alone] == ["settled"] * 3
        assert await client.audit(listed(await simulator.requests())) == []

    async def test_replies_that_cannot_be_used_are_charged_once(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("malformed", times=1)
        reports = await analysed(client, 2)
        assert processed(reports)
        assert len(await simulator.billed()) == 3
        assert [report.costs.energy_charged for report in reports] == [COACHING] * 2
        assert await client.audit() == []

    async def test_a_failure_that_was_billed_is_shared(self, client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("empty", times=1)
        reports = await analysed(client, 2)
        assert processed(reports)
        assert await client.audit(listed(await simulator.requests())) == []

    async def test_a_cap_holds_while_requests_are_shared(self, client: Client) -> None:
        await client.set_cap(Period.DAY, Decimal("0.02"))
        jobs = [await client.analyze(short(number)) for number in range(5)]
        ends = await asyncio.gather(*(job.result() for job in jobs), return_exceptions=True)
        refused = [end for end in ends if isinstance(end, JobFailed)]
        answered = [end for end in ends if isinstance(end, AnalysisReport)]
        assert (len(answered) > 0, {end.reason for end in refused}) == (True, {"BudgetExhausted"})
        assert processed(answered)
        assert await client.audit() == []


async def test_a_session_that_is_cancelled_while_it_waits_is_not_paid_for(
    temporal: TemporalClient, database: Database, settings: Settings, client: Client, simulator: SimulatorAdmin
) -> None:
    """The others are sent as soon as they and the cancelled one fill a request."""
    waiting = settings.model_copy(update={"collect_seconds": 600.0})
    async with running_workers(temporal, database, waiting):
        cancelled = await client.analyze(short(0))
        await waits_for_others(cancelled)
        await cancelled.cancel()
        with pytest.raises(JobFailed):
            await cancelled.result()
        others = [await client.analyze(short(number)) for number in range(1, MOST_MEMBERS)]
        assert processed(list(await asyncio.gather(*(job.result() for job in others))))
    assert {share.job_key for share in await attempts(client)} == {job.job_key for job in others}
    assert len(await simulator.billed()) == 1


@pytest.mark.parametrize("load", [(400, 1, 3), (2, 3, 1)], ids=["carried", "sent"])
async def test_load_that_lasts_neither_grows_a_run_nor_sends_one_request_after_the_other(
    temporal: TemporalClient,
    database: Database,
    settings: Settings,
    client: Client,
    simulator: SimulatorAdmin,
    monkeypatch: pytest.MonkeyPatch,
    load: tuple[int, int, int],
) -> None:
    """A run that is long is ended with the jobs that wait. While they are too many for the next run, they are sent."""
    carried, at_once, runs = load
    monkeypatch.setattr(collector, "REQUESTS_PER_RUN", 1)
    monkeypatch.setattr(collector, "MOST_CARRIED", carried)
    waiting = settings.model_copy(update={"collect_seconds": 600.0})
    async with running_workers(temporal, database, waiting):
        await simulator.gate(closed=True)
        jobs = [await client.analyze(short(number)) for number in range(3 * MOST_MEMBERS)]
        for job in jobs:
            await waits_for_others(job)
        assert len(await simulator.requests(at_least=at_once, state="in_flight")) == at_once
        await simulator.gate(closed=False)
        assert processed(list(await asyncio.gather(*(job.result() for job in jobs))))
    assert len(await simulator.billed()) == 3
    query = f"WorkflowId = '{collector_of(client)}' AND ExecutionStatus != 'Running'"

    async def are_ended() -> bool:
        return (await client.temporal.count_workflows(query)).count == runs

    await until(are_ended)


async def test_a_collector_that_was_terminated_loses_nothing(
    skipping: WorkflowEnvironment, database: Database, settings: Settings, simulator: SimulatorAdmin
) -> None:
    """Its jobs join the next one, which finds the replies that were paid for."""
    waiting = settings.model_copy(update={"collect_seconds": 1.0})
    async with running_workers(skipping.client, database, waiting):
        client = Backend(skipping.client, database, waiting).client(f"workspace-{uuid4().hex[:8]}")
        await simulator.gate(closed=True)
        jobs = [await client.analyze(short(number)) for number in range(2)]
        await simulator.requests(at_least=1, state="in_flight")
        await skipping.client.get_workflow_handle(collector_of(client)).terminate()
        await simulator.gate(closed=False)

        async def are_paid() -> bool:
            return [share.state for share in await attempts(client)] == ["settled"] * 2

        await until(are_paid)
        paid = len(await simulator.billed())
        reports = list(await asyncio.gather(*(job.result() for job in jobs)))
        assert processed(reports)
        assert len(await simulator.billed()) == paid
        assert [report.costs.energy_charged for report in reports] == [COACHING] * 2
        assert await client.audit() == []


async def test_sessions_do_not_wait_for_a_provider_whose_worker_is_away(
    client: Client, temporal: TemporalClient, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (policies.JOINT_STEP, policies.PAID_STEP_AT_ONCE):
        monkeypatch.setitem(step, "schedule_to_start_timeout", timedelta(seconds=1))
    waiting = settings.model_copy(update={"collect_seconds": 0.5})
    there = tuple(role for role in ROLES if role != "anthropic")
    async with running_workers(temporal, database, waiting, roles=there):
        reports = await asyncio.wait_for(analysed(client, 2), TEST_TIMEOUT_SECONDS)
        assert processed(reports)
        assert {line.provider for report in reports for line in report.costs.lines} == {"openai"}


def collector_of(client: Client) -> str:
    """The workflow id of the collector that the tests' sessions wait in."""
    return f"coaching-collector/{client.workspace_id}/anthropic/claude-haiku-4-5/sales@1"


async def waits_for_others(job: AnalysisHandle) -> None:
    while "share a request" not in (await job.progress()).note:
        await asyncio.sleep(0.05)
