"""Sessions as services write them: what can be repaired is, and it is said; the rest is refused by place."""

from typing import Any

import pytest

from parley.client.reading import parse_session
from parley.domain.coaching.prompts import coaching_request
from parley.domain.coaching.rubric import DEFAULT_RUBRIC, built_in_rubrics
from parley.domain.errors import InvalidInput
from parley.domain.habits import habits
from parley.domain.session import ONE_SPEAKER, Session
from parley.domain.session_analysis import facts
from parley.domain.voice_metrics import from_session


def given(*turns: dict[str, Any], seconds: float = 60, **fields: Any) -> Session:
    return parse_session(
        {"session_id": "s-1", "user_id": "ann", "duration_seconds": seconds, "turns": list(turns), **fields}
    )


def spoken(start: float, end: float, text: str = "We can help.", role: str = "rep", **fields: Any) -> dict[str, Any]:
    return {"role": role, "start": start, "end": end, "text": text, **fields}


def words(*times: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    listed = [{"text": f"word{number}", "start": start, "end": end} for number, (start, end) in enumerate(times)]
    return [{name: value for name, value in word.items() if value is not None} for word in listed]


def times(session: Session) -> list[tuple[float, float]]:
    return [(round(word.start, 3), round(word.end, 3)) for word in session.turns[0].words]


def repairs(session: Session) -> tuple[str, ...]:
    """The warnings, without the one that there is one speaker only: most of these sessions have one turn."""
    return tuple(warning for warning in session.warnings if warning != ONE_SPEAKER)


SPEECH = [spoken(3.5 * number, 3.5 * number + 3.5, f"Point {number} of my speech.") for number in range(12)]


class TestWords:
    @pytest.mark.parametrize(
        ("given_times", "expected"),
        [
            ([(0.2, 0.4), (None, None), (1.0, 1.4)], [(0.2, 0.4), (0.4, 1.0), (1.0, 1.4)]),
            ([(0.2, 0.4), (None, 0.9), (1.0, 1.4)], [(0.2, 0.4), (0.4, 1.0), (1.0, 1.4)]),
            ([(None, None), (1.0, 1.4)], [(0.0, 1.0), (1.0, 1.4)]),
            ([(1.0, 1.4), (None, None)], [(1.0, 1.4), (1.4, 3.4)]),
            ([(0.2, 0.4), (5.0, 5.2), (0.6, 0.8), (1.0, 1.4)], [(0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (1.0, 1.4)]),
        ],
    )
    def test_a_word_without_a_usable_time_is_between_its_neighbours(self, given_times: Any, expected: Any):
        session = given(spoken(0, 6, words=words(*given_times)))
        assert times(session) == expected
        assert repairs(session) == (
            "turns.0: 1 word is without a usable time: it is estimated from the words around it",
        )

    def test_words_that_all_step_back_keep_the_turn(self):
        session = given(spoken(0, 6, words=words((2.66, 2.84), (0.4, 0.58), (0.12, 0.28))))
        starts = [start for start, _ in times(session)]
        assert starts == sorted(starts)
        assert "2 words are without a usable time" in session.warnings[0]
        assert from_session(session).pace_wpm is None  # of less than a second of speech

    def test_a_word_that_ends_before_it_starts_has_its_usual_length(self):
        [(start, end)] = times(given(spoken(0, 6, words=words((2.0, 1.0)))))
        assert start == 2.0
        assert 2.2 < end < 3.0

    @pytest.mark.parametrize(
        ("given_times", "place", "expected"),
        [
            ([(0.0, 0.4), (0.4, 5.4), (9.0, 9.3)], 1, (0.4, 0.9)),
            ([(0.0, 0.4), (0.4, 8.9), (8.9, 9.3)], 1, (8.4, 8.9)),
            ([(0.0, 0.4), (0.4, 8.9), (8.6, 9.3)], 1, (8.4, 8.9)),
            ([(0.0, 2.6), (1.0, 1.4), (1.5, 1.7)], 0, (0.0, 0.5)),
            ([(0.0, 0.4), (0.4, 3.4), (1.5, 1.7)], 1, (0.4, 0.9)),
        ],
        ids=["before a silence", "after a silence", "over the next", "first and over others", "over others"],
    )
    def test_a_word_stretched_over_a_silence_is_cut(self, given_times: Any, place: int, expected: Any):
        session = given(spoken(0, 10, words=words(*given_times)))
        assert times(session)[place] == expected
        assert repairs(session) == ("turns.0: 1 word is stretched over a silence: its time is cut",)

    def test_a_word_far_outside_its_turn_has_no_time(self):
        session = given(spoken(5, 9, words=words((5.2, 5.4), (0.3, 0.5), (6.0, 6.4), (600.0, 601.0))))
        assert times(session) == [(5.2, 5.4), (5.4, 6.0), (6.0, 6.4), (6.4, 8.4)]
        assert repairs(session) == (
            "turns.0: 2 words are without a usable time: it is estimated from the words around it",
        )

    @pytest.mark.parametrize(
        ("given_times", "place", "problem"),
        [
            ([(100, 500), (600, 900), (950, 1900)], 0, "100 is outside its turn, from 0 to 9 s (milliseconds?)"),
            ([(0, 500), (600, 900)], 1, "600 is outside its turn, from 0 to 9 s (milliseconds?)"),
            ([(30, 30.5), (31, 32)], 0, "30 is outside its turn, from 0 to 9 s"),
        ],
    )
    def test_words_that_are_all_outside_their_turn_are_refused(self, given_times: Any, place: int, problem: str):
        with pytest.raises(InvalidInput) as caught:
            given(spoken(0, 9, words=words(*given_times)), spoken(9, 12, role="prospect"))
        assert (caught.value.field, caught.value.problem) == (f"turns.0.words.{place}.start", problem)

    def test_one_word_that_is_outside_does_not_cost_the_session(self):
        session = given(spoken(0, 1, words=words((30, 30.5))), spoken(9, 12, role="prospect"))
        assert times(session) == [(0.0, 1.0)]

    def test_good_words_stay_as_they_are(self):
        good = [(0.1, 0.4), (0.4, 0.9), (2.5, 3.6)]
        session = given(spoken(0, 6, words=words(*good)))
        assert times(session) == good
        assert repairs(session) == ()
        assert Session.model_validate(session.model_dump()) == session


class TestPieces:
    def test_a_speech_in_pieces_is_one_for_every_measure(self):
        answer = spoken(42, 44, "I see.", "prospect")
        whole = given(spoken(0, 42, " ".join(piece["text"] for piece in SPEECH)), answer)
        cut = given(*SPEECH, answer)
        assert cut == whole
        assert habits(cut).longest_monologue_seconds == 42
        assert facts(cut, tier="free", previous_analyses=0) == facts(whole, tier="free", previous_analyses=0)
        rubric = built_in_rubrics()[DEFAULT_RUBRIC]
        requests = [coaching_request(one, rubric, habits(one), None, max_tokens=10) for one in (cut, whole)]
        assert requests[0] == requests[1]

    def test_gaps_between_pieces_do_not_count_as_speech(self):
        cues = [spoken(2.9 * number, 2.9 * number + 2, "One two three four five six.") for number in range(3)]
        session = given(*cues, spoken(8, 10, "I see.", "prospect"))
        assert [(turn.start, turn.end) for turn in session.turns] == [(0, 7.8), (8, 10)]
        assert (from_session(session).pace_wpm, from_session(session).pauses) == (180, None)
        assert habits(session).talk_time_ratio == 0.75
        assert habits(session).longest_monologue_seconds == 7.8
        assert Session.model_validate(session.model_dump()) == session

    @pytest.mark.parametrize("pieces", [[(0, 4), (3, 5)], [(0, 1), (4, 6)], [(3, 2)]])
    def test_impossible_pieces_are_refused(self, pieces: Any):
        with pytest.raises(InvalidInput, match="pieces out of order"):
            given(spoken(0, 5, pieces=pieces))

    def test_words_of_pieces_stay_in_order(self):
        session = given(
            spoken(0, 2, words=words((0.1, 0.5), (0.6, 1.0))), spoken(2, 4, words=words((2.1, 2.5), (2.6, 3.0)))
        )
        assert [start for start, _ in times(session)] == [0.1, 0.6, 2.1, 2.6]

    def test_another_speaker_or_a_long_silence_separates_them(self):
        session = given(
            spoken(0, 2), spoken(2, 4, speaker="Bo"), spoken(4, 5, role="prospect"), spoken(5, 6), spoken(20, 22)
        )
        assert len(session.turns) == 5

    def test_one_speaker_of_a_session_may_be_two(self):
        both = [spoken(0, 5, "This is Ann. Is that Bob?"), spoken(5, 8, "Yes, this is Bob. Who is calling?")]
        session = given(*both)
        assert (session.warnings, session.speakers) == ((ONE_SPEAKER,), 1)
        assert Session.model_validate(session.model_dump()) == session
        named = [{**turn, "speaker": name} for turn, name in zip(both, ("Ann", "Bob"), strict=True)]
        assert (given(*named).warnings, given(*named).speakers) == ((), 2)

    def test_every_person_counts(self):
        names = ("Ann", "Bo", "Cy", "Bo")
        turns = [
            spoken(5 * n, 5 * n + 4, role="prospect" if n else "rep", speaker=name) for n, name in enumerate(names)
        ]
        assert given(*turns).speakers == 3

    def test_one_label_on_two_turns_at_once_is_doubtful(self):
        session = given(spoken(0, 10), spoken(5, 12))
        assert repairs(session) == ("turns.1: rep speaks in two turns at once: one label may stand for two people",)
        assert len(session.turns) == 2


class TestUnits:
    @pytest.mark.parametrize(
        ("turns", "seconds", "place", "problem"),
        [
            ([(0, 9000), (9000, 20000)], 20, "turns.1.end", "20000 is beyond the session's 20 s (milliseconds?)"),
            ([(0, 60_000)], 60, "turns.0.end", "60000 is beyond the session's 60 s (milliseconds?)"),
            ([(0, 400), (400, 900)], 30, "turns.1.end", "900 is beyond the session's 30 s"),
            ([(0, 40), (25, 30)], 31, "turns.0.end", "40 is beyond the session's 31 s"),
        ],
    )
    def test_turns_beyond_the_end_are_refused(self, turns: Any, seconds: float, place: str, problem: str):
        with pytest.raises(InvalidInput) as caught:
            given(*(spoken(start, end) for start, end in turns), seconds=seconds)
        assert (caught.value.field, caught.value.problem) == (place, problem)

    def test_milliseconds_everywhere_are_refused(self):
        with pytest.raises(InvalidInput, match=r"0\.0 words a minute: times are in seconds \(milliseconds\?\)"):
            given(spoken(0, 9000), spoken(9000, 20000, role="prospect"), seconds=20_000)

    @pytest.mark.parametrize(
        ("seconds", "problem"),
        [
            (600_000, "600000 is more than 8 hours (milliseconds?)"),
            (1e11, "100000000000 is more than 8 hours"),
        ],
    )
    def test_a_session_of_days_is_refused(self, seconds: float, problem: str):
        with pytest.raises(InvalidInput) as caught:
            given(spoken(0, 300_000), spoken(300_000, 590_000, role="prospect"), seconds=seconds)
        assert (caught.value.field, caught.value.problem) == ("duration_seconds", problem)

    def test_a_turn_may_end_a_little_late(self):
        assert given(spoken(0, 10.4), seconds=10).turns[0].end == 10.4

    @pytest.mark.parametrize("end", [10**400, 1e300])
    def test_an_impossible_end_is_refused_by_field(self, end: Any):
        with pytest.raises(InvalidInput) as caught:
            given(spoken(0, 5), spoken(5, end))
        assert caught.value.field == "turns.1.end"


class TestLanguages:
    @pytest.mark.parametrize(
        ("code", "tag"),
        [("eng", "en"), ("deu", "de"), ("ger", "de"), ("English", "en"), ("en_US", "en-US"), ("zho-TW", "zh-TW"),
         ("pt-BR", "pt-BR"), ("yue", "yue")],
    )  # fmt: skip
    def test_codes_of_three_letters_are_known(self, code: str, tag: str):
        assert given(spoken(0, 6), language=code).language == tag

    def test_fillers_are_counted_with_a_code_of_three_letters(self):
        session = given(spoken(0, 10, "Um, you know, uh, we basically help."), language="eng")
        assert habits(session).filler_words.count > 0
