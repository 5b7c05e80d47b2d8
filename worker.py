"""The worker process: a role is a task queue with its activities. `python worker.py` runs every role."""

import argparse
import asyncio
import gc
import hashlib
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

import parley.domain
import workflows
from activities.acoustics import AcousticsActivities
from activities.alert import AlertActivities
from activities.auto_analyze.label_maps import LabelMapActivities
from activities.auto_analyze.labelling import LabellingActivities
from activities.auto_analyze.meaning import Meaning
from activities.auto_analyze.runs import RunActivities
from activities.auto_analyze.submitting import SubmittingActivities
from activities.boundary import HEARTBEAT_SECONDS
from activities.collecting import CollectingActivities
from activities.conversation.changing import ConversationChanges
from activities.conversation.condensing import CondensingStep
from activities.events import EventActivities
from activities.generate.paid_steps import QualityPaidSteps
from activities.health import HealthActivities
from activities.logs import WorkerFormatter
from activities.metrics import serve_metrics
from activities.parts import Parts
from activities.phone.calls import PhoneCallSteps
from activities.purge import PurgeActivities
from activities.refill import RefillActivities
from activities.session_analysis import SessionAnalysisActivities
from activities.sweep import SweepActivities
from activities.token_sink import Sinks
from parley.connection import connect
from parley.domain.errors import InvalidInput, Unreachable
from parley.domain.generate.policy import Policy
from parley.domain.queues import ACOUSTICS, STORAGE, WORKFLOWS, provider_queue
from parley.domain.requests import HEARING_PROVIDERS, Provider
from parley.process import leave, run_service
from parley.settings import Settings
from parley.storage.database import Database
from workflows.auto_analyze.job import AutoAnalyze
from workflows.auto_analyze.stream import AutoAnalyzeStream
from workflows.collector import CoachingCollector
from workflows.conversation import Conversation
from workflows.fairness import FairnessInterceptor
from workflows.generate import Generate
from workflows.health import Health
from workflows.housekeeping import HOUSEKEEPING
from workflows.phone_call import PhoneCall
from workflows.quality import ScoreQuality
from workflows.schedules import ensure_scheduled
from workflows.session_analysis import SessionAnalysis

ROLES = ("workflows", "storage", "acoustics", *(provider.value for provider in Provider))
# The sandbox only checks modules that it loads itself, which takes 100 ms of CPU per workflow for Parley's modules.
# tests/test_architecture.py checks them instead.
RUNNER = UnsandboxedWorkflowRunner()
INTERCEPTORS = [FairnessInterceptor()]
# Each takes a core. The other recordings wait in the queue, where another worker can take them.
MEASUREMENTS_AT_ONCE = 2
HEARTBEAT_INTERVAL = timedelta(seconds=HEARTBEAT_SECONDS)
# Temporal offers a workflow task to the worker that has the workflow in memory, and after this time to any other.
STICKY_TIMEOUT = timedelta(seconds=2)
WORKFLOW_CLASSES = (
    SessionAnalysis,
    AutoAnalyze,
    AutoAnalyzeStream,
    CoachingCollector,
    Conversation,
    Generate,
    PhoneCall,
    ScoreQuality,
    Health,
    *HOUSEKEEPING,
)

Activity = Callable[..., Any]

log = logging.getLogger("parley.worker")


@cache
def build_id() -> str:
    """A hash of the sources that workflows run. In histories it names the version of the worker of each step.

    The SDK's default hashes every loaded module, which takes up to a fifth of the CPU time of a worker's start.
    """
    digest = hashlib.sha256()
    for package in (workflows, parley.domain):
        for root in map(Path, package.__path__):
            for file in sorted(root.rglob("*.py")):
                digest.update(file.relative_to(root).as_posix().encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


class RoleActivities:
    """The activities of one worker process, by the roles that run them."""

    def __init__(self, client: Client, parts: Parts) -> None:
        database, settings, paid_calls = parts.database, parts.settings, parts.paid_calls
        limits, meaning = settings.requests_per_second, Meaning(parts.embedder())
        self._housekeeping = housekeeping(client, database, settings, parts.policy)
        self._health = HealthActivities(paid_calls, parts.candidates)
        self._analysis = SessionAnalysisActivities(database, paid_calls, parts.candidates, settings, parts.embedder())
        self._collecting = CollectingActivities(database, paid_calls, client)
        self._acoustics = AcousticsActivities(database)
        self._runs = RunActivities(database, parts.candidates, limits)
        self._labelling = LabellingActivities(database, paid_calls, limits, meaning)
        self._submitting = SubmittingActivities(database, parts.paid_submissions, paid_calls, limits, meaning)
        self._label_maps = LabelMapActivities(database)
        self._decisions, self._generate = parts.generate_decisions(), parts.generate_paid_steps()
        self._quality = QualityPaidSteps(database, paid_calls, parts.policy)
        self._turns, self._memory = parts.conversation_steps(), parts.conversation_memory()
        self._condensing = CondensingStep(database, paid_calls, parts.policy)
        self._changes = ConversationChanges(database)
        self._phone_calls = PhoneCallSteps(database)

    def of_workflows(self) -> list[Activity]:
        """Local activities, which run in the worker of their workflow."""
        return [
            self._health.survey,
            self._decisions.prepare,
            self._decisions.end,
            self._turns.compose,
            self._turns.end_turn,
            self._turns.close,
            self._changes.change,
            self._phone_calls.finish,
            self._analysis.prepare,
            self._analysis.prepare_hearing,
            self._analysis.publish,
            self._analysis.finish,
            self._runs.take_batches,
            self._runs.read_progress,
            self._runs.read_looks,
            self._runs.measure_saturation,
            self._runs.set_budget,
            self._label_maps.approve,
        ]

    def of_storage(self) -> list[Activity]:
        """What reads and writes much of the database, and what runs on a schedule."""
        return [
            self._analysis.close,
            self._collecting.collect,
            self._runs.prepare,
            self._runs.plan_batches,
            self._runs.copy_labels,
            self._runs.plan_probes,
            self._runs.apply_fallback,
            self._runs.plan_conflicts,
            self._label_maps.propose,
            self._label_maps.apply_conflicts,
            self._runs.plan_reassignment,
            self._runs.apply_reassignment,
            self._runs.finish,
            self._runs.close,
            *self._housekeeping,
        ]

    def of_acoustics(self) -> list[Activity]:
        """What measures sound."""
        return [self._acoustics.measure_acoustics]

    def of_provider(self, provider: Provider) -> list[Activity]:
        """The paid steps that the provider can answer."""
        if provider in HEARING_PROVIDERS:
            return [self._health.ping, self._analysis.hear, self._analysis.measure_voice]
        return [
            self._health.ping,
            self._analysis.coach,
            self._collecting.coach_jointly,
            self._labelling.classify,
            self._labelling.condense,
            self._labelling.resolve,
            self._labelling.reassign,
            self._submitting.submit,
            self._submitting.poll_submission,
            self._submitting.settle_submission,
            self._generate.ask,
            self._generate.condense,
            self._quality.score,
            self._condensing.condense,
            self._memory.remember,
        ]


def build_workers(client: Client, parts: Parts, roles: Sequence[str] = ROLES) -> list[Worker]:
    """One Temporal worker per role, each on its own task queue."""
    settings, activities = parts.settings, RoleActivities(client, parts)

    def build(task_queue: str, steps: Sequence[Activity], **options: Any) -> Worker:
        return Worker(
            client,
            task_queue=task_queue,
            activities=steps,
            build_id=build_id(),
            interceptors=INTERCEPTORS,
            graceful_shutdown_timeout=timedelta(seconds=settings.drain_seconds),
            # The default, 80% of the timeout, would make a busy worker look dead.
            max_heartbeat_throttle_interval=HEARTBEAT_INTERVAL,
            **options,
        )

    def build_role(role: str) -> Worker:
        if role == "workflows":
            return build(
                WORKFLOWS,
                activities.of_workflows(),
                workflows=WORKFLOW_CLASSES,
                workflow_runner=RUNNER,
                sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
            )
        if role == "storage":
            return build(STORAGE, activities.of_storage())
        if role == "acoustics":
            return build(ACOUSTICS, activities.of_acoustics(), max_concurrent_activities=MEASUREMENTS_AT_ONCE)
        provider = Provider(role)
        return build(
            provider_queue(provider),
            activities.of_provider(provider),
            # Speech-to-text on this machine uses its processors: one recording at a time, the others wait in the queue.
            max_concurrent_activities=1 if provider is Provider.WHISPER else settings.paid_calls_in_flight,
            max_task_queue_activities_per_second=settings.requests_per_second(provider),
        )

    return [build_role(role) for role in roles]


def housekeeping(client: Client, database: Database, settings: Settings, policy: Policy) -> list[Activity]:
    return [
        SweepActivities(database, client).sweep,
        EventActivities(database, settings).deliver,
        RefillActivities(database, policy).refill,
        AlertActivities(database, policy).alert,
        PurgeActivities(database, client, settings).purge,
    ]


async def run(settings: Settings, roles: Sequence[str]) -> None:
    """Poll until SIGTERM or SIGINT, then finish the running activities: a paid call is never abandoned.

    Raises:
        InvalidInput: DATABASE_URL, PARLEY_CODEC_KEYS or TEMPORAL_NAMESPACE is missing or wrong, or the policy file is
            invalid.
        Unreachable: Temporal or PostgreSQL does not answer.
    """
    if settings.database_url is None:
        raise InvalidInput("is not set: a worker needs PostgreSQL", where="DATABASE_URL")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics, runtime = serve_metrics(settings.metrics_address)
    client = await connect(codec_keys=settings.codec_keys, runtime=runtime)
    database = Database(settings.database_url)
    sinks = Sinks(database, settings)
    parts = Parts(database, settings, metrics, sinks)
    try:
        await database.ping()
        await _check_namespace(client)
        async with metrics.watching_breakers(database):
            await _poll(client, build_workers(client, parts, roles), roles, settings, stop)
    finally:
        await parts.close()
        await sinks.close()
        await database.close()


async def _check_namespace(client: Client) -> None:
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise InvalidInput(f"Temporal has no namespace {client.namespace!r}", where="TEMPORAL_NAMESPACE") from error
        raise Unreachable(f"Temporal does not serve the namespace {client.namespace!r}: {error.message}") from error


async def _poll(
    client: Client, workers: list[Worker], roles: Sequence[str], settings: Settings, stop: asyncio.Event
) -> None:
    if "workflows" in roles:
        await ensure_scheduled(client, with_events=settings.webhook_url is not None)
    # Imported modules stay alive: scanning them for garbage took 10% of the worker's time.
    gc.collect()
    gc.freeze()
    # The file first: an error after the first poll would abandon a paid call.
    with ready(settings.ready_file):
        polling = [asyncio.create_task(worker.run()) for worker in workers]
        stopping = asyncio.create_task(stop.wait())
        log.info("polling as %s", ", ".join(roles))
        await asyncio.wait([*polling, stopping], return_when=asyncio.FIRST_COMPLETED)
    log.info("draining for at most %.0f s", settings.drain_seconds)
    await asyncio.gather(*(worker.shutdown() for worker in workers))
    await asyncio.gather(*polling)
    stopping.cancel()


@contextmanager
def ready(file: Path | None) -> Iterator[None]:
    """Create the file while this worker polls. It is removed before the worker drains."""
    if file is None:
        yield
        return
    try:
        file.touch()
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}", where="PARLEY_READY_FILE") from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker; returns the exit code."""
    parser = argparse.ArgumentParser(prog="worker.py", description="Run Parley's workers.")
    parser.add_argument("--role", action="append", choices=ROLES, help="may be repeated; default: all")
    roles = parser.parse_args(arguments).role or list(ROLES)
    formatter = WorkerFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    return run_service("worker", lambda: run(Settings(), roles), formatter)


if __name__ == "__main__":
    leave(main())
