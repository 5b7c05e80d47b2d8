"""Which earlier answer may be returned: the cache key of a whole prompt, and when two questions are the same.

The comparison prefers precision to recall. Two questions are the same only if every word is the same, after what makes
no difference is removed: politeness, contractions, punctuation, misspellings of known words, a clause moved to the
other end. What cannot be judged, for example a word of an unknown language, is not a hit.
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
from parley.domain.generate.replies import parsed
from parley.domain.requests import ChatReply, ChatRequest, Finish

# Longer questions usually have several parts.
LONGEST_QUESTION = 300
# Less similar texts are not compared word by word.
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
Wordings = Sequence[tuple[re.Pattern[str], str]]


def _wordings(patterns: Sequence[tuple[str, str]]) -> Wordings:
    return [(re.compile(rf"(?<!\S){pattern}(?!\S)"), same) for pattern, same in patterns]


SAME = _wordings(words.SAME)
SPELLINGS = _wordings((*words.CONTRACTIONS, *words.SPELLING))


def cache_key(workspace_id: str, request: ChatRequest, user_id: str = "") -> str:
    """SHA-256 of everything that decides an answer, except the model.

    user_id: the only user who may get the answer; empty, the default: any user of the workspace.
    """
    return _sha256([workspace_id, request.model_dump(mode="json"), *([user_id] if user_id else [])])


def context_sha256(request: ChatRequest) -> str:
    """SHA-256 of the request without the text of the user's last message. Its images stay: they are never similar."""
    content = request.model_dump(mode="json")
    place = _last_question(request)
    if place is not None:
        content["messages"][place]["content"] = [image.model_dump() for image in request.messages[place].images]
    return _sha256(content)


def question(request: ChatRequest) -> str:
    """The user's last message."""
    place = _last_question(request)
    return "" if place is None else request.messages[place].text


def is_cacheable(request: ChatRequest, reply: ChatReply) -> bool:
    """Whether a reply is a whole answer that follows the schema. Only such answers are cached.

    One that was continued is not: it has a seam. Tool calls are not: each has an effect or reads what changes, and its
    id must be its own in a chat. The text that follows from their results is cached, under a key that covers them.
    """
    if reply.finish is not Finish.STOP or reply.continues or reply.tool_calls or not reply.text.strip():
        return False
    return request.reply_schema is None or not parsed(reply.text, request.reply_schema)[1]


def same_question(one: str, other: str) -> bool:
    """Whether an answer to one is an answer to the other. False if in doubt."""
    first, second = _understood(one), _understood(other)
    return first is not None and second is not None and first.means(second)


def find_same(wanted: str, questions: Sequence[str]) -> list[int]:
    """The positions of the questions that are the same as `wanted`, the most similar first."""
    alike = process.extract(
        wanted,
        questions,
        scorer=fuzz.token_set_ratio,
        processor=str.casefold,
        score_cutoff=ALIKE_PERCENT,
        limit=None,
    )
    return [place for text, _, place in alike if same_question(wanted, text)]


def plain_words(text: str) -> tuple[str, ...] | None:
    """The words of spoken text in one spelling. Politeness is kept.

    Punctuation is a choice of the one who writes speech down, so it is left out. Only "twenty, five" stays two numbers.
    None: it has other letters than Latin ones, and cannot be compared.
    """
    straight = _straight(text)
    if not all(map(_is_latin, straight)):
        return None
    said = _in_lower_case(_without_slips([_unmarked(token) for token in _tokens(straight)]))
    return tuple(_same_wording(" ".join(_numbers(said)), SPELLINGS).split())


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
    """Whether one clause is at the other end, and nothing in the question depends on its position."""
    if len(one) != len(other) or not words.PLACED.isdisjoint(one):
        return False
    return any(
        other == one[cut:] + one[:cut] and not words.MOVABLE.isdisjoint((one[0], one[cut]))
        for cut in range(1, len(one))
    )


@lru_cache(maxsize=4096)
def _understood(text: str) -> _Understood | None:
    """None for a question that cannot be compared: too long, empty, or not in Latin letters."""
    straight = _straight(text)
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


def _straight(text: str) -> str:
    """The text with one form of each letter, quotation mark and dash."""
    return unicodedata.normalize("NFC", text).translate(STRAIGHT)


def _is_latin(char: str) -> bool:
    return not char.isalpha() or unicodedata.name(char, "").startswith("LATIN")


def _tokens(text: str) -> list[str]:
    """Words, numbers and signs. The first word of a sentence is in lower case: its capital has no meaning."""
    found = TOKEN.findall(text)
    dropped = PUNCTUATION if OPERATORS.isdisjoint(found) else PUNCTUATION - BRACKETS
    tokens: list[str] = []
    for before, token, behind in zip(["", *found], found, [*found[1:], ""], strict=False):
        if token not in dropped or (token == DASH and before.isdigit() and behind.isdigit()):
            begins = not before or before in STOPS
            tokens.append(token.lower() if begins and _is_word(token) else token)
        elif token in STOPS and tokens and behind and _changes_meaning(token, tokens[-1], behind):
            tokens[-1] += token
    return tokens


def _is_word(token: str) -> bool:
    """Whether a token is a word. In numbers, codes and paths, case has a meaning."""
    return token.replace("'", "").isalpha()


def _in_lower_case(tokens: Sequence[str]) -> list[str]:
    return [token.lower() if _is_word(token) and token.lower() not in words.CASE_MATTERS else token for token in tokens]


def _changes_meaning(sign: str, before: str, behind: str) -> bool:
    """Whether a sign changes the meaning: "don't, stop", "twenty, five", "call me, Anna"."""
    said = before.lower()
    if said in words.NEGATORS or said.endswith("n't"):
        return True
    if sign == COMMA:
        return said in words.TENS or (behind[0].isupper() and behind != "I")
    return False


def _unmarked(token: str) -> str:
    """The token without a sign that changes the meaning of what is written."""
    word = token.rstrip("".join(STOPS))
    return token if not word or word.lower() in words.TENS else word


def _without_slips(tokens: list[str]) -> list[str]:
    """English misspellings corrected. If there are many, none is corrected: they may not be misspellings."""
    if words.ENGLISH.isdisjoint(map(str.lower, tokens)):
        return tokens
    right = [_spelled(token) for token in tokens]
    slips = sum(one != other for one, other in zip(tokens, right, strict=True))
    return right if slips <= MOST_SLIPS else tokens


@lru_cache(maxsize=4096)
def _spelled(word: str) -> str:
    """The one known word at one edit (a letter inserted, removed, replaced, or two swapped), else the word itself.

    Known words are in lower case, so that names are not corrected.
    """
    if not word.isalpha() or len(word) < SHORTEST_SLIP or word in words.SPELLED or word in words.LOOKALIKES:
        return word
    known = KNOWN_BY_ENDS.get((word[0], word[-1]), ())
    near = [right for right in known if OSA.distance(word, right, score_cutoff=1) == 1]
    doubled = [right for right in near if _single(right) == _single(word)]
    (right,) = doubled if len(doubled) == 1 else near if len(near) == 1 else [word]
    return right if right in words.SPELLED else word


def _single(word: str) -> str:
    """The word with doubled letters reduced to one: the most frequent misspelling."""
    return DOUBLED.sub(r"\1", word)


def _by_ends() -> dict[tuple[str, str], list[str]]:
    """Known words by their first and last letters: misspellings there are rare, and other endings make other words."""
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


def _same_wording(text: str, wordings: Wordings = SAME) -> str:
    for pattern, same in wordings:
        text = " ".join(pattern.sub(same, text).split())
    return text


def _last_question(request: ChatRequest) -> int | None:
    places = [place for place, message in enumerate(request.messages) if message.role == "user"]
    return places[-1] if places else None


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
