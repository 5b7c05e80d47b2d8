"""Is a reply on a batch usable? Every session exactly once under its own id, no invented ones, fields well formed."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.labels import normalized
from parley.domain.chat import Containment
from parley.domain.model import Model, storable
from parley.domain.requests import ChatReply, Finish

MAX_LABEL_CHARACTERS = 80
MAX_SUMMARY_CHARACTERS = 1000
FALLBACK_INTENT = "unclassified"
NO_TEXT_INTENT = "no user message"


ITEMS: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, Any]])


class SessionLabels(Model):
    """One session's labels. `fallback`: no reply could be used; `by_rule`: there was nothing to ask a model."""

    intent: str = Field(min_length=1, max_length=MAX_LABEL_CHARACTERS)
    transfer_reason: str | None = Field(default=None, max_length=MAX_LABEL_CHARACTERS)
    drop_off_location: str | None = Field(default=None, max_length=MAX_LABEL_CHARACTERS)
    summary: str = Field(min_length=1, max_length=MAX_SUMMARY_CHARACTERS)
    fallback: bool = False
    by_rule: bool = False

    @field_validator("intent", "transfer_reason", "drop_off_location", mode="before")
    @classmethod
    def _one_spelling(cls, label: object) -> object:
        """Equal labels are equal to the letter."""
        return normalized(label) if isinstance(label, str) else label

    @field_validator("summary", mode="before")
    @classmethod
    def _one_line(cls, summary: object) -> object:
        """JSON can spell characters that cannot be stored."""
        return " ".join(storable(summary).split()) if isinstance(summary, str) else summary

    def label(self, kind: LabelKind) -> str | None:
        return getattr(self, kind.value)


class Verdict(Model):
    """What a reply is worth: usable labels by id, the ids that are missing, and how many were invented."""

    labels: dict[str, SessionLabels]
    missing: tuple[str, ...]
    invented: int


def judge(reply: ChatReply, asked: Mapping[str, Containment]) -> Verdict:
    """Take from a reply what can be used. A cut or unreadable reply is used as far as it goes: nowhere."""
    items = _items(reply)
    names = Counter(str(item.get("id")) for item in items)
    labels: dict[str, SessionLabels] = {}
    for item in items:
        name = str(item.get("id"))
        if name in asked and names[name] == 1:
            found = _well_formed(item, asked[name])
            labels |= {name: found} if found else {}
    missing = tuple(name for name in asked if name not in labels)
    return Verdict(labels=labels, missing=missing, invented=sum(name not in asked for name in names.elements()))


def _items(reply: ChatReply) -> list[dict[str, Any]]:
    if reply.finish is not Finish.STOP:
        return []
    try:
        return ITEMS.validate_python(json.loads(reply.text)["sessions"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _well_formed(item: dict[str, Any], containment: Containment) -> SessionLabels | None:
    """The item's labels, if it has those that its containment calls for; others are left out."""
    transferred, dropped = containment is Containment.AGENT, containment is Containment.DROP_OFF
    try:
        labels = SessionLabels(
            intent=item.get("intent", ""),
            transfer_reason=item.get("transfer_reason") if transferred else None,
            drop_off_location=item.get("drop_off_location") if dropped else None,
            summary=item.get("summary", ""),
        )
    except ValidationError:
        return None
    complete = bool(labels.transfer_reason) >= transferred and bool(labels.drop_off_location) >= dropped
    reserved = labels.intent in (FALLBACK_INTENT, NO_TEXT_INTENT)
    return labels if complete and not reserved else None


def fallback_labels(containment: Containment) -> SessionLabels:
    """The marked stand-in where no reply could be used."""
    return _stand_in(FALLBACK_INTENT, containment, "No usable classification.", fallback=True)


def no_text_labels(containment: Containment) -> SessionLabels:
    """A session in which the user wrote nothing: there is nothing to ask a model, or to pay for."""
    return _stand_in(NO_TEXT_INTENT, containment, "The user wrote nothing.", by_rule=True)


def _stand_in(intent: str, containment: Containment, summary: str, **marks: bool) -> SessionLabels:
    return SessionLabels(
        intent=intent,
        transfer_reason=intent if containment is Containment.AGENT else None,
        drop_off_location=intent if containment is Containment.DROP_OFF else None,
        summary=summary,
        **marks,
    )
