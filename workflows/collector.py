"""`CoachingCollector`: short sessions of free users wait for each other, and share one request for coaching."""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.collecting import CollectingActivities as Activities
    from parley import visibility
    from parley.domain.coaching.collecting import (
        WORKFLOW,
        CollectedJob,
        CollectedOutcome,
        CollectorInput,
        JointOutcome,
        JointStep,
    )
    from parley.domain.errors import InvalidInput, ParleyError
    from parley.domain.joint import MOST_MEMBERS
    from parley.domain.queues import provider_queue
    from workflows.operating import history_is_long
    from workflows.policies import JOINT_STEP

# Requests under way at once. Further sessions wait longer.
MOST_REQUESTS = 20
# About thirty events each.
REQUESTS_PER_RUN = 200
# Jobs that a run may leave to the next one: some hundred bytes each, and a payload should stay small.
MOST_CARRIED = 400
NOTHING_WAITS = timedelta(minutes=1)


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class CoachingCollector:
    """Gather jobs until enough of them wait or the first has waited long enough, send them together, and end."""

    def __init__(self) -> None:
        self._waiting: list[tuple[CollectedJob, datetime]] = []
        self._known: set[str] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._requests = 0

    @workflow.run
    async def run(self, given: CollectorInput | None = None) -> None:
        """Run until no job waits.

        Raises:
            InvalidInput: the workflow was started without input.
        """
        if given is None:
            raise InvalidInput("CoachingCollector needs a CollectorInput", where="input")
        visibility.record_owner(given.workspace_id, WORKFLOW)
        self._given = given
        for job in given.waiting:
            self.collect(job)
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: bool(self._waiting), timeout=NOTHING_WAITS)
        while self._waiting:
            await self._fill()
            await workflow.wait_condition(lambda: len(self._sending) < MOST_REQUESTS)
            self._send_first()
            await workflow.wait_condition(lambda: bool(self._waiting) or not self._sending)
        await workflow.wait_condition(workflow.all_handlers_finished)

    @workflow.signal
    def collect(self, job: CollectedJob) -> None:
        """Add a job. A repeated signal changes nothing."""
        if job.job_key not in self._known:
            self._known.add(job.job_key)
            self._waiting.append((job, workflow.now()))

    async def _fill(self) -> None:
        """Wait until enough jobs wait, or the first one has waited long enough. A long history is ended before."""
        if self._is_long() and len(self._waiting) <= MOST_CARRIED // 2:
            await self._continue_as_new()
        _, since = self._waiting[0]
        left = since + timedelta(seconds=self._given.seconds) - workflow.now()
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: len(self._waiting) >= MOST_MEMBERS, timeout=max(left, timedelta(milliseconds=1))
            )

    def _is_long(self) -> bool:
        return self._requests >= REQUESTS_PER_RUN or history_is_long()

    async def _continue_as_new(self) -> None:
        """Go on in a new run, once nothing is under way. Returns if too many jobs come meanwhile: they are sent before.

        It is begun with half of what can be carried, so that there is room for those that come.
        """
        await workflow.wait_condition(lambda: not self._sending or len(self._waiting) > MOST_CARRIED)
        if len(self._waiting) <= MOST_CARRIED:
            waiting = tuple(job for job, _ in self._waiting)
            workflow.continue_as_new(self._given.model_copy(update={"waiting": waiting}))

    def _send_first(self) -> None:
        jobs = tuple(job for job, _ in self._waiting[:MOST_MEMBERS])
        del self._waiting[:MOST_MEMBERS]
        self._requests += 1
        sending = asyncio.create_task(self._send(jobs))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)

    async def _send(self, jobs: tuple[CollectedJob, ...]) -> None:
        """Send the jobs together, and each of them its outcome. After a failure each requests its coaching alone."""
        try:
            ended = await workflow.execute_activity_method(
                Activities.coach_jointly,
                JointStep(workspace_id=self._given.workspace_id, candidate=self._given.candidate, jobs=jobs),
                task_queue=provider_queue(self._given.candidate.provider),
                summary=f"{len(jobs)} sessions by one request",
                **JOINT_STEP,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            ended = JointOutcome(outcomes=(None,) * len(jobs))
        for job, outcome in zip(jobs, ended.outcomes, strict=True):
            with suppress(ApplicationError):  # it has ended meanwhile
                waits = workflow.get_external_workflow_handle(job.workflow_id)
                await waits.signal("coached", CollectedOutcome(job_key=job.job_key, outcome=outcome))
