"""A stand-in for the text for the ear: it passes every text as it is."""

import re

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class SpokenText:
    """Makes speech of a text that arrives in pieces."""

    def __init__(self, language: str = "en-US") -> None:
        self.language = language

    def feed(self, delta: str) -> str:
        """The speech that is certain after the next piece of the text."""
        return delta

    def release(self) -> str:
        """What was held back and can be said without what follows."""
        return ""

    def flush(self) -> str:
        """The rest of the speech."""
        return ""


def words_as_heard(text: str) -> list[str]:
    """The words of a text as they are heard, in lower case."""
    return WORD.findall(text.lower())
