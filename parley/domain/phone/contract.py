"""The workflow `PhoneCall`: one phone call. Contract, ids, and how it is reported."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from parley.domain.conversation.contract import PHONE_CALL_PREFIX, TurnReport
from parley.domain.model import Model, Name
from parley.domain.phone.settings import NumberSettings
from parley.domain.session_analysis import SessionAnalysisInput

WORKFLOW = "PhoneCall"
SAY, STATE = "say", "get_state"
CONNECTED, LEFT, ENDED = "connected", "left", "ended"
ACTION = "phone_turn"
# The error of a turn in the middle of which the session ended: the caller hung up, or the connection was lost.
SESSION_ENDED = "SessionEnded"
Direction = Literal["inbound", "outbound", "console"]
# How long a phone call without a session, and without a callback that says more, may still come back.
RECONNECT_SECONDS = 60
# How long it may ring before its first session.
CONNECT_SECONDS = 300
# A phone call whose end is never reported is over after this. Twilio itself ends one after four hours.
LONGEST_SECONDS = 4 * 3600 + 600


class CallStatus(StrEnum):
    """Where a phone call is, in Twilio's words. Those from `COMPLETED` on are final."""

    QUEUED = "queued"
    INITIATED = "initiated"
    RINGING = "ringing"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    BUSY = "busy"
    FAILED = "failed"
    NO_ANSWER = "no-answer"
    CANCELED = "canceled"

    @property
    def rank(self) -> int:
        """A status never follows one with a higher rank: callbacks come in any order."""
        return RANKS[self]

    @property
    def is_final(self) -> bool:
        return self.rank == FINAL


FINAL = 4
RANKS: Mapping[CallStatus, int] = {
    CallStatus.QUEUED: 0,
    CallStatus.INITIATED: 1,
    CallStatus.RINGING: 2,
    CallStatus.IN_PROGRESS: 3,
    **dict.fromkeys(list(CallStatus)[4:], FINAL),
}


class PhoneCallInput(Model):
    """A phone call. `user_id`: who its turns are for. `longest_seconds`: when it is over, if nothing ends it before."""

    workspace_id: str
    call_sid: str
    user_id: str
    longest_seconds: float = LONGEST_SECONDS


class Moment(Model):
    """A session of the phone call has begun, or has ended. `began_at`: when it began; None: not known."""

    session_id: str = ""
    began_at: AwareDatetime | None = None


class CallEnd(Model):
    """The phone call is over. `status`: as Twilio says. `reason`: a word that says who ended it, or why."""

    status: CallStatus = CallStatus.COMPLETED
    reason: str = ""


class PhoneCallState(Model):
    """Where a phone call is, as its workflow knows it."""

    status: Literal["open", "ended"] = "open"
    connected: bool = False
    turns: int = 0
    waiting: int = 0
    cost_usd: Decimal = Decimal(0)


class FinishCallStep(Model):
    """Record that a phone call is over. `at`: when."""

    workspace_id: str
    call_sid: str
    end: CallEnd
    at: AwareDatetime


class FinishCallOutcome(Model):
    """The work to do after the phone call, as its number wants it and as far as something was said.

    analysis: the analysis to start; None: none. summarize_through: the number of the last turn of the summary; None: no
    summary. remember: whether to extract facts.
    """

    analysis: SessionAnalysisInput | None = None
    summarize_through: int | None = None
    remember: bool = False


class PhoneNumber(Model):
    """A phone number of a workspace, with its settings."""

    number: str
    settings: NumberSettings
    updated_at: datetime


class NewCall(Model):
    """A phone call that begins. `number`: the workspace's. `caller`: the other end. `console`: a page plays Twilio."""

    workspace_id: str
    call_sid: Name
    number: str
    caller: str
    direction: Direction = "inbound"
    user_id: str
    account_sid: str = ""
    parent_call_sid: str = ""
    forwarded_from: str = ""
    caller_name: str = ""
    language: str
    parameters: dict[str, str] = Field(default_factory=dict)
    instructions: str = ""
    status: CallStatus = CallStatus.RINGING


class TurnMeasures(Model):
    """What a gateway measured of a turn.

    heard: what the caller heard of the answer; None: all of it. interrupted: whether the caller spoke into it.
    audio_ms: how long the voice spoke, about. error: the code of what went wrong. The others are milliseconds from the
    end of the caller's speech, None where it did not happen: filler_ms, template_ms: to what was said because the
    answer was late. first_token_ms: to the first piece of the answer that came. response_ms: to the first text of the
    answer that was sent.
    """

    heard: str | None = None
    interrupted: bool = False
    filler_ms: int | None = None
    template_ms: int | None = None
    first_token_ms: int | None = None
    response_ms: int | None = None
    audio_ms: int | None = None
    error: str = ""


class Counts(Model):
    """What a session adds to the counts of its phone call."""

    sessions: int = 0
    interruptions: int = 0
    errors: int = 0
    keys: int = 0


class PhoneTurn(TurnMeasures, TurnReport):
    """A turn of a phone call, with what was measured of it."""


class PhoneCallReport(Model):
    """A phone call, as the database has it.

    seconds: how long it lasted, or lasts. reason: who ended it, or why; empty while it goes on. sessions: of
    ConversationRelay, more than one where a connection was lost. analysis: the job of its `SessionAnalysis`.
    summary: of what was said, made after the hang-up where the number wants it; lists of phone calls leave it out.
    """

    call_sid: str
    number: str
    caller: str
    direction: Direction
    status: CallStatus
    reason: str = ""
    user_id: str
    language: str
    parameters: dict[str, str] = Field(default_factory=dict)
    handoff: dict[str, Any] | None = None
    started_at: datetime
    ended_at: datetime | None = None
    seconds: float
    turns: int
    sessions: int
    interruptions: int
    errors: int
    keys: int
    cost_usd: Decimal = Decimal(0)
    analysis: str = ""
    summary: str = ""


def workflow_id(workspace_id: str, call_sid: str) -> str:
    """The workflow id of a phone call."""
    return f"{PHONE_CALL_PREFIX}{workspace_id}/{call_sid}"


def turn_id(call_sid: str, number: int) -> str:
    """The id of a turn, which is also its update's."""
    return f"{call_sid}:{number}"
