"""Inbound phone calls: webhook, session, turns, what was heard, and the end."""

import asyncio
from typing import Any

import pytest

from parley import Client
from parley.domain.phone.contract import workflow_id
from parley.testing import SimulatorAdmin
from tests.gateway.phone.twilio import CALLER, NUMBER, Phone, Twilio, until
from tests.parts import TEST_TIMEOUT_SECONDS

pytestmark = pytest.mark.usefixtures("worker", "client")


async def ended(client: Client, phone: Phone) -> None:
    """Wait for the end of the phone call's workflow."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await client.temporal.get_workflow_handle(workflow_id(client.workspace_id, phone.sid)).result()


async def test_a_phone_call_is_answered_token_by_token_and_recorded(client: Client, twilio: Twilio):
    phone = twilio.phone()
    twiml = await phone.ring()
    relay = twiml.find("Connect/ConversationRelay")
    assert relay is not None
    async with phone.session(relay.get("url")) as session:
        await session.say("Which formats can I export?")
        first = await session.answer()
        await session.say("And which of them is the fastest?")
        second = await session.answer()
        tokens = [frame for frame in session.frames if frame["type"] == "text"]
    assert len(tokens) > 4
    assert [frame["last"] for frame in tokens].count(True) == 2
    assert (await phone.action(CallStatus="completed", SessionStatus="completed")).findall("*") == []
    await ended(client, phone)
    call, turns = await client.phone.call(phone.sid), await client.phone.turns(phone.sid)
    assert [(one.text, one.answer, one.heard) for one in turns] == [
        ("Which formats can I export?", first, None),
        ("And which of them is the fastest?", second, None),
    ]
    assert all(one.response_ms is not None and one.audio_ms for one in turns)
    assert (call.status, call.reason, call.turns, call.sessions, call.errors) == ("completed", "caller", 2, 1, 0)
    assert call.cost_usd == sum(one.cost_usd for one in turns) > 0


async def questions(client: Client, phone: Phone) -> list[tuple[str, str]]:
    """What the last turn was answered with, without system prompts."""
    context = await (await client.find_conversation(phone.sid)).context()
    return [(message.role, message.text) for message in context if message.role != "system"]


async def test_an_interruption_before_the_first_word_leaves_no_answer(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    await simulator.fault("hang")
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("I want to book")
        await simulator.requests(at_least=1)
        await session.interrupt("", "0")
        await session.say("an appointment for Monday")
        answer = await session.answer()
    [(role, text)] = await questions(client, phone)
    assert role == "user"
    assert text.split("\n\n") == ["I want to book", "an appointment for Monday"]
    turns = await client.phone.turns(phone.sid)
    assert [(one.heard, one.outcome) for one in turns] == [("", "cancelled"), (None, "completed")]
    assert turns[1].answer == answer


async def test_a_turn_that_is_interrupted_before_it_is_stored_is_not_lost(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        for text in ("I want to book", "an appointment", "for Monday"):
            await session.interrupt("", "0")
            await session.say(text)
        await session.answer()
    asked = " ".join(text for role, text in await questions(client, phone) if role == "user")
    assert asked.split() == ["I", "want", "to", "book", "an", "appointment", "for", "Monday"]


@pytest.mark.parametrize("duration", [900, "900", 900.25, "900.25"])
async def test_memory_keeps_what_was_heard_of_an_answer_that_was_interrupted(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin, duration: Any
):
    await simulator.fault("stall")
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export?")
        said = await session.first_text()
        while len(said.split()) < 4:
            said += (await session.frame())["token"]
        heard = " ".join(said.split()[:3])
        await session.interrupt(heard, duration)
        await session.say("Stop, please.")
        await session.answer()
    assert (await questions(client, phone))[1] == ("assistant", heard)
    turns = await client.phone.turns(phone.sid)
    assert (turns[0].heard, turns[0].outcome) == (heard, "cancelled")
    assert (await client.phone.call(phone.sid)).interruptions == 1


async def test_an_answer_that_was_sent_whole_is_cut_to_what_was_heard(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        said = await session.answer()
        heard = " ".join(said.split()[:5])
        await session.interrupt(heard, 1200)
        await session.interrupt(heard, 1200)
        await session.say("And who may start it?")
        await session.answer()
    assert (await questions(client, phone))[1] == ("assistant", heard)
    turn = (await client.phone.turns(phone.sid))[0]
    assert (turn.heard, turn.answer, turn.outcome) == (heard, said, "completed")


async def test_an_interruption_of_something_else_does_not_cut_the_answer(
    client: Client, twilio: Twilio, number: dict[str, Any]
):
    """After the answer, the agent asks for digits: what is heard of that is not a part of the answer."""
    keys = {"1": {"kind": "enter", "text": "Please enter your number."}}
    await client.phone.set_number(NUMBER, {**number, "keys": keys})
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        said = await session.answer()
        await session.press("1")
        assert await session.answer() == "Please enter your number."
        await session.interrupt("Please enter", 500)
        await session.say("And who may start it?")
        await session.answer()
    assert (await questions(client, phone))[1] == ("assistant", said)


async def test_an_answer_that_was_too_long_is_cut_to_what_was_heard(
    client: Client, twilio: Twilio, number: dict[str, Any]
):
    await client.phone.set_number(NUMBER, {**number, "max_response_words": 10})
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export at the end of the month?")
        heard = " ".join((await session.answer()).split()[:5])
        await session.interrupt(heard, 1200)
        await session.say("And who may start it?")
        await session.answer()
    assert (await questions(client, phone))[1] == ("assistant", heard)


async def test_an_interruption_after_the_last_word_changes_nothing(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.interrupt("Hello! How can", 500)
        await session.say("Which formats can I export?")
        said = await session.answer()
        await session.interrupt(said, 9000)
        await session.say("And who may start it?")
        await session.answer()
    assert (await questions(client, phone))[1] == ("assistant", said)


async def test_a_doubled_prompt_is_answered_once(client: Client, twilio: Twilio, simulator: SimulatorAdmin):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        await session.say("Which formats can I export?")
        await session.answer()
    assert len(await client.phone.turns(phone.sid)) == 1
    assert len(await simulator.billed()) == 1


async def test_frames_that_overtake_the_setup_wait_for_it(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session(setup=False) as session:
        await session.press("7")
        await session.say("is my number")
        await session.send("setup", callSid=phone.sid, sessionId="VX1", **{"from": CALLER}, to=NUMBER)
        await session.send("setup", callSid=phone.sid, sessionId="VX1", **{"from": CALLER}, to=NUMBER)
        await session.answer()
    assert [one.text for one in await client.phone.turns(phone.sid)] == ["(The caller entered by keys: 7) is my number"]


async def test_ten_malformed_frames_in_a_row_end_the_session(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    bad = ["{", "[]", b"\x00", '{"type": "surprise"}', '{"type": "dtmf", "digit": "12"}', '{"type": "prompt"'] * 2
    async with phone.session() as session:
        for frame in bad[:9]:
            await session.socket.send(frame)
        await session.say("Are you there?")
        assert await session.answer()
        for frame in bad[:10]:
            await session.socket.send(frame)
        assert await session.closed() == 1007


async def test_an_error_frame_is_counted_and_changes_nothing(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.send("error", description="Invalid message received")
        await session.send("info", name="roundTripDelayMs", value=80)
        await session.say("Which formats can I export?")
        assert await session.answer()
    await until(lambda: counted(client, phone))


async def counted(client: Client, phone: Phone) -> bool:
    return (await client.phone.call(phone.sid)).errors == 1
