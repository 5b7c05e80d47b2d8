"""The two filters in a row."""

from parley.domain.speech.markup import Markup
from parley.domain.speech.reading import Reading


class SpokenText:
    """Makes speech of a text that arrives in pieces. Any cut of the text gives the same speech, apart from spaces.

    Plain words pass at once, also a part of a word. Held back is only what the next characters can change: a mark, a
    number with what belongs to it, a row of a table.

    language: a BCP 47 code of what the text is written in.
    """

    def __init__(self, language: str = "en-US") -> None:
        self._language = language
        self._markup, self._reading = Markup(language), Reading(language)

    def feed(self, delta: str) -> str:
        """The speech that is certain after the next piece of the text; it may be empty."""
        return self._reading.feed(self._markup.feed(delta))

    def release(self) -> str:
        """Give out what was held back and can be said without what follows: for a text that pauses.

        It never cuts a number, a price, a link or a table: their beginnings say something else than the whole.
        """
        return self._reading.feed(self._markup.release()) + self._reading.release()

    def flush(self) -> str:
        """The rest of the speech: the text has ended. The filter is then ready for another text."""
        said = self._reading.feed(self._markup.flush()) + self._reading.flush()
        self._markup, self._reading = Markup(self._language), Reading(self._language)
        return said


def spoken(text: str, language: str = "en-US") -> str:
    """What a voice should say for a whole text.

    language: a BCP 47 code of what the text is written in.
    """
    filtered = SpokenText(language)
    speech = filtered.feed(text) + filtered.flush()
    lines = (" ".join(line.split()) for line in speech.splitlines())
    return "\n".join(line for line in lines if line)
