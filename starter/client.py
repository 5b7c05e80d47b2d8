"""The typed client: start, watch, cancel and read Parley's jobs from any service."""

from __future__ import annotations

from datetime import datetime
from typing import Self

import temporalio.client
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, is_cancelled_exception
from temporalio.service import RPCError, RPCStatusCode

from connection import connect
from domain.calls import Model, Provider
from domain.costs import Costs, Disagreement
from domain.errors import InvalidInput, JobFailed, NotFound, Unreachable
from domain.pricing import ConfiguredRates, rates_for
from domain.queues import WORKFLOWS
from domain.session import Session
from domain.session_analysis import (
    DEFAULT_PATIENCE_SECONDS,
    WORKFLOW,
    Analysis,
    Progress,
    SessionAnalysisInput,
    SessionAnalysisResult,
    workflow_id,
)
from settings import Settings
from starter.reading import parse_session, recording_seconds
from storage import analyses, energy, usage
from storage.audit import audit
from storage.database import Database
from storage.sessions import save_recording, save_session
from workflows import visibility


class AnalysisReport(Model):
    """A job as it stands: `analysis` is None until it is completed; the costs are the ledger's own."""

    id: str
    job_key: str
    status: str
    session_id: str
    user_id: str
    analysis: Analysis | None
    costs: Costs


class EnergyBalance(Model):
    tier: str
    granted: int
    charged: int
    reserved: int
    available: int


class AnalysisHandle:
    """One running or finished `SessionAnalysis`. `id` finds it again from anywhere."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client, self.id = client, job_id

    async def progress(self) -> Progress:
        """Where the job stands.

        Raises:
            NotFound: there is no such job.
        """
        return await self._client.progress(self.id)

    async def result(self) -> AnalysisReport:
        """Wait for the job to end and return it.

        Raises:
            JobFailed: it failed or was cancelled; `kind` says why.
            NotFound: there is no such job.
        """
        try:
            await (await self._client.workflow(self.id)).result()
        except WorkflowFailureError as error:
            raise failure_of(error) from error
        return await self._client.results(self.id)

    async def cancel(self) -> None:
        """Ask the job to stop. What it has paid for is kept."""
        await self._client.cancel(self.id)


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

        Raises:
            InvalidInput: DATABASE_URL is missing or wrong.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        settings = settings or Settings()
        if settings.database_url is None:
            raise InvalidInput("is not set; `parley up` starts one and prints its address", where="DATABASE_URL")
        database = Database(settings.database_url, pool_size=5)
        await database.ping()
        return cls(await connect(temporal_address), database, settings, workspace_id)

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
        label: str = "",
    ) -> AnalysisHandle:
        """Store a session and start its analysis. Starting the same content again returns the running job.

        Args:
            audio: the recording's bytes; without it voice metrics come from the transcript.
            provider: ask this one only; `model` goes with it.
            wait: park while every provider is down. False takes a rule-based result, marked, instead.
            label: keeps two analyses of the same content apart.

        Raises:
            InvalidInput: naming the field; nothing is stored.
            UnpricedModel: no price is known for `model`; nothing is stored.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        checked = session if isinstance(session, Session) else parse_session(session)
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
        return self.job(await self._start(job, label))

    async def _start(self, job: SessionAnalysisInput, label: str) -> str:
        attributes = (
            SearchAttributePair(visibility.TENANT, job.workspace_id),
            SearchAttributePair(visibility.JOB, WORKFLOW),
            SearchAttributePair(visibility.STATUS, "running"),
        )
        try:
            started = await self.temporal.start_workflow(
                WORKFLOW,
                job,
                id=workflow_id(job.workspace_id, job.session_id, job.session_sha256, label),
                task_queue=WORKFLOWS,
                result_type=SessionAnalysisResult,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                search_attributes=TypedSearchAttributes(list(attributes)),
                static_summary=f"{job.session_id} of {job.user_id}"[:200],
                static_details=_details(job),
            )
        except RPCError as error:
            raise Unreachable(f"Temporal refused to start the job: {error.message}") from error
        return started.id

    def _check_model(self, provider: Provider | None, model: str | None) -> None:
        if model is None:
            return
        if provider is None:
            raise InvalidInput("goes with a provider, for example --provider openai", where="model")
        rates_for(provider, model, ConfiguredRates.of(self.settings))

    def job(self, job_id: str) -> AnalysisHandle:
        """The handle of a job that was started before, here or elsewhere."""
        return AnalysisHandle(self, job_id)

    async def progress(self, job_id: str) -> Progress:
        """Where a job stands.

        Raises:
            NotFound: this workspace has no such job.
        """
        found = await self.workflow(job_id)
        return await found.query("get_progress", result_type=Progress)

    async def status(self, job_id: str) -> str:
        """`running`, `completed`, `failed`, `cancelled`, `terminated` or `timed_out`, by Temporal.

        Raises:
            NotFound: this workspace has no such job.
        """
        found = await self._describe(job_id)
        return (found.status or WorkflowExecutionStatus.RUNNING).name.lower().replace("canceled", "cancelled")

    async def cancel(self, job_id: str) -> None:
        """Ask a job to stop. What it has paid for is kept.

        Raises:
            NotFound: this workspace has no such job.
        """
        await (await self.workflow(job_id)).cancel()

    async def results(self, job_id: str) -> AnalysisReport:
        """A job with its result, if any, and what it cost.

        Raises:
            NotFound: this workspace has no such job.
        """
        async with self.database.transaction() as tx:
            row = await analyses.find(tx, self.workspace_id, job_id)
            spent = await usage.costs(tx, self.workspace_id, job_key=row.job_key)
        return AnalysisReport(
            id=row.workflow_id,
            job_key=row.job_key,
            status=row.status,
            session_id=row.session_id,
            user_id=row.user_id,
            analysis=Analysis.model_validate(row.result) if row.result else None,
            costs=spent,
        )

    async def costs(self, *, user_id: str | None = None, since: datetime | None = None) -> Costs:
        """What this workspace spent, and what its users were charged."""
        async with self.database.transaction() as tx:
            return await usage.costs(tx, self.workspace_id, user_id=user_id, since=since)

    async def audit(self) -> list[Disagreement]:
        """Where this workspace's ledger contradicts itself; empty when it does not."""
        async with self.database.transaction() as tx:
            return await audit(tx, self.workspace_id)

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

    async def workflow(self, job_id: str) -> temporalio.client.WorkflowHandle[object, object]:
        """Temporal's own handle of a job of this workspace.

        Raises:
            NotFound: this workspace has no such job.
        """
        await self._describe(job_id)
        return self.temporal.get_workflow_handle(job_id)

    async def _describe(self, job_id: str) -> temporalio.client.WorkflowExecutionDescription:
        """The job's description, if it is one of this workspace: knowing the id is no permission."""
        missing = NotFound(f"workspace {self.workspace_id!r} has no job {job_id!r}")
        try:
            found = await self.temporal.get_workflow_handle(job_id).describe()
        except RPCError as error:
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                raise missing from None
            raise Unreachable(f"Temporal does not answer: {error.message}") from error
        if found.typed_search_attributes.get(visibility.TENANT) != self.workspace_id:
            raise missing
        return found


def _details(job: SessionAnalysisInput) -> str:
    """What an operator wants to know of a job at a glance, as Markdown."""
    recording = "with its recording" if job.recording_sha256 else "without a recording"
    asked = f"asks {job.provider.value} by name" if job.provider else "asks whoever ranks first"
    outage = f"waits up to {job.patience_seconds} s in an outage" if job.wait else "does not wait in an outage"
    return f"One voice session, {recording}; {asked}; {outage}; at most ${job.budget_usd}."


def failure_of(error: WorkflowFailureError) -> JobFailed:
    """Why a workflow ended without a result, by the innermost failure that Parley named."""
    if is_cancelled_exception(error.cause):
        return JobFailed("Cancelled", "the job was cancelled; what it paid for is kept")
    cause: BaseException | None = error.cause
    while cause is not None and not (isinstance(cause, ApplicationError) and cause.type):
        cause = cause.__cause__
    if isinstance(cause, ApplicationError):
        return JobFailed(cause.type or "", cause.message)
    return JobFailed(type(error.cause).__name__, str(error.cause))
