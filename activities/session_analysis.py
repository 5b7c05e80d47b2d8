"""The activities of `SessionAnalysis`: open the job, measure the voice, coach, store the result."""

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from activities.candidates import Candidates
from activities.earlier_analyses import EarlierAnalyses
from activities.paid_call import PaidCalls
from parley.channels import Levels, channel_levels, own_words
from parley.domain.coaching.collecting import may_share
from parley.domain.coaching.contract import Coaching, Excerpt
from parley.domain.coaching.excerpt import excerpt_of
from parley.domain.coaching.numbers import check_numbers
from parley.domain.coaching.prompts import coaching_request
from parley.domain.coaching.replies import read_reply
from parley.domain.coaching.rubric import Rubric
from parley.domain.coaching.rule_based import rule_based
from parley.domain.coaching.trends import EARLIER_SESSIONS, Past, Trends, trends
from parley.domain.errors import ContextTooLong, EmptyReply, InsufficientEnergy, InvalidInput, ProviderNotConfigured
from parley.domain.habits import Habits, habits
from parley.domain.hearing import NOT_COMPARED, Hearing, Owner, beyond_recording, mismatch, session_of, transcript_of
from parley.domain.requests import Finish, Reply, Request, SpokenWord, TranscriptionRequest, request_id
from parley.domain.routing import Candidate, Option, Order, RoutingRequest, rank
from parley.domain.session import Session
from parley.domain.session_analysis import (
    COACHING_ACTION,
    ENERGY,
    VOICE_ACTION,
    Analysis,
    Choice,
    Closed,
    CloseStep,
    FinishStep,
    HearingPlan,
    PaidStep,
    Plan,
    PrepareStep,
    Provenance,
    Published,
    Reused,
    SessionAnalysisInput,
    SessionAnalysisResult,
    Step,
    StepOutcome,
    Strategy,
    after_a_miss,
    choose_strategy,
    facts,
    hearing_request,
)
from parley.domain.voice_metrics import (
    NO_RECORDING,
    Acoustics,
    Curves,
    VoiceMetrics,
    from_session,
    from_words,
    rep_speaker,
    with_acoustics,
)
from parley.embedder import Embedder
from parley.settings import Settings
from parley.storage import analyses, budgets, energy, forgetting, outbox, rubrics, usage
from parley.storage.analyses import AMENDED, PROVISIONAL, result_event
from parley.storage.database import Database
from parley.storage.ledger import Charge, OnReply, Settled
from parley.storage.sessions import load_recording, load_session, recording_seconds, save_session
from parley.storage.tables import StoredAnalysis

# Why a recording has no acoustics; a warning of the analysis has the cause.
NO_SOUND = "the sound of the recording was not measured"
# Those that measure the levels of channels.
LIBRARIES = ("av", "numpy")
NOT_APART = "channels are not heard apart: the worker has no decoder: install 'parley[acoustics]'"
NOTHING_HEARS = "nothing can hear a recording: set ELEVENLABS_API_KEY, or pip install 'parley[local-speech]'"


class SessionAnalysisActivities:
    """Activities of one worker, on its database and its providers."""

    def __init__(
        self,
        database: Database,
        paid_calls: PaidCalls,
        candidates: Candidates,
        settings: Settings,
        embedder: Embedder | None,
    ) -> None:
        self._database, self._paid_calls, self._candidates = database, paid_calls, candidates
        self._earlier = EarlierAnalyses(database, embedder)
        self._starting_energy, self._collect_seconds = settings.starting_energy, settings.collect_seconds

    @activity.defn(name="session_analysis.prepare")
    @boundary
    async def prepare(self, step: PrepareStep) -> Plan:
        """Choose the strategy, rank the candidates of each step, open the job's budget and the energy account."""
        job = step.input
        # Before the transaction, because this reads on a separate connection.
        chat, voice = await asyncio.gather(
            self._candidates.chat_options(job.workspace_id, job.provider, job.model),
            self._candidates.hearing_options(job.workspace_id),
        )
        async with self._database.transaction() as tx:
            session = await load_session(tx, job.workspace_id, job.session_id, job.session_sha256)
            sha256 = job.recording_sha256
            late = beyond_recording(session, await recording_seconds(tx, job.workspace_id, sha256)) if sha256 else ""
            row = _row(step, (await rubrics.load(tx, job.workspace_id, job.rubric)).reference)
            account = await energy.open_account(
                tx, job.workspace_id, job.user_id, starting_energy=self._starting_energy
            )
            # A caller who names a provider wants a new reply from it, not an earlier result.
            count = 0 if job.provider else await analyses.count(tx, job.workspace_id, job.user_id)
        choice = choose_strategy(facts(session, tier=account.tier, previous_analyses=count))
        found = None
        if choice.strategy is Strategy.CACHED_ANALYSIS:
            found = await self._earlier.find(row, session, _real_steps(chat, voice))
        if found:
            plan = Plan(choice=choice, coaching=(), reused=found.reused, provenance=found.provenance)
        else:
            choice = after_a_miss(choice) if choice.strategy is Strategy.CACHED_ANALYSIS else choice
            plan = _plan(step, session, choice, chat=chat, voice=voice)
            if may_share(session, account.tier):
                plan = plan.model_copy(update={"collect_seconds": self._collect_seconds, "rubric": row.rubric})
            paid = (COACHING_ACTION, *([VOICE_ACTION] if plan.voice and not step.heard_by else []))
            _require_energy(*paid, available=energy.available(account), user_id=job.user_id)
        if late:
            plan = plan.model_copy(update={"warnings": (*plan.warnings, late)})
        async with self._database.transaction() as tx:
            await budgets.open_envelope(tx, job.workspace_id, budgets.job_scope(step.job_key), job.budget_usd)
            await analyses.begin(tx, row)
            if found and found.coaching:
                coaching = found.coaching.model_dump(mode="json")
                await analyses.store_parts(tx, job.workspace_id, step.job_key, coaching=coaching)
        return plan

    @activity.defn(name="session_analysis.prepare_hearing")
    @boundary
    async def prepare_hearing(self, step: PrepareStep) -> HearingPlan:
        """Open the job of a recording alone, and rank what can hear it."""
        job = step.input
        candidates = rank(await self._candidates.hearing_options(job.workspace_id), RoutingRequest()).candidates
        if not candidates:
            raise ProviderNotConfigured(f"{NOTHING_HEARS}, or send a transcript")
        async with self._database.transaction() as tx:
            account = await energy.open_account(
                tx, job.workspace_id, job.user_id, starting_energy=self._starting_energy
            )
            _require_energy(COACHING_ACTION, VOICE_ACTION, available=energy.available(account), user_id=job.user_id)
            rubric = await rubrics.load(tx, job.workspace_id, job.rubric)
            await budgets.open_envelope(tx, job.workspace_id, budgets.job_scope(step.job_key), job.budget_usd)
            await analyses.begin(tx, _row(step, rubric.reference))
            number = 1
            while await forgetting.is_forgotten(tx, job.workspace_id, hearing_request(job, candidates, number)):
                number += 1
        return HearingPlan(candidates=candidates, request_id=hearing_request(job, candidates, number))

    @activity.defn(name="session_analysis.hear")
    @boundary
    async def hear(self, step: PaidStep) -> StepOutcome:
        """Transcribe a recording that came alone, and store it as a session.

        Raises:
            InvalidInput: it has no speech, or the user who was named is not in it.
        """
        job = step.input
        assert job.hearing is not None  # noqa: S101 - only such a job has this step
        sound = await self._sound(step)
        settled = await self._pay(step, Step.HEAR, VOICE_ACTION, sound.request, step.hearing_request)
        session = await asyncio.to_thread(sound.session, settled.reply, job.hearing, job.owner)
        async with self._database.transaction() as tx:
            sha256 = await save_session(tx, job.workspace_id, session)
            await analyses.store_parts(tx, job.workspace_id, step.job_key, session_sha256=sha256)
        provenance = _provenance(step.candidate, Step.HEAR, settled)
        return StepOutcome(
            provenance=provenance, warnings=sound.warnings, session_sha256=sha256, heard_by=step.candidate
        )

    @activity.defn(name="session_analysis.measure_voice")
    @boundary
    async def measure_voice(self, step: PaidStep) -> StepOutcome:
        """Transcribe the recording, and compute the metrics from its words."""
        job = step.input
        async with self._database.transaction() as tx:
            session = await load_session(tx, job.workspace_id, job.session_id, job.session_sha256)
        sound, outcome = await self._sound(step), StepOutcome()

        async def store(tx: AsyncSession, reply: Reply) -> None:
            nonlocal outcome
            words = sound.words(reply)
            speaker, outcome = _user_of(words, session)
            if speaker:
                metrics = from_words(words, speaker).model_dump(mode="json")
                await analyses.store_parts(tx, job.workspace_id, step.job_key, voice_metrics=metrics)

        settled = await self._pay(step, Step.VOICE, VOICE_ACTION, sound.request, step.hearing_request, on_reply=store)
        await self._follow(settled, store)
        provenance, warnings = _provenance(step.candidate, Step.VOICE, settled), (*sound.warnings, *outcome.warnings)
        return outcome.model_copy(update={"provenance": provenance, "warnings": warnings})

    @activity.defn(name="session_analysis.coach")
    @boundary
    async def coach(self, step: PaidStep) -> StepOutcome:
        """Request the coaching analysis from one candidate. The outcome says why a reply cannot be used."""
        job = step.input
        async with self._database.transaction() as tx:
            row = await analyses.load(tx, job.workspace_id, step.job_key)
            session, rubric, counted, measured = await material_of(tx, row, after_voice=step.after_voice)
        excerpt = await _excerpt(session, step.variant.transcript_tokens)
        request = coaching_request(
            session, rubric, counted, measured, max_tokens=step.variant.max_tokens, excerpt=excerpt
        )
        coaching, problem = None, ""

        async def store(tx: AsyncSession, reply: Reply) -> None:
            nonlocal coaching, problem
            assert reply.kind == "chat"  # noqa: S101 - it answers a request of this kind
            coaching, problem = read_reply(reply, rubric, session)
            if coaching is not None:
                coaching = coaching.model_copy(update={"excerpt": excerpt, "knows_voice": step.after_voice})
                parts = {"coaching": coaching.model_dump(mode="json")}
                await analyses.store_parts(tx, job.workspace_id, step.job_key, **parts)

        try:
            settled = await self._pay(step, Step.COACHING, COACHING_ACTION, request, on_reply=store)
        except ContextTooLong as error:
            return StepOutcome(problem=error.detail, too_long=True)
        except EmptyReply as error:
            return StepOutcome(problem=error.detail, cut=True)
        await self._follow(settled, store)
        return _coached(settled, problem, step.candidate)

    @activity.defn(name="session_analysis.finish")
    @boundary
    async def finish(self, step: FinishStep) -> SessionAnalysisResult:
        """Assemble the result, mark the parts that are rule-based, and store it."""
        job = step.input
        async with self._database.transaction() as tx:
            row = await analyses.load(tx, job.workspace_id, step.job_key)
            was_provisional = bool((row.result or {}).get("pending"))
            analysis = await _analysis(tx, row, step)
            await analyses.end(tx, job.workspace_id, step.job_key, "completed", analysis.model_dump(mode="json"))
            if was_provisional:
                await outbox.write_once(tx, result_event(AMENDED, row, analysis))
            cost_usd = await usage.total_usd(tx, job.workspace_id, step.job_key)
        return SessionAnalysisResult(
            job_key=step.job_key,
            status="completed",
            strategy=analysis.strategy,
            overall_score=analysis.coaching.overall_score,
            processed=analysis.coaching.processed,
            fallback=analysis.coaching.fallback,
            cost_usd=cost_usd,
        )

    @activity.defn(name="session_analysis.publish")
    @boundary
    async def publish(self, step: FinishStep) -> Published:
        """Store what there is as a provisional result, while the job goes on with the steps that are pending."""
        workspace_id = step.input.workspace_id
        async with self._database.transaction() as tx:
            row = await analyses.load(tx, workspace_id, step.job_key)
            analysis = await _analysis(tx, row, step)
            await analyses.store_parts(tx, workspace_id, step.job_key, result=analysis.model_dump(mode="json"))
            await outbox.write_once(tx, result_event(PROVISIONAL, row, analysis))
            return Published(cost_usd=await usage.total_usd(tx, workspace_id, step.job_key))

    @activity.defn(name="session_analysis.close")
    @boundary
    async def close(self, step: CloseStep) -> Closed:
        """Mark a job that is not completed. One that failed before it had a row gets one, for its reason.

        A provisional result stays, and nothing of it is pending any more.
        """
        workspace_id = step.input.workspace_id
        async with self._database.transaction() as tx:
            await analyses.begin(tx, _row(step, step.input.rubric))
            row = await analyses.load(tx, workspace_id, step.job_key)
            result = None
            if row.result:
                analysis = Analysis.model_validate(row.result).model_copy(update={"pending": ()})
                result = analysis.model_dump(mode="json")
            await analyses.end(tx, workspace_id, step.job_key, step.status, result, step.reason)
            return Closed(cost_usd=await usage.total_usd(tx, workspace_id, step.job_key))

    async def _sound(self, step: PaidStep) -> "Sound":
        """The job's recording, and whether its channels have a speaker each."""
        job = step.input
        async with self._database.reads() as tx:
            recording = await load_recording(tx, job.workspace_id, job.recording_sha256 or "")
        can_decode = all(find_spec(name) for name in LIBRARIES)
        levels = await asyncio.to_thread(_levels, recording.audio) if can_decode else None
        request = TranscriptionRequest(
            audio_sha256=recording.sha256,
            audio_seconds=float(recording.seconds),
            channels=levels.channels if levels and levels.are_apart else 1,
            audio=recording.audio,
        )
        return Sound(request, levels, () if can_decode else (NOT_APART,))

    async def _pay(
        self,
        step: PaidStep,
        name: Step,
        action: str,
        request: Request,
        shared_id: str = "",
        *,
        on_reply: OnReply | None = None,
    ) -> Settled:
        """Pay for a step of the job. `shared_id`: the request's id, if other jobs share its reply."""
        job = step.input
        charge = Charge(
            workspace_id=job.workspace_id,
            user_id=job.user_id,
            prospect_id=job.prospect_id,
            job_key=step.job_key,
            workflow_id=step.workflow_id,
            request_id=shared_id or request_id(step.job_key, step.request_step(name)),
            result_id=shared_id or request_id(step.job_key, name.first_request),
            action=action,
            energy=ENERGY[action],
        )
        provider, model = step.candidate.provider, step.candidate.model
        return await self._paid_calls.make(charge, request, provider, model, on_reply=on_reply)

    async def _follow(self, settled: Settled, store: OnReply) -> None:
        """Write what follows from a reply, where it was not written with it: the reply was settled before."""
        if not settled.has_followed:
            async with self._database.transaction() as tx:
                await store(tx, settled.reply)


class Sound(NamedTuple):
    """A recording to transcribe. `levels`: of its channels, where it has several."""

    request: TranscriptionRequest
    levels: Levels | None
    warnings: tuple[str, ...]

    def words(self, reply: Reply) -> tuple[SpokenWord, ...]:
        """What was recognised, without words that a channel has of another one's speaker."""
        assert reply.kind == "transcription"  # noqa: S101 - it answers a request of this kind
        return tuple(own_words(self.levels, reply.words)) if self.levels else reply.words

    def session(self, reply: Reply, hearing: Hearing, owner: Owner) -> Session:
        """The session of what was recognised; for hours of speech it takes a second."""
        assert reply.kind == "transcription"  # noqa: S101 - it answers a request of this kind
        transcript = transcript_of(self.words(reply), reply.language)
        return session_of(transcript, hearing, owner, seconds=self.request.audio_seconds)


class Material(NamedTuple):
    """What the prompt for coaching is made of. `measured`: on the recording; None where the prompt has none of it."""

    session: Session
    rubric: Rubric
    counted: Habits
    measured: VoiceMetrics | None


async def material_of(tx: AsyncSession, row: StoredAnalysis, *, after_voice: bool) -> Material:
    """What a job's prompt for coaching is made of. `after_voice`: with what was measured on the recording."""
    session = await load_session(tx, row.workspace_id, row.session_id, row.session_sha256)
    rubric = await rubrics.load(tx, row.workspace_id, row.rubric)
    measured = _metrics_of(session, row.voice_metrics, row.acoustics, row.recording_sha256) if after_voice else None
    return Material(session, rubric, habits(session), measured)


async def _excerpt(session: Session, budget_tokens: int | None) -> Excerpt | None:
    """What is read of a transcript. Tokens are counted in a thread: a long transcript takes a second."""
    return None if budget_tokens is None else await asyncio.to_thread(excerpt_of, session, budget_tokens)


def _levels(audio: bytes) -> Levels | None:
    """The levels of several channels. The provider refuses what cannot be decoded."""
    try:
        return channel_levels(audio)
    except InvalidInput:
        return None


def judged(
    settled: Settled, rubric: Rubric, session: Session, candidate: Candidate
) -> tuple[StepOutcome, Coaching | None]:
    """The outcome of a reply to a request for coaching, and the coaching if the reply can be used."""
    assert settled.reply.kind == "chat"  # noqa: S101 - it answers a request of this kind
    coaching, problem = read_reply(settled.reply, rubric, session)
    return _coached(settled, problem, candidate), coaching


def _coached(settled: Settled, problem: str, candidate: Candidate) -> StepOutcome:
    cut = settled.reply.kind == "chat" and settled.reply.finish is Finish.LENGTH
    return StepOutcome(provenance=_provenance(candidate, Step.COACHING, settled), problem=problem, cut=cut)


def _user_of(words: Sequence[SpokenWord], session: Session) -> tuple[str, StepOutcome]:
    """Who of the speakers is the user, and the outcome; empty where nothing can be measured."""
    if not any(word.kind == "word" for word in words):
        return "", StepOutcome(problem="no words were recognised")
    speaker = rep_speaker(words, session)
    if not speaker:
        return "", StepOutcome(problem="no speaker talks during the rep's turns")
    other = mismatch(words, session)
    return speaker, StepOutcome(warnings=(other,) if other else ())


def _real_steps(chat: Sequence[Option], voice: Sequence[Option]) -> set[Step]:
    """The steps that a vendor would answer, and not the simulator."""
    made_by = {Step.COACHING: chat, Step.VOICE: voice, Step.HEAR: voice}
    return {step for step, options in made_by.items() if any(one.is_real for one in options)}


def _plan(step: PrepareStep, session: Session, choice: Choice, *, chat: list[Option], voice: list[Option]) -> Plan:
    """The candidates for coaching and, where there is a recording to measure, for the voice."""
    job, cheap = step.input, choice.strategy is Strategy.COST_OPTIMIZED
    candidate, warnings = (step.heard_by, ()) if step.heard_by else _voice_candidate(job, session, voice, cheap=cheap)
    order = Order.CHEAPEST_FIRST if cheap else Order.AS_GIVEN
    coaching = rank(chat, RoutingRequest(provider=job.provider, order=order)).candidates
    return Plan(choice=choice, coaching=coaching, voice=candidate, warnings=warnings)


def _voice_candidate(
    job: SessionAnalysisInput, session: Session, options: list[Option], *, cheap: bool
) -> tuple[Candidate | None, tuple[str, ...]]:
    if job.recording_sha256 is None:
        return None, ()
    if cheap and all(turn.words for turn in session.turns):
        saving = "voice metrics are computed from the transcript's word times because the strategy saves cost"
        return None, (saving, NOT_COMPARED)
    ranked = rank(options, RoutingRequest()).candidates
    if not ranked:
        return None, (f"voice metrics are computed from the transcript: {NOTHING_HEARS}", NOT_COMPARED)
    return ranked[0], ()


def _require_energy(*actions: str, available: int, user_id: str) -> None:
    needed = sum(ENERGY[action] for action in actions)
    if available < needed:
        raise InsufficientEnergy(f"user {user_id!r} has {available} energy; this analysis needs {needed}")


def _row(step: PrepareStep | CloseStep, rubric: str) -> StoredAnalysis:
    job = step.input
    return StoredAnalysis(
        workspace_id=job.workspace_id,
        job_key=step.job_key,
        workflow_id=step.workflow_id,
        session_id=job.session_id,
        session_sha256=job.session_sha256,
        recording_sha256=job.recording_sha256,
        user_id=job.user_id,
        rubric=rubric,
    )


def _provenance(candidate: Candidate, name: Step, settled: Settled) -> Provenance:
    """The source of a reply, by the journal. `reason` belongs to the step's candidate.

    The reply comes from another candidate if an earlier attempt there was settled first.
    """
    return Provenance(
        step=name,
        provider=settled.provider.value,
        model=settled.model,
        answered_by=settled.reply.model,
        simulated=settled.simulated,
        reason=candidate.reason,
    )


async def _analysis(tx: AsyncSession, row: StoredAnalysis, step: FinishStep) -> Analysis:
    """The result of a job with what is stored of it."""
    job = step.input
    if step.reused and step.reused.kind == "exact":
        same = await analyses.load(tx, job.workspace_id, step.reused.job_key)
        analysis = _used_again(Analysis.model_validate(same.result), step, step.reused)
    else:
        session = await load_session(tx, job.workspace_id, job.session_id, job.session_sha256)
        rubric = await rubrics.load(tx, job.workspace_id, row.rubric)
        analysis = _assembled(session, rubric, row, step)
    real = {source.step for source in analysis.provenance if not source.simulated}
    earlier = await analyses.earlier(tx, job.workspace_id, row, real, limit=EARLIER_SESSIONS)
    return analysis.model_copy(update={"trends": _trends(earlier, analysis)})


def _assembled(session: Session, rubric: Rubric, row: StoredAnalysis, step: FinishStep) -> Analysis:
    counted = habits(session)
    # If the job continued without the voice metrics, ignore metrics that were stored later.
    measured = row.voice_metrics if any(source.step is Step.VOICE for source in step.provenance) else None
    sound = row.acoustics if step.acoustics else None
    metrics = _metrics_of(session, measured, sound, step.input.recording_sha256)
    if row.coaching:
        # Here, and not where the reply is read: the voice may be measured at the same time.
        coaching = check_numbers(Coaching.model_validate(row.coaching), counted, metrics)
    else:
        coaching = rule_based(session, counted, rubric)
    return Analysis(
        session_id=session.session_id,
        user_id=step.input.user_id,
        strategy=step.choice.strategy,
        strategy_reason=step.choice.reason,
        voice_metrics=metrics,
        habits=counted,
        coaching=coaching,
        provenance=step.provenance,
        warnings=(
            *((step.reused.warning(),) if step.reused else ()),
            *session.warnings,
            *step.warnings,
            *coaching.warnings(),
        ),
        curves=Curves.model_validate(row.curves) if sound and row.curves else None,
        reused=step.reused,
        pending=step.pending,
    )


def _trends(earlier: list[dict[str, Any]], analysis: Analysis) -> Trends:
    past = [
        Past(
            one["session_id"],
            Coaching.model_validate(one["coaching"]),
            Habits.model_validate(one["habits"]),
            VoiceMetrics.model_validate(one["voice_metrics"]),
        )
        for one in earlier
    ]
    return trends(past, Past(analysis.session_id, analysis.coaching, analysis.habits, analysis.voice_metrics))


def _metrics_of(
    session: Session, words: dict[str, Any] | None, sound: dict[str, Any] | None, recording_sha256: str | None
) -> VoiceMetrics:
    """The metrics from what was recognised and measured on the recording; from the transcript where nothing was."""
    metrics = VoiceMetrics.model_validate(words) if words else from_session(session)
    reason = NO_RECORDING if recording_sha256 is None else NO_SOUND
    return with_acoustics(metrics, Acoustics.model_validate(sound) if sound else None, reason)


def _used_again(earlier: Analysis, step: FinishStep, reused: Reused) -> Analysis:
    """An earlier result of the same content, marked as such: it is not a new one."""
    return earlier.model_copy(
        update={
            "strategy": step.choice.strategy,
            "strategy_reason": step.choice.reason,
            "reused": reused,
            "warnings": tuple(dict.fromkeys((reused.warning(), *earlier.warnings, *step.warnings))),
        }
    )
