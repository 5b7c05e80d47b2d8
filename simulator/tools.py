"""Tools: how a request describes them, and the rule that decides which ones an answer calls."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.text import keywords, mentions


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    schema: Mapping[str, Any]

    @property
    def text(self) -> str:
        """All that a model reads of it."""
        return json.dumps([self.name, self.description, self.schema])

    def fits(self, text: str) -> int:
        """Count how often a text mentions a word of the tool's name, or else of its description."""
        named = self.name.replace("-", "_").split("_")
        in_name = sum(mentions(text, word) for word in named if len(word) > 3)
        return in_name or sum(mentions(text, word) for word in keywords(self.description, 5))


@dataclass(frozen=True)
class ToolChoice:
    """Whether an answer calls tools: `auto`, `none`, `required`, or the `name` of the one tool. `parallel`: several."""

    mode: str = "auto"
    name: str | None = None
    parallel: bool = True


def called(tools: Sequence[Tool], choice: ToolChoice, text: str) -> list[Tool]:
    """Return the tools that an answer to `text` calls: those that it mentions, the best fit first."""
    if choice.name:
        return [tool for tool in tools if tool.name == choice.name]
    if choice.mode == "none":
        return []
    fitting = sorted((tool for tool in tools if tool.fits(text)), key=lambda tool: -tool.fits(text))
    if not fitting and choice.mode == "required":
        fitting = list(tools[:1])
    return fitting if choice.parallel else fitting[:1]
