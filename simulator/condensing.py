"""Condenses a part of a long chat to the lines that tell what it is about."""

from collections.abc import Sequence

from simulator.chats import Said, chat, request
from simulator.intents import BOOK
from simulator.phrases import words
from simulator.text import clip

WORDS = 150
LINE = 160
AROUND = 8  # words of a long message


def condensed(transcript: str) -> str:
    """The user's lines with words of the lexicon, and how the part ended, as lines of a chat: at most 150 words."""
    said = [Said(message.role, request(message.text)) for message in chat(transcript)]
    asked = [message for message in said if message.role == "user"]
    telling = [Said("user", text) for text in (_telling(message.text) for message in asked) if text]
    users = telling or asked
    last = [message for message in said if message.role != "user"][-1:]
    return "\n".join(_within(users, WORDS - 30) + _within(last, 30)) or "Nothing was said."


def _telling(text: str) -> str:
    """A message with words of the lexicon, of a long one what stands around the first that names a topic."""
    said = words(text)
    hits = BOOK.find(said)
    if not hits or len(text) <= LINE:
        return text if hits else ""
    at = next((hit for hit in hits if hit.value.topic), hits[0]).start
    return " ".join(said[max(at - AROUND, 0) : at + 2 * AROUND])


def _within(messages: Sequence[Said], room: int) -> list[str]:
    """The lines from the first on, as far as there is room for them."""
    lines: list[str] = []
    for message in messages:
        line = f"{message.role}: {clip(message.text, LINE)}"
        room -= len(line.split())
        if room < 0 and lines:
            break
        lines.append(line)
    return lines
