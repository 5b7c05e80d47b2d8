"""WordPiece, the tokenizer of BERT's uncased models. `wordpieces.txt` is their vocabulary: Google, Apache-2.0.

The library `tokenizers` would bring a client of a model hub, which nothing here needs.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

VOCABULARY = Path(__file__).with_name("wordpieces.txt")
UNKNOWN, BEGIN, END = "[UNK]", "[CLS]", "[SEP]"
CONTINUED = "##"
LONGEST_WORD = 100
# Of a script without blanks, a sentence is one word.
WORDS = re.compile(r"\w+|[^\w\s]")
# The ranges that Unicode's categories do not have: ASCII's symbols count as punctuation, and each Han sign is a word.
SYMBOLS = frozenset("$+<=>^`|~")
HAN = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))


@cache
def vocabulary() -> dict[str, int]:
    """The number of each piece."""
    pieces = VOCABULARY.read_text(encoding="utf-8").split("\n")
    return {piece: number for number, piece in enumerate(pieces) if piece}


def token_ids(text: str, most: int) -> list[int]:
    """The numbers of a text's pieces, between those of its begin and its end; at most `most` together."""
    known = vocabulary()
    found = [known[BEGIN]]
    for word in _words(text):
        found.extend(known[piece] for piece in _pieces(word, known))
        if len(found) >= most:
            break
    return [*found[: most - 1], known[END]]


def pieces_per_word(text: str) -> float:
    """How many pieces a word of the text has, at the mean; 0 without words. The vocabulary has most words of English
    whole, and cuts those of other languages: its fertility (Rust and others 2021, How Good is Your Tokenizer?)."""
    words = WORDS.findall(text)
    known = vocabulary()
    pieces = sum(1 for word in words for part in _words(word) for _ in _pieces(part, known))
    return pieces / len(words) if words else 0.0


def _words(text: str) -> Iterator[str]:
    """Words in lower case without accents, and each sign alone."""
    word = ""
    for char in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(char)
        if kind == "Mn" or (kind.startswith("C") and not char.isspace()) or char == "\ufffd":
            continue
        if char.isspace() or _is_alone(char, kind):
            if word:
                yield word
            word = ""
            if not char.isspace():
                yield char
        else:
            word += char
    if word:
        yield word


def _is_alone(char: str, kind: str) -> bool:
    return kind.startswith("P") or char in SYMBOLS or any(first <= ord(char) <= last for first, last in HAN)


def _pieces(word: str, known: dict[str, int]) -> list[str]:
    """The longest known pieces of a word, from its begin on; unknown as a whole if a part is not known."""
    if len(word) > LONGEST_WORD:
        return [UNKNOWN]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = CONTINUED if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in known), start)
        if end == start:
            return [UNKNOWN]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces
