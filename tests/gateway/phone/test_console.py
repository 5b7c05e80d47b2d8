"""Phone calls in the console, in Chromium: the list, one with its waterfall, and the page that talks to an agent."""

import asyncio
import json
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Page, expect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.console.pages import milliseconds, usd
from parley import Backend, Client, Scope
from parley.domain.phone.contract import CallStatus
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running
from tests.gateway.phone.twilio import CALLER, NUMBER, Phone, Twilio
from tests.gateway.test_console import HOSTILE, PHONE, browser, check_width, sign_in, visiting
from tests.parts import TEST_TIMEOUT_SECONDS, run_sql, until

__all__ = ["browser"]
pytestmark = pytest.mark.usefixtures("worker", "client")

TALK = f"/console/phone/talk?number={quote(NUMBER)}"
EXPORT, WHO = "Which formats can I export?", "And who may start it?"


@pytest.fixture
async def key(client: Client) -> str:
    return (await client.gateway_keys.create("console", scopes=tuple(Scope), requests_per_minute=100_000)).secret


async def interrupted_call(twilio: Twilio) -> tuple[Phone, str]:
    """A phone call that goes on: the first answer was cut after five words. Returns it, and these words."""
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say(EXPORT)
        heard = " ".join((await session.answer()).split()[:5])
        await session.interrupt(heard, 1200)
        await session.press("12#")
        await session.answer()
        await session.say(WHO)
        await session.answer()
    return phone, heard


async def test_phone_calls_are_followed_until_they_are_over(
    browser: Browser, gateway: Running, client: Client, key: str, twilio: Twilio
):
    async with visiting(browser, gateway) as page:
        await sign_in(page, key, "/console/phone")
        await expect(page.get_by_role("heading", name="No phone call yet")).to_be_visible()
        phone, _ = await interrupted_call(twilio)
        row = page.locator("#running tbody tr")
        await expect(row.locator(".state")).to_have_text("in-progress")
        await phone.status("completed")
        row = page.locator("#over tbody tr")
        await expect(row.locator(".state")).to_have_text("completed")
        call = await client.phone.call(phone.sid)
        texts = await row.locator("th, td").all_inner_texts()
        assert [" ".join(text.split()) for text in texts[:3]] == ["…0001 inbound", "completed caller", NUMBER]
        assert texts[-2:] == ["3", usd(call.cost_usd)]
        assert CALLER not in await page.content()
        await page.get_by_text(f"Settings of {NUMBER}").press("Enter")
        await expect(page.get_by_text("deadlines.response_timeout")).to_be_visible()


async def test_a_call_shows_what_was_heard_and_where_the_time_went_without_a_script(
    browser: Browser, gateway: Running, client: Client, key: str, twilio: Twilio
):
    phone, heard = await interrupted_call(twilio)
    turns = await client.phone.turns(phone.sid)
    await phone.status("completed")
    for options in ({"color_scheme": "dark"}, {"viewport": PHONE}):
        async with visiting(browser, gateway, java_script_enabled=False, **options) as page:
            await sign_in(page, key, f"/console/phone/calls/{phone.sid}")
            assert await page.locator("#turns .said").all_inner_texts() == [turn.text for turn in turns]
            first = page.locator("#turns .answer").first
            assert await first.locator("del").inner_text() == str(turns[0].answer).removeprefix(heard).strip()
            assert await first.inner_text() == turns[0].answer
            assert await page.locator("#turns del").count() == 1
            await expect(page.locator("#turns li").first).to_contain_text("interrupted")
            fall = page.get_by_role("region", name="Where the time of turn 1 went")
            names = await fall.locator("dt").all_inner_texts()
            assert names[0] == "Until a model is asked"
            assert "Until its first text is sent" in names
            assert len(await fall.locator("rect:not(.ground)").all()) == len(names)
            lasted = dict(zip(names, await fall.locator("dd.number").all_inner_texts(), strict=True))
            assert lasted["Until its first text is sent"] == milliseconds(turns[0].response_ms)
    async with visiting(browser, gateway, viewport=PHONE) as page:
        await sign_in(page, key, f"/console/phone/calls/{phone.sid}")
        await check_width(page)


class TestSummary:
    """A number that wants a summary, and whose model changes the language."""

    @pytest.fixture
    def number(self, number: dict[str, Any]) -> dict[str, Any]:
        return {**number, "summary": True, "tools": ["change_language"], "languages": [{"code": "es-ES"}]}

    async def test_the_summary_appears_after_the_hang_up_on_a_page_that_is_open(
        self, browser: Browser, gateway: Running, client: Client, key: str, twilio: Twilio
    ):
        phone, _ = await interrupted_call(twilio)
        async with visiting(browser, gateway, viewport=PHONE) as page:
            await sign_in(page, key, f"/console/phone/calls/{phone.sid}")
            assert await page.get_by_role("region", name="Summary").count() == 0
            await phone.action(CallStatus="completed", SessionStatus="completed")
            summary = page.get_by_role("region", name="Summary")
            await expect(summary).to_be_visible()
            call = await client.phone.call(phone.sid)
            said = await summary.locator("p").inner_text()
            assert " ".join(said.split()) == " ".join(call.summary.split()) != ""
            await expect(page.locator("#call[hx-get]")).to_have_count(0)
            await check_width(page)

    async def test_a_phrase_in_place_of_words_is_not_shown_as_an_interruption(
        self, browser: Browser, gateway: Running, key: str, twilio: Twilio
    ):
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await session.say("Please change the language to es-ES.")
            said = await session.answer()
        async with visiting(browser, gateway) as page:
            await sign_in(page, key, f"/console/phone/calls/{phone.sid}")
            turn = page.locator("#turns li")
            assert await turn.locator(".answer").inner_text() == said
            await expect(turn.locator(".interrupted")).to_have_count(0)


class TestLate:
    """Answers that come after the filler and the template."""

    @pytest.fixture
    def number(self) -> dict[str, Any]:
        return {"deadlines": {"filler": 0.05, "template": 0.1, "response_timeout": 60, "silence": 600}}

    async def test_what_was_said_in_place_of_a_late_answer_is_marked(
        self, browser: Browser, gateway: Running, client: Client, key: str, simulator: SimulatorAdmin
    ):
        await simulator.gate(closed=True, provider="openai")
        await simulator.gate(closed=True, provider="anthropic")
        async with visiting(browser, gateway) as page:
            await sign_in(page, key, TALK)
            await page.get_by_role("button", name="Begin the phone call").click()
            await page.get_by_label("You say").fill(EXPORT)
            await page.keyboard.press("Enter")
            await expect(page.locator("#turns")).to_contain_text("I am still looking.")
            for provider in ("openai", "anthropic"):
                await simulator.gate(closed=False, provider=provider)
            await expect(page.locator("#count")).to_have_text("1 answer")
            figures = page.locator("#turns li").last.locator("p").last
            assert (await figures.inner_text()).lower().count("filler after") == 2
            await page.get_by_role("button", name="Hang up").click()
            await page.get_by_role("link", name="Its record").click()
            [call] = await client.phone.calls()
            [turn] = await client.phone.turns(call.call_sid)
            said = [f"filler after {milliseconds(turn.filler_ms)}", f"template after {milliseconds(turn.template_ms)}"]
            await expect(page.locator(".mark")).to_have_text(said)
            assert await page.locator("rect.filler, rect.template").count() == 2


class TestHostile:
    """A number whose texts are markup."""

    @pytest.fixture
    def number(self, number: dict[str, Any]) -> dict[str, Any]:
        return {**number, "welcome_greeting": HOSTILE, "phrases": {"filler": HOSTILE}}

    async def test_no_text_of_a_phone_call_becomes_markup_on_a_telephone(
        self, browser: Browser, gateway: Running, key: str, twilio: Twilio, database_url: str
    ):
        phone, _ = await interrupted_call(twilio)
        await phone.status("completed")
        for column in ("text", "answer", "heard", "error"):
            await run_sql(database_url, f"UPDATE conversation_turns SET {column} = %s", HOSTILE)  # type: ignore[arg-type]
        used = [{"document_id": str(uuid4()), "title": HOSTILE, "chunk": 2}]
        handoff = {"said": HOSTILE}
        await run_sql(database_url, "UPDATE conversation_turns SET knowledge_used = %s::jsonb", json.dumps(used))
        await run_sql(database_url, "UPDATE call_sessions SET reason = %s", HOSTILE)
        await run_sql(database_url, "UPDATE call_sessions SET handoff = %s::jsonb", json.dumps(handoff))
        async with visiting(browser, gateway, viewport=PHONE) as page:
            await sign_in(page, key)
            for path in ("/console/phone", f"/console/phone/calls/{phone.sid}", TALK):
                await page.goto(path)
                if path == TALK:
                    await page.get_by_role("button", name="Begin the phone call").click()
                    await expect(page.locator("#turns .answer")).to_have_text(HOSTILE)
                assert HOSTILE in await page.locator("main").inner_text(), path
                assert await page.locator("main img, main script").count() == 0
                await check_width(page)
                assert await page.title() != "owned"


async def begin(page: Page, secret: str) -> None:
    await sign_in(page, secret, TALK)
    await page.get_by_role("button", name="Begin the phone call").press("Enter")
    await expect(page.get_by_label("You say")).to_be_focused()
    await expect(page.locator("#turns .answer")).to_have_text("Hello! How can I help you?")


async def the_call(client: Client) -> str:
    [call] = await client.phone.calls()
    return call.call_sid


async def test_a_person_talks_to_an_agent_with_the_keyboard_and_interrupts_it(
    browser: Browser, gateway: Running, client: Client, key: str
):
    async with visiting(browser, gateway, viewport=PHONE) as page:
        await begin(page, key)
        await page.keyboard.type(EXPORT)
        await page.keyboard.press("Enter")
        await expect(page.locator("#count")).to_have_text("1 answer")
        await until(lambda: heard_words(page, 3))
        await page.keyboard.type(WHO)
        await expect(page.locator("#interruptions")).to_have_text("2")  # the greeting was the first
        await page.keyboard.press("Enter")
        await expect(page.locator("#count")).to_have_text("2 answers")
        heard, cut = [
            await page.locator(f"#turns li:nth-child(2) {part}").text_content() for part in ("span:first-child", "del")
        ]
        await check_width(page)
        call_sid = await the_call(client)
        running = await client.phone.call(call_sid)
        assert (running.direction, running.number, running.status) == ("console", NUMBER, "in-progress")
        await page.get_by_role("button", name="Hang up").press("Enter")
        await expect(page.get_by_role("link", name="Its record")).to_be_focused()
        await until(lambda: is_over(client, call_sid))
        call, turns = await client.phone.call(call_sid), await client.phone.turns(call_sid)
        assert (call.status, call.reason, call.sessions, call.interruptions) == (CallStatus.COMPLETED, "caller", 1, 2)
        assert [turn.text for turn in turns] == [EXPORT, WHO]
        assert turns[0].heard == heard
        assert f"{heard}{cut}" == turns[0].answer
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Phone call from the console")).to_be_visible()
        await expect(page.locator("#turns del").first).to_have_text(str(cut).strip())  # the hang-up cut the second one


async def heard_words(page: Page, count: int) -> bool:
    return len((await page.locator("#turns li:nth-child(2) .answer span").first.inner_text()).split()) >= count


async def is_over(client: Client, call_sid: str) -> bool:
    return (await client.phone.call(call_sid)).ended_at is not None


SPEECH = """
window.SpeechRecognition = class {
  start() { window.listening = this; }
  abort() { this.onend?.(); }
  hears(transcript, isFinal) { this.onresult({ results: [Object.assign([{ transcript }], { isFinal })] }); }
};
window.spoken = [];
Object.defineProperty(window, 'speechSynthesis', { value: {
  getVoices: () => [{ name: 'test' }], cancel() {}, addEventListener() {},
  speak(one) { window.spoken.push(one.text); one.onboundary({ charIndex: 0, charLength: one.text.indexOf(' ') }); },
} });
"""


async def test_a_person_speaks_and_hears_where_the_browser_can(
    browser: Browser, gateway: Running, client: Client, key: str
):
    """The browser's speech is a stand-in: none runs without a sound card."""
    async with visiting(browser, gateway) as page:
        await page.add_init_script(SPEECH)
        await sign_in(page, key, TALK)
        await page.get_by_label("Read the answers aloud").check()
        await page.get_by_role("button", name="Begin the phone call").click()
        await page.get_by_role("button", name="Speak").click()
        assert await page.evaluate("spoken") == ["Hello! How can I help you?"]
        await page.evaluate("listening.hears('Which', false)")
        await expect(page.locator("#turns del")).to_have_text(" How can I help you?")
        await page.evaluate("listening.hears('Which formats can I export?', true)")
        await expect(page.locator("#count")).to_have_text("1 answer")
        call_sid = await the_call(client)
        [turn] = await client.phone.turns(call_sid)
        assert turn.text == EXPORT
        assert "".join((await page.evaluate("spoken"))[1:]) == turn.answer


class TestKeys:
    """A menu with an entry that is secret."""

    @pytest.fixture
    def number(self, number: dict[str, Any]) -> dict[str, Any]:
        pin = {"kind": "enter", "name": "PIN", "text": "Please enter your PIN.", "secret": True}
        return {**number, "keys": {"1": pin, "9": {"kind": "end", "text": "Good bye!"}}}

    async def test_secret_keys_are_on_no_page_and_the_agent_ends_the_phone_call(
        self, browser: Browser, gateway: Running, client: Client, key: str
    ):
        async with visiting(browser, gateway) as page:
            await begin(page, key)
            await page.get_by_role("button", name="1", exact=True).click()
            await expect(page.locator("#turns")).to_contain_text("Please enter your PIN.")
            for digit in "4711#":
                await page.get_by_role("button", name=digit, exact=True).press("Enter")
            await expect(page.locator("#turns li").last.locator(".answer")).to_be_visible()
            call_sid = await the_call(client)
            await until(lambda: answered(client, call_sid))
            await page.get_by_role("button", name="9", exact=True).click()
            await expect(page.locator("#status")).to_contain_text("ended by the agent: caller")
            assert "4711" not in await page.locator("main").inner_text()
            await until(lambda: is_over(client, call_sid))
            await page.get_by_role("link", name="Its record").click()
            await expect(page.locator("#turns .said")).to_contain_text("The caller entered the PIN by keys.")
            assert "4711" not in await page.locator("main").inner_text()
            call = await client.phone.call(call_sid)
            assert (call.reason, call.keys) == ("caller", 7)


async def answered(client: Client, call_sid: str) -> bool:
    turns = await client.phone.turns(call_sid)
    return bool(turns) and turns[-1].response_ms is not None


async def test_a_connection_that_is_lost_is_made_again_and_the_talk_goes_on(
    browser: Browser, gateway: Running, client: Client, key: str
):
    async with visiting(browser, gateway) as page:
        sockets: list[Any] = []
        await page.route_web_socket(
            "**/console/phone/relay*", lambda route: sockets.append((route, route.connect_to_server()))
        )
        await begin(page, key)
        route, server = sockets[0]
        await server.close(code=4000)
        await route.close(code=4000)
        await expect(page.locator("#turns")).to_contain_text("the line was interrupted")
        await page.get_by_label("You say").fill(EXPORT)
        await page.keyboard.press("Enter")
        await expect(page.locator("#count")).to_have_text("1 answer")
        call = await client.phone.call(await the_call(client))
        assert (call.sessions, call.turns, call.status) == (2, 1, "in-progress")


async def test_only_the_signed_in_workspace_talks_to_its_numbers(
    gateway: Running, backend: Backend, client: Client, key: str, twilio: Twilio
):
    """No socket without the cookie, from another origin, for a reader, another workspace, or a call of Twilio's."""
    call = f"console-{uuid4().hex}"
    url = f"{gateway.url.replace('http', 'ws')}/console/phone/relay?number={quote(NUMBER)}&call="
    reader = await client.gateway_keys.create("reader", scopes=[Scope.READ])
    other = backend.client(f"other-{uuid4().hex[:8]}")
    stranger = await other.gateway_keys.create("stranger", scopes=tuple(Scope))
    phone = twilio.phone()
    await phone.ring()
    for cookie, headers, sid, status in (
        ("", {}, call, 401),
        (await cookie_of(gateway, key), {"origin": "https://evil.example"}, call, 403),
        (await cookie_of(gateway, reader.secret), {}, call, 403),
        (await cookie_of(gateway, stranger.secret), {}, call, 404),
        (await cookie_of(gateway, key), {}, phone.sid, 403),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url + sid, additional_headers={"cookie": cookie, **headers}):
                pass
        assert refused.value.response.status_code == status
    async with gateway.http() as http:
        await http.post("/console/sign-in", data={"key": stranger.secret})
        for path in (f"/console/phone/calls/{phone.sid}", TALK):
            assert (await http.get(path)).status_code == 404
        assert f"Settings of {NUMBER}" not in (await http.get("/console/phone")).text
    assert [one.call_sid for one in await client.phone.calls()] == [phone.sid]


async def test_a_phone_call_ends_with_the_key_of_its_sign_in(gateway: Running, client: Client):
    made = await client.gateway_keys.create("console", scopes=tuple(Scope), requests_per_minute=100_000)
    call = f"console-{uuid4().hex}"
    url = f"{gateway.url.replace('http', 'ws')}/console/phone/relay?number={quote(NUMBER)}&call={call}"
    async with connect(url, additional_headers={"cookie": await cookie_of(gateway, made.secret)}) as socket:
        await socket.send(json.dumps({"type": "setup", "callSid": call, "to": "+15550199999", "from": CALLER}))
        await until(lambda: began(client, call))
        await client.gateway_keys.revoke(made.key_id)
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                while True:  # a process uses for a second what it knows of a key
                    await socket.send(json.dumps({"type": "prompt", "voicePrompt": "", "last": False}))
                    await asyncio.sleep(0.05)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000
    await until(lambda: is_over(client, call))
    listed = await client.phone.call(call)
    assert (listed.number, listed.direction, listed.caller) == (NUMBER, "console", f"client:{made.key_id}")


async def began(client: Client, call_sid: str) -> bool:
    return any(one.sessions for one in await client.phone.calls() if one.call_sid == call_sid)


async def cookie_of(gateway: Running, secret: str) -> str:
    async with gateway.http() as http:
        answer = await http.post("/console/sign-in", data={"key": secret})
        return answer.headers["set-cookie"].partition(";")[0]


class TestLimits:
    """A number that takes no phone call."""

    @pytest.fixture
    def number(self, number: dict[str, Any]) -> dict[str, Any]:
        return {**number, "limits": {"number_concurrent": 0}}

    async def test_a_limit_holds_in_the_console_too(self, browser: Browser, gateway: Running, client: Client, key: str):
        async with visiting(browser, gateway) as page:
            await sign_in(page, key, TALK)
            await page.get_by_role("button", name="Begin the phone call").click()
            await expect(page.get_by_role("alert")).to_have_text("the limit number_concurrent of the number is reached")
        assert await client.phone.calls() == ()


async def test_a_gateway_that_ends_leaves_a_talk_to_the_next_one(gateway: Running, client: Client, key: str):
    call = f"console-{uuid4().hex}"
    url = f"{gateway.url.replace('http', 'ws')}/console/phone/relay?number={quote(NUMBER)}&call={call}"
    async with connect(url, additional_headers={"cookie": await cookie_of(gateway, key)}) as socket:
        await socket.send(json.dumps({"type": "setup", "callSid": call}))
        await until(lambda: began(client, call))
        gateway.server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                await socket.recv()
        await gateway.serving
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert (await client.phone.call(call)).ended_at is None
