"""The activities of `CoachingCollector`: add a job to a collector, and coach several jobs by one request."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client
from temporalio.common import Priority

from activities.boundary import boundary
from activities.paid_call import Joint, MemberRequest, PaidCalls
from activities.session_analysis import Material, judged, material_of
from parley.domain.coaching.collecting import (
    WORKFLOW,
    Collected,
    CollectedJob,
    CollectStep,
    JointOutcome,
    JointStep,
)
from parley.domain.coaching.prompts import MAX_TOKENS, coaching_request, joint_request
from parley.domain.coaching.replies import divide
from parley.domain.errors import ParleyError
from parley.domain.queues import WORKFLOWS, fairness_key
from parley.domain.requests import ChatRequest, request_id
from parley.domain.session_analysis import COACHING_ACTION, ENERGY, Step, StepOutcome
from parley.storage import analyses
from parley.storage.database import Database
from parley.storage.ledger import Charge, Settled


@dataclass(frozen=True)
class _Loaded:
    """A job that still runs, with what its prompt is made of."""

    job: CollectedJob
    user_id: str
    material: Material


class CollectingActivities:
    """Activities of one worker, on its database, its providers and its connection to Temporal."""

    def __init__(self, database: Database, paid_calls: PaidCalls, client: Client) -> None:
        self._database, self._paid_calls, self._client = database, paid_calls, client

    @activity.defn(name="session_analysis.collect")
    @boundary
    async def collect(self, step: CollectStep) -> Collected:
        """Add a job to its collector. The collector ignores a job that it knows."""
        given = step.collector
        await self._client.start_workflow(
            WORKFLOW,
            given,
            id=given.workflow_id,
            task_queue=WORKFLOWS,
            priority=Priority(fairness_key=fairness_key(given.workspace_id)),
            start_signal="collect",
            start_signal_args=[step.job],
        )
        return Collected(collector_id=given.workflow_id)

    @activity.defn(name="session_analysis.coach_jointly")
    @boundary
    async def coach_jointly(self, step: JointStep) -> JointOutcome:
        """Request the coaching of several jobs by one request. A job that has ended meanwhile is left out."""
        async with self._database.transaction() as tx:
            found = [await _loaded(tx, step.workspace_id, job) for job in step.jobs]
        loaded = [one for one in found if one is not None]
        replies = await self._replies(step, loaded) if loaded else []
        ends = {one.job.job_key: reply for one, reply in zip(loaded, replies, strict=True)}
        outcomes = [await self._outcome(step, one, ends[one.job.job_key]) if one else None for one in found]
        return JointOutcome(outcomes=tuple(outcomes))

    async def _replies(self, step: JointStep, loaded: list[_Loaded]) -> list[Settled | ParleyError]:
        rubric = loaded[0].material.rubric
        asked = [MemberRequest(_charge(step, one), _request(one)) for one in loaded]
        members = [(one.material.session, one.material.counted, one.material.measured) for one in loaded]
        joint = Joint(join=lambda places: joint_request(rubric, [members[place] for place in places]), divide=divide)
        candidate = step.candidate
        return await self._paid_calls.make_jointly(asked, joint, candidate.provider, candidate.model)

    async def _outcome(self, step: JointStep, one: _Loaded, end: Settled | ParleyError) -> StepOutcome | None:
        """Judge a job's reply, and store its coaching. None if there is no reply."""
        if isinstance(end, ParleyError):
            return None
        outcome, coaching = judged(end, one.material.rubric, one.material.session, step.candidate)
        if coaching is not None:
            coaching = coaching.model_copy(update={"knows_voice": one.job.after_voice})
            parts = {"coaching": coaching.model_dump(mode="json")}
            async with self._database.transaction() as tx:
                await analyses.store_parts(tx, step.workspace_id, one.job.job_key, **parts)
        return outcome


async def _loaded(tx: AsyncSession, workspace_id: str, job: CollectedJob) -> _Loaded | None:
    """None if the job does not run any more: it is not paid for."""
    row = await analyses.load(tx, workspace_id, job.job_key)
    if row.status != "running":
        return None
    return _Loaded(job, row.user_id, await material_of(tx, row, after_voice=job.after_voice))


def _charge(step: JointStep, one: _Loaded) -> Charge:
    """The account of a job's first request for coaching, as if it were sent alone."""
    asked = request_id(one.job.job_key, Step.COACHING.first_request)
    return Charge(
        workspace_id=step.workspace_id,
        user_id=one.user_id,
        prospect_id=one.job.prospect_id,
        job_key=one.job.job_key,
        workflow_id=one.job.workflow_id,
        request_id=asked,
        result_id=asked,
        action=COACHING_ACTION,
        energy=ENERGY[COACHING_ACTION],
    )


def _request(one: _Loaded) -> ChatRequest:
    return coaching_request(*one.material, max_tokens=MAX_TOKENS)
