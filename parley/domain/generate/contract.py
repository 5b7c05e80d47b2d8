"""The job `Generate`: one answer of an LLM, within budget, from whoever can give it. Its contract and its ids."""

import hashlib
import json
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, model_validator

from parley.domain.model import Model, Name, Text
from parley.domain.requests import LONGEST_PATIENCE_SECONDS, ChatProvider, ChatRequest, Finish, Message, Provider, Usage
from parley.domain.routing import Candidate

WORKFLOW = "Generate"
DEFAULT_ACTION = "ai_message"
DEFAULT_MAX_TOKENS = 1000
# What is larger than this travels by reference: a workflow's history is no place for conversations.
INLINE_BYTES = 1500

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
    """What is asked: as it is where it is short, else the hash under which the database holds it.

    `response_schema`: JSON schema that the answer must follow.
    """

    messages: tuple[Message, ...] = ()
    schema_name: str = Field(default="reply", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    response_schema: dict[str, Any] | None = None
    sha256: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.messages) == bool(self.sha256):
            raise ValueError("give either messages or the sha256 of a stored prompt")
        if self.messages and not any(one.content.strip() for one in self.messages if one.role != "system"):
            raise ValueError("the messages say nothing")
        return self

    @property
    def is_short(self) -> bool:
        return len(self.model_dump_json().encode()) <= INLINE_BYTES

    def hash(self) -> str:
        """SHA-256 of the prompt as canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


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
    provider: ChatProvider | None = None
    model: Text | None = None
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, gt=0, le=100_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
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
    condensed: bool = False
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
    """A running `Generate`. `started_at` as the workflow saw it."""

    input: GenerateInput
    job_key: str
    workflow_id: str
    started_at: AwareDatetime

    @property
    def request_id(self) -> str:
        """The name of the generation; its calls' own ids begin with it."""
        return f"{self.job_key}/generate"

    def asking(self, prompt: Prompt) -> Self:
        return self.model_copy(update={"input": self.input.model_copy(update={"prompt": prompt})})


class Serving(Model):
    """How a request is served, as was decided once: nothing of it changes when a worker or the policy does.

    `max_cost_usd`: what all its calls may cost together; None is no limit.
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


class Kept(Model):
    """The summary that an attempt's reply gives of a conversation's first `messages`, system prompts not counted."""

    attempt_id: UUID
    messages: int = Field(gt=0)


class Prepared(Model):
    """What was decided before anything is paid: an answer or refusal at once, or whom to ask for what.

    `condensed`: what is sent in place of `prompt`, where a summary that was `kept` of its beginning makes it shorter.
    `condense`: it is to be condensed by a call first.
    """

    result: GenerateResult | None = None
    candidates: tuple[Candidate, ...] = ()
    prompt: Prompt | None = None
    serving: Serving = Serving()
    condense: bool = False
    condensed: Prompt | None = None
    kept: Kept | None = None


class AskStep(Model):
    """One try at an answer to `job.input.prompt`. `ask` counts what is asked: the same, condensed, or once more.

    `energy`: what the user is charged for a reply. `is_first`: nothing was tried before.
    """

    job: Job
    serving: Serving
    candidate: Candidate
    ask: int = 1
    energy: int = 0
    is_first: bool = False
    condensed: bool = False

    @property
    def request_id(self) -> str:
        return self.job.request_id if self.ask == 1 else f"{self.job.request_id}-{self.ask}"


class Asked(Model):
    """What came of a try. `problem`: why the reply does not follow the schema; it was paid for all the same."""

    result: GenerateResult | None = None
    problem: str = ""


class CondenseStep(Model):
    """Condense the earlier part of `job.input.prompt`, of whose beginning a summary may be `kept`."""

    job: Job
    serving: Serving
    candidate: Candidate
    kept: Kept | None = None

    @property
    def request_id(self) -> str:
        return f"{self.job.request_id}-condense"


class Condensed(Model):
    """The condensed prompt; None where nothing can be condensed. It may be one that is known: nothing new was there."""

    prompt: Prompt | None = None


class EndStep(Model):
    """A generation that nobody answered. Where `may_be_stale`, an expired answer from the cache may stand in."""

    job: Job
    serving: Serving
    outcome: Literal["refused", "failed", "cancelled"]
    reason: str
    refusal: Refusal | None = None
    candidates: tuple[Candidate, ...] = ()
    may_be_stale: bool = False


class Ended(Model):
    """The result that stands in for an answer; None where the generation fails."""

    result: GenerateResult | None = None


def workflow_id(workspace_id: str, key: str) -> str:
    """The id of one generation. `key` is the caller's: the same key is the same generation."""
    return f"generate/{workspace_id}/{key}"


def chat_request(asked: GenerateInput, prompt: Prompt) -> ChatRequest:
    """The vendor-independent request for a prompt that is there in full."""
    return ChatRequest(
        messages=prompt.messages,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        schema_name=prompt.schema_name,
        response_schema=prompt.response_schema,
    )
