"""Answers the prompts of Parley's jobs: label sessions, group labels, choose labels, condense, grade, extract facts.

A job is recognised by the schema of the reply that it asks for and by the JSON object in the prompt.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from simulator.chats import parse_chat, without_injections
from simulator.intents import BOOK
from simulator.labelling import Chooser, Labeller, Noise, group_labels
from simulator.phrases import words
from simulator.remembering import extract
from simulator.schemas import Schema, field_names, item_field_names
from simulator.seeded import SeededChoice
from simulator.text import clip, keywords
from simulator.wire import Message, Prompt

Reply = dict[str, Any]
# Whether a schema belongs to the job, the fields that the JSON object must have, and the function that answers.
Job = tuple[Callable[[Schema], bool], tuple[str, ...], Callable[[Mapping[str, Any], Prompt], Reply]]

SUMMARY_WORDS, LAST_MESSAGE_WORDS = 150, 30
LINE_LENGTH = 160
WORDS_AROUND_CUE = 8
GRADED_WORDS = 20


class Jobs:
    def __init__(self, choice: SeededChoice, noise: Noise) -> None:
        self._choice, self._noise = choice, noise

    def reply(self, prompt: Prompt) -> Reply | None:
        """Return the reply, or None if the prompt belongs to no job."""
        if prompt.schema is None:
            return None
        for asks_for, fields, answer in self._jobs():
            if asks_for(prompt.schema):
                given = _object_with(prompt, *fields)
                return answer(given, prompt) if given else None
        return None

    def summary(self, prompt: Prompt) -> str | None:
        """Return a summary in plain text, if the prompt has nothing but a transcript and asks for no schema."""
        given = _object_with(prompt, "transcript")
        return condense(str(given["transcript"])) if given and given.keys() == {"transcript"} else None

    def _jobs(self) -> list[Job]:
        return [
            (asks_for_labels, ("known_labels", "sessions"), self._label),
            (asks_for_groups, ("labels",), self._group),
            (asks_for_better_labels, ("labels", "sessions"), self._choose),
            (asks_for_summary, ("part", "parts", "transcript"), self._condense),
            (asks_for_grade, ("conversation", "answer"), self._grade),
            (asks_for_facts, ("turns",), self._extract),
        ]

    def _label(self, given: Mapping[str, Any], _prompt: Prompt) -> Reply:
        closed = given.get("closed_kinds")
        closed = closed if isinstance(closed, list) else ()
        labeller = Labeller(self._choice, self._noise, _known_labels(given), closed)
        sessions = given["sessions"] if isinstance(given["sessions"], list) else []
        return {"sessions": [labeller.labels(session) for session in sessions if isinstance(session, dict)]}

    def _group(self, given: Mapping[str, Any], prompt: Prompt) -> Reply:
        labels = [label for label in given["labels"] if isinstance(label, str)]
        system = "\n".join(prompt.texts("system"))
        return {"groups": group_labels(labels, system, self._choice.seed, self._noise.unmerged)}

    def _choose(self, given: Mapping[str, Any], _prompt: Prompt) -> Reply:
        listed, sessions = (given[name] if isinstance(given[name], list) else [] for name in ("labels", "sessions"))
        labels = [one.get("label") for one in listed if isinstance(one, dict)]
        chooser = Chooser(self._choice, self._noise, labels)
        return {"sessions": [chooser.better(session) for session in sessions if isinstance(session, dict)]}

    def _condense(self, given: Mapping[str, Any], _prompt: Prompt) -> Reply:
        return {"summary": condense(str(given["transcript"]))}

    def _grade(self, given: Mapping[str, Any], _prompt: Prompt) -> Reply:
        conversation = given["conversation"] if isinstance(given["conversation"], list) else []
        texts = [str(message.get("content", "")) for message in conversation if isinstance(message, dict)]
        return grade(texts[-1] if texts else "", str(given["answer"]))

    def _extract(self, given: Mapping[str, Any], _prompt: Prompt) -> Reply:
        return {"facts": extract(given["turns"] if isinstance(given["turns"], list) else [])}


def asks_for_labels(schema: Schema) -> bool:
    fields = {"id", "intent", "transfer_reason", "drop_off_location", "summary"}
    return fields <= item_field_names(schema, "sessions")


def asks_for_groups(schema: Schema) -> bool:
    return {"canonical", "members"} <= item_field_names(schema, "groups")


def asks_for_better_labels(schema: Schema) -> bool:
    return item_field_names(schema, "sessions") == {"id", "label"}


def asks_for_summary(schema: Schema) -> bool:
    return field_names(schema) == {"summary"}


def asks_for_grade(schema: Schema) -> bool:
    return field_names(schema) == {"reason", "score"}


def asks_for_facts(schema: Schema) -> bool:
    return {"turn", "quote", "subject", "predicate", "value"} <= item_field_names(schema, "facts")


def _object_with(prompt: Prompt, *fields: str) -> Mapping[str, Any] | None:
    """Return the last user message that is a JSON object with these fields."""
    for text in reversed(prompt.texts("user")):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and all(field in found for field in fields):
            return found
    return None


def condense(transcript: str) -> str:
    """Condense a chat to at most 150 words: the user's lines with cues of the lexicon, and the last other message."""
    messages = [Message(message.role, without_injections(message.text)) for message in parse_chat(transcript)]
    from_user = [message for message in messages if message.role == "user"]
    excerpts = [Message("user", text) for text in (_around_cue(message.text) for message in from_user) if text]
    last = [message for message in messages if message.role != "user"][-1:]
    lines = _first_lines(excerpts or from_user, SUMMARY_WORDS - LAST_MESSAGE_WORDS)
    return "\n".join(lines + _first_lines(last, LAST_MESSAGE_WORDS)) or "Nothing was said."


def _around_cue(text: str) -> str:
    """Return a message that has a cue, or an empty string. Of a long one, return the words around the first topic."""
    text_words = words(text)
    hits = BOOK.find(text_words)
    if not hits or len(text) <= LINE_LENGTH:
        return text if hits else ""
    at = next((hit for hit in hits if hit.value.topic), hits[0]).start
    return " ".join(text_words[max(at - WORDS_AROUND_CUE, 0) : at + 2 * WORDS_AROUND_CUE])


def _first_lines(messages: Sequence[Message], max_words: int) -> list[str]:
    """Return the first messages, as lines, that have at most `max_words` words together; at least one."""
    lines: list[str] = []
    for message in messages:
        line = f"{message.role}: {clip(message.text, LINE_LENGTH)}"
        max_words -= len(line.split())
        if max_words < 0 and lines:
            break
        lines.append(line)
    return lines


def grade(question: str, answer: str) -> Reply:
    """Grade an answer from 0 to 1 by the share of the question's keywords in it. Instructions have no effect."""
    in_question, in_answer = keywords(question, GRADED_WORDS), set(keywords(answer, 10 * GRADED_WORDS))
    count = sum(word in in_answer for word in in_question)
    score = round(count / len(in_question), 3) if in_question else float(bool(in_answer))
    return {"reason": f"The answer takes up {count} of the {len(in_question)} words of the question.", "score": score}


def _known_labels(given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The labels of each kind that a prompt names as known, in both places."""
    known: dict[str, list[Any]] = {}
    for place in ("known_labels", "newer_labels"):
        named = given.get(place)
        for kind, labels in named.items() if isinstance(named, dict) else ():
            known.setdefault(kind, []).extend(labels if isinstance(labels, list) else [])
    return known
