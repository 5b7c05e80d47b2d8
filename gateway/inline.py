"""`Generate` without a workflow: the same steps, run in this process. Embeddings, which have none, run here too.

What is paid, charged and recorded is that of the workflow, under the same ids: a request joins what a workflow paid
under its key, and the reverse. A caller retries with its key after a crash. docs/inline.md compares the two modes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import temporalio.client
from temporalio.common import RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, FailureError, WorkflowAlreadyStartedError

from activities.boundary import as_application_error, attempt, without_boundary
from activities.metrics import Metrics
from activities.parts import Parts
from activities.speech import clip_of
from activities.token_sink import Sinks
from gateway.errors import Ending, GenerationRefused
from parley.client.backend import Backend, WorkflowStart, start_workflow
from parley.client.generate import check_names, with_stored_answer
from parley.client.streaming import GenerateStream, OnDisconnect
from parley.domain.conversation.contract import ComposeStep, TurnOutcome, turn_job_id
from parley.domain.embedding import EmbeddingInput, EmbeddingJob, EmbeddingResult
from parley.domain.errors import IdempotencyConflict, JobFailed, ParleyError, RateLimited
from parley.domain.generate.contract import GenerateInput, GenerateResult, Job, Refusal, workflow_id
from parley.domain.generate.quality import WORKFLOW as SCORE_QUALITY
from parley.domain.generate.quality import ScoreInput
from parley.domain.generate.quality import workflow_id as scoring_id
from parley.domain.requests import CHAT_PROVIDERS, Provider
from parley.domain.routing import Candidate
from parley.domain.speech_job import Speech, SpeechInput, SpeechJob
from parley.domain.streaming import StreamTarget
from parley.failures import job_failure
from parley.settings import Settings
from parley.storage.database import Database
from parley.streams.hub import PROCESS_HUB, ProcessReceiver
from workflows.answering import REFUSALS, GenerateRun
from workflows.policies import ANSWER_STEP, PAID_STEP
from workflows.turns import TurnRun

S = TypeVar("S")
R = TypeVar("R")

TIME_LIMIT_SECONDS = 60.0
# A listener waits for speech: after this time a recorded sentence is better.
SPEECH_SECONDS = 10.0
# How long the record of an end waits for an unreachable database after the time limit. The ledger has what was paid.
RECORD_SECONDS = 10.0
BUSY_SECONDS = 1.0
ANSWER_RETRIES: RetryPolicy = ANSWER_STEP["retry_policy"]
PAID_RETRIES: RetryPolicy = PAID_STEP["retry_policy"]

log = logging.getLogger(__name__)


class InlineGenerate:
    """Runs generations, embeddings and speech in this process. It bounds the paid calls in flight to each provider."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        temporal: temporalio.client.Client | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Build the parts. No connection is opened.

        Args:
            database: stays open when this is closed.
            settings: as a worker's: keys of the providers, policy, limits.
            temporal: starts the grading of sampled answers; None: they are not graded.
            metrics: default: nothing is counted.

        Raises:
            InvalidInput: the policy file cannot be read, or is invalid.
        """
        self._database, self._settings = database, settings
        self._backend = Backend(temporal, database, settings) if temporal else None
        # A turn of a phone call is read by the receiver of this process, as if a worker made it.
        self._sinks = Sinks(database, settings)
        self.parts = Parts(database, settings, metrics, sinks=self._sinks)
        self._tasks = Tasks()
        self._steps = _Steps(self.parts, self._tasks)
        self._embedding, self._speech = self.parts.embedding_step(), self.parts.speech_step()
        self._running: dict[str, _Running] = {}
        self._is_closed = False

    async def run(
        self,
        request: GenerateInput,
        key: str | None = None,
        *,
        time_limit: float = TIME_LIMIT_SECONDS,
        on_accepted: Callable[[], None] | None = None,
    ) -> GenerateResult:
        """Run one generation to its end, as `client.generate` does.

        It runs on if the caller is cancelled. Requests with one key share one run.

        Args:
            request: what to answer.
            key: the idempotency key; default: a new one.
            time_limit: in seconds. No wait for a rate limit, an outage or a retry ends later; the last request to a
                provider may take its own timeout longer. Default: 60.
            on_accepted: called when the key is known to be that of this request.

        Raises:
            Ending: it is closed, or closes.
            IdempotencyConflict: the key was used for a different request.
            InvalidInput, UnpricedModel: the request names a template or a model that does not exist.
            JobFailed: no provider answered within the time limit; `retry_after` is set if a provider asks for a wait.
        """
        check_names(self._settings, request)
        job = Job.of(request, workflow_id(request.workspace_id, key or uuid4().hex), datetime.now(UTC))
        running = self._running.get(job.workflow_id)
        self._check_open()
        if running is None:
            running = self._start(job, timedelta(seconds=time_limit), on_accepted)
        elif running.fingerprint != job.fingerprint:
            raise IdempotencyConflict(f"{job.workflow_id} was already used for a different request: use another key")
        elif on_accepted:
            on_accepted()
        return await asyncio.shield(running.task)

    def stream(
        self,
        request: GenerateInput,
        key: str | None = None,
        *,
        on_disconnect: OnDisconnect = "finish",
        offset: int | None = 0,
        time_limit: float = TIME_LIMIT_SECONDS,
    ) -> GenerateStream:
        """Run one generation, and read its answer while it is made: as `client.generate_stream`.

        Args:
            request: what to answer.
            key: the idempotency key; default: a new one.
            on_disconnect: whether the answer is finished when its readers leave, or its request is cancelled.
            offset: the number of deltas that the reader has already; None: it has all of them.
            time_limit: in seconds, as for `run`.
        """
        key = key or uuid4().hex
        stream_id = workflow_id(request.workspace_id, key)

        async def run(target: StreamTarget) -> GenerateResult:
            asked = request.model_copy(update={"stream": target})
            return await self.run(asked, key, time_limit=time_limit, on_accepted=stream.accept)

        stream = GenerateStream(
            ProcessReceiver(PROCESS_HUB),
            request.workspace_id,
            stream_id,
            run,
            on_disconnect=on_disconnect,
            offset=offset,
            is_held=True,
        )
        return stream

    async def embed(self, request: EmbeddingInput, key: str) -> EmbeddingResult:
        """Request vectors: one paid request, tried again as every paid step is.

        It runs on if the caller is cancelled. Requests with one key are one paid request.

        Args:
            request: what to embed.
            key: the idempotency key.

        Raises:
            Ending: it is closed, or closes.
            GenerationRefused: energy, budget, or a text that is too long.
            IdempotencyConflict: the key was used for a different request.
            JobFailed: the provider does not serve it; `retry_after` is set if it asks for a wait.
        """
        job = EmbeddingJob(input=request, key=key)
        return await self._one_call(partial(self._embedding.embed, job), job, TIME_LIMIT_SECONDS)

    async def speak(self, request: SpeechInput) -> Speech | None:
        """Have a voice say a text: one paid request. The same text, voice and settings are paid once.

        Where no voice answers in time, a recorded sentence with the same words is returned; None: there is none.

        Args:
            request: what to say.

        Raises:
            Ending: it is closed, or closes.
            GenerationRefused: energy or budget.
        """
        job = SpeechJob(input=request)
        try:
            async with asyncio.timeout(SPEECH_SECONDS):
                return await self._one_call(partial(self._speech.speak, job), job, SPEECH_SECONDS)
        except (JobFailed, TimeoutError) as error:
            log.warning("no voice answers: %s", error or type(error).__name__)
            return await asyncio.to_thread(clip_of, self._settings.speech_clips_dir, request.request.text)

    async def _one_call(self, work: Callable[[], Awaitable[R]], job: EmbeddingJob | SpeechJob, time_limit: float) -> R:
        """Run a job that is one paid request, tried again as every paid step is."""
        self._check_open()
        asked = job.input
        engine = InlineEngine(self._steps, job.id, datetime.now(UTC) + timedelta(seconds=time_limit))
        summary = f"{asked.provider.value} {asked.model}"
        try:
            return await asyncio.shield(self._tasks.start(engine.retried(work, asked.provider, summary, PAID_RETRIES)))
        except ApplicationError as error:
            if error.type in REFUSALS:
                raise GenerationRefused(Refusal(code=REFUSALS[error.type], message=error.message)) from None
            raise job_failure(error) from None

    async def turn(self, step: ComposeStep) -> TurnOutcome:
        """Answer a stored turn of a conversation, as its workflow does. It runs on if the caller is cancelled.

        Args:
            step: the turn.

        Raises:
            Ending: it is closed, or closes.
            JobFailed: the end of the turn could not be recorded.
        """
        self._check_open()
        job_id = turn_job_id(step.workspace_id, step.conversation_id, step.turn_id)
        engine = InlineEngine(self._steps, job_id, datetime.now(UTC) + timedelta(seconds=TIME_LIMIT_SECONDS))
        try:
            return await asyncio.shield(self._tasks.start(TurnRun(engine, step).outcome()))
        except ApplicationError as error:
            raise job_failure(error) from None

    def cancel(self, workspace_id: str, key: str) -> bool:
        """Cancel the generation that this process runs under a key; returns whether there is one.

        Its callers get `JobFailed` with the reason `Cancelled`. A paid call that was sent is settled nevertheless.
        """
        running = self._running.get(workflow_id(workspace_id, key))
        return running is not None and running.task.cancel()

    async def close(self, seconds: float | None = None) -> None:
        """Finish what runs, and close the connections to the providers.

        `seconds`: how long it may take; default: `settings.drain_seconds`.
        """
        self._is_closed = True
        left = await self._tasks.drain(self._settings.drain_seconds if seconds is None else seconds)
        if left:
            log.warning("%s tasks did not end in time; their requests end as lost when their leases expire", left)
        await self._sinks.close()
        await self.parts.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise Ending("this gateway ends: send the request to another one, or again", retry_after=BUSY_SECONDS)

    def _start(self, job: Job, time_limit: timedelta, on_accepted: Callable[[], None] | None) -> "_Running":
        task = self._tasks.start(self._generate(job, datetime.now(UTC) + time_limit, on_accepted))
        self._running[job.workflow_id] = running = _Running(job.fingerprint, task)
        task.add_done_callback(lambda _: self._running.pop(job.workflow_id))
        return running

    async def _generate(self, job: Job, deadline: datetime, on_accepted: Callable[[], None] | None) -> GenerateResult:
        run = GenerateRun(InlineEngine(self._steps, job.workflow_id, deadline), job, on_prepared=on_accepted)
        try:
            result = await run.result()
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            raise job_failure(error) from None
        if run.scoring is not None:
            self._tasks.start(self._start_scoring(run.scoring, job.input))
        return await with_stored_answer(self._database, job.input, result)

    async def _start_scoring(self, scoring: ScoreInput, request: GenerateInput) -> None:
        """Start `ScoreQuality`. Only a workflow can wait for the budget and the provider's queue."""
        if self._backend is None:
            log.info("quality is not scored: %s has no connection to Temporal", scoring.request_id)
            return
        start = WorkflowStart(
            workflow=SCORE_QUALITY,
            input=scoring,
            id=scoring_id(scoring.workspace_id, scoring.request_id),
            summary=f"{request.action} for {request.user_id}",
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        )
        try:
            await start_workflow(self._backend, scoring.workspace_id, start)
        except (WorkflowAlreadyStartedError, ParleyError) as problem:
            log.info("quality is not scored: %s", problem)


class InlineEngine:
    """The engine of one inline generation: steps run in this process, waits end before the deadline."""

    def __init__(self, steps: "_Steps", workflow_id: str, deadline: datetime) -> None:
        self._steps, self._workflow_id, self._deadline = steps, workflow_id, deadline

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, pause: timedelta) -> None:
        await asyncio.sleep(pause.total_seconds())

    def report_waiting(self, reason: str, pause: timedelta) -> None:
        log.info("%s waits %.0f s: %s", self._workflow_id, pause.total_seconds(), reason)

    def waits_until(self, limit: timedelta) -> datetime:
        """A wait that would end after the caller's time limit is not begun: the caller retries, or uses a workflow."""
        return min(self.now() + limit, self._deadline)

    async def decide(self, activity: Callable[[Any, S], Awaitable[R]], step: S, *, summary: str) -> R:
        work = partial(self._steps.free(activity), step)
        return await attempt(work, name=summary, seconds=max(self._seconds_left(), RECORD_SECONDS))

    async def run_step(
        self, activity: Callable[[Any, S], Awaitable[R]], step: S, candidate: Candidate, *, summary: str
    ) -> R:
        """Run a paid step with the retries of the workflow."""
        work = partial(self._steps.paid(activity), step)
        return await self.retried(work, candidate.provider, summary, ANSWER_RETRIES)

    async def retried(
        self, work: Callable[[], Awaitable[R]], provider: Provider, summary: str, retries: RetryPolicy
    ) -> R:
        """Run paid work in the provider's slots, with retries before the deadline."""
        pause, tries = retries.initial_interval, 1
        while True:
            try:
                return await self._try(work, provider, summary)
            except ApplicationError as error:
                wait = error.next_retry_delay or pause
                if not _is_retried(error, tries, retries) or self.now() + wait > self._deadline:
                    raise
                self.report_waiting(error.message, wait)
                await self.sleep(wait)
            pause, tries = pause * retries.backoff_coefficient, tries + 1

    async def _try(self, work: Callable[[], Awaitable[R]], provider: Provider, summary: str) -> R:
        """One attempt. After a cancellation a call that was sent is still settled, by a task that nothing waits for."""
        left = self._seconds_left()
        task = self._steps.start(provider, partial(attempt, work, name=summary, seconds=left), left)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    def _seconds_left(self) -> float:
        return (self._deadline - self.now()).total_seconds()


class _Running(NamedTuple):
    fingerprint: str
    task: asyncio.Task[GenerateResult]


class Tasks:
    """Tasks that outlive their callers."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def drain(self, seconds: float) -> int:
        """Wait for all tasks, and those that they start; returns how many did not end in time."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._tasks and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        return len(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Its caller may have left: then nothing else reads the error, and the event loop would report it.
        if not task.cancelled():
            task.exception()


class _Steps:
    """The steps of `Generate` without their activities, with a bound for each provider."""

    def __init__(self, parts: Parts, tasks: Tasks) -> None:
        self._paid_steps, self._tasks = parts.generate_paid_steps(), tasks
        free = (parts.generate_decisions(), parts.conversation_steps())
        self._free = {type(one).__name__: one for one in free}
        self._most = parts.settings.paid_calls_in_flight
        self._slots: Mapping[Provider, asyncio.Semaphore] = {
            provider: asyncio.Semaphore(self._most) for provider in (*CHAT_PROVIDERS, Provider.ELEVENLABS)
        }

    def free(self, activity: Callable[[Any, S], Awaitable[R]]) -> Callable[[S], Awaitable[R]]:
        """The code of a free activity, of the part whose method it is."""
        return partial(without_boundary(activity), self._free[activity.__qualname__.partition(".")[0]])

    def paid(self, activity: Callable[[Any, S], Awaitable[R]]) -> Callable[[S], Awaitable[R]]:
        return partial(without_boundary(activity), self._paid_steps)

    def start(self, provider: Provider, work: Callable[[], Awaitable[R]], seconds: float) -> asyncio.Task[R]:
        """Start work once the provider has a free slot, within so many seconds."""
        return self._tasks.start(self._in_slot(provider, work, seconds))

    async def _in_slot(self, provider: Provider, work: Callable[[], Awaitable[R]], seconds: float) -> R:
        slots = self._slots[provider]
        try:
            async with asyncio.timeout(seconds):
                await slots.acquire()
        except TimeoutError:
            busy = f"all {self._most} paid calls that this process may have in flight are in use"
            raise as_application_error(RateLimited(provider.value, busy, retry_after=BUSY_SECONDS)) from None
        try:
            return await work()
        finally:
            slots.release()


def _is_retried(error: ApplicationError, tries: int, retries: RetryPolicy) -> bool:
    refused = error.non_retryable or error.type in (retries.non_retryable_error_types or ())
    return not refused and tries < retries.maximum_attempts
