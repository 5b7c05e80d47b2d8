"""Analyses of sample sessions with the simulator's coaching, made without a server."""

from pathlib import Path
from typing import Any

from parley.client.reading import read_session
from parley.domain.coaching.numbers import check_numbers
from parley.domain.coaching.prompts import coaching_request
from parley.domain.coaching.replies import read_reply
from parley.domain.coaching.rubric import built_in_rubrics
from parley.domain.coaching.trends import Past, trends
from parley.domain.habits import habits
from parley.domain.requests import ChatReply, Finish, Usage
from parley.domain.session import Session
from parley.domain.session_analysis import Analysis, Provenance, Step, Strategy
from parley.domain.voice_metrics import from_session
from simulator.answers import Answers
from simulator.wire import Message, Prompt
from tests.parts import SAMPLES

SHORT, RECORDING = SAMPLES / "gatekeeper-dental-clinic.json", SAMPLES / "gatekeeper-dental-clinic.ogg"
LONG = SAMPLES / "discovery-bakery-maintenance.json"
OTHERS = (SAMPLES / "price-negotiation-ferries.json", SAMPLES / "cold-call-logistics.json")


def analysis_of(session: Session, *, rubric: str = "sales", earlier: tuple[Analysis, ...] = ()) -> Analysis:
    """The analysis of a session, as the job makes it. `earlier`: the user's sessions before it."""
    rated_by, counted, voice = built_in_rubrics()[rubric], habits(session), from_session(session)
    request = coaching_request(session, rated_by, counted, voice, max_tokens=1500)
    messages = tuple(Message(message.role, message.text) for message in request.messages)
    answer = Answers(7, 128_000).answer(Prompt("m", messages, schema=request.response_schema), "")
    reply = ChatReply(text=answer.text, finish=Finish.STOP, usage=Usage(), model="simulator/m")
    coaching, problem = read_reply(reply, rated_by, session)
    assert coaching is not None, problem
    coaching = check_numbers(coaching, counted, voice)
    past = [Past(one.session_id, one.coaching, one.habits, one.voice_metrics) for one in earlier]
    source: dict[str, Any] = {"provider": "anthropic", "model": "m", "answered_by": "simulator/m", "simulated": True}
    return Analysis(
        session_id=session.session_id,
        user_id=session.user_id,
        strategy=Strategy.HYBRID,
        strategy_reason="a test",
        voice_metrics=voice,
        habits=counted,
        coaching=coaching,
        trends=trends(past, Past(session.session_id, coaching, counted, voice)),
        provenance=(Provenance(step=Step.COACHING, **source),),
    )


def of_sample(path: Path, *, earlier: tuple[Path, ...] = ()) -> tuple[Analysis, Session]:
    """The analysis of a sample session after those of others, and the session."""
    session = read_session(path)
    before = tuple(analysis_of(read_session(one)) for one in earlier)
    return analysis_of(session, earlier=before), session
