"""The free step of a phone call: record its end, and store what was said as a session that can be analysed."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from parley.domain.conversation.contract import Ended
from parley.domain.model import is_blank
from parley.domain.phone.callers import is_withheld
from parley.domain.phone.contract import FinishCallOutcome, FinishCallStep
from parley.domain.phone.heard import speech_seconds
from parley.domain.phone.settings import NumberSettings
from parley.domain.session import MAX_SESSION_SECONDS, Session, Turn
from parley.domain.session_analysis import SessionAnalysisInput, workflow_id
from parley.storage import conversations, phone_calls
from parley.storage.database import Database
from parley.storage.sessions import save_session
from parley.storage.tables import CallSession, ConversationTurn

# More turns of one phone call are not analysed.
MOST_TURNS = 2000


class PhoneCallSteps:
    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="phone_call.finish")
    @boundary
    async def finish(self, step: FinishCallStep) -> FinishCallOutcome:
        """Record that a phone call is over, close its conversation, and say what its number wants done after it."""
        where = (step.workspace_id, step.call_sid)
        async with self._database.transaction() as tx:
            await phone_calls.set_status(tx, *where, step.end.status, reason=step.end.reason)
            call = await phone_calls.find(tx, *where)
            if call is None:
                return FinishCallOutcome()
            await conversations.close(tx, *where)
            settings = await _settings_of(tx, call)
            if settings is None:
                return FinishCallOutcome()
            turns = await conversations.history(tx, *where, after=0, limit=MOST_TURNS)
            answered = [turn.number for turn in turns if turn.number and turn.outcome == Ended.COMPLETED]
            return FinishCallOutcome(
                analysis=await _to_analyse(tx, call, turns, step.at) if settings.analysis else None,
                summarize_through=max(answered, default=None) if settings.summary else None,
                remember=settings.remember and not is_withheld(call.caller),
            )


async def _settings_of(tx: AsyncSession, call: CallSession) -> NumberSettings | None:
    """The settings of the number that was called; None where the workspace has it no more."""
    number = await phone_calls.find_number(tx, call.number)
    if number is None or number.workspace_id != call.workspace_id:
        return None
    return NumberSettings.model_validate(number.settings)


async def _to_analyse(
    tx: AsyncSession, call: CallSession, turns: Sequence[ConversationTurn], ended_at: datetime
) -> SessionAnalysisInput | None:
    """Store what was said as a session; returns its analysis, or None where nothing was said."""
    session = session_of(call, turns, ended_at)
    if session is None:
        return None
    given = SessionAnalysisInput(
        workspace_id=call.workspace_id,
        user_id=session.user_id,
        session_id=session.session_id,
        session_sha256=await save_session(tx, call.workspace_id, session),
    )
    await phone_calls.set_analysis(tx, call.workspace_id, call.call_sid, workflow_id(given))
    return given


def session_of(call: CallSession, turns: Sequence[ConversationTurn], ended_at: datetime) -> Session | None:
    """A phone call as a session: the agent is the one who is coached. None where nothing was said.

    The ends of the caller's turns are known; how long each speech lasted follows from its text.
    """
    said = tuple(_said(call, turns))
    if not said:
        return None
    seconds = max((ended_at - call.started_at).total_seconds(), said[-1].end, 1.0)
    return Session(
        session_id=call.call_sid,
        user_id=call.user_id,
        language=call.language,
        duration_seconds=min(seconds, MAX_SESSION_SECONDS),
        turns=said,
    )


def _said(call: CallSession, turns: Sequence[ConversationTurn]) -> Iterator[Turn]:
    at = 0.0
    for turn in turns:
        asked_at = (turn.created_at - call.started_at).total_seconds()
        answer = turn.answer if turn.heard is None else turn.heard
        spoken: tuple[tuple[Literal["prospect", "rep"], str, float], ...] = (
            ("prospect", turn.text, asked_at - speech_seconds(turn.text)),
            ("rep", answer or "", asked_at + (turn.response_ms or 0) / 1000),
        )
        for role, text, about in spoken:
            start = min(max(about, at), MAX_SESSION_SECONDS)
            at = min(start + speech_seconds(text), MAX_SESSION_SECONDS)
            if not is_blank(text):
                yield Turn(role=role, start=start, end=at, text=text)
