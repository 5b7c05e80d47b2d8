"""The steps of a run that asks in batches: submit the requests of many steps together, and take their replies."""

from collections.abc import Callable, Mapping

from temporalio import activity

from activities.auto_analyze.batched import BatchedRequests, LabelRequests, LookRequests
from activities.auto_analyze.labelling import MakesPaidCalls
from activities.auto_analyze.meaning import Meaning
from activities.boundary import boundary
from activities.paid_submissions import LineRequest, PaidSubmissions, SubmissionDraft
from parley.domain.auto_analyze.processing import Purpose
from parley.domain.auto_analyze.submissions import (
    PolledSubmission,
    PollSubmission,
    SettledSubmission,
    SettleSubmission,
    Submit,
    Submitted,
)
from parley.domain.errors import BudgetExhausted
from parley.domain.requests import Provider
from parley.storage import submissions
from parley.storage.database import Database
from parley.storage.tables import Submission


class SubmittingActivities:
    """Activities of one worker, on its database and the batch APIs of its providers."""

    def __init__(
        self,
        database: Database,
        paid: PaidSubmissions,
        paid_calls: MakesPaidCalls,
        limits: Callable[[Provider], float],
        meaning: Meaning,
    ) -> None:
        """`paid_calls`: takes the replies that are there. `limits`: the requests per second of a provider.

        `meaning`: compares labels and sessions.
        """
        self._database, self._paid = database, paid
        self._requests: Mapping[Purpose, BatchedRequests] = {
            "labels": LabelRequests(database, paid_calls, limits),
            "second look": LookRequests(database, paid_calls, limits, meaning),
        }

    @activity.defn(name="auto_analyze.submit")
    @boundary
    async def submit(self, step: Submit) -> Submitted:
        """Send the requests for the next batches of sessions. The budget and the provider decide how many fit.

        It may be repeated at any time: what was sent is not sent again.

        Raises:
            BudgetExhausted: not even the first request fits.
            ProviderUnavailable: it is not certain yet whether an earlier try has sent it.
        """
        given, candidate = step.job.input, step.candidate
        found = await self._paid.begin(given.workspace_id, step.submission_id, step.job.job_key, candidate.provider)
        if found.state == "claiming":
            found = await self._send(step, found)
        lines = await self._count(found)
        refused = found.problem if found.state == "refused" else ""
        return Submitted(lines=lines, next_step=found.next_step, refused=refused)

    @activity.defn(name="auto_analyze.poll_submission")
    @boundary
    async def poll_submission(self, step: PollSubmission) -> PolledSubmission:
        """See how far the provider is with a submission."""
        try:
            status = await self._paid.poll(step.job.input.workspace_id, step.submission_id, cancel=step.cancel)
        except submissions.NotBegun:
            return PolledSubmission(state="none")
        state = "working" if status.state == "working" else "ended"
        return PolledSubmission(state=state, processed=status.answered + status.failed)

    @activity.defn(name="auto_analyze.settle_submission")
    @boundary
    async def settle_submission(self, step: SettleSubmission) -> SettledSubmission:
        """Settle the requests of a submission, and use the replies."""
        workspace_id = step.job.input.workspace_id
        ended = await self._paid.settle(workspace_id, step.submission_id, give_up=step.give_up)
        taken = await self._requests[step.purpose].take(step)
        return SettledSubmission(**ended._asdict(), **taken)

    async def _send(self, step: Submit, submission: Submission) -> Submission:
        async with self._paid.drafting(submission) as draft:
            next_step = await self._collect(step, draft)
            if draft.lines:
                return await self._paid.send(draft, next_step)
        await self._paid.end_empty(submission)
        return submission

    async def _collect(self, step: Submit, draft: SubmissionDraft) -> int | None:
        """Add the requests for the next batches. Returns the first batch that does not fit; None: all do."""
        async for number, requests in self._requests[step.purpose].asked(step):
            for asked in requests:
                if not await self._add(draft, asked, step.candidate.model):
                    return number
        return None

    async def _add(self, draft: SubmissionDraft, asked: LineRequest, model: str) -> bool:
        """Add a request. Returns False if it has to wait for the next submission.

        Raises:
            BudgetExhausted: not even the first request fits.
        """
        try:
            has_room = await self._paid.add(draft, asked, model)
        except BudgetExhausted:
            if not draft.lines:
                raise
            return False
        # One that is too large for any submission is left out.
        return has_room or not draft.lines

    async def _count(self, submission: Submission) -> int:
        async with self._database.reads() as tx:
            return len(await submissions.lines(tx, submission.workspace_id, submission.id))
