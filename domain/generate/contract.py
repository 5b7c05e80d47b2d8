"""The job `Generate`: one answer of an LLM, within budget, from whoever can give it. Its contract and its ids."""

import hashlib
import json
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from domain.calls import LONGEST_PATIENCE_SECONDS, ChatRequest, Finish, Message, Model, Name, Provider, Text, Usage
from domain.routing import Candidate

WORKFLOW = "Generate"
DEFAULT_ACTION = "ai_message"
DEFAULT_MAX_TOKENS = 1000
# What is larger than this travels by reference: a workflow's history is no place for conversations.
INLINE_BYTES = 2000

Identifier = Annotated[str, Field(min_length=1, max_length=200)]


class CachePolicy(StrEnum):
    """Whether an answer given before may be given again. `similar` includes `exact`."""

    OFF = "off"
    EXACT = "exact"
    SIMILAR = "similar"


class OnRateLimit(StrEnum):
    """What to do when a provider says that it is asked too often."""

    WAIT = "wait"
    CHEAPER = "cheaper"


class Cached(StrEnum):
    """How an answer came out of the cache, if it did. `stale`: it had expired, and nobody else could answer."""

    NO = ""
    EXACT = "exact"
    SIMILAR = "similar"
    STALE = "stale"


class Refused(StrEnum):
    """Why nothing was asked. The caller can do something about each of these."""

    INSUFFICIENT_ENERGY = "insufficient_energy"
    BUDGET_EXHAUSTED = "budget_exhausted"
    NO_MODEL_ALLOWED = "no_model_allowed"
    CONTEXT_TOO_LONG = "context_too_long"


class Prompt(Model):
    """Messages: as they are where they are short, else the hash under which the database holds them."""

    messages: tuple[Message, ...] = ()
    sha256: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.messages) == bool(self.sha256):
            raise ValueError("give either messages or the sha256 of stored ones")
        return self


class GenerateInput(Model):
    """What to answer, for whom, and on which terms. What is None is decided by the policy of the action.

    `model` (and `provider`) ask for one by name; cheaper ones stand in only where it does not fit the budget.
    `prospect_id`: whom the answer is about. `template`: a prompt by name, or `name@version`, put before the messages.
    `experiment`: the name of one whose arm decides the template. `patience_seconds`: how long to wait while every
    provider is down, before a stale answer or an error.
    """

    workspace_id: Identifier
    user_id: Identifier
    action: Name = DEFAULT_ACTION
    prompt: Prompt
    prospect_id: str | None = None
    provider: Provider | None = None
    model: Text | None = None
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, gt=0, le=100_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    schema_name: str = Field(default="reply", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    response_schema: dict[str, Any] | None = None
    template: str | None = None
    experiment: str | None = None
    cache: CachePolicy | None = None
    on_rate_limit: OnRateLimit | None = None
    patience_seconds: int = Field(default=0, ge=0, le=LONGEST_PATIENCE_SECONDS)


class Refusal(Model):
    """`message`: one line for people."""

    code: Refused
    message: str


class Meta(Model):
    """How an answer came about, and what it cost.

    `model` and `provider` were asked, `answered_by` is the name that the reply gives itself. `reason`: why this model.
    `cost_usd` is what this request spent on all its calls; `saved_usd` what a cached answer once cost. `request_id`
    names it in reports and for feedback. `dropped`: parameters that the vendor no longer takes.
    """

    request_id: str
    usage: Usage = Usage()
    cost_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)
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
    compressed: bool = False
    template: str = ""
    experiment: str = ""
    arm: str = ""
    dropped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class GenerateResult(Model):
    """`content` is None where nothing was answered, and where it is too long for a history: `stored` says so, and
    `client.generate` reads it from the database. `parsed`: the content as the schema has it."""

    success: bool
    content: str | None = None
    stored: bool = False
    parsed: Any | None = None
    refusal: Refusal | None = None
    meta: Meta


# The steps of the workflow.


class Job(Model):
    """A running `Generate`. `started_at` as the workflow saw it, an ISO time."""

    input: GenerateInput
    job_key: str
    workflow_id: str
    started_at: str

    @property
    def request_id(self) -> str:
        return f"{self.job_key}/generate"


class Prepared(Model):
    """What was decided before anything is paid: an answer or refusal at once, or whom to ask for what."""

    result: GenerateResult | None = None
    candidates: tuple[Candidate, ...] = ()
    prompt: Prompt | None = None
    energy: int = 0
    cache: CachePolicy = CachePolicy.OFF
    on_rate_limit: OnRateLimit = OnRateLimit.WAIT
    template: str = ""
    experiment: str = ""
    arm: str = ""
    warnings: tuple[str, ...] = ()


class AskStep(Model):
    """One try at an answer. `ask` counts what is asked: a compressed prompt, or one after a malformed reply."""

    job: Job
    prepared: Prepared
    candidate: Candidate
    prompt: Prompt
    ask: int = 1
    compressed: bool = False
    spent_usd: Decimal = Decimal(0)
    attempts: int = 0
    warnings: tuple[str, ...] = ()


class Asked(Model):
    """What came of a try. `problem`: why the reply does not follow the schema, with what it cost all the same."""

    result: GenerateResult | None = None
    problem: str = ""
    cost_usd: Decimal = Decimal(0)
    attempts: int = 0


def workflow_id(workspace_id: str, key: str) -> str:
    """The id of one generation. `key` is the caller's: the same key is the same generation."""
    return f"generate/{workspace_id}/{key}"


def size(value: Any) -> int:
    """Bytes of a value as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def messages_hash(messages: tuple[Message, ...]) -> str:
    canonical = json.dumps([message.model_dump() for message in messages], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def chat_request(asked: GenerateInput, messages: tuple[Message, ...]) -> ChatRequest:
    return ChatRequest(
        messages=messages,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        schema_name=asked.schema_name,
        response_schema=asked.response_schema,
    )
