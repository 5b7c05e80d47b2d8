"""Tools of the agent's model: what it asks for is done after its words, and only what the number allows."""

import json
from typing import Any

import pytest

from gateway.phone import calls
from parley import Client
from parley.domain.phone.settings import NumberSettings, Phrases
from parley.domain.phone.tools import UnknownToolCall, read_call, tools_of
from parley.domain.requests import Tool
from tests.gateway.phone.twilio import NUMBER, Twilio

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
