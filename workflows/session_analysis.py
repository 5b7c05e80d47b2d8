"""`SessionAnalysis`: compute voice metrics and a coaching analysis for one recorded voice session."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeGuard

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.acoustics import AcousticsActivities
    from activities.collecting import CollectingActivities
    from activities.session_analysis import SessionAnalysisActivities as Activities
    from parley import visibility
    from parley.domain.coaching.collecting import CollectedJob, CollectedOutcome, CollectorInput, CollectStep
    from parley.domain.errors import ContentFiltered, InvalidInput, ParleyError, ProviderUnavailable
    from parley.domain.hearing import NOT_COMPARED
    from parley.domain.routing import Candidate
    from parley.domain.session_analysis import (
        WORKFLOW,
        AcousticsStep,
        CloseStep,
        FinishStep,
        PaidStep,
        Plan,
        PrepareStep,
        Progress,
        Provenance,
        SessionAnalysisInput,
        SessionAnalysisResult,
        Step,
        StepOutcome,
        Strategy,
        Variant,
        first_variant,
        next_variant,
        steps_of,
    )
    from parley.failures import reason_of
    from workflows.fallback import DurableEngine, NoProviderServed, first_success
    from workflows.operating import waiting_note
    from workflows.policies import (
        ACOUSTICS_STEP,
        FIRST_PARK,
        HEAR_STEP,
        HEAR_STEP_AT_ONCE,
        OWN_STEP,
        PAID_STEP,
        PAID_STEP_AT_ONCE,
        STORAGE_STEP,
    )

MAX_ASKS = 3
# Longer than a shared request takes, unless its provider's workers are away.
COLLECTOR_ANSWERS = timedelta(minutes=15)


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class SessionAnalysis:
    """Prepare, measure the voice and coach in the order of the strategy, and store the result."""

    def __init__(self) -> None:
        self._progress = Progress(phase=Step.PREPARE)
        self._heard_by: Candidate | None = None
        self._hearing_request = ""
        self._provenance: list[Provenance] = []
        self._warnings: list[str] = []
        self._has_acoustics = False
        self._variant, self._after_voice = Variant(), False
        self._outage: NoProviderServed | None = None
        self._voice_outage: NoProviderServed | None = None
        self._late_voice: asyncio.Task[bool] | None = None
        self._coached: CollectedOutcome | None = None
        self._job_key = workflow.info().first_execution_run_id

    @workflow.run
    async def run(self, job: SessionAnalysisInput | None = None) -> SessionAnalysisResult:
        """Run the analysis. Cancelling it keeps the replies that are paid for.

        Raises:
            InvalidInput: the workflow was started without input.
            ApplicationError: the job failed; its type is the name of the `ParleyError`.
        """
        if job is None:
            raise InvalidInput("SessionAnalysis needs a SessionAnalysisInput", where="input")
        visibility.record_start(job.workspace_id, WORKFLOW)
        self._job = job
        self._progress = Progress(phase=steps_of(job)[0], total_steps=len(steps_of(job)))
        try:
            return await self._analyse()
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            if self._late_voice is not None:
                self._late_voice.cancel()
            await self._close(error)
            raise

    @workflow.signal
    def coached(self, ended: CollectedOutcome) -> None:
        """Take the outcome of a shared request. That of an earlier job of this id is ignored."""
        if ended.job_key == self._job_key:
            self._coached = ended

    @workflow.query
    def get_progress(self) -> Progress:
        return self._progress

    async def _analyse(self) -> SessionAnalysisResult:
        if self._job.hearing is not None:
            await self._hear()
        plan = await self._prepare()
        if plan.reused is None:
            await self._measure_and_coach(plan)
        elif plan.reused.kind == "similar":
            await self._measure_acoustics()
        await self._amend(plan)
        self._enter(Step.FINISH)
        result = await workflow.execute_local_activity_method(
            Activities.finish, self._finish_step(plan), summary="store the result", **OWN_STEP
        )
        self._done(Step.FINISH)
        visibility.record_end("completed", cost_usd=result.cost_usd, score=result.overall_score)
        return result

    def _finish_step(self, plan: Plan, *pending: Step) -> FinishStep:
        return FinishStep(
            input=self._job,
            job_key=self._job_key,
            choice=plan.choice,
            provenance=tuple(self._provenance),
            warnings=(*plan.warnings, *self._warnings),
            acoustics=self._has_acoustics,
            reused=plan.reused,
            pending=pending,
        )

    async def _prepare(self) -> Plan:
        step = self._prepare_step()
        plan = await workflow.execute_local_activity_method(
            Activities.prepare, step, summary="strategy, candidates, budget", **OWN_STEP
        )
        self._provenance += plan.provenance
        visibility.record(visibility.STRATEGY, plan.choice.strategy.value)
        self._update(strategy=plan.choice.strategy, strategy_reason=plan.choice.reason)
        self._done(Step.PREPARE)
        return plan

    def _prepare_step(self) -> PrepareStep:
        return PrepareStep(
            input=self._job,
            job_key=self._job_key,
            workflow_id=workflow.info().workflow_id,
            heard_by=self._heard_by,
        )

    async def _hear(self) -> None:
        """Transcribe a recording that came alone. It is the session from then on."""
        self._enter(Step.HEAR)
        plan = await workflow.execute_local_activity_method(
            Activities.prepare_hearing, self._prepare_step(), summary="what can hear", **OWN_STEP
        )
        self._hearing_request = plan.request_id
        # Without it there is no session, and nothing that rules could say: it waits for every caller.
        outcome = await self._on_a_provider(
            plan.candidates, Activities.hear, after_voice=False, waits=True, policy=HEAR_STEP
        )
        self._accept(outcome)
        self._heard_by = outcome.heard_by
        self._job = self._job.model_copy(update={"session_sha256": outcome.session_sha256})
        self._done(Step.HEAR)
        self._enter(Step.PREPARE)

    async def _measure_and_coach(self, plan: Plan) -> None:
        self._variant = first_variant(plan.choice.strategy, self._job)
        if plan.choice.strategy is Strategy.FAST_PARALLEL:
            await asyncio.gather(self._measure_voice(plan), self._coach(plan, after_voice=False))
            return
        if plan.choice.strategy is Strategy.HYBRID and self._job.recording_sha256 is not None:
            measured = await self._measured_by_deadline(plan)
        else:
            measured = await self._measure_voice(plan)
        await self._coach(plan, after_voice=measured)

    async def _measured_by_deadline(self, plan: Plan) -> bool:
        """Returns whether the recording was measured by the deadline. What is measured later amends the result."""
        voice = asyncio.create_task(self._measure_voice(plan))
        try:
            await workflow.wait([voice], timeout=self._job.voice_deadline_seconds)
        except asyncio.CancelledError:
            voice.cancel()
            raise
        if voice.done():
            return voice.result()
        self._late_voice = voice
        return False

    async def _amend(self, plan: Plan) -> None:
        """Store a provisional result if something is still to come, and wait for it: the final result amends it."""
        late = self._voice_outage or (self._late_voice is not None and not self._late_voice.done())
        pending = (*((Step.VOICE,) if late else ()), *((Step.COACHING,) if self._outage else ()))
        if pending:
            await self._publish(plan, *pending)
        await asyncio.gather(self._await_voice(plan), self._coach_later(plan))

    async def _await_voice(self, plan: Plan) -> None:
        """Wait for a voice that is late, or out. There is a result without it, so no error ends the job."""
        try:
            if self._late_voice is not None:
                await self._late_voice
            await self._measure_words_later(plan.voice)
        except ApplicationError as error:
            self._warn_of_voice(str(error.message))

    async def _measure_voice(self, plan: Plan) -> bool:
        """Returns whether the recording was measured: its words, its sound, or both.

        `finish` takes words that are missing from the transcript, and marks sound that is missing.
        """
        self._enter(Step.VOICE)
        has_words, _ = await asyncio.gather(self._measure_words(plan.voice), self._measure_acoustics())
        if self._voice_outage:
            # The request for coaching would have other measures after the outage, under the same id.
            return False
        self._done(Step.VOICE)
        return has_words or self._has_acoustics

    async def _measure_words(self, candidate: Candidate | None) -> bool:
        """Returns whether they were measured. Where the caller does not wait, an outage leaves them for later."""
        if candidate is None:
            return False
        try:
            problem = await self._voice_problem(candidate, waits=self._job.wait)
        except ApplicationError as error:
            # `finish` computes the metrics from the transcript instead. Coaching has a rule-based substitute only, so
            # there a job that waits fails after the wait limit.
            problem = _outage_message(error)
            if not self._job.wait and _may_recover(error):
                self._voice_outage = error
                return False
        self._warn_of_voice(problem)
        return not problem

    async def _measure_words_later(self, candidate: Candidate | None) -> None:
        """After an outage, measure the words when the provider is available, within the wait limit."""
        if self._voice_outage is None or candidate is None:
            return
        await self._pause_after(self._voice_outage, Step.VOICE)
        self._warn_of_voice(await self._voice_problem(candidate, waits=True))
        self._done(Step.VOICE)

    async def _measure_acoustics(self) -> None:
        if self._job.recording_sha256 is None:
            return
        try:
            outcome = await workflow.execute_activity_method(
                AcousticsActivities.measure_acoustics,
                AcousticsStep(input=self._job, job_key=self._job_key),
                summary="pitch and loudness",
                **ACOUSTICS_STEP,
            )
            problem = outcome.problem
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            problem = reason_of(error)
        if problem:
            self._warnings.append(f"pitch and loudness are not measured: {problem}")
        self._has_acoustics = not problem

    async def _voice_problem(self, candidate: Candidate, *, waits: bool) -> str:
        return self._accept(
            await self._on_a_provider(
                (candidate,),
                Activities.measure_voice,
                after_voice=False,
                waits=waits,
                policy=HEAR_STEP if waits else HEAR_STEP_AT_ONCE,
            )
        )

    async def _coach(self, plan: Plan, *, after_voice: bool) -> None:
        """Request coaching. Where the caller does not wait for a provider, an outage leaves it for later."""
        self._enter(Step.COACHING)
        self._after_voice = after_voice
        try:
            await self._ask(plan, waits=self._job.wait)
        except ApplicationError as error:
            if self._job.wait:
                raise
            problem = _outage_message(error)
            if _may_recover(error):
                self._outage = error
                return
            self._warn_of_rules(problem)
        self._done(Step.COACHING)

    async def _coach_later(self, plan: Plan) -> None:
        """After an outage, request coaching again until a provider is available, within the wait limit.

        Nothing that happens here takes that result from the caller: it stays rule-based after any error.
        """
        if self._outage is None:
            return
        await self._pause_after(self._outage, Step.COACHING)
        try:
            await self._ask(plan, waits=True)
        except ApplicationError as error:
            self._warn_of_rules(str(error.message))
        self._done(Step.COACHING)

    async def _pause_after(self, outage: NoProviderServed, phase: Step) -> None:
        pause = timedelta(seconds=float(outage.details[0])) if outage.details else FIRST_PARK
        pause = min(pause, timedelta(seconds=self._job.wait_limit_seconds))
        self._enter(phase)
        self._on_wait(str(outage.message), pause)
        await workflow.sleep(pause)

    async def _publish(self, plan: Plan, *pending: Step) -> None:
        """Store what there is, which the caller gets at once. `pending`: what will amend it."""
        await workflow.execute_local_activity_method(
            Activities.publish, self._finish_step(plan, *pending), summary="store a provisional result", **OWN_STEP
        )
        self._update(provisional=True)

    async def _ask(self, plan: Plan, *, waits: bool) -> None:
        """Request coaching until a reply is usable, at most `MAX_ASKS` times.

        If none is, `finish` stores a rule-based analysis and marks it as a fallback.
        """
        problem = ""
        if plan.collect_seconds and self._variant.ask == 1:
            outcome = await self._coached_with_others(plan)
            problem = self._accept(outcome)
            if not problem:
                return
            self._variant = next_variant(self._variant, outcome)
        while self._variant.ask <= MAX_ASKS:
            outcome = await self._on_a_provider(
                plan.coaching,
                Activities.coach,
                self._variant,
                after_voice=self._after_voice,
                waits=waits,
                policy=PAID_STEP if waits else PAID_STEP_AT_ONCE,
            )
            problem = self._accept(outcome)
            if not problem:
                return
            self._variant = next_variant(self._variant, outcome)
        self._warn_of_rules(problem)

    async def _coached_with_others(self, plan: Plan) -> StepOutcome:
        """Wait for other short sessions of free users, and share the first request for coaching with them.

        If a collector was terminated, the job joins the next one. Its request keeps its id, so that it is paid once.
        """
        candidate = plan.coaching[0]
        collector = CollectorInput(
            workspace_id=self._job.workspace_id,
            candidate=candidate,
            rubric=plan.rubric,
            seconds=plan.collect_seconds,
        )
        job = CollectedJob(
            job_key=self._job_key,
            workflow_id=workflow.info().workflow_id,
            prospect_id=self._job.prospect_id,
            after_voice=self._after_voice,
        )
        self._update(note="waiting for other sessions, to share a request")
        while self._coached is None:
            await workflow.execute_activity_method(
                CollectingActivities.collect,
                CollectStep(collector=collector, job=job),
                summary="share a request",
                **STORAGE_STEP,
            )
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: self._coached is not None, timeout=COLLECTOR_ANSWERS)
        self._update(note="")
        return self._coached.outcome or StepOutcome(problem="the shared request had no reply")

    def _warn_of_voice(self, problem: str) -> None:
        if problem:
            self._warnings.append(f"voice metrics are computed from the transcript: {problem}")
            self._warnings += () if self._heard_by else (NOT_COMPARED,)

    def _warn_of_rules(self, problem: str) -> None:
        self._warnings.append(f"coaching is rule-based: {problem}")

    async def _on_a_provider(
        self,
        candidates: Sequence[Candidate],
        activity: Callable[[Activities, PaidStep], Awaitable[StepOutcome]],
        variant: Variant | None = None,
        *,
        after_voice: bool,
        waits: bool,
        policy: dict[str, Any],
    ) -> StepOutcome:
        """Run the step on the first candidate that answers, each attempt on the queue of its provider.

        waits: while all are down.
        """
        engine = DurableEngine(policy, self._on_wait)

        async def attempt(candidate: Candidate) -> StepOutcome:
            step = PaidStep(
                input=self._job,
                job_key=self._job_key,
                workflow_id=workflow.info().workflow_id,
                candidate=candidate,
                variant=variant or Variant(),
                after_voice=after_voice,
                hearing_request=self._hearing_request,
            )
            summary = f"{candidate.provider.value} {candidate.model}: {candidate.reason}"
            return await engine.run_step(activity, step, candidate, summary=summary)

        wait_limit = timedelta(seconds=self._job.wait_limit_seconds if waits else 0)
        return await first_success(engine, candidates, attempt, wait_limit=wait_limit)

    def _accept(self, outcome: StepOutcome) -> str:
        """Record the provenance of a usable reply, and its warnings. Returns the problem of an unusable one.

        Two steps on one recording may warn of the same.
        """
        self._warnings += (warning for warning in outcome.warnings if warning not in self._warnings)
        if not outcome.problem and outcome.provenance:
            self._provenance.append(outcome.provenance)
        return outcome.problem

    async def _close(self, error: BaseException) -> None:
        status = "cancelled" if is_cancelled_exception(error) else "failed"
        closed = await workflow.execute_activity_method(
            Activities.close,
            CloseStep(
                input=self._job,
                job_key=self._job_key,
                workflow_id=workflow.info().workflow_id,
                status=status,
                reason=reason_of(error),
            ),
            summary=f"mark as {status}",
            **STORAGE_STEP,
        )
        visibility.record_end(status, cost_usd=closed.cost_usd)

    def _enter(self, phase: Step) -> None:
        visibility.record(visibility.PHASE, phase.value)
        self._update(phase=phase, note="")

    def _done(self, phase: Step) -> None:
        self._update(done=(*self._progress.done, phase))

    def _on_wait(self, problems: str, pause: timedelta) -> None:
        self._update(note=waiting_note(problems, pause))

    def _update(self, **changes: object) -> None:
        self._progress = self._progress.model_copy(update=changes)
        workflow.set_current_details(as_table(self._progress, steps_of(self._job)))


def _may_recover(error: ApplicationError) -> TypeGuard[NoProviderServed]:
    """Whether a provider may serve it later."""
    return isinstance(error, NoProviderServed) and error.may_recover


def _outage_message(error: ApplicationError) -> str:
    """The message where no provider answers, or none may. Raises any other error, which ends the job."""
    if error.type not in (ProviderUnavailable.__name__, ContentFiltered.__name__):
        raise error
    return str(error.message)


def as_table(progress: Progress, steps: Sequence[Step]) -> str:
    """The progress as a Markdown table for the Temporal UI."""
    rows = [f"| {step.value} | {_state(step, progress)} |" for step in steps]
    strategy = f"**{progress.strategy.value}**: {progress.strategy_reason}\n\n" if progress.strategy else ""
    note = f"\n\n{visibility.plain(progress.note)}" if progress.note else ""
    return strategy + "| step | state |\n|---|---|\n" + "\n".join(rows) + note


def _state(step: Step, progress: Progress) -> str:
    if step in progress.done:
        return "done"
    return "running" if step is progress.phase else ""
