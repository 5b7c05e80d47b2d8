"""The sweep, on a real Temporal server: requests of closed workflows are ended, those of running ones are not."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date
from uuid import UUID, uuid4

import pytest
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowHandle
from temporalio.testing import ActivityEnvironment

from activities.sweep import SweepActivities
from parley.domain.generate.contract import JOB_PREFIX
from parley.domain.generate.quality import job_key
from parley.domain.housekeeping import SweepInput, SweepReport
from tests.storage.ledger_fixture import BOUND, EXPIRED, NOTHING, PRICE, LedgerFixture

Handle = WorkflowHandle[object, object]
Start = Callable[[], Awaitable[Handle]]


@pytest.fixture
def start(temporal: TemporalClient) -> Start:
    """Starts a workflow without a worker, which runs until it is terminated."""

    async def started() -> Handle:
        return await temporal.start_workflow("Unserved", id=f"unserved-{uuid4().hex}", task_queue="unserved")

    return started


async def silent(
    books: LedgerFixture, workflow: Handle, *, reservation_seconds: float = 3600, step: str = "step"
) -> UUID:
    """A request of that workflow; the worker that held its lease died."""
    job = workflow.first_execution_run_id
    assert job
    await books.open(job=job)
    terms = replace(EXPIRED, reservation_seconds=reservation_seconds)
    return await books.granted(step, job=job, workflow_id=workflow.id, terms=terms)


async def sweep(books: LedgerFixture, temporal: TemporalClient, batch: int = 200) -> SweepReport:
    activities = SweepActivities(books.database, temporal)
    return await ActivityEnvironment().run(activities.sweep, SweepInput(batch=batch))


async def test_a_request_of_a_terminated_workflow_is_ended(
    books: LedgerFixture, temporal: TemporalClient, start: Start
):
    workflow = await start()
    await silent(books, workflow)
    await workflow.terminate()
    assert await sweep(books, temporal) == SweepReport(looked_at=1, ended=1)
    assert await books.dollars(workflow.first_execution_run_id or "") == (NOTHING, NOTHING, BOUND)
    assert await books.energy() == (0, 0)
    assert await sweep(books, temporal) == SweepReport(looked_at=0, ended=0)


async def test_a_request_of_a_running_workflow_is_not_ended(
    books: LedgerFixture, temporal: TemporalClient, start: Start
):
    workflow = await start()
    await silent(books, workflow)
    assert await sweep(books, temporal) == SweepReport(looked_at=1, ended=0)
    assert await books.energy() == (0, PRICE)
    await workflow.terminate()


async def test_an_expired_reservation_is_ended_while_its_workflow_runs(
    books: LedgerFixture, temporal: TemporalClient, start: Start
):
    workflow = await start()
    await silent(books, workflow, reservation_seconds=0)
    assert await sweep(books, temporal) == SweepReport(looked_at=1, ended=1)
    assert await books.energy() == (0, 0)
    await workflow.terminate()


async def test_an_unknown_workflow_counts_as_closed(books: LedgerFixture, temporal: TemporalClient):
    await books.granted(terms=EXPIRED, workflow_id=f"never-{uuid4().hex}")
    assert await sweep(books, temporal) == SweepReport(looked_at=1, ended=1)


async def test_a_later_job_with_the_same_workflow_id_does_not_count(
    books: LedgerFixture, temporal: TemporalClient, start: Start
):
    earlier = await start()
    await silent(books, earlier)
    await earlier.terminate()
    later = await temporal.start_workflow("Unserved", id=earlier.id, task_queue="unserved")
    assert await sweep(books, temporal) == SweepReport(looked_at=1, ended=1)
    await later.terminate()


async def test_a_request_with_a_live_lease_is_not_checked(books: LedgerFixture, temporal: TemporalClient):
    await books.granted(workflow_id=f"never-{uuid4().hex}")
    assert await sweep(books, temporal) == SweepReport(looked_at=0, ended=0)


async def test_a_reply_after_the_sweep_is_settled_and_charged(
    books: LedgerFixture, temporal: TemporalClient, start: Start
):
    workflow = await start()
    swept = await silent(books, workflow)
    await workflow.terminate()
    await sweep(books, temporal)
    await books.settle(swept)
    assert await books.energy() == (PRICE, 0)
    assert (await books.row(swept)).confirmed


async def test_a_reply_after_the_sweep_does_not_overdraw(database, temporal: TemporalClient, start: Start):
    books = await LedgerFixture(database).open(energy_granted=PRICE)
    workflow = await start()
    swept = await silent(books, workflow)
    await workflow.terminate()
    await sweep(books, temporal)
    await books.settle(await books.granted("spends what was freed"))
    await books.settle(swept)
    assert await books.energy() == (PRICE, 0)
    assert (await books.row(swept)).energy_charged == 0


async def test_requests_that_are_left_do_not_block_later_pages(
    books: LedgerFixture, temporal: TemporalClient, start: Start
):
    running, dead = await start(), await start()
    for step in ("one", "two", "three"):
        await silent(books, running, step=step)
    await silent(books, dead)
    await dead.terminate()
    assert await sweep(books, temporal, batch=2) == SweepReport(looked_at=4, ended=1)
    await running.terminate()


async def test_workflows_with_a_shared_job_key_are_distinguished(
    books: LedgerFixture, temporal: TemporalClient, start: Start
):
    """All grading of a day has one budget, and its job key is not a run id."""
    day = job_key(date(2026, 11, 20))
    await books.open(job=day)
    running, dead = await start(), await start()
    for workflow in (running, dead):
        await books.granted(workflow.id, job=day, workflow_id=workflow.id, terms=EXPIRED)
    await dead.terminate()
    assert await sweep(books, temporal) == SweepReport(looked_at=2, ended=1)
    assert (await books.request(running.id, job=day)).owner_attempt_id
    assert (await books.request(dead.id, job=day)).owner_attempt_id is None
    await running.terminate()


async def test_a_key_that_is_derived_from_a_workflows_id_names_all_of_its_runs(
    books: LedgerFixture, temporal: TemporalClient, start: Start
):
    """A later run under the id takes the request over, or waits for its reply."""
    running = await start()
    assert running.first_execution_run_id
    job = f"{JOB_PREFIX}digest"
    await books.open(job=job)
    await books.granted("ask-1", job=job, workflow_id=running.id, terms=EXPIRED)
    assert await sweep(books, temporal) == SweepReport(looked_at=1, ended=0)
    await running.terminate()
    assert await sweep(books, temporal) == SweepReport(looked_at=1, ended=1)
