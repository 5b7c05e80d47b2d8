"""The job `Generate`: one LLM answer, within budget, from the first provider that can give it. Contract and ids."""

import hashlib
import json
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, model_validator

from parley.domain.model import STORABLE, Model, Name, Text, WorkspaceId
from parley.domain.requests import (
    MAX_WAIT_LIMIT_SECONDS,
    ChatContent,
    ChatProvider,
    ChatRequest,
    Finish,
    Message,
    Provider,
    Sampling,
    ToolCall,
    Usage,
    request_id,
)
from parley.domain.routing import Candidate
from parley.domain.streaming import Restartable, StreamTarget

WORKFLOW = "Generate"
STEP = "generate"
DEFAULT_ACTION = "ai_message"
DEFAULT_MAX_TOKENS = 1000
# The longest reply of any model in the table of capabilities.
MOST_ANSWER_TOKENS = 128_000
# How much more room a request has after a reply without text.
MORE_ROOM = 4
# Larger prompts and answers are stored and travel by reference: a workflow's history is copied and replayed.
INLINE_BYTES = 1500
JOB_PREFIX = "generate:"

Identifier = Annotated[str, Field(min_length=1, max_length=200), STORABLE]


class CachePolicy(StrEnum):
    """Whether an earlier answer may be returned. `similar` includes `exact`."""

    OFF = "off"
    EXACT = "exact"
    SIMILAR = "similar"


class OnRateLimit(StrEnum):
    """What to do when a provider answers with a rate limit: wait, or try a cheaper model."""

    WAIT = "wait"
    CHEAPER = "cheaper"


class Mode(StrEnum):
    """How a gateway runs a generation: as a workflow, which survives any process, or in its own process."""

    DURABLE = "durable"
    INLINE = "inline"


class Cached(StrEnum):
    """How an answer was found in the cache. `stale`: it had expired, and no provider could answer."""

    NO = ""
    EXACT = "exact"
    SIMILAR = "similar"
    STALE = "stale"


class Refused(StrEnum):
    """Why no answer was requested, or none was possible. The caller can act on each reason."""

    INSUFFICIENT_ENERGY = "insufficient_energy"
    BUDGET_EXHAUSTED = "budget_exhausted"
    NO_MODEL_ALLOWED = "no_model_allowed"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_FILTERED = "content_filtered"


class Prompt(ChatContent):
    """What to answer: messages, tools, and the form of the answer. `sha256` refers to a long prompt that is stored."""

    messages: tuple[Message, ...] = ()
    schema_name: str = Field(default="reply", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    sha256: str | None = None

    @model_validator(mode="after")
    def _messages_or_reference(self) -> Self:
        if bool(self.messages) == bool(self.sha256):
            raise ValueError("give either messages or the sha256 of a stored prompt")
        if self.messages and all(one.is_blank for one in self.messages if not one.is_system):
            raise ValueError("messages are blank: give at least one user or assistant message with text")
        return self

    @property
    def is_short(self) -> bool:
        return len(self.model_dump_json().encode()) <= INLINE_BYTES

    def hash(self) -> str:
        """SHA-256 of the prompt as canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


class GenerateInput(Sampling):
    """What to answer, for which user, on which terms. A field that is None is decided by the action's policy.

    provider, model: try this one first; others are tried if it cannot serve, or does not fit the budget.
    prospect_id: the person that the answer is about.
    template: a prompt by name, or `name@version`, put before the messages.
    experiment: the name of an experiment; the user's arm decides the template.
    max_tokens: the longest answer, in tokens.
    wait_limit_seconds: how long to wait while every provider is down, before a stale answer or an error.
    max_cost_usd: the most that all paid requests of the generation may cost, beside what its action allows; None: no
        further limit. A key may be asked again with another one: it is not part of the fingerprint.
    stream: where the answer's deltas go while it is made; `client.generate_stream` sets it. None: nowhere. A key may be
        asked again without a stream, or with another one: it is not part of the fingerprint.
    """

    workspace_id: WorkspaceId
    user_id: Identifier
    action: Name = DEFAULT_ACTION
    prompt: Prompt
    prospect_id: Text | None = None
    provider: ChatProvider | None = None
    model: Text | None = None
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, gt=0, le=MOST_ANSWER_TOKENS)
    template: Text | None = None
    experiment: Text | None = None
    cache: CachePolicy | None = None
    on_rate_limit: OnRateLimit | None = None
    wait_limit_seconds: int = Field(default=0, ge=0, le=MAX_WAIT_LIMIT_SECONDS)
    max_cost_usd: Decimal | None = Field(default=None, ge=0)
    stream: StreamTarget | None = None

    def fingerprint(self) -> str:
        """SHA-256 of what is asked: the same for a prompt and for a reference to it in the database."""
        terms = self.model_dump(mode="json", exclude={"prompt", "stream", "max_cost_usd"})
        asked = {**terms, "prompt": self.prompt.sha256 or self.prompt.hash()}
        return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Refusal(Model):
    """Why a request is refused. `message`: one line for people."""

    code: Refused
    message: str


class Meta(Model):
    """How an answer was made, and what it cost.

    request_id: the id of the generation, in reports and for feedback.
    cost_usd: the cost of all attempts of this generation, in USD.
    saved_usd: what a cached answer cost when it was paid for, in USD.
    prompt_cache_saved_usd: what the vendor's prompt cache saved, in USD; below 0 where writing to it cost more.
    provider, model: the model that was called. answered_by: the name that the reply gives.
    attempts: how many attempts at providers there were.
    reason: why this model was chosen.
    condensed: whether the prompt was condensed.
    dropped: parameters that the vendor does not accept for this model.
    """

    request_id: str
    usage: Usage = Usage()
    cost_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)
    prompt_cache_saved_usd: Decimal = Decimal(0)
    provider: Provider | None = None
    model: str = ""
    answered_by: str = ""
    simulated: bool = False
    finish: Finish | None = None
    attempts: int = 0
    cached: Cached = Cached.NO
    reason: str = ""
    energy_charged: int = 0
    energy_left: int | None = None
    condensed: bool = False
    template: str = ""
    experiment: str = ""
    arm: str = ""
    dropped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class GenerateResult(Model):
    """The answer, or the refusal.

    content: None where there is no answer, and where it is too long for a history: `stored` is then True, and
        `client.generate` reads it from the database. Empty where the model only calls tools.
    tool_calls: what the model calls. Send the results in messages of role `tool`, after this answer.
    parsed: the content as a value that follows the response schema, or the JSON object.
    """

    success: bool
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    stored: bool = False
    parsed: Any | None = None
    refusal: Refusal | None = None
    meta: Meta


# The steps of the workflow.


class Job(Model):
    """A running `Generate`.

    job_key: derived from the workflow's id, so that all runs under one idempotency key share what was paid.
    fingerprint: of the input as the caller gave it. Templates and summaries change the prompt, but not the fingerprint.
    started_at: when its workflow started.
    is_turn: it answers a turn of a conversation: the history has no text, and nothing is condensed before the request
        unless a model refuses its length.
    """

    input: GenerateInput
    job_key: str
    workflow_id: str
    fingerprint: str
    started_at: AwareDatetime
    is_turn: bool = False

    @classmethod
    def of(cls, generate_input: GenerateInput, workflow_id: str, started_at: datetime) -> Self:
        return cls(
            input=generate_input,
            job_key=job_key(workflow_id),
            workflow_id=workflow_id,
            fingerprint=generate_input.fingerprint(),
            started_at=started_at,
        )

    @property
    def request_id(self) -> str:
        """The id of the generation. The ids of its paid requests begin with it."""
        return generation_id(self.job_key)

    def with_prompt(self, prompt: Prompt) -> Self:
        return self.model_copy(update={"input": self.input.model_copy(update={"prompt": prompt})})


class Serving(Model):
    """The terms of a generation, decided once: neither a new worker nor a new policy changes them.

    energy: what the user is charged for the answer.
    max_cost_usd: the most that all paid requests of the generation may cost together; None for no limit.
    """

    energy: int = 0
    max_cost_usd: Decimal | None = None
    cache: CachePolicy = CachePolicy.OFF
    cache_seconds: int = 1
    cache_key: str = ""
    on_rate_limit: OnRateLimit = OnRateLimit.WAIT
    template: str = ""
    experiment: str = ""
    arm: str = ""
    warnings: tuple[str, ...] = ()
    score_quality: bool = False


class SummaryReference(Model):
    """A stored summary: the reply to this attempt sums up the first `messages`, system prompts not counted."""

    attempt_id: UUID
    messages: int = Field(gt=0)


class PrepareOutcome(Model):
    """What was decided before anything is paid: a result at once, or the candidates and the prompt to send.

    prompt: the prompt with its template.
    first_ask: the number of the first paid request. An earlier run under the same key may have made others.
    is_first: nothing was tried before under this key.
    condense: the prompt must be condensed by a paid request first.
    condensed: sent in place of `prompt`, where a stored summary makes it shorter.
    summary: the stored summary of the prompt's beginning, if there is one.
    """

    result: GenerateResult | None = None
    candidates: tuple[Candidate, ...] = ()
    prompt: Prompt | None = None
    serving: Serving = Serving()
    first_ask: int = 1
    is_first: bool = True
    condense: bool = False
    condensed: Prompt | None = None
    summary: SummaryReference | None = None


class AskStep(Restartable):
    """One attempt at an answer to `job.input.prompt`.

    ask: the number of the paid request: the first, then one for a condensed prompt or a new try at the schema.
    empty: how many replies had no text. The request has more room after each.
    is_first: nothing was tried before in this generation.
    """

    job: Job
    serving: Serving
    candidate: Candidate
    ask: int = 1
    empty: int = 0
    is_first: bool = False
    condensed: bool = False

    @property
    def request_id(self) -> str:
        return ask_id(self.job.job_key, self.ask)

    def is_for(self, paid_request_id: str) -> bool:
        """Whether a paid request is that of this step, or one for a further attempt of its stream."""
        return paid_request_id == self.request_id or paid_request_id.startswith(f"{self.request_id}/")

    def further_request_id(self, attempt: int, text: str) -> str:
        """The paid request of a further attempt of the stream, which continues after `text`.

        Another process may have counted the attempts from 1 again: the text separates its requests.
        """
        return request_id(self.request_id, f"stream-{attempt}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")

    @property
    def result_id(self) -> str:
        """The first of the paid requests that answer the generation: the user is charged for one of them."""
        return ask_id(self.job.job_key, 1)


class AskOutcome(Model):
    """The answer, or the `problem`: why the reply, which is paid for, does not follow the schema."""

    result: GenerateResult | None = None
    problem: str = ""


class CondenseStep(Model):
    """Condense the earlier part of `job.input.prompt`. `summary`: a stored summary to continue from."""

    job: Job
    serving: Serving
    candidate: Candidate
    summary: SummaryReference | None = None

    def request_id(self, *parts: str) -> str:
        return request_id(self.job.request_id, "condense", *parts)


class CondenseOutcome(Model):
    """The condensed prompt; None where nothing can be condensed.

    It may be the prompt that was sent before: with a stored summary, if nothing was said since.
    """

    prompt: Prompt | None = None


class EndStep(Model):
    """A generation without an answer. `may_be_stale`: an expired answer from the cache may be returned instead."""

    job: Job
    serving: Serving
    outcome: Literal["refused", "failed", "cancelled"]
    reason: str
    refusal: Refusal | None = None
    candidates: tuple[Candidate, ...] = ()
    may_be_stale: bool = False


class EndOutcome(Model):
    """The result in place of an answer; None where the generation fails. `cost_usd`: of all its attempts."""

    result: GenerateResult | None = None
    cost_usd: Decimal = Decimal(0)


def job_key(workflow_id: str) -> str:
    """The job key of all runs under a workflow id."""
    return f"{JOB_PREFIX}{hashlib.sha256(workflow_id.encode()).hexdigest()[:32]}"


def generation_id(job_key: str) -> str:
    """The id of a generation. The ids of its paid requests begin with it."""
    return request_id(job_key, STEP)


def ask_id(job_key: str, ask: int | Literal[""]) -> str:
    """The id of the paid request `ask` for an answer; with "", what all of them begin with."""
    return request_id(generation_id(job_key), f"ask-{ask}")


def is_derived(job_key: str) -> bool:
    """Whether a job key is derived from a workflow's id, and so names all runs under that id."""
    return job_key.startswith(JOB_PREFIX)


def workflow_id(workspace_id: str, key: str) -> str:
    """The workflow id of a generation. `key`: the caller's idempotency key; the same key is the same generation."""
    return f"generate/{workspace_id}/{key}"


def chat_request(generate_input: GenerateInput, prompt: Prompt, empty: int = 0) -> ChatRequest:
    """The vendor-independent request for a prompt, which must have its messages.

    empty: how many replies had no text, for example because reasoning took all their tokens.
    """
    asked = {name: getattr(prompt, name) for name in ChatContent.model_fields}
    sampling = {name: getattr(generate_input, name) for name in Sampling.model_fields}
    most = min(generate_input.max_tokens * MORE_ROOM**empty, MOST_ANSWER_TOKENS)
    return ChatRequest(**asked, **sampling, max_tokens=most)
