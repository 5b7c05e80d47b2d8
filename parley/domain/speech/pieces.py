"""A filter for a text that arrives in pieces.

A subclass reads one token after the other, and only if no further text could make another token of it. So the result
does not depend on where the text is cut.
"""

import re
from typing import NamedTuple


class Step(NamedTuple):
    """A token: where it ends, and what is said for it."""

    end: int
    said: str = ""


class PieceFilter:
    """The loop of a filter. `_next` reads the token at `_at`; None: what is held may begin another one."""

    def __init__(self) -> None:
        self._text = ""
        self._at: int = 0
        self._is_final = False

    def feed(self, delta: str) -> str:
        """What is certain after the next piece."""
        self._text, self._at = self._text[self._at :] + delta, 0
        said: list[str] = []
        while self._at < len(self._text) and (step := self._next()):
            self._at = step.end
            said.append(step.said)
        return "".join(said)

    def flush(self) -> str:
        """The rest: the text has ended."""
        self._is_final = True
        return self.feed("") + self._ended()

    def _next(self) -> Step | None:
        raise NotImplementedError

    def _ended(self) -> str:
        """What is said after the last token."""
        return ""

    def _is_cut(self, position: int) -> bool:
        """Whether what follows this position has not arrived yet."""
        return position >= len(self._text) and not self._is_final

    def _run(self, pattern: re.Pattern[str], position: int) -> int:
        """Where the characters of a pattern end that begin at this position. The pattern also matches nothing."""
        found = pattern.match(self._text, position)
        return found.end() if found else position
