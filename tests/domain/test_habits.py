import pytest

from parley.domain.habits import EXAMPLE_CHARACTERS, EXAMPLES, FillerWords, filler_words, habits
from parley.domain.session import Turn
from tests.domain.sessions import session, turn


def count(text: str, language: str = "en") -> dict[str, int]:
    return filler_words([turn(text)], language).by_word


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
    assert filler_words([turn("um")], "ja") == FillerWords(listed=False, count=0, per_minute=0, by_word={}, examples=())
    assert filler_words([turn("um")], "en").listed


def test_the_commonest_filler_comes_first_and_the_rate_is_per_minute_of_talk():
    found = filler_words([turn("uh um um", 0, 30), turn("um", 90, 120)], "en")
    assert (list(found.by_word), found.count, found.per_minute) == (["um", "uh"], 4, 4.0)


def test_each_example_is_a_separate_sentence():
    text = "So, um, I, uh, think, you know, yes.  Um, second\none! No filler here. So, um, I, uh, think, you know, yes."
    assert filler_words([turn(text)], "en").examples == ("So, um, I, uh, think, you know, yes.", "Um, second one!")


def test_a_hesitation_does_not_end_an_example():
    assert filler_words([turn("We... um... try it. Fine.")], "en").examples == ("We... um... try it.",)


@pytest.mark.parametrize("before", [0, 3, 39, 41, 500])
@pytest.mark.parametrize("after", [0, 30, 500])
def test_an_example_is_short_within_the_text_and_shows_the_filler_between_whole_words(before: int, after: int):
    text = "word " * before + "um" + " word" * after
    [example] = filler_words([turn(text)], "en").examples
    assert example in text
    assert set(example.split()) <= {"word", "um"}
    assert "um" in example.split()
    assert len(example) <= EXAMPLE_CHARACTERS


def test_an_endless_word_is_cut_too():
    [example] = filler_words([turn("um " + "x" * 5000)], "en").examples
    assert example == "um"


def test_there_are_only_a_few_examples():
    found = filler_words([turn(f"Um {number}.") for number in range(20)], "en")
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
    assert counted.pace_wpm == 46.7  # 7 words in 9 s


def test_words_with_apostrophes_and_hyphens_are_one_word():
    assert habits(session(turn("I'm well-known, isn't it", 0, 60))).pace_wpm == 4.0


@pytest.mark.parametrize("only", [turn("Um.", 5, 5), turn("Hello.", 0, 5, "prospect")], ids=["no-time", "no-rep"])
def test_no_talk_time_gives_zeros_instead_of_a_division_by_zero(only: Turn):
    counted = habits(session(only))
    assert (counted.talk_time_ratio, counted.pace_wpm, counted.filler_words.per_minute) == (0, 0, 0)
