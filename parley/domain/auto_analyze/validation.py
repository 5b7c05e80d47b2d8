"""The validation of replies: each session exactly once under its id, no invented ids, valid fields."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.labels import normalized
from parley.domain.chat import Containment
from parley.domain.model import Model, storable
from parley.domain.reply_json import read_reply_json
from parley.domain.requests import ChatReply, Finish

MAX_LABEL_CHARACTERS = 80
MAX_SUMMARY_CHARACTERS = 1000
# A longer text is more than a few words, and is not looked for.
MAX_QUOTE_CHARACTERS = 1000
FALLBACK_INTENT = "unclassified"
NO_TEXT_INTENT = "no user message"


ITEMS: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, Any]])


class SessionLabels(Model):
    """The labels of a session. `fallback`: no reply was usable. `by_rule`: it has no text, so no model was needed.

    `…_quote`: words of the session that show the label, as the reply says; None if it names none.
    """

    intent: str = Field(min_length=1, max_length=MAX_LABEL_CHARACTERS)
    transfer_reason: str | None = Field(default=None, max_length=MAX_LABEL_CHARACTERS)
    drop_off_location: str | None = Field(default=None, max_length=MAX_LABEL_CHARACTERS)
    summary: str = Field(min_length=1, max_length=MAX_SUMMARY_CHARACTERS)
    intent_quote: str | None = None
    transfer_reason_quote: str | None = None
    drop_off_location_quote: str | None = None
    fallback: bool = False
    by_rule: bool = False

    @field_validator("intent", "transfer_reason", "drop_off_location", mode="before")
    @classmethod
    def _one_spelling(cls, label: object) -> object:
        """Normalize, so that equal labels have the same spelling."""
        return normalized(label) if isinstance(label, str) else label

    @field_validator("summary", mode="before")
    @classmethod
    def _one_line(cls, summary: object) -> object:
        """Replace characters that cannot be stored: JSON can contain them as escapes."""
        return " ".join(storable(summary).split()) if isinstance(summary, str) else summary

    @field_validator("intent_quote", "transfer_reason_quote", "drop_off_location_quote", mode="before")
    @classmethod
    def _only_words(cls, quote: object) -> str | None:
        """A quote that is not a text of that length is left out: the labels are usable without it."""
        if not isinstance(quote, str) or len(quote) > MAX_QUOTE_CHARACTERS:
            return None
        return " ".join(storable(quote).split()) or None

    def label(self, kind: LabelKind) -> str | None:
        return getattr(self, kind.value)

    def quote(self, kind: LabelKind) -> str | None:
        return getattr(self, kind.quote_field)


class Verdict(Model):
    """The usable labels of a reply by id, the ids that are missing, and the number of invented ids.

    `outside`: how many labels a closed kind does not have.
    """

    labels: dict[str, SessionLabels]
    missing: tuple[str, ...]
    invented: int
    outside: int = 0


def judge(reply: ChatReply, asked: Mapping[str, Containment]) -> Verdict:
    """Take the usable labels from a reply. A cut or malformed reply has none."""
    items = _items(reply)
    names = Counter(str(item.get("id")) for item in items)
    labels: dict[str, SessionLabels] = {}
    for item in items:
        name = str(item.get("id"))
        if name in asked and names[name] == 1:
            found = _valid(item, asked[name])
            labels |= {name: found} if found else {}
    missing = tuple(name for name in asked if name not in labels)
    return Verdict(labels=labels, missing=missing, invented=sum(name not in asked for name in names.elements()))


def _items(reply: ChatReply) -> list[dict[str, Any]]:
    if reply.finish is not Finish.STOP:
        return []
    try:
        return ITEMS.validate_python(read_reply_json(reply.text)["sessions"])
    except (ValueError, KeyError, TypeError):
        return []


def _valid(item: dict[str, Any], containment: Containment) -> SessionLabels | None:
    """The labels of an item, if it has those that its containment requires; others are dropped."""
    transferred, dropped = containment is Containment.AGENT, containment is Containment.DROP_OFF
    try:
        labels = SessionLabels(
            intent=item.get("intent", ""),
            transfer_reason=item.get("transfer_reason") if transferred else None,
            drop_off_location=item.get("drop_off_location") if dropped else None,
            summary=item.get("summary", ""),
            intent_quote=item.get("intent_quote"),
            transfer_reason_quote=item.get("ending_quote") if transferred else None,
            drop_off_location_quote=item.get("ending_quote") if dropped else None,
        )
    except ValidationError:
        return None
    complete = bool(labels.transfer_reason) >= transferred and bool(labels.drop_off_location) >= dropped
    reserved = labels.intent in (FALLBACK_INTENT, NO_TEXT_INTENT)
    return labels if complete and not reserved else None


def fallback_labels(containment: Containment) -> SessionLabels:
    """The fallback labels, marked, for a session without a usable reply."""
    return _rule_based(FALLBACK_INTENT, containment, "No usable classification.", fallback=True)


def no_text_labels(containment: Containment) -> SessionLabels:
    """The labels of a session without user text, which needs no model."""
    return _rule_based(NO_TEXT_INTENT, containment, "The user wrote nothing.", by_rule=True)


def _rule_based(intent: str, containment: Containment, summary: str, **marks: bool) -> SessionLabels:
    return SessionLabels(
        intent=intent,
        transfer_reason=intent if containment is Containment.AGENT else None,
        drop_off_location=intent if containment is Containment.DROP_OFF else None,
        summary=summary,
    ).model_copy(update=marks)
