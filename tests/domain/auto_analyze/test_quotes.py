"""The quote of a label counts only where its session has the words."""

import pytest

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.quotes import (
    QUOTE_CHARACTERS,
    SEARCHED_CHARACTERS,
    QuoteCount,
    find_words,
    warning_of,
    with_checked_quotes,
)
from parley.domain.auto_analyze.validation import MAX_QUOTE_CHARACTERS, SessionLabels
from parley.domain.chat import ChatSession

SAID = ("Hello!", "My  parcel has\nnot ARRIVED, where is it?", "Thanks")


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("My parcel has not ARRIVED, where is it?", "My parcel has not ARRIVED, where is it?"),
        ("my PARCEL has not arrived", "My parcel has not ARRIVED"),
        ("  not arrived,   where ", "not ARRIVED, where"),
        ("parcel has not arrived where is it", "parcel has not ARRIVED, where is it?"),
        ("“My parcel … where is it?”", "where is it?"),
        ("my parcel hasn't not arrived, where is it", "My parcel has not ARRIVED, where is it?"),
        ("thanks", "Thanks"),
        ("parcel", None),
        ("arc", None),
        ("arcel has not arriv", "parcel has not ARRIVED"),
        ("My invoice is wrong and I want my money back", None),
        ("", None),
        ("…", None),
        (None, None),
    ],
)
def test_a_quote_is_found_in_the_words_of_the_session(quote: str | None, found: str | None):
    words = find_words(SAID, quote)
    assert (words or "").rstrip(",") == (found or "")


def test_other_scripts_are_found():
    assert find_words(["荷物が届かないのですが、どこにありますか"], "荷物が届かない") == "荷物が届かない"
    assert find_words(["Где моя посылка?"], "где МОЯ посылка") == "Где моя посылка"
    assert find_words(["Die Straße ist gesperrt"], "die STRASSE ist") == "Die Straße ist"


def test_a_long_session_has_only_what_is_letter_for_letter_in_it():
    long = ["word " * SEARCHED_CHARACTERS, "My parcel has not arrived."]
    assert find_words(long, "MY parcel has not") == "My parcel has not"
    assert find_words(long, "My parcel hasn't not arrived") is None


def test_a_long_quote_is_cut():
    quote = find_words(["never " * 100], "never " * 100)
    assert quote is not None
    assert (len(quote), quote[-1]) == (QUOTE_CHARACTERS, "…")


def session(containment: str = "agent") -> ChatSession:
    messages = [("user", "My parcel is late"), ("bot", "Please enter your number"), ("user", "I want a person")]
    return ChatSession.model_validate(
        {
            "session_id": "s",
            "user_id": "u",
            "containment": containment,
            "messages": [{"role": role, "text": text} for role, text in messages],
        }
    )


def labels(**quotes: object) -> SessionLabels:
    return SessionLabels.model_validate({"intent": "late parcel", "summary": "s", **quotes})


def test_an_intent_is_shown_by_the_user_and_an_ending_by_any_side():
    bot = "please enter your number"
    given = labels(intent_quote=bot, transfer_reason_quote=bot, drop_off_location_quote="not there")
    checked = with_checked_quotes(given, session())
    assert {kind: checked.quote(kind) for kind in LabelKind} == {
        LabelKind.INTENT: None,
        LabelKind.TRANSFER_REASON: "Please enter your number",
        LabelKind.DROP_OFF_LOCATION: None,
    }
    assert (checked.intent, checked.summary) == ("late parcel", "s")


@pytest.mark.parametrize("quote", [7, ["words"], {}, "x" * (MAX_QUOTE_CHARACTERS + 1), " \n", None])
def test_a_malformed_quote_costs_no_label(quote: object):
    assert labels(intent_quote=quote).intent_quote is None


@pytest.mark.parametrize(("missing", "warned"), [(0, False), (10, False), (11, True)])
def test_many_missing_quotes_are_a_warning(missing: int, warned: bool):
    warning = warning_of(QuoteCount(100, missing))
    assert warning == ("11 of 100 labels have no quote that is in their session" if warned else "")


def test_a_run_without_labels_has_no_warning():
    assert warning_of(QuoteCount(0, 0)) == ""
