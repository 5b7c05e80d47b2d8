"""Cuts text to a length."""

from parley.domain.model import storable


def shorten(text: str, characters: int) -> str:
    """At most that many characters of a text; "…" marks that the rest is missing."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def shorten_middle(text: str, characters: int) -> str:
    """About that many characters: the beginning and the end of a text, with a mark where the middle is missing."""
    if len(text) <= characters:
        return text
    tail = characters // 4
    return f"{text[: characters - tail]} [… cut …] {text[-tail:]}"


def one_line(text: object, characters: int) -> str:
    """Text from outside as one storable line for a history, a log or the ledger, at most that many characters."""
    return shorten(" ".join(storable(str(text)).split()), characters)
