"""What users of other tools reported, through a whole analysis: an input is handled, or refused with a helpful line."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import uuid4

import av
import numpy as np
import pytest
from temporalio.client import Client as TemporalClient

from parley import AnalysisHandle, Backend, Client
from parley.audio import decode
from parley.client.session_analysis import AnalysisReport
from parley.domain.errors import InvalidInput, JobFailed
from parley.domain.session import Session
from parley.domain.session_analysis import Analysis, Strategy
from parley.settings import Settings
from parley.storage.database import Database
from tests.parts import SAMPLES, running_workers
from tests.sounds import encode, tone, wav

RATE = 16_000
SPOKEN = decode((SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes(), rate=RATE).channels[0]
# The seconds of a clip of it, in which each side speaks once, and the user names a company.
CLIP = SPOKEN[: round(15.2 * RATE)]


def said(start: float, end: float, text: str, role: str = "rep", **fields: Any) -> dict[str, Any]:
    return {"role": role, "start": start, "end": end, "text": text, **fields}


def talk(*turns: dict[str, Any], seconds: float, **fields: Any) -> dict[str, Any]:
    name = f"field-{uuid4().hex[:8]}"
    return {"session_id": name, "user_id": name, "duration_seconds": seconds, "turns": list(turns), **fields}


def timed(*words: tuple[str, float | None, float | None]) -> list[dict[str, Any]]:
    listed = [{"text": text, "start": start, "end": end} for text, start, end in words]
    return [{name: value for name, value in word.items() if value is not None} for word in listed]


ANSWER = "Our drivers still write every delivery on paper."
STEADY = (("Which", 0.2, 0.5), ("routes", 0.5, 1.0), ("cost", 1.0, 1.4), ("you", 1.4, 1.6), ("the", 1.6, 1.7))
LAST = ("most?", 1.7, 2.3)
PARTS = [f"Depot {number} is served from the northern ring." for number in range(1, 13)]
CLIP_TALK = (
    said(0.6, 4.3, "Pellham Street Dental, this is Carol speaking, how can I help?", "prospect"),
    said(4.6, 14.9, "Hi Carol, it's Tomasz Wilk, from Pelmindra. I'm trying to reach the person for reminders."),
)


async def result(job: AnalysisHandle) -> Analysis:
    report: AnalysisReport = await job.result()
    assert report.analysis is not None
    assert report.analysis.coaching.processed
    return report.analysis


async def analysed(client: Client, *sessions: dict[str, Any], audio: bytes | None = None) -> list[Analysis]:
    """The analyses of sessions that run at the same time."""
    jobs = [await client.analyze(session, audio=audio) for session in sessions]
    return list(await asyncio.gather(*map(result, jobs)))


@pytest.mark.usefixtures("worker")
class TestTranscripts:
    async def test_wrong_times_of_words_are_mended_and_the_result_says_so(self, client: Client) -> None:
        given = {
            "whole": (*STEADY, LAST),
            "without a time": (*STEADY[:2], ("cost", None, None), *STEADY[3:], LAST),
            "stepping back": (*STEADY[:2], ("cost", 0.1, 0.2), *STEADY[3:], LAST),
            "stretched": (*STEADY, ("most?", 1.7, 12.0)),
            "overlapping": (*STEADY[:2], ("cost", 0.9, 1.5), *STEADY[3:], LAST),
        }
        sessions = [
            talk(
                said(0, 12, "Which routes cost you the most?", words=timed(*words)),
                said(12, 16, ANSWER, "prospect"),
                seconds=16,
            )
            for words in given.values()
        ]
        found = dict(zip(given, await analysed(client, *sessions), strict=True))
        assert {name: one.voice_metrics.pace_wpm for name, one in found.items()} == pytest.approx(
            dict.fromkeys(given, found["whole"].voice_metrics.pace_wpm), rel=0.15
        )
        warned = {name: " ".join(one.warnings) for name, one in found.items()}
        assert warned["whole"] == warned["overlapping"] == ""
        assert "1 word is without a usable time" in warned["without a time"]
        assert "1 word is without a usable time" in warned["stepping back"]
        assert "1 word is stretched over a silence" in warned["stretched"]

    async def test_one_speech_in_pieces_is_analysed_as_the_whole(self, client: Client) -> None:
        pieces = [said(4.0 * number, 4.0 * number + 4, part) for number, part in enumerate(PARTS)]
        answer = said(48, 51, ANSWER, "prospect")
        cut, whole = await analysed(
            client, talk(*pieces, answer, seconds=52), talk(said(0, 48, " ".join(PARTS)), answer, seconds=52)
        )
        assert cut.habits.longest_monologue_seconds == 48
        assert (cut.strategy, cut.habits, cut.voice_metrics) == (whole.strategy, whole.habits, whole.voice_metrics)
        assert cut.coaching == whole.coaching

    async def test_speakers_that_are_mixed_up_or_alone_are_analysed_and_named(self, client: Client) -> None:
        both_at_once = talk(
            said(0, 10, "I will show you the depot.", speaker="A"),
            said(4, 12, "And I will show you the costs.", speaker="A"),
            said(13, 15, ANSWER, "prospect", speaker="B"),
            seconds=16,
        )
        alone = talk(said(0, 9, "This is a speech without anyone who answers it."), seconds=10)
        overlapping = talk(said(0, 8, "Let me finish, then you."), said(6, 12, ANSWER, "prospect"), seconds=12)
        two, one, at_once = await analysed(client, both_at_once, alone, overlapping)
        assert any("one label may stand for two people" in warning for warning in two.warnings)
        assert one.habits.response_latency_seconds is None
        assert "response_latency_seconds" in one.habits.not_measured
        assert at_once.habits.talk_time_ratio == pytest.approx(8 / 14, abs=0.01)

    async def test_languages_without_blanks_and_codes_of_three_letters(self, client: Client) -> None:
        chinese = talk(
            said(0, 12, "请问你们仓库现在每天要处理多少份送货单"),
            said(12, 18, "大概两百份都是手写的", "prospect"),
            seconds=18,
            language="zho",
        )
        fillers = "Um, you know, we basically save you, uh, a day."
        english = talk(said(0, 10, fillers), said(10, 12, ANSWER, "prospect"), seconds=12, language="eng")
        first, second = await analysed(client, chinese, english)
        assert first.voice_metrics.pace_wpm is None
        assert first.voice_metrics.pace_cpm == pytest.approx(19 * 5)
        assert (first.voice_metrics.pace, "pace" in first.voice_metrics.not_measured) == (None, True)
        assert first.habits.filler_words.per_minute is None
        assert second.habits.filler_words.by_word == {"um": 1, "you know": 1, "basically": 1, "uh": 1}

    async def test_three_hours_are_read_in_part(self, client: Client) -> None:
        turns = [
            said(
                9.0 * number,
                9.0 * number + 8,
                f"Delivery {number} went to depot {number % 37} by the ring road.",
                "prospect" if number % 2 else "rep",
            )
            for number in range(1200)
        ]
        [found] = await analysed(client, talk(*turns, seconds=10_800))
        assert found.strategy is Strategy.COST_OPTIMIZED
        assert found.coaching.excerpt is not None
        assert found.coaching.excerpt.tokens <= 3000
        assert any("of 1200 turns" in warning for warning in found.warnings)

    @pytest.mark.parametrize(
        ("session", "line"),
        [
            (talk(said(0, 7000, "We open a depot."), said(7000, 15_000, ANSWER, "prospect"), seconds=15),
             "turns.1.end: 15000 is beyond the session's 15 s (milliseconds?)"),
            (talk(said(0, 300, "We open a depot."), said(300, 700, ANSWER, "prospect"), seconds=40),
             "turns.1.end: 700 is beyond the session's 40 s"),
            (talk(said(0, 7000, "We open a depot."), said(7000, 15_000, ANSWER, "prospect"), seconds=15_000),
             "words a minute: times are in seconds (milliseconds?)"),
        ],
        ids=["milliseconds", "beyond the end", "milliseconds everywhere"],
    )  # fmt: skip
    async def test_impossible_times_are_refused_before_anything_is_stored(
        self, client: Client, session: dict[str, Any], line: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            await client.analyze(session)
        assert line in str(refused.value)
        assert not await client.jobs()


class Field(NamedTuple):
    """A recording as it comes, and how many of its seconds are there."""

    audio: bytes
    seconds: float = len(CLIP) / RATE


def raw(samples: Any, form: str, rate: int) -> bytes:
    """The bytes of one channel in one of FFmpeg's raw formats."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as file:
        stream: Any = file.add_stream(f"pcm_{form}" if form != "s16le" else "pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return buffer.getvalue()


def in_the_field(samples: Any) -> dict[str, Field]:
    """A sound in the shapes that were reported."""
    telephone = samples[::2]  # below 4 kHz there is little else in it
    linear = raw(samples, "s16le", RATE)
    mp3 = encode(samples, form="mp3")
    seconds = len(samples) / RATE
    return {
        "length 0": Field(wav(linear, rate=RATE, size=0), seconds),
        "length 0x7fffffff": Field(wav(linear, rate=RATE, size=0x7FFFFFFF), seconds),
        "length 0xffffffff": Field(wav(linear, rate=RATE, size=0xFFFFFFFF), seconds),
        "µ-law": Field(wav(raw(telephone, "mulaw", 8000), codec=7, bits=8), seconds),
        "A-law": Field(wav(raw(telephone, "alaw", 8000), codec=6, bits=8), seconds),
        "8 kHz": Field(wav(raw(telephone, "s16le", 8000)), seconds),
        "truncated MP3": Field(mp3[: len(mp3) * 9 // 10], seconds * 0.9),
    }


@pytest.mark.usefixtures("worker")
async def test_recordings_of_any_shape_are_measured_like_a_good_one(client: Client) -> None:
    """The simulator hears no words in them, so that the words are the transcript's."""
    shapes = {"good": Field(encode(CLIP, form="flac"))} | in_the_field(CLIP)
    jobs = [await client.analyze(talk(*CLIP_TALK, seconds=15.2), audio=one.audio) for one in shapes.values()]
    found = dict(zip(shapes, await asyncio.gather(*map(result, jobs)), strict=True))
    sounds = {name: one.voice_metrics.acoustics for name, one in found.items()}
    good = sounds["good"]
    assert good is not None
    for name, sound in sounds.items():
        assert sound is not None, name
        assert sound.pitch_median_hz == pytest.approx(good.pitch_median_hz, rel=0.02), name
        assert sound.loudness_db == pytest.approx(good.loudness_db, abs=1.0), name
    no_words = (
        "voice metrics are computed from the transcript: no words were recognised",
        "whether the recording and the transcript match was not checked: nothing was recognised in the recording",
    )
    cut = found["truncated MP3"].warnings
    assert "it may be cut short" in cut[0]
    assert {name: one.warnings for name, one in found.items()} == dict.fromkeys(shapes, no_words) | {
        "truncated MP3": (cut[0], *no_words)
    }


@pytest.mark.usefixtures("worker")
async def test_a_recording_of_another_conversation_is_named(client: Client) -> None:
    recording = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()
    other = talk(
        said(0, 30, "Good morning, I would like to talk about the rota of your night nurses and what a gap costs you."),
        said(30, 54, "We fill every gap by telephone, and on a bad night that takes the ward sister two hours.",
             "prospect"),
        seconds=54.2,
    )  # fmt: skip
    [found] = await analysed(client, other, audio=recording)
    assert any("the recording and the transcript do not match" in warning for warning in found.warnings)


@pytest.fixture
async def listening(
    temporal: TemporalClient, database: Database, settings: Settings, client: Client
) -> AsyncIterator[Client]:
    """A client whose recordings are heard by the model on this machine."""
    local = settings.model_copy(update={"hearing": "whisper"})
    async with running_workers(temporal, database, local):
        yield Backend(temporal, database, local).client(client.workspace_id)


def spoken(session: Session) -> str:
    return " ".join(turn.text for turn in session.turns).casefold()


async def test_recordings_of_any_shape_are_heard_on_this_machine(listening: Client) -> None:
    shapes = in_the_field(CLIP[: round(4.5 * RATE)])
    jobs = {name: await listening.analyze(audio=one.audio, user_id=name) for name, one in shapes.items()}
    found = dict(zip(jobs, await asyncio.gather(*map(result, jobs.values())), strict=True))
    for name, one in found.items():
        session = await jobs[name].session()
        assert session.duration_seconds == pytest.approx(shapes[name].seconds, abs=0.2), name
        assert "can i help" in spoken(session), name
        assert any("one speaker was heard" in warning for warning in one.warnings), name


async def test_words_through_the_line_are_not_the_other_speakers(listening: Client) -> None:
    left, right = decode((SAMPLES / "recordings" / "two-channels.ogg").read_bytes(), rate=RATE).channels
    left, right = left[43 * RATE :], right[43 * RATE :]
    job = await listening.analyze(audio=encode(left, right + 0.05 * left, form="flac"), user_id="ann")
    await job.result()
    turns = (await job.session()).turns
    said_by = {
        role: " ".join(turn.text for turn in turns if turn.role == role).casefold() for role in ("rep", "prospect")
    }
    assert "thank you" in said_by["rep"]
    assert "thank you" not in said_by["prospect"]
    assert "book" in said_by["prospect"]


async def test_silence_and_music_have_no_words(listening: Client) -> None:
    beat = 1 + np.sin(2 * np.pi * 2 * np.arange(6 * RATE) / RATE)
    music = sum(tone(6.0, hertz=hertz, level=0.1) for hertz in (220, 277.2, 329.6, 440, 554.4)) * beat
    for sound in (np.zeros(3 * RATE, np.float32), music.astype(np.float32)):
        with pytest.raises(JobFailed, match="no speech was recognised: it has silence, noise or music only"):
            await (await listening.analyze(audio=encode(sound))).result()
