"""Every fault of a provider in a turn of a phone call: the caller hears something, there is a row, the talk goes on."""

import asyncio
from typing import Any

import pytest

from gateway.phone import talk
from parley import Client
from parley.domain.phone.settings import Phrases
from parley.testing import SimulatorAdmin
from simulator.faults import DAMAGES, DELIVERIES, REFUSALS
from tests.gateway.phone.twilio import Session, Twilio
from tests.parts import TEST_TIMEOUT_SECONDS

pytestmark = pytest.mark.usefixtures("worker", "client")
CHAT = {"chat", "stream", "chunks"}


@pytest.fixture
def number() -> dict[str, Any]:
    return {"deadlines": {"filler": 0.3, "template": 0.4, "response_timeout": 0.6, "silence": 600}}


@pytest.mark.parametrize("faults", [REFUSALS, DAMAGES, DELIVERIES], ids=["refusals", "damages", "deliveries"])
@pytest.mark.parametrize("times", [1, None], ids=["of one request", "of all providers"])
async def test_the_caller_hears_something_there_is_a_row_and_the_talk_goes_on(
    client: Client,
    twilio: Twilio,
    simulator: SimulatorAdmin,
    monkeypatch: pytest.MonkeyPatch,
    faults: dict[str, frozenset[str]],
    times: int | None,
):
    monkeypatch.setattr(talk, "MOST_FAILURES_WITHOUT_A_PERSON", 1000)  # the talk has a failure after the other
    shown = [name for name, traits in faults.items() if traits <= CHAT]
    phone, said = twilio.phone(), dict[str, str]()
    await phone.ring()
    async with phone.session() as session:
        for fault in shown:
            await simulator.fault(fault, times=times)
            said[_question(fault)] = await _answered(session, _question(fault))
            await simulator.reset()
        await _until_answered(session)
    turns = {turn.text: turn for turn in await client.phone.turns(phone.sid)}
    for question, heard in said.items():
        turn = turns[question]
        assert heard
        if turn.error:
            assert heard.endswith(Phrases().apology), (question, heard)
            assert (turn.heard or "").endswith(Phrases().apology)
        else:
            assert heard.endswith(turn.heard or turn.answer or ""), (question, heard)
    call = await client.phone.call(phone.sid)
    assert call.errors >= sum(bool(turns[question].error) for question in said)


def _question(fault: str) -> str:
    return f"What does the export contain, with the fault {fault.replace('_', ' ')}?"  # as it is spoken


async def _answered(session: Session, question: str) -> str:
    await session.say(question)
    return await session.answer()


async def _until_answered(session: Session) -> None:
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while (await _answered(session, "And who may start it?")).endswith(Phrases().apology):
            pass
