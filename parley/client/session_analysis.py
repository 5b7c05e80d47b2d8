"""The job `SessionAnalysis`: start it, follow it, read its report."""

from __future__ import annotations

from parley.client.backend import Backend, WorkflowStart, start_workflow
from parley.client.jobs import JobHandle, check_model, provider_of, true_status
from parley.client.reading import parse_session, recording_seconds
from parley.domain.coaching.rubric import DEFAULT_RUBRIC, Rubric, check_rubric
from parley.domain.costs import Costs
from parley.domain.errors import NotFound
from parley.domain.model import Model
from parley.domain.requests import Provider
from parley.domain.session import Session
from parley.domain.session_analysis import WORKFLOW, Analysis, Progress, SessionAnalysisInput, workflow_id
from parley.storage import analyses, rubrics, usage
from parley.storage.sessions import load_session, recording_part, save_recording, save_session

WHOLE = 2**31 - 2


class RecordingPart(Model):
    """Bytes of a recording, and the size of the whole recording."""

    content: bytes
    size: int


class AnalysisReport(Model):
    """A session analysis as it is now. `analysis` is None until it has completed; `costs` come from the ledger.

    `reason`: why it failed or was cancelled.
    """

    id: str
    job_key: str
    status: str
    reason: str = ""
    session_id: str
    user_id: str
    analysis: Analysis | None
    costs: Costs


class AnalysisHandle(JobHandle[Progress, AnalysisReport]):
    """A running or ended `SessionAnalysis`."""

    async def progress(self) -> Progress:
        """The steps that are done, and what the job waits for.

        Raises:
            NotFound: there is no such job.
            Unreachable: Temporal or the job's worker does not answer.
        """
        return await self._query_progress(Progress)

    async def report(self) -> AnalysisReport:
        """The session's analysis, if it has completed, and what it cost so far.

        Raises:
            NotFound: there is no such job.
        """
        async with self._backend.database.transaction() as tx:
            row = await analyses.find(tx, self._workspace_id, self.job_key)
            spent = await usage.costs(tx, self._workspace_id, job_key=row.job_key)
        return AnalysisReport(
            id=row.workflow_id,
            job_key=row.job_key,
            status=await true_status(self._backend, row.workspace_id, row.workflow_id, row.job_key, row.status),
            reason=row.reason,
            session_id=row.session_id,
            user_id=row.user_id,
            analysis=Analysis.model_validate(row.result) if row.result else None,
            costs=spent,
        )

    async def session(self) -> Session:
        """The session that it analyses.

        Raises:
            NotFound: there is no such job, or its session has been purged.
        """
        async with self._backend.database.reads() as tx:
            row = await analyses.find(tx, self._workspace_id, self.job_key)
            return await load_session(tx, self._workspace_id, row.session_id, row.session_sha256)

    async def recording(self, *, start: int = 0, count: int = WHOLE) -> RecordingPart:
        """The recording of the session that it analyses.

        Args:
            start: the first byte; default: 0.
            count: the most bytes; default: all.

        Raises:
            NotFound: there is no such job, it has no recording, or the recording has been purged.
        """
        async with self._backend.database.reads() as tx:
            row = await analyses.find(tx, self._workspace_id, self.job_key)
            if row.recording_sha256 is None:
                raise NotFound(f"{row.workflow_id} was given no recording")
            content, size = await recording_part(tx, self._workspace_id, row.recording_sha256, start, count)
        return RecordingPart(content=content, size=size)


async def start_analysis(
    backend: Backend,
    workspace_id: str,
    session: Session | dict[str, object],
    *,
    audio: bytes | None,
    provider: Provider | None,
    model: str | None,
    wait: bool,
    wait_limit_seconds: int,
    run_name: str,
    rubric: str | Rubric | dict[str, object] = DEFAULT_RUBRIC,
) -> AnalysisHandle:
    """Store a session and its recording, and start the job on them. `Client.analyze` documents the arguments."""
    checked = session if isinstance(session, Session) else parse_session(session)
    provider = provider or provider_of(model, backend.settings)
    check_model(provider, model, backend.settings)
    seconds = recording_seconds(audio) if audio is not None else 0.0
    rubric = check_rubric(rubric) if isinstance(rubric, dict) else rubric
    async with backend.database.transaction() as tx:
        if isinstance(rubric, Rubric):
            await rubrics.save(tx, workspace_id, rubric)
        else:
            rubric = await rubrics.load(tx, workspace_id, rubric)
        sha256 = await save_session(tx, workspace_id, checked)
        recording = await save_recording(tx, workspace_id, audio, seconds) if audio is not None else None
    job = SessionAnalysisInput(
        workspace_id=workspace_id,
        user_id=checked.user_id,
        prospect_id=checked.prospect_id,
        session_id=checked.session_id,
        session_sha256=sha256,
        recording_sha256=recording,
        rubric=rubric.reference,
        provider=provider,
        model=model,
        wait=wait,
        wait_limit_seconds=wait_limit_seconds,
    )
    start = WorkflowStart(
        workflow=WORKFLOW,
        input=job,
        id=workflow_id(job, run_name),
        summary=f"{job.session_id} of {job.user_id}",
        details=_details(job),
        status="running",
    )
    started = await start_workflow(backend, workspace_id, start)
    return AnalysisHandle(backend, workspace_id, started.id, started.first_execution_run_id or "")


def _details(job: SessionAnalysisInput) -> str:
    """What an operator needs to know of the job at a glance, as Markdown."""
    recording = "with its recording" if job.recording_sha256 else "without a recording"
    provider = f"{job.provider.value} only" if job.provider else "the provider that ranks first"
    outage = f"waits up to {job.wait_limit_seconds} s in an outage" if job.wait else "does not wait in an outage"
    return f"One voice session, {recording}; by {job.rubric}; {provider}; {outage}; at most ${job.budget_usd}."
