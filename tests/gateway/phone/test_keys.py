"""Keys: menus, digits up to their end, secrets."""

import logging
from contextlib import AsyncExitStack
from typing import Any

import pytest

from parley import Backend, Client, Settings
from parley.domain.phone.keys import AGAIN
from parley.testing import SimulatorAdmin
from tests.gateway.parts import running_gateway
from tests.gateway.phone.twilio import NUMBER, Phone, Twilio
from tests.parts import run_sql

pytestmark = pytest.mark.usefixtures("worker", "client")
PIN = "40718253"
MENU = {
    "1": {"kind": "say", "text": "Which formats can I export?"},
    "2": {"kind": "enter", "name": "PIN", "secret": True, "text": "Enter your PIN, please.", "expected": "pin"},
    "3": {"kind": "language", "language": "es-ES", "text": "Hola."},
    "4": {"kind": "send_digits", "digits": "9ww42#", "text": "I dial the extension."},
    "9": {"kind": "end"},
    "0": {"kind": "transfer"},
}


@pytest.fixture
def number(number: dict[str, Any]) -> dict[str, Any]:
    menu = {"keys": MENU, "transfer_to": "+15550100099"}
    return {**number, **menu, "languages": [{"code": "es-ES"}], "digits": {"seconds": 60}}


async def asked(client: Client, phone: Phone) -> list[str]:
    return [turn.text for turn in await client.phone.turns(phone.sid)]


async def test_keys_before_the_first_word_are_a_turn_of_their_own(client: Client, twilio: Twilio):
    await client.phone.set_number("+15550100003", {"digits": {"seconds": 60}})
    phone = twilio.phone(To="+15550100003")
    await phone.ring()
    async with phone.session() as session:
        await session.press("12*#")
        await session.answer()
        await session.say("and the rest by voice")
        await session.answer()
    assert await asked(client, phone) == ["(The caller entered by keys: 12*)", "and the rest by voice"]


async def test_keys_and_speech_that_come_at_once_are_both_answered(client: Client, twilio: Twilio):
    await client.phone.set_number("+15550100003", {"digits": {"seconds": 60}})
    phone = twilio.phone(To="+15550100003")
    await phone.ring()
    async with phone.session() as session:
        await session.press("12*#")
        await session.say("and the rest by voice")
        await session.press("7")
        await session.say("is my floor")
        await session.answer()
    said = " ".join(await asked(client, phone))
    for part in ("12*", "and the rest by voice", "entered by keys: 7", "is my floor"):
        assert part in said


async def test_a_key_that_comes_twice_was_pressed_twice(client: Client, twilio: Twilio):
    """A frame of a key has no id: one that a network has doubled looks like one of two keys."""
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.press("7700#")
        await session.answer()
    assert await asked(client, phone) == ["(The caller entered by keys: 7700)"]


async def test_a_key_of_the_menu_is_a_turn(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.press("1")
        assert await session.answer()
    assert await asked(client, phone) == ["Which formats can I export?"]


async def test_digits_end_without_their_key_after_a_pause(client: Client, twilio: Twilio):
    await client.phone.set_number("+15550100003", {"digits": {"seconds": 0.1}})
    phone = twilio.phone(To="+15550100003")
    await phone.ring()
    async with phone.session() as session:
        await session.press("40")
        assert await session.answer()
    assert await asked(client, phone) == ["(The caller entered by keys: 40)"]


async def is_nowhere(database_url: str, text: str) -> bool:
    tables = ("conversation_turns", "call_sessions", "conversations", "prompts", "replies", "llm_cache", "outbox")
    counts = [
        await run_sql(database_url, f"SELECT count(*) FROM {table} one WHERE one::text LIKE '%{text}%'")
        for table in tables
    ]
    return all(rows == [{"count": 0}] for rows in counts)


@pytest.mark.parametrize(("right", "judged"), [(PIN, "It is right."), ("1", "It is wrong."), (None, "has 8 digits")])
async def test_secret_digits_reach_no_model_no_log_and_no_table(  # noqa: PLR0917
    client: Client,
    twilio: Twilio,
    simulator: SimulatorAdmin,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    number: dict[str, Any],
    right: str | None,
    judged: str,
):
    caplog.set_level(logging.DEBUG, logger="parley")
    phone = twilio.phone()
    known = {} if right is None else {"pin": client.phone.sealed(right)}
    await client.phone.set_number("+15550100002", {**number, "parameters": known})
    await phone.ring()
    async with phone.session() as session:
        await session.press("2")
        assert await session.answer() == "Enter your PIN, please."
        await session.press(PIN + "#")
        assert await session.answer()
    [text] = await asked(client, phone)
    assert "the PIN by keys" in text
    assert judged in text
    assert len(await simulator.billed()) == 1
    assert PIN not in caplog.text
    assert await is_nowhere(database_url, PIN)


@pytest.mark.parametrize("way", ["another try", "a pause"])
async def test_the_rest_of_secret_digits_and_another_try_are_secret_too(
    client: Client,
    twilio: Twilio,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    number: dict[str, Any],
    way: str,
):
    caplog.set_level(logging.DEBUG, logger="parley")
    pause = 0.1 if way == "a pause" else 60
    changes = {"parameters": {"pin": client.phone.sealed(PIN)}, "digits": {"seconds": pause}}
    await client.phone.set_number("+15550100003", {**number, **changes})
    phone = twilio.phone(To="+15550100003")
    await phone.ring()
    async with phone.session() as session:
        await session.press("2")
        await session.answer()
        if way == "a pause":
            await session.press(PIN[:2])
            await session.answer()
            await session.press(PIN[2:])
            await session.answer()
        else:
            await session.press("11111111#")
            await session.answer()
            await session.press(PIN + "#")
            await session.answer()
            await session.press("77#")
            await session.answer()
    texts = await asked(client, phone)
    if way == "a pause":
        assert texts == ["(The caller entered the PIN by keys. It is wrong.)"] * 2
    else:
        judged = [f"(The caller entered the PIN by keys. It is {what}.)" for what in ("wrong", "right")]
        assert texts == [*judged, "(The caller entered by keys: 77)"]
    for secret in (PIN, PIN[2:]):
        assert secret not in caplog.text
        assert await is_nowhere(database_url, secret)


@pytest.mark.parametrize("lost", ["the connection", "the gateway"])
async def test_a_secret_entry_outlives_its_session(  # noqa: PLR0917
    client: Client,
    twilio: Twilio,
    backend: Backend,
    settings: Settings,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    number: dict[str, Any],
    lost: str,
):
    caplog.set_level(logging.DEBUG, logger="parley")
    await client.phone.set_number(NUMBER, {**number, "parameters": {"pin": client.phone.sealed(PIN)}})
    phone = twilio.phone()
    await phone.ring()
    async with AsyncExitStack() as before:
        session = await before.enter_async_context(phone.session())
        await session.press("2")
        await session.answer()
        await session.press(PIN[:3])
        other = phone
        if lost == "the connection":
            await before.aclose()
        else:  # its end is recorded by none
            gateway = await before.enter_async_context(running_gateway(backend, settings))
            other = Twilio(gateway).phone(phone.sid)
        async with other.session() as session:
            assert await session.answer() == "I am sorry, the line was interrupted. Enter your PIN, please."
            await session.press(PIN[3:] + "#")
            await session.answer()
            await session.press(PIN + "#")
            await session.answer()
            await session.press("77#")
            await session.answer()
    assert await asked(client, phone) == [
        f"(The caller entered the PIN by keys. It is wrong. {AGAIN})",
        "(The caller entered the PIN by keys. It is right.)",
        "(The caller entered by keys: 77)",
    ]
    for secret in (PIN, PIN[3:]):
        assert secret not in caplog.text
        assert await is_nowhere(database_url, secret)


async def test_a_key_changes_the_language(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.press("3")
        assert await session.until("language") == {
            "type": "language",
            "ttsLanguage": "es-ES",
            "transcriptionLanguage": "es-ES",
        }
        assert await session.answer() == "Hola."
        await session.say("¿Qué formatos hay?", lang="es-ES")
        await session.answer()
    context = await (await client.find_conversation(phone.sid)).context()
    assert "Answer in the language es-ES." in context[0].text
    assert (await client.phone.call(phone.sid)).language == "es-ES"


async def test_a_caller_who_speaks_another_language_of_the_number_is_answered_in_it(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("¿Qué formatos hay?", lang="es-MX")
        assert (await session.until("language"))["ttsLanguage"] == "es-ES"
        await session.answer()
        await session.say("Bonjour", lang="fr-FR")
        await session.answer()
        assert [frame["type"] for frame in session.frames].count("language") == 1


async def test_a_key_sends_tones_to_the_other_end(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.press("4")
        assert await session.answer() == "I dial the extension."
        assert await session.until("sendDigits") == {"type": "sendDigits", "digits": "9ww42#"}
        await session.say("Which formats can I export?")
        assert await session.answer()
    assert await asked(client, phone) == ["Which formats can I export?"]


async def test_a_key_ends_the_phone_call_after_the_last_words(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.press("9")
        assert "Good bye" in await session.answer()
        assert await session.until("end")
    assert [verb.tag for verb in await phone.action(HandoffData='{"reason": "caller"}')] == ["Hangup"]


@pytest.mark.parametrize(("key", "last_words"), [("9", "Good bye"), ("0", "connect you with a person")])
async def test_a_key_that_ends_the_talk_ends_the_answer_that_is_made(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin, key: str, last_words: str
):
    for provider in ("openai", "anthropic"):
        await simulator.gate(closed=True, provider=provider)
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        await simulator.requests(at_least=1, state="in_flight")
        await session.press(key)
        for provider in ("openai", "anthropic"):
            await simulator.gate(closed=False, provider=provider)
        assert await session.until("end")
        said = "".join(frame["token"] for frame in session.frames if frame["type"] == "text")
    assert last_words in said
    assert "export" not in said
    assert [turn.heard for turn in await client.phone.turns(phone.sid)] == [""]
