"""Parses a chat in a prompt: one message per line, with its role first."""

import re
from collections.abc import Sequence

from simulator.text import SENTENCE
from simulator.wire import Message

LINE = re.compile(r"^(user|bot|agent):[ \t]*", re.MULTILINE)
# Prompt injections: sentences that address the model that labels the chat. They are not requests to the bot.
INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instructions?|labels?|prompts?|rules?|above|previous)\b"
    r"|\b(?:label|classify|categori[sz]e|call|tag|mark) (?:this|these|it|me|everything|all)\b.{0,30}\b(?:as|[A-Z]{3,})"
    r"|\brepeat after me\b|\b(?:in|into) (?:all|every|your) (?:the )?(?:summar|label)"
    r"|\byour (?:new )?(?:instructions?|system prompt|task) (?:is|are)\b",
    re.IGNORECASE,
)


def parse_chat(transcript: str) -> list[Message]:
    """Return the messages. Lines before the first role, or of a text without roles, are the user's."""
    starts = [*LINE.finditer(transcript)]
    ends = [*(start.start() for start in starts[1:]), len(transcript)]
    messages = [
        Message(start[1], transcript[start.end() : end].strip()) for start, end in zip(starts, ends, strict=False)
    ]
    before = transcript[: starts[0].start()] if starts else transcript
    without_role = [Message("user", line.strip()) for line in before.splitlines() if line.strip()]
    return [*without_role, *messages]


def texts_of(role: str, messages: Sequence[Message]) -> list[str]:
    return [message.text for message in messages if message.role == role]


def without_injections(text: str) -> str:
    """Return a message without the sentences that address the model that reads the chat."""
    if not INJECTION.search(text):
        return text
    return "".join(sentence for sentence in SENTENCE.findall(text) if not INJECTION.search(sentence))
