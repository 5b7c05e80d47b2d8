"""Make docs/images/console-*.png: the console with the sample jobs of `parley demo`, in Chromium.

The sample jobs and some more answers run on a temporary stack; the simulator answers. Their times are then spread over
a day, because a chart of one minute shows nothing.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from decimal import Decimal  # noqa: E402

import psycopg  # noqa: E402
from playwright.async_api import Browser, Page, async_playwright  # noqa: E402
from pydantic import SecretStr  # noqa: E402

from parley import CachePolicy, Client, Feedback, JobFailed, Period, Settings  # noqa: E402
from parley.client.reading import read_recording, read_session  # noqa: E402
from parley.process import leave  # noqa: E402
from parley.storage.migrate import migrate  # noqa: E402
from parley.testing import SimulatorAdmin  # noqa: E402
from parley.visibility import DEFINITIONS  # noqa: E402
from starter.embedded import Addresses  # noqa: E402
from starter.embedded.stack import EmbeddedStack  # noqa: E402
from starter.local import CHATS, LONG, RECORDING, SAMPLES, SHORT, forget_vendors  # noqa: E402
from tests.parts import reachable_directory  # noqa: E402

IMAGES = Path(os.environ.get("SCREENSHOTS", ROOT / "docs" / "images"))
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
MOST_BYTES = 150_000
REQUESTS = 100
TURNS = (
    "My dog is called Rex, and I work at a dental clinic.",
    "Which formats can I export my invoices to?",
    "What is my dog called?",
)
NUMBER = "+15550100002"
AGENT = {
    "welcome_greeting": "Good day, this is the clinic's telephone. How can I help you?",
    "deadlines": {"filler": 1},
}
ASKED = ("Which formats can I export my invoices to?", "And who may start the export?", "How long does it take?")
# Each answer moves back by a share of a day, with two peaks in it; the other jobs to the day before.
SPREAD = """
    CREATE TEMPORARY TABLE moves AS
    SELECT job_key, make_interval(secs => 86000 * pos - 5000 * sin(4 * pi() * pos)) AS back FROM (
        SELECT job_key, (row_number() OVER (ORDER BY md5(job_key)))::float / (count(*) OVER () + 1) AS pos
        FROM generations) AS ordered
    UNION ALL SELECT job_key, interval '26 hours' FROM auto_runs
    UNION ALL SELECT job_key, interval '25 hours' FROM session_analyses;
    UPDATE attempts a SET started_at = started_at - back, ended_at = ended_at - back
    FROM paid_requests p JOIN moves USING (job_key)
    WHERE p.workspace_id = a.workspace_id AND p.request_id = a.request_id;
    UPDATE ai_usage_logs u SET created_at = created_at - back FROM moves WHERE u.job_key = moves.job_key;
    UPDATE generations g SET created_at = created_at - back, started_at = started_at - back
    FROM moves WHERE g.job_key = moves.job_key;
    UPDATE auto_runs r SET created_at = created_at - back, ended_at = ended_at - back
    FROM moves WHERE r.job_key = moves.job_key;
    UPDATE session_analyses s SET created_at = created_at - back, ended_at = ended_at - back
    FROM moves WHERE s.job_key = moves.job_key;
    INSERT INTO cost_alerts (workspace_id, period, threshold_usd, spent_usd, uncertain_usd, created_at)
    VALUES ('default', '2026-W46', 50, 61.284019, 1.310400, now() - interval '12 days')
"""


async def main() -> None:
    forget_vendors()
    os.environ["PARLEY_CODEC_KEYS"] = "off"
    with reachable_directory() as directory:
        stack = EmbeddedStack(
            directory / "state",
            search_attributes=DEFINITIONS,
            migrate=lambda url: migrate(SecretStr(url)),
            simulator_latency=0.05,
            gateway="gateway",
            temporary=True,
            drain=5,
        )
        async with stack as addresses:
            secret = await fill(addresses)
            await photograph(addresses, secret)


async def fill(addresses: Addresses) -> str:
    """Run the jobs of the demo and some answers. Returns a gateway key."""
    settings = Settings(database_url=SecretStr(addresses.database_url), codec_keys=SecretStr("off"))
    async with await Client.connect(settings=settings, temporal_address=addresses.temporal_address) as client:
        short = await client.analyze(read_session(SAMPLES / SHORT), audio=read_recording(SAMPLES / RECORDING)[0])
        long = await client.analyze(read_session(SAMPLES / LONG))
        chats = await client.import_chats(SAMPLES / CHATS)
        labels = await client.auto_analyze(chats.dataset_id, user_id="operator")
        await client.grant_energy("operator", 10_000, key="screenshots")
        await asyncio.gather(*(job.result() for job in (short, long, labels)))
        await answers(client, str(addresses.simulator_url))
        talk = client.conversation("support-42", user_id="operator")
        for text in TURNS:
            await talk.say(text)
        await client.phone.set_number(NUMBER, AGENT)
        await client.set_cap(Period.DAY, Decimal(5))
        await client.set_cap(Period.MONTH, Decimal(80))
        made = await client.gateway_keys.create("screenshots", requests_per_minute=100_000)
    async with await psycopg.AsyncConnection.connect(addresses.database_url, autocommit=True) as server:
        await server.execute(SPREAD)
    return made.secret


async def answers(client: Client, simulator_url: str) -> None:
    """Questions about a transcript, of which some repeat; now and then a provider is down."""
    transcript = "\n".join(f"{turn.role}: {turn.text}" for turn in read_session(SAMPLES / LONG).turns)
    lines = (SAMPLES / "questions" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["one"] for line in lines]
    simulator = SimulatorAdmin(simulator_url)
    models = ["gpt-4o-mini", None, "claude-haiku-4-5", None, None]
    for number in range(REQUESTS):
        if number % 19 == 7:
            await simulator.fault("server_error")
        question = questions[number % 74]
        try:
            messages = [{"role": "system", "content": transcript[: 110 * (number % 37)] or "Be brief."}]
            result = await client.generate(
                [*messages, {"role": "user", "content": question}],
                user_id="operator",
                cache=CachePolicy.EXACT,
                model=models[number % 5],
                max_tokens=400,
            )
        except JobFailed:
            continue
        if number % 4 == 0:
            await client.feedback(result.meta.request_id, Feedback.GOOD if number % 12 else Feedback.BAD)
    await simulator.close()


async def photograph(addresses: Addresses, secret: str) -> None:
    """Take the pictures of the pages."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, size, scheme in (("", DESKTOP, "light"), ("-dark", DESKTOP, "dark"), ("-phone", PHONE, "light")):
            await photograph_all(browser, addresses, secret, name, size, scheme)
        await phone_call(browser, addresses, secret)
        await browser.close()


async def photograph_all(
    browser: Browser, addresses: Addresses, secret: str, suffix: str, size: dict[str, int], scheme: str
) -> None:
    """Take all pictures of one size and colour scheme."""
    context = await browser.new_context(viewport=size, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
    page = await context.new_page()
    page.set_default_timeout(180_000)
    console = f"{addresses.gateway_url}/console"
    await page.goto(console)
    await take(page, f"sign-in{suffix}")
    await page.get_by_label("Gateway key").fill(secret)
    await page.get_by_role("button", name="Sign in").click()
    await page.locator(".plot canvas").last.wait_for()
    await take(page, f"overview{suffix}")
    for path in ("jobs", "budgets", "recommendations"):
        await page.goto(f"{console}/{path}")
        await take(page, f"{path}{suffix}")
    await page.goto(f"{console}/chat/support-42")
    await take(page, f"chat{suffix}")
    for kind, name in (("Generate", "answer"), ("SessionAnalysis", "session"), ("AutoAnalyze", "run")):
        await page.goto(f"{console}/jobs?kind={kind}")
        await page.locator("#job-1").click()
        await page.get_by_text("How it was made").wait_for()
        await take(page, f"{name}{suffix}")
    await page.get_by_role("link", name="Labels", exact=True).click()
    await page.get_by_text("Where it comes from").wait_for()
    await take(page, f"labels{suffix}")
    await context.close()


async def phone_call(browser: Browser, addresses: Addresses, secret: str) -> None:
    """Talk to an agent in the browser: the second answer is late, and the third question interrupts it."""
    simulator = SimulatorAdmin(str(addresses.simulator_url))
    page = await (await browser.new_context(viewport=DESKTOP)).new_page()  # pyright: ignore[reportArgumentType]
    console = f"{addresses.gateway_url}/console"
    await page.goto(f"{console}/phone")
    await page.get_by_label("Gateway key").fill(secret)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("link", name=f"Talk to the agent of {NUMBER}").click()
    await page.get_by_role("button", name="Begin the phone call").click()
    for number, text in enumerate(ASKED, 1):
        await asyncio.sleep(4)  # as long as the voice speaks, and some words of the next answer
        await simulator.gate(closed=number == 2, provider="openai")
        await page.get_by_label("You say").press_sequentially(text, delay=30)
        await page.keyboard.press("Enter")
        if number == 2:
            await page.get_by_text("One moment, please.").wait_for()
            await asyncio.sleep(0.5)
            await simulator.gate(closed=False, provider="openai")
        await page.get_by_text(f"{number} answer", exact=False).wait_for()
    await asyncio.sleep(2)
    await take(page, "phone-talk")
    await page.goto(f"{console}/phone")
    await take(page, "phone")
    address = await page.locator("#calls tbody a").first.get_attribute("href")
    for suffix, size, scheme in (("", DESKTOP, "light"), ("-dark", DESKTOP, "dark"), ("-phone", PHONE, "light")):
        await page.set_viewport_size(size)  # pyright: ignore[reportArgumentType]
        await page.emulate_media(color_scheme=scheme)  # pyright: ignore[reportArgumentType]
        await page.goto(f"{addresses.gateway_url}{address}")
        await take(page, f"phone-call{suffix}")
    await simulator.close()


async def take(page: Page, name: str) -> None:
    """One picture of a whole page, small enough for the repository."""
    wanted = os.environ.get("SCREENSHOTS_ALL") or name in PUBLISHED
    if not wanted:
        return
    path = IMAGES / f"console-{name}.png"
    full_page = bool(os.environ.get("SCREENSHOTS_ALL"))
    await page.screenshot(path=path, full_page=full_page, animations="disabled")
    print(f"{path.name}: {path.stat().st_size:,} bytes")
    if path.stat().st_size > MOST_BYTES and not os.environ.get("SCREENSHOTS_ALL"):
        sys.exit(f"{path.name} is larger than {MOST_BYTES:,} bytes")


PUBLISHED = (
    "overview",
    "chat",
    "jobs-dark",
    "session",
    "labels",
    "answer-phone",
    "phone",
    "phone-call-dark",
    "phone-talk",
)

if __name__ == "__main__":
    asyncio.run(main())
    leave(0)
