"""Start a `Generate` and bring its answer back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import ValidationError
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.common import (
    Priority,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from parley import visibility
from parley.client.jobs import failure_of
from parley.client.reading import first_problem
from parley.domain.errors import IdempotencyConflict, InvalidInput, Unreachable
from parley.domain.generate.contract import WORKFLOW, GenerateInput, GenerateResult, Prompt, workflow_id
from parley.domain.generate.parsing import check_schema, parsed
from parley.domain.queues import WORKFLOWS, fairness_key
from parley.domain.requests import Message
from parley.storage import generations

if TYPE_CHECKING:
    from parley.client.client import Client

Messages = str | Sequence[Message | Mapping[str, str]]
FINGERPRINT = "fingerprint"


def build(workspace_id: str, messages: Messages, *, user_id: str, **terms: Any) -> GenerateInput:
    """The input of a generation. A plain string is one message of the user's.

    Raises:
        InvalidInput: naming the field.
    """
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    asked = {name: terms.pop(name, None) for name in ("response_schema", "schema_name")}
    if not said:
        raise InvalidInput("is empty: what is to be answered?", where="messages")
    try:
        given = {name: value for name, value in asked.items() if value is not None}
        prompt = Prompt.model_validate({"messages": said, **given})
        built = GenerateInput(workspace_id=workspace_id, user_id=user_id, prompt=prompt, **terms)
    except ValidationError as error:
        raise first_problem(error, where="generate") from None
    if prompt.response_schema is not None:
        check_schema(prompt.response_schema)
    return built


async def generate(client: Client, asked: GenerateInput, key: str | None) -> GenerateResult:
    """Run one generation to its end. The same `key` is the same generation, which is answered and paid once.

    One that failed or was refused has no answer: its key starts it anew.

    Raises:
        IdempotencyConflict: the key was used for something else.
        JobFailed: nobody answered; its `kind` is the code of the error.
        Unreachable: Temporal or PostgreSQL does not answer.
    """
    job_id = workflow_id(client.workspace_id, key or uuid4().hex)
    try:
        result = await _result(await _start(client, asked, job_id))
    except WorkflowAlreadyStartedError:
        result = await _result(await _known(client, asked, job_id))
        if not result.success:
            result = await _result(await _start(client, asked, job_id, ended_before=True))
    return await _in_full(client, asked, result)


async def _start(
    client: Client, asked: GenerateInput, job_id: str, *, ended_before: bool = False
) -> WorkflowHandle[Any, GenerateResult]:
    """Start it. `ended_before`: also where an earlier one completed; whoever else does so at once shares it.

    Raises:
        WorkflowAlreadyStartedError: one runs under this id, or has completed.
    """
    attributes = (
        SearchAttributePair(visibility.WORKSPACE, client.workspace_id),
        SearchAttributePair(visibility.JOB, WORKFLOW),
    )
    reuse, conflict = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, WorkflowIDConflictPolicy.FAIL
    if ended_before:
        reuse, conflict = WorkflowIDReusePolicy.ALLOW_DUPLICATE, WorkflowIDConflictPolicy.USE_EXISTING
    try:
        return await client.temporal.start_workflow(
            WORKFLOW,
            await _by_reference(client, asked),
            id=job_id,
            task_queue=WORKFLOWS,
            result_type=GenerateResult,
            id_reuse_policy=reuse,
            id_conflict_policy=conflict,
            memo={FINGERPRINT: _fingerprint(asked)},
            search_attributes=TypedSearchAttributes(list(attributes)),
            static_summary=visibility.plain(f"{asked.action} for {asked.user_id}"[:200]),
            priority=Priority(fairness_key=fairness_key(client.workspace_id)),
        )
    except RPCError as error:
        raise Unreachable(f"Temporal refused to start the job: {error.message}") from error


async def _known(client: Client, asked: GenerateInput, job_id: str) -> WorkflowHandle[Any, GenerateResult]:
    """The generation that runs or has completed under this key, if it is the same."""
    handle = client.temporal.get_workflow_handle(job_id, result_type=GenerateResult)
    if await (await handle.describe()).memo_value(FINGERPRINT, None) != _fingerprint(asked):
        raise IdempotencyConflict(f"{job_id} was already used for a different request")
    return handle


async def _result(handle: WorkflowHandle[Any, GenerateResult]) -> GenerateResult:
    try:
        return await handle.result()
    except WorkflowFailureError as failure:
        raise failure_of(failure) from None
    except RPCError as error:
        raise Unreachable(f"Temporal does not answer: {error.message}") from error


def _fingerprint(asked: GenerateInput) -> str:
    return sha256(asked.model_dump_json().encode()).hexdigest()


async def _by_reference(client: Client, asked: GenerateInput) -> GenerateInput:
    """A long prompt goes to the database first: a workflow's history is no place for conversations."""
    if asked.prompt.is_short:
        return asked
    async with client.database.transaction() as tx:
        stored = await generations.save_prompt(tx, client.workspace_id, asked.prompt)
    return asked.model_copy(update={"prompt": stored})


async def _in_full(client: Client, asked: GenerateInput, result: GenerateResult) -> GenerateResult:
    """A long answer comes from the database."""
    if not result.stored:
        return result
    async with client.database.transaction() as tx:
        reply = await generations.answer(tx, client.workspace_id, result.meta.request_id)
    schema = asked.prompt.response_schema
    value = parsed(reply.text, schema)[0] if schema is not None else None
    return result.model_copy(update={"content": reply.text, "parsed": value})
