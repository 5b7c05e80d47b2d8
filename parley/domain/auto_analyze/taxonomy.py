"""The labels that a run starts from: given by a caller, or taken over from an earlier run.

A run compares and stores labels in one normal form (`labels.normalized`), so given labels have it too: two that differ
in case or blanks only are one label. A closed kind takes its given labels and `OTHER`, and no label that a reply makes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from pydantic import Field, field_validator, model_validator

from parley.domain.auto_analyze.consistency import OTHER
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.labels import normalized
from parley.domain.auto_analyze.merging import spelling
from parley.domain.auto_analyze.validation import (
    FALLBACK_INTENT,
    MAX_LABEL_CHARACTERS,
    NO_TEXT_INTENT,
    SessionLabels,
    Verdict,
)
from parley.domain.model import Model, Text
from parley.domain.text import one_line

MOST_LABELS = 5000
MOST_EXAMPLES = 3
EXPLANATION_CHARACTERS = 300
OTHER_DEFINITION = "None of the other labels fits."
RESERVED = (FALLBACK_INTENT, NO_TEXT_INTENT)


def given_name(label: str) -> str:
    """The normal form of a label that a person gives.

    Raises:
        ValueError: it cannot be a label.
    """
    name = normalized(label)
    if not name:
        raise ValueError("must have a letter or a digit")
    if len(name) > MAX_LABEL_CHARACTERS:
        raise ValueError(f"has {len(name)} characters, and a label has at most {MAX_LABEL_CHARACTERS}")
    if name in RESERVED:
        raise ValueError(f"{name!r} marks sessions that no reply labelled: choose another name")
    return name


class GivenLabel(Model):
    """A label that a run starts from.

    kind: what it is a label of. Default: an intent.
    definition: what it means, at most 300 characters.
    examples: up to 3 of what users say, at most 300 characters each.
    """

    label: Text
    kind: LabelKind = LabelKind.INTENT
    definition: Text = Field(default="", max_length=EXPLANATION_CHARACTERS)
    examples: tuple[Text, ...] = Field(default=(), max_length=MOST_EXAMPLES)

    @field_validator("label")
    @classmethod
    def _is_a_label(cls, label: str) -> str:
        """The label in its normal form."""
        return given_name(label)

    @field_validator("definition")
    @classmethod
    def _one_line(cls, text: str) -> str:
        return one_line(text, EXPLANATION_CHARACTERS)

    @field_validator("examples")
    @classmethod
    def _lines(cls, examples: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(example) > EXPLANATION_CHARACTERS for example in examples):
            raise ValueError(f"an example has at most {EXPLANATION_CHARACTERS} characters")
        return tuple(one_line(example, EXPLANATION_CHARACTERS) for example in examples)


class Taxonomy(Model):
    """The labels that a run starts from.

    closed: of each kind that the labels have, take these labels and "other" only. Default: false: a run may add labels,
    and never merges or renames these.
    """

    labels: tuple[GivenLabel, ...] = Field(min_length=1, max_length=MOST_LABELS)
    closed: bool = False

    @model_validator(mode="after")
    def _each_label_once(self) -> Self:
        first: dict[tuple[LabelKind, str], int] = {}
        for place, one in enumerate(self.labels):
            earlier = first.setdefault((one.kind, one.label), place)
            if earlier != place:
                raise ValueError(f"labels[{place}] is labels[{earlier}] again: {one.label!r}")
        return self

    @property
    def id(self) -> str:
        """The hash of the labels: the same labels are stored once."""
        content = json.dumps([one.model_dump(mode="json") for one in self.labels], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def closed_kinds(self) -> tuple[LabelKind, ...]:
        """The kinds that take no other label."""
        kinds = {one.kind for one in self.labels}
        return tuple(kind for kind in LabelKind if kind in kinds) if self.closed else ()


def with_other(labels: Sequence[GivenLabel], closed: Iterable[LabelKind]) -> list[GivenLabel]:
    """The labels, and `OTHER` of each closed kind that lacks it."""
    known = {(one.kind, one.label) for one in labels}
    lacking = [kind for kind in closed if (kind, OTHER) not in known]
    return [*labels, *(GivenLabel(kind=kind, label=OTHER, definition=OTHER_DEFINITION) for kind in lacking)]


class Allowed:
    """The labels of closed kinds, by the forms in which a reply may spell them.

    Args:
        labels: of each closed kind.
    """

    def __init__(self, labels: Mapping[LabelKind, Iterable[str]]) -> None:
        self._spelled: dict[LabelKind, dict[str, str]] = {}
        for kind, names in labels.items():
            known = sorted(names)
            self._spelled[kind] = {spelling(name): name for name in known} | {name: name for name in known}

    def __bool__(self) -> bool:
        return bool(self._spelled)

    def find(self, kind: LabelKind, label: str) -> str | None:
        """The allowed label that a reply means; None if it means none. Labels of open kinds stay as they are."""
        spelled = self._spelled.get(kind)
        return label if spelled is None else spelled.get(label) or spelled.get(spelling(label))


def within(verdict: Verdict, allowed: Allowed, *, to_other: bool) -> Verdict:
    """Keep to the labels of closed kinds.

    Args:
        verdict: the usable labels of a reply.
        allowed: the labels of closed kinds.
        to_other: a label that is not allowed becomes `OTHER`; else its session is missing.
    """
    if not allowed:
        return verdict
    kept: dict[str, SessionLabels] = {}
    outside = 0
    for name, one in verdict.labels.items():
        named = {kind: label for kind in LabelKind if (label := one.label(kind)) is not None}
        found = {kind: allowed.find(kind, label) for kind, label in named.items()}
        wrong = sum(label is None for label in found.values())
        outside += wrong
        if not wrong or to_other:
            kept[name] = one.model_copy(update={kind.value: label or OTHER for kind, label in found.items()})
    missing = tuple(name for name in verdict.labels if name not in kept)
    changed = {"labels": kept, "missing": (*verdict.missing, *missing), "outside": outside}
    return verdict.model_copy(update=changed)
