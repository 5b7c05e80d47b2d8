"""What is read of a long transcript: within its tokens, with both ends, and with the turns that say something."""

import json

import pytest

from parley.domain.coaching.excerpt import LINE_TOKENS, cut_to, excerpt_of
from parley.domain.session import Session
from parley.domain.tokens import count_tokens
from tests.domain.sessions import session, turn
from tests.parts import SAMPLES

ROLES = ("rep", "prospect")


def read(talk: Session, tokens: int) -> list[int]:
    """The numbers of the turns that are read."""
    excerpt = excerpt_of(talk, tokens)
    assert excerpt is not None
    missing = {number for one in excerpt.left_out for number in range(one.first, one.last + 1)}
    return [number for number in range(len(talk.turns)) if number not in missing]


def talk_of(*texts: str, language: str = "en") -> Session:
    return session(*(turn(text, n, n + 1, ROLES[n % 2]) for n, text in enumerate(texts)), language=language)


@pytest.mark.parametrize("tokens", [500, 800, 1200])
def test_an_excerpt_has_both_ends_and_fits_its_tokens(tokens: int):
    talk = Session.model_validate(json.loads((SAMPLES / "demo-hospital-rostering.json").read_text()))
    excerpt = excerpt_of(talk, tokens)
    assert excerpt is not None
    numbers = read(talk, tokens)
    assert (numbers[0], numbers[-1]) == (0, len(talk.turns) - 1)
    assert excerpt.turns == len(numbers)
    assert excerpt.tokens <= tokens < excerpt.transcript_tokens
    assert excerpt.tokens > tokens * 0.8
    assert excerpt_of(talk, tokens) == excerpt


def test_a_transcript_that_fits_is_read_as_it_is():
    talk = talk_of("Hello.", "Yes?")
    assert excerpt_of(talk, 2 * (LINE_TOKENS + 3)) is None
    assert excerpt_of(talk, 2 * LINE_TOKENS) is not None


def test_turns_that_say_something_are_read_rather_than_those_that_repeat():
    small_talk = ["Mhm, yes, right, okay then.", "Yes, right, okay, mhm then."] * 40
    said = {
        31: "We pay 4,200 euros a month for Rosterly today.",
        46: "What would happen if the night shift could swap duties?",
        61: "Our works council rejected biometric terminals last autumn.",
    }
    talk = talk_of(*(said.get(number, text) for number, text in enumerate(small_talk)))
    assert set(said) <= set(read(talk, 600))


def test_an_answer_is_read_with_its_question():
    texts = ["Mhm, yes, right, okay then.", "Yes, right, okay, mhm then."] * 40
    texts[30], texts[31] = "Why did the pilot fail?", "Because no one yes right."
    assert {30, 31} <= set(read(talk_of(*texts), 700))


def test_a_language_without_blanks_is_compared_by_characters():
    texts = ["はい、そうですね", "ええ、はい、そう"] * 40
    texts[40] = "予算は四百万円です"
    assert 40 in read(talk_of(*texts, language="ja"), 700)


def test_a_long_turn_is_cut_in_its_middle():
    text = "begin " + "middle " * 2000 + "end"
    shown = cut_to(text, 200)
    assert shown.startswith("begin ")
    assert shown.endswith(" end")
    assert count_tokens(shown) < 220
    assert cut_to("short", 200) == "short"


def test_one_turn_alone_is_read_in_part():
    excerpt = excerpt_of(talk_of("word " * 5000), 500)
    assert excerpt is not None
    assert (excerpt.turns, excerpt.left_out, excerpt.cut) == (1, (), (0,))
