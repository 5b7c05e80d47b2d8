import pytest

from parley.domain.coaching.prompts import coaching_request
from parley.domain.coaching.rubric import DEFAULT_RUBRIC, built_in_rubrics
from parley.domain.habits import EXAMPLE_CHARACTERS, EXAMPLES, FillerWords, filler_words, habits
from tests.domain.sessions import session, turn


def count(text: str, language: str = "en") -> dict[str, int]:
    return filler_words([turn(text)], language, 60).by_word


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Um, we uh do it, UM.", "en", {"um": 2, "uh": 1}),
        ("It is, like, fast, you know, and, so, cheap.", "en", {"like": 1, "you know": 1, "so": 1}),
        ("Like, it just works. Right, let us see.", "en", {"like": 1, "right": 1}),
        ("On a map, you know? And basically done.", "en", {"you know": 1, "basically": 1}),
        ("It is sort of slow, and kind of old.", "en", {"sort of": 1, "kind of": 1}),
        ("Well... um... we, like... try.", "en", {"um": 1, "like": 1}),
        ("Pues, eh, o sea, bueno, digamos.", "es", {"pues": 1, "eh": 1, "o sea": 1, "bueno": 1, "digamos": 1}),
        ("Wir sind, ähm, halt die Besten, ja, quasi.", "de", {"ähm": 1, "halt": 1, "ja": 1, "quasi": 1}),
        ("Euh, en fait, ben, oui.", "fr", {"euh": 1, "en fait": 1, "ben": 1}),
        ("um", "en-US", {"um": 1}),
    ],
)  # fmt: skip
def test_fillers_are_counted_in_their_language(text: str, language: str, expected: dict[str, int]):
    assert count(text, language) == expected


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I like it, I'd like ten minutes, and they look like new.", "en"),
        ("We are, like-minded people say, a so-called family.", "en"),
        ("I think so. That is the right one, so we go right away.", "en"),
        ("What kind of trucks, and this sort of thing?", "en"),
        ("Do you know who decides? I'll let you know what I mean.", "en"),
        ("The umbrella, the album, hermetic uhlans.", "en"),
        ("Este precio es bueno, pues lo dice usted.", "es"),
        ("Er hat also ja gesagt.", "de"),
        ("Ben est de quel genre ?", "fr"),
        ("Um, uh, like, er.", "ja"),
    ],
)
def test_a_word_with_a_meaning_is_not_a_filler(text: str, language: str):
    assert count(text, language) == {}


def test_a_language_without_a_list_is_marked_as_not_counted():
    unlisted = FillerWords(listed=False, count=0, per_minute=None, by_word={}, examples=())
    assert filler_words([turn("um")], "ja", 60) == unlisted
    assert filler_words([turn("um")], "en", 60).listed
    assert habits(session(language="ja")).not_measured["filler_words"] == "no list of filler words for this language"


def test_the_commonest_filler_comes_first_and_the_rate_is_per_minute_of_talk():
    found = filler_words([turn("uh um um", 0, 30), turn("um", 90, 120)], "en", 60)
    assert (list(found.by_word), found.count, found.per_minute) == (["um", "uh"], 4, 4.0)


def test_each_example_is_a_separate_sentence():
    text = "So, um, I, uh, think, you know, yes.  Um, second\none! No filler here. So, um, I, uh, think, you know, yes."
    assert filler_words([turn(text)], "en", 60).examples == ("So, um, I, uh, think, you know, yes.", "Um, second one!")


def test_a_hesitation_does_not_end_an_example():
    assert filler_words([turn("We... um... try it. Fine.")], "en", 60).examples == ("We... um... try it.",)


@pytest.mark.parametrize("before", [0, 3, 39, 41, 500])
@pytest.mark.parametrize("after", [0, 30, 500])
def test_an_example_is_short_within_the_text_and_shows_the_filler_between_whole_words(before: int, after: int):
    text = "word " * before + "um" + " word" * after
    [example] = filler_words([turn(text)], "en", 60).examples
    assert example in text
    assert set(example.split()) <= {"word", "um"}
    assert "um" in example.split()
    assert len(example) <= EXAMPLE_CHARACTERS


def test_an_endless_word_is_cut_too():
    [example] = filler_words([turn("um " + "x" * 5000)], "en", 60).examples
    assert example == "um"


def test_there_are_only_a_few_examples():
    found = filler_words([turn(f"Um {number}.") for number in range(20)], "en", 60)
    assert (len(found.examples), found.count) == (EXAMPLES, 20)


def test_only_the_turns_of_the_rep_count():
    counted = habits(
        session(
            turn("Um, hello? Is this Rick?", 0, 3),
            turn("Um, uh, um? What? Why?", 3, 4, "prospect"),
            turn("Fine, thanks.", 4, 10),
        )
    )
    assert counted.filler_words.by_word == {"um": 1}
    assert counted.questions == 2
    assert counted.talk_time_ratio == 0.9
    assert counted.longest_monologue_seconds == 6.0
    assert counted.not_measured == {}


def test_a_speech_cut_into_twelve_turns_has_the_habits_of_the_whole():
    pieces = [turn(f"Um, this is point {at}.", at * 3.5, at * 3.5 + 3.5) for at in range(12)]
    whole = turn(" ".join(piece.text for piece in pieces), 0, 42)
    answer = turn("I see.", 42, 44, "prospect")
    assert habits(session(*pieces, answer)) == habits(session(whole, answer))
    assert habits(session(whole, answer)).longest_monologue_seconds == 42


def test_the_way_of_taking_turns_is_counted():
    counted = habits(
        session(turn("Hello.", 0, 4), turn("I wonder if.", 4.5, 9, "prospect"), turn("No.", 7, 10), turn("A!", 12, 13))
    )
    assert (counted.interruptions.by_user, counted.interruptions.overlap_seconds) == (1, 2)
    assert counted.response_latency_seconds is None
    assert counted.not_measured == {"response_latency_seconds": "the user never speaks after another speaker"}


@pytest.mark.parametrize(
    ("text", "count"),
    [("Who? What?? Why?!", 3), ("您是谁？", 1), ("من أنت؟", 1), ("Ποιος είσαι;\u037e", 1), ("No.", 0), ("no", None)],
)
def test_questions_are_counted_where_a_transcript_has_punctuation(text: str, count: int | None):
    counted = habits(session(turn(text)))
    assert counted.questions == count
    assert ("questions" in counted.not_measured) is (count is None)


def test_what_needs_speech_is_not_measured_without_any():
    for only in (turn("Um.", 5, 5), turn("Hello.", 0, 5, "prospect")):
        counted = habits(session(only))
        assert counted.filler_words.per_minute is None
        assert counted.not_measured["filler_words"] == "the user does not speak"
    assert habits(session(turn("Um.", 5, 5), turn("Hm.", 6, 6, "prospect"))).talk_time_ratio is None


def test_of_one_speaker_nothing_is_measured_that_needs_two():
    alone = session(turn("Hello there, how are you? Fine, thanks. And you?", 0, 12))
    for one in (alone, session(turn("Hello.", 0, 5, "prospect"))):
        counted = habits(one)
        assert (counted.talk_time_ratio, counted.interruptions, counted.response_latency_seconds) == (None, None, None)
        assert {counted.not_measured[name] for name in ("talk_time_ratio", "interruptions")} == {
            "the session has one speaker only"
        }
    asked = coaching_request(alone, built_in_rubrics()[DEFAULT_RUBRIC], habits(alone), None, max_tokens=10)
    assert not any(word in asked.messages[1].text for word in ("interrupt", "talk time"))
