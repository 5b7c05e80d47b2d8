"""The workflow `Conversation`: one long-lived chat, whose turns are answered one at a time. Contract and ids."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field

from parley.domain.conversation.memory import Memory
from parley.domain.generate.contract import (
    Cached,
    GenerateInput,
    GenerateResult,
    Identifier,
    Job,
    Meta,
    PrepareOutcome,
    Prompt,
    Refused,
    generation_id,
)
from parley.domain.generate.contract import job_key as key_of
from parley.domain.knowledge import KnowledgeUsed
from parley.domain.model import Model, Name, NameInId
from parley.domain.requests import ChatContent, Finish, request_id
from parley.domain.routing import Candidate
from parley.domain.streaming import StreamTarget

WORKFLOW = "Conversation"
PREFIX, PHONE_CALL_PREFIX = "conversation/", "phone-call/"
SAY, CLOSE = "say", "close"
SET_PREFERENCES, CORRECT_MEMORY, FORGET_MEMORY = "set_preferences", "correct_memory", "forget_memory"
STATE, CONTEXT, COST = "get_state", "get_context", "get_cost"
# The section of the configuration that a user's preferences are.
PREFERENCES = "ai_settings"
# The term of a turn that says whether the knowledge base is searched for it.
KNOWLEDGE = "knowledge"
# The type of the error by which the workflow refuses an update for now: its sender sends it again.
TRY_AGAIN = "TryAgain"
# The server refuses an update to a workflow that has ten in flight; some are left for a close.
MOST_WAITING = 8
# After so many turns the workflow continues as new: one that was idle is read again from the start of its run.
TURNS_PER_RUN = 50
# How many ended turns the next run knows without a look into the database.
RECENT_TURNS = 20
# Facts are extracted from so many turns at a time: as many as are in the context verbatim, so that none is missing.
TURNS_PER_EXTRACTION = 10
LONGEST_TEXT = 1_000_000
ID_BYTES = 200
# A turn has a reader who waits.
LONGEST_WAIT_SECONDS = 3600


def _check_length(name: str) -> str:
    if len(name.encode()) > ID_BYTES:
        raise ValueError(f"must have at most {ID_BYTES} bytes in UTF-8: it is a part of a workflow's id")
    return name


ConversationId = Annotated[NameInId, AfterValidator(_check_length)]
TurnId = ConversationId
WhenBusy = Literal["wait", "refuse"]
"""What to do with a turn while another is being answered: wait for it, or refuse this one."""


class Ended(StrEnum):
    """How a turn ended. Only a completed one is an exchange: its question and its answer are in later prompts."""

    COMPLETED = "completed"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TurnOutcome(Model):
    """How a turn ended, as a history holds it. `number`: its place in the conversation, from 1."""

    turn_id: str
    number: int
    outcome: Ended


class ContextState(Model):
    """What the last context was made of.

    messages: all of it. exchanges: earlier turns with their answers, word for word. memories: what was recalled.
    summarized_through: the number of the last turn that the running summary covers; 0 without one.
    """

    messages: int = 0
    exchanges: int = 0
    memories: int = 0
    summarized_through: int = 0


class Carried(Model):
    """What a run of the workflow hands on to the next: counts, ids and outcomes.

    cost_usd: of the answers and of the work between turns. The other amounts are those of `ConversationCost`.
    recent: the turns that ended last. unremembered: turns from which no facts were extracted yet. candidates: the
    providers of the last turn that asked one, the cheapest first, for the work between turns. action: its action.
    """

    turns: int = 0
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    upkeep_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)
    prompt_cache_saved_usd: Decimal = Decimal(0)
    context_sha256: str = ""
    context: ContextState = ContextState()
    recent: tuple[TurnOutcome, ...] = ()
    unremembered: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    action: str = ""


class ConversationInput(Model):
    """A conversation of a user. `carried`: from the run before."""

    workspace_id: str
    conversation_id: str
    user_id: str
    carried: Carried = Carried()


class Say(Model):
    """The update that answers a turn, whose row is stored. Its update id is the turn's id.

    stream: where the answer's deltas go while it is made; None: nowhere.
    """

    turn_id: Name
    when_busy: WhenBusy = "wait"
    stream: StreamTarget | None = None


class Close(Model):
    """The update that ends the conversation after the turns that wait."""


class SetPreferences(Model):
    """The update that replaces how the user likes to be answered: the section `ai_settings`, for the next turn."""

    preferences: dict[str, Any]


class CorrectMemory(Model):
    """The update that replaces the value of a memory of the user."""

    memory_id: UUID
    value: str


class ForgetMemory(Model):
    """The update that removes a memory of the user; without an id, all of them."""

    memory_id: UUID | None = None


Change = SetPreferences | CorrectMemory | ForgetMemory
"""What an update changes of the conversation's user, between two turns."""


class Changed(Model):
    """What was changed. memory: the corrected one. forgotten: how many memories were removed."""

    memory: Memory | None = None
    forgotten: int = 0


class ConversationState(Model):
    """Where a conversation is.

    status: `open` or `closed`. turns: those that ended. waiting: those that are being answered, or wait.
    tokens: what providers counted for all answers. cost_usd: of all answers and of the work between turns, in USD.
    context_sha256: the stored prompt of the last turn; empty before the first.
    """

    status: Literal["open", "closed"] = "open"
    turns: int = 0
    waiting: int = 0
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    context_sha256: str = ""


class TurnResult(GenerateResult):
    """The answer to a turn, or why there is none.

    content: the answer; without one, a fixed sentence that says so, with `success` False.
    turn_id, number: of the turn. reason: the code of the refusal or of the error; empty for an answer.
    """

    turn_id: str
    number: int
    reason: str = ""


class NewTurn(Model):
    """A turn as a client sends it. `terms`: how it is to be answered. `fingerprint`: of the text and the terms."""

    workspace_id: str
    conversation_id: ConversationId
    turn_id: TurnId
    user_id: Identifier
    text: str = Field(max_length=LONGEST_TEXT)
    terms: dict[str, Any]
    fingerprint: str

    @classmethod
    def of(cls, conversation_id: str, turn_id: str, asked: GenerateInput, *, knowledge: bool | None = None) -> Self:
        """The turn that asks this. Its input has one message, of the user.

        knowledge: whether the knowledge base is searched for it; None: as the policy of its action says.
        """
        chosen = {} if knowledge is None else {KNOWLEDGE: knowledge}
        return cls(
            workspace_id=asked.workspace_id,
            conversation_id=conversation_id,
            turn_id=turn_id,
            user_id=asked.user_id,
            text=asked.prompt.messages[0].text,
            terms=terms_of(asked) | chosen,
            fingerprint=asked.fingerprint() + "".join(f"+{name}={value}" for name, value in chosen.items()),
        )


# The steps of the workflow.


class ComposeStep(Model):
    """Compose the prompt of a turn. `at`: when the turn's work began."""

    workspace_id: str
    conversation_id: str
    user_id: str
    turn_id: str
    stream: StreamTarget | None = None
    at: AwareDatetime


class ComposeOutcome(Model):
    """The generation that answers the turn; or how the turn ended, if it did before.

    prepared: what was decided for the generation; None where that failed: it is prepared as any other, and ends so.
    """

    number: int
    job: Job | None = None
    prepared: PrepareOutcome | None = None
    context: ContextState = ContextState()
    ended: TurnOutcome | None = None


class EndTurnStep(Model):
    """Record how a turn ended. `meta`: how its answer was made, and what it cost.

    action: decides how long a context may be.
    """

    workspace_id: str
    conversation_id: str
    turn_id: str
    action: str
    outcome: Ended
    reason: str = ""
    context_sha256: str = ""
    meta: Meta


class EndTurnOutcome(Model):
    """`condense_through`: the number of the last turn that the running summary should cover; None: it is up to date."""

    condense_through: int | None = None


class CondenseTurnsStep(Model):
    """Continue the running summary through the turn with the number `through`, with one paid request."""

    workspace_id: str
    conversation_id: str
    user_id: str
    action: str
    through: int
    candidate: Candidate


class CondenseTurnsOutcome(Model):
    """What it cost in USD, and the number of the last turn to cover next; None: the summary is up to date."""

    cost_usd: Decimal = Decimal(0)
    condense_through: int | None = None


class ChangeStep(Model):
    """Change what is stored of a user. `update_id`: a repeated update makes the same memory."""

    workspace_id: str
    user_id: str
    update_id: str
    change: Change


class CloseStep(Model):
    workspace_id: str
    conversation_id: str


class CloseOutcome(Model):
    """The conversation is closed."""


def workflow_id(workspace_id: str, conversation_id: str) -> str:
    """The workflow id of a conversation."""
    return f"{PREFIX}{workspace_id}/{conversation_id}"


def turn_job_id(workspace_id: str, conversation_id: str, turn_id: str) -> str:
    """The job id of a turn's generation, which is also the id of its stream."""
    return f"{workflow_id(workspace_id, conversation_id)}/{turn_id}"


def turn_request_id(workspace_id: str, conversation_id: str, turn_id: str) -> str:
    """The id of a turn's generation, in reports and for feedback."""
    return generation_id(key_of(turn_job_id(workspace_id, conversation_id, turn_id)))


def workflows_of(job_id: str) -> tuple[str, ...]:
    """The workflow that runs a job or feeds a stream; for a turn, that of the conversation or of the phone call.

    A conversation and a phone call have ids of the same form, so that an id does not say which of the two it is.
    """
    if not job_id.startswith(PREFIX):
        return (job_id,)
    place = "/".join(job_id.removeprefix(PREFIX).split("/")[:2])
    return f"{PREFIX}{place}", f"{PHONE_CALL_PREFIX}{place}"


def turn_of(job_id: str) -> tuple[str, str, str] | None:
    """The workspace, the conversation and the turn of a turn's job id; None for another id."""
    parts = tuple(job_id.removeprefix(PREFIX).split("/"))
    return parts if job_id.startswith(PREFIX) and len(parts) == 3 else None


def upkeep_key(workspace_id: str, conversation_id: str) -> str:
    """The job key of a conversation's work between turns: its summaries and the extraction of facts."""
    return key_of(workflow_id(workspace_id, conversation_id))


def condense_id(workspace_id: str, conversation_id: str, through: int, room: int) -> str:
    """The id of the paid request for a summary through a turn, on a model with that much room."""
    return request_id(upkeep_key(workspace_id, conversation_id), "condense", str(through), f"room-{room}")


def terms_of(generate_input: GenerateInput) -> dict[str, Any]:
    """How a turn is to be answered, as its row holds it: all but who asks, and the text."""
    left_out = {"workspace_id": True, "user_id": True, "stream": True, "prompt": {"messages", "sha256"}}
    return generate_input.model_dump(mode="json", exclude=left_out, exclude_defaults=True)


def turn_prompt(terms: Mapping[str, Any], messages: tuple[Any, ...]) -> Prompt:
    """A prompt on the terms of a turn."""
    asked = {name: value for name, value in terms.get("prompt", {}).items() if name in ChatContent.model_fields}
    return Prompt(messages=messages, **asked)


def turn_job(step: ComposeStep, terms: Mapping[str, Any], fingerprint: str, prompt: Prompt) -> Job:
    """The generation that answers a turn. Its fingerprint is that of the turn: the context may change."""
    others = {name: value for name, value in terms.items() if name not in ("prompt", KNOWLEDGE)}
    asked = GenerateInput(
        workspace_id=step.workspace_id, user_id=step.user_id, prompt=prompt, stream=step.stream, **others
    )
    job_id = turn_job_id(step.workspace_id, step.conversation_id, step.turn_id)
    return Job(
        input=asked,
        job_key=key_of(job_id),
        workflow_id=job_id,
        fingerprint=fingerprint,
        started_at=step.at,
        is_turn=True,
    )


def outcome_of(result: GenerateResult) -> tuple[Ended, str]:
    """How a turn ended whose generation has a result, and why there is no answer.

    An answer whose readers left before its end is cancelled: what was made of it may not have been seen.
    """
    if not result.success:
        return Ended.REFUSED, result.refusal.code.value if result.refusal else ""
    if result.meta.finish is Finish.CANCELLED:
        return Ended.CANCELLED, ""
    return Ended.COMPLETED, ""


# What a user reads where there is no answer. It is free, and not a part of the conversation.
SENTENCES = {
    Refused.INSUFFICIENT_ENERGY.value: "I did not answer this, because your energy is used up. Nothing was charged.",
    Refused.BUDGET_EXHAUSTED.value: "I did not answer this, because the budget is used up. Nothing was charged.",
    Refused.NO_MODEL_ALLOWED.value: "I did not answer this, because no model is open to you. Nothing was charged.",
    Refused.CONTEXT_TOO_LONG.value: "I cannot answer this, because it is too long for me. Please send a shorter text.",
    Refused.CONTENT_FILTERED.value: "I cannot answer this, because a content filter refused it. Please rephrase it.",
}
UNAVAILABLE = "I cannot answer now, because no provider of answers is available. Please send it again later."


def sentence_for(reason: str) -> str:
    """The fixed sentence for a turn without an answer. `reason`: the code of the refusal or of the error."""
    return SENTENCES.get(reason, UNAVAILABLE)


class ConversationCost(Model):
    """What a conversation has cost, in USD.

    answers_usd: of the turns. upkeep_usd: of summaries and of the extraction of facts between turns.
    saved_usd: what cached answers cost when they were made.
    prompt_cache_saved_usd: what the vendors' prompt caches saved on the answers, less what writing to them cost.
    """

    answers_usd: Decimal = Decimal(0)
    upkeep_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)
    prompt_cache_saved_usd: Decimal = Decimal(0)

    @property
    def total_usd(self) -> Decimal:
        return self.answers_usd + self.upkeep_usd


class TurnReport(Model):
    """A turn, as the database has it.

    knowledge_used: the passages of the knowledge base that its prompt has; None if it was not searched.
    outcome: None while it waits or is being answered. answer: None without one. Only the answer of a completed turn is
        part of the conversation.
    request_id: of its generation, in reports and for feedback.
    """

    turn_id: str
    number: int | None
    text: str
    answer: str | None
    outcome: Ended | None
    reason: str
    cached: Cached = Cached.NO
    cost_usd: Decimal = Decimal(0)
    request_id: str
    created_at: datetime
    ended_at: datetime | None
    knowledge_used: tuple[KnowledgeUsed, ...] | None = None


class ConversationExport(Model):
    """Everything that is stored of a conversation.

    summary: of the turns through the number `summarized_through`. turns: all, those that wait last.
    memories: what was learned of the user in this conversation; also what was superseded.
    """

    conversation_id: str
    user_id: str
    status: Literal["open", "closed"]
    created_at: datetime
    closed_at: datetime | None
    summary: str
    summarized_through: int
    turns: tuple[TurnReport, ...]
    memories: tuple[Memory, ...]
    cost: ConversationCost
