"""Computes completions from prompts: by rules that look at features of the text, never by obeying it."""

import json
import re
from dataclasses import dataclass

from simulator import coaching
from simulator.damage import damaged
from simulator.filling import Filler
from simulator.jobs import Jobs
from simulator.labelling import Noise
from simulator.text import keywords, related_sentence
from simulator.transcript import parse
from simulator.wire import BYTES_PER_TOKEN, Prompt, Refusal, tokens
from simulator.wording import Wording

PIECE = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+$")


@dataclass(frozen=True)
class Answer:
    """A completion. `finish`: stop, length, or None where the end is missing."""

    text: str
    finish: str | None
    input_tokens: int
    output_tokens: int

    def pieces(self) -> list[str]:
        """The text as a stream brings it: word by word."""
        return PIECE.findall(self.text)


class Answers:
    def __init__(self, seed: int, context_window: int, noise: Noise | None = None) -> None:
        self._wording, self._window = Wording(seed), context_window
        self._jobs = Jobs(self._wording, noise or Noise())

    def answer(self, prompt: Prompt, damage: str) -> Answer:
        """The reply to a prompt, with the fault in it that `damage` names."""
        input_tokens = prompt.input_tokens
        if input_tokens > self._window:
            raise Refusal("context_too_long", tokens=input_tokens)
        text, finish = damaged(self._text(prompt), damage, prompt)
        cut = _first_tokens(text, prompt.max_tokens)
        if len(cut) < len(text):
            text, finish = cut, "length" if finish else None
        return Answer(text, finish, input_tokens, tokens(text))

    def overflow(self, refusal: Refusal) -> dict[str, int]:
        """The numbers of a context-length error."""
        return {"limit": self._window, "tokens": refusal.facts.get("tokens", self._window + 1)}

    def _text(self, prompt: Prompt) -> str:
        if prompt.schema is None:
            return self._jobs.summary(prompt) or self._chat(prompt)
        reply = self._jobs.reply(prompt)
        if reply is not None:
            return json.dumps(reply, ensure_ascii=False)
        material = "\n".join(prompt.said_by("user"))
        findings = {}
        if coaching.concerns(prompt.schema):
            findings = coaching.findings(parse(material), self._wording)
        return json.dumps(Filler(prompt.schema, self._wording, findings).fill(material), ensure_ascii=False)

    def _chat(self, prompt: Prompt) -> str:
        """A short answer about the last user message; recalls what was said before about it."""
        *earlier, last = prompt.said_by("user") or [""]
        about = " and ".join(keywords(last, 2)) or "that"
        question = "?" in last
        opener = self._wording.pick(OPENERS[question], last).format(about=about)
        recalled = related_sentence("\n".join([*prompt.said_by("system"), *earlier]), last)
        memory = f' From what was said before: "{recalled}"' if recalled else ""
        return f"{opener}{memory} This answer was computed by a simulator from {len(last.split())} words."


OPENERS = {
    True: ("You ask about {about}.", "Your question is about {about}.", "On {about}, as you ask:"),
    False: ("You mention {about}.", "I understand that this is about {about}.", "Noted: {about}."),
}


def _first_tokens(text: str, limit: int | None) -> str:
    return text if limit is None else text.encode()[: limit * BYTES_PER_TOKEN].decode(errors="ignore")
