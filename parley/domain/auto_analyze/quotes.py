"""The quote of each label: words of the session, which a reply names as its evidence, checked to be there.

An intent is shown by what the user said; a transfer reason and a drop-off location by what any side said. A quote that
the session does not have is dropped, and counted when the run ends.
"""

from collections.abc import Sequence
from typing import NamedTuple

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.validation import SessionLabels
from parley.domain.chat import ChatSession
from parley.domain.coaching.quotes import Found, find_place
from parley.domain.text import shorten

QUOTE_CHARACTERS = 200
# One word shows nothing, unless it is all that was said.
LEAST_WORDS = 2
# Of a longer session, only quotes that are letter for letter in it are found: looking for near misses takes long.
SEARCHED_CHARACTERS = 8000
# Above this share of the labels, missing quotes are a warning.
TOLERATED_SHARE = 0.1


class QuoteCount(NamedTuple):
    """The labels that replies gave to sessions, and how many of them have no quote."""

    labels: int
    missing: int


def with_checked_quotes(labels: SessionLabels, session: ChatSession) -> SessionLabels:
    """The labels with the quotes that the session has, in the session's own words; the others are None."""
    by_user = [message.text for message in session.messages if message.role == "user"]
    by_all = [message.text for message in session.messages]
    texts = {LabelKind.INTENT: by_user, LabelKind.TRANSFER_REASON: by_all, LabelKind.DROP_OFF_LOCATION: by_all}
    found = {kind.quote_field: find_words(texts[kind], labels.quote(kind)) for kind in LabelKind}
    return labels.model_copy(update=found)


def find_words(texts: Sequence[str], quote: str | None) -> str | None:
    """The words of a text that a quote repeats; None if no text has them. Case, blanks and punctuation do not count."""
    if not quote:
        return None
    for text in texts:
        if found := _as_it_is(text, quote):
            return found
    if sum(map(len, texts)) > SEARCHED_CHARACTERS:
        return None
    place = find_place(texts, quote, least_words=LEAST_WORDS)
    return None if place is None else _words_at(texts, place)


def _as_it_is(text: str, quote: str) -> str | None:
    """The quote as whole words of the text, letter for letter but for case and blanks. Fast: most quotes are found."""
    text, quote = " ".join(text.split()), " ".join(quote.split())
    lower, needle = text.casefold(), quote.casefold()
    at = lower.find(needle)
    if at < 0 or len(lower) != len(text) or (" " not in needle and lower != needle):
        return None
    end = at + len(needle)
    if lower[at - 1 : at].isalnum() or lower[end : end + 1].isalnum():
        return None
    return shorten(text[at:end], QUOTE_CHARACTERS)


def _words_at(texts: Sequence[str], place: Found) -> str:
    return shorten(" ".join(texts[place.turn][place.start : place.end].split()), QUOTE_CHARACTERS)


def warning_of(count: QuoteCount) -> str:
    """The warning about labels without a quote; empty if there are few."""
    if not count.labels or count.missing <= TOLERATED_SHARE * count.labels:
        return ""
    return f"{count.missing} of {count.labels} labels have no quote that is in their session"
