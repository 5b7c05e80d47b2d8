"""The report of a labelling run: offline, escaped, at any width, searched and paged without rendering all sessions."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from parley.domain.auto_analyze.comparison import DifferingSession, RunComparison, RunSide, compared
from parley.domain.auto_analyze.consistency import Consistency
from parley.domain.auto_analyze.contract import LabelCount, LabelKind, Statistics
from parley.domain.auto_analyze.drift import drift
from parley.domain.auto_analyze.overview import EarlierRun, Flow, NewLabels, QuotedSession, RunOverview
from parley.domain.chat import Containment
from parley.report.flows import MOST_BARS, MOST_TILES, bars, flow, treemap
from parley.report.labelling import SESSIONS_IN_BLOCK, write_page
from tests.gateway.test_console import HOSTILE, PHONE, TOO_WIDE
from tests.report.runs import each, overview_of, sessions_of
from tests.report.test_page import DESKTOP, Texts, addresses, browser, opened

__all__ = ["browser"]  # a fixture


async def page_of(run: RunOverview, sessions: list[QuotedSession]) -> str:
    file = StringIO()
    assert await write_page(run, each(sessions), file) == len(sessions)
    return file.getvalue()


async def written(folder: Path, count: int, **changes: object) -> Path:
    sessions = sessions_of(count)
    file = folder / "labels.html"
    file.write_text(await page_of(overview_of(sessions, **changes), sessions), encoding="utf-8")
    return file


async def test_a_page_refers_to_nothing_outside():
    sessions = sessions_of(SESSIONS_IN_BLOCK + 10)
    page = await page_of(overview_of(sessions), sessions)
    assert addresses(page) == {"#sessions"}
    assert "default-src &#39;none&#39;" in page
    assert not re.search(r"@import|url\(|https?://", page)
    counts = [
        attributes["data-count"]
        for tag, attributes in Texts(page).tags
        if attributes.get("class") == "sessions" and tag == "script"
    ]
    assert counts == [str(SESSIONS_IN_BLOCK), "10"]


async def test_no_text_becomes_markup():
    nasty = f"{HOSTILE}</script><!-- sessions --><script>alert(1)</script>\u2028"
    texts = ["session_id", "user_id", "intent", "transfer_reason", "drop_off_location", "summary", "quote"]
    [session] = [
        one.model_copy(update=dict.fromkeys(texts, nasty) | {"containment": Containment.DROP_OFF})
        for one in sessions_of(1)
    ]
    page = await page_of(overview_of([session], name=nasty, reason=nasty, id=nasty), [session])
    tags = [tag for tag, _ in Texts(page).tags]
    assert ("img" in tags, tags.count("script")) == (False, 2)
    assert not any("onerror" in attributes for _, attributes in Texts(page).tags)


def continued(**changes: Any) -> dict[str, Any]:
    """A run on new sessions only, with probes."""
    kinds = (
        drift(LabelKind.INTENT, {"refund": 500, "fax": 20, "login": 80}, {"refund": 200, "login": 90, "app": 10}),
        drift(LabelKind.DROP_OFF_LOCATION, {}, {"form": 3}),
    )
    since = EarlierRun(
        id="auto-analyze/default/abc",
        job_key="key",
        name="january.jsonl",
        created_at=datetime(2026, 2, 2, 9, tzinfo=UTC),
        sessions=600,
        drift=kinds,
    )
    figures = Consistency(
        probes=50, probe_agreement_before=0.8, probe_agreement=0.94, probe_interval=(0.83, 0.98), other=0.07
    )
    return {"since": since, "consistency": figures, **changes}


async def test_a_run_on_new_sessions_says_so_and_shows_what_changed():
    sessions = sessions_of(40)
    page = await page_of(overview_of(sessions, **continued()), sessions)
    assert "Only new sessions: 600 of the file are labelled by an earlier run (january.jsonl" in page
    assert "94.0% of 50 probes (95% interval 83.0% to 98.0%), 80.0% before merging" in page
    rows = re.findall(r'<tr><th scope="row" class="wrap">(\w+)</th><td>(\w+)</td>', page)
    assert rows == [("login", "grew"), ("refund", "shrank"), ("app", "new"), ("fax", "gone"), ("form", "new")]
    assert "Drop-off locations that changed since the earlier run" in page
    assert page.count("Jensen-Shannon distance") == 1


def repeated() -> RunComparison:
    """A fork and the run that it repeats."""
    cells = {("refund", "money back"): 6, ("login", "login"): 2, ("login", "money back"): 2}
    first, second = (
        RunSide(id=name, job_key=name, models=(model,), cost_usd=cost, tokens=10, intents=2, instructions=added)
        for name, model, cost, added in (
            ("first", "gpt-4o-mini", Decimal("0.50"), ""),
            ("second", "gpt-4o", Decimal("1.25"), "Two <words>."),
        )
    )
    said = DifferingSession(session_id="s-7", first="login", second="money back", said="I <cannot> log in")
    return compared(cells, first, second).model_copy(update={"examples": (said,)})


async def test_a_fork_is_compared_with_the_run_that_it_repeats():
    sessions = sessions_of(10)
    page = await page_of(overview_of(sessions, compared=repeated()), sessions)
    assert "10 sessions are labelled in both: 80.0% have matching intents, 20.0% the same ones." in page
    assert "<td>$1.2500 (+0.7500)</td>" in page
    assert '<td class="wrap">none</td><td class="wrap">Two &lt;words&gt;.</td>' in page
    assert "refund (6)" in page
    assert '<td class="number">2</td><td class="wrap">I &lt;cannot&gt; log in' in page
    assert "Against the run" not in await page_of(overview_of(sessions), sessions)


async def test_what_the_second_look_changed_is_shown():
    sessions = sessions_of(10)
    page = await page_of(overview_of(sessions, statistics=Statistics(looked_at=1200, reassigned=34)), sessions)
    assert "<dd>34 of 1,200 whose intent was in doubt</dd>" in page
    assert "second look gave" not in await page_of(overview_of(sessions), sessions)


async def test_a_run_without_labels_has_a_page():
    page = await page_of(
        overview_of(
            [], labels=(), flows=(), new_labels=(), phases=(), statistics=None, status="running", ended_at=None
        ),
        [],
    )
    assert "The run goes on" in page
    assert "No label is found yet." in page
    assert "<svg" not in page


def labels(*counts: int) -> list[LabelCount]:
    return [LabelCount(kind=LabelKind.INTENT, label=f"label {at}", sessions=count) for at, count in enumerate(counts)]


@pytest.mark.parametrize("counts", [(1,), (5, 3, 1), (1000, 1, 1, 1), (7,) * 40, tuple(range(200, 0, -1))])
@pytest.mark.parametrize("size", [(1000, 420), (360, 560)])
def test_a_treemap_fills_its_area_without_overlaps(counts: tuple[int, ...], size: tuple[int, int]):
    tiles = treemap(labels(*counts), *size)
    assert sum(tile.sessions for tile in tiles) == sum(counts)
    assert len(tiles) == min(len(counts), MOST_TILES + 1)
    assert sum(tile.width * tile.height for tile in tiles) == pytest.approx(size[0] * size[1], rel=0.02)
    for tile in tiles:
        assert tile.width * tile.height == pytest.approx(
            tile.sessions / sum(counts) * size[0] * size[1], rel=0.1, abs=30
        )
        assert -0.2 <= tile.x <= tile.x + tile.width <= size[0] + 0.5
        assert -0.2 <= tile.y <= tile.y + tile.height <= size[1] + 0.5
    corners = [(tile.x + tile.width / 2, tile.y + tile.height / 2, tile) for tile in tiles]
    inside = [
        (one, x)
        for x, y, own in corners
        for one in tiles
        if one is not own and one.x < x < one.x + one.width and one.y < y < one.y + one.height
    ]
    assert inside == []


def test_every_session_flows_from_an_intent_to_an_end():
    flows = [
        Flow(
            intent=f"intent {at}",
            containment=ended,
            drop_off_location=f"place {at}" if ended == "dropOff" else None,
            sessions=1 + at,
        )
        for at in range(30)
        for ended in Containment
    ]
    drawn = flow(flows)
    whole = sum(one.sessions for one in flows)
    columns: dict[float, list[int]] = {}
    for node in drawn.nodes:
        columns.setdefault(node.x, []).append(node.sessions)
        assert 0 <= node.y <= node.y + node.height <= drawn.height
    intents, ends, places = columns.values()
    assert (sum(intents), sum(ends), sum(places)) == (whole, whole, whole // 3)
    assert (len(intents), len(ends), len(places)) == (11, 3, 9)
    assert {"20 others", "22 others"} <= {node.label for node in drawn.nodes}
    assert len({one.title for one in drawn.ribbons}) == len(drawn.ribbons) == 33 + 9
    assert flow([]).nodes == ()


def test_a_user_who_left_without_a_location_is_drawn():
    drawn = flow([Flow(intent="x", containment=Containment.DROP_OFF, drop_off_location=None, sessions=2)])
    assert [node.label for node in drawn.nodes] == ["x", "dropOff", "without a location"]


def test_many_rounds_share_bars():
    few = bars([NewLabels(round=0, labels=8), NewLabels(round=1, labels=4), NewLabels(round=3, labels=2)])
    assert [(bar.title, bar.height) for bar in few] == [
        ("Discovery: 8 new labels", 100),
        ("Round 1: 4 new labels", 50),
        ("Round 2: 0 new labels", 0),
        ("Round 3: 2 new labels", 25),
    ]
    many = bars([NewLabels(round=at, labels=1) for at in range(1001)])
    assert len(many) <= MOST_BARS + 1
    assert (many[1].title, many[-1].title) == ("Rounds 1 to 17: 17 new labels", "Rounds 987 to 1000: 14 new labels")
    assert bars([]) == ()
    assert [bar.title for bar in bars([NewLabels(round=0, labels=3)])] == ["Discovery: 3 new labels"]


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
async def test_nothing_is_wider_than_the_window(size: dict[str, int], browser: Browser, tmp_path: Path):
    page, seen = await opened(browser, await written(tmp_path, 300), viewport=size, color_scheme="dark")
    await expect(page.locator(".sessions > li")).to_have_count(50)
    assert await page.evaluate(TOO_WIDE) == []
    assert await page.locator(".treemap:visible").count() == 1
    assert seen == []
    await page.close()


async def test_sessions_are_paged_and_searched(browser: Browser, tmp_path: Path):
    count = 2 * SESSIONS_IN_BLOCK + 30
    page, seen = await opened(browser, await written(tmp_path, count), viewport=DESKTOP)
    listed, status = page.locator(".sessions > li"), page.get_by_role("status")
    await expect(status).to_have_text("1 to 50 of 2,030 sessions")
    later, earlier = page.get_by_role("button", name="Later"), page.get_by_role("button", name="Earlier")
    await expect(earlier).to_be_disabled()
    for _ in range(40):
        await later.click()
    await expect(status).to_have_text("2,001 to 2,030 of 2,030 sessions")
    await expect(later).to_be_disabled()
    await expect(listed.last).to_contain_text(f"chat-{count - 1:06}")
    await page.get_by_label("Search").fill("NUMBER 1234.")
    await expect(status).to_have_text("1 to 1 of 1 sessions")
    await expect(listed).to_contain_text(["chat-001234"])
    await page.get_by_label("Search").fill("number")
    await page.get_by_role("combobox", name="Containment").select_option("agent")
    agents = sum(one.containment is Containment.AGENT for one in sessions_of(count))
    await expect(status).to_have_text(f"1 to 50 of {agents} sessions")
    await page.get_by_label("Search").fill("nothing has these words")
    await expect(status).to_have_text("0 sessions")
    assert seen == []
    await page.close()


async def test_a_label_shows_its_sessions_with_the_keyboard(browser: Browser, tmp_path: Path):
    page, seen = await opened(browser, await written(tmp_path, 300), viewport=DESKTOP)
    own = sum(one.intent == "password reset" for one in sessions_of(300))
    tile = page.locator(".treemap.wide a[data-label='password reset']")
    await tile.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status")).to_have_text(f"1 to {own} of {own} sessions")
    await page.get_by_role("button", name="Show the sessions of all labels").press("Enter")
    await expect(page.get_by_role("status")).to_have_text("1 to 50 of 300 sessions")
    assert seen == []
    await page.close()


async def test_hostile_texts_stay_texts_in_the_browser(browser: Browser, tmp_path: Path):
    [session] = [
        one.model_copy(
            update={"summary": HOSTILE, "quote": HOSTILE, "ending_quote": f"{HOSTILE} too", "intent": HOSTILE}
        )
        for one in sessions_of(1)
    ]
    file = tmp_path / "labels.html"
    file.write_text(await page_of(overview_of([session]), [session]), encoding="utf-8")
    page, seen = await opened(browser, file, viewport=DESKTOP)
    await expect(page.locator("blockquote")).to_have_text([HOSTILE, f"{HOSTILE} too"])
    assert await page.title() == "Labels of support.jsonl · Parley"
    assert await page.locator("img").count() == 0
    assert seen == []
    await page.close()
