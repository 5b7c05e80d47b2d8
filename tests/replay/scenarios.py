"""Representative runs of every workflow, for replay and for the fingerprint of their commands."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory

from parley import AutoAnalyzeHandle, Client
from parley.client.reading import read_session
from parley.domain.auto_analyze.contract import DiscoveryTerms
from parley.domain.coaching.collecting import CollectorInput
from parley.domain.errors import JobFailed
from parley.domain.housekeeping import ALERT_ON_COSTS, DELIVER_EVENTS, PURGE, REFILL_ENERGY, SWEEP
from parley.domain.queues import WORKFLOWS
from parley.domain.requests import Provider
from parley.domain.routing import Candidate
from parley.domain.session_analysis import Step
from tests.parts import SAMPLES, SimulatorAdmin
from tests.replay import conversation, generate, phone
from tests.short_sessions import short

HISTORIES = Path(__file__).parent / "histories"
FINGERPRINTS = Path(__file__).parent / "fingerprints"

HYBRID = SAMPLES / "cold-call-logistics.json"
SHORT = SAMPLES / "gatekeeper-dental-clinic.json"
LONG = SAMPLES / "demo-hospital-rostering.json"
RECORDING = SAMPLES / "gatekeeper-dental-clinic.ogg"

Scenario = Callable[[Client, SimulatorAdmin], Awaitable[str]]


async def hybrid_with_recording(client: Client, _: SimulatorAdmin) -> str:
    job = await client.analyze(read_session(HYBRID), audio=RECORDING.read_bytes())
    await job.result()
    return job.id


async def late_voice(client: Client, simulator: SimulatorAdmin) -> str:
    """The transcription arrives after the deadline and after the first result, which it amends."""
    await simulator.gate(closed=True, provider="elevenlabs")
    job = await client.analyze(read_session(HYBRID), audio=RECORDING.read_bytes(), voice_deadline_seconds=0.2)
    await job.result()
    await simulator.gate(closed=False, provider="elevenlabs")
    await job.result(final=True)
    return job.id


async def recording_alone(client: Client, _: SimulatorAdmin) -> str:
    job = await client.analyze(audio=RECORDING.read_bytes())
    await job.result()
    return job.id


async def fast_parallel(client: Client, simulator: SimulatorAdmin) -> str:
    """The reply to coaching arrives before the transcription, so that each run has the same order of commands."""
    await simulator.gate(closed=True, provider="elevenlabs")
    job = await client.analyze(read_session(SHORT), audio=RECORDING.read_bytes())
    while Step.COACHING not in (await job.progress()).done:
        await asyncio.sleep(0.05)
    await simulator.gate(closed=False, provider="elevenlabs")
    await job.result()
    return job.id


async def cost_optimized(client: Client, _: SimulatorAdmin) -> str:
    job = await client.analyze(read_session(LONG))
    await job.result()
    return job.id


async def cached(client: Client, _: SimulatorAdmin) -> str:
    for number in range(4):  # the fourth one returns an earlier result
        job = await client.analyze(read_session(HYBRID), run_name=str(number))
        await job.result()
    return job.id


async def fallback_provider(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.fault("auth", provider="anthropic", times=None)
    job = await client.analyze(read_session(HYBRID))
    await job.result()
    return job.id


async def asked_again(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.fault("malformed", times=2)
    job = await client.analyze(read_session(HYBRID))
    await job.result()
    return job.id


async def rule_based(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.fault("bad_request", times=None)
    job = await client.analyze(read_session(HYBRID))
    await job.result()
    return job.id


async def provisional(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.fault("rate_limit", times=2, retry_after=1)
    job = await client.analyze(read_session(HYBRID))
    await job.result(final=True)
    return job.id


async def shared(client: Client, _: SimulatorAdmin) -> str:
    """One of two sessions that share a request."""
    jobs = [await client.analyze(short(number)) for number in range(2)]
    await asyncio.gather(*(job.result() for job in jobs))
    return jobs[0].id


async def collector(client: Client, simulator: SimulatorAdmin) -> str:
    """The collector of such sessions. The second comes while the first waits."""
    await shared(client, simulator)
    return CollectorInput(
        workspace_id=client.workspace_id,
        candidate=Candidate(provider=Provider.ANTHROPIC, model="claude-haiku-4-5", simulated=True, reason=""),
        rubric="sales@1",
        seconds=1,
    ).workflow_id


async def cancelled(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.gate(closed=True)
    job = await client.analyze(read_session(HYBRID))
    await simulator.requests(at_least=1)
    await job.cancel()
    with pytest.raises(JobFailed):
        await job.result()
    await simulator.gate(closed=False)
    return job.id


def chats(path: Path, count: int, *, mixed: bool = False) -> Path:
    """Sessions about three topics; `mixed`: every third one has the words of another topic too."""
    kinds = ("selfService", "agent", "dropOff")
    topics = ("my invoice is wrong", "reset my password", "where is my parcel")
    with path.open("w") as file:
        for number in range(count):
            other = f"{topics[number % 2]}, " if mixed and number % 3 == 0 else ""
            text = f"Hi, {other}{topics[number % 3]}, {_own_words(number) if mixed else f'number {number}'}"
            messages = [{"role": "user", "text": text}, {"role": "bot", "text": "One moment."}]
            session = {
                "session_id": f"s{number}",
                "user_id": "u",
                "containment": kinds[number % 3],
                "messages": messages,
            }
            file.write(json.dumps(session) + "\n")
    return path


def _own_words(number: int) -> str:
    """They make a session no near copy of another one."""
    return " ".join(f"{word}{number}" for word in ("case", "street", "contract", "branch", "machine", "colleague"))


async def labelled(client: Client, count: int, **terms: Any) -> str:
    job = await labelling(client, count, **terms)
    await job.result()
    return job.id


async def labelling(client: Client, count: int, *, mixed: bool = False, **terms: Any) -> AutoAnalyzeHandle:
    with TemporaryDirectory() as directory:
        imported = await client.import_chats(chats(Path(directory) / "chats.jsonl", count, mixed=mixed))
    discovery = DiscoveryTerms(min_sessions=3, max_sessions=3)
    return await client.auto_analyze(imported.dataset_id, user_id="u", discovery=discovery, **terms)


async def auto_analyze(client: Client, _: SimulatorAdmin) -> str:
    return await labelled(client, 20, streams=2)


async def auto_analyze_reviewed(client: Client, _: SimulatorAdmin) -> str:
    """A run whose merges a person approves."""
    job = await labelling(client, 60, streams=2, review=True)
    while (await job.progress()).held != "review":
        await asyncio.sleep(0.05)
    await job.approve()
    await job.result()
    return job.id


async def auto_analyze_batch(client: Client, simulator: SimulatorAdmin) -> str:
    """A run that asks for labels and takes its second look in a batch each, of which half is left over."""
    await simulator.fault("batch_half", times=2)
    return await labelled(client, 40, mixed=True, streams=2, sessions_per_stream=5, processing="batch")


async def auto_analyze_stream(client: Client, _: SimulatorAdmin) -> str:
    """One of the streams of a run."""
    return await first_stream(client, await labelled(client, 20, streams=2))


async def first_stream(client: Client, job_id: str) -> str:
    parent = await client.temporal.get_workflow_handle(job_id).fetch_history()
    started = [event.child_workflow_execution_started_event_attributes for event in parent.events]
    return next(child.workflow_execution.workflow_id for child in started if child.workflow_execution.workflow_id)


async def auto_analyze_free_stream(client: Client, _: SimulatorAdmin) -> str:
    """The stream of a run whose streams take what is next."""
    job_id = await labelled(client, 30, streams=1, max_staleness=None)
    return await first_stream(client, job_id)


async def housekeeping(client: Client, kind: str) -> str:
    handle = await client.temporal.start_workflow(kind, id=f"{kind}-{client.workspace_id}", task_queue=WORKFLOWS)
    await handle.result()
    return handle.id


async def sweep(client: Client, _: SimulatorAdmin) -> str:
    return await housekeeping(client, SWEEP)


async def deliver_events(client: Client, _: SimulatorAdmin) -> str:
    return await housekeeping(client, DELIVER_EVENTS)


async def refill_energy(client: Client, _: SimulatorAdmin) -> str:
    return await housekeeping(client, REFILL_ENERGY)


async def alert_on_costs(client: Client, _: SimulatorAdmin) -> str:
    return await housekeeping(client, ALERT_ON_COSTS)


async def purge(client: Client, _: SimulatorAdmin) -> str:
    return await housekeeping(client, PURGE)


# Those whose sessions wait for each other.
SHARING = (shared, collector)
SCENARIOS: tuple[Scenario, ...] = (
    hybrid_with_recording,
    late_voice,
    recording_alone,
    fast_parallel,
    cost_optimized,
    cached,
    fallback_provider,
    asked_again,
    rule_based,
    provisional,
    shared,
    collector,
    cancelled,
    auto_analyze,
    auto_analyze_reviewed,
    auto_analyze_batch,
    auto_analyze_stream,
    auto_analyze_free_stream,
    sweep,
    deliver_events,
    refill_energy,
    alert_on_costs,
    purge,
    *generate.SCENARIOS,
    *conversation.SCENARIOS,
    *phone.SCENARIOS,
)


# Events whose command is described by their name alone.
DESCRIBED_BY_NAME = {
    "timer_started",
    "timer_canceled",
    "marker_recorded",
    "activity_task_cancel_requested",
    "workflow_execution_completed",
    "workflow_execution_failed",
    "workflow_execution_canceled",
    "workflow_execution_continued_as_new",
}


READS_PROGRESS = "auto_analyze.read_progress"


def fingerprint(history: WorkflowHistory) -> str:
    """The commands of the workflow in order, one per line, without results and times.

    Commands that are repeated while time passes are left out: how many there are depends on the machine.
    """
    events = [event for event in history.events if not _reads_progress(event)]
    commands = [command for event in events if (command := _command(event))]
    if len(events) < len(history.events):
        commands = [one for one in commands if not one.startswith("timer")]
    return "\n".join(commands) + "\n"


def _reads_progress(event: Any) -> bool:
    return READS_PROGRESS in str(event.marker_recorded_event_attributes.details)


def _command(event: Any) -> str:
    name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower()
    attributes = getattr(event, f"{name}_event_attributes", None)
    match name:
        case "activity_task_scheduled":
            described = f"activity {attributes.activity_type.name} on {attributes.task_queue.name}"
        case "upsert_workflow_search_attributes":
            described = f"search attributes {', '.join(sorted(attributes.search_attributes.indexed_fields))}"
        case "start_child_workflow_execution_initiated":
            described = f"child {attributes.workflow_type.name}"
        case "signal_external_workflow_execution_initiated":
            described = f"signal {attributes.signal_name}"
        case _:
            described = name.replace("_", " ") if name in DESCRIBED_BY_NAME else ""
    return described


def committed(history: WorkflowHistory) -> str:
    """A history in the form that is committed: without the name, paths and process ids of the machine that ran it."""
    events = [_scrubbed(MessageToDict(event)) for event in history.events]
    return json.dumps({"workflowId": history.workflow_id, "events": events}, indent=1) + "\n"


def _scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "" if key in ("identity", "stackTrace") else _scrubbed(item) for key, item in value.items()}
    return [_scrubbed(item) for item in value] if isinstance(value, list) else value
