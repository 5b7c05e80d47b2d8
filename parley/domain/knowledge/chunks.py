"""Cuts a document into passages: short enough for a prompt and a vector, with the headings above them."""

import re
from collections.abc import Iterable, Iterator

from parley.domain.errors import InvalidInput
from parley.domain.knowledge.documents import Document
from parley.domain.model import Model, is_blank
from parley.domain.text import shorten

# About 200 tokens of English: what the model of vectors reads of a text.
CHUNK_CHARACTERS = 900
HEADING_CHARACTERS = 300
MOST_CHUNKS = 10_000
BETWEEN_HEADINGS = " › "
PARAGRAPH = re.compile(r"\n[ \t]*\n+")
SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\n+")


class Chunk(Model):
    """A passage of a document. `number`: its place, from 1. `heading`: the headings above it."""

    number: int
    heading: str
    text: str


def chunks_of(document: Document) -> list[Chunk]:
    """The passages of a document in their order.

    Raises:
        InvalidInput: it has too many.
    """
    found: list[Chunk] = []
    for section in document.sections:
        heading = shorten(BETWEEN_HEADINGS.join(section.headings), HEADING_CHARACTERS)
        for text in _packed(_pieces(section.text)):
            found.append(Chunk(number=len(found) + 1, heading=heading, text=text))
    if len(found) > MOST_CHUNKS:
        raise InvalidInput(f"has {len(found):,} passages; at most {MOST_CHUNKS:,} are allowed: split it")
    return found


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """The parts that stay whole, each with what joins it to the one before: paragraphs, else sentences, else words."""
    for paragraph in PARAGRAPH.split(text):
        lines = "\n".join(" ".join(line.split()) for line in paragraph.split("\n")).strip()
        if is_blank(lines):
            continue
        if len(lines) <= CHUNK_CHARACTERS:
            yield "\n\n", lines
            continue
        for at, sentence in enumerate(filter(None, SENTENCE.split(lines))):
            yield from _short(sentence, "\n\n" if at == 0 else " ")


def _short(sentence: str, joint: str) -> Iterator[tuple[str, str]]:
    while len(sentence) > CHUNK_CHARACTERS:
        cut = sentence.rfind(" ", 0, CHUNK_CHARACTERS)
        cut = CHUNK_CHARACTERS if cut <= 0 else cut
        yield joint, sentence[:cut]
        sentence, joint = sentence[cut:].lstrip(), " "
    if sentence:
        yield joint, sentence


def _packed(pieces: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Pieces joined while they are short enough together."""
    text = ""
    for joint, piece in pieces:
        if text and len(text) + len(joint) + len(piece) > CHUNK_CHARACTERS:
            yield text
            text = ""
        text = f"{text}{joint}{piece}" if text else piece
    if text:
        yield text
