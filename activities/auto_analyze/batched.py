"""What a run asks in batches: for each purpose, the requests of its steps, and the use of their replies."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar

from activities.auto_analyze.labelling import (
    LabellingActivities,
    MakesPaidCalls,
    charge_of,
    fingerprint_of_step,
)
from activities.auto_analyze.meaning import Meaning
from activities.auto_analyze.reassigning import answered_in_batches
from activities.boundary import without_boundary
from activities.paid_submissions import LineRequest
from parley.domain.auto_analyze.contract import Phase
from parley.domain.auto_analyze.steps import ClassifyOutcome, ClassifyStep, ReassignOutcome, ReassignStep
from parley.domain.auto_analyze.submissions import SubmissionStep, Submit
from parley.domain.requests import Provider, Request
from parley.domain.requests import fingerprint as fingerprint_of
from parley.storage import reassignments, submissions
from parley.storage.auto_analyze import OpenBatch
from parley.storage.database import Database
from parley.storage.ledger import Charge, OnReply

AT_ONCE = 200
T = TypeVar("T")


class Postponed(Exception):
    """A step came to its paid request, which is made later."""

    def __init__(self, charge: Charge, request: Request, fingerprint: str) -> None:
        super().__init__(charge.request_id)
        self.charge, self.request, self.fingerprint = charge, request, fingerprint


class PostponesPaidCalls:
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


class BatchedRequests(Protocol):
    """The requests of a run for one purpose."""

    def asked(self, step: Submit) -> AsyncIterator[tuple[int, Sequence[LineRequest]]]:
        """The steps to ask from the one with the number `step.first` on: the number of each, and its requests."""
        ...

    async def take(self, step: SubmissionStep) -> dict[str, Any]:
        """Use the replies of a submission. Returns fields of `SettledSubmission`."""
        ...


class LabelRequests:
    """What the streams ask: the labels of a batch of sessions by one request."""

    def __init__(self, database: Database, paid_calls: MakesPaidCalls, limits: Callable[[Provider], float]) -> None:
        self._database = database
        self._labelling = LabellingActivities(database, paid_calls, limits)
        self._planning = LabellingActivities(database, PostponesPaidCalls(), limits)

    async def asked(self, step: Submit) -> AsyncIterator[tuple[int, Sequence[LineRequest]]]:
        """None for a batch of which no request can be made now, or is needed."""
        scope = {"workspace_id": step.job.input.workspace_id, "job_key": step.job.job_key}
        read = partial(submissions.open_batches, **scope)
        async for batch in _pages(self._database, read, lambda batch: batch.number, after=step.first - 1):
            try:
                await self._classify(self._planning, step, batch)
            except Postponed as postponed:
                asked = LineRequest(postponed.charge, postponed.request, postponed.fingerprint, batch.number)
                yield batch.number, [asked]

    async def take(self, step: SubmissionStep) -> dict[str, Any]:
        scope = {"workspace_id": step.job.input.workspace_id, "job_key": step.job.job_key}
        read = partial(submissions.answered_batches, submission_id=step.submission_id, **scope)
        invented, left_out = 0, 0
        async for batch in _pages(self._database, read, lambda batch: batch.number, after=-1):
            outcome = await self._classify(self._labelling, step, batch)
            invented, left_out = invented + outcome.invented, max(left_out, outcome.left_out)
        return {"invented": invented, "labels_left_out": left_out}

    async def _classify(
        self, labelling: LabellingActivities, step: SubmissionStep, batch: OpenBatch
    ) -> ClassifyOutcome:
        """The step by which a stream labels the batch."""
        classify = ClassifyStep(
            job=step.job,
            candidate=step.candidate,
            phase=Phase.PARALLEL,
            round=batch.round,
            stream=batch.stream_of(step.job.input.streams),
            ends=batch.number,
            ordinals=tuple(range(batch.start, batch.start + batch.count)),
            sized_for=step.candidate.model,
        )
        return await without_boundary(LabellingActivities.classify)(labelling, classify)


class LookRequests:
    """What the second look asks of sessions by themselves: the better labels of a batch of them, by a few requests."""

    def __init__(
        self, database: Database, paid_calls: MakesPaidCalls, limits: Callable[[Provider], float], meaning: Meaning
    ) -> None:
        self._database = database
        self._labelling = LabellingActivities(database, paid_calls, limits, meaning)

    async def asked(self, step: Submit) -> AsyncIterator[tuple[int, Sequence[LineRequest]]]:
        """A batch without a session in doubt is done."""
        scope = {"workspace_id": step.job.input.workspace_id, "job_key": step.job.job_key}
        read = partial(reassignments.open_numbers, **scope)
        async for number in _pages(self._database, read, int, after=step.first - 1):
            looks = await self._labelling.looks(_reassign(step, number))
            if not looks:
                async with self._database.transaction() as tx:
                    await reassignments.complete(tx, number=number, **scope)
                continue
            yield (
                number,
                [
                    LineRequest(
                        charge_of(step.job, look.step),
                        look.request,
                        fingerprint_of_step(look.step),
                        number,
                    )
                    for look in looks
                ],
            )

    async def take(self, step: SubmissionStep) -> dict[str, Any]:
        """The replies of batches that are done are among them: a step that is repeated counts the same."""
        workspace_id = step.job.input.workspace_id
        read = partial(submissions.answered_steps, workspace_id=workspace_id, submission_id=step.submission_id)
        total = ReassignOutcome()
        async for number in _pages(self._database, read, int, after=-1):
            total = total.plus(await self._take(step, number))
        return {"second_look": total}

    async def _take(self, step: SubmissionStep, number: int) -> ReassignOutcome:
        """Use the replies of a submission for a batch of sessions, which is done if no request of it is left."""
        reassign = _reassign(step, number)
        looks = await self._labelling.looks(reassign)
        answered = await answered_in_batches(self._database, step.job, [look.step for look in looks])
        total = ReassignOutcome()
        for look in looks:
            if answered.get(look.step) == step.submission_id:
                total = total.plus(await self._labelling.look(reassign, look))
        if len(answered) == len(looks):
            async with self._database.transaction() as tx:
                await reassignments.complete(tx, step.job.input.workspace_id, step.job.job_key, number)
        return total


def _reassign(step: SubmissionStep, number: int) -> ReassignStep:
    return ReassignStep(job=step.job, candidate=step.candidate, batch=number, sized_for=step.candidate.model)


async def _pages(
    database: Database, read: Callable[..., Awaitable[list[T]]], number_of: Callable[[T], int], *, after: int
) -> AsyncIterator[T]:
    """All that `read` finds after a number, a page in each transaction."""
    while True:
        async with database.reads() as tx:
            page = await read(tx, after=after, limit=AT_ONCE)
        for one in page:
            yield one
        if len(page) < AT_ONCE:
            return
        after = number_of(page[-1])
