"""Which answer given before may be given again: the key of a whole prompt, and when two questions are the same one.

Questions are compared for precision. Two of them are the same only if, after what is known to make no difference
(politeness, contractions, punctuation, slips of the pen in known words, a clause moved to the other end), every word is
the same. So what cannot be judged, a word of an unknown language for one, is no hit.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

from parley.domain.generate import words
from parley.domain.generate.parsing import parsed
from parley.domain.requests import ChatReply, ChatRequest, Finish

# Longer ones say more than one thing.
LONGEST_QUESTION = 300
# Texts less alike are not looked at closely.
ALIKE_PERCENT = 60
SHORTEST_SLIP = 5
MOST_SLIPS = 2

TOKEN = re.compile(
    r"""
      [\w.+-]+@[\w-]+\.[\w.-]*\w      # an e-mail address
    | \w+://\S*[\w/]                  # a URL
    | [^\W\d]+(?:'[^\W\d]+)+          # a contraction
    | [+-]?\d+(?:[.,:/-]\d+)*         # a number, a time, a date
    | \w+(?:[._/\\#@:]+\w+)+          # a path, a file, an identifier
    | \w+                             # a word
    | [^\w\s]                         # a sign
    """,
    re.VERBOSE,
)
# Signs that only structure a sentence. Any other, as % or €, is a word, and in a formula brackets are.
PUNCTUATION = frozenset(".,;:!?¿¡\"'()[]…-")
BRACKETS = frozenset("()[]")
OPERATORS = frozenset("+*/=^<>")
DASH, COMMA = "-", ","
STOPS = frozenset(".,;:!?-")
STRAIGHT = str.maketrans(dict.fromkeys("’‘´`", "'") | dict.fromkeys("“”„«»", '"') | dict.fromkeys("‐‑‒–—−", "-"))
QUOTED = re.compile(r"\"([^\"]*)\"|(?<!\w)'([^']*)'(?!\w)")
DOUBLED = re.compile(r"(.)\1+")
SAME = tuple((re.compile(rf"(?<!\S){pattern}(?!\S)"), same) for pattern, same in words.SAME)


def cache_key(workspace_id: str, request: ChatRequest) -> str:
    """SHA-256 of everything that decides an answer, except who gives it."""
    return _sha256([workspace_id, request.model_dump(mode="json")])


def context_sha256(request: ChatRequest) -> str:
    """SHA-256 of everything but the last thing that the user said."""
    asked = request.model_dump(mode="json")
    place = _last_question(request)
    if place is not None:
        asked["messages"][place]["content"] = None
    return _sha256(asked)


def question(request: ChatRequest) -> str:
    """The last thing that the user said."""
    place = _last_question(request)
    return "" if place is None else request.messages[place].content


def worth_keeping(request: ChatRequest, reply: ChatReply) -> bool:
    """Whether a reply is a whole answer that follows the schema. Others are never given again."""
    if reply.finish is not Finish.STOP or not reply.text.strip():
        return False
    return request.response_schema is None or not parsed(reply.text, request.response_schema)[1]


def same_question(one: str, other: str) -> bool:
    """Whether an answer to one is an answer to the other. If in doubt, no."""
    first, second = _understood(one), _understood(other)
    return first is not None and second is not None and first.means(second)


def find_same(asked: str, questions: Sequence[str]) -> list[int]:
    """The places of those questions that are the same as the one asked, the most alike first."""
    alike = process.extract(
        asked,
        questions,
        scorer=fuzz.token_set_ratio,
        processor=str.casefold,
        score_cutoff=ALIKE_PERCENT,
        limit=None,
    )
    return [place for text, _, place in alike if same_question(asked, text)]


@dataclass(frozen=True)
class _Understood:
    """A question without what makes no difference."""

    words: tuple[str, ...]
    quoted: tuple[str, ...]
    asks: bool

    def means(self, other: "_Understood") -> bool:
        alike = self.words == other.words or _is_moved(self.words, other.words)
        return alike and self.quoted == other.quoted and self.asks == other.asks


def _is_moved(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether a clause stands at the other end, and nothing in the question depends on its place."""
    if len(one) != len(other) or not words.PLACED.isdisjoint(one):
        return False
    return any(
        other == one[cut:] + one[:cut] and not words.MOVABLE.isdisjoint((one[0], one[cut]))
        for cut in range(1, len(one))
    )


@lru_cache(maxsize=4096)
def _understood(text: str) -> _Understood | None:
    """None for what cannot be judged: too long, empty, or in letters of which we know too little."""
    straight = unicodedata.normalize("NFC", text).translate(STRAIGHT)
    if len(straight) > LONGEST_QUESTION or not all(map(_is_latin, straight)):
        return None
    said = _in_lower_case(_without_slips(_tokens(straight)))
    spoken = _same_wording(" ".join(_numbers(said))).split()
    ordered = spoken[:1] == ["order!"]
    plain = tuple(spoken[ordered:])
    if not plain:
        return None
    asks = plain[0] in words.ASKING or ("?" in straight and not ordered)
    return _Understood(plain, tuple(map("".join, QUOTED.findall(straight))), asks)


def _is_latin(char: str) -> bool:
    return not char.isalpha() or unicodedata.name(char, "").startswith("LATIN")


def _tokens(text: str) -> list[str]:
    """Words, numbers and signs. What begins a sentence is in lower case: its capital says nothing."""
    found = TOKEN.findall(text)
    dropped = PUNCTUATION if OPERATORS.isdisjoint(found) else PUNCTUATION - BRACKETS
    tokens: list[str] = []
    for before, token, behind in zip(["", *found], found, [*found[1:], ""], strict=False):
        if token not in dropped or (token == DASH and before.isdigit() and behind.isdigit()):
            begins = not before or before in STOPS
            tokens.append(token.lower() if begins and _is_word(token) else token)
        elif token in STOPS and tokens and behind and _says_something(token, tokens[-1], behind):
            tokens[-1] += token
    return tokens


def _is_word(token: str) -> bool:
    """As opposed to a number, a code, a path: there, case says something."""
    return token.replace("'", "").isalpha()


def _in_lower_case(tokens: Sequence[str]) -> list[str]:
    return [token.lower() if _is_word(token) and token.lower() not in words.CASE_MATTERS else token for token in tokens]


def _says_something(sign: str, before: str, behind: str) -> bool:
    """Whether a sign changes what is said: "don't, stop", "twenty, five", "call me, Anna"."""
    said = before.lower()
    if said in words.NEGATORS or said.endswith("n't"):
        return True
    if sign == COMMA:
        return said in words.TENS or (behind[0].isupper() and behind != "I")
    return False


def _without_slips(tokens: list[str]) -> list[str]:
    """Slips of the pen put right, in English. Where there are many, none is: they may be no slips."""
    if words.ENGLISH.isdisjoint(map(str.lower, tokens)):
        return tokens
    right = [_spelled(token) for token in tokens]
    slips = sum(one != other for one, other in zip(tokens, right, strict=True))
    return right if slips <= MOST_SLIPS else tokens


@lru_cache(maxsize=4096)
def _spelled(word: str) -> str:
    """The one known word that is a slip away (a letter too many, too few, another, two swapped), else the word.

    Known ones are in lower case, so a name is none of them.
    """
    if not word.isalpha() or len(word) < SHORTEST_SLIP or word in words.SPELLED or word in words.LOOKALIKES:
        return word
    known = KNOWN_BY_ENDS.get((word[0], word[-1]), ())
    near = [right for right in known if OSA.distance(word, right, score_cutoff=1) == 1]
    doubled = [right for right in near if _single(right) == _single(word)]
    (right,) = doubled if len(doubled) == 1 else near if len(near) == 1 else [word]
    return right if right in words.SPELLED else word


def _single(word: str) -> str:
    """Each letter once where it is doubled: the slip that is made most."""
    return DOUBLED.sub(r"\1", word)


def _by_ends() -> dict[tuple[str, str], list[str]]:
    """Known words by their first and last letters: slips there are rare, and other endings make other words."""
    found: dict[tuple[str, str], list[str]] = {}
    for word in words.SPELLED | words.LOOKALIKES:
        found.setdefault((word[0], word[-1]), []).append(word)
    return found


KNOWN_BY_ENDS = _by_ends()


def _numbers(tokens: Sequence[str]) -> list[str]:
    """Numbers up to ninety-nine in digits."""
    numbers: list[str] = []
    for before, token in zip(["", *tokens], tokens, strict=False):
        unit = words.UNITS.get(token)
        if unit and unit < 10 and before in words.TENS:
            numbers[-1] = str(words.TENS[before] + unit)
        else:
            numbers.append(str(words.TENS.get(token, token) if unit is None else unit))
    return numbers


def _same_wording(text: str) -> str:
    for pattern, same in SAME:
        text = " ".join(pattern.sub(same, text).split())
    return text


def _last_question(request: ChatRequest) -> int | None:
    places = [place for place, message in enumerate(request.messages) if message.role == "user"]
    return places[-1] if places else None


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
