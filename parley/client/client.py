"""The typed client of one workspace: start, follow, cancel and read Parley's jobs from any service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, Unpack
from uuid import uuid4

from temporalio.client import WorkflowHandle

from parley.client.attempts import JobAttempts, list_attempts
from parley.client.auto_analyze import (
    AutoAnalyzeHandle,
    AutoAnalyzeOptions,
    auto_analyze_input,
    continued,
    estimate_run,
    labelled_sessions,
    start_auto_analyze,
    workload,
)
from parley.client.backend import Backend, describe_workflow, find_workflow, status_of
from parley.client.configuration import WorkspaceConfiguration
from parley.client.conversation import ConversationHandle
from parley.client.conversations import ListedConversation, find_conversation, list_conversations
from parley.client.gateway_keys import GatewayKeys
from parley.client.generate import (
    GenerateOptions,
    Messages,
    check_names,
    generate,
    generate_input,
    generate_stream,
)
from parley.client.generation import GenerationHandle, start_generation
from parley.client.housekeeping import Housekeeping, check_health
from parley.client.importing import Imported, ReadingOptions, import_chats, no_progress
from parley.client.knowledge import Knowledge
from parley.client.listing import JobPage, JobSummary, describe_job, job_page, list_jobs
from parley.client.memory import UserMemory
from parley.client.optimizing import Optimized, optimize
from parley.client.phone import Phone
from parley.client.reading import check_conversation_id, check_workspace_id
from parley.client.reports import Reports
from parley.client.run_comparison import EXAMPLES
from parley.client.run_pairs import compare_runs, fork, label_drift
from parley.client.session_analysis import AnalysisHandle, HearingOptions, start_analysis
from parley.client.streaming import GenerateStream, OnDisconnect
from parley.domain.auto_analyze.comparison import RunComparison
from parley.domain.auto_analyze.contract import WORKFLOW as AUTO_ANALYZE
from parley.domain.auto_analyze.contract import ExportedSession
from parley.domain.auto_analyze.drift import LabelDrift
from parley.domain.auto_analyze.estimate import RunEstimate
from parley.domain.budgets import CapView, Period
from parley.domain.chat_formats import ChatFormat, ChatRole
from parley.domain.chat_formats.drafts import DEFAULT_SESSION_GAP_HOURS
from parley.domain.coaching.rubric import DEFAULT_RUBRIC, Rubric, built_in_rubrics
from parley.domain.costs import BilledAttempt, Correction, Costs, Disagreement
from parley.domain.errors import InvalidInput, NotFound
from parley.domain.generate.contract import DEFAULT_ACTION, GenerateInput, GenerateResult, workflow_id
from parley.domain.health import HealthReport
from parley.domain.hearing import Transcript
from parley.domain.model import Model
from parley.domain.reports import Feedback
from parley.domain.requests import Provider
from parley.domain.session import Session
from parley.domain.session_analysis import (
    DEFAULT_TRANSCRIPT_TOKENS,
    DEFAULT_VOICE_DEADLINE_SECONDS,
    DEFAULT_WAIT_LIMIT_SECONDS,
)
from parley.domain.session_analysis import WORKFLOW as SESSION_ANALYSIS
from parley.settings import Settings
from parley.storage import budgets, corrections, energy, forgetting, generations, rubrics, usage
from parley.storage.audit import audit, audit_billed
from parley.storage.driver import fetch

# What the ledger's columns can hold.
MAX_ENERGY = 2**31 - 1
MAX_USD = 10**12

HANDLES = {SESSION_ANALYSIS: AnalysisHandle, AUTO_ANALYZE: AutoAnalyzeHandle}


def handle_of(
    backend: Backend, workspace_id: str, kind: str, job_id: str, job_key: str
) -> AnalysisHandle | AutoAnalyzeHandle:
    """The handle of a job that is known to be the workspace's.

    Raises:
        InvalidInput: jobs of this kind have no handle.
    """
    handle = HANDLES.get(kind)
    if handle is None:
        kinds = " or ".join(HANDLES)
        raise InvalidInput(f"is a {kind}: its answer comes back under its key; name a job of {kinds}", where=job_id)
    return handle(backend, workspace_id, job_id, job_key)


class EnergyBalance(Model):
    """A user's energy: `available` is `granted` minus `charged` minus `reserved`."""

    tier: str
    granted: int
    charged: int
    reserved: int
    available: int


class Client:
    """Parley for one workspace. It neither reads nor starts anything of another workspace.

    Open one with `Client.connect(workspace_id=...)`, or take many from one `Backend`.
    """

    def __init__(self, backend: Backend, workspace_id: str) -> None:
        check_workspace_id(workspace_id)
        self._backend, self._owns_backend = backend, False
        self.workspace_id = workspace_id
        self.temporal, self.database, self.settings = backend.temporal, backend.database, backend.settings

    @classmethod
    async def connect(
        cls,
        *,
        workspace_id: str = "default",
        settings: Settings | None = None,
        temporal_address: str | None = None,
    ) -> Self:
        """Connect for one workspace. For several workspaces in one process use `Backend`.

        Without DATABASE_URL the addresses and keys of the stack that `parley up` runs on this machine are used.

        Args:
            workspace_id: the workspace that the client reads and writes: 1 to 200 characters without a slash.
            settings: default: read from the environment.
            temporal_address: `host:port`; default: TEMPORAL_ADDRESS, or a profile of Temporal's TOML configuration.

        Raises:
            InvalidInput: DATABASE_URL or PARLEY_CODEC_KEYS is missing or wrong, or the workspace id is not valid.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        check_workspace_id(workspace_id)
        client = cls(await Backend.connect(settings, temporal_address), workspace_id)
        client._owns_backend = True
        return client

    async def close(self) -> None:
        """Close the connections that `Client.connect` opened. Those of a shared `Backend` stay open."""
        if self._owns_backend:
            await self._backend.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Jobs

    async def generate(
        self,
        messages: Messages,
        *,
        user_id: str,
        action: str = DEFAULT_ACTION,
        key: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResult:
        """Answer one request with an LLM, within the budget, and wait for the answer.

        Args:
            messages: a text, or messages with a role and a content.
            user_id: the user who pays with energy.
            action: the kind of request, which decides its price and policy; default `ai_message`.
            key: an idempotency key: the same key is the same request, answered and paid once. Default: a new one.
            options: see `GenerateOptions`, for example `model`, `max_tokens`, `response_schema`, `cache`.

        Returns:
            The answer. A refusal (energy, budget, tier) is a result with `success` False, not an exception.

        Raises:
            InvalidInput: an argument is not valid; the error names the field, and nothing was started.
            UnpricedModel: no price is known for `model`; nothing was started.
            IdempotencyConflict: `key` was used for a different request.
            JobFailed: no provider answered; the message lists the attempts.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        return await generate(self._backend, self._request(messages, user_id, action, options), key)

    def generate_stream(
        self,
        messages: Messages,
        *,
        user_id: str,
        action: str = DEFAULT_ACTION,
        key: str | None = None,
        on_disconnect: OnDisconnect = "finish",
        **options: Unpack[GenerateOptions],
    ) -> GenerateStream:
        """Answer one request as `generate` does, and read the answer while it is made.

        Write `async with client.generate_stream(...) as stream`, iterate over `stream` for the deltas, and take
        `await stream.result()`. A stream that breaks after text was delivered is continued: a reader gets each delta
        once. Tool calls, and an answer with a `response_schema`, come when they are complete.

        Args:
            messages: a text, or messages with a role and a content.
            user_id: the user who pays with energy.
            action: the kind of request, which decides its price and policy; default `ai_message`.
            key: an idempotency key: the same key is the same request, answered and paid once. Default: a new one.
            on_disconnect: what happens when the stream is left before its end. `finish`, the default: the answer is
                completed and stored. `cancel`: the request to the provider is cancelled, and what was made of the
                answer is the result, with the finish reason `cancelled`.
            options: see `GenerateOptions`, for example `model`, `max_tokens`, `tools`.

        Returns:
            The stream, which has not begun.

        Raises:
            InvalidInput: an argument is not valid; the error names the field, and nothing was started.
            UnpricedModel: no price is known for `model`; nothing was started.
        """
        request = self._request(messages, user_id, action, options)
        is_shared, key = key is not None, key or uuid4().hex
        return generate_stream(self._backend, request, key, on_disconnect, is_shared=is_shared)

    def _request(self, messages: Messages, user_id: str, action: str, options: GenerateOptions) -> GenerateInput:
        request = generate_input(self.workspace_id, messages, user_id=user_id, action=action, **options)
        check_names(self.settings, request)
        return request

    async def start_generation(
        self,
        messages: Messages,
        *,
        user_id: str,
        action: str = DEFAULT_ACTION,
        key: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerationHandle:
        """Start what `generate` does, and return at once.

        Args:
            messages: a text, or messages with a role and a content.
            user_id: the user who pays with energy.
            action: the kind of request, which decides its price and policy; default `ai_message`.
            key: an idempotency key: the same key is the same request, answered and paid once. Default: a new one.
            options: see `GenerateOptions`.

        Returns:
            The generation's handle.

        Raises:
            InvalidInput: an argument is not valid; the error names the field, and nothing was started.
            UnpricedModel: no price is known for `model`; nothing was started.
            IdempotencyConflict: `key` was used for a different request.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        request = self._request(messages, user_id, action, options)
        job_id = workflow_id(self.workspace_id, key or uuid4().hex)
        await start_generation(self._backend, request, job_id)
        return self.generation(job_id)

    async def optimize(
        self,
        messages: Messages,
        *,
        user_id: str,
        budget_tokens: int,
        action: str = DEFAULT_ACTION,
        provider: Provider | None = None,
        model: str | None = None,
    ) -> Optimized:
        """Bring a conversation's history within a number of tokens: a paid summary replaces its earlier part.

        Args:
            messages: messages with a role and a content.
            user_id: the user who pays with energy.
            budget_tokens: the most tokens of the history, about: with tool calls, and 1,500 for each image. The last
                message and the system prompts are not changed.
            action: the kind of request of the summary; default `ai_message`.
            provider: the first to ask for the summary; default: the policy's.
            model: the first to ask for the summary; default: the policy's.

        Returns:
            The history and what was saved. The same history within the same budget is summarized and paid once.

        Raises:
            InvalidInput: an argument is not valid, or what must not change has more tokens than the budget.
            UnpricedModel: no price is known for `model`.
            JobFailed: no provider answered.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        request = self._request(messages, user_id, action, {"provider": provider, "model": model})
        return await optimize(self._backend, request, budget_tokens)

    def generation(self, job_id: str) -> GenerationHandle:
        """The handle of a generation. It is not looked up yet.

        Args:
            job_id: the `id` of its handle.
        """
        return GenerationHandle(self._backend, self.workspace_id, job_id)

    def conversation(self, conversation_id: str, *, user_id: str) -> ConversationHandle:
        """The handle of a conversation. It is not looked up yet; its first turn creates it.

        Args:
            conversation_id: 1 to 200 characters without a slash.
            user_id: whose conversation it is, and who pays with energy.

        Raises:
            InvalidInput: the id is not valid.
        """
        check_conversation_id(conversation_id)
        return ConversationHandle(self._backend, self.workspace_id, conversation_id, user_id)

    async def find_conversation(self, conversation_id: str) -> ConversationHandle:
        """The handle of a conversation that exists, of any user.

        Raises:
            InvalidInput: the id is not one of a conversation.
            NotFound: the workspace has no such conversation.
            Unreachable: PostgreSQL does not answer.
        """
        return await find_conversation(self._backend, self.workspace_id, conversation_id)

    async def conversations(self, *, before: datetime | None = None, limit: int = 50) -> list[ListedConversation]:
        """The conversations of all users, those with the newest turns first.

        Args:
            before: only those whose last turn was earlier, for a next page; default: all.
            limit: the most to return; default 50.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        return await list_conversations(self._backend, self.workspace_id, before=before, limit=limit)

    async def analyze(
        self,
        session: Session | Transcript | dict[str, object] | None = None,
        *,
        audio: bytes | None = None,
        audio_url: str | None = None,
        provider: Provider | None = None,
        model: str | None = None,
        wait: bool = False,
        wait_limit_seconds: int = DEFAULT_WAIT_LIMIT_SECONDS,
        voice_deadline_seconds: float = DEFAULT_VOICE_DEADLINE_SECONDS,
        transcript_tokens: int = DEFAULT_TRANSCRIPT_TOKENS,
        run_name: str = "",
        rubric: str | Rubric | dict[str, object] = DEFAULT_RUBRIC,
        **heard: Unpack[HearingOptions],
    ) -> AnalysisHandle:
        """Store a session and start its analysis. Starting the same content again returns the running job.

        A recording alone is heard first: its words become the session. Naming another user for it pays for the
        analysis only, not for hearing it again.

        Args:
            session: the session, its JSON as parsed, or a transcript; default: none, and the recording is heard.
            audio: the recording's bytes; default: none, and voice metrics come from the transcript.
            audio_url: the https URL of the recording, which is fetched before anything is stored; default: none.
            provider: call this provider only; default: the provider that ranks first, then the next.
            model: call this model only; without `provider`, of the first provider that has a price for it.
            wait: while every provider is down or limits the rate, give no result before a provider answers, and fail
                after `wait_limit_seconds`; default: give a rule-based result, marked as provisional, at once, and amend
                it when a provider is available: `result(final=True)` waits for that.
            wait_limit_seconds: the longest wait, or the longest time until a provisional result is final, in seconds;
                default: one day.
            voice_deadline_seconds: how long the strategy `hybrid` waits for what is measured on the recording, in
                seconds; default: 10. What is measured later amends the result.
            transcript_tokens: the most tokens of the transcript that the strategy `cost_optimized` sends to the model;
                default: 3000.
            run_name: separates two analyses of the same content.
            rubric: by which skills the session is rated: `sales` (the default), `support`, `interview`, `teaching`, the
                name of a rubric that the workspace has stored, or a rubric of its own, which is stored.
            heard: how a recording alone or a transcript becomes a session; see `HearingOptions`.

        Returns:
            The job's handle, at once.

        Raises:
            InvalidInput: the session, recording or rubric is not valid; the error names the field, and nothing is
                stored.
            UnpricedModel: no price is known for `model`; nothing is stored.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        return await start_analysis(
            self._backend,
            self.workspace_id,
            session,
            heard=heard,
            audio=audio,
            audio_url=audio_url,
            provider=provider,
            model=model,
            wait=wait,
            wait_limit_seconds=wait_limit_seconds,
            voice_deadline_seconds=voice_deadline_seconds,
            transcript_tokens=transcript_tokens,
            run_name=run_name,
            rubric=rubric,
        )

    async def rubrics(self) -> list[Rubric]:
        """The rubrics by which sessions can be rated: Parley's, then the workspace's own, each in its newest version.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self.database.reads() as tx:
            return [*built_in_rubrics().values(), *await rubrics.stored(tx, self.workspace_id)]

    async def import_chats(
        self,
        path: str | Path,
        *,
        format: ChatFormat | None = None,
        roles: Mapping[str, ChatRole] | None = None,
        session_gap_hours: float = DEFAULT_SESSION_GAP_HOURS,
        skip_invalid: bool = False,
        on_progress: Callable[[int], None] = no_progress,
    ) -> Imported:
        """Import chat sessions from a file, a zip archive or a folder: all of it, or nothing.

        Args:
            path: JSONL or CSV, or an export of another product (docs/chat-formats.md).
            format: the format of all files; default: that of each is found by its content.
            roles: `user`, `agent` or `bot` by the names of people, for formats that have names only.
            session_gap_hours: the silence that ends a session, for formats without sessions; default 24.
            skip_invalid: leave out invalid lines and list them; default: refuse the file.
            on_progress: called with the number of sessions read so far.

        Returns:
            The dataset's id and size, and the lines that were left out.

        Raises:
            InvalidInput: a line is not valid; the error names file, line and field, and nothing is stored.
            Unreachable: PostgreSQL does not answer.
        """
        return await import_chats(
            self.database,
            self.workspace_id,
            Path(path),
            format=format,
            roles=roles,
            session_gap_hours=session_gap_hours,
            skip_invalid=skip_invalid,
            on_progress=on_progress,
        )

    async def auto_analyze(
        self, dataset_id: str, *, user_id: str, run_name: str = "", **options: Unpack[AutoAnalyzeOptions]
    ) -> AutoAnalyzeHandle:
        """Label an imported dataset. Starting it again returns the running job.

        Args:
            dataset_id: from `import_chats`.
            user_id: the user who pays with energy.
            run_name: separates two runs on the same dataset.
            options: see `AutoAnalyzeOptions`, for example `streams`, `model`, `budget_usd`.

        Returns:
            The job's handle, at once.

        Raises:
            InvalidInput: an option is not valid; the error names the field.
            NotFound: this workspace has no such dataset.
            UnpricedModel: no price is known for `model`.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        return await start_auto_analyze(
            self._backend, self.workspace_id, dataset_id, user_id=user_id, run_name=run_name, **options
        )

    def check_auto_analyze_options(self, *, user_id: str, **options: Unpack[AutoAnalyzeOptions]) -> None:
        """Check the options of `auto_analyze` before there is a dataset.

        Args:
            user_id: the user who pays with energy.
            options: see `AutoAnalyzeOptions`.

        Raises:
            InvalidInput: an option is not valid; the error names the field.
            UnpricedModel: no price is known for `model`.
        """
        auto_analyze_input(self.settings, self.workspace_id, "", user_id=user_id, **options)

    async def estimate_auto_analyze(
        self,
        source: Imported | Path,
        reading: ReadingOptions | None = None,
        *,
        user_id: str,
        **options: Unpack[AutoAnalyzeOptions],
    ) -> RunEstimate | None:
        """What `auto_analyze` will probably take: requests, tokens, USD and minutes by phase.

        It reserves nothing, and stores nothing; `budget_usd` limits the cost of a run. A file is read for it; of a
        dataset only the totals are, as if all its sessions had the same size.

        Args:
            source: a file of chat sessions that need not be imported, or a dataset from `import_chats`.
            reading: how a file is read: the options of `import_chats`. Default: as `import_chats` reads it.
            user_id: the user who pays with energy.
            options: those of `auto_analyze`.

        Returns:
            The estimate for the named model, or for the cheapest of the settings; None where none has a price.
            Minutes are None where the workspace has no reply of the model.

        Raises:
            InvalidInput: an option or a line of the file is not valid; the error names the field.
            UnpricedModel: no price is known for `model`.
            Unreachable: PostgreSQL does not answer.
        """
        dataset_id = "" if isinstance(source, Path) else source.dataset_id
        job = auto_analyze_input(self.settings, self.workspace_id, dataset_id, user_id=user_id, **options)
        job = await continued(self._backend, job, options.get("since_analysis"))
        labels = options.get("labels")
        work = await workload(self._backend, job, source, reading or {}, len(labels.labels) if labels else 0)
        return await estimate_run(self._backend, job, work)

    async def fork_auto_analyze(
        self,
        job_id: str,
        *,
        provider: Provider | None = None,
        model: str | None = None,
        instructions: str | None = None,
        budget_usd: Decimal | None = None,
        run_name: str = "",
    ) -> AutoAnalyzeHandle:
        """Label the sessions of a completed run again with another model or prompt: same options, sample and batches.

        It is a job of its own, with its own ledger. `compare_runs` says what differs when it has ended.

        Args:
            job_id: the id or key of the completed run.
            provider: call this provider only. Default: the first one that has a price for `model`.
            model: call this model only. Default: the model that the settings have for `provider`; without one, as the
                first run.
            instructions: what is added to the prompts; empty for nothing. Default: as the first run.
            budget_usd: the most that it may cost, in USD. Default: as the first run.
            run_name: separates two forks with one model and the same instructions. Default: made from the run and
                these.

        Returns:
            The job's handle, at once.

        Raises:
            InvalidInput: no model, provider or instructions are named, or the run has not completed.
            NotFound: the workspace has no such run.
            UnpricedModel: no price is known for `model`.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        return await fork(
            self._backend,
            self.workspace_id,
            job_id,
            provider=provider,
            model=model,
            instructions=instructions,
            budget_usd=budget_usd,
            run_name=run_name,
        )

    async def compare_runs(self, first: str, second: str, *, examples: int = EXAMPLES) -> RunComparison:
        """Compare two labelling runs on one dataset: cost, how alike their intents are, and what differs.

        Args:
            first: the id or key of a run.
            second: the id or key of another one.
            examples: the most sessions to show whose intents do not match; default 5.

        Raises:
            InvalidInput: the runs have different datasets.
            NotFound: the workspace has no such run.
            Unreachable: PostgreSQL does not answer.
        """
        return await compare_runs(self._backend, self.workspace_id, first, second, examples)

    async def label_drift(self, earlier: str, later: str) -> LabelDrift:
        """How the labels of a later run differ from those of an earlier one, on any two datasets.

        Args:
            earlier: the id or key of a run.
            later: the id or key of another one.

        Raises:
            NotFound: the workspace has no such run.
            Unreachable: PostgreSQL does not answer.
        """
        return await label_drift(self._backend, self.workspace_id, earlier, later)

    async def jobs(
        self, *, kind: str | None = None, status: str | None = None, job_id: str | None = None, limit: int = 50
    ) -> list[JobSummary]:
        """The jobs of this workspace with status, cost and reason, the newest first.

        An inline generation is listed when it has ended.

        Args:
            kind: `SessionAnalysis`, `AutoAnalyze` or `Generate`; default: all.
            status: `running`, `completed`, `refused`, `failed`, `cancelled`, `terminated` or `timed_out`; default: all.
            job_id: only the jobs under this id; the same content without a `run_name` has one id. Default: all.
            limit: the most jobs to return; default 50.

        Raises:
            InvalidInput: `kind` or `status` is not known.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        return await list_jobs(self._backend, self.workspace_id, kind=kind, status=status, job_id=job_id, limit=limit)

    async def job_page(
        self, *, kind: str | None = None, status: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> JobPage:
        """A page of `jobs`, the newest first. The first page has the running generations in addition.

        Args:
            kind: as for `jobs`; default: all.
            status: as for `jobs`; default: all.
            limit: the most jobs of the page; default 50.
            cursor: `next` of the page before; default: the first page.

        Raises:
            InvalidInput: an argument is not valid.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        return await job_page(self._backend, self.workspace_id, kind=kind, status=status, limit=limit, cursor=cursor)

    async def job(self, job_id: str) -> AnalysisHandle | AutoAnalyzeHandle:
        """The handle of a job that any process started.

        Args:
            job_id: the `id` of its handle, for the latest job under it, or the `job_key` of exactly one.

        Raises:
            NotFound: this workspace has no such job.
            InvalidInput: it is not a job with a handle, for example a generation.
            Unreachable: Temporal does not answer.
        """
        found = await describe_job(self._backend, self.workspace_id, job_id)
        return handle_of(self._backend, self.workspace_id, found.kind, found.id, found.job_key)

    async def attempts(self, job_key: str, *, limit: int = 200) -> JobAttempts:
        """The attempts of a job at providers: when each began and ended, what it cost, and why it failed.

        Args:
            job_key: of `jobs`, or of its handle.
            limit: the most attempts to return, the latest ones; default 200.

        Returns:
            The attempts, the oldest first; none for an unknown job.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        return await list_attempts(self._backend, self.workspace_id, job_key, limit)

    async def status(self, job_id: str) -> str:
        """Temporal's status of a job.

        Returns:
            `running`, `completed`, `failed`, `cancelled`, `terminated` or `timed_out`.

        Raises:
            NotFound: this workspace has no such job.
            Unreachable: Temporal does not answer.
        """
        return status_of(await describe_workflow(self._backend, self.workspace_id, job_id))

    async def workflow(self, job_id: str, job_key: str | None = None) -> WorkflowHandle[Any, Any]:
        """Temporal's own handle of a job.

        Args:
            job_id: the `id` of its handle.
            job_key: exactly this job; default: the latest under the id.

        Raises:
            NotFound: this workspace has no such job.
            Unreachable: Temporal does not answer.
        """
        return await find_workflow(self._backend, self.workspace_id, job_id, job_key)

    def labelled_sessions(self, job_id: str) -> AsyncIterator[ExportedSession]:
        """Every session of a labelling run in the order of its file, labelled or not yet.

        Args:
            job_id: the `id` or `job_key` of its handle.

        Raises:
            NotFound: this workspace has no such job; raised by the first step of the iteration.
        """
        return labelled_sessions(self._backend, self.workspace_id, job_id)

    # Reports and configuration

    @property
    def reports(self) -> Reports:
        """The costs and the quality of this workspace's AI work."""
        return Reports(self._backend, self.workspace_id)

    @property
    def configuration(self) -> WorkspaceConfiguration:
        """What this workspace sets for itself and for its users."""
        return WorkspaceConfiguration(self._backend, self.workspace_id)

    @property
    def gateway_keys(self) -> GatewayKeys:
        """The keys with which programs reach this workspace through the gateway."""
        return GatewayKeys(self._backend, self.workspace_id)

    async def forget_user(self, user_id: str) -> dict[str, int]:
        """Remove what a user said and was answered: memories, conversations, replies, cached answers, summaries,
        streams, sessions, imported chats and settings. What it cost stays: usage, energy and the ledger do not change.

        Stored long prompts of a `Generate` go with the purge, and the histories of Temporal with its retention. An
        answer that is being made is not stopped: cancel the user's jobs first.

        Args:
            user_id: the user.

        Returns:
            How many rows were deleted or emptied, by table.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self.database.transaction() as tx:
            return await forgetting.forget_user(tx, self.workspace_id, user_id)

    @property
    def memory(self) -> UserMemory:
        """What is remembered of this workspace's users."""
        return UserMemory(self._backend, self.workspace_id)

    @property
    def phone(self) -> Phone:
        """The phone numbers and phone calls of this workspace."""
        return Phone(self._backend, self.workspace_id)

    @property
    def knowledge(self) -> Knowledge:
        """The documents that this workspace's conversations are answered from."""
        return Knowledge(self._backend, self.workspace_id)

    @property
    def housekeeping(self) -> Housekeeping:
        """The events and alerts that the scheduled jobs leave for this workspace."""
        return Housekeeping(self._backend, self.workspace_id)

    async def health(self) -> HealthReport:
        """Whether each provider answers, by a free request from its own workers with this workspace's keys.

        Raises:
            JobFailed: the check ended without a result.
            Unreachable: Temporal does not answer, or no worker answers within 25 seconds.
        """
        return await check_health(self._backend, self.workspace_id)

    # Money and energy

    async def costs(self, *, user_id: str | None = None, since: datetime | None = None) -> Costs:
        """What this workspace spent, and what its users were charged.

        Args:
            user_id: only this user's; default: all users.
            since: an aware time; default: from the beginning.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self.database.transaction() as tx:
            return await usage.costs(tx, self.workspace_id, user_id=user_id, since=since)

    async def audit(self, billed: Sequence[BilledAttempt] | None = None) -> list[Disagreement]:
        """Check this workspace's ledger.

        Args:
            billed: also compare with a provider's own list; default: the ledger alone.

        Returns:
            Where the ledger contradicts itself or the list; empty when it does not.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self.database.transaction(bulk=True) as tx:
            found = await audit(tx, self.workspace_id)
            return found if billed is None else found + await audit_billed(tx, self.workspace_id, billed)

    async def reconcile(
        self, billed: Sequence[BilledAttempt], *, complete_until: datetime | None = None, dry_run: bool = False
    ) -> list[Correction]:
        """Confirm uncertain costs by a provider's own list. A repetition finds nothing more to correct.

        Args:
            billed: the list, with one entry per attempt.
            complete_until: an aware time. From the first attempt in the list until then, an attempt of the same
                provider that is not in the list was not billed. Default: such an attempt stays uncertain.
            dry_run: only return what would be corrected; default False.

        Returns:
            The corrections, in the order in which the attempts were made.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self.database.transaction(bulk=True) as tx:
            found = await corrections.find(tx, self.workspace_id, billed, complete_until)
        return found if dry_run else [one for one in found if await self._corrected(one)]

    async def _corrected(self, correction: Correction) -> bool:
        # A transaction each: a paid call takes the lock of its request before that of the day, which all share.
        async with self.database.transaction() as tx:
            return await corrections.apply(tx, self.workspace_id, correction)

    async def feedback(self, request_id: str, feedback: Feedback | str) -> None:
        """Rate an answer; a later rating replaces an earlier one.

        Args:
            request_id: `meta.request_id` of the answer.
            feedback: `good` or `bad`.

        Raises:
            InvalidInput: `feedback` is neither.
            NotFound: this workspace has no such request.
            Unreachable: PostgreSQL does not answer.
        """
        if feedback not in list(Feedback):
            raise InvalidInput(f"must be good or bad; got {feedback!r}", where="feedback")
        async with self.database.transaction() as tx:
            await generations.rate(tx, self.workspace_id, request_id, Feedback(feedback))

    async def caps(self) -> list[CapView]:
        """The spending caps of this workspace per day, ISO week and month (UTC), and what counts against them now.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self.database.transaction() as tx:
            return await fetch(tx, budgets.caps(self.workspace_id))

    async def set_cap(self, period: Period, cap_usd: Decimal | None) -> None:
        """Limit the spending of each period from now on.

        Args:
            period: the day, the ISO week or the month, in UTC.
            cap_usd: the most that may be spent in it, in USD; None removes the cap.

        Raises:
            InvalidInput: the cap is negative, not a number, or larger than the ledger can store.
            Unreachable: PostgreSQL does not answer.
        """
        if cap_usd is not None and not (cap_usd.is_finite() and 0 <= cap_usd < MAX_USD):
            raise InvalidInput(f"must be an amount in USD from 0 to below {MAX_USD:,}; got {cap_usd}", where="cap")
        async with self.database.transaction() as tx:
            await budgets.set_cap(tx, self.workspace_id, period, cap_usd)

    async def energy(self, user_id: str) -> EnergyBalance:
        """A user's energy.

        Raises:
            NotFound: this workspace has no such user.
            Unreachable: PostgreSQL does not answer.
        """
        async with self.database.transaction() as tx:
            account = await energy.account(tx, self.workspace_id, user_id)
        if account is None:
            raise NotFound(f"workspace {self.workspace_id!r} has no user {user_id!r}")
        return EnergyBalance(
            **account.model_dump(include={"tier", "granted", "charged", "reserved"}),
            available=energy.available(account),
        )

    async def grant_energy(self, user_id: str, amount: int, *, key: str) -> bool:
        """Grant energy to a user, once per key.

        Args:
            user_id: created when unknown.
            amount: a positive number.
            key: an idempotency key.

        Returns:
            Whether this call granted it; False when the key was used before.

        Raises:
            InvalidInput: `amount` is not positive, or the user would have more energy than an account can hold.
            Unreachable: PostgreSQL does not answer.
        """
        if amount <= 0:
            raise InvalidInput(f"must be positive, for example 50; got {amount}", where="amount")
        async with self.database.transaction() as tx:
            account = await energy.open_account(
                tx, self.workspace_id, user_id, starting_energy=self.settings.starting_energy
            )
            if account.granted + amount > MAX_ENERGY:
                most = MAX_ENERGY - account.granted
                raise InvalidInput(f"must be at most {most:,}, which fills the account; got {amount:,}", where="amount")
            return await energy.grant(tx, self.workspace_id, user_id, amount, key=key)

    async def set_tier(self, user_id: str, tier: str) -> None:
        """Move a user to a tier.

        Args:
            user_id: created when unknown.
            tier: a tier of the policy.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self.database.transaction() as tx:
            await energy.open_account(tx, self.workspace_id, user_id, starting_energy=self.settings.starting_energy)
            await energy.set_tier(tx, self.workspace_id, user_id, tier)
