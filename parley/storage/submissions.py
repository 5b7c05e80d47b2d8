"""Submissions of a job's paid requests to a provider's batch API, and the attempts that each of them has."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import NotFound
from parley.storage.auto_analyze import OpenBatch
from parley.storage.database import changed_one
from parley.storage.rows import table
from parley.storage.tables import Attempt, AutoBatch, Submission, SubmissionLine


async def begin(tx: AsyncSession, submission: Submission) -> Submission:
    """Record a submission, unless it is on record. Returns it as it is now."""
    await tx.execute(insert(table(Submission)).values(**submission.model_dump()).on_conflict_do_nothing())
    return await find(tx, submission.workspace_id, submission.id)


class NotBegun(NotFound):
    """The workspace has no such submission: the step that would have begun it did not run."""


async def find(tx: AsyncSession, workspace_id: str, submission_id: UUID) -> Submission:
    """A submission.

    Raises:
        NotBegun: the workspace has no such submission.
    """
    query = select(Submission).where(*_of(workspace_id, submission_id)).execution_options(populate_existing=True)
    found = (await tx.execute(query)).scalar()
    if found is None:
        raise NotBegun(f"workspace {workspace_id!r} has no submission {submission_id}")
    tx.expunge(found)
    return found


async def change(
    tx: AsyncSession, workspace_id: str, submission_id: UUID, *, was: Submission, **values: Any
) -> Submission | None:
    """Set columns of a submission. Returns it as it is now; None if it is not as it `was`, and nothing changed.

    So of two tries of a step, which may run at the same time, one alone sends it.
    """
    as_it_was = (
        col(Submission.state) == was.state,
        col(Submission.sent_at).is_not_distinct_from(was.sent_at),
    )
    statement = update(Submission).where(*_of(workspace_id, submission_id), *as_it_was).values(**values)
    if not await changed_one(tx, statement.execution_options(synchronize_session=False)):
        return None
    return await find(tx, workspace_id, submission_id)


async def add_line(tx: AsyncSession, line: SubmissionLine) -> None:
    """Record that an attempt is in a submission. Idempotent."""
    await tx.execute(insert(table(SubmissionLine)).values(**line.model_dump()).on_conflict_do_nothing())


async def lines(tx: AsyncSession, workspace_id: str, submission_id: UUID) -> set[UUID]:
    """The attempts in a submission."""
    query = select(col(SubmissionLine.attempt_id)).where(*_lines_of(workspace_id, submission_id))
    return set((await tx.execute(query)).scalars())


async def attempts_in(tx: AsyncSession, workspace_id: str, submission_id: UUID, state: str) -> list[UUID]:
    """The attempts in a submission that are in a state."""
    query = (
        select(col(Attempt.id))
        .join(SubmissionLine, col(SubmissionLine.attempt_id) == col(Attempt.id))
        .where(*_lines_of(workspace_id, submission_id), col(Attempt.workspace_id) == workspace_id)
        .where(col(Attempt.state) == state)
        .order_by(col(Attempt.id))
    )
    return list((await tx.execute(query)).scalars())


async def answered_batches(
    tx: AsyncSession, workspace_id: str, job_key: str, submission_id: UUID, *, after: int, limit: int
) -> list[OpenBatch]:
    """Batches of sessions that are not labelled, and whose request a submission has settled, by their number."""
    query = (
        select(*_columns_of_batch())
        .join(SubmissionLine, col(SubmissionLine.step) == col(AutoBatch.number))
        .join(Attempt, col(Attempt.id) == col(SubmissionLine.attempt_id))
        .where(*_lines_of(workspace_id, submission_id), col(Attempt.state) == "settled")
        .where(*_open_after(workspace_id, job_key, after))
    )
    rows = await tx.execute(query.order_by(col(AutoBatch.number)).limit(limit))
    return [OpenBatch(*row) for row in rows.all()]


async def answered_steps(
    tx: AsyncSession, workspace_id: str, submission_id: UUID, *, after: int, limit: int
) -> list[int]:
    """Steps of the job of which a submission has settled a request, by their number."""
    query = (
        select(col(SubmissionLine.step))
        .distinct()
        .join(Attempt, col(Attempt.id) == col(SubmissionLine.attempt_id))
        .where(*_lines_of(workspace_id, submission_id), col(Attempt.state) == "settled")
        .where(col(SubmissionLine.step) > after)
    )
    return list((await tx.execute(query.order_by(col(SubmissionLine.step)).limit(limit))).scalars())


async def answering(tx: AsyncSession, workspace_id: str, request_ids: Sequence[str]) -> dict[str, UUID]:
    """The submissions that have answered requests, by request. Those that none has answered are left out."""
    query = (
        select(col(Attempt.request_id), col(SubmissionLine.submission_id))
        .join(SubmissionLine, col(SubmissionLine.attempt_id) == col(Attempt.id))
        .where(col(Attempt.workspace_id) == workspace_id, col(SubmissionLine.workspace_id) == workspace_id)
        .where(col(Attempt.request_id).in_(request_ids), col(Attempt.state) == "settled")
    )
    return {row[0]: row[1] for row in (await tx.execute(query)).all()}


async def open_batches(tx: AsyncSession, workspace_id: str, job_key: str, *, after: int, limit: int) -> list[OpenBatch]:
    """The next batches of sessions that are not labelled, by their number."""
    query = select(*_columns_of_batch()).where(*_open_after(workspace_id, job_key, after))
    rows = await tx.execute(query.order_by(col(AutoBatch.number)).limit(limit))
    return [OpenBatch(*row) for row in rows.all()]


def _columns_of_batch() -> tuple[Any, ...]:
    """In the order of the fields of `OpenBatch`."""
    return (
        col(AutoBatch.number),
        col(AutoBatch.round),
        col(AutoBatch.stream),
        col(AutoBatch.start),
        col(AutoBatch.count),
    )


def _open_after(workspace_id: str, job_key: str, number: int) -> tuple[Any, ...]:
    return (
        col(AutoBatch.workspace_id) == workspace_id,
        col(AutoBatch.job_key) == job_key,
        ~col(AutoBatch.labelled),
        col(AutoBatch.number) > number,
    )


def _of(workspace_id: str, submission_id: UUID) -> tuple[Any, ...]:
    return col(Submission.workspace_id) == workspace_id, col(Submission.id) == submission_id


def _lines_of(workspace_id: str, submission_id: UUID) -> tuple[Any, ...]:
    return col(SubmissionLine.workspace_id) == workspace_id, col(SubmissionLine.submission_id) == submission_id
