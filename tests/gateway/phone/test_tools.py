"""Tools of the agent's model: what it asks for is done after its words, and only what the number allows."""

import json
from itertools import product
from typing import Any

import pytest

from gateway.phone import calls
from parley import Client
from parley.domain.phone.contract import SESSION_ENDED
from parley.domain.phone.settings import NumberSettings, Phrases
from parley.domain.phone.tools import UnknownToolCall, read_call, tools_of
from parley.domain.requests import Tool
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running
from tests.gateway.phone.twilio import NUMBER, Twilio, simulated

PERSON = "+15550100099"
ALL = ("transfer_to_person", "end_call", "send_digits", "change_language")
WHOLE = NumberSettings.model_validate({"tools": ALL, "transfer_to": PERSON, "languages": [{"code": "es-ES"}]})


@pytest.fixture
def number(number: dict[str, Any]) -> dict[str, Any]:
    return {**number, "tools": ["transfer_to_person", "end_call"], "transfer_to": PERSON}


@pytest.mark.usefixtures("worker")
async def test_the_model_hands_the_caller_over(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Please transfer me now.")
        assert await session.answer() == Phrases().transfer
        handoff = json.loads((await session.until("end"))["handoffData"])
    assert (handoff["reason"], bool(handoff["why"])) == ("transfer", True)
    assert [verb.tag for verb in await phone.action(HandoffData=json.dumps(handoff))] == ["Dial"]
    [turn] = await client.phone.turns(phone.sid)
    assert (turn.heard, turn.error, turn.outcome) == (Phrases().transfer, "", "completed")


@pytest.mark.usefixtures("worker")
async def test_after_a_tool_the_talk_goes_on(client: Client, twilio: Twilio, number: dict[str, Any]):
    await client.phone.set_number(
        NUMBER, {**number, "tools": ["change_language"], "languages": [{"code": "de-DE"}, {"code": "es-ES"}]}
    )
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Please change the language to es-ES.")
        assert (await session.until("language"))["ttsLanguage"] == "es-ES"
        assert await session.answer() == Phrases().done
        await session.say("Which formats can I export?", lang="es-ES")
        assert "simulator" in await session.answer()
    assert [(turn.heard, turn.error) for turn in await client.phone.turns(phone.sid)] == [
        (Phrases().done, ""),
        (None, ""),
    ]
    assert (await client.phone.call(phone.sid)).language == "es-ES"


GOOD_BYE = (
    "Thank you very much for your call today. I am glad that I could help you with your question about the exports, "
    "and I wish you a very pleasant day. Good bye, and until the next time."
)
HEARD = "Thank you very much for your call today."


@pytest.mark.usefixtures("worker")
async def test_a_caller_who_interrupts_the_words_before_a_tool_prevents_it(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        session.is_slow = True
        await session.say(f"Say '{GOOD_BYE}' and end the call.")
        assert await session.answer() == GOOD_BYE
        await session.interrupt(HEARD, 2500)
        session.is_slow = False
        await session.say("Wait. Which formats can I export?")
        assert "simulator" in await session.answer()
        assert [frame["type"] for frame in session.frames].count("end") == 0
    first, second = await client.phone.turns(phone.sid)
    assert (first.heard, first.error, second.heard, second.error) == (HEARD, "", None, "")
    assert (await client.phone.call(phone.sid)).reason == ""
    asked = await (await client.find_conversation(phone.sid)).context()
    assert [one.text for one in asked if one.role == "assistant"] == [HEARD]
    assert len(await simulator.billed()) == 2


@pytest.mark.usefixtures("worker")
async def test_a_caller_who_hangs_up_in_the_words_before_a_tool_has_heard_a_part_of_them(
    client: Client, twilio: Twilio
):
    """A caller hangs up while the agent says good bye."""
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        session.is_slow = True
        await session.say(f"Say '{GOOD_BYE}' and end the call.")
        assert await session.answer() == GOOD_BYE
    [turn] = await client.phone.turns(phone.sid)
    assert (turn.answer, turn.error) == (GOOD_BYE, SESSION_ENDED)
    assert turn.heard is not None
    assert turn.heard != GOOD_BYE
    assert GOOD_BYE.startswith(turn.heard)


@pytest.mark.usefixtures("worker")
async def test_the_model_hangs_up_after_its_words(client: Client, gateway: Running):
    steps = (f"""say "Please say '{HEARD}' and end the call.\"""", f'expect "{HEARD}"', "expect end")
    one = await simulated(gateway, "\n".join(steps))
    assert "".join(event.details["text"] for event in one.log.of("spoken")).endswith(HEARD)
    [ended] = one.log.of("ended")
    assert ended.details["status"] == "ended"
    assert json.loads(ended.details["handoff_data"])["reason"] == "agent"
    await gateway.server.phone.reported()
    call = await client.phone.call(one.phone_call.dialled.sid)
    assert (call.reason, call.status) == ("agent", "completed")
    [turn] = await client.phone.turns(call.call_sid)
    assert (turn.answer, turn.heard, turn.error) == (HEARD, None, "")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("words", ["I dial it now.", ""])
async def test_the_model_sends_tones_and_the_talk_goes_on(
    client: Client, gateway: Running, number: dict[str, Any], words: str
):
    await client.phone.set_number(NUMBER, {**number, "tools": ["send_digits"]})
    asked = f"Say '{words}' and send the digits 9ww42#." if words else "Please send the digits 9ww42#."
    steps = (f'say "{asked}"', f'expect "{words or Phrases().done}"', 'say "Which formats can I export?"')
    one = await simulated(gateway, "\n".join([*steps, 'expect "simulator"', "wait until quiet", "hang up"]))
    kinds = [event.kind for event in one.log.events if event.kind in ("digits", "said")]
    assert kinds == ["said", "digits", "said"]
    assert [event.details["digits"] for event in one.log.of("digits")] == ["9ww42#"]
    await gateway.server.phone.reported()
    turns = await client.phone.turns(one.phone_call.dialled.sid)
    assert [(turn.heard, turn.error) for turn in turns] == [(None if words else Phrases().done, ""), (None, "")]


@pytest.mark.usefixtures("worker")
async def test_a_stream_that_breaks_around_a_tool_call_loses_neither_the_words_nor_the_call(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    """With many words it breaks within them, and with one word within the call."""
    breaks = ("cut", "cut_at_first_token", "cut_after_last_token", "in_stream_error", "no_finish")
    for fault, words in product(breaks, (GOOD_BYE, "Bye.")):
        await simulator.fault(fault)
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await session.say(f"Say '{words}' and end the call.")
            assert await session.answer() == words, fault
            assert json.loads((await session.until("end"))["handoffData"])["reason"] == "agent"
        [turn] = await client.phone.turns(phone.sid)
        assert (turn.answer, turn.heard, turn.error, turn.outcome) == (words, None, "", "completed"), fault


@pytest.mark.usefixtures("worker", "client")
async def test_a_number_without_tools_offers_none(client: Client, twilio: Twilio):
    await client.phone.set_number("+15550100003", {})
    phone = twilio.phone(To="+15550100003")
    await phone.ring()
    async with phone.session() as session:
        await session.say("Please transfer me now.")
        assert "simulator" in await session.answer()
        assert [frame["type"] for frame in session.frames].count("end") == 0


@pytest.mark.usefixtures("worker")
async def test_a_tool_that_the_number_does_not_have_is_an_error_and_never_silence(
    client: Client, twilio: Twilio, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calls, "tools_of", lambda _: (Tool(name="erase_everything", description="Erase."),))
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Please erase everything.")
        assert await session.answer() == Phrases().apology
    [turn] = await client.phone.turns(phone.sid)
    assert turn.error == UnknownToolCall.__name__


def test_each_tool_is_offered_and_read():
    assert [tool.name for tool in tools_of(WHOLE)] == list(ALL)
    assert read_call(WHOLE, "send_digits", '{"digits": "9ww42#"}').action.digits == "9ww42#"
    assert read_call(WHOLE, "change_language", '{"code": "es-ES"}').action.language == "es-ES"
    asked = read_call(WHOLE, "end_call", '{"reason": "the caller said good bye"}')
    assert (asked.action.kind, asked.why) == ("end", "the caller said good bye")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("erase", "{}"),
        ("send_digits", "{}"),
        ("send_digits", '{"digits": "911 now"}'),
        ("send_digits", "[1]"),
        ("send_digits", '{"digits": '),
        ("change_language", '{"code": "fr-FR"}'),
    ],
)
def test_a_call_that_is_not_valid_is_refused(name: str, arguments: str):
    with pytest.raises(UnknownToolCall):
        read_call(WHOLE, name, arguments)


def test_a_tool_that_is_not_enabled_is_refused():
    with pytest.raises(UnknownToolCall):
        read_call(NumberSettings(), "end_call", "{}")
