"""Features of plain text: keywords, sentences, and the entries of a list."""

import re
from collections import Counter
from dataclasses import dataclass

WORD = re.compile(r"[^\W\d_][\w'-]+")
SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
CLIP = 120
FIRST_WORDS = 20

STOP_WORDS = frozenset(
    """a about above after again all also am an and any are as at be because been before being below
    between both but by can could did do does doing don't down during each for from further get give
    had has have having he her here hers him his how i i'd i'll i'm i've if in into is it it's its
    itself just know let like me more most my no nor not now of off on once one only or other our
    out over own please same say says she should so some such tell than that that's the their them
    then there these they this those through to too under until up us user very was we were what
    when where which while who whom why will with would yes you you're your agent assistant customer
    """.split()  # noqa: SIM905 (a list of a hundred and fifty literals reads worse)
)


def clip(text: str, length: int = CLIP) -> str:
    """Return the text on one line, cut with an ellipsis to at most `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def first_words(text: str) -> str:
    """Return the words of the first sentence that is more than a word or two, at most `FIRST_WORDS`, as they are."""
    sentences = [found[0] for found in SENTENCE.finditer(text) if len(found[0].split()) > 2]
    return " ".join((sentences[0] if sentences else text).split()[:FIRST_WORDS])


def sentence_with(text: str, cue: re.Pattern[str]) -> str:
    """Return the sentence in which the first match of a cue begins, or the whole text if there is none."""
    match = cue.search(text)
    at = match.start() if match else -1
    return next((found[0] for found in SENTENCE.finditer(text) if found.start() <= at < found.end()), text)


def keywords(text: str, count: int) -> list[str]:
    """Return the most frequent words that are not stop words. Equally frequent words keep their order."""
    words = (word.lower() for word in WORD.findall(text))
    frequent = Counter(word for word in words if word not in STOP_WORDS and len(word) > 2)
    return [word for word, _ in frequent.most_common(count)]


def mentions(text: str, phrase: str) -> int:
    """Count how often the words of a phrase occur in a text."""
    found = Counter(word.lower() for word in WORD.findall(text))
    return sum(found[word.lower()] for word in WORD.findall(phrase.replace("_", " ")))


def related_sentence(text: str, question: str) -> str | None:
    """Return the sentence that shares most keywords with a question, or None if no sentence shares any."""
    question_words = set(keywords(question, 20))
    best, shared = None, 0
    for sentence in SENTENCE.findall(text):
        overlap = len(question_words & set(keywords(sentence, 50)))
        if overlap > shared:
            best, shared = clip(sentence), overlap
    return best


@dataclass(frozen=True)
class Entry:
    """One item of a list in a prompt: its id and the text up to the next item."""

    id: str
    text: str


ENTRY_STYLES = (
    re.compile(r"<\w+\s[^<>]*?\bid=[\"']([^\"']+)[\"'][^<>]*>"),
    re.compile(r"[\"'](?:\w+_)?id[\"']\s*:\s*[\"']?([\w.:-]+)[\"']?"),
    re.compile(r"^\W*(?:\w+[_ ])?id\s*[:=]\s*[\"']?([\w.:-]+)", re.IGNORECASE | re.MULTILINE),
    re.compile(r"^\s*(?:[-*]\s*)?\[((?=[^\]\s]*[A-Za-z])[^\]\s]{2,})\]", re.MULTILINE),
    re.compile(r"^#+\s*(?:session|chat|conversation)\s+([\w.:-]+)", re.IGNORECASE | re.MULTILINE),
)


def list_entries(text: str) -> list[Entry]:
    """Return the items that a prompt lists by id, in the style that it uses most. Each id occurs once."""
    matches = max(([*style.finditer(text)] for style in ENTRY_STYLES), key=len)
    if not matches:
        return []
    ends = [match.start() for match in matches[1:]] + [len(text)]
    found = (Entry(match[1], text[match.end() : end]) for match, end in zip(matches, ends, strict=True))
    return list({entry.id: entry for entry in found}.values())
