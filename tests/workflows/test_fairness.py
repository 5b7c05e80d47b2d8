"""Workspaces share a provider's queue: a large batch of one does not delay a single request of another."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio import workflow
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowHandle
from temporalio.worker import Worker

from activities.session_analysis import SessionAnalysisActivities
from parley import Backend, Client
from parley.client.reading import read_session
from parley.domain.auto_analyze.contract import DiscoveryTerms
from parley.domain.generate.contract import workflow_id as generation_id
from parley.domain.model import Model
from parley.domain.queues import fairness_key, provider_queue
from parley.domain.requests import Provider
from parley.domain.routing import Candidate
from parley.domain.session_analysis import PaidStep, SessionAnalysisInput, Variant
from parley.settings import Settings
from parley.storage.database import Database
from tests.parts import SAMPLES, SimulatorAdmin, running_workers
from tests.replay.scenarios import chats
from worker import INTERCEPTORS, RUNNER

BATCH = 200
PER_SECOND = 5
# When the provider has received this number of the batch's requests, the others are a backlog.
FIRST = 10
# The number of the batch's requests that may precede the single one, because they are being dispatched.
A_FEW = 10
BATCH_MODEL = "gpt-4.1-mini"


class BatchInput(Model):
    workspace_id: str
    step: PaidStep
    size: int


@workflow.defn
class Batch:
    """Starts many paid activities at once, as a workflow of another service may do."""

    @workflow.run
    async def run(self, batch: BatchInput) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(batch.size):
                step = batch.step.model_copy(update={"variant": Variant(ask=number + 2)})
                group.create_task(self._coach(step))

    async def _coach(self, step: PaidStep) -> None:
        await workflow.execute_activity_method(
            SessionAnalysisActivities.coach,
            step,
            task_queue=provider_queue(step.candidate.provider),
            start_to_close_timeout=timedelta(minutes=1),
        )


@pytest.fixture
async def limited(temporal: TemporalClient, database: Database, settings: Settings) -> AsyncIterator[Settings]:
    """Workers on a provider queue with a rate limit so low that a batch becomes a backlog."""
    slow = settings.model_copy(update={"openai_requests_per_second": PER_SECOND})
    async with running_workers(temporal, database, slow):
        yield slow


async def start_batch(temporal: TemporalClient, client: Client) -> WorkflowHandle[Batch, None]:
    """Start the batch, on the stored session of an analysis that has ended."""
    session = read_session(SAMPLES / "cold-call-logistics.json")
    job = await client.analyze(session)
    await job.result()
    started = (await temporal.get_workflow_handle(job.id).fetch_history()).events[0]
    payloads = started.workflow_execution_started_event_attributes.input.payloads
    [given] = await temporal.data_converter.decode(payloads, [SessionAnalysisInput])
    candidate = Candidate(provider=Provider.OPENAI, model=BATCH_MODEL, simulated=True, reason="batch")
    step = PaidStep(input=given, job_key=job.job_key, workflow_id=job.id, candidate=candidate)
    batch = BatchInput(workspace_id=client.workspace_id, step=step, size=BATCH)
    return await temporal.start_workflow(Batch.run, batch, id=f"batch-{uuid4().hex}", task_queue=f"batch-{job.job_key}")


async def test_a_batch_does_not_delay_another_workspace(
    temporal: TemporalClient, database: Database, limited: Settings, simulator: SimulatorAdmin
) -> None:
    """Measured at Temporal's dispatch: how long a busy worker then takes for a request says nothing of the queue."""
    backend = Backend(temporal, database, limited)
    large, small = backend.client(f"large-{uuid4().hex[:8]}"), backend.client(f"small-{uuid4().hex[:8]}")
    batch = await start_batch(temporal, large)
    described = await batch.describe()
    async with Worker(
        temporal,
        task_queue=described.task_queue,
        workflows=[Batch],
        workflow_runner=RUNNER,
        interceptors=INTERCEPTORS,
    ):
        await simulator.requests(at_least=FIRST, provider="openai")
        await small.generate("What does the export contain?", user_id="ann", key="single")
        dispatched, backlog = await batch_progress(batch)
        await batch.terminate()
    single = temporal.get_workflow_handle(generation_id(small.workspace_id, "single"))
    scheduled_at, started_at = await first_paid_step(single)
    assert sum(scheduled_at < at < started_at for at in dispatched) <= A_FEW
    assert backlog > BATCH / 4, "the queue had no backlog"


async def batch_progress(batch: WorkflowHandle) -> tuple[list[int], int]:
    """When each dispatched activity of the batch was started, and how many still wait for their first start."""
    pending = (await batch.describe()).raw_description.pending_activities
    started = [at(activity.last_started_time) for activity in pending if activity.HasField("last_started_time")]
    for event in (await batch.fetch_history()).events:
        if event.HasField("activity_task_started_event_attributes"):
            started.append(at(event.event_time))
    waiting = [activity for activity in pending if not activity.HasField("last_started_time")]
    return started, len(waiting)


async def first_paid_step(single: WorkflowHandle) -> tuple[int, int]:
    """When a workflow put its first activity into a queue, and when Temporal dispatched it."""
    events = (await single.fetch_history()).events
    scheduled = next(event for event in events if event.HasField("activity_task_scheduled_event_attributes"))
    started = next(event for event in events if event.HasField("activity_task_started_event_attributes"))
    return at(scheduled.event_time), at(started.event_time)


def at(timestamp: Timestamp) -> int:
    """Nanoseconds since 1970."""
    return timestamp.ToNanoseconds()


@pytest.mark.usefixtures("worker")
async def test_every_activity_and_child_workflow_has_the_key(client: Client, tmp_path: Path) -> None:
    imported = await client.import_chats(chats(tmp_path / "chats.jsonl", 12))
    discovery = DiscoveryTerms(min_sessions=3, max_sessions=3)
    job = await client.auto_analyze(imported.dataset_id, user_id="u", discovery=discovery, streams=2)
    await job.result()
    found = [entry async for entry in client.temporal.list_workflows(f"ParleyWorkspace = '{client.workspace_id}'")]
    streams = [
        event.child_workflow_execution_started_event_attributes.workflow_execution.workflow_id
        for event in (await client.temporal.get_workflow_handle(job.id).fetch_history()).events
        if event.HasField("child_workflow_execution_started_event_attributes")
    ]
    assert len(streams) == 2
    for workflow_id in {*streams, *(entry.id for entry in found)}:
        keys = await fairness_keys(client.temporal.get_workflow_handle(workflow_id))
        assert set(keys) == {fairness_key(client.workspace_id)}, workflow_id


async def fairness_keys(handle: WorkflowHandle) -> list[str]:
    """The keys of a workflow's start and of all activities and child workflows that it has started."""
    found = []
    for event in (await handle.fetch_history()).events:
        for kind in (
            "workflow_execution_started",
            "activity_task_scheduled",
            "start_child_workflow_execution_initiated",
        ):
            if event.HasField(f"{kind}_event_attributes"):
                found.append(getattr(event, f"{kind}_event_attributes").priority.fairness_key)
    return found
