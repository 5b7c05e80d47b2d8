"""The free step of a phone call: record its end, and store what was said as a session that can be analysed."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from parley.domain.model import is_blank
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
        """Record that a phone call is over, close its conversation, and store its session if it is to be analysed."""
        where = (step.workspace_id, step.call_sid)
        async with self._database.transaction() as tx:
            await phone_calls.set_status(tx, *where, step.end.status, reason=step.end.reason)
            call = await phone_calls.find(tx, *where)
            if call is None:
                return FinishCallOutcome()
            await conversations.close(tx, *where)
            if not await _wants_analysis(tx, call):
                return FinishCallOutcome()
            turns = await conversations.history(tx, *where, after=0, limit=MOST_TURNS)
            session = session_of(call, turns, step.at)
            if session is None:
                return FinishCallOutcome()
            given = SessionAnalysisInput(
                workspace_id=step.workspace_id,
                user_id=session.user_id,
                session_id=session.session_id,
                session_sha256=await save_session(tx, step.workspace_id, session),
            )
            await phone_calls.set_analysis(tx, *where, workflow_id(given))
        return FinishCallOutcome(analysis=given)


async def _wants_analysis(tx: AsyncSession, call: CallSession) -> bool:
    number = await phone_calls.find_number(tx, call.number)
    if number is None or number.workspace_id != call.workspace_id:
        return False
    return NumberSettings.model_validate(number.settings).analysis


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
