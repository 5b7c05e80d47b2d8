"""Submit requests of a run in batches, wait for hours by timers, and settle what is answered.

What the provider does not answer is left to the streams or to the second look, which ask it one by one: the paid
requests are the same.
"""

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.submitting import SubmittingActivities
    from parley.domain.auto_analyze.contract import Job
    from parley.domain.auto_analyze.processing import OpenSubmission
    from parley.domain.auto_analyze.submissions import (
        PolledSubmission,
        PollSubmission,
        SettledSubmission,
        SettleSubmission,
        SubmissionStep,
        Submit,
        Submitted,
    )
    from parley.domain.queues import provider_queue
    from workflows.auto_analyze.parallel import show_progress
    from workflows.auto_analyze.run_state import RunState
    from workflows.fallback import DurableEngine, NoProviderServed, first_success, is_over_budget, raise_if_cancelled
    from workflows.operating import history_is_long
    from workflows.policies import SUBMISSION_POLL, SUBMISSION_STEP

# A provider works on so many at once. More would only reserve more of the budget.
MOST_OPEN = 8
# The pause between two looks is a tenth of the time so far, within these bounds.
SHORTEST_PAUSE, LONGEST_PAUSE, PAUSES = timedelta(seconds=15), timedelta(minutes=10), 10
# Providers end a batch after a day. What one does not end by then is cancelled.
CANCEL_AFTER = timedelta(hours=30)
# How long the end of a batch is awaited after the provider was asked to cancel it. Then it is given up.
CANCEL_WITHIN = timedelta(minutes=30)


class BatchProcessing:
    """The submissions of a run. Those that are open are part of its state, so that it can continue as new."""

    def __init__(self, job: Job, state: RunState) -> None:
        """What is submitted is for the purpose that the state has: see `RunState.begin_submissions`."""
        self._job, self._state = job, state
        self._candidate = state.plan.candidates[0]
        self._submitting: int | None = None

    async def run(self) -> bool:
        """Ask all that batches can ask. Returns False where the segment is full, or the run is paused, before."""
        while True:
            await self._submit_all()
            done = self._state.submissions
            if not done.open:
                return done.next_step is None or self._state.finishing
            if history_is_long():
                return False
            await self._wait(workflow.now() - max(one.changed_at for one in done.open))
            for one in done.open:
                await self._look_at(one)
                raise_if_cancelled()

    async def stop(self) -> None:
        """Cancel what is open at the provider, and settle what it has answered, since that is billed.

        The run ends also where this fails: what the requests may cost stays uncertain.
        """
        numbers = [one.number for one in self._state.submissions.open]
        numbers += [self._submitting] if self._submitting else []
        deadline = workflow.now() + CANCEL_WITHIN
        while numbers and workflow.now() < deadline:
            numbers = [number for number in numbers if not await self._has_stopped(number)]
            if numbers:
                await workflow.sleep(SHORTEST_PAUSE)
        for number in numbers:
            try:
                if not await self._settle(number, give_up=False):
                    await self._settle(number, give_up=True)
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                self._state.add_warning(f"the replies of a batch are not taken: {error}")

    async def _has_stopped(self, number: int) -> bool:
        polled = await self._poll(number, cancel=True)
        if polled is None or polled.state == "working":
            return False
        return polled.state == "none" or await self._settle(number, give_up=False)

    async def _submit_all(self) -> None:
        """Submit until all is submitted, the budget is reserved, or enough is open.

        Raises:
            ApplicationError: nothing is open, and the budget does not allow one request more.
        """
        while self._may_submit and not history_is_long():
            try:
                await self._submit()
            except ApplicationError as error:
                # What the open ones reserve, and do not need, is free when they are settled.
                if not is_over_budget(error):
                    raise
                self._submitting = None
                if not self._state.submissions.open:
                    raise
                return

    @property
    def _may_submit(self) -> bool:
        done = self._state.submissions
        return done.next_step is not None and len(done.open) < MOST_OPEN and not self._state.is_held

    async def _submit(self) -> None:
        done = self._state.submissions
        number = self._submitting = done.number + 1
        step = Submit(**self._step(number), first=done.next_step or 0)
        try:
            submitted: Submitted = await self._on_the_provider(SubmittingActivities.submit, step)
        except NoProviderServed as error:
            # It may have them: what they may cost stays uncertain.
            self._state.add_submission(number, Submitted(lines=0, next_step=None, refused=error.message))
            await self._settle(number, give_up=True)
            self._submitting = None
            return
        self._state.add_submission(number, submitted)
        self._submitting = None
        raise_if_cancelled()
        if submitted.refused:
            await self._settle(number, give_up=False)

    async def _wait(self, elapsed: timedelta) -> None:
        """Wait until it is time to look, or an operator ends the labelling."""
        pause = max(SHORTEST_PAUSE, min(elapsed / PAUSES, LONGEST_PAUSE))
        was_finishing = self._state.finishing
        try:
            await workflow.wait_condition(lambda: self._state.finishing and not was_finishing, timeout=pause)
        except TimeoutError:
            return

    async def _look_at(self, one: OpenSubmission) -> None:
        """Settle a submission that has ended. One that takes too long is cancelled, and then given up."""
        cancels = self._state.finishing or workflow.now() - one.sent_at > CANCEL_AFTER
        if cancels:
            one = self._state.cancel_submission(one.number)
        polled = await self._poll(one.number, cancel=cancels)
        if polled is not None:
            self._state.show_submission(one.number, polled.processed)
        if await self._is_settled(one, polled) and self._state.submissions.purpose == "labels":
            await show_progress(self._job, self._state)

    async def _is_settled(self, one: OpenSubmission, polled: PolledSubmission | None) -> bool:
        """Settle a submission that has ended; else give it up if that is late. Returns whether it is settled."""
        if polled is not None and polled.state == "ended" and await self._settle(one.number, give_up=False):
            return True
        is_late = one.cancelled_at is not None and workflow.now() - one.cancelled_at > CANCEL_WITHIN
        return is_late and await self._settle(one.number, give_up=True)

    async def _poll(self, number: int, *, cancel: bool) -> PolledSubmission | None:
        """How far the provider is; None while it does not say."""
        step = PollSubmission(**self._step(number), cancel=cancel)
        try:
            return await self._execute(SubmittingActivities.poll_submission, step, "look at a batch", SUBMISSION_POLL)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("a batch was not looked at: %s", error.cause or error)
            return None

    async def _settle(self, number: int, *, give_up: bool) -> bool:
        """Take the replies. Returns False where the provider does not give them now: then the next look tries again."""
        step = SettleSubmission(**self._step(number), give_up=give_up)
        try:
            settled: SettledSubmission = await self._execute(
                SubmittingActivities.settle_submission, step, "take the replies of a batch", SUBMISSION_STEP
            )
        except ActivityError as error:
            if give_up or is_cancelled_exception(error):
                raise error.cause or error from None
            return False
        self._state.settle_submission(number, settled)
        return True

    async def _on_the_provider(self, activity: Any, step: SubmissionStep) -> Any:
        """Run a step on the provider. While it is down, wait until it is up."""
        engine = DurableEngine(SUBMISSION_STEP, self._state.wait_for_provider)

        async def attempt(_: Any) -> Any:
            return await engine.run_step(activity, step, self._candidate, summary=f"send batch {step.number}")

        limit = timedelta(seconds=self._job.input.wait_limit_seconds)
        return await first_success(engine, [self._candidate], attempt, wait_limit=limit)

    async def _execute(self, activity: Any, step: SubmissionStep, summary: str, options: dict[str, Any]) -> Any:
        queue = provider_queue(self._candidate.provider)
        return await workflow.execute_activity_method(
            activity, step, task_queue=queue, summary=f"{summary}: {step.number}", **options
        )

    def _step(self, number: int) -> dict[str, Any]:
        purpose = self._state.submissions.purpose
        return {"job": self._job, "candidate": self._candidate, "number": number, "purpose": purpose}
