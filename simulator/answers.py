"""Computes completions from prompts by rules over features of the text.

Instructions in the text have no effect, except for words that are to be said before a tool is called.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from typing import Any

from simulator import coaching
from simulator.faults import damaged
from simulator.filling import Filler
from simulator.jobs import Jobs
from simulator.labelling import Noise
from simulator.recalling import Record, asked_about, recalled
from simulator.schemas import Schema
from simulator.seeded import SeededChoice
from simulator.text import clip, keywords, related_sentence
from simulator.tools import Tool, called
from simulator.wire import BYTES_PER_TOKEN, Message, Prompt, Refusal, count_tokens

REASONING_TOKENS = 600
PAIR, CUT = re.compile("[\U00010000-\U0010ffff]"), "\x1f"
SAY = re.compile(r"""\bsay (?P<quote>["'])(?P<words>.+?)(?P=quote)(?!\w)""", re.IGNORECASE)
INTERRUPTED = re.compile(r"\binterrupted\b.*\bcontinue it exactly where it ends\b", re.IGNORECASE)
# A record that a program puts before the user's words, such as a summary: a line that introduces it, and its tags.
RECORD = re.compile(r"^(?P<introduction>[^\n]*)\n<(?P<tag>\w+)>\n(?P<said>.*?)\n</(?P=tag)>\s*", re.DOTALL)
PIECE = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+$")
OPENERS = {
    True: ("You ask about {about}.", "Your question is about {about}.", "On {about}, as you ask:"),
    False: ("You mention {about}.", "I understand that this is about {about}.", "Noted: {about}."),
}


@dataclass(frozen=True)
class Call:
    """A call of a tool, with the JSON text of its arguments."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """A completion. `finish`: stop, tool_calls, length, None if a fault removes the finish reason, or another reason.

    `reasoning_tokens`: the part of the billed output tokens that has no text. `stopped_by`: the stop text that ended
    the text.
    """

    text: str
    finish: str | None
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0
    calls: tuple[Call, ...] = ()
    stopped_by: str | None = None


def pieces(text: str, damage: str = "") -> list[str]:
    """Split a text into words, as a stream delivers it; with a fault in the middle of surrogate pairs."""
    found = PIECE.findall(text)
    if damage != "split_escapes":
        return found
    units = [PAIR.sub(lambda pair: halves(pair[0]), piece) for piece in found]
    return [part for unit in units for part in unit.split(CUT)]


def halves(char: str) -> str:
    """Return the two surrogates of a character, with a mark between them."""
    high, low = divmod(ord(char) - 0x10000, 0x400)
    return f"{chr(0xD800 + high)}{CUT}{chr(0xDC00 + low)}"


class Answers:
    def __init__(self, seed: int, context_window: int, noise: Noise | None = None) -> None:
        self._choice, self._context_window = SeededChoice(seed), context_window
        self._jobs = Jobs(self._choice, noise or Noise())

    def answer(self, prompt: Prompt, damage: str, number: int = 0) -> Answer:
        """Return a completion of a prompt, with the fault that `damage` names. `number`: which of several.

        Raises:
            Refusal: the prompt is longer than the context window.
        """
        input_tokens = prompt.input_tokens
        if input_tokens > self._context_window:
            raise Refusal("context_too_long", tokens=input_tokens)
        if (said := _interrupted(prompt)) is not None:
            return self._rest(prompt, said, damage, number)
        reasoning = _reasoning_tokens(damage, prompt.max_tokens)
        tools = self._called(prompt)
        if tools:
            calls, finish, tokens = self._calls(prompt, tools, damage)
            words = "" if damage == "empty" else _words_before_tools(prompt)
            tokens += count_tokens(words) + reasoning
            return Answer(words, finish, input_tokens, tokens, reasoning, calls)
        choice = SeededChoice(self._choice.seed + prompt.seed + number)
        text, finish = damaged(self._text(prompt, choice), damage, prompt)
        text, stopped_by = _until_stop(text, prompt.stop)
        limited = _first_tokens(text, prompt.max_tokens)
        if len(limited) < len(text):
            text, finish, stopped_by = limited, "length" if finish else None, None
        tokens = count_tokens(text) + reasoning
        return Answer(text, finish, input_tokens, tokens, reasoning, stopped_by=stopped_by)

    def _rest(self, prompt: Prompt, said: str, damage: str, number: int) -> Answer:
        """Return the rest of an answer that was interrupted after `said`; the whole one if it does not begin so."""
        asked = replace(prompt, messages=prompt.messages[:-2], max_tokens=None)
        whole = self.answer(asked, "", number)
        rest, finish = damaged(whole.text.removeprefix(said), damage, prompt)
        limited = _first_tokens(rest, prompt.max_tokens)
        finish = "length" if finish and len(limited) < len(rest) else finish
        finish = whole.finish if whole.calls and finish == "stop" else finish
        calls = whole.calls if finish == whole.finish else ()
        tokens = count_tokens(limited) + sum(count_tokens(call.arguments) for call in calls)
        return Answer(limited, finish, prompt.input_tokens, tokens, calls=calls, stopped_by=whole.stopped_by)

    def _called(self, prompt: Prompt) -> list[Tool]:
        """Return the tools that the answer calls. It follows from results that the last messages bring."""
        if prompt.messages[-1].role == "tool" and prompt.choice.mode == "auto":
            return []
        return called(prompt.tools, prompt.choice, _asked(prompt) or prompt.text)

    def _calls(self, prompt: Prompt, tools: list[Tool], damage: str) -> tuple[tuple[Call, ...], str | None, int]:
        """Return the calls, the finish reason, and the tokens. A call that does not fit is cut, and is the last."""
        calls: list[Call] = []
        finish: str | None = "tool_calls"
        left = prompt.max_tokens
        for tool in tools:
            asked = replace(prompt, schema=dict(tool.schema))
            text, end = damaged(self._text(asked, self._choice), damage, asked)
            arguments = _first_tokens(text, left)
            calls.append(Call(tool.name, arguments))
            finish = finish if end == "stop" else end
            if len(arguments) < len(text):
                finish = "length"
                break
            left = None if left is None else max(left - count_tokens(arguments), 0)
        return tuple(calls), finish, sum(count_tokens(call.arguments) for call in calls)

    def overflow_facts(self, refusal: Refusal) -> dict[str, int]:
        """Return the numbers in the message of a context-length error."""
        tokens = refusal.facts.get("tokens", self._context_window + 1)
        return {"limit": self._context_window, "tokens": tokens}

    def _text(self, prompt: Prompt, choice: SeededChoice) -> str:
        if prompt.schema is None:
            return self._jobs.summary(prompt) or self._chat(prompt, choice)
        reply = self._jobs.reply(prompt)
        if reply is not None:
            return json.dumps(reply, ensure_ascii=False)
        text = "\n".join(prompt.texts("user"))
        each, most = coaching.schema_of_each(prompt.schema), coaching.most_points("\n".join(prompt.texts("system")))
        if each is None:
            return json.dumps(_filled(prompt.schema, text, choice, most), ensure_ascii=False)
        blocks = coaching.blocks(text)
        results = [{"index": index, "coaching": _filled(each, block, choice, most)} for index, block in blocks]
        return json.dumps({"sessions": results}, ensure_ascii=False)

    def _chat(self, prompt: Prompt, choice: SeededChoice) -> str:
        """Answer the last user message, and quote an earlier sentence about the same topic, or what tools gave."""
        if prompt.messages[-1].role == "tool":
            results = [message.text for message in takewhile(_is_result, reversed(prompt.messages))]
            return f'The tools say: "{clip(" ".join(results[::-1]))}". This answer was computed by a simulator.'
        *before, (records, last) = map(_parts, prompt.texts("user") or [""])
        said = [*chain.from_iterable((*others, words) for others, words in before), *records]
        if about := asked_about(last):
            return f"{_stated(recalled(said, about))} This answer was computed by a simulator."
        earlier = [part.said if isinstance(part, Record) else part for part in said]
        about = " and ".join(keywords(last, 2)) or "that"
        is_question = "?" in last
        opener = choice.pick(OPENERS[is_question], last).format(about=about)
        related = related_sentence("\n".join([*prompt.texts("system"), *earlier]), last)
        memory = f' From what was said before: "{related}"' if related else ""
        return f"{opener}{memory} This answer was computed by a simulator from {len(last.split())} words."


def _filled(schema: Schema, text: str, choice: SeededChoice, most_points: int | None) -> Any:
    """Return a reply to a text in the form of a schema, with the findings of coaching if it asks for them."""
    findings = {}
    if coaching.asks_for_coaching(schema):
        findings = coaching.findings(coaching.parse_transcript(text), choice, coaching.skills_of(schema), most_points)
    return Filler(schema, choice, findings).fill(text)


def _parts(text: str) -> tuple[list[Record], str]:
    """The records at the beginning of a user's message, and its words."""
    records: list[Record] = []
    while record := RECORD.match(text):
        records.append(Record(record["introduction"], record["said"]))
        text = text[record.end() :]
    return records, text


def _asked(prompt: Prompt) -> str:
    """The last words of the user, without the records that a program puts before them."""
    return _parts(["", *prompt.texts("user")][-1])[1]


def _stated(values: Sequence[str]) -> str:
    return f"You said: {', '.join(values)}." if values else "You have not said that."


def _reasoning_tokens(damage: str, max_tokens: int | None) -> int:
    """The tokens that a fault spends on reasoning: all of them, or so many beside the text."""
    if damage == "empty":
        return max_tokens or REASONING_TOKENS
    return REASONING_TOKENS if damage == "reasoning_beside" else 0


def _interrupted(prompt: Prompt) -> str | None:
    """Return the assistant's text that the last message asks to continue; None if it asks for something else."""
    *_, said, asked = (Message("", ""), *prompt.messages)
    return said.text if said.role == "assistant" and INTERRUPTED.search(asked.text) else None


def _words_before_tools(prompt: Prompt) -> str:
    """Return what an answer says before it calls tools: what the user has asked it to say, in quotes."""
    asked = SAY.search(_asked(prompt))
    return asked["words"] if asked else ""


def _is_result(message: Message) -> bool:
    return message.role == "tool"


def _until_stop(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """Return the text before the first stop text in it, and that stop text."""
    places = [(place, one) for one in stop if (place := text.find(one)) >= 0]
    if not places:
        return text, None
    place, found = min(places)
    return text[:place], found


def _first_tokens(text: str, limit: int | None) -> str:
    return text if limit is None else text.encode()[: limit * BYTES_PER_TOKEN].decode(errors="ignore")
