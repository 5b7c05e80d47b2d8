"""The typed client: start, watch, cancel and read Parley's jobs from any service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import temporalio.client
from pydantic import SecretStr, ValidationError
from temporalio.client import WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from parley import visibility
from parley.client.configuration import WorkspaceConfiguration
from parley.client.generating import Messages, build, generate
from parley.client.health import health
from parley.client.housekeeping import Housekeeping
from parley.client.importing import Imported, import_chats
from parley.client.jobs import AnalysisHandle, AnalysisReport, AutoAnalyzeHandle, AutoAnalyzeReport, ProgressT
from parley.client.reading import first_problem, parse_session, recording_seconds
from parley.client.reports import Reports
from parley.connection import connect
from parley.domain.auto_analyze.contract import WORKFLOW as AUTO_ANALYZE
from parley.domain.auto_analyze.contract import AutoAnalyzeInput, DiscoveryTerms, ExportedSession, Statistics
from parley.domain.auto_analyze.contract import workflow_id as auto_analyze_id
from parley.domain.budgets import CapView, Period
from parley.domain.costs import BilledAttempt, Costs, Disagreement
from parley.domain.errors import InvalidInput, NotFound, UnpricedModel, Unreachable
from parley.domain.generate.contract import DEFAULT_ACTION, GenerateResult
from parley.domain.health import HealthReport
from parley.domain.model import Model
from parley.domain.pricing import ConfiguredRates, rates_for
from parley.domain.queues import WORKFLOWS
from parley.domain.reports import Feedback
from parley.domain.requests import Provider
from parley.domain.session import Session
from parley.domain.session_analysis import (
    DEFAULT_PATIENCE_SECONDS,
    WORKFLOW,
    Analysis,
    SessionAnalysisInput,
    workflow_id,
)
from parley.settings import Settings
from parley.stack_state import running_stack
from parley.storage import analyses, budgets, energy, generations, usage
from parley.storage import auto_analyze as runs
from parley.storage.audit import audit, audit_billed
from parley.storage.database import Database
from parley.storage.datasets import load_dataset
from parley.storage.sessions import save_recording, save_session
from parley.storage.tables import AutoRun, StoredAnalysis

EXPORT_PAGE = 500
HANDLES = {WORKFLOW: AnalysisHandle, AUTO_ANALYZE: AutoAnalyzeHandle}


class EnergyBalance(Model):
    tier: str
    granted: int
    charged: int
    reserved: int
    available: int


class Client:
    """Parley for one workspace. Nothing of another workspace can be read or started through it."""

    def __init__(
        self, temporal: temporalio.client.Client, database: Database, settings: Settings, workspace_id: str
    ) -> None:
        self.temporal, self.database, self.workspace_id = temporal, database, workspace_id
        self.settings = settings

    @classmethod
    async def connect(
        cls,
        *,
        workspace_id: str = "default",
        settings: Settings | None = None,
        temporal_address: str | None = None,
    ) -> Self:
        """Connect as the environment says: DATABASE_URL, TEMPORAL_ADDRESS or a Temporal profile.

        Where it names no database, the stack that `parley up` runs here is taken.

        Raises:
            InvalidInput: DATABASE_URL is missing or wrong.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        settings = settings or Settings()
        stack = running_stack(settings.parley_state_dir) if settings.database_url is None else None
        if stack is not None:
            settings = settings.model_copy(update={"database_url": SecretStr(stack.database_url)})
            temporal_address = temporal_address or stack.temporal_address
        if settings.database_url is None:
            raise InvalidInput("is not set, and no `parley up` runs here", where="DATABASE_URL")
        database = Database(settings.database_url, pool_size=5)
        await database.ping()
        return cls(await connect(temporal_address), database, settings, workspace_id)

    @property
    def housekeeping(self) -> Housekeeping:
        """What the clock's jobs leave for this workspace: events and alerts."""
        return Housekeeping(self)

    async def health(self) -> HealthReport:
        """Does each provider answer? Asked for free, from its own workers, with the keys of this workspace.

        Raises:
            Unreachable: Temporal or its workers do not answer.
        """
        return await health(self)

    async def close(self) -> None:
        await self.database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def analyze(
        self,
        session: Session | dict[str, object],
        *,
        audio: bytes | None = None,
        provider: Provider | None = None,
        model: str | None = None,
        wait: bool = True,
        patience_seconds: int = DEFAULT_PATIENCE_SECONDS,
        run_name: str = "",
    ) -> AnalysisHandle:
        """Store a session and start its analysis. Starting the same content again returns the running job.

        Args:
            audio: the recording's bytes; without it voice metrics come from the transcript.
            provider: ask this one only.
            model: ask this one only; without `provider`, of the provider that has a price for it.
            wait: park while every provider is down. False takes a rule-based result, marked, instead.
            run_name: keeps two analyses of the same content apart.

        Raises:
            InvalidInput: naming the field; nothing is stored.
            UnpricedModel: no price is known for `model`; nothing is stored.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        checked = session if isinstance(session, Session) else parse_session(session)
        provider = provider or self._provider_of(model)
        self._check_model(provider, model)
        seconds = recording_seconds(audio) if audio is not None else 0.0
        async with self.database.transaction() as tx:
            sha256 = await save_session(tx, self.workspace_id, checked)
            recording = await save_recording(tx, self.workspace_id, audio, seconds) if audio is not None else None
        job = SessionAnalysisInput(
            workspace_id=self.workspace_id,
            user_id=checked.user_id,
            prospect_id=checked.prospect_id,
            session_id=checked.session_id,
            session_sha256=sha256,
            recording_sha256=recording,
            provider=provider,
            model=model,
            wait=wait,
            patience_seconds=patience_seconds,
        )
        started = await self._start(
            WORKFLOW,
            job,
            job_id=workflow_id(job, run_name),
            summary=f"{job.session_id} of {job.user_id}",
            details=_details(job),
        )
        return AnalysisHandle(self, *started)

    async def import_chats(
        self, path: Path, *, skip_invalid: bool = False, on_progress: Callable[[int], None] = lambda _: None
    ) -> Imported:
        """Import a JSONL or CSV file of chat sessions: all of it, or nothing.

        Args:
            skip_invalid: leave bad lines out and list them, rather than refuse the file.
            on_progress: is told the sessions read so far.

        Raises:
            InvalidInput: naming file, line and field; nothing is stored.
        """
        return await import_chats(
            self.database, self.workspace_id, path, skip_invalid=skip_invalid, on_progress=on_progress
        )

    async def auto_analyze(
        self, dataset_id: str, *, user_id: str, run_name: str = "", **terms: Any
    ) -> AutoAnalyzeHandle:
        """Label an imported dataset. Starting it again returns the running job.

        Args:
            terms: fields of `AutoAnalyzeInput`, such as `streams`, `sessions_per_stream` (None: all that fit),
                `provider`, `model`, `seed`; the environment's settings stand for what is not given.

        Raises:
            InvalidInput: naming the field.
            NotFound: this workspace has no such dataset.
            UnpricedModel: no price is known for `model`.
        """
        job = self._auto_analyze_input(dataset_id, user_id, terms)
        async with self.database.transaction() as tx:
            dataset = await load_dataset(tx, self.workspace_id, dataset_id)
        started = await self._start(
            AUTO_ANALYZE,
            job,
            job_id=auto_analyze_id(self.workspace_id, dataset_id, run_name),
            summary=f"{dataset.sessions} sessions of {dataset.name}",
            details=f"{job.streams} streams, seed {job.seed}, at most ${job.budget_usd}.",
        )
        return AutoAnalyzeHandle(self, *started)

    def check_auto_analyze_terms(self, *, user_id: str, **terms: Any) -> None:
        """Refuse what `auto_analyze` would refuse of its terms, before there is a dataset.

        Raises:
            InvalidInput: naming the field.
            UnpricedModel: no price is known for `model`.
        """
        self._auto_analyze_input("", user_id, terms)

    async def generate(
        self, messages: Messages, *, user_id: str, action: str = DEFAULT_ACTION, key: str | None = None, **terms: Any
    ) -> GenerateResult:
        """Have a request answered: the single entry point for LLM calls.

        Args:
            messages: a text, or messages with a role and content.
            key: names the request, so that asking again, from anywhere, is answered by the first one and paid once.
            terms: fields of `GenerateInput`, such as `model`, `max_tokens`, `response_schema`, `template`, `cache`.

        Returns:
            A refusal (energy, budget, tier) is a result with `success` False, not an exception.

        Raises:
            InvalidInput: naming the field; nothing was started.
            IdempotencyConflict: `key` was used for something else.
            JobFailed: nobody answered; it says what was tried.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        asked = build(self.workspace_id, messages, user_id=user_id, action=action, **terms)
        return await generate(self, asked, key)

    async def caps(self) -> list[CapView]:
        """What this workspace may spend per day, week and month, and what counts against it now."""
        async with self.database.transaction() as tx:
            return await budgets.caps(tx, self.workspace_id, datetime.now(UTC))

    async def set_cap(self, period: Period, cap_usd: Decimal | None) -> None:
        """Bound the spending of each period from now on; None lifts the bound."""
        async with self.database.transaction() as tx:
            await budgets.set_cap(tx, self.workspace_id, period, cap_usd)

    def _terms(self) -> dict[str, Any]:
        quota = self.settings.sessions_per_stream
        return {
            "streams": self.settings.parallel_stream_count,
            "sessions_per_stream": None if quota == "auto" else quota,
            "debug": self.settings.parallel_processing_debug,
            "discovery": DiscoveryTerms(
                target_percentage=self.settings.discovery_target_percentage,
                min_sessions=self.settings.discovery_min_sessions,
                max_sessions=self.settings.discovery_max_sessions,
            ),
        }

    async def _start(self, kind: str, job: Model, *, job_id: str, summary: str, details: str) -> tuple[str, str]:
        """Start a job, or find the one that runs under that id; returns its id and its key."""
        attributes = (
            SearchAttributePair(visibility.WORKSPACE, self.workspace_id),
            SearchAttributePair(visibility.JOB, kind),
            SearchAttributePair(visibility.STATUS, "running"),
        )
        try:
            started = await self.temporal.start_workflow(
                kind,
                job,
                id=job_id,
                task_queue=WORKFLOWS,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                search_attributes=TypedSearchAttributes(list(attributes)),
                static_summary=visibility.plain(summary[:200]),
                static_details=details,
            )
        except RPCError as error:
            raise Unreachable(f"Temporal refused to start the job: {error.message}") from error
        return started.id, started.first_execution_run_id or ""

    def _auto_analyze_input(self, dataset_id: str, user_id: str, terms: dict[str, Any]) -> AutoAnalyzeInput:
        given = {**self._terms(), **terms}
        given["provider"] = given.get("provider") or self._provider_of(given.get("model"))
        try:
            job = AutoAnalyzeInput(workspace_id=self.workspace_id, user_id=user_id, dataset_id=dataset_id, **given)
        except ValidationError as error:
            raise first_problem(error, where="auto-analyze") from None
        self._check_model(job.provider, job.model)
        return job

    def _provider_of(self, model: str | None) -> Provider | None:
        """The first provider that has a price for the model.

        Raises:
            UnpricedModel: none has.
        """
        if model is None:
            return None
        for provider in (Provider.OPENAI, Provider.ANTHROPIC, Provider.LOCAL):
            with suppress(UnpricedModel):
                self._check_model(provider, model)
                return provider
        raise UnpricedModel(f"no provider has a price for model {model!r}: name its provider (--provider)")

    def _check_model(self, provider: Provider | None, model: str | None) -> None:
        if provider is not None and model is not None:
            rates_for(provider, model, ConfiguredRates.of(self.settings))

    async def job(self, job_id: str) -> AnalysisHandle | AutoAnalyzeHandle:
        """The handle of a job that was started before, here or elsewhere.

        Raises:
            NotFound: this workspace has no such job.
            InvalidInput: it is nothing that is followed: a generation is answered at once.
        """
        found = await self._describe(job_id)
        kind = found.typed_search_attributes.get(visibility.JOB) or ""
        handle = HANDLES.get(kind)
        if handle is None:
            raise InvalidInput(f"is a {kind}, which is no job to follow", where=job_id)
        return handle(self, job_id, first_run(found))

    async def status(self, job_id: str) -> str:
        """`running`, `completed`, `failed`, `cancelled`, `terminated` or `timed_out`, by Temporal.

        Raises:
            NotFound: this workspace has no such job.
        """
        return status_of(await self._describe(job_id))

    async def query_progress(self, job_id: str, kind: type[ProgressT], job_key: str | None = None) -> ProgressT:
        """A job's progress, as the type that it tells it in.

        Raises:
            NotFound: this workspace has no such job.
            Unreachable: Temporal or the job's worker does not answer.
        """
        found = await self.workflow(job_id, job_key)
        try:
            return await found.query("get_progress", result_type=kind)
        except (RPCError, WorkflowQueryFailedError) as error:
            raise Unreachable(f"the job's worker does not answer: {error}") from error

    async def analysis_report(self, job_id: str) -> AnalysisReport:
        """A session analysis with its result, if any, and what it cost.

        Raises:
            NotFound: this workspace has no such job.
        """
        async with self.database.transaction() as tx:
            row = await analyses.find(tx, self.workspace_id, job_id)
            spent = await usage.costs(tx, self.workspace_id, job_key=row.job_key)
        return AnalysisReport(
            id=row.workflow_id,
            job_key=row.job_key,
            status=await self._true_status(row),
            session_id=row.session_id,
            user_id=row.user_id,
            analysis=Analysis.model_validate(row.result) if row.result else None,
            costs=spent,
        )

    async def auto_analyze_report(self, job_id: str) -> AutoAnalyzeReport:
        """A labelling run with its labels so far, and what it cost.

        Raises:
            NotFound: this workspace has no such job.
        """
        async with self.database.transaction() as tx:
            row = await runs.find(tx, self.workspace_id, job_id)
            spent = await usage.costs(tx, self.workspace_id, job_key=row.job_key)
            labels = await runs.label_counts(tx, self.workspace_id, row.job_key)
        return AutoAnalyzeReport(
            id=row.workflow_id,
            job_key=row.job_key,
            status=await self._true_status(row),
            dataset_id=row.dataset_id,
            statistics=Statistics.model_validate(row.statistics) if row.statistics else None,
            labels=tuple(labels),
            costs=spent,
        )

    async def _true_status(self, row: StoredAnalysis | AutoRun) -> str:
        """A job's status. A terminated workflow runs no code and leaves its row running: Temporal knows better."""
        if row.status != "running":
            return row.status
        try:
            found = await self._describe(row.workflow_id)
        except NotFound:
            return "terminated"
        return status_of(found) if first_run(found) == row.job_key else "terminated"

    async def labelled_sessions(self, job_id: str) -> AsyncIterator[ExportedSession]:
        """Every session of a labelling run in its file's order, labelled or not yet.

        Raises:
            NotFound: this workspace has no such job.
        """
        async with self.database.transaction() as tx:
            run = await runs.find(tx, self.workspace_id, job_id)
        last = -1
        while True:
            async with self.database.transaction() as tx:
                page = await runs.export_rows(tx, self.workspace_id, run.job_key, after=last, limit=EXPORT_PAGE)
            for position, session in page:
                last = position
                yield session
            if len(page) < EXPORT_PAGE:
                return

    async def costs(self, *, user_id: str | None = None, since: datetime | None = None) -> Costs:
        """What this workspace spent, and what its users were charged."""
        async with self.database.transaction() as tx:
            return await usage.costs(tx, self.workspace_id, user_id=user_id, since=since)

    @property
    def configuration(self) -> WorkspaceConfiguration:
        """What this workspace has told Parley about itself and its users."""
        return WorkspaceConfiguration(self)

    @property
    def reports(self) -> Reports:
        """What this workspace's AI work cost, and how well it went."""
        return Reports(self)

    async def feedback(self, request_id: str, feedback: Feedback | str) -> None:
        """Say that an answer was `good` or `bad`; the last word stands.

        Raises:
            NotFound: this workspace has no such request.
        """
        if feedback not in list(Feedback):
            raise InvalidInput("is either good or bad", where="feedback")
        async with self.database.transaction() as tx:
            await generations.rate(tx, self.workspace_id, request_id, Feedback(feedback))

    async def audit(self, billed: Sequence[BilledAttempt] | None = None) -> list[Disagreement]:
        """Where this workspace's ledger contradicts itself, or a provider's own list; empty when it does not."""
        async with self.database.transaction(bulk=True) as tx:
            found = await audit(tx, self.workspace_id)
            return found if billed is None else found + await audit_billed(tx, self.workspace_id, billed)

    async def grant_energy(self, user_id: str, amount: int, *, key: str) -> bool:
        """Give a user energy, once per `key`. Returns whether this call gave it."""
        if amount <= 0:
            raise InvalidInput("must be positive", where="amount")
        async with self.database.transaction() as tx:
            await energy.open_account(tx, self.workspace_id, user_id, starting_energy=self.settings.starting_energy)
            return await energy.grant(tx, self.workspace_id, user_id, amount, key=key)

    async def set_tier(self, user_id: str, tier: str) -> None:
        async with self.database.transaction() as tx:
            await energy.open_account(tx, self.workspace_id, user_id, starting_energy=self.settings.starting_energy)
            await energy.set_tier(tx, self.workspace_id, user_id, tier)

    async def energy(self, user_id: str) -> EnergyBalance:
        """A user's energy.

        Raises:
            NotFound: the user was never seen.
        """
        async with self.database.transaction() as tx:
            account = await energy.account(tx, self.workspace_id, user_id)
        if account is None:
            raise NotFound(f"workspace {self.workspace_id!r} has no user {user_id!r}")
        return EnergyBalance(
            **account.model_dump(include={"tier", "granted", "charged", "reserved"}),
            available=energy.available(account),
        )

    async def workflow(
        self, job_id: str, job_key: str | None = None
    ) -> temporalio.client.WorkflowHandle[object, object]:
        """Temporal's own handle of a job of this workspace: of that very job, or of the latest under the id.

        Raises:
            NotFound: this workspace has no such job.
        """
        await self._describe(job_id)
        return self.temporal.get_workflow_handle(job_id, first_execution_run_id=job_key)

    async def _describe(self, job_id: str) -> temporalio.client.WorkflowExecutionDescription:
        """The job's description, if it is one of this workspace: knowing the id is no permission."""
        missing = NotFound(f"workspace {self.workspace_id!r} has no job {job_id!r}")
        try:
            found = await self.temporal.get_workflow_handle(job_id).describe()
        except RPCError as error:
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                raise missing from None
            raise Unreachable(f"Temporal does not answer: {error.message}") from error
        if found.typed_search_attributes.get(visibility.WORKSPACE) != self.workspace_id:
            raise missing
        return found


def _details(job: SessionAnalysisInput) -> str:
    """What an operator wants to know of a job at a glance, as Markdown."""
    recording = "with its recording" if job.recording_sha256 else "without a recording"
    asked = f"asks {job.provider.value} by name" if job.provider else "asks whoever ranks first"
    outage = f"waits up to {job.patience_seconds} s in an outage" if job.wait else "does not wait in an outage"
    return f"One voice session, {recording}; {asked}; {outage}; at most ${job.budget_usd}."


def status_of(found: temporalio.client.WorkflowExecutionDescription) -> str:
    """Temporal's status in our spelling."""
    return (found.status or WorkflowExecutionStatus.RUNNING).name.lower().replace("canceled", "cancelled")


def first_run(found: temporalio.client.WorkflowExecutionDescription) -> str:
    """A job's key: the id of its first run, however often it has continued as new."""
    return found.raw_description.workflow_execution_info.first_run_id or found.run_id
