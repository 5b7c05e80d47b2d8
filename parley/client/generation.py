"""A generation that was started without waiting for its answer, and its handle."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError

from parley.client.backend import Backend, describe_workflow, status_of, temporal_errors
from parley.client.generate import ANSWER_SECONDS, existing_generation, start_workflow_of, with_stored_answer
from parley.client.streaming import GenerateStream
from parley.domain.errors import InvalidInput, JobFailed, NotFound
from parley.domain.generate.contract import (
    WORKFLOW,
    Cached,
    GenerateInput,
    GenerateResult,
    Meta,
    Refusal,
    Refused,
    generation_id,
    job_key,
)
from parley.domain.model import Model
from parley.domain.reports import Feedback
from parley.domain.requests import ChatReply, Message, Provider, ToolCall, Usage
from parley.domain.streaming import StreamTarget
from parley.storage import generations
from parley.storage.tables import Generation
from parley.visibility import JOB


class GenerationReport(Model):
    """How a generation ended, as the database has it.

    outcome: `completed`, `refused`, `failed` or `cancelled`. reason: the code of the refusal or of the error.
    answer: what the model said; None where there is no answer, or it has been purged. quality: from 0 to 1.
    """

    request_id: str
    user_id: str
    action: str
    outcome: str
    reason: str
    template: str
    experiment: str
    arm: str
    cached: Cached
    provider: str
    model: str
    tokens_total: int
    cost_usd: Decimal
    saved_usd: Decimal
    quality: Decimal | None
    feedback: Feedback | None
    started_at: datetime
    ended_at: datetime
    answer: str | None
    tool_calls: tuple[ToolCall, ...] = ()


class GenerationHandle:
    """One generation of a workspace. Attribute `id`: its job id."""

    def __init__(self, backend: Backend, workspace_id: str, job_id: str) -> None:
        self._backend, self._workspace_id, self.id = backend, workspace_id, job_id

    async def status(self) -> str:
        """`running`, `completed`, `refused`, `failed`, `cancelled`, `terminated` or `timed_out`.

        Raises:
            NotFound: there is no such generation, or it runs inline.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        try:
            found = status_of(await describe_workflow(self._backend, self._workspace_id, self.id))
        except NotFound:
            async with self._backend.database.reads() as tx:
                return (await self._row(tx)).outcome
        if found != "completed":
            return found
        async with self._backend.database.transaction() as tx:
            row = await generations.find(tx, self._workspace_id, self._request_id)
        return row.outcome if row else found

    async def result(self) -> GenerateResult:
        """Wait for the answer or the refusal.

        Of an inline generation, and after Temporal's retention, the result is made from what the database has: without
        `parsed`, since the schema belongs to the request.

        Raises:
            JobFailed: no provider answered; `reason` is the code of the error.
            NotFound: there is no such generation, it runs inline, or its answer has been purged.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        try:
            await describe_workflow(self._backend, self._workspace_id, self.id)
        except NotFound:
            return await self._recorded_result()
        workflow = self._backend.temporal.get_workflow_handle(self.id, result_type=GenerateResult)
        with temporal_errors():
            result = await workflow.result()
        return await self._with_stored_answer(workflow, result) if result.stored else result

    def stream(self, offset: int | None = 0) -> GenerateStream:
        """Read the answer while it is made, from any place on: as `client.generate_stream`, without a new request.

        Args:
            offset: the number of deltas that the reader has already; None: all of them.
        """

        async def run(_: StreamTarget) -> GenerateResult:
            return await self.result()

        receiver, database = self._backend.receiver, self._backend.database
        return GenerateStream(receiver, self._workspace_id, self.id, run, offset=offset, stored_in=database)

    async def report(self) -> GenerationReport:
        """How it ended and what it cost. It does not ask Temporal, so that it also serves inline generations.

        Raises:
            NotFound: there is no such generation, or it has not ended.
        """
        async with self._backend.database.reads() as tx:
            row = await self._row(tx)
            return _report(row, await generations.reply_of(tx, row))

    async def messages(self) -> tuple[Message, ...]:
        """The messages that it answers, as the caller sent them.

        Raises:
            NotFound: there is no such generation, its prompt has been purged, or it ran inline: the prompt of an inline
                generation is its caller's alone.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        found = await describe_workflow(self._backend, self._workspace_id, self.id)
        if found.typed_search_attributes.get(JOB) != WORKFLOW:
            raise NotFound(f"workspace {self._workspace_id!r} has no generation {self.id!r}")
        with temporal_errors():
            request = await self._input(self._backend.temporal.get_workflow_handle(self.id))
        async with self._backend.database.transaction() as tx:
            return (await generations.load_prompt(tx, self._workspace_id, request.prompt)).messages

    async def cancel(self) -> None:
        """Request that it stops. Replies that are paid for stay stored.

        Raises:
            InvalidInput: it has ended already.
            NotFound: there is no such generation.
            Unreachable: Temporal does not answer.
        """
        status = await self.status()
        if status != "running":
            raise InvalidInput(f"is {status} and cannot be cancelled; its answer stays stored", where=self.id)
        ended = NotFound(f"{self.id} has just ended and cannot be cancelled; its answer stays stored")
        with temporal_errors(missing=ended):
            await self._backend.temporal.get_workflow_handle(self.id).cancel()

    @property
    def _request_id(self) -> str:
        return generation_id(job_key(self.id))

    async def _row(self, tx: AsyncSession) -> Generation:
        row = await generations.find(tx, self._workspace_id, self._request_id)
        if row is None:
            raise NotFound(f"workspace {self._workspace_id!r} has no generation {self.id!r} that has ended")
        return row

    async def _recorded_result(self) -> GenerateResult:
        """The result as the database has it."""
        async with self._backend.database.reads() as tx:
            row = await self._row(tx)
            if row.outcome != "completed":
                return _without_answer(row)
            reply = await generations.reply_of(tx, row)
            if reply is None:
                raise NotFound(f"the answer of {self.id!r} has been purged")
            usage = await generations.usage(tx, self._workspace_id, row.job_key, reply)
            _, attempts = await generations.totals(tx, self._workspace_id, row.job_key)
        meta = _meta(row).model_copy(
            update={
                "usage": Usage() if row.cached else usage,
                "answered_by": reply.model,
                "finish": reply.finish,
                "attempts": attempts,
            }
        )
        return GenerateResult(success=True, content=reply.text, tool_calls=reply.tool_calls, meta=meta)

    async def _with_stored_answer(
        self, workflow: WorkflowHandle[Any, GenerateResult], result: GenerateResult
    ) -> GenerateResult:
        """A long answer is read from the database, and its schema from the prompt of the workflow's input."""
        with temporal_errors():
            request = await self._input(workflow)

        database = self._backend.database
        prompt = await database.retried(
            lambda tx: generations.load_prompt(tx, self._workspace_id, request.prompt), seconds=ANSWER_SECONDS
        )
        return await with_stored_answer(database, request.model_copy(update={"prompt": prompt}), result)

    async def _input(self, workflow: WorkflowHandle[Any, Any]) -> GenerateInput:
        started = await anext(aiter(workflow.fetch_history_events(page_size=1)))
        payloads = started.workflow_execution_started_event_attributes.input.payloads
        [request] = await self._backend.temporal.data_converter.decode(payloads, [GenerateInput])
        return request


def _report(row: Generation, reply: ChatReply | None) -> GenerationReport:
    known = row.model_dump(include=set(GenerationReport.model_fields))
    answer = reply if row.outcome == "completed" else None
    return GenerationReport(
        **known,
        ended_at=row.created_at,
        answer=answer.text if answer else None,
        tool_calls=answer.tool_calls if answer else (),
    )


def _without_answer(row: Generation) -> GenerateResult:
    """The refusal of a generation that was refused.

    Raises:
        JobFailed: it failed or was cancelled.
    """
    if row.outcome == "cancelled":
        raise JobFailed("Cancelled", "the generation was cancelled")
    if row.outcome != "refused":
        raise JobFailed(row.reason, f"the generation failed: {row.reason}")
    code = Refused(row.reason)
    return GenerateResult(success=False, refusal=Refusal(code=code, message=code.value), meta=_meta(row))


def _meta(row: Generation) -> Meta:
    """What a row says of how the answer was made."""
    known = row.model_dump(include={"request_id", "template", "experiment", "arm", "cost_usd", "saved_usd", "model"})
    return Meta(**known, cached=Cached(row.cached), provider=Provider(row.provider) if row.provider else None)


async def start_generation(backend: Backend, request: GenerateInput, job_id: str) -> None:
    """Start a generation, or find the one that runs or was answered under its id.

    Raises:
        IdempotencyConflict: the id was used for a different request.
    """
    try:
        await start_workflow_of(backend, request, job_id)
    except WorkflowAlreadyStartedError:
        workflow = await existing_generation(backend, request, job_id)
        with temporal_errors():
            has_ended = (await workflow.describe()).status is WorkflowExecutionStatus.COMPLETED
            is_answered = has_ended and (await workflow.result()).success
        if has_ended and not is_answered:
            await start_workflow_of(backend, request, job_id, again=True)
