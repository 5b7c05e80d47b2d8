"""Transcripts are read as services write them, and wrong ones are refused by place."""

import json
from typing import Any

import pytest

from parley.client.reading import parse_conversation
from parley.domain.errors import InvalidInput
from parley.domain.hearing import Hearing, Owner, Transcript, Who, mismatch, session_of, transcript_of
from parley.domain.requests import SpokenWord
from parley.domain.session import Session

OWNER = Owner(session_id="m-1", user_id="ann")
SAID = [("Hello there.", 0.5, 1.5), ("Hi, this is Bo.", 2.0, 4.0)]


def timed(
    text: str, start: float, end: float, unit: float = 1, name: str = "text", **more: Any
) -> list[dict[str, Any]]:
    parts = text.split()
    step = (end - start) / len(parts)
    return [
        {name: part, "start": (start + n * step) * unit, "end": (start + (n + 1) * step) * unit, **more}
        for n, part in enumerate(parts)
    ]


def each(**extra: Any) -> Any:
    return [(text, start, end, number) for number, (text, start, end) in enumerate(SAID)]


WHISPER = {
    "text": "Hello there. Hi, this is Bo.",
    "segments": [
        {"id": n, "seek": 0, "start": start, "end": end, "text": f" {text}", "tokens": [1], "avg_logprob": -0.2,
         "words": [word | {"probability": 0.9} for word in timed(text, start, end, name="word")]}
        for text, start, end, n in each()
    ],
    "language": "en",
}  # fmt: skip
WHISPER_API = {
    "task": "transcribe", "language": "english", "duration": 4.5, "text": "Hello there. Hi, this is Bo.",
    "words": [word for text, start, end, _ in each() for word in timed(text, start, end, name="word")],
}  # fmt: skip
WHISPER_CPP = {
    "systeminfo": "AVX = 1", "result": {"language": "en"},
    "transcription": [
        {"timestamps": {"from": "00:00:00,500", "to": "00:00:01,500"},
         "offsets": {"from": int(start * 1000), "to": int(end * 1000)}, "text": f" {text}"}
        for text, start, end, _ in each()
    ],
}  # fmt: skip
WHISPERX = {
    "segments": [
        {"start": start, "end": end, "text": f" {text}", "speaker": f"SPEAKER_0{n}",
         "words": [word | {"score": 0.8, "speaker": f"SPEAKER_0{n}"} for word in timed(text, start, end, name="word")]}
        for text, start, end, n in each()
    ],
    "word_segments": [], "language": "en",
}  # fmt: skip
ASSEMBLYAI = {
    "id": "t-1", "status": "completed", "language_code": "en_us", "audio_duration": 5, "text": "…",
    "words": [w for text, start, end, n in each() for w in timed(text, start, end, 1000, speaker="AB"[n])],
    "utterances": [
        {"speaker": "AB"[n], "start": int(start * 1000), "end": int(end * 1000), "text": text, "confidence": 0.9,
         "words": timed(text, start, end, 1000, confidence=0.9, speaker="AB"[n])}
        for text, start, end, n in each()
    ],
}  # fmt: skip
DEEPGRAM_WORDS = [
    {"word": w["text"].lower().strip(".,"), "punctuated_word": w["text"], "start": w["start"], "end": w["end"],
     "confidence": 0.9, "speaker": n}
    for text, start, end, n in each() for w in timed(text, start, end)
]  # fmt: skip
DEEPGRAM = {
    "metadata": {"duration": 5.0, "channels": 1, "request_id": "r"},
    "results": {"channels": [
        {"alternatives": [{"transcript": "…", "confidence": 0.9, "words": DEEPGRAM_WORDS}], "detected_language": "en"}
    ]},
}  # fmt: skip
DEEPGRAM_CHANNELS = {
    "metadata": {"duration": 5.0, "channels": 2},
    "results": {
        "channels": [{"alternatives": [{"transcript": "", "words": []}]}] * 2,
        "utterances": [
            {"start": start, "end": end, "channel": n, "transcript": text, "speaker": 0,
             "words": [word | {"punctuated_word": word["word"]} for word in timed(text, start, end, name="word")]}
            for text, start, end, n in each()
        ],
    },
}  # fmt: skip
REV = {
    "monologues": [
        {
            "speaker": n,
            "elements": [
                part
                for word in timed(text, start, end, name="value")
                for part in (
                    {"type": "text", "value": word["value"].rstrip(".,"), "ts": word["start"], "end_ts": word["end"]},
                    {"type": "punct", "value": word["value"][-1] if word["value"][-1] in ".," else " "},
                )
            ],
        }
        for text, start, end, n in each()
    ]
}
TWILIO = {
    "meta": {"key": "sentences", "page": 0, "page_size": 50, "next_page_url": None},
    "sentences": [
        {"media_channel": n + 1, "sentence_index": n, "start_time": str(start), "end_time": str(end),
         "transcript": text, "confidence": "0.98", "sid": "GX0", "words": [
             {"word": w["text"], "start_time": w["start"], "end_time": w["end"]} for w in timed(text, start, end)]}
        for text, start, end, n in each()
    ],
}  # fmt: skip
ELEVENLABS: dict[str, Any] = {
    "language_code": "eng", "language_probability": 0.98, "text": "Hello there. Hi, this is Bo.",
    "words": [
        part
        for text, start, end, n in each()
        for word in timed(text, start, end, type="word", speaker_id=f"speaker_{n}", logprob=-0.1)
        for part in (word, word | {"text": " ", "type": "spacing", "start": word["end"]})
    ],
}  # fmt: skip
ELEVENLABS_CHANNELS = {
    "transcripts": [
        {"language_code": "eng", "language_probability": 1, "text": text, "channel_index": n,
         "words": timed(text, start, end, type="word", speaker_id=None)}
        for text, start, end, n in reversed(each())
    ]
}  # fmt: skip
ZOOM = (
    "WEBVTT\r\n\r\n1\r\n00:00:00.500 --> 00:00:01.500\r\nAnn Lee: Hello there.\r\n\r\n"
    "2\r\n00:00:02.000 --> 00:00:04.000\r\nBo (Acme): Hi, this is Bo.\r\n"
)
TEAMS = (
    "WEBVTT\n\nNOTE made by a service\n\n00:00.500 --> 00:01.500 align:start\n<v Ann Lee>Hello there.</v>\n\n"
    "00:02.000 --> 00:04.000\n<v Bo>Hi, <b>this</b> is Bo.</v>"
)
SRT = "1\n00:00:00,500 --> 00:00:01,500\nHello there.\n\n2\n00:00:02,000 --> 00:00:04,000\nHi, this is Bo.\n"

FORMATS: dict[str, tuple[Any, tuple[str, ...], bool]] = {
    "whisper": (WHISPER, ("",), True),
    "whisper api": (WHISPER_API, ("",), True),
    "whisper.cpp": (WHISPER_CPP, ("",), False),
    "whisperx": (WHISPERX, ("SPEAKER_00", "SPEAKER_01"), True),
    "assemblyai": (ASSEMBLYAI, ("speaker A", "speaker B"), True),
    "assemblyai words": (ASSEMBLYAI | {"utterances": None}, ("speaker A", "speaker B"), True),
    "deepgram": (DEEPGRAM, ("speaker 0", "speaker 1"), True),
    "deepgram channels": (DEEPGRAM_CHANNELS, ("channel 1", "channel 2"), True),
    "rev": (REV, ("speaker 0", "speaker 1"), True),
    "twilio": (TWILIO, ("channel 1", "channel 2"), True),
    "elevenlabs": (ELEVENLABS, ("speaker_0", "speaker_1"), True),
    "elevenlabs channels": (ELEVENLABS_CHANNELS, ("channel 1", "channel 2"), True),
    "zoom": (ZOOM, ("Ann Lee", "Bo (Acme)"), False),
    "teams": (TEAMS, ("Ann Lee", "Bo"), False),
    "srt": (SRT, ("",), False),
    "srt with a mark": ("\ufeff" + SRT, ("",), False),
}


def parsed(given: Any) -> Transcript:
    text = given if isinstance(given, str) else json.dumps(given)
    transcript = parse_conversation(text, where="meeting")
    assert isinstance(transcript, Transcript)
    return transcript


def as_session(given: Any, **who: Any) -> Session:
    return session_of(parsed(given), Hearing(who=Who(**who)), OWNER)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name: str):
    given, speakers, has_words = FORMATS[name]
    transcript = parsed(given)
    assert transcript.speakers == speakers
    assert " ".join(passage.text for passage in transcript.passages) == "Hello there. Hi, this is Bo."
    assert (transcript.passages[0].start, transcript.passages[-1].end) == (0.5, 4.0)
    session = as_session(given)
    assert session.language.partition("-")[0] == "en"
    words = [word for turn in session.turns for word in turn.words]
    assert [word.text for word in words] == (["Hello", "there.", "Hi,", "this", "is", "Bo."] if has_words else [])
    assert len(session.turns) == (2 if len(speakers) > 1 else 1)


class TestTheUser:
    @pytest.mark.parametrize("name", ["Bo", "bo", "Bo (Acme)"])
    def test_is_found_by_name_or_introduction(self, name: str):
        assert [turn.role for turn in as_session(ZOOM, speaker=name).turns] == ["prospect", "rep"]
        assert [turn.role for turn in as_session(REV, speaker="Bo").turns] == ["prospect", "rep"]

    def test_is_not_the_one_whose_office_it_is(self):
        labelled = ZOOM.replace("Ann Lee: Hello there.", "A: This is Bo's office.").replace("Bo (Acme)", "B")
        assert [turn.role for turn in as_session(labelled, speaker="Bo").turns] == ["prospect", "rep"]

    @pytest.mark.parametrize("label", ["SPEAKER_01", "speaker 1", "Speaker 01"])
    def test_is_found_by_label_however_it_is_written(self, label: str):
        assert [turn.role for turn in as_session(WHISPERX, speaker=label).turns] == ["prospect", "rep"]

    def test_is_found_by_channel(self):
        assert [turn.role for turn in as_session(TWILIO, channel=2).turns] == ["prospect", "rep"]

    def test_is_found_by_role(self):
        roles = ZOOM.replace("Ann Lee", "Customer").replace("Bo (Acme)", "Agent")
        assert [turn.role for turn in as_session(roles, role="customer").turns] == ["rep", "prospect"]
        assert [turn.role for turn in as_session(roles).turns] == ["prospect", "rep"]
        assert as_session(roles).warnings == ()

    def test_is_channel_1_or_who_says_most_with_a_warning(self):
        assert as_session(TWILIO).turns[0].role == "rep"
        assert "channel 1 is taken for the user" in as_session(TWILIO).warnings[0]
        assert as_session(ZOOM).turns[1].role == "rep"
        assert (
            "Bo (Acme), who says most, is taken for the user; other speakers: Ann Lee" in as_session(ZOOM).warnings[0]
        )
        assert "one speaker was heard" in as_session(SRT).warnings[0]

    def test_who_is_not_there_is_refused_with_the_speakers(self):
        with pytest.raises(InvalidInput, match=r"user speaker: 'Zed' is not a speaker of it: Ann Lee, Bo \(Acme\)"):
            as_session(ZOOM, speaker="Zed")


class TestTheField:
    def test_words_without_times_are_estimated(self):
        given = json.loads(json.dumps(WHISPERX))
        for name in ("start", "end", "score"):
            del given["segments"][1]["words"][1][name]
        session = as_session(given)
        assert len(session.turns[1].words) == 4
        assert "1 word is without a usable time" in " ".join(session.warnings)

    def test_a_segment_of_two_speakers_is_two_passages(self):
        given = json.loads(json.dumps(WHISPERX))
        given["segments"][1]["words"][3]["speaker"] = "SPEAKER_00"
        assert [passage.speaker for passage in parsed(given).passages] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]

    def test_channels_without_utterances_are_cut_at_pauses_and_in_order_of_time(self):
        first = [*timed("Hello there.", 0, 1, name="word"), *timed("What now?", 10, 11, name="word")]
        second = [*timed("Hi, go on.", 3, 5, name="word"), *timed("Spreadsheets.", 14, 15, name="word")]
        channels = [{"alternatives": [{"transcript": "…", "words": words}]} for words in (first, second)]
        found = parsed({"metadata": {"duration": 20.0, "channels": 2}, "results": {"channels": channels}}).passages
        assert [(one.speaker, one.text, one.start, one.end) for one in found] == [
            ("channel 1", "Hello there.", 0, 1),
            ("channel 2", "Hi, go on.", 3, 5),
            ("channel 1", "What now?", 10, 11),
            ("channel 2", "Spreadsheets.", 14, 15),
        ]

    def test_words_beside_segments_are_put_into_them(self):
        given = WHISPER_API | {
            "segments": [{"id": n, "start": start, "end": end, "text": f" {text}"} for text, start, end, n in each()]
        }
        assert [(one.text, len(one.words)) for one in parsed(given).passages] == [
            (text, len(text.split())) for text, *_ in SAID
        ]
        late = given | {
            "words": [word | {"start": word["start"] + 9, "end": word["end"] + 9} for word in given["words"]]
        }
        assert [len(one.words) for one in parsed(late).passages] == [0, 6]

    def test_events_and_blanks_of_elevenlabs_are_not_words(self):
        event = {"text": "(laughs)", "start": 1.6, "end": 1.9, "type": "audio_event", "speaker_id": "speaker_1"}
        found = parsed(ELEVENLABS | {"words": [*ELEVENLABS["words"], event]})
        assert found == parsed(ELEVENLABS)

    @pytest.mark.parametrize(
        "name",
        ["+15550100002", "@ann", "ann@acme.example", "Dr. Ann Lee (she/her) | Acme", "Ann Lee / Acme", "王小明",
         "15550100002", "Ann *", "#2 Ann"],
    )  # fmt: skip
    def test_names_have_more_than_letters(self, name: str):
        cues = f"WEBVTT\n\n00:00.000 --> 00:04.000\nBo: Hello.\n\n00:05.000 --> 00:06.000\n{name}: Hi!\n"
        assert [(one.speaker, one.text) for one in parsed(cues).passages] == [("Bo", "Hello."), (name, "Hi!")]

    def test_a_further_line_of_a_cue_goes_on_with_its_speaker(self):
        cue = "WEBVTT\n\n00:00.000 --> 00:04.000\nBo: Hi\nthere: now.\n"
        assert [(one.speaker, one.text) for one in parsed(cue).passages] == [("Bo", "Hi there: now.")]

    def test_a_name_may_have_the_surname_first(self):
        lines = ("Lee, Ann: Hello.", "van der Berg, Dr. Bo: Hi, Ann: how are you?", "Lee, Ann: Fine.", "And you?")
        cues = "\n\n".join(f"00:0{number}.000 --> 00:0{number + 1}.000\n{line}" for number, line in enumerate(lines))
        said = [(one.speaker, one.text) for one in parsed(f"WEBVTT\n\n{cues}\n").passages]
        assert said == [
            ("Lee, Ann", "Hello."),
            ("van der Berg, Dr. Bo", "Hi, Ann: how are you?"),
            ("Lee, Ann", "Fine."),
            ("Lee, Ann", "And you?"),
        ]

    def test_a_sentence_with_a_comma_and_a_colon_is_not_a_name(self):
        cues = "WEBVTT\n\n00:00.000 --> 00:04.000\nBo: Hello.\n\n00:05.000 --> 00:06.000\nYes, Ann: right.\n"
        assert [(one.speaker, one.text) for one in parsed(cues).passages] == [
            ("Bo", "Hello."),
            ("Bo", "Yes, Ann: right."),
        ]

    @pytest.mark.parametrize("text", ["10:30 is fine: see you.", "2 things: a price and a date."])
    def test_a_number_at_the_beginning_is_not_a_name(self, text: str):
        assert parsed(f"WEBVTT\n\n00:00.000 --> 00:04.000\n{text}\n").speakers == ("",)

    def test_two_people_in_a_cue_are_two_passages(self):
        cue = "WEBVTT\n\n00:00.000 --> 00:04.000\n- Ann: Hello there.\n- Bo: Hi!\n"
        assert [(one.speaker, one.text) for one in parsed(cue).passages] == [("Ann", "Hello there."), ("Bo", "Hi!")]

    def test_a_sentence_that_begins_like_a_name_is_none_in_a_file_without_names(self):
        lines = ("Welcome back.", "So the question is: can we do it by Friday?", "I think so.", "Remember: the price.")
        cues = "\n\n".join(f"00:0{number}.000 --> 00:0{number + 1}.000\n{line}" for number, line in enumerate(lines))
        read = parsed(f"WEBVTT\n\n00:09.000 --> 00:09.500\nRight.\n\n{cues}\n")
        assert read.speakers == ("",)
        assert [one.text for one in read.passages if one.start < 9] == [*lines]

    def test_a_colon_in_a_sentence_is_not_a_name(self):
        cue = "WEBVTT\n\n00:00.000 --> 00:04.000\nand there is one thing that matters more than that: the price\n"
        assert parsed(cue).speakers == ("",)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"a": 1}, "meeting: is neither a session nor a transcript that is known: Whisper"),
        ([1], "meeting: is neither a session"),
        ("just text", "meeting: is neither a session"),
        ({"segments": 5}, "meeting: segments: must be a list"),
        ({"segments": [5]}, "meeting: segments.0: must be an object"),
        ({"segments": [{"start": 0, "text": "a"}]}, "meeting: segments.0.end: is missing: a time in the recording"),
        ({"segments": [{"start": "x", "end": 1, "text": "a"}]}, "meeting: segments.0.start: must be a number"),
        ({"segments": [{"start": 5, "end": 1, "text": "a"}]}, "meeting: segments.0.end: 1 is before the start, 5"),
        ({"segments": [{"start": 0, "end": 1e9, "text": "a"}]}, "segments.0.end: 1000000000.0 is not a time within 8"),
        ({"segments": [{"start": 0, "end": 600000, "text": "a"}]}, "600000 is not a time within 8 hours (millisec"),
        ({"segments": [{"start": 0, "end": 1, "text": ["a"]}]}, "meeting: segments.0.text: must be text"),
        ({"segments": []}, "meeting: has no words"),
        ({"segments": [{"start": 0, "end": 1, "text": " "}]}, "meeting: has no words"),
        (ASSEMBLYAI | {"status": "processing"}, "meeting: status: is processing: the transcript is not complete"),
        ({"results": {"channels": [{"alternatives": 1}]}}, "meeting: results.channels.0.alternatives: must be a list"),
        ({"monologues": [{"elements": [{"type": "text", "value": "a", "ts": -1}]}]}, "monologues.0.elements.0.ts: -1"),
        (TWILIO | {"meta": {"next_page_url": "https://x"}}, "meeting: meta.next_page_url: there are more pages"),
        ("WEBVTT\n\n00:00:01 --> 00:00:04.000\nHello\n", "meeting: line 3: is not a time"),
        ("WEBVTT\n\n00:05.000 --> 00:04.000\nHello\n", "meeting: line 3: ends at 4 s before it starts at 5 s"),
        ("WEBVTT\n", "meeting: has no words"),
        ("1\n00:00:00,500 --> soon\nHello\n\n2\n00:00:00,500 --> 00:00:02,500\nHi", "meeting: is neither a session"),
    ],
)  # fmt: skip
def test_a_wrong_transcript_is_refused_by_place(given: Any, problem: str):
    with pytest.raises(InvalidInput) as caught:
        parsed(given)
    assert problem in str(caught.value)


class TestMismatch:
    spoken = tuple(SpokenWord(text=word, start=n, end=n) for n, word in enumerate(("we sell lifts " * 9).split()))

    @pytest.mark.parametrize(
        ("text", "found"), [("we sell lifts " * 12, False), ("the price of ferries is " * 9, True)]
    )
    def test_a_recording_of_another_session_is_noticed(self, text: str, found: bool):
        turn = {"role": "rep", "start": 0, "end": 60, "text": text}
        session = Session.model_validate({**OWNER.model_dump(), "duration_seconds": 60, "turns": [turn]})
        assert mismatch(self.spoken, session).startswith("the recording and the transcript do not match") is found

    @pytest.mark.parametrize(
        ("text", "found"),
        [("我们卖电梯，请问您有几台？" * 12, False), ("渡轮的价格是多少呢" * 9, True)],
        ids=["the same", "another"],
    )
    def test_letters_are_compared_where_there_are_no_blanks(self, text: str, found: bool):
        """Writers part such a text into words of any length."""
        heard = tuple(
            SpokenWord(text=word, start=n, end=n)
            for n, word in enumerate(["我们", "卖", "电梯", "请问", "您", "有", "几台"] * 12)
        )
        turn = {"role": "rep", "start": 0, "end": 60, "text": text}
        session = Session.model_validate({**OWNER.model_dump(), "duration_seconds": 60, "turns": [turn]})
        assert bool(mismatch(heard, session)) is found

    def test_words_that_were_heard_are_joined_as_their_script_is_written(self):
        said = ["你们", "用", "Excel", "吗", "？", "Not", "today", "。"]
        heard = [SpokenWord(text=word, start=n / 2, end=n / 2 + 0.4, confidence=0.9) for n, word in enumerate(said)]
        assert [passage.text for passage in transcript_of(heard, "zh").passages] == ["你们用 Excel 吗？ Not today 。"]
