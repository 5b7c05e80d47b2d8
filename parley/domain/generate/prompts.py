"""Prompt templates by name and version, and how their placeholders are filled in."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import Field

from parley.domain.auto_analyze.prompts import (
    CLOSED_LABEL_SYSTEM,
    CONDENSE_SYSTEM,
    LABEL_SYSTEM,
    REASSIGN_SYSTEM,
    RESOLVE_SYSTEM,
)
from parley.domain.coaching.prompts import SYSTEM as COACHING_SYSTEM
from parley.domain.conversation.extraction import SYSTEM as EXTRACTION_SYSTEM
from parley.domain.errors import InvalidInput
from parley.domain.generate.quality import SYSTEM as QUALITY_SYSTEM
from parley.domain.model import Model
from parley.domain.text import shorten

PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
INLINE_CHARACTERS = 200
BLOCK_CHARACTERS = 4000
QUOTES = str.maketrans(dict.fromkeys('"“”„«»', "'"))
TAGS = str.maketrans("<>", "‹›")


class Placeholder(Model):
    """A variable of a template. `neutral`: the text where there is no value. `block`: the value has several lines."""

    about: str
    neutral: str
    block: bool = False


# The names of `domain.configuration.variables`.
PLACEHOLDERS = {
    "company": Placeholder(about="the company's name", neutral="the company that you write for"),
    "company_description": Placeholder(about="what it does", neutral="Not described.", block=True),
    "industry": Placeholder(about="its industry", neutral="not stated"),
    "brand_voice": Placeholder(about="how it sounds", neutral="clear and friendly"),
    "products": Placeholder(about="what it sells", neutral="None are listed: name and promise none.", block=True),
    "funnels": Placeholder(about="the steps that its customers take", neutral="Not described.", block=True),
    "workspace": Placeholder(about="the name that its messages appear under", neutral="the company's own"),
    "tagline": Placeholder(about="its tagline", neutral="none"),
    "signature": Placeholder(about="how its messages sign off", neutral="none, so do not sign off"),
    "instructions": Placeholder(about="how its AI should behave", neutral="Nothing in particular.", block=True),
    "avoid": Placeholder(about="words and claims not to use", neutral="Nothing in particular.", block=True),
    "tone": Placeholder(about="the tone that the user likes", neutral="friendly"),
    "style": Placeholder(about="the style that the user likes", neutral="concise"),
    "language": Placeholder(about="the language to answer in", neutral="the language of the last message"),
}


class Template(Model):
    """A prompt. `job`: the workflow that fills it in; empty if `Generate` may use it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(ge=1)
    purpose: str
    text: str
    job: str = ""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names of its placeholders, in order."""
        return tuple(dict.fromkeys(PLACEHOLDER.findall(self.text)))


# The texts are in the modules that fill them in. Increase the version here when a text changes.
OF_JOBS = (
    Template(
        name="session_analysis",
        version=4,
        purpose="Coaches a user on one recorded session.",
        text=COACHING_SYSTEM,
        job="SessionAnalysis",
    ),
    Template(
        name="auto_analyze_classification",
        version=3,
        purpose="Labels a batch of chat sessions.",
        text=LABEL_SYSTEM,
        job="AutoAnalyze",
    ),
    Template(
        name="auto_analyze_closed_classification",
        version=1,
        purpose="Labels a batch of chat sessions with a fixed list of labels.",
        text=CLOSED_LABEL_SYSTEM,
        job="AutoAnalyze",
    ),
    Template(
        name="auto_analyze_condensing",
        version=1,
        purpose="Condenses a part of a very long chat.",
        text=CONDENSE_SYSTEM,
        job="AutoAnalyze",
    ),
    Template(
        name="auto_analyze_resolution",
        version=2,
        purpose="Finds labels that mean the same.",
        text=RESOLVE_SYSTEM,
        job="AutoAnalyze",
    ),
    Template(
        name="auto_analyze_second_look",
        version=2,
        purpose="Checks labels that are in doubt.",
        text=REASSIGN_SYSTEM,
        job="AutoAnalyze",
    ),
    Template(
        name="quality_scoring",
        version=1,
        purpose="Grades an answer.",
        text=QUALITY_SYSTEM,
        job="ScoreQuality",
    ),
    Template(
        name="memory_extraction",
        version=1,
        purpose="Extracts facts from a user's turns.",
        text=EXTRACTION_SYSTEM,
        job="Conversation",
    ),
)


@cache
def templates() -> tuple[Template, ...]:
    """All templates, by name and then by version."""
    written = tomllib.loads(files("parley.domain.generate").joinpath("prompts.toml").read_text(encoding="utf-8"))
    own = [_written(entry, written["grounding"]) for entry in written["template"]]
    return tuple(sorted((*own, *OF_JOBS), key=lambda one: (one.name, one.version)))


def _written(entry: dict[str, Any], grounding: str) -> Template:
    entry = dict(entry)
    text = entry.pop("text").strip()
    ending = f"\n\n{grounding.strip()}" if entry.pop("grounded", False) else ""
    return Template(**entry, text=text + ending)


def template(name: str) -> Template:
    """A template by `name`, in its newest version, or by `name@version`.

    Raises:
        InvalidInput: it does not exist; the message lists those that do.
    """
    wanted, _, version = name.partition("@")
    versions = {str(one.version): one for one in templates() if one.name == wanted}
    if not versions:
        known = ", ".join(dict.fromkeys(one.name for one in templates()))
        raise InvalidInput(f"there is no prompt {wanted!r}; there are {known}", field="template")
    if "@" not in name:
        return [*versions.values()][-1]
    if version not in versions:
        raise InvalidInput(
            f"prompt {wanted!r} has no version {version!r}; it has {', '.join(versions)}", field="template"
        )
    return versions[version]


def render(prompt: Template, variables: Mapping[str, str | None]) -> str:
    """The text with its placeholders filled in, in one pass: placeholders in a value are not expanded.

    A value is quoted, or fenced between tags that it cannot close, and cut to a length. A missing or blank value is
    replaced by a neutral text.

    Raises:
        InvalidInput: the template belongs to a job, or a variable has no placeholder.
    """
    if prompt.job:
        raise InvalidInput(
            f"{prompt.id} is filled in by {prompt.job} alone: use another of `parley prompts`", field="template"
        )
    unknown = sorted(set(variables) - set(PLACEHOLDERS))
    if unknown:
        raise InvalidInput(f"there is no variable {unknown[0]!r}; there are {', '.join(PLACEHOLDERS)}")
    return PLACEHOLDER.sub(lambda found: _filled(found[1], variables.get(found[1]) or ""), prompt.text)


def _filled(name: str, value: str) -> str:
    place = PLACEHOLDERS[name]
    if not value.strip():
        return place.neutral
    if place.block:
        lines = (" ".join(line.split()) for line in value.translate(TAGS).splitlines())
        text = shorten("\n".join(filter(None, lines)), BLOCK_CHARACTERS)
        return f"<{name}>\n{text}\n</{name}>"
    return quoted(value)


def quoted(value: str) -> str:
    """Untrusted text on one line between quotation marks that it cannot close, cut to a length."""
    text = shorten(" ".join(value.translate(TAGS).translate(QUOTES).split()), INLINE_CHARACTERS)
    return f'"{text}"'
