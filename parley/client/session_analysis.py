"""The job `SessionAnalysis`: start it, follow it, read its report."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from typing import TypedDict

from pydantic import ValidationError

from parley.client.backend import Backend, WorkflowStart, start_workflow
from parley.client.fetching import fetch_recording
from parley.client.jobs import JobHandle, check_model, provider_of, true_status
from parley.client.reading import first_problem, parse_session, recording_seconds
from parley.domain.coaching.rubric import DEFAULT_RUBRIC, Rubric, check_rubric
from parley.domain.costs import Costs
from parley.domain.errors import InvalidInput, NotFound
from parley.domain.hearing import Hearing, Owner, Transcript, session_of
from parley.domain.model import Model
from parley.domain.requests import Provider
from parley.domain.session import Session
from parley.domain.session_analysis import (
    DEFAULT_TRANSCRIPT_TOKENS,
    DEFAULT_VOICE_DEADLINE_SECONDS,
    WORKFLOW,
    Analysis,
    Progress,
    SessionAnalysisInput,
    workflow_id,
)
from parley.storage import analyses, rubrics, usage
from parley.storage.sessions import load_session, recording_part, save_recording, save_session

WHOLE = 2**31 - 2
# How often a job is looked at for a provisional result: the longer it takes, the more seldom.
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS, GROWTH = 0.25, 5.0, 1.1


class RecordingPart(Model):
    """Bytes of a recording, and the size of the whole recording."""

    content: bytes
    size: int


DEFAULT_USER = "operator"
TWO_RECORDINGS = "is a second recording: give its content or its URL"
NOTHING_GIVEN = "is missing: give a session, a transcript, or a recording"


class AnalysisReport(Model):
    """A session analysis as it is now. `analysis` is None until it has a result; `costs` come from the ledger.

    While `analysis.pending` names steps, the result is provisional: it is amended when they are done. `reason`: why
    the job failed or was cancelled.
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

    async def result(self, *, final: bool = False) -> AnalysisReport:
        """Wait until there is a result, and return the report.

        Args:
            final: wait until the job ends; default: a provisional result is returned as well, which is amended later.

        Raises:
            JobFailed: it failed or was cancelled; `reason` is the code of the error.
            NotFound: there is no such job.
            Unreachable: Temporal does not answer.
        """
        ended, pause = asyncio.create_task(super().result()), FIRST_POLL_SECONDS
        try:
            while not final and not ended.done():
                if await self.is_provisional():
                    return await self.report()
                await asyncio.wait({ended}, timeout=pause)
                pause = min(pause * GROWTH, LONGEST_POLL_SECONDS)
            return await ended
        finally:
            ended.cancel()

    async def is_provisional(self) -> bool:
        """Whether there is a result that is amended later.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        with suppress(NotFound):  # the job has not begun
            async with self._backend.database.reads() as tx:
                return await analyses.is_provisional(tx, self._workspace_id, self.job_key)
        return False

    async def report(self) -> AnalysisReport:
        """The session's analysis, if it has a result, and what it cost so far.

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
            NotFound: there is no such job, its recording is not heard yet, or its session has been purged.
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


class HearingOptions(TypedDict, total=False):
    """How a recording alone, or a transcript, becomes a session. A session says all of it itself.

    user_id: whose session it is; default: `operator`.
    session_id: its name; default: made of the content.
    prospect_id: the other person, for the reports; default: none.
    scenario: what it is about, at most 500 characters; default: empty.
    language: a BCP 47 tag; default: as it is heard, or as the transcript says.
    user_channel: the number of the user's channel, from 1.
    user_speaker: the user's label or name, as the transcript has it or as the user introduces themself.
    user_role: the user's role, where labels are roles, for example `agent`.
    """

    user_id: str
    session_id: str
    prospect_id: str | None
    scenario: str
    language: str | None
    user_channel: int | None
    user_speaker: str | None
    user_role: str | None


async def start_analysis(
    backend: Backend,
    workspace_id: str,
    session: Session | Transcript | dict[str, object] | None,
    *,
    heard: HearingOptions,
    audio: bytes | None,
    audio_url: str | None,
    provider: Provider | None,
    model: str | None,
    wait: bool,
    wait_limit_seconds: int,
    voice_deadline_seconds: float = DEFAULT_VOICE_DEADLINE_SECONDS,
    transcript_tokens: int = DEFAULT_TRANSCRIPT_TOKENS,
    run_name: str,
    rubric: str | Rubric | dict[str, object] = DEFAULT_RUBRIC,
) -> AnalysisHandle:
    """Store a session and its recording, and start the job on them. `Client.analyze` documents the arguments."""
    if audio_url is not None:
        if audio is not None:
            raise InvalidInput(TWO_RECORDINGS, where="audio_url")
        audio = await fetch_recording(audio_url, hosts=backend.settings.trusted_audio_hosts())
    # Megabytes are walked and hashed in a thread: a gateway serves others meanwhile.
    seconds = await asyncio.to_thread(recording_seconds, audio) if audio is not None else None
    checked = given_session(session, heard, seconds)
    if checked is None and audio is None:
        raise InvalidInput(NOTHING_GIVEN, where="session")
    provider = provider or provider_of(model, backend.settings)
    check_model(provider, model, backend.settings)
    hearing = _hearing(heard) if checked is None else None
    owner = await asyncio.to_thread(_owner, heard, audio or b"") if checked is None else _owner_of(checked)
    rubric = check_rubric(rubric) if isinstance(rubric, dict) else rubric
    terms = {
        "workspace_id": workspace_id,
        **owner.model_dump(),
        "session_sha256": "",
        "hearing": hearing,
        "provider": provider,
        "model": model,
        "wait": wait,
        "wait_limit_seconds": wait_limit_seconds,
        "voice_deadline_seconds": voice_deadline_seconds,
        "transcript_tokens": transcript_tokens,
    }
    try:
        job = SessionAnalysisInput.model_validate(terms)
    except ValidationError as error:
        raise first_problem(error) from None
    async with backend.database.transaction() as tx:
        if isinstance(rubric, Rubric):
            await rubrics.save(tx, workspace_id, rubric)
        else:
            rubric = await rubrics.load(tx, workspace_id, rubric)
        sha256 = "" if checked is None else await save_session(tx, workspace_id, checked)
        recording = await save_recording(tx, workspace_id, audio, seconds or 0.0) if audio is not None else None
    content = {"session_sha256": sha256, "recording_sha256": recording, "rubric": rubric.reference}
    job = job.model_copy(update=content)
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


def given_session(
    given: Session | Transcript | dict[str, object] | None, heard: HearingOptions, seconds: float | None
) -> Session | None:
    """The session that was given; None for a recording alone."""
    if isinstance(given, Transcript):
        hearing, owner = _hearing(heard), _owner(heard, given.model_dump_json().encode())
        try:
            return session_of(given, hearing, owner, seconds=seconds)
        except ValidationError as error:
            raise first_problem(error, where="transcript") from None
    if given is not None and heard:
        raise InvalidInput("is of a recording or a transcript: a session says it itself", where=min(heard))
    return parse_session(given) if isinstance(given, dict) else given


def _hearing(heard: HearingOptions) -> Hearing:
    who = {"channel": heard.get("user_channel"), "speaker": heard.get("user_speaker"), "role": heard.get("user_role")}
    try:
        return Hearing.model_validate(
            {"scenario": heard.get("scenario", ""), "language": heard.get("language"), "who": who}
        )
    except ValidationError as error:
        raise first_problem(error, where="recording") from None


def _owner(heard: HearingOptions, content: bytes) -> Owner:
    digest = hashlib.sha256(content).hexdigest()
    names = {"session_id": f"recording-{digest[:12]}", "user_id": DEFAULT_USER, "prospect_id": None}
    try:
        return Owner.model_validate({name: heard.get(name) or default for name, default in names.items()})
    except ValidationError as error:
        raise first_problem(error, where="recording") from None


def _owner_of(session: Session) -> Owner:
    return Owner(session_id=session.session_id, user_id=session.user_id, prospect_id=session.prospect_id)


def _details(job: SessionAnalysisInput) -> str:
    """What an operator needs to know of the job at a glance, as Markdown."""
    recording = "with its recording" if job.recording_sha256 else "without a recording"
    provider = f"{job.provider.value} only" if job.provider else "the provider that ranks first"
    outage = "waits" if job.wait else "gives a provisional result, and waits"
    outage = f"{outage} up to {job.wait_limit_seconds} s in an outage"
    recording = "a recording alone" if job.hearing else recording
    return f"One voice session, {recording}; by {job.rubric}; {provider}; {outage}; at most ${job.budget_usd}."
