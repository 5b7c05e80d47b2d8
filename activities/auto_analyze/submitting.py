"""The steps of a run that asks in batches: submit the requests of many steps together, and take their replies."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import NoReturn

from temporalio import activity

from activities.auto_analyze.labelling import LabellingActivities, PaidRequests
from activities.boundary import boundary, without_boundary
from activities.paid_submissions import Asked, OpenSubmission, PaidSubmissions
from parley.domain.auto_analyze.contract import ClassifyOutcome, ClassifyStep, Phase
from parley.domain.auto_analyze.submissions import (
    PolledSubmission,
    PollSubmission,
    SettledSubmission,
    SettleSubmission,
    SubmissionStep,
    Submit,
    Submitted,
)
from parley.domain.errors import BudgetExhausted
from parley.domain.requests import Provider, Request
from parley.domain.requests import fingerprint as fingerprint_of
from parley.storage import submissions
from parley.storage.auto_analyze import OpenBatch
from parley.storage.database import Database
from parley.storage.ledger import Charge, OnReply
from parley.storage.tables import Submission

BATCHES_AT_ONCE = 200


class Postponed(Exception):
    """A step came to its paid request, which is made later."""

    def __init__(self, charge: Charge, request: Request, fingerprint: str) -> None:
        super().__init__(charge.request_id)
        self.charge, self.request, self.fingerprint = charge, request, fingerprint


class _PostponedRequests:
    """In the place of `PaidCalls`: a step ends at its request. So a batch asks exactly what the step asks."""

    async def make(
        self,
        charge: Charge,
        request: Request,
        provider: Provider,  # noqa: ARG002 - the batch has one
        model: str,  # noqa: ARG002
        *,
        fingerprint: str | None = None,
        on_reply: OnReply | None = None,  # noqa: ARG002 - the step that takes the reply has its own
    ) -> NoReturn:
        raise Postponed(charge, request, fingerprint or fingerprint_of(request))


class SubmittingActivities:
    """Activities of one worker, on its database and the batch APIs of its providers."""

    def __init__(
        self,
        database: Database,
        paid: PaidSubmissions,
        paid_calls: PaidRequests,
        limits: Callable[[Provider], float],
    ) -> None:
        """`paid_calls`: makes the requests that are not in a batch. `limits`: the requests per second of a provider."""
        self._database, self._paid = database, paid
        self._labelling = LabellingActivities(database, paid_calls, limits)
        self._planning = LabellingActivities(database, _PostponedRequests(), limits)

    @activity.defn(name="auto_analyze.submit")
    @boundary
    async def submit(self, step: Submit) -> Submitted:
        """Send the requests of the next batches of sessions. The budget and the provider decide how many fit.

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
        return Submitted(lines=lines, next_step=found.next_step, refused=found.problem)

    @activity.defn(name="auto_analyze.poll_submission")
    @boundary
    async def poll_submission(self, step: PollSubmission) -> PolledSubmission:
        """See how far the provider is with a submission."""
        status = await self._paid.poll(step.job.input.workspace_id, step.submission_id, cancel=step.cancel)
        state = "working" if status.state == "working" else "ended"
        return PolledSubmission(state=state, processed=status.answered + status.failed)

    @activity.defn(name="auto_analyze.settle_submission")
    @boundary
    async def settle_submission(self, step: SettleSubmission) -> SettledSubmission:
        """Settle the requests of a submission, and label the sessions of those with a reply."""
        workspace_id = step.job.input.workspace_id
        ended = await self._paid.settle(workspace_id, step.submission_id, give_up=step.give_up)
        invented, left_out = 0, 0
        async for batch in self._answered(step):
            outcome = await self._classify(self._labelling, step, batch)
            invented, left_out = invented + outcome.invented, max(left_out, outcome.left_out)
        return SettledSubmission(**ended._asdict(), invented=invented, labels_left_out=left_out)

    async def _send(self, step: Submit, submission: Submission) -> Submission:
        async with self._paid.opened(submission) as opened:
            next_step = await self._collect(step, opened)
            if opened.lines:
                return await self._paid.send(opened, next_step)
        await self._paid.end_empty(submission)
        return submission

    async def _collect(self, step: Submit, opened: OpenSubmission) -> int | None:
        """Add the requests of the next batches. Returns the first batch that does not fit; None: all do."""
        async for batch in self._open_batches(step):
            asked = await self._asked(step, batch)
            if asked is None:
                continue
            try:
                has_room = await self._paid.add(opened, asked, step.candidate.model)
            except BudgetExhausted:
                if not opened.lines:
                    raise
                has_room = False
            if not has_room and opened.lines:
                return batch.number
        return None

    async def _asked(self, step: Submit, batch: OpenBatch) -> Asked | None:
        """The request for the labels of a batch; None if none can be made now, or none is needed."""
        try:
            await self._classify(self._planning, step, batch)
        except Postponed as postponed:
            return Asked(postponed.charge, postponed.request, postponed.fingerprint, batch.number)
        return None

    async def _classify(
        self, labelling: LabellingActivities, step: SubmissionStep, batch: OpenBatch
    ) -> ClassifyOutcome:
        """The step by which a stream labels the batch."""
        streams = step.job.input.streams
        classify = ClassifyStep(
            job=step.job,
            candidate=step.candidate,
            phase=Phase.PARALLEL,
            round=batch.round,
            stream=batch.stream or batch.number % streams + 1,
            ends=batch.number,
            ordinals=tuple(range(batch.start, batch.start + batch.count)),
            sized_for=step.candidate.model,
        )
        return await without_boundary(LabellingActivities.classify)(labelling, classify)

    def _open_batches(self, step: Submit) -> AsyncIterator[OpenBatch]:
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        read = partial(submissions.open_batches, workspace_id=workspace_id, job_key=job_key)
        return self._pages(read, after=step.first - 1)

    def _answered(self, step: SubmissionStep) -> AsyncIterator[OpenBatch]:
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        answered = submissions.answered_batches
        read = partial(answered, workspace_id=workspace_id, job_key=job_key, submission_id=step.submission_id)
        return self._pages(read, after=-1)

    async def _pages(self, read: Callable[..., Awaitable[list[OpenBatch]]], *, after: int) -> AsyncIterator[OpenBatch]:
        """All batches that `read` finds after a number, a page in each transaction."""
        while True:
            async with self._database.reads() as tx:
                page = await read(tx, after=after, limit=BATCHES_AT_ONCE)
            for batch in page:
                yield batch
            if len(page) < BATCHES_AT_ONCE:
                return
            after = page[-1].number

    async def _count(self, submission: Submission) -> int:
        async with self._database.reads() as tx:
            return len(await submissions.lines(tx, submission.workspace_id, submission.id))
