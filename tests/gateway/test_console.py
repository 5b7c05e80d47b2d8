"""The console in Chromium: what its pages show, with the keyboard, on a telephone, and with hostile texts.

Every page is opened by a browser that records what it asks for, and what its console says.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, Route, async_playwright, expect

from gateway.console.pages import usd
from parley import Backend, Client, Scope, Session
from parley.domain.budgets import Period
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running
from tests.parts import SAMPLES, TEST_TIMEOUT_SECONDS, run_sql

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The elements that reach beyond the right edge of the window, without those in a region that scrolls.
TOO_WIDE = """[...document.querySelectorAll('body *')]
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5 && !one.closest('.scroll, .skip'))
    .map((one) => one.outerHTML.slice(0, 120))"""
# Where a recording begins to play, and where it pauses.
HEARD = """() => {
    const audio = document.getElementById("recording");
    const at = (event) => new Promise((done) => {
        audio.addEventListener(event, () => done(audio.currentTime), { once: true });
    });
    audio.muted = true;
    window.began = at("playing");
    window.ended = at("pause");
}"""
PHONE = {"width": 390, "height": 844}
HOSTILE = '"><img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>{{7*7}}'

expect.set_options(timeout=TEST_TIMEOUT_SECONDS * 1000)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for this process, with a new user data directory."""
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        await opened.close()


@dataclass
class Seen:
    """What a browser asked for and complained about."""

    origin: str
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.elsewhere.append(request.url)

    def watch(self, page: Page) -> None:
        page.on("request", self.asked)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self.said)

    def said(self, line: ConsoleMessage) -> None:
        if line.type in ("error", "warning"):
            self.complaints.append(line.text)


@asynccontextmanager
async def visiting(browser: Browser, gateway: Running, **options: Any) -> AsyncIterator[Page]:
    """A page of a new profile. Afterwards it must have asked no other host, and its console must be empty."""
    context = await browser.new_context(base_url=gateway.url, **options)
    context.set_default_timeout(TEST_TIMEOUT_SECONDS * 1000)
    seen, page = Seen(gateway.url), await context.new_page()
    seen.watch(page)
    try:
        yield page
        assert (seen.elsewhere, seen.complaints) == ([], [])
    finally:
        await context.close()


async def sign_in(page: Page, secret: str, path: str = "/console") -> None:
    await page.goto(path)
    await page.get_by_label("Gateway key").fill(secret)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()


async def check_width(page: Page) -> None:
    """No element is wider than the window; a table may scroll in its own region."""
    wide = await page.evaluate(TOO_WIDE)
    assert wide == [], page.url


@pytest.fixture
async def key(client: Client) -> str:
    return (await client.gateway_keys.create("console", scopes=tuple(Scope), requests_per_minute=100_000)).secret


@pytest.mark.usefixtures("worker")
async def test_an_operator_with_a_keyboard_sees_what_an_answer_cost(
    browser: Browser, gateway: Running, client: Client, key: str
):
    answer = await client.generate("Which plan has SSO?", user_id="ann")
    async with visiting(browser, gateway) as page:
        await page.goto("/console")
        await expect(page.get_by_label("Gateway key")).to_be_focused()
        await page.keyboard.type(key)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#main")).to_be_focused()
        await expect(page.locator(".plot canvas")).to_have_count(5)
        await page.get_by_text("Show cost as a table").press("Enter")
        await expect(page.get_by_role("region", name="Cost").get_by_role("table")).to_be_visible()
        cells = await page.get_by_role("region", name="Cost").locator("td:nth-child(2)").all()
        costs = [Decimal(str(await cell.get_attribute("data-value"))) for cell in cells]
        assert sum(costs) == answer.meta.cost_usd
        await page.get_by_role("link", name="Jobs").focus()
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        await page.keyboard.press("Enter")
        await page.get_by_role("link", name="Generate").press("Enter")
        await expect(page.get_by_text(str(answer.content))).to_be_visible()
        await expect(page.get_by_text("Which plan has SSO?")).to_be_visible()
        await expect(page.get_by_text(answer.meta.request_id)).to_be_visible()


@pytest.mark.usefixtures("worker")
async def test_a_running_job_is_followed_until_it_is_cancelled(
    browser: Browser, gateway: Running, client: Client, key: str, simulator: SimulatorAdmin, few_chats: Path
):
    for provider in ("anthropic", "openai"):
        await simulator.gate(closed=True, provider=provider)
    chats = await client.import_chats(few_chats)
    job = await client.auto_analyze(chats.dataset_id, user_id="ann", streams=1, sessions_per_stream=6)
    address = f"/console/jobs/{quote(job.id, safe='')}"
    async with visiting(browser, gateway) as page:
        await sign_in(page, key, "/console/jobs")
        await expect(page.locator("#jobs .state")).to_have_text("running")
        await page.goto(address)
        await expect(page.get_by_text(f"0 of {chats.sessions}, ")).to_be_visible()
        page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await page.get_by_role("button", name="Cancel the job").click()
        for provider in ("anthropic", "openai"):  # a job ends after its paid calls
            await simulator.gate(closed=False, provider=provider)
        # The page that follows the form shows the state of that moment, and then the job's last event.
        await expect(page.locator(".tiles .state")).to_have_text("cancelled")


async def test_a_job_has_a_page_before_a_worker_takes_it(
    browser: Browser, gateway: Running, client: Client, key: str, few_chats: Path
):
    job = await client.auto_analyze((await client.import_chats(few_chats)).dataset_id, user_id="ann")
    async with visiting(browser, gateway) as page:
        await sign_in(page, key, f"/console/jobs/{quote(job.id, safe='')}")
        await expect(page.locator(".tiles .state")).to_have_text("running")
        await expect(page.get_by_role("heading", name="AutoAnalyze")).to_be_visible()
    await (await client.workflow(job.id)).terminate()


async def test_a_key_that_may_only_read_changes_nothing(browser: Browser, gateway: Running, client: Client):
    reader = await client.gateway_keys.create("reader", scopes=[Scope.READ])
    await client.set_cap(Period.DAY, Decimal(5))
    async with visiting(browser, gateway) as page:
        await sign_in(page, reader.secret, "/console/budgets")
        await expect(page.get_by_text("of $5.00")).to_be_visible()
        assert await page.locator("main form").count() == 0
        token = await page.locator("[name=form_token]").first.input_value()
        for path in ("/console/budgets", "/console/cancel/x"):
            form = {"form_token": token, "period": "day", "cap_usd": "9"}
            answer = await page.request.post(path, form=form, headers={"origin": gateway.url})
            assert (answer.status, "does not have the scope" in await answer.text()) == (403, True)
    assert [cap.cap_usd for cap in await client.caps()] == [Decimal(5)]


async def test_a_cap_is_set_corrected_and_removed(browser: Browser, gateway: Running, client: Client, key: str):
    async with visiting(browser, gateway) as page:
        await sign_in(page, key, "/console/budgets")
        await expect(page.get_by_role("heading", name="No cap")).to_be_visible()
        await page.get_by_label("Period").select_option("month")
        await page.get_by_label("Cap in USD").fill("12.345678")
        await page.get_by_role("button", name="Set the cap").click()
        await expect(page.get_by_role("heading", name="This month")).to_be_visible()
        assert [(cap.period, cap.cap_usd) for cap in await client.caps()] == [(Period.MONTH, Decimal("12.345678"))]
        page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await page.get_by_role("button", name="Remove the cap").click()
        await expect(page.get_by_role("heading", name="No cap")).to_be_visible()
    assert await client.caps() == []


@pytest.fixture
def few_chats(tmp_path: Path) -> Path:
    """A file of six chat sessions."""
    lines = (SAMPLES / "chats" / "support.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
async def hostile(client: Client, database_url: str, few_chats: Path) -> Client:
    """A workspace whose texts are markup: transcripts, labels, file names, prompts, reasons."""
    session = Session.model_validate_json((SAMPLES / "gatekeeper-dental-clinic.json").read_bytes())
    turns = [turn.model_copy(update={"text": HOSTILE, "words": ()}) for turn in session.turns]
    given = session.model_copy(update={"turns": tuple(turns), "scenario": HOSTILE, "session_id": HOSTILE})
    job = await client.analyze(given)
    chats = await client.import_chats(few_chats)
    run = await client.auto_analyze(chats.dataset_id, user_id=HOSTILE, streams=1, sessions_per_stream=6)
    await client.generate(HOSTILE, user_id=HOSTILE)
    await asyncio.gather(job.result(), run.result())
    for table, column in (
        ("auto_sessions", "intent"),
        ("auto_sessions", "canonical_intent"),
        ("auto_sessions", "summary"),
        ("auto_runs", "reason"),
        ("generations", "template"),
        ("ai_usage_logs", "model"),
        ("attempts", "error"),
        ("attempts", "model"),
    ):
        await run_sql(database_url, f"UPDATE {table} SET {column} = %s", HOSTILE)  # type: ignore[arg-type]
    await run_sql(database_url, "UPDATE chat_sessions SET session_id = %s || position", HOSTILE)
    return client


@pytest.mark.usefixtures("worker", "hostile")
async def test_no_text_of_a_user_or_a_model_becomes_markup_on_a_telephone(browser: Browser, gateway: Running, key: str):
    """Each page shows the text as it is, and does not scroll sideways."""
    async with visiting(browser, gateway, viewport=PHONE) as page:
        await page.goto("/console")
        await check_width(page)
        await sign_in(page, key)
        for path in ("/console", "/console/recommendations", "/console/budgets", "/console/jobs"):
            await page.goto(path)
            await check_width(page)
        links = await page.locator("#jobs tbody a").all()
        jobs = [str(await link.get_attribute("href")) for link in links]
        kinds = [await link.inner_text() for link in links]
        labels = jobs[kinds.index("AutoAnalyze")].replace("/jobs/", "/labels/")
        assert len(jobs) == 3
        for path in (*jobs, labels):
            await page.goto(path)
            assert HOSTILE in await page.locator("main").inner_text(), path
            assert await page.locator("main img, main script").count() == 0
            await check_width(page)
            assert await page.title() != "owned"


@pytest.mark.usefixtures("worker")
async def test_a_moment_of_a_session_is_played(browser: Browser, gateway: Running, client: Client, key: str):
    talk, audio = SAMPLES / "gatekeeper-dental-clinic.json", SAMPLES / "gatekeeper-dental-clinic.ogg"
    job = await client.analyze(Session.model_validate_json(talk.read_bytes()), audio=audio.read_bytes())
    report = await job.result()
    assert report.analysis is not None
    point = report.analysis.coaching.improvements[0]
    assert point.moment is not None
    async with visiting(browser, gateway, viewport=PHONE) as page:
        await sign_in(page, key, f"/console/jobs/{quote(job.job_key, safe='')}")
        await expect(page.get_by_text(f"“{point.moment.quote}”").first).to_be_visible()
        await expect(page.get_by_text(f"“{point.better}”").first).to_be_visible()
        await check_width(page)
        await page.evaluate(HEARD)
        await page.get_by_role("button", name="Play from").first.press("Enter")
        start = await page.get_by_role("button", name="Play from").first.get_attribute("data-play")
        assert abs(await page.evaluate("window.began") - float(str(start))) < 1
        address = await page.locator("#recording").get_attribute("src")
        part = await page.request.get(str(address), headers={"range": "bytes=10-19"})
        assert (part.status, await part.body()) == (206, audio.read_bytes()[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{audio.stat().st_size}"
        assert part.headers["content-type"] == "audio/ogg"
        assert (await page.request.get(str(address), headers={"range": "bytes=999999999-"})).status == 416


@pytest.mark.usefixtures("worker")
async def test_a_job_of_another_workspace_is_not_there(
    browser: Browser, gateway: Running, backend: Backend, client: Client, key: str
):
    other = backend.client(f"other-{uuid4().hex[:8]}")
    theirs = await other.start_generation("A secret question", user_id="bob")
    await theirs.result()
    [listed] = await other.jobs()
    async with gateway.http() as http:
        await http.post("/console/sign-in", data={"key": key})
        for part in ("jobs", "labels", "events"):
            for job_id in (theirs.id, listed.job_key):
                found = await http.get(f"/console/{part}/{quote(job_id, safe='')}")
                unknown = await http.get(f"/console/{part}/{quote('x' * len(job_id), safe='')}")
                assert found.status_code == unknown.status_code == 404
                assert bob_is_not_in(found.text, theirs.id)
    assert await client.jobs() == []


def bob_is_not_in(page: str, job_id: str) -> bool:
    return not any(text in page for text in ("bob", "secret question", job_id))


@pytest.mark.usefixtures("worker")
async def test_a_conversation_is_held_with_the_keyboard_on_a_telephone(
    browser: Browser, gateway: Running, client: Client, key: str, simulator: SimulatorAdmin
):
    async with visiting(browser, gateway, viewport=PHONE) as page:
        await sign_in(page, key, "/console/chat")
        await expect(page.get_by_role("heading", name="No conversation yet")).to_be_visible()
        await page.get_by_label("User").fill("ann")
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Your turn")).to_be_focused()
        await simulator.gate(closed=True, provider="openai")
        await page.keyboard.type("My dog is called Rex.")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("#answering [data-said]")).to_have_text("My dog is called Rex.")
        await simulator.gate(closed=False, provider="openai")
        await expect(page.locator("#turns li")).to_have_count(1)
        await expect(page.get_by_label("Your turn")).to_be_focused()
        await page.keyboard.type(HOSTILE)
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("#turns li")).to_have_count(2)
        [listed] = await client.conversations()
        turns = await client.conversation(listed.id, user_id="ann").history()
        assert [turn.text for turn in turns] == ["My dog is called Rex.", HOSTILE]
        assert await page.locator("#turns .answer").all_inner_texts() == [turn.answer for turn in turns]
        assert await page.locator("#turns .cost").all_inner_texts() == [usd(turn.cost_usd) for turn in turns]
        assert await page.locator("main img, main script").count() == 0
        await check_width(page)
        page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await page.get_by_role("button", name="Close").press("Enter")
        await expect(page.get_by_text("It takes no further turn.")).to_be_visible()
        await page.get_by_role("link", name="Chat").first.press("Enter")
        await expect(page.locator("tbody .state")).to_have_text("closed")
        await check_width(page)
        await page.locator("tbody a").press("Enter")
        await expect(page.locator("#turns li")).to_have_count(2)
        assert await page.title() != "owned"


@pytest.mark.usefixtures("worker")
async def test_a_turn_that_is_cut_off_is_sent_again_and_answered_once(
    browser: Browser, gateway: Running, client: Client, key: str, simulator: SimulatorAdmin
):
    async with visiting(browser, gateway) as page:
        await sign_in(page, key, "/console/chat/talk?user=ann")
        await page.wait_for_load_state("load")  # without its script the page sends the form itself
        await page.route("**/console/chat/talk", cut_off, times=1)
        await page.get_by_label("Your turn").fill("Hello!")
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_role("alert")).to_contain_text("The connection was lost.")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("#turns li")).to_have_count(1)
    assert len(await simulator.billed()) == 1
    assert len(await client.conversation("talk", user_id="ann").history()) == 1


async def cut_off(route: Route) -> None:
    """The turn arrives, and its answer is lost after the first event."""
    whole = await (await route.fetch()).body()
    await route.fulfill(body=whole.partition(b"\n\n")[0] + b"\n\n", content_type="text/event-stream")


@pytest.mark.usefixtures("worker")
async def test_a_turn_needs_no_script(browser: Browser, gateway: Running, client: Client, key: str):
    async with visiting(browser, gateway, java_script_enabled=False) as page:
        await sign_in(page, key, "/console/chat/talk?user=ann")
        await page.get_by_label("Your turn").fill("My dog\nis called Rex.")
        await page.get_by_role("button", name="Send").click()
        [turn] = await client.conversation("talk", user_id="ann").history()
        assert turn.text == "My dog\nis called Rex."
        await expect(page.locator("#turns .answer")).to_have_text(str(turn.answer))


@pytest.mark.usefixtures("worker")
async def test_a_conversation_is_that_of_a_workspace_and_a_reader_sends_nothing(
    browser: Browser, gateway: Running, backend: Backend, client: Client
):
    await backend.client(f"other-{uuid4().hex[:8]}").conversation("theirs", user_id="bob").say("A secret question")
    await client.conversation("mine", user_id="ann").say("Hello!")
    reader = await client.gateway_keys.create("reader", scopes=[Scope.READ])
    async with visiting(browser, gateway) as page:
        await sign_in(page, reader.secret, "/console/chat")
        assert await page.locator("tbody a").all_inner_texts() == ["mine"]
        assert await page.locator("main form").count() == 0
        await page.locator("tbody a").click()
        await expect(page.locator("#turns li")).to_have_count(1)
        assert await page.locator("main form").count() == 0
    async with gateway.http() as http:
        await http.post("/console/sign-in", data={"key": reader.secret})
        for method, path in (("GET", "/console/chat/theirs"), ("POST", "/console/chat/mine/close")):
            refused = await http.request(method, path)
            assert refused.status_code in (403, 404)
            assert "secret question" not in refused.text
    assert (await client.conversation("mine", user_id="ann").state()).status == "open"
