"""The second look at sessions: would another of the labels that are left be clearly better?

Only sessions whose own label is in doubt by their words are looked at. A session chooses among its own label and the
labels that are most alike to what its user said, of those that have several sessions. So a session of a rare kind keeps
its own label, and never has to take one that does not fit.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.labels import normalized
from parley.domain.auto_analyze.likeness import Likeness
from parley.domain.reply_json import read_reply_json
from parley.domain.requests import ChatReply, Finish

# Labels with fewer sessions are not offered to others.
LEAST_SESSIONS = 2
CANDIDATES = 20
# A session is not in doubt if it is more alike to its own label than to any other by this share of its likeness.
CLEAR_SHARE = 0.3
ITEMS: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, Any]])


class Doubt(NamedTuple):
    """A session whose label is in doubt. `said`: what its user said first. `candidates`: other labels that it may get,
    the most alike first."""

    said: str
    label: str
    candidates: tuple[str, ...]


class Choices:
    """The labels of a run, from which its sessions choose."""

    def __init__(self, labels: Sequence[LabelEvidence]) -> None:
        self.labels = {one.label: one for one in labels if one.sessions >= LEAST_SESSIONS}
        self._likeness = Likeness({label: one.text for label, one in self.labels.items()})

    def doubt(self, said: str, label: str) -> Doubt | None:
        """The doubt about the label of a session; None if there is none, or no other label to choose."""
        near = self._likeness.nearest(said, CANDIDATES + 1)
        others = [(name, likeness) for name, likeness in near if name != label][:CANDIDATES]
        if not others:
            return None
        own = dict(near).get(label, 0.0)
        if others[0][1] <= own * (1 - CLEAR_SHARE):
            return None
        return Doubt(said, label, tuple(name for name, _ in others))


def parts(doubts: Mapping[int, Doubt], costs: Mapping[str, int], room: int, most: int) -> Iterator[dict[int, Doubt]]:
    """Cut doubts about sessions, by ordinal, into requests. A session has fewer candidates if all are too long.

    Args:
        doubts: the sessions to look at.
        costs: the tokens that the evidence of each label takes.
        room: the tokens that a request has for labels.
        most: the sessions that one request may have.
    """
    part: dict[int, Doubt] = {}
    named: dict[str, int] = {}
    for ordinal, doubt in doubts.items():
        fitting = _fitting(doubt, costs, room)
        shown = {label: costs[label] for label in (fitting.label, *fitting.candidates) if label in costs}
        if part and (len(part) >= most or sum((named | shown).values()) > room):
            yield part
            part, named = {}, {}
        part[ordinal] = fitting
        named |= shown
    if part:
        yield part


def _fitting(doubt: Doubt, costs: Mapping[str, int], room: int) -> Doubt:
    """The doubt with as many of its candidates as one request has room for; at least the nearest."""
    candidates = doubt.candidates
    while len(candidates) > 1 and sum(costs.get(label, 0) for label in (doubt.label, *candidates)) > room:
        candidates = candidates[: len(candidates) // 2]
    return doubt._replace(candidates=candidates)


class Decisions(NamedTuple):
    """The sessions that get another label, by id; and the problem of a reply that cannot be used."""

    better: dict[str, str]
    problem: str = ""


def read_decisions(reply: ChatReply, doubts: Mapping[str, Doubt]) -> Decisions:
    """Read what a reply decides.

    A session that it leaves out or answers twice changes nothing, and a label that is not a candidate of the session.
    """
    if reply.finish is not Finish.STOP:
        return Decisions({}, "the reply was cut")
    try:
        items = ITEMS.validate_python(read_reply_json(reply.text)["sessions"])
    except (ValueError, KeyError, TypeError):
        return Decisions({}, "the reply does not follow the schema")
    answers: dict[str, set[str]] = {}
    for item in items:
        answers.setdefault(str(item.get("id")), set()).add(normalized(str(item.get("label"))))
    better: dict[str, str] = {}
    for name, doubt in doubts.items():
        labels = answers.get(name, set())
        # A person may have named a label in another spelling.
        candidates = {normalized(label): label for label in doubt.candidates}
        if len(labels) == 1 and (label := candidates.get(min(labels))):
            better[name] = label
    return Decisions(better)
