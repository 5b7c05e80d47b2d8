"""Computes completions from prompts by rules over features of the text. Instructions in the text have no effect."""

import json
import re
from dataclasses import dataclass

from simulator import coaching
from simulator.faults import damaged
from simulator.filling import Filler
from simulator.jobs import Jobs
from simulator.labelling import Noise
from simulator.seeded import SeededChoice
from simulator.text import keywords, related_sentence
from simulator.wire import BYTES_PER_TOKEN, Prompt, Refusal, count_tokens

REASONING_TOKENS = 600
PIECE = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+$")
OPENERS = {
    True: ("You ask about {about}.", "Your question is about {about}.", "On {about}, as you ask:"),
    False: ("You mention {about}.", "I understand that this is about {about}.", "Noted: {about}."),
}


@dataclass(frozen=True)
class Answer:
    """A completion. `finish`: stop, length, None if a fault removes the finish reason, or a reason of no vendor's.

    `reasoning_tokens`: the part of the billed output tokens that has no text.
    """

    text: str
    finish: str | None
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0

    def pieces(self) -> list[str]:
        """Split the text into words, as a stream delivers it."""
        return PIECE.findall(self.text)


class Answers:
    def __init__(self, seed: int, context_window: int, noise: Noise | None = None) -> None:
        self._choice, self._context_window = SeededChoice(seed), context_window
        self._jobs = Jobs(self._choice, noise or Noise())

    def answer(self, prompt: Prompt, damage: str) -> Answer:
        """Return the completion of a prompt, with the fault that `damage` names.

        Raises:
            Refusal: the prompt is longer than the context window.
        """
        input_tokens = prompt.input_tokens
        if input_tokens > self._context_window:
            raise Refusal("context_too_long", tokens=input_tokens)
        text, finish = damaged(self._text(prompt), damage, prompt)
        limited = _first_tokens(text, prompt.max_tokens)
        if len(limited) < len(text):
            text, finish = limited, "length" if finish else None
        reasoning = _reasoning_tokens(damage, prompt.max_tokens)
        return Answer(text, finish, input_tokens, count_tokens(text) + reasoning, reasoning)

    def overflow_facts(self, refusal: Refusal) -> dict[str, int]:
        """Return the numbers in the message of a context-length error."""
        tokens = refusal.facts.get("tokens", self._context_window + 1)
        return {"limit": self._context_window, "tokens": tokens}

    def _text(self, prompt: Prompt) -> str:
        if prompt.schema is None:
            return self._jobs.summary(prompt) or self._chat(prompt)
        reply = self._jobs.reply(prompt)
        if reply is not None:
            return json.dumps(reply, ensure_ascii=False)
        text = "\n".join(prompt.texts("user"))
        findings = {}
        if coaching.asks_for_coaching(prompt.schema):
            findings = coaching.findings(coaching.parse_transcript(text), self._choice)
        return json.dumps(Filler(prompt.schema, self._choice, findings).fill(text), ensure_ascii=False)

    def _chat(self, prompt: Prompt) -> str:
        """Answer the last user message, and quote an earlier sentence about the same topic."""
        *earlier, last = prompt.texts("user") or [""]
        about = " and ".join(keywords(last, 2)) or "that"
        is_question = "?" in last
        opener = self._choice.pick(OPENERS[is_question], last).format(about=about)
        recalled = related_sentence("\n".join([*prompt.texts("system"), *earlier]), last)
        memory = f' From what was said before: "{recalled}"' if recalled else ""
        return f"{opener}{memory} This answer was computed by a simulator from {len(last.split())} words."


def _reasoning_tokens(damage: str, max_tokens: int | None) -> int:
    """The tokens that a fault spends on reasoning: all of them, or so many beside the text."""
    if damage == "empty":
        return max_tokens or REASONING_TOKENS
    return REASONING_TOKENS if damage == "reasoning_beside" else 0


def _first_tokens(text: str, limit: int | None) -> str:
    return text if limit is None else text.encode()[: limit * BYTES_PER_TOKEN].decode(errors="ignore")
