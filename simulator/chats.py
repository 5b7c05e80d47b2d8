"""A chat as a prompt shows it: one message a line, its role first."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.text import SENTENCE

LINE = re.compile(r"^(user|bot|agent):[ \t]*", re.MULTILINE)
# Words that are meant for whoever labels the chat. They are no request to the bot, whatever they demand.
TO_THE_READER = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instructions?|labels?|prompts?|rules?|above|previous)\b"
    r"|\b(?:label|classify|categori[sz]e|call|tag|mark) (?:this|these|it|me|everything|all)\b.{0,30}\b(?:as|[A-Z]{3,})"
    r"|\brepeat after me\b|\b(?:in|into) (?:all|every|your) (?:the )?(?:summar|label)"
    r"|\byour (?:new )?(?:instructions?|system prompt|task) (?:is|are)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Said:
    role: str
    text: str


def chat(transcript: str) -> list[Said]:
    """The messages. What stands before the first role, as in a text without any, is taken for the user's."""
    marks = [*LINE.finditer(transcript)]
    ends = [*(mark.start() for mark in marks[1:]), len(transcript)]
    said = [Said(mark[1], transcript[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=False)]
    before = transcript[: marks[0].start()] if marks else transcript
    loose = [Said("user", line.strip()) for line in before.splitlines() if line.strip()]
    return [*loose, *said]


def lines_of(role: str, said: Sequence[Said]) -> list[str]:
    return [message.text for message in said if message.role == role]


def request(text: str) -> str:
    """A message without the sentences that address whoever reads the chat later."""
    if not TO_THE_READER.search(text):
        return text
    return "".join(sentence for sentence in SENTENCE.findall(text) if not TO_THE_READER.search(sentence))
