"""Selects what a model reads of a long transcript: the turns that say the most, within a number of tokens.

A summary by a model would have to read the whole transcript, at the rate of the model that coaches: it costs more than
it saves, and its words cannot be quoted. So rules select whole exchanges, in the transcript's own words:

- the first and the last turns, up to a share of the tokens each, because openings and closings are rated;
- then, one after the other, the pair of neighbouring turns that adds the most per token. A turn adds the rarity of each
  word that no selected turn has (its inverse document frequency over the turns of the session), and one for a question
  and one for a number.

This is the greedy algorithm for budgeted maximum coverage (Khuller, Moss, Naor 1999), as it is used for extractive
summaries (Lin and Bilmes 2010).
"""

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from parley.domain.coaching.contract import Excerpt, TurnRange
from parley.domain.languages import has_blanks
from parley.domain.session import Session, Turn
from parley.domain.tokens import count_tokens

# Beside its text: the time, the role, and a mark of what is left out before it.
LINE_TOKENS = 16
# A longer turn is cut to its beginning and its end.
LONGEST_TURN = 1 / 8
# Of the tokens, for the first turns, and as many for the last ones.
AT_EACH_END = 1 / 8
QUESTION_MARKS = re.compile("[?\u037e\u061f\uff1f]")
NUMBERS = re.compile(r"\d")
WORDS = re.compile(r"\w+")
GAP = "[… cut …]"


def excerpt_of(session: Session, budget_tokens: int) -> Excerpt | None:
    """What is read of a session's transcript within a number of tokens; None: all of it, because it fits."""
    sizes = [count_tokens(turn.text) + LINE_TOKENS for turn in session.turns]
    if sum(sizes) <= budget_tokens:
        return None
    longest = max(int(budget_tokens * LONGEST_TURN), 2 * LINE_TOKENS)
    lines = [
        _Line(min(size, longest), _words(turn, session.language))
        for turn, size in zip(session.turns, sizes, strict=True)
    ]
    selection = _Selection(lines, budget_tokens)
    selection.take_ends()
    selection.take_the_rest()
    kept = sorted(selection.taken)
    return Excerpt(
        budget_tokens=budget_tokens,
        tokens=sum(lines[number].tokens for number in kept),
        transcript_tokens=sum(sizes),
        turns=len(kept),
        transcript_turns=len(session.turns),
        cut=tuple(number for number in kept if sizes[number] > longest),
        longest_turn_tokens=longest,
        left_out=tuple(_left_out(session.turns, selection.taken)),
    )


def cut_to(text: str, tokens: int) -> str:
    """The beginning and the end of a text, about that many tokens, with a mark where the middle is missing."""
    size = count_tokens(text)
    room = tokens - LINE_TOKENS
    if size <= room:
        return text
    characters = len(text) * room // size
    head, tail = characters * 2 // 3, characters // 3
    return f"{text[:head]} {GAP} {text[len(text) - tail :]}"


@dataclass(frozen=True)
class _Line:
    tokens: int
    words: frozenset[str]


@dataclass
class _Selection:
    """The turns that are taken, and the words that they have."""

    lines: Sequence[_Line]
    budget: int
    taken: set[int] = field(default_factory=set)
    spent: int = 0
    known: set[str] = field(default_factory=set)

    def take_ends(self) -> None:
        """Take the first and the last turns, as many as fit their shares."""
        for numbers in (range(len(self.lines)), range(len(self.lines) - 1, -1, -1)):
            limit = self.spent + int(self.budget * AT_EACH_END)
            for number in numbers:
                if number in self.taken or self.spent + self.lines[number].tokens > limit:
                    break
                self._take(number)

    def take_the_rest(self) -> None:
        """Take pairs of turns, always the one that adds the most per token, while they fit.

        What a pair adds only falls as words become known, so a pair is measured again only when it is the best.
        """
        rarity = _rarity(self.lines)
        pairs = [(number, number + 1) for number in range(len(self.lines) - 1)]
        queue = [(-self._gain(pair, rarity), pair) for pair in pairs]
        heapq.heapify(queue)
        while queue:
            _, pair = heapq.heappop(queue)
            gain = self._gain(pair, rarity)
            if queue and gain < -queue[0][0]:
                if gain > 0:
                    heapq.heappush(queue, (-gain, pair))
                continue
            new = [number for number in pair if number not in self.taken]
            if self.spent + sum(self.lines[number].tokens for number in new) <= self.budget:
                for number in new:
                    self._take(number)

    def _take(self, number: int) -> None:
        self.taken.add(number)
        self.spent += self.lines[number].tokens
        self.known |= self.lines[number].words

    def _gain(self, pair: tuple[int, int], rarity: dict[str, float]) -> float:
        """What the turns of a pair that are not taken would add, per token."""
        new = [self.lines[number] for number in pair if number not in self.taken]
        if not new:
            return 0.0
        words = frozenset[str]().union(*(line.words for line in new)) - self.known
        # In order, because the sum of floats depends on it.
        return sum(rarity[word] for word in sorted(words)) / sum(line.tokens for line in new)


def _words(turn: Turn, language: str) -> frozenset[str]:
    """The words of a turn, or its characters in a language without blanks. A question and a number are one more."""
    text = turn.text.casefold()
    words = WORDS.findall(text) if has_blanks(language) else WORDS.findall(" ".join(text))
    marks = [f"?{turn.start}"] if QUESTION_MARKS.search(text) else []
    marks += [f"#{turn.start}"] if NUMBERS.search(text) else []
    return frozenset((*words, *marks))


def _rarity(lines: Sequence[_Line]) -> dict[str, float]:
    """The inverse document frequency of each word over the turns: 1 for a word of one turn, 0 for one of all turns."""
    frequency = Counter(word for line in lines for word in line.words)
    most = math.log(max(len(lines), 2))
    return {word: 1 - math.log(count) / most for word, count in frequency.items()}


def _left_out(turns: Sequence[Turn], taken: set[int]) -> Iterator[TurnRange]:
    """The runs of turns that are not taken."""
    first: int | None = None
    for number in range(len(turns) + 1):
        missing = number < len(turns) and number not in taken
        if missing and first is None:
            first = number
        elif not missing and first is not None:
            yield TurnRange(first=first, last=number - 1, start=turns[first].start, end=turns[number - 1].end)
            first = None
