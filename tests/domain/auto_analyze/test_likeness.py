"""Texts are compared by their words, in any language."""

import pytest

from parley.domain.auto_analyze.likeness import Likeness, Spelling, central, terms

TEXTS = {
    "late card": "my card has not arrived",
    "new pin": "how do I change the pin",
    "declined": "the payment was declined at the shop",
    "账单": "我的账单有问题",
    "คืนเงิน": "ขอคืนเงิน",
}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("when will the card arrive", "late card"),
        ("changing a pin", "new pin"),
        ("the shop declines payments", "declined"),
        ("账单错了", "账单"),
        ("คืนเงินให้ด้วย", "คืนเงิน"),
    ],
)
def test_the_nearest_text_shares_the_rarest_words(text: str, name: str):
    assert Likeness(TEXTS).nearest(text, 1)[0][0] == name


def test_likeness_is_from_0_to_1():
    found = Likeness(TEXTS)
    assert found.of("late card", "late card") == pytest.approx(1)
    assert found.of("late card", "账单") == 0
    assert 0 < Likeness({"a": "lost card", "b": "lost pin"}).of("a", "b") < 1


def test_a_text_without_a_known_word_is_near_to_none():
    assert Likeness(TEXTS).nearest("zebra", 3) == []
    assert Likeness({}).nearest("zebra", 3) == []


def test_near_copies_are_all_texts_with_a_likeness():
    found = Likeness({"card": "my card is late", "cards": "My card is late!", "pin": "a new pin", "none": ""})
    assert found.near_copies("my card is late", 0.9) == [("card", pytest.approx(1)), ("cards", pytest.approx(1))]
    assert [name for name, _ in found.near_copies("my card, a new pin", 0.1)] == ["pin", "card", "cards"]
    assert found.near_copies("", 0.1) == []


def test_words_that_no_text_has_make_a_near_copy_less_alike():
    found = Likeness({"card": "my card", "pin": "a new pin"})
    assert found.nearest("my card from saturn", 1) == [("card", pytest.approx(1))]
    assert found.near_copies("my card from saturn", 0.9) == []
    assert found.near_copies("my card from saturn", 0.5) == [("card", pytest.approx(0.7, abs=0.1))]


def test_equally_near_texts_are_in_their_order():
    assert [name for name, _ in Likeness({"b": "refund", "a": "refund"}).nearest("refund", 2)] == ["b", "a"]


def test_a_text_is_not_its_own_neighbour():
    assert Likeness({"a": "refund", "b": "refund late"}).neighbours("a", 5) == [("b", pytest.approx(0.7, abs=0.3))]


def test_words_of_most_texts_do_not_count():
    texts = {str(at): f"the user asks about thing{at}" for at in range(40)}
    assert Likeness(texts).of("1", "2") == 0


def test_the_central_texts_stand_for_all():
    texts = ["lost my card", "card lost abroad", "open an account", "i lost the card", "lost my card"]
    assert central(texts, 2)[0] == "lost my card"
    assert "open an account" not in central(texts, 3)
    assert central(["a", "b", "a"], 5) == ["a", "b"]


def test_a_text_without_words_is_alike_to_none():
    found = Likeness({"empty": "", "signs": "🙂 !", "card": "my card"})
    assert found.nearest("", 3) == found.nearest("🙂", 3) == found.neighbours("empty", 3) == []
    assert central(["", "🙂", ""], 2) == ["", "🙂"]


USUAL = ["where is my transfer", "my transfer failed", "the card was charged", "where is the card", "change pin 1234"]


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("transfre", "transfer"),
        ("trnsfer", "transfer"),
        ("transsfer", "transfer"),
        ("mtransfer", "transfer"),
        ("acrd", "card"),
        ("hwere", "where"),
        ("ym", "ym"),
        ("si", "si"),
        ("teh", "the"),
        ("wasc harged", "was charged"),
        ("wa scharged", "was charged"),
        ("hwere is m ycard", "where is my card"),
        ("wher eis th ecard", "where is the card"),
    ],
)
def test_a_word_with_a_slip_of_the_keyboard_is_the_usual_word(slip: str, meant: str):
    spelling = Spelling([*USUAL, slip])
    assert [*spelling.terms(slip)] == [*spelling.terms(meant)]


@pytest.mark.parametrize("word", ["cart", "charged", "change", "m", "te", "1243", "zebra", "账单", ""])
def test_another_word_stays_as_it_is(word: str):
    """Also one with another character in its place: "change" is not "charge"."""
    assert [*Spelling([*USUAL, *USUAL, word]).terms(word)] == [*terms(word)]


@pytest.mark.parametrize("texts", [["heyo", "hyeo"], ["a salary", "my saalry"], ["a salary", "my salry"]])
def test_two_words_that_one_text_has_each_are_one_word_if_they_are_a_slip_apart(texts: list[str]):
    one, other = ([*Spelling(texts).terms(text)][-2:] for text in texts)
    assert one == other
    assert [*Spelling(texts).terms("zebra")] == [*terms("zebra")]


@pytest.mark.parametrize("text", ["zebrao ne", "ane lephant", "a card", "card", "a", ""])
def test_a_blank_stays_where_no_text_has_the_words_that_it_would_make(text: str):
    assert [*Spelling(["a card", "a card", text]).terms(text)] == [*terms(text)]


def test_a_word_of_several_texts_stays_as_it_is():
    assert [*Spelling([*USUAL, "acrd", "acrd too"]).terms("acrd")] == ["acrd"]


def test_of_several_words_the_most_frequent_one_is_meant():
    texts = ["coast", "coast", "cost", "cost", "cost", "coost"]
    assert next(Spelling(texts).terms("coost")) == "cost"
