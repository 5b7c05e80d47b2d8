"""Rubrics: the skills by which a session is rated, each with what its scores mean. Every rubric is a file."""

import json
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from parley.domain.errors import InvalidInput
from parley.domain.model import Model, Text, not_blank

DEFAULT_RUBRIC = "sales"
BUILT_IN = ("sales", "support", "interview", "teaching")
LOWEST, HIGHEST = 0, 100
# `name` or `name@version`, as for prompts.
REFERENCE = r"^[a-z][a-z0-9_-]{0,49}(@[1-9][0-9]{0,5})?$"


def inert(text: str) -> str:
    """Text on one line, without the characters that could open or close a tag of a prompt."""
    return " ".join(text.split()).replace("<", "‹").replace(">", "›")


# One line of plain words: it becomes part of a prompt.
Phrase = Annotated[Text, Field(max_length=300), AfterValidator(not_blank), AfterValidator(inert)]
ShortPhrase = Annotated[Phrase, Field(max_length=60)]
Level = Annotated[int, Field(ge=LOWEST, le=HIGHEST)]


class RubricSkill(Model):
    """One skill of a rubric. `weight`: its part of the overall score. `levels`: what a score means, by score."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,49}$")
    title: ShortPhrase
    weight: int = Field(gt=0, le=1000)
    levels: dict[Level, Phrase]

    @model_validator(mode="after")
    def _both_ends_have_a_meaning(self) -> Self:
        for end in (LOWEST, HIGHEST):
            if end not in self.levels:
                raise ValueError(f'the levels of {self.id} must say what {end} means: add {end} = "…"')
        return self


class RubricSummary(Model):
    """Which rubric a result follows. `user` and `other`: what the coached person and the other side are called."""

    id: str
    version: int
    title: str
    user: str
    other: str

    @property
    def reference(self) -> str:
        return f"{self.id}@{self.version}"

    def name_of(self, role: str) -> str:
        """What a speaker is called: the user's own name of the role, or the other side's."""
        return self.user if role == "rep" else self.other


class Rubric(Model):
    """A rubric. A new content needs a new `version`: scores of one version only are compared.

    coach: who rates, for the prompt. user, other: what the coached person and the other side are called.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,49}$")
    version: int = Field(ge=1, le=999_999)
    title: ShortPhrase
    coach: Phrase = "an experienced coach of conversations"
    user: ShortPhrase = "user"
    other: ShortPhrase = "other side"
    skill: tuple[RubricSkill, ...] = Field(min_length=1, max_length=10)

    @model_validator(mode="after")
    def _skills_differ(self) -> Self:
        ids = [skill.id for skill in self.skill]
        twice = next((name for name in ids if ids.count(name) > 1), None)
        if twice:
            raise ValueError(f"the skill {twice!r} is there twice: remove one")
        return self

    @property
    def reference(self) -> str:
        return f"{self.id}@{self.version}"

    @property
    def summary(self) -> RubricSummary:
        return RubricSummary(id=self.id, version=self.version, title=self.title, user=self.user, other=self.other)

    def overall(self, scores: Sequence[int | None]) -> int | None:
        """The mean of the scores by the skills' weights; None does not count. None: no skill was rated."""
        rated = [(skill.weight, score) for skill, score in zip(self.skill, scores, strict=True) if score is not None]
        if not rated:
            return None
        return round(sum(weight * score for weight, score in rated) / sum(weight for weight, _ in rated))


def parse_rubric(text: str, *, where: str) -> Rubric:
    """Read a rubric of TOML, or of JSON if `where`, the name of its file, ends in `.json`.

    Raises:
        InvalidInput: it is not valid; the error names the place in the file.
    """
    return check_rubric(_loaded(text, where), where=where)


def check_rubric(data: Any, *, where: str = "rubric") -> Rubric:
    """A rubric from parsed data.

    Raises:
        InvalidInput: it is not valid; the error names the field.
    """
    try:
        return Rubric.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise InvalidInput(first["msg"].removeprefix("Value error, "), where=where, field=place) from None


def _loaded(text: str, where: str) -> Any:
    kind = "JSON" if where.endswith(".json") else "TOML"
    try:
        return json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"is not {kind}: {error}", where=where) from None


@cache
def built_in_rubrics() -> dict[str, Rubric]:
    """Parley's own rubrics by their ids."""
    folder = files("parley.domain").joinpath("rubrics")
    texts = {name: folder.joinpath(f"{name}.toml").read_text(encoding="utf-8") for name in BUILT_IN}
    return {name: parse_rubric(text, where=f"{name}.toml") for name, text in texts.items()}


def built_in(reference: str) -> Rubric | None:
    """One of Parley's own rubrics by `name` or `name@version`; None if the name is not one of theirs.

    Raises:
        InvalidInput: there is no such version of it, or the text is not a reference.
    """
    if not re.match(REFERENCE, reference):
        raise InvalidInput(
            f"{reference[:60]!r} is not the name of a rubric: use {', '.join(BUILT_IN)}, a stored one, or a file that "
            "ends in .toml or .json",
            field="rubric",
        )
    name, _, version = reference.partition("@")
    found = built_in_rubrics().get(name)
    if found and version and int(version) != found.version:
        raise InvalidInput(f"rubric {name!r} has no version {version}; it has {found.version}", field="rubric")
    return found
