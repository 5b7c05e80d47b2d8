"""The job `Generate`: build its input, start it once per key, and return its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypedDict, Unpack
from uuid import uuid4

from pydantic import ValidationError
from temporalio.client import WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from parley.client.backend import Backend, WorkflowStart, start_workflow, temporal_errors
from parley.client.jobs import check_model, provider_of
from parley.client.reading import first_problem
from parley.client.streaming import GenerateStream, OnDisconnect
from parley.domain.errors import IdempotencyConflict, InvalidInput
from parley.domain.generate.contract import (
    DEFAULT_ACTION,
    WORKFLOW,
    CachePolicy,
    GenerateInput,
    GenerateResult,
    OnRateLimit,
    Prompt,
    workflow_id,
)
from parley.domain.generate.prompts import template
from parley.domain.generate.replies import read_answer
from parley.domain.json_check import check_schema, check_tools
from parley.domain.requests import ChatContent, Message, Provider, Tool, ToolChoice
from parley.domain.streaming import StreamTarget
from parley.settings import Settings
from parley.storage import generations
from parley.storage.database import Database

Messages = str | Sequence[Message | Mapping[str, Any]]
"""A text, which is one message of the user, or messages with a `role` and a `content`: see `Message`."""

FINGERPRINT, USER, ACTION = "fingerprint", "user", "action"
"""What the memo of a generation's workflow has of its input."""
ANSWER_SECONDS = 60.0
"""How long a long answer is waited for while PostgreSQL does not answer."""


class TurnOptions(TypedDict, total=False):
    """The options of one turn of a conversation. The policy of the action decides what is left out or None."""

    provider: Provider | None
    """Call this provider first."""
    model: str | None
    """Call this model first; cheaper ones are used only when it does not fit the budget."""
    max_tokens: int
    """The longest answer, in tokens, 1 to 128,000. Default: 1,000."""
    temperature: float | None
    """0 to 2. Default: the provider's."""
    top_p: float | None
    """The share of the most likely tokens to choose from, above 0 and at most 1. Default: the provider's."""
    stop: Sequence[str]
    """Texts before which the answer ends, at most four. Default: none."""
    seed: int | None
    """Asks for the same answer each time, where the provider has seeds. Default: none."""
    json_object: bool
    """Whether the answer must be a JSON object, of any schema. Default: False."""
    response_schema: dict[str, Any] | None
    """A JSON schema that the answer must follow."""
    schema_name: str | None
    """The schema's name, as the provider receives it. Default: `reply`."""
    template: str | None
    """A prompt by name, or `name@version`, put before the messages."""
    experiment: str | None
    """An experiment by name: the user's arm of it decides the template."""
    cache: CachePolicy | None
    """Whether an earlier answer may be returned."""
    on_rate_limit: OnRateLimit | None
    """Wait when a provider limits the rate, or use a cheaper model."""
    wait_limit_seconds: int
    """How long to wait while every provider is down, in seconds. Default: 0."""
    prospect_id: str | None
    """The person that the answer is about."""


class GenerateOptions(TurnOptions, total=False):
    """The options of one generation. The policy of the action decides what is left out or None."""

    tools: Sequence[Tool | Mapping[str, Any]]
    """What the model may call: see `Tool`. Its calls are in the result's `tool_calls`. Default: none."""
    tool_choice: ToolChoice | Mapping[str, Any] | None
    """`auto`, `none`, `required`, or `NamedTool` for the one tool to call. Default: `auto`, if there are tools."""
    parallel_tool_calls: bool | None
    """False for at most one call in a reply. Default: the provider's, which is several."""
    max_cost_usd: Decimal | None
    """The most that all requests of this generation may cost, in USD, beside what its action allows. Default: None."""


def generate_input(
    workspace_id: str,
    messages: Messages,
    *,
    user_id: str,
    action: str = DEFAULT_ACTION,
    **options: Unpack[GenerateOptions],
) -> GenerateInput:
    """The input of a generation.

    Raises:
        InvalidInput: an argument is not valid; the error names the field.
    """
    chat = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    if not chat:
        raise InvalidInput("must be a text, or at least one message with a role and a content", where="messages")
    given: dict[str, Any] = dict(options)
    shape = {name: given.pop(name, None) for name in ChatContent.model_fields if name != "messages"}
    try:
        prompt = Prompt.model_validate(
            {"messages": chat, **{name: value for name, value in shape.items() if value is not None}}
        )
        built = GenerateInput(workspace_id=workspace_id, user_id=user_id, action=action, prompt=prompt, **given)
    except ValidationError as error:
        raise first_problem(error, where="generate") from None
    if prompt.response_schema is not None:
        check_schema(prompt.response_schema)
    check_tools(prompt.tools)
    return built


def check_names(settings: Settings, request: GenerateInput) -> None:
    """Check the model and the template that a request names, before a workflow starts.

    Raises:
        InvalidInput: there is no such template.
        UnpricedModel: no price is known for the model.
    """
    if request.provider is not Provider.LOCAL:  # the worker's settings price the models of its local server
        check_model(request.provider or provider_of(request.model, settings), request.model, settings)
    if request.template is not None:
        template(request.template)


async def generate(
    backend: Backend, request: GenerateInput, key: str | None, *, on_accepted: Callable[[], None] | None = None
) -> GenerateResult:
    """Run one generation to its end. The same `key` is the same generation: it is answered and paid once.

    A generation that failed or was refused has no answer: its key starts it again.

    Args:
        on_accepted: called when it was started, or the one that runs under the key is the same request.

    Raises:
        IdempotencyConflict: the key was used for a different request.
        JobFailed: no provider answered; `reason` is the code of the error.
        Unreachable: Temporal or PostgreSQL does not answer.
    """
    job_id = workflow_id(request.workspace_id, key or uuid4().hex)
    is_joined = False
    try:
        workflow = await _started(backend, request, job_id)
    except WorkflowAlreadyStartedError:
        workflow, is_joined = await existing_generation(backend, request, job_id), True
    if on_accepted is not None:
        on_accepted()
    result = await _result(workflow)
    if is_joined and not result.success:
        result = await _result(await _started(backend, request, job_id, again=True))
    return await with_stored_answer(backend.database, request, result)


def generate_stream(
    backend: Backend,
    request: GenerateInput,
    key: str,
    on_disconnect: OnDisconnect,
    *,
    is_shared: bool,
    offset: int | None = 0,
) -> GenerateStream:
    """The stream of one generation, which begins when it is entered.

    Args:
        is_shared: whether the key is a caller's: its generation may run already, or have a reader in another process.
        offset: the number of deltas that the reader has; None: all of them.
    """

    async def run(target: StreamTarget) -> GenerateResult:
        asked = request.model_copy(update={"stream": target})
        return await generate(backend, asked, key, on_accepted=stream.accept)

    stream = GenerateStream(
        backend.receiver,
        request.workspace_id,
        workflow_id(request.workspace_id, key),
        run,
        on_disconnect=on_disconnect,
        offset=offset,
        stored_in=backend.database if is_shared else None,
        is_held=is_shared,
    )
    return stream


async def _started(
    backend: Backend, request: GenerateInput, job_id: str, *, again: bool = False
) -> WorkflowHandle[Any, GenerateResult]:
    """Start it, as `start_workflow_of` does; for a reader who leaves meanwhile too, if it is finished without one."""
    start = asyncio.ensure_future(start_workflow_of(backend, request, job_id, again=again))
    try:
        return await asyncio.shield(start)
    except asyncio.CancelledError:
        if request.stream is None or request.stream.on_disconnect == "cancel":
            start.cancel()
        await asyncio.wait({start})
        if not start.cancelled():
            start.exception()  # nothing else reads it
        raise


async def start_workflow_of(
    backend: Backend, request: GenerateInput, job_id: str, *, again: bool = False
) -> WorkflowHandle[Any, GenerateResult]:
    """Start it. `again`: also when an earlier run has completed; concurrent callers then share one run.

    Raises:
        WorkflowAlreadyStartedError: a run with this id is open, or has completed.
    """
    reuse, conflict = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, WorkflowIDConflictPolicy.FAIL
    if again:
        reuse, conflict = WorkflowIDReusePolicy.ALLOW_DUPLICATE, WorkflowIDConflictPolicy.USE_EXISTING
    start = WorkflowStart(
        workflow=WORKFLOW,
        input=await _by_reference(backend, request),
        id=job_id,
        summary=f"{request.action} for {request.user_id}",
        memo={FINGERPRINT: request.fingerprint(), USER: request.user_id, ACTION: request.action},
        id_reuse_policy=reuse,
        id_conflict_policy=conflict,
    )
    return await start_workflow(backend, request.workspace_id, start, GenerateResult)


async def existing_generation(
    backend: Backend, request: GenerateInput, job_id: str
) -> WorkflowHandle[Any, GenerateResult]:
    """The generation that runs or has completed under this id, if it is for the same request.

    Raises:
        IdempotencyConflict: it is for another one.
    """
    handle = backend.temporal.get_workflow_handle(job_id, result_type=GenerateResult)
    with temporal_errors():
        fingerprint = await (await handle.describe()).memo_value(FINGERPRINT, None)
    if fingerprint != request.fingerprint():
        raise IdempotencyConflict(f"{job_id} was already used for a different request: use another key")
    return handle


async def _result(handle: WorkflowHandle[Any, GenerateResult]) -> GenerateResult:
    with temporal_errors():
        return await handle.result()


async def _by_reference(backend: Backend, request: GenerateInput) -> GenerateInput:
    """A long prompt is stored first and travels by its hash: a workflow's history must stay small."""
    if request.prompt.is_short:
        return request
    async with backend.database.transaction() as tx:
        stored = await generations.save_prompt(tx, request.workspace_id, request.prompt)
    return request.model_copy(update={"prompt": stored})


async def with_stored_answer(database: Database, request: GenerateInput, result: GenerateResult) -> GenerateResult:
    """The result; a long answer is read from the database.

    Raises:
        Unreachable: PostgreSQL did not answer for `ANSWER_SECONDS`.
    """
    if not result.stored:
        return result
    # The answer is paid for, and a caller without a key could not ask for it again.
    reply = await database.retried(
        lambda tx: generations.answer(tx, request.workspace_id, result.meta.request_id), seconds=ANSWER_SECONDS
    )
    value, _ = read_answer(reply, request.prompt)
    return result.model_copy(update={"content": reply.text, "tool_calls": reply.tool_calls, "parsed": value})
