"""The report: one file that opens offline, escapes every text, and can be read at any width and without a mouse."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Request, async_playwright, expect

from parley.domain.session_analysis import Step
from parley.domain.voice_metrics import Curves, SoundEvent
from parley.report.drawing import curve, scores, time_line
from parley.report.media import media_type
from parley.report.page import MOST_EMBEDDED, STATIC, report_page
from tests.domain.sessions import session, turn
from tests.gateway.test_console import CHROMIUM, FLAGS, HEARD, HOSTILE, TOO_WIDE
from tests.parts import TEST_TIMEOUT_SECONDS
from tests.report.analyses import LONG, OTHERS, RECORDING, SHORT, analysis_of, of_sample

PHONE, DESKTOP = {"width": 375, "height": 800}, {"width": 1280, "height": 900}


CURVES = Curves(
    step_seconds=1.0, pitch_hz=(100.0, 200.0, None, 150.0, 100.0), loudness_db=(-20.0, -30.0, None, None, -25.0)
)


class Texts(HTMLParser):
    """The tags and the attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def addresses(page: str) -> set[str]:
    """What a page refers to."""
    names = ("src", "href", "action", "data", "poster", "srcset")
    return {value or "" for _, attributes in Texts(page).tags for name, value in attributes.items() if name in names}


def test_a_page_refers_to_nothing_outside():
    analysis, talk = of_sample(SHORT, earlier=OTHERS)
    page = report_page(analysis, talk, RECORDING.read_bytes())
    elsewhere = {one[:16] for one in addresses(page) if not one.startswith("#")}
    assert elsewhere == {"data:audio/ogg;b"}
    assert "default-src &#39;none&#39;" in page
    assert not re.search(r"@import|url\(|https?://", page)


def test_what_is_not_rated_or_measured_has_no_meter_and_a_reason():
    analysis, talk = analysis_of(alone := session(turn("Who are you? I am Ann. What do you sell?", 0, 20))), alone
    first, *others = analysis.coaching.skills
    skills = (first.model_copy(update={"score": None}), *others)
    page = report_page(
        analysis.model_copy(update={"coaching": analysis.coaching.model_copy(update={"skills": skills})}), talk, None
    )
    meters = [attributes["aria-label"] for tag, attributes in Texts(page).tags if tag == "progress"]
    assert first.title not in meters
    assert {skill.title for skill in others} <= set(meters)
    assert page.count("not measured: the session has one speaker only") == 2


def test_a_recording_that_is_too_large_is_linked_or_left_out():
    analysis, talk = of_sample(SHORT)
    large = b"RIFF" + bytes(MOST_EMBEDDED)
    assert "calls/a%20call.wav" in addresses(report_page(analysis, talk, large, link="calls/a%20call.wav"))
    for page in (report_page(analysis, talk, large), report_page(analysis, talk, None)):
        assert "<audio" not in page
        assert "data-play=" not in page


def test_no_text_becomes_markup():
    hostile = turn(f"{HOSTILE} How do you handle that?", 0, 9)
    talk = session(hostile, turn(HOSTILE, 9, 12, "prospect"), user_id=HOSTILE, scenario=HOSTILE)
    analysis = analysis_of(talk)
    skill = analysis.coaching.skills[0].model_copy(update={"comment": HOSTILE, "title": HOSTILE})
    point = analysis.coaching.improvements[0].model_copy(update={"text": HOSTILE, "better": HOSTILE, "skill": HOSTILE})
    coaching = analysis.coaching.model_copy(
        update={
            "skills": (skill, *analysis.coaching.skills[1:]),
            "improvements": (point,),
            "rubric": analysis.coaching.rubric.model_copy(update={"title": HOSTILE, "user": HOSTILE}),
        }
    )
    page = report_page(analysis.model_copy(update={"coaching": coaching, "warnings": (HOSTILE,)}), talk, None)
    assert [tag for tag, _ in Texts(page).tags if tag in ("img", "script")] == ["script"]
    assert not any("onerror" in attributes for _, attributes in Texts(page).tags)


def test_an_analysis_without_its_session_and_without_a_model_has_a_page():
    analysis, _ = of_sample(LONG)
    page = report_page(analysis, None, None)
    assert "Transcript</h2>" not in page
    assert "in the transcript</a>" not in page


def test_a_provisional_result_says_what_will_amend_it():
    analysis, _ = of_sample(LONG)
    later = analysis.model_copy(update={"pending": (Step.COACHING,)})
    notices = ["coaching will amend it" in report_page(one, None, None) for one in (analysis, later)]
    assert notices == [False, True]


def test_the_time_line_has_turns_pauses_fillers_and_moments():
    talk = session(
        turn("Um, hello there.", 0, 10),
        turn("Yes?", 10, 20, "prospect"),
        turn("So, um, why?", 50, 60),
        duration_seconds=100,
    )
    line = time_line(talk, analysis_of(talk).coaching)
    assert [(role, part.start, part.width) for role, part in line.turns] == [
        ("rep", 0, 100),
        ("prospect", 100, 100),
        ("rep", 500, 100),
    ]
    assert [(pause.start, pause.width) for pause in line.pauses] == [(200, 300)]
    assert [int(at // 100) for at in line.fillers] == [0, 5, 5]
    assert (line.talk, line.silence) == ({"rep": 20, "prospect": 10}, 70)
    assert all(0 <= mark.at <= 1000 for mark in line.marks)


def test_the_gaps_between_the_pieces_of_a_turn_are_silence():
    talk = session(turn("Hello there,", 0, 10), turn("who is it?", 12, 20), duration_seconds=100)
    line = time_line(talk, analysis_of(talk).coaching)
    assert [(part.start, part.width) for _, part in line.turns] == [(0, 100), (120, 80)]
    assert (line.talk["rep"], line.silence) == (18, 82)


def test_sounds_beside_speech_are_on_the_time_line_with_their_times():
    talk = session(turn("Hello there, who is it?", 0, 10), turn("Yes?", 12, 20, "prospect"), duration_seconds=100)
    analysis = analysis_of(talk)
    sounds = (SoundEvent(text="(<b>laughs</b>)", start=65, end=70),)
    metrics = analysis.voice_metrics.model_copy(update={"sounds": sounds})
    line = time_line(talk, analysis.coaching, sounds)
    assert [(label, part.start, part.width, seconds) for label, part, seconds in line.sounds] == [
        ("(<b>laughs</b>)", 650, 50, 65)
    ]
    page = report_page(analysis.model_copy(update={"voice_metrics": metrics}), talk, None)
    assert "(&lt;b&gt;laughs&lt;/b&gt;) at 1:05" in page
    assert "<dt>Sounds</dt>" not in report_page(analysis, talk, None)


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ((1.0, 2.0, 3.0), "M0.0 100.0L500.0 50.0L1000.0 0.0"),
        ((1.0, None, 3.0), "M0.0 100.0M1000.0 0.0"),
        ((5.0, 5.0), "M0.0 100.0L1000.0 100.0"),
        ((None, 1.0, None), ""),
        ((), ""),
    ],
)
def test_a_curve_is_a_path_with_gaps(values: tuple[float | None, ...], path: str):
    assert curve(values) == path


def test_scores_are_lines_over_the_sessions():
    analysis, _ = of_sample(SHORT, earlier=OTHERS)
    series = scores(analysis.trends).series
    assert [name for name, _ in series][:2] == ["overall", "Opening"]
    overall = analysis.trends.lines[0].values
    assert series[0][1] == (f"0.0,{100 - overall[0]:.1f} 500.0,{100 - overall[1]:.1f} 1000.0,{100 - overall[2]:.1f}",)


@pytest.mark.parametrize(
    ("audio", "kind"),
    [
        (RECORDING.read_bytes(), "audio/ogg"),
        (b"RIFF\xff\xff\xff\xffWAVE", "audio/wav"),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"fLaC", "audio/flac"),
        (b"\0\0\0\x20ftypM4A ", "audio/mp4"),
        (b"\x1aE\xdf\xa3", "audio/webm"),
        (b"<html>", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_the_media_type_is_that_of_the_first_bytes(audio: bytes, kind: str):
    assert media_type(audio) == kind


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        await opened.close()


async def opened(browser: Browser, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """The page of a file, and what its browser asked for or complained about."""
    page = await browser.new_page(**options)
    page.set_default_timeout(TEST_TIMEOUT_SECONDS * 1000)
    seen: list[str] = []

    def asked(request: Request) -> None:
        if not request.url.startswith(("file:", "data:")):
            seen.append(request.url)

    page.on("request", asked)
    page.on("console", lambda line: seen.append(line.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    await page.goto(path.as_uri())
    return page, seen


async def test_a_moment_is_played_with_the_keyboard(browser: Browser, tmp_path: Path):
    analysis, talk = of_sample(SHORT, earlier=(*OTHERS, LONG))
    file = tmp_path / "report.html"
    measured = analysis.model_copy(update={"curves": CURVES})
    file.write_text(report_page(measured, talk, RECORDING.read_bytes()), encoding="utf-8")
    page, seen = await opened(browser, file, viewport=DESKTOP)
    first = page.get_by_role("button", name="Play from").first
    start = float(await first.get_attribute("data-play") or "nan")
    assert start > 1
    await first.focus()
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    await page.evaluate(HEARD)
    await page.keyboard.press("Enter")
    assert start - 1 < await page.evaluate("window.began") < start + 1
    assert start < await page.evaluate("window.ended") < start + 15
    assert await page.get_by_role("img", name="Pitch of the sales rep over the session, 100 to 200 Hz").count() == 1
    mark = page.locator(".speech a").first
    await mark.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".moments li:target")).to_have_count(1)
    assert seen == []
    await page.close()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
async def test_nothing_is_wider_than_the_window(size: dict[str, int], browser: Browser, tmp_path: Path):
    analysis, talk = of_sample(LONG, earlier=OTHERS)
    file = tmp_path / "report.html"
    file.write_text(report_page(analysis, talk, None), encoding="utf-8")
    page, seen = await opened(browser, file, viewport=size, color_scheme="dark")
    assert await page.evaluate(TOO_WIDE) == []
    assert await page.evaluate("[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth)")
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground, seen) == ("rgb(15, 20, 26)", [])
    await page.close()


def test_the_styles_and_the_script_ask_for_nothing():
    for path in STATIC.iterdir():
        assert not re.search(r"url\(|@import|fetch\(|import |https?:", path.read_text(encoding="utf-8")), path.name
